"""The command for a GPU trains with the options that the studies chose."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import reproduce_cuda

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", reproduce_cuda.SETS)
def test_its_variants_have_the_options_of_the_search(name, monkeypatch, tmp_path):
    monkeypatch.setenv("INVMOD_DATA", str(tmp_path))
    arguments = argparse.Namespace(device="cpu", out=tmp_path, repeats=1, epochs=2)
    (command,) = [c for c in reproduce_cuda.commands(arguments) if str(tmp_path / name) in c]
    given = dict(
        word.removeprefix("--variant=").split("=", 1)
        for word in command
        if word.startswith("--variant=")
    )
    table = (ROOT / "docs/results" / name / "search.md").read_text(encoding="utf-8")
    cells = [line[2:-2].split(" | ") for line in table.splitlines() if line.startswith("| ")]
    rows = {row[0]: row[-1] for row in cells}
    assert list(given) == ["milk", "align", "envs", "erm", "keep"]
    assert given.pop("keep") == "--model keep"  # It chooses its options itself.
    for model, text in given.items():
        words = shlex.split(text.removesuffix(" --epochs 2"))
        assert words[:2] == ["--model", model]
        pairs = zip(words[2::2], words[3::2], strict=True)
        assert (
            ", ".join(f"{option[2:].replace('-', '_')} {value}" for option, value in pairs)
            == rows[model]
        )


def test_reading_the_options_of_the_search_imports_no_torch():
    code = (
        "import sys, benchmarks.reproduce_cuda as r; r.chosen('lfm2k', 2); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0
