"""Export a finished run: vectors of users and items, an index, and an item tower.

    milk-recsys export --run runs/shop --items new_items --out exports/shop --index hnsw
    milk-recsys export --help

In a checkout `python examples/milk_recsys/export.py` is the same command.
"""

from __future__ import annotations

import sys
from pathlib import Path

# As a script, this file needs the folder above it on the path to import `milk_recsys`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import tyro

from milk_recsys.base.errors import DataError
from milk_recsys.base.manual import parse

__all__ = ["ExportOptions", "export", "main"]


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Export vectors of users and items, whose inner products are the scores of a run.

        milk-recsys export --run runs/shop --items new_items --out exports/shop

    Writes users.parquet and items.parquet (float32), export.json with what was measured, and on
    request items.faiss, reduction.safetensors and item_tower.onnx. Only users with a training pair
    are exported.

    Arguments:
        run: Folder of a finished run (--out of the command train).
        out: Folder for the files, which must not exist yet.
        items: Folder of new items, as for recommend. Needed without --include-warm.
        include_warm: Export known items as well (KEEP only).
        users: File of the users to export.
        available: File of the items to export.
        width: Maximum number of dimensions. Fewer than the vectors have keep the scores as well as
            possible; the loss is measured.
        index: Index of the items by faiss: exact, or a graph (hnsw).
        onnx: Export the item tower as an ONNX model, if the method has one.
        empty_items: Items without any modality: stop with an error, or leave these items out.
        device: Device to compute on; auto is a GPU if there is one.
        threads: Number of CPU threads.
    """

    run: Path
    out: Path
    items: Annotated[
        Path | None, tyro.conf.arg(help_behavior_hint="(needed without --include-warm)")
    ] = None
    include_warm: bool = False
    users: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    available: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    width: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    index: Annotated[
        Literal["exact", "hnsw"] | None, tyro.conf.arg(help_behavior_hint="(default: none)")
    ] = None
    onnx: bool = False
    empty_items: Literal["error", "drop"] = "error"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: torch's choice)")
    ] = None


def main(argv: Sequence[str] | None = None, *, prog: str = "export.py") -> int:
    """Run the command line.

    Returns:
        The exit status: 0 for success, 2 for invalid input, 130 after an interruption. (Options
        that cannot be parsed exit with status 2 at once.)
    """
    options = parse(ExportOptions, argv, prog=prog, page="serve")
    try:
        export(options)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def export(options: ExportOptions, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Export a run; return the content of export.json.

    Raises:
        DataError: the run, a file or an option cannot be used, or the folder exists already.
    """
    for name in ("width", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise DataError(f"--{name} must be at least 1, got {value}.")
    if options.items is None and not options.include_warm:
        raise DataError(
            "--items: name a folder of new items, or give --include-warm for the known items."
        )

    # torch and polars take seconds to import, so options are checked before.
    import torch

    from milk_recsys.estimator.abilities import need
    from milk_recsys.exporting.catalogue import open_run_with_items
    from milk_recsys.exporting.choices import available_items, chosen_users
    from milk_recsys.exporting.folder import Export, new_folder, write_export
    from milk_recsys.exporting.index import check_index
    from milk_recsys.exporting.item_tower import check_onnx, tower_of

    if options.index:
        check_index()
    if options.threads:
        torch.set_num_threads(options.threads)
    with new_folder(options.out) as folder:
        served = open_run_with_items(
            options.run,
            options.items,
            include_warm=options.include_warm,
            empty_items=options.empty_items,
            device=options.device,
        )
        need(served.fitted.options.definition, "vectors", "export")
        if options.onnx:
            check_onnx()
            tower_of(served.fitted)  # A method without one is an error before anything is written.
        users = chosen_users(served, options.users)
        users = torch.arange(served.scorer.num_users) if users is None else users
        users = users[served.scorer.trained_users[users]]
        if not len(users):
            raise DataError("--users: none of the users has a training pair.")
        left_out: list[str] = []
        places = available_items(served, options.available, left_out)
        if places is None:
            places = torch.arange(len(served.candidates.names))
        wanted = Export(users, places, options.width, options.index, options.onnx)
        result = write_export(folder, served, wanted)
    for line in (*served.notes, *left_out, *_notes(result)):
        log(f"note: {line}")
    log(f"{result['users']} users and {result['items']} items: {options.out}")
    return result


def _notes(result: dict[str, Any]) -> list[str]:
    """Return what was measured, as sentences."""
    notes, vectors, index = [], result["vectors"], result["index"]
    if "squared_norm_kept" in vectors:
        notes.append(
            f"{vectors['width']} of {vectors['full_width']} dimensions keep "
            f"{vectors['squared_norm_kept']:.4%} of the squared norm of the scores; recall@20 "
            f"against all dimensions is {vectors['recall_at_20']:.4f}."
        )
    if index is not None:
        depth = "" if index["search_depth"] is None else f", efSearch {index['search_depth']}"
        notes.append(f"the {index['kind']} index has recall@20 {index['recall_at_20']:.4f}{depth}.")
        if index["recall_at_20"] < index["target"]:
            notes.append(
                f"warning: the recall of the index is below {index['target']}. Use --index exact."
            )
    return notes


if __name__ == "__main__":
    sys.exit(main())
