"""Tests of the comparison of variants: resuming, the table, and what the command refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import quality
from milk_recsys.base.errors import DataError
from milk_recsys.config.options import OptionError
from milk_recsys.study import runs as study

FIXED = "--epochs 2 --eval-every 1 --batch-size 64 --embedding-dim 8 --lr 0.05 --device cpu"
VARIANTS = ("base=", "fast=--lr 0.01", "erm=--model erm")
TIMES = {"seconds", "seconds_per_epoch", "date"}


@pytest.fixture(autouse=True)
def same_threads() -> Any:
    """Restore the number of threads, which the command sets for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def write_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    def write(seed: int) -> Path:
        folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(seed)
        users, items, dims = 30, 120, {"text": 5, "image": 3}
        liked = rng.random((users, items)).argsort(axis=1)[:, :20]
        pairs = [f"{user}\t{item}" for user in range(users) for item in sorted(liked[user])]
        (folder / "interactions.tsv").write_text(
            "\n".join(["user\titem", *pairs]) + "\n", encoding="utf-8"
        )
        (folder / "features").mkdir()
        for name, dim in dims.items():
            np.save(
                folder / f"features/{name}.npy", rng.standard_normal((items, dim), dtype=np.float32)
            )
        modalities = {
            name: {"file": f"features/{name}.npy", "dim": dim} for name, dim in dims.items()
        }
        manifest = {
            "name": "tiny",
            "num_users": users,
            "num_items": items,
            "modalities": modalities,
        }
        (folder / "dataset.json").write_text(json.dumps(manifest), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="module")
def data(write_data: Callable[[int], Path]) -> Path:
    return write_data(0)


def command(
    data: Path,
    out: Path,
    repeats: int = 3,
    fixed: str = FIXED,
    variants: tuple[str, ...] = VARIANTS,
) -> int:
    words = ["--data", str(data), "--out", str(out), "--repeats", str(repeats), "--fixed", fixed]
    return quality.main(
        [*words, *(word for variant in variants for word in ("--variant", variant))]
    )


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results file of a command that was not killed."""
    out = tmp_path_factory.mktemp("quality") / "new folder" / "store.jsonl"
    threads = torch.get_num_threads()
    assert command(data, out) == 0
    torch.set_num_threads(threads)
    return out


def lines_of(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()]


def results(store: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in lines_of(store)
    ]


def cells_of(store: Path) -> dict[str, list[str]]:
    """Read the first table: variant -> its other cells."""
    rows = store.with_suffix(".md").read_text(encoding="utf-8").split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {name: rest for name, *rest in cells}


# --- the runs


def test_every_repeat_trains_each_variant_once_in_turn(finished: Path) -> None:
    names = ["base", "fast", "erm"]
    lines = lines_of(finished)
    assert [(line["number"], line["variant"]) for line in lines] == [
        (n, name) for n in range(3) for name in names
    ]
    for line in lines:
        assert set(line) >= {"options", "test", "test_complete", "best_epoch", "versions", *TIMES}
        assert set(line["test"]) == {"ndcg@20", "recall@20"}
        assert line["epochs"] == 2
    assert lines[1]["options"] == f"{FIXED} --lr 0.01"


def test_the_variants_of_a_repeat_have_the_same_seeds_and_repeats_have_different_ones(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def train(options: Any, *rest: Any) -> Any:
        trained.append(
            (
                options.data.split_seed,
                options.run.seed,
                options.method.lr,
                options.run.model,
                options.run.compare,
            )
        )
        raise quality.Diverged("stop") if len(trained) == 4 else KeyboardInterrupt

    monkeypatch.setattr(study, "train_model", train)
    dataset = quality.read_dataset(data)
    variants = quality.read_variants(FIXED, VARIANTS)
    for number, variant in ((0, variants[0]), (0, variants[1]), (7, variants[2])):
        with pytest.raises(KeyboardInterrupt):
            quality.run(variant, number, dataset)
    assert trained == [
        (0, 0, 0.05, "milk", "none"),
        (0, 0, 0.01, "milk", "none"),
        (7, 7, 0.05, "erm", "none"),
    ]
    assert command(data, tmp_path / "store.jsonl") == 1  # A run that diverges ends the command.


def test_the_same_options_under_two_names_give_the_same_figures(data: Path, tmp_path: Path) -> None:
    assert command(data, tmp_path / "store.jsonl", repeats=2, variants=("one=", "two=")) == 0
    first, second = (line["test"] for line in lines_of(tmp_path / "store.jsonl")[:2])
    assert first == second
    assert cells_of(tmp_path / "store.jsonl")["two"][1] == "+0.0000 [+0.0000, +0.0000], p 1"


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_command_resumes_to_the_same_result(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    out, real, calls = tmp_path / "store.jsonl", study.train_model, []

    def dies(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(study, "train_model", dies)
    with pytest.raises(KeyboardInterrupt):
        command(data, out)
    with out.open("a", encoding="utf-8") as file:
        file.write('{"variant": "base", "num')  # a line that the kill has cut off
    calls.clear()
    monkeypatch.setattr(
        study, "train_model", lambda *arguments: calls.append(arguments) or real(*arguments)
    )
    assert command(data, out) == 0
    assert len(calls) == 9 - after
    assert results(out) == results(finished)
    untimed = [
        {name: cells[:3] + cells[4:5] for name, cells in cells_of(store).items()}
        for store in (out, finished)
    ]
    assert untimed[0] == untimed[1]


def test_only_runs_that_the_results_file_lacks_are_trained(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, calls = tmp_path / "store.jsonl", study.train_model, []
    out.write_bytes(finished.read_bytes())
    monkeypatch.setattr(
        study, "train_model", lambda *arguments: calls.append(arguments) or real(*arguments)
    )
    assert command(data, out) == 0
    assert not calls
    assert out.read_bytes() == finished.read_bytes()
    assert out.with_suffix(".md").read_bytes() == finished.with_suffix(".md").read_bytes()
    assert command(data, out, repeats=2) == 0
    assert not calls
    assert "2 repeats" in out.with_suffix(".md").read_text(encoding="utf-8")
    assert command(data, out, repeats=4, variants=("wide=--embedding-dim 9", "base=")) == 0
    assert len(calls) == 4 + 1
    assert list(cells_of(out)) == ["wide", "base"]


# --- the table


def test_the_table_has_the_metrics_of_the_results_file(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, cells = lines_of(finished), cells_of(finished)
    assert list(cells) == ["base", "fast", "erm"]
    of = {
        (name, metric): np.array(
            [line["test"][metric] for line in lines if line["variant"] == name]
        )
        for name in cells
        for metric in ("ndcg@20", "recall@20")
    }
    for name, (ndcg, paired, recall, seconds, epochs, whole) in cells.items():
        for cell, metric in ((ndcg, "ndcg@20"), (recall, "recall@20")):
            values = of[name, metric]
            spread = np.sqrt(((values - values.mean()) ** 2).sum() / 2)
            assert cell == f"{values.mean():.3f} ± {spread:.3f}"
        assert float(seconds) == pytest.approx(
            np.median([line["seconds_per_epoch"] for line in lines if line["variant"] == name]),
            rel=1e-3,
        )
        assert epochs == "2.0"
        assert float(whole) == pytest.approx(
            np.median([line["seconds"] for line in lines if line["variant"] == name]), rel=5e-3
        )
        if name == "base":
            assert paired == ""
            continue
        values = of[name, "ndcg@20"] - of["base", "ndcg@20"]
        half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
        output = [float(x) for x in re.findall(r"[+-]?[\d.]+(?:e-?\d+)?", paired)]
        p = stats.ttest_rel(of[name, "ndcg@20"], of["base", "ndcg@20"]).pvalue
        assert output[:3] == pytest.approx(
            [values.mean(), values.mean() - half, values.mean() + half], abs=6e-5
        )
        assert output[3] == pytest.approx(p, rel=6e-3)


def made(*scores: float) -> list[dict[str, Any]]:
    return [{"test": {"ndcg@20": score, "recall@20": 0.5}} for score in scores]


def test_a_difference_equals_the_one_computed_by_hand() -> None:
    # Differences 0.01, 0.02, 0.03: mean 0.02, standard error 0.01 / sqrt(3), t(0.975, 2) = 4.303.
    output = quality.difference(made(0.11, 0.22, 0.33), made(0.1, 0.2, 0.3))
    assert output == "+0.0200 [-0.0048, +0.0448], p 0.0742"
    assert quality.difference(made(0.3), made(0.5)) == "-0.2000"
    assert quality.difference(made(0.5, 0.75), made(0.25, 0.5)) == "+0.2500 [+0.2500, +0.2500], p 0"
    assert quality.mean_sd([0.25]) == "0.250"


def test_one_repeat_has_a_table_without_intervals(data: Path, tmp_path: Path) -> None:
    assert command(data, tmp_path / "store.jsonl", repeats=1, variants=VARIANTS[:2]) == 0
    cells = cells_of(tmp_path / "store.jsonl")
    assert re.fullmatch(r"[+-]0\.\d{4}", cells["fast"][1])
    assert re.fullmatch(r"0\.\d{3}", cells["fast"][0])


def test_the_table_is_printed_and_lists_the_options(
    data: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(data, finished) == 0
    text = finished.with_suffix(".md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert f"| fast | `{FIXED} --lr 0.01` |" in text
    assert "tiny, 3 repeats" in text


# --- errors


def test_an_option_that_train_py_lacks_is_an_error_of_its_command_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(data, tmp_path / "store.jsonl", variants=("base=", "wrong=--learning-speed 3"))
    assert ended.value.code == 2
    output = capsys.readouterr().err
    assert "--learning-speed" in output
    assert "wrong" in output
    with pytest.raises(SystemExit) as ended:
        command(data, tmp_path / "store.jsonl", fixed="--lr -1")
    assert ended.value.code == 2
    assert "--lr must be finite, above 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_options_for_a_variant_of_the_results_file_are_refused(
    data: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished.read_bytes()
    assert command(data, finished, variants=("base=", "fast=--lr 0.02")) == 2
    output = capsys.readouterr().err
    assert (
        f"--variant fast: {finished} has runs of it with the options '{FIXED} --lr 0.01', "
        f"not '{FIXED} --lr 0.02'. Choose another name" in output
    )
    assert finished.read_bytes() == before


def test_other_data_and_files_of_other_commands_are_refused(
    write_data: Callable[[int], Path],
    data: Path,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(write_data(1), finished) == 2
    assert "has runs on tiny" in capsys.readouterr().err
    for content, message in (
        ('{"phase": "trial"}\n', "not a results file of this command"),
        ("oh\n{}\n", "damaged line"),
    ):
        (tmp_path / "other.jsonl").write_text(content, encoding="utf-8")
        assert command(data, tmp_path / "other.jsonl") == 2
        assert message in capsys.readouterr().err
    assert command(tmp_path, tmp_path / "store.jsonl") == 2
    assert "dataset.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fixed", "variants", "message"),
    [
        ("", ("base",), "must be NAME=OPTIONS"),
        ("", ("--lr=1",), "must be NAME=OPTIONS"),
        ("", ("a|b=",), "must be NAME=OPTIONS"),
        ("", (" =--lr 1",), "must be NAME=OPTIONS"),
        ("", ("a=", "b=", "a=--lr 1"), "names must differ, got a, b, a"),
        ("", ("a=", "b=--split-seed=3"), "--variant b: --split-seed is set by this command"),
        ("--seed 3", ("a=",), "--seed is set by this command"),
        ("", ("a=", "b=--setting mtmt"), "--variant b: --setting is mtmt, but ftmt for a"),
        ("", ("a=", "b=--candidates all_cold"), "--candidates is all_cold"),
        ("", ("a=--lr '1",), "cannot be read"),
    ],
)
def test_variants_that_cannot_be_compared_are_refused(
    fixed: str, variants: tuple[str, ...], message: str
) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        quality.read_variants(fixed, variants)


def test_the_options_of_a_variant_take_precedence_over_the_fixed_ones_and_a_preset() -> None:
    base, other = quality.read_variants(
        "--preset paper --lr 0.5", ("a=", 'b=--lr "0.25" --alpha 2')
    )
    assert (
        base.options.method.lr,
        base.options.method.alpha,
        base.options.method.penalty_weight,
    ) == (0.5, 0.1, 50.0)
    assert (
        other.options.method.lr,
        other.options.method.alpha,
        other.options.method.penalty_weight,
    ) == (
        0.25,
        2.0,
        50.0,
    )
    assert other.arguments == "--preset paper --lr 0.5 --lr 0.25 --alpha 2"


@pytest.mark.parametrize(
    "words",
    [[], ["--repeats", "0"], ["--threads", "0"], ["--out", "store.txt"], ["--vari", "b="]],
    ids=str,
)
def test_an_invalid_command_line_ends_with_status_2(words: list[str]) -> None:
    needed = ["--data", "data", "--out", "store.jsonl", "--variant", "a="] if words else []
    with pytest.raises(SystemExit) as ended:
        quality.parse([*needed, *words])
    assert ended.value.code == 2


@pytest.mark.parametrize("value", ["--lr=1", "--no-scale-features", "--lr 1 --model milk"])
def test_options_that_begin_with_a_dash_are_values(value: str) -> None:
    needed = ["--data", "data", "--out", "store.jsonl", "--variant", "a="]
    assert quality.parse([*needed, "--fixed", value]).fixed == value
    assert quality.parse([*needed, f"--fixed={value}"]).fixed == value


def test_a_damaged_results_file_is_a_data_error(tmp_path: Path, data: Path) -> None:
    (tmp_path / "store.jsonl").write_text("{\n", encoding="utf-8")
    with pytest.raises(DataError, match="damaged line"):
        quality.open_journal(tmp_path / "store.jsonl", [], quality.read_dataset(data))
