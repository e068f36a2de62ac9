"""Generated data sets in the layout of docs/data.md, written some rows at a time."""

from __future__ import annotations

import dataclasses
import shutil
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from milk_recsys.base.files import replacing, write_json

USERS, ITEMS = 5_000_000, 1_000_000
DIMS = {"visual": 384, "text": 128}  # 512 values per item
PAIRS_PER_USER = 10.0
POPULARITY = 0.6  # the probability of an item is proportional to 1 / rank ** POPULARITY
HIDDEN_DIM = 16
MISSING = 0.1  # share of the items that lack `text`
USERS_AT_ONCE, ITEMS_AT_ONCE = 2**18, 2**14
# Entropy in addition to the seed. Otherwise the generator would shuffle the items exactly as the
# split of the same seed does, and popularity would decide which items are cold.
SALT = 20_240


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of a generated data set, and its seed."""

    users: int
    items: int
    seed: int = 0

    @classmethod
    def of(cls, scale: str) -> Size:
        """Return the size at a scale such as 1/25."""
        share = Fraction(scale)
        return cls(max(20, int(USERS * share)), max(20, int(ITEMS * share)))

    @property
    def bytes(self) -> int:
        """Approximate size of all files of the data and of a run.

        A run takes up to five times a table of 64 float32 values per user: the checkpoint holds
        three (vectors and Adam's two moments), the weights hold one, and one is a reserve.
        """
        return (
            self.items * sum(DIMS.values()) * 2
            + self.users * int(PAIRS_PER_USER * 8)
            + 5 * self.users * 64 * 4
        )


def generate(folder: Path, size: Size) -> None:
    """Write a data set in the layout of docs/data.md, some rows at a time.

    dataset.json is written last: a folder that has it is complete.
    """
    (folder / "features").mkdir(parents=True, exist_ok=True)
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence([size.seed, SALT]).spawn(2)]
    count = _write_pairs(folder / "interactions.npy", size, streams[0])
    _write_features(folder / "features", size, streams[1])
    modalities = {name: {"file": f"features/{name}.npy", "dim": dim} for name, dim in DIMS.items()}
    write_json(
        folder / "dataset.json",
        {
            "name": f"generated, {size.users} users",
            "num_users": size.users,
            "num_items": size.items,
            "num_interactions": count,
            "modalities": modalities,
            "source": f"benchmarks.large, {size}",
        },
    )


def _write_pairs(path: Path, size: Size, rng: np.random.Generator) -> int:
    """Write sorted distinct pairs, and return their number.

    Each user has a Poisson number of items, sampled by popularity.
    """
    # Inverse transform sampling: `edges` is the cumulative distribution of the popularity ranks.
    weights = np.arange(1, size.items + 1) ** -POPULARITY
    edges = np.cumsum(weights / weights.sum())
    # A random id for each rank, so that popularity is independent of the id.
    order = rng.permutation(size.items).astype(np.int32)
    with replacing(path) as temporary, temporary.open("w+b") as file:
        _write_header(file, 0)  # a placeholder, until the number of pairs is known
        count = 0
        for start in range(0, size.users, USERS_AT_ONCE):
            users = np.arange(start, min(start + USERS_AT_ONCE, size.users))
            owners = np.repeat(
                users, np.minimum(rng.poisson(PAIRS_PER_USER, len(users)), size.items // 2)
            )
            # Rounding may leave the last edge below 1, hence the minimum.
            ranks = np.minimum(np.searchsorted(edges, rng.random(len(owners))), size.items - 1)
            # One integer for each pair, user * num_items + item: sorted integers are sorted pairs,
            # and a pair that was sampled twice is next to its copy.
            keys = np.sort(owners * size.items + order[ranks])
            keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
            file.write(np.stack(np.divmod(keys, size.items), axis=1).astype(np.int32).tobytes())
            count += len(keys)
        file.seek(0)
        _write_header(file, count)
    return count


def _write_header(file: Any, count: int) -> None:
    """Write the header of an npy file.

    Its length does not depend on `count`, since numpy reserves room for the shape to grow. So it
    can be overwritten in place when the number of pairs is known.
    """
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<i4", "fortran_order": False, "shape": (count, 2)}
    )


def _write_features(folder: Path, size: Size, rng: np.random.Generator) -> None:
    """Write float16 features: noise plus a linear map of values that all modalities share."""
    maps = {
        name: rng.standard_normal((HIDDEN_DIM, dim), dtype=np.float32) for name, dim in DIMS.items()
    }
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (size.items, dim))
        for name, dim in DIMS.items()
    }
    for start in range(0, size.items, ITEMS_AT_ONCE):
        rows = slice(start, min(start + ITEMS_AT_ONCE, size.items))
        hidden = rng.standard_normal((rows.stop - start, HIDDEN_DIM), dtype=np.float32)
        missing = rng.random(len(hidden)) < MISSING
        for name, mixing in maps.items():
            x = hidden @ mixing + rng.standard_normal(
                (len(hidden), mixing.shape[1]), dtype=np.float32
            )
            if name == "text":
                x[missing] = np.nan
            files[name][rows] = x
    for file in files.values():
        file.flush()


def prepared_folder(root: Path, scale: str) -> Path:
    """Return the folder with the data of a scale; generate the data if the folder lacks them."""
    size = Size.of(scale)
    folder = root / f"users-{size.users}"
    if (folder / "dataset.json").exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < 1.1 * size.bytes:
        raise SystemExit(
            f"error: {root} has {free / 1e9:.1f} GB free, but scale {scale} takes "
            f"{size.bytes / 1e9:.1f} GB. Choose another --folder or a smaller --scale."
        )
    begun = time.perf_counter()
    generate(folder, size)
    print(f"{folder}: generated in {time.perf_counter() - begun:.0f} s", flush=True)
    return folder
