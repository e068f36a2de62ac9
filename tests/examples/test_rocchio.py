"""The documented method of one's own: its scores, both ways to add it, and a study of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rocchio
from milk_recsys.config import method as methods
from milk_recsys.config.options import PreparationOptions
from milk_recsys.study.store import Store
from tests.recsys.methods.tiny_baselines import content_by_hand, make_data, matrix, unit

EXAMPLES = Path(rocchio.__file__).parent


@pytest.mark.parametrize("damping", [0.0, 0.5, 1.0])
def test_scores_are_sums_of_cosines(damping):
    data = make_data()
    model = rocchio.Rocchio(data, rocchio.RocchioOptions(damping), seed=0)
    users = torch.tensor([0, 5, 3])
    pairs, x = matrix(data), unit(content_by_hand(data))
    weights = np.maximum(pairs.sum(0), 1) ** -damping
    # The warm items serve as new ones, so that their imputed content is known.
    expected = pairs[users] * weights @ (x @ x.T)
    scores = model.scorer(data.features, data.mask)(users)
    torch.testing.assert_close(scores, torch.from_numpy(expected))
    assert data.preparation == PreparationOptions()


def test_a_registered_method_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "_REGISTERED", {})
    methods.register(rocchio.ROCCHIO)
    argv = ["--model", "rocchio", "--damping", "0.5", "--compare", "none", "--out"]
    assert rocchio.main([*argv, str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert config["method"] == {"damping": 0.5}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["model"] == "rocchio"
    assert metrics["test"]["ndcg@20"] > metrics["floor"]["test"]["ndcg@20"]
    with pytest.raises(ValueError, match="there is already a method 'rocchio'"):
        methods.register(rocchio.ROCCHIO)


@pytest.fixture
def installed(tmp_path):
    """Run `milk-recsys` in a process where a package declares the method by an entry point."""
    info = tmp_path / "site" / "my_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[milk_recsys.methods]\nrocchio = rocchio:ROCCHIO\n")
    path = os.pathsep.join([str(info.parent), str(EXAMPLES), *sys.path])

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "milk_recsys", *words],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_a_method_of_an_installed_package_is_a_choice(installed):
    output = installed("train", "--model", "rocchio", "--help")
    assert "--damping" in output
    assert "Exponent that reduces the weight of popular items." in output


@pytest.mark.slow
def test_a_method_of_an_installed_package_is_studied(installed, tmp_path):
    out = tmp_path / "study"
    words = ["--smoke", "--settings", "ftmt", "--methods", "rocchio", "knn", "--out", str(out)]
    installed("reproduce", "field", *words)
    store = Store(out)
    assert len(store.of("trial", "rocchio")) == len(store.of("repeat", "rocchio")) == 2
    assert set(store.of("repeat", "rocchio")[0]["tuned"]) == {"damping"}
    assert "| rocchio |" in (out / "field.md").read_text(encoding="utf-8")
