"""Two methods that enter the benchmark from outside: this file needs only NumPy.

    milk-recsys bench export lfm2k/ftmt/200..209 --out tasks --format csv
    python bench_entry.py content_knn tasks/lfm2k/ftmt lists.csv
    milk-recsys bench score lists.csv --task lfm2k/ftmt/200..209 --against keep ridge
    milk-recsys bench audit bench_entry:content_knn

`content_knn` recommends items that are similar to the user's items; `ridge` regresses the users of
an item on its features, once for each pattern of available modalities. The package has both, too,
so a test compares its numbers with those that come through this door.
"""

import argparse
import functools
from pathlib import Path

import numpy as np


def content_knn(pairs, features, mask, cold_features, cold_mask, users, seed):  # noqa: ARG001
    """Return sums of cosines, (users, cold items).

        s_uc = sum over the items i of u of (sum_m max(cos(x_im, x_cm), 0)) / M_c

    where x are features centred on the warm items' mean, and M_c is the number of modalities of c.
    """
    total = np.zeros((len(mask), len(cold_mask)))
    for m, name in enumerate(features):
        warm, cold = centred(features[name], cold_features[name], mask[:, m], cold_mask[:, m])
        total += np.maximum(unit(warm) @ unit(cold).T, 0)
    total /= np.maximum(cold_mask.sum(axis=1), 1)
    return profiles(pairs, users, len(mask)) @ total


def ridge(
    pairs,
    features,
    mask,
    cold_features,
    cold_mask,
    users,
    seed,  # noqa: ARG001
    strength=3.0,
    smoothing=100.0,
):
    """Return the scores of one ridge regression per pattern of modalities, (users, cold items).

        T = F_w (F_w'F_w + l I)^-1 F_c',    S = K (K + lambda I)^-1 R T,    K = R R'

    where F_w and F_c are the features of the warm and cold items, side by side over the modalities
    of the pattern, R (U, n) the 0/1 matrix of training pairs, l `strength`, lambda `smoothing`.
    """
    rows = {
        name: centred(
            scaled(features[name]), scaled(cold_features[name]), mask[:, m], cold_mask[:, m]
        )
        for m, name in enumerate(features)
    }
    names, scores = np.array(list(rows)), np.zeros((len(mask), len(cold_mask)))
    for pattern in np.unique(cold_mask, axis=0):
        if pattern.any():
            items = (cold_mask == pattern).all(axis=1)
            warm = np.hstack([rows[name][0] for name in names[pattern]])
            cold = np.hstack([rows[name][1][items] for name in names[pattern]])
            gram = warm.T @ warm + strength * np.eye(warm.shape[1])
            scores[:, items] = warm @ np.linalg.solve(gram, cold.T)
    everyone = np.union1d(pairs[:, 0], users)
    r = profiles(pairs, everyone, len(mask))
    if len(everyone) < len(mask):  # Solve the smaller of two equal systems.
        kernel = r @ r.T
        smooth = kernel @ np.linalg.solve(kernel + smoothing * np.eye(len(r)), r @ scores)
    else:
        gram = r.T @ r
        smooth = r @ np.linalg.solve(gram + smoothing * np.eye(len(gram)), gram @ scores)
    return smooth[np.searchsorted(everyone, users)]


def centred(warm, cold, has_warm, has_cold):
    """Centre rows on the mean of the warm rows that are available; zero the others."""
    mean = warm[has_warm].mean(axis=0)
    return (
        np.where(has_warm[:, None], warm - mean, 0),
        np.where(has_cold[:, None], cold - mean, 0),
    )


def unit(x):
    """Scale rows to length 1, except rows of 0."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def scaled(x):
    """Scale rows to length 1, except rows that are almost 0."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm < 1e-3, 1, norm)


def profiles(pairs, users, num_items):
    """Return the rows of users in the 0/1 matrix of training pairs."""
    matrix = np.zeros((max(pairs[:, 0].max(), users.max()) + 1, num_items))
    matrix[pairs[:, 0], pairs[:, 1]] = 1
    return matrix[users]


# --- from the exported files to lists -------------------------------------------------------------


def read_task(folder):
    """Return the arguments of a method, the ids of the candidates and the split seed."""
    header, *lines = (folder / "items.csv").read_text(encoding="utf-8").split()
    table = np.array([line.split(",") for line in lines])
    names = [name.removeprefix("mask_") for name in header.split(",")[2:]]
    mask, warm = table[:, 2:] == "1", np.flatnonzero(table[:, 1] == "warm")
    pairs, candidates, users = (
        np.loadtxt(folder / f"{name}.csv", dtype=np.int64, delimiter=",", skiprows=1)
        for name in ("train", "candidates", "test_users")
    )
    pairs[:, 1] = np.searchsorted(warm, pairs[:, 1])  # ids of warm items -> rows
    whole = {name: np.load(folder.parents[1] / "features" / f"{name}.npy") for name in names}
    # The files have the features of hidden cells too, so the mask must be applied.
    whole = {
        n: np.where(mask[:, m, None], x, np.nan).astype(float)
        for m, (n, x) in enumerate(whole.items())
    }
    arguments = {
        "pairs": pairs,
        "features": {name: x[warm] for name, x in whole.items()},
        "mask": mask[warm],
        "cold_features": {name: x[candidates] for name, x in whole.items()},
        "cold_mask": mask[candidates],
        "users": users,
        "seed": int(folder.name),
    }
    return arguments, candidates


def write_lists(method, folders, out, length=20):
    """Run a method on exported splits and write its lists."""
    rows = []
    for folder in folders:
        arguments, candidates = read_task(folder)
        scores = method(**arguments)
        # The sort is stable and the candidates increase, so equal scores are ordered by item id.
        order = np.argsort(-scores, axis=1, kind="stable")[:, :length]
        users, ranks = np.repeat(arguments["users"], order.shape[1]), np.arange(order.shape[1]) + 1
        rows.append(
            np.column_stack(
                [
                    np.full(len(users), arguments["seed"]),
                    users,
                    np.tile(ranks, len(order)),
                    candidates[order].ravel(),
                ]
            )
        )
    header = "seed,user,rank,item"
    np.savetxt(out, np.vstack(rows), fmt="%d", delimiter=",", header=header, comments="")


def main(argv=None):
    """Read exported splits and write the lists of a method."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("method", choices=("content_knn", "ridge"))
    parser.add_argument("folder", type=Path, help="SET/SETTING in the folder of the export")
    parser.add_argument("out", type=Path, help="file for the lists")
    parser.add_argument("--strength", type=float, default=3.0, help="of the ridge penalty")
    parser.add_argument("--smoothing", type=float, default=100.0, help="of the users' scores")
    given = parser.parse_args(argv)
    methods = {
        "content_knn": content_knn,
        "ridge": functools.partial(ridge, strength=given.strength, smoothing=given.smoothing),
    }
    folders = sorted(
        (f for f in given.folder.iterdir() if f.name.isdigit()), key=lambda f: int(f.name)
    )
    write_lists(methods[given.method], folders, given.out)


if __name__ == "__main__":
    main()
