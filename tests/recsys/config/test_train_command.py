"""The command of a run: parsed again, it gives the same options."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from milk_recsys.config.command_line import parse_options
from milk_recsys.config.options import Options
from milk_recsys.config.train_command import train_command

CHANGES: list[dict[str, Any]] = [
    {"data": Path("my shop"), "seed": 3, "split_seed": 9, "setting": "mtmt", "missing_rate": 0.25},
    {"missing_in_validation": False, "candidates": "all_cold", "monitor": "recall@10"},
    {"out": Path("runs/it's"), "compare": "none", "threads": 1, "eval_users": 100},
    {"compare": "erm"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("model", ["keep", "milk"])
def test_the_command_gives_the_options_of_the_run(model: str, changes: dict[str, Any]) -> None:
    options = parse_options(["--model", model]).replace(**changes).resolved()
    command = train_command(options)
    assert command.startswith(f"milk-recsys train --model {model}")
    assert parse_options(shlex.split(command)[2:]).resolved() == options


def test_the_presets_of_milk() -> None:
    options = parse_options(["--preset", "authors_code"]).resolved()
    assert parse_options(shlex.split(train_command(options))[2:]).resolved() == options


@pytest.mark.parametrize("model", ["keep", "erm", "gar", "content_knn"])
def test_defaults_need_no_option(model: str) -> None:
    command = train_command(parse_options(["--model", model]).resolved())
    assert command == f"milk-recsys train --model {model}"
    assert train_command(Options.of(model, resume=True).resolved()).endswith(model)
