"""The command for a GPU trains with the options that the studies chose."""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmark_command
from benchmarks import reproduce_cuda
from benchmarks.quality import read_variants

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", reproduce_cuda.SETS)
def test_its_variants_have_the_options_of_the_search(name, monkeypatch, tmp_path):
    monkeypatch.setenv("INVMOD_DATA", str(tmp_path))
    arguments = argparse.Namespace(device="cpu", out=tmp_path, repeats=1, epochs=2)
    parts = reproduce_cuda.commands("runs", arguments)
    (command,) = [command for command in parts if str(tmp_path / name) in command]
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


def test_larger_batches_scale_the_chosen_learning_rate(monkeypatch, tmp_path):
    monkeypatch.setenv("INVMOD_DATA", str(tmp_path))
    arguments = argparse.Namespace(device="cpu", out=tmp_path, repeats=5, epochs=300)
    command = reproduce_cuda.commands("batches", arguments)[1]
    texts = [word.removeprefix("--variant=") for word in command if word.startswith("--variant=")]
    variants = read_variants("--device cpu", texts)
    sizes = [variant.options.method.batch_size for variant in variants]
    assert sizes == [2048, 8192, 8192, 8192, 65_536, 65_536, 65_536]
    rates = [variant.options.method.lr / variants[0].options.method.lr for variant in variants]
    assert rates == pytest.approx([1, 1, 2, 4, 1, 32**0.5, 32], rel=5e-3)
    first, *others = (variant.options.replace(batch_size=1, lr=1.0) for variant in variants)
    assert all(other == first for other in others)
    assert str(tmp_path / "batches_tiktok.jsonl") in command


def test_all_parts_are_expected_to_take_less_than_twelve_minutes():
    assert sum(reproduce_cuda.PARTS.values()) < 720
    assert set(reproduce_cuda.CASES) <= set(benchmark_command.CASES)
    assert "together 10.8 minutes" in reproduce_cuda.times_of(reproduce_cuda.PARTS)


def test_a_part_that_fails_does_not_stop_the_others(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reproduce_cuda, "problems_of_environment", lambda device: [])
    monkeypatch.setattr(
        reproduce_cuda, "commands", lambda part, _: [["-c", f"exit({3 * (part == 'times')})"]] * 2
    )
    arguments = ["x", "--out", str(tmp_path), "--parts", "times", "runs"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert reproduce_cuda.main() == 3
    monkeypatch.setattr(sys, "argv", [*arguments[:-2], "tests"])
    assert reproduce_cuda.main() == 0
    parts = json.loads((tmp_path / "parts.json").read_text())
    assert {part: facts["status"] for part, facts in parts.items()} == {
        "times": 3,
        "runs": 0,
        "tests": 0,
    }
    printed = capsys.readouterr()
    assert "expected on an H100: times 150 s, runs 140 s, together 4.8 minutes" in printed.out
    assert "times ended with exit status 3" in printed.err
