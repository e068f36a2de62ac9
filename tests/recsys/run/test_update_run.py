"""A finished run to which data are added scores like a run that is fitted on all of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from milk_recsys import load_run, update_run
from milk_recsys.base.errors import DataError, OptionError
from milk_recsys.run import begin
from milk_recsys.run.progress import Progress
from milk_recsys.train import run

USERS, ITEMS = 60, 70
GIVEN = (
    *("--dtype=float64", "--device=cpu", "--compare=none"),
    *("--width=1", "--ridge=0.5", "--shrinkage=0.5", "--predicted-popularity=0.1"),
    "--no-fit-weights",
)


def trained(data: Path, out: Path, *options: str) -> Path:
    """Train KEEP in a folder, and return the folder."""
    parsed, dataset = begin.begin([f"--data={data}", f"--out={out}", *GIVEN, *options])
    run(parsed, dataset, Progress(quiet=True))
    return out


def reduced(
    data: Path, folder: Path, keep: Callable[[int, int], bool], users: int, items: int
) -> Path:
    """Write a data set with a part of the pairs, of the first users and items."""
    shutil.copytree(data, folder)
    header, *lines = (data / "interactions.tsv").read_text().splitlines()
    pairs = [tuple(map(int, line.split())) for line in lines]
    kept = [f"{u}\t{i}" for u, i in pairs if u < users and i < items and keep(u, i)]
    (folder / "interactions.tsv").write_text("\n".join([header, *kept]) + "\n")
    manifest = json.loads((data / "dataset.json").read_text())
    manifest |= {"num_users": users, "num_items": items}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    for file in folder.glob("features/*.npy"):
        np.save(file, np.load(file)[:items])
    for name, count in (("users", users), ("items", items)):
        names = (data / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        (folder / f"{name}.tsv").write_text("\n".join(names[: count + 1]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]
) -> SimpleNamespace:
    """A data set, a part of it with the same items, and a run on this part."""
    root = tmp_path_factory.mktemp("shop")
    data = write_dataset(root / "data", users=USERS, items=ITEMS, pairs_per_user=12)
    some = reduced(data, root / "some", lambda u, i: (u + i) % 7 > 0, USERS - 5, ITEMS)
    return SimpleNamespace(data=data, some=some, run=trained(some, root / "run"), root=root)


def features_of(data: Path, items: slice) -> dict[str, Any]:
    return {file.stem: np.load(file)[items] for file in sorted(data.glob("features/*.npy"))}


def test_new_pairs_and_users_give_the_run_on_all_data(
    shop: SimpleNamespace, tmp_path: Path
) -> None:
    metrics = update_run(shop.run, shop.data, tmp_path / "updated")
    assert metrics["update"]["new_users"] == 5
    assert metrics["update"]["new_items"] == 0
    assert metrics["chosen"]["shrinkage"] == 0.5
    split = tmp_path / "updated/split.npz"
    whole = load_run(trained(shop.data, tmp_path / "whole", f"--split={split}"), device="cpu")
    updated = load_run(tmp_path / "updated", device="cpu")
    assert updated.user_names == whole.user_names
    new = features_of(shop.data, slice(5, 15))
    torch.testing.assert_close(updated.score(None, new), whole.score(None, new), rtol=0, atol=1e-10)
    assert torch.equal(updated.trained_users, whole.trained_users)


def test_new_items_are_training_items_afterwards(shop: SimpleNamespace, tmp_path: Path) -> None:
    """Items that had no pairs count as new, wherever their ids are; in two steps as in one."""
    held = np.load(shop.run / "split.npz")
    cold = set(np.concatenate([held["validation"], held["test"]]).tolist())
    late = [i for i in range(0, ITEMS - 10, 9) if i not in cold]
    first = reduced(shop.data, tmp_path / "first", lambda u, i: i not in late, USERS, ITEMS - 10)
    second = reduced(shop.data, tmp_path / "second", lambda u, i: True, USERS, ITEMS - 10)
    start = trained(first, tmp_path / "start")
    between = update_run(start, second, tmp_path / "between")
    assert between["update"]["new_items"] == len(late)
    update_run(tmp_path / "between", shop.data, tmp_path / "twice")
    once = update_run(start, shop.data, tmp_path / "once")
    assert once["update"]["new_items"] > len(late)
    new = features_of(shop.data, slice(5, 15))
    scores = [
        load_run(tmp_path / name, device="cpu").score(None, new) for name in ("once", "twice")
    ]
    torch.testing.assert_close(*scores, rtol=0, atol=1e-10)
    split = np.load(tmp_path / "once/split.npz")
    for name in ("validation", "test"):
        assert split[name].tolist() == np.load(start / "split.npz")[name].tolist()
    assert set(late) <= set(split["warm"].tolist())
    # A user who took a new item only now differs from before.
    before = load_run(start, device="cpu").score(None, new)
    assert not torch.allclose(scores[0][: len(before)], before)


def test_a_run_or_data_that_do_not_fit_are_refused(shop: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="holds a run"):
        update_run(shop.run, shop.data, shop.run)
    with pytest.raises(DataError, match=r"lacks config\.json, split\.npz"):
        update_run(tmp_path, shop.data, tmp_path / "out")
    with pytest.raises(DataError, match=r"at least the 55 users and 70 items of .*, got 40 and 70"):
        update_run(
            shop.run,
            reduced(shop.data, tmp_path / "few", lambda u, i: True, 40, ITEMS),
            tmp_path / "o",
        )
    other = shutil.copytree(shop.data, tmp_path / "other")
    names = (other / "users.tsv").read_text(encoding="utf-8").splitlines()
    renamed = "\n".join([names[0], "0\tsomeone", *names[2:]]) + "\n"
    (other / "users.tsv").write_text(renamed, encoding="utf-8")
    with pytest.raises(DataError, match="user 0 has another name in the data"):
        update_run(shop.run, other, tmp_path / "out")
    copied = shutil.copytree(shop.run, tmp_path / "copied")
    config = json.loads((copied / "config.json").read_text())
    config["dataset"]["modalities"]["text"] = 9
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="must have the modalities of"):
        update_run(copied, shop.data, tmp_path / "out")
    np.save(copied / "warm.npy", np.arange(3))
    config["dataset"]["modalities"]["text"] = 6
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"warm\.npy: does not fit split\.npz"):
        update_run(copied, shop.data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_on_every_item_is_for_use(shop: SimpleNamespace, tmp_path: Path) -> None:
    """A run with --fit-all has no test, is resumed and updated, and scores as one on all items."""
    some = trained(shop.some, tmp_path / "run", "--fit-all")
    metrics = json.loads((some / "metrics.json").read_text())
    assert metrics["fit_all"]
    assert "test" not in metrics
    assert "no test" in (some / "report.html").read_text(encoding="utf-8")
    split = np.load(some / "split.npz")
    assert len(split["validation"]) == len(split["test"]) == 0
    used = {
        int(line.split()[1])
        for line in (shop.some / "interactions.tsv").read_text().splitlines()[1:]
    }
    assert set(split["warm"].tolist()) == used
    (some / "report.html").unlink()
    trained(shop.some, some, "--fit-all", "--resume")
    update_run(some, shop.data, tmp_path / "updated")
    whole = trained(shop.data, tmp_path / "whole", "--fit-all")
    new = features_of(shop.data, slice(5, 15))
    scores = [load_run(f, device="cpu").score(None, new) for f in (tmp_path / "updated", whole)]
    torch.testing.assert_close(*scores, rtol=0, atol=1e-10)


def test_methods_with_epochs_train_all_epochs_on_every_item(
    shop: SimpleNamespace, tmp_path: Path
) -> None:
    options = [f"--data={shop.some}", f"--out={tmp_path / 'milk'}", "--model=milk", "--fit-all"]
    parsed, dataset = begin.begin([*options, "--epochs=3", "--kernels=torch", "--device=cpu"])
    metrics = run(parsed, dataset, Progress(quiet=True))
    assert (metrics["epochs"], metrics["best_epoch"]) == (3, 2)
    history = (tmp_path / "milk/history.jsonl").read_text().splitlines()
    assert len(history) == 3
    assert not any("validation" in line for line in history)
    assert load_run(tmp_path / "milk", device="cpu").trained_users.any()
    with pytest.raises(SystemExit):
        begin.begin([*options[:1], f"--out={tmp_path / 'b'}", "--model=milk", "--fit-all"])


def test_a_run_with_a_cut_is_not_updated(shop: SimpleNamespace, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(shop.some, data)
    header, *lines = (data / "interactions.tsv").read_text().splitlines()
    timed = [f"{line}\t{1000 * int(line.split()[1]) + k}" for k, line in enumerate(lines)]
    (data / "interactions.tsv").write_text("\n".join([f"{header}\ttime", *timed]) + "\n")
    folder = trained(data, tmp_path / "run", "--split-by=first_seen")
    assert json.loads((folder / "metrics.json").read_text())["test"]["untrained_users"] == 0
    with pytest.raises(DataError, match="pairs before a cut"):
        update_run(folder, shop.data, tmp_path / "updated")
