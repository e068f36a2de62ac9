"""The command ``invmod missing``: patterns, rates, pairs and a test of MCAR."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from invmod._files import replacing, write_text
from invmod._tables import aligned
from invmod.cli.errors import UsageError
from invmod.cli.grouping import grouped
from invmod.cli.outputs import check_outputs, written
from invmod.cli.tables import Arrays, read_columns
from invmod.missingness import (
    McarTest,
    MissingnessSummary,
    mcar_test,
    missingness_summary,
    summary_table,
)
from invmod.missingness.summary_text import test_rows

WIDTH = 100  # of the lines of the test's sentence


def missing(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    check_outputs(options, options.data)
    try:
        features = _features(options)
        names = list(features)
        summary = missingness_summary(features, names)
        test = _test(features, options)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{options.data}: {error}") from error
    print(f"{options.data}: {summary_table(summary)}")
    if test is not None:
        print(f"\n{textwrap.fill(str(test), WIDTH)}")
        header, rows, _ = test_rows(test)
        if rows:
            print(f"\n{aligned(header, rows, numbers_right=True)}")
    _write(summary, test, options)
    return 0


def _features(options: argparse.Namespace) -> Arrays:
    columns, absent = read_columns(options.data, options.missing_value)
    for value in absent:
        print(
            f"invmod missing: note: --missing-value {value} occurs in no column of {options.data}.",
            file=sys.stderr,
        )
    mask = None
    if Path(options.data).suffix.lower() == ".npz":
        # The file of `invmod report` has the same form; its targets are not a modality.
        columns.pop("targets", None)
        if "mask" in columns and columns["mask"].dtype == np.bool_ and columns["mask"].ndim == 2:
            mask = columns.pop("mask")
    if not columns:
        raise UsageError(f"{options.data}: the file has no column.")
    if mask is not None:
        columns = _hidden(columns, mask, options.data)
    return grouped(columns, options.modality, options.exclude)


def _hidden(columns: Arrays, mask: NDArray[np.bool_], path: str) -> Arrays:
    """Return the columns with missing values where the mask (N, M) is False."""
    names = list(columns)
    if any(len(values) != len(mask) for values in columns.values()) or mask.shape[1] != len(names):
        raise UsageError(
            f"{path}: `mask` must have one row per row of the arrays and one column for each of "
            f"{', '.join(names)}, got shape {mask.shape}."
        )
    hidden: dict[str, NDArray[Any]] = {}
    for column, name in enumerate(names):
        values = columns[name]
        is_number = values.dtype.kind in "fiub"
        hidden[name] = values.astype(np.float64 if is_number else object)
        hidden[name][~mask[:, column]] = np.nan if is_number else None
    return hidden


def _test(features: Arrays, options: argparse.Namespace) -> McarTest | None:
    if options.test == "none":
        return None
    generator = torch.Generator().manual_seed(options.seed)
    return mcar_test(features, list(features), method=options.test, generator=generator)


def _write(summary: MissingnessSummary, test: McarTest | None, options: argparse.Namespace) -> None:
    if options.json:
        figures = {
            "format": "invmod missingness summary",
            "version": 1,
            **summary.to_dict(),
            "mcar_test": None if test is None else asdict(test),
        }
        with written("json", options.json):
            write_text(options.json, json.dumps(figures, indent=1, allow_nan=False) + "\n")
    if options.png:
        from invmod.cli.missing_page import picture

        with written("png", options.png), replacing(options.png) as temporary:
            temporary.write_bytes(picture(summary))
    if options.html:
        from invmod.cli.missing_page import missing_page

        with written("html", options.html):
            write_text(options.html, missing_page(summary, test, title=Path(options.data).name))
