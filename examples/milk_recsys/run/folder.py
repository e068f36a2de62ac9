"""The folder of a run: the names of its files, its lock, and the files that are written first.

This module does not import torch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from milk_recsys.base.errors import OptionError
from milk_recsys.base.files import remove_leftovers, replacing
from milk_recsys.base.lock import folder_lock
from milk_recsys.base.reading import exists
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.encoders.saved import copy_encoders
from milk_recsys.catalogue.tsv import read_source_ids

__all__ = ["RUN_FILES", "claimed_folder", "run_files", "start_folder", "write_names"]

RUN_FILES = (
    "users.tsv",
    "items.tsv",
    "encoders",
    "config.json",
    "metrics.json",
    "history.jsonl",
    "split.npz",
    "warm.npy",
    "model.safetensors",
    "checkpoint.safetensors",
    "report.html",
    "curves.png",
    "robustness.png",
    "compare",
)


def run_files(out: Path) -> list[str]:
    """Return the names of the files of a run that a folder holds."""
    return [name for name in RUN_FILES if exists(out / name)]


@contextmanager
def claimed_folder(out: Path, *, resumes: bool) -> Iterator[None]:
    """Create the folder of a run, and keep other processes from writing it during the block.

    Arguments:
        resumes: whether the run in the folder, which `open_run` found, is resumed.

    Raises:
        OptionError: the folder cannot be created, another process writes it, or another process
            has begun or removed a run in it since `open_run`.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"--out: {out} cannot be created ({error.strerror}). Name another folder."
        ) from None
    with folder_lock(out):
        if exists(out / "config.json") != resumes:
            raise OptionError(
                f"--out: {out} was changed by another process since this one began. Begin again."
            )
        yield


def start_folder(out: Path, dataset: Dataset) -> None:
    """Remove temporary files that a killed run left in its folder, which `claimed_folder` created.

    The names of users and items and the encoders of the data set are copied into it, so that new
    items can be encoded and recommended without the data set.
    """
    for folder in (out, out / "compare"):
        remove_leftovers(folder, RUN_FILES)
    if dataset.folder is not None:
        copy_encoders(dataset.folder, out)
    for kind, names in (("user", dataset.user_names), ("item", dataset.item_names)):
        if names is not None:
            write_names(out / f"{kind}s.tsv", kind, names, _source_ids(dataset, kind, len(names)))


def _source_ids(dataset: Dataset, kind: str, count: int) -> Sequence[str] | None:
    """Return the ids of items in the source of the data set, if they are not its names."""
    if dataset.folder is None or kind != "item":
        return None
    return read_source_ids(dataset.folder / "items.tsv", "item", count)


def write_names(
    path: Path, kind: str, names: Sequence[str], ids: Sequence[str] | None = None
) -> None:
    """Write names in the format of a data set, so that a scorer needs the run alone.

    Arguments:
        kind: user or item.
        ids: ids in the source, if they are not the names.
    """
    columns = [names] if ids is None else [names, ids]
    rows = ("\t".join(cells) for cells in zip(*columns, strict=True))
    header = "\t".join([kind, "name", "id"][: 1 + len(columns)])
    lines = [header, *(f"{number}\t{row}" for number, row in enumerate(rows))]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
