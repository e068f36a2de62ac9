"""Trackers: one that a package declares, TensorBoard, MLflow, and one that fails."""

import json
import sys

import pytest

from milk_recsys.config.options import OptionError, Options, validate
from milk_recsys.run import begin
from milk_recsys.run.progress import Progress
from milk_recsys.train import run

MODULE = """
import json
class Lines:
    def __init__(self, folder, config):
        self.file = (folder / "lines.jsonl").open("a")
        self.write("config", config)
    def write(self, kind, value):
        self.file.write(json.dumps([kind, value]) + "\\n")
    def log(self, step, values):
        self.write(step, values)
    def finish(self, values):
        self.write("end", values)
        self.file.close()
class Failing:
    def __init__(self, folder, config):
        pass
    def log(self, step, values):
        raise RuntimeError("the disk of the tracker is full")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with two trackers."""
    root = tmp_path / "site"
    info = root / "line_trackers-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: line-trackers\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[milk_recsys.trackers]\nlines = line_trackers:Lines\nfailing = line_trackers:Failing\n"
    )
    (root / "line_trackers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(root))
    yield
    sys.modules.pop("line_trackers", None)


def train(folder, data, model="milk", **options):
    given = {"epochs": 3, "eval_every": 2, "batch_size": 64} if model == "milk" else {}
    opened = begin.open_run(
        Options.of(model, data=data, out=folder, compare="none", device="cpu", **given, **options)
    )
    lines: list[str] = []
    progress = Progress(quiet=True)
    progress.log = lines.append  # type: ignore[method-assign]
    return run(*opened, progress), lines


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_declared_tracker_is_sent_every_epoch_and_the_test(package, trained_run, tmp_path):
    for model in ("milk", "keep"):
        out = tmp_path / model
        metrics, _ = train(out, trained_run.data, model, tracker="lines")
        (kind, config), *epochs, (end, final) = map(
            json.loads, (out / "lines.jsonl").read_text().splitlines()
        )
        assert (kind, end) == ("config", "end")
        assert config["model"] == model
        lines = history(out)
        assert [step for step, _ in epochs] == [line["epoch"] for line in lines]
        for (_, values), line in zip(epochs, lines, strict=True):
            assert values.get("loss") == line.get("loss")
            if "validation" in line:
                assert values["validation/ndcg@20"] == line["validation"]["ndcg@20"]
        assert final["test/ndcg@20"] == metrics["test"]["ndcg@20"]


@pytest.mark.slow
def test_a_tracker_that_fails_is_noted_and_does_not_end_the_run(package, trained_run, tmp_path):
    metrics, lines = train(tmp_path / "a", trained_run.data, tracker="failing")
    notes = [line for line in lines if "the tracker failed" in line]
    assert len(notes) == 1
    assert "RuntimeError: the disk of the tracker is full" in notes[0]
    without, _ = train(tmp_path / "b", trained_run.data)
    assert metrics["test"] == without["test"]


def test_no_tracker_by_default(trained_run):
    assert Options().run.tracker is None
    assert not (trained_run.folder / "tensorboard").exists()


def test_an_unknown_tracker_is_refused_with_the_known_ones(package, monkeypatch):
    with pytest.raises(
        OptionError, match=r"no such tracker\. Choose from tensorboard, mlflow, line"
    ):
        validate(Options.of("keep", tracker="lnes"))
    monkeypatch.setattr("milk_recsys.config.trackers.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'invmod\[mlflow\]'"):
        validate(Options.of("keep", tracker="mlflow"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorBoard and its packages warn about themselves.
def test_tensorboard_has_the_losses(trained_run, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "run", trained_run.data, tracker="tensorboard")
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(line["epoch"], line["loss"]) for line in history(tmp_path / "run")]
    assert [step for step, _ in losses] == [step for step, _ in expected]
    assert [x for _, x in losses] == pytest.approx([x for _, x in expected], rel=1e-6)
    assert events.Scalars("test/ndcg@20")


@pytest.mark.filterwarnings("ignore")  # MLflow and its packages warn about themselves.
def test_mlflow_has_the_losses(trained_run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra `mlflow`")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    _, lines = train(tmp_path / "run", trained_run.data, tracker="mlflow")
    assert not [line for line in lines if "tracker" in line]
    client = mlflow.MlflowClient()
    (found,) = client.search_runs(["0"])
    losses = [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "loss")]
    assert losses == [(line["epoch"], line["loss"]) for line in history(tmp_path / "run")]
    assert found.data.params["model"] == "milk"
    assert "test/ndcg_at_20" in found.data.metrics
