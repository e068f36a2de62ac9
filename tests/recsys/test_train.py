"""The training loop and its process: resuming after a kill, files, exit statuses."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from milk_recsys import train
from milk_recsys.base.checkpoint import load_state, save_state
from milk_recsys.base.files import Journal
from milk_recsys.catalogue.dataset import DataError
from milk_recsys.config.options import OptionError, Options
from milk_recsys.methods.milk import PRESETS
from milk_recsys.methods.milk.draws import draw_triples
from milk_recsys.run import begin, loop
from milk_recsys.run.progress import Progress
from milk_recsys.run.scorer import load_run

SCRIPT = Path(train.__file__)
SECTIONS = ("validation", "test", "test_complete", "test_all_cold")


def small(**values: Any) -> Options:
    fixed: dict[str, Any] = {
        "epochs": 6,
        "eval_every": 2,
        "batch_size": 64,
        "embedding_dim": 8,
        "lr": 0.02,
    }
    return Options.of(**{"model": "milk", **fixed, "device": "cpu", "compare": "none", **values})


def train_in(folder: Path, /, **values: Any) -> dict[str, Any]:
    options, dataset = begin.open_run(small(out=folder, **values))
    return train.run(options, dataset, Progress(quiet=True))


def comparable(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics that do not depend on time, versions or the way the split was given."""
    return {
        k: v
        for k, v in metrics.items()
        if k not in ("seconds_per_epoch", "seconds", "date", "compare", "versions", "split_seed")
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", items=120, pairs_per_user=20)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not write the report, which takes most of the time of a tiny run."""
    monkeypatch.setattr(train, "write_report", lambda folder: (folder / "report.html").touch())


def test_a_run_with_compressed_features_can_be_loaded(data: Path, tmp_path: Path) -> None:
    metrics = train_in(tmp_path / "run", data=data, compress=2)
    scorer = load_run(tmp_path / "run")
    dataset = begin.read_dataset(data)
    assert scorer.score(
        [0], {name: np.array(x[:3]) for name, x in dataset.features.items()}
    ).shape == (1, 3)
    assert metrics["test"]["users"] > 0


@pytest.mark.slow
def test_the_same_split_by_file_and_by_seed_gives_the_same_metrics(
    tmp_path: Path, data: Path
) -> None:
    drawn = train_in(tmp_path / "drawn", data=data, split_seed=3)
    given = train_in(tmp_path / "given", data=data, split=tmp_path / "drawn" / "split.npz")
    assert comparable(drawn) == comparable(given)
    assert given["split_seed"] is None


def test_metrics_and_files_of_a_run(tmp_path: Path, data: Path) -> None:
    metrics = train_in(tmp_path / "run", data=data, compare="erm")
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == metrics
    for name in (
        "config.json", "metrics.json", "history.jsonl", "split.npz", "model.safetensors",
        "checkpoint.safetensors", "curves.png", "robustness.png", "report.html",
    ):  # fmt: skip
        assert (tmp_path / "run" / name).stat().st_size > 0, name
    for part in (metrics, metrics["compare"]):
        for section in SECTIONS:
            assert {
                "users",
                "untrained_users",
                "recall@10",
                "recall@20",
                "ndcg@10",
                "ndcg@20",
            } <= set(part[section])
        assert set(part["imposed"]) == {"text", "image", "audio"}
        assert (
            sum(pattern["items"] for pattern in part["by_pattern"].values())
            == metrics["missingness"]["items"]["test"]
        )
    history = [
        json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()
    ]
    assert [line["epoch"] for line in history] == list(range(6))
    assert [line["epoch"] for line in history if "validation" in line] == [0, 2, 4, 5]
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["method"]["alpha"] == 1.0
    assert config["compare"] == "erm"
    facts = metrics["missingness"]
    assert facts["removed"]["warm"] == {"text": 0, "image": 0, "audio": 0}
    assert sum(facts["removed"]["test"].values()) == facts["items"]["test"] // 2


def test_early_stopping_counts_evaluations_without_a_strict_gain() -> None:
    state = {"epoch": 0, "best_epoch": -1, "best": -1.0, "stale": 0, "done": False}
    scores = [0.1, 0.2, 0.2, 0.1, 0.3, 0.3, 0.3, 0.3]
    for epoch, score in enumerate(scores):
        state["epoch"] = epoch
        loop.judge(state, score, patience=3)
    assert (state["best_epoch"], state["done"]) == (4, True)
    assert state["stale"] == 3


# --- interruption and resuming --------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill signal in tests within one process."""


RESUMED: dict[str, Any] = {"compare": "erm", "setting": "mtmt", "alpha": 0.5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> SimpleNamespace:
    """A run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return SimpleNamespace(folder=folder, metrics=train_in(folder, data=data, **RESUMED))


@pytest.mark.parametrize("calls", [1, 4, 7, 8, 11, 15, 20, 24])
def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, data: Path, whole: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Kill a run while it writes a tensor file or trains a batch, in the model or the ablation."""
    # The report is slow to write and not part of this test.
    monkeypatch.setattr(train, "write_report", lambda folder: (folder / "report.html").touch())
    count = 0

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == calls:
                # A kill during writing leaves a part of the file on disk.
                if original is save_state:
                    args[0].with_name(f".{args[0].name}.1.tmp").write_bytes(b"\x00" * 10)
                raise Killed
            return original(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr("milk_recsys.base.checkpoint.save_state", dying(save_state))
        patch.setattr("milk_recsys.methods.milk.triples.draw_triples", dying(draw_triples))
        with pytest.raises(Killed):
            train_in(tmp_path / "killed", data=data, **RESUMED)
    resumed = train_in(tmp_path / "killed", data=data, resume=True, **RESUMED)
    assert comparable(whole.metrics) == comparable(resumed)
    for folder in (Path(), Path("compare")):
        a, _ = load_state(whole.folder / folder / "model.safetensors")
        b, _ = load_state(tmp_path / "killed" / folder / "model.safetensors")
        assert all(torch.equal(a[name], b[name]) for name in a)
        histories = [
            (run / folder / "history.jsonl").read_text()
            for run in (whole.folder, tmp_path / "killed")
        ]
        losses = [[json.loads(line)["loss"] for line in text.splitlines()] for text in histories]
        assert losses[0] == losses[1]


def test_a_history_cut_by_a_kill_is_repaired_before_the_next_line(tmp_path: Path) -> None:
    history = Journal(tmp_path / "runs.jsonl")
    history.repair()  # Repairing a file that does not exist does not create it.
    assert not history.path.exists()
    history.append({"epoch": 0})
    with history.path.open("a") as file:
        file.write('{"epoch": 1, "lo')
    history.repair()
    history.append({"epoch": 2})
    assert history.read() == [{"epoch": 0}, {"epoch": 2}]


def test_a_folder_that_holds_a_run_is_refused(trained_run: SimpleNamespace) -> None:
    before = {path: path.read_bytes() for path in trained_run.folder.rglob("*") if path.is_file()}
    with pytest.raises(OptionError, match=r"holds a run .* never overwritten"):
        begin.open_run(trained_run.options.replace(resume=False))
    assert before == {
        path: path.read_bytes() for path in trained_run.folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", ["report.html", "compare", "model.safetensors"])
def test_files_of_another_run_are_neither_used_nor_overwritten(
    tmp_path: Path, data: Path, name: str
) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(OptionError, match=f"holds a run .{name}"):
        train_in(tmp_path / "run", data=data)
    with pytest.raises(OptionError, match=f"holds {name}, but no config.json"):
        train_in(tmp_path / "run", data=data, resume=True)


@pytest.mark.usefixtures("no_report")
def test_bad_input_leaves_no_partial_run_behind(tmp_path: Path, data: Path) -> None:
    for values in ({"split": tmp_path / "nowhere.npz"}, {"min_weight": 0.4}):
        with pytest.raises((DataError, OptionError)):
            train_in(tmp_path / "run", data=data, **values)
        assert not (tmp_path / "run").exists()
    assert train_in(tmp_path / "run", data=data)["test"]["users"] > 0


@pytest.mark.usefixtures("no_report")
def test_other_data_on_resume_are_refused_and_temporary_files_removed(
    tmp_path: Path, write_dataset: Callable[..., Path]
) -> None:
    data = write_dataset(tmp_path / "data", items=120, pairs_per_user=20)
    train_in(tmp_path / "run", data=data)
    (tmp_path / "run/report.html").unlink()  # As if the run had been killed before its report.
    leftover = tmp_path / "run/.checkpoint.safetensors.123.tmp"
    leftover.touch()
    train_in(tmp_path / "run", data=data, resume=True)
    assert not leftover.exists()
    text = np.load(data / "features/text.npy")
    np.save(data / "features/text.npy", text + 1)
    with pytest.raises(DataError, match="started with other data; changed: fingerprint"):
        train_in(tmp_path / "run", data=data, resume=True)


def test_features_that_overflow_are_an_error(
    tmp_path: Path, write_dataset: Callable[..., Path]
) -> None:
    folder = write_dataset(tmp_path / "data", items=120, pairs_per_user=20)
    np.save(folder / "features/audio.npy", np.full((120, 3), 1e300))
    with pytest.raises(DataError, match="modality 'audio' has values up to 1e"):
        train_in(tmp_path / "run", data=folder)


def test_resume_with_changed_options_is_refused(
    trained_run: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        begin.parse_options(["--resume", "--out", str(trained_run.folder), "--alpha", "7"])
    assert stop.value.code == 2
    assert "--alpha 7.0: the run in" in capsys.readouterr().err


def test_resume_takes_the_options_of_the_run(trained_run: SimpleNamespace) -> None:
    options = begin.parse_options(["--resume", "--out", str(trained_run.folder)])
    assert options.replace(resume=False) == trained_run.options


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("preset", ["paper", "authors_code"])
@pytest.mark.parametrize("model", ["milk", "align", "envs", "erm"])
def test_every_preset_trains_every_model(
    tmp_path: Path, data: Path, preset: str, model: str
) -> None:
    metrics = train_in(
        tmp_path / "run",
        data=data,
        preset=preset,
        model=model,
        **{**PRESETS[preset], "eval_every": 2},
    )
    assert 0 < metrics["test"]["ndcg@20"] <= 1
    assert metrics["candidates"] == ("all_cold" if preset == "authors_code" else "test")
    if preset == "authors_code":
        assert metrics["test"] == metrics["test_all_cold"]


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "values", [{"dtype": "float64"}, {"dtype": "bfloat16"}, {"inference": "available_mean"}]
)
def test_precisions_and_kinds_of_inference_agree_within_noise(
    tmp_path: Path, data: Path, values: dict[str, Any]
) -> None:
    ndcg = train_in(tmp_path / "a", data=data, setting="ftft", **values)["test_all_cold"]["ndcg@20"]
    assert ndcg == pytest.approx(
        train_in(tmp_path / "b", data=data, setting="ftft")["test_all_cold"]["ndcg@20"], abs=0.15
    )


def test_one_modality_alone(tmp_path: Path, write_dataset: Callable[..., Path]) -> None:
    data = write_dataset(tmp_path / "data", items=120, pairs_per_user=20, dims={"only": 5})
    metrics = train_in(tmp_path / "run", data=data)
    assert metrics["imposed"] == metrics["drops"] == {}
    assert metrics["test"]["users"] > 0


def test_a_modality_that_no_training_item_has_is_an_error(
    tmp_path: Path, write_dataset: Callable[..., Path]
) -> None:
    folder = write_dataset(tmp_path / "data", items=120, pairs_per_user=20)
    np.save(folder / "features/audio.npy", np.full((120, 3), np.nan, np.float32))
    with pytest.raises(DataError, match="no training item has the modality 'audio'"):
        train_in(tmp_path / "run", data=folder)


def test_divergence_is_an_error_with_a_hint(tmp_path: Path, data: Path) -> None:
    with pytest.raises((loop.Diverged, ValueError), match=r"diverged"):
        train_in(tmp_path / "run", data=data, lr=1e30, epochs=30)


# --- the process ----------------------------------------------------------------------------------


def start(*arguments: str, **kwargs: Any) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **kwargs,
    )


@pytest.mark.slow
def test_the_command_survives_sigkill(tmp_path: Path, data: Path) -> None:
    arguments = [
        "--model", "milk", "--data", str(data), "--epochs", "14", "--eval-every", "2",
        "--patience", "40", "--batch-size", "8", "--embedding-dim", "8", "--lr", "0.02",
        "--device", "cpu", "--resume", "--out",
    ]  # fmt: skip
    process = start(*arguments, str(tmp_path / "killed"))
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        pytest.fail(f"the run ended before it could be killed: {process.returncode}")
    process = start(*arguments, str(tmp_path / "killed"))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert f"report: {tmp_path / 'killed' / 'report.html'}" in out
    train.run(*begin.begin([*arguments, str(tmp_path / "whole")]), Progress(quiet=True))
    a, b = (load_state(tmp_path / run / "model.safetensors")[0] for run in ("killed", "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    again = start(*arguments, str(tmp_path / "whole"))
    out, _ = again.communicate(timeout=60)
    assert (again.returncode, "is finished" in out) == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "error: nowhere: no such folder"),
        (
            ["--model", "milk", "--min-weight", "0.5"],
            "error: --min-weight must be below 1 / 3 modalities",
        ),
    ],
)
def test_bad_input_ends_with_status_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    process = start(*arguments, "--out", str(tmp_path / "run"))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in err
    assert "Traceback" not in err + out


@pytest.mark.slow
def test_the_bad_split_ends_with_status_2(tmp_path: Path, data: Path) -> None:
    np.savez(
        tmp_path / "split.npz",
        warm=np.arange(50),
        validation=np.arange(40, 60),
        test=np.arange(60, 70),
    )
    arguments = ["--data", str(data), "--split", str(tmp_path / "split.npz"), "--device", "cpu"]
    process = start(*arguments, "--out", str(tmp_path / "run"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "lacks the arrays ['mask']" in err
    assert "Traceback" not in err


def test_options_and_data_checks_import_no_torch() -> None:
    code = "import sys; import milk_recsys.run.begin; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
