"""A run of KEEP: fitted, loaded for scoring without the training data, and used by recommend.py."""

import json
import re

import numpy as np
import polars as pl
import pytest
import torch

from milk_recsys import load_run, recommend
from milk_recsys.base.checkpoint import load_state, save_state
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.learner import make_learner
from milk_recsys.run import begin
from milk_recsys.run.progress import Progress
from milk_recsys.train import run, run_command


@pytest.fixture(scope="module")
def ran(tmp_path_factory, write_dataset):
    root = tmp_path_factory.mktemp("keep")
    data = write_dataset(root / "data", users=60, items=120, pairs_per_user=12)
    options = Options.of(model="keep", data=data, out=root / "run", compare="none", device="cpu")
    options, dataset = begin.open_run(options)
    return options, dataset, run(options, dataset, Progress(quiet=True))


def test_a_loaded_run_scores_what_the_run_scored(ran):
    options, dataset, _ = ran
    scorer = load_run(options.run.out, device="cpu")
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    items = tables.test.candidates
    users = torch.arange(dataset.num_users)
    learner = make_learner(options, tables)
    learner.prepare()
    expected = learner.scorer(tables.features, items, tables.mask)(users)
    features = {name: x.clone() for name, x in tables.features.rows(items).items()}
    for m, x in enumerate(features.values()):
        x[~tables.mask[items, m]] = torch.nan
    scores = scorer.score(None, features)
    np.testing.assert_allclose(scores.numpy(), expected.numpy(), rtol=2e-3, atol=2e-6)
    assert scorer.score([0], {"text": features["text"][:3].nan_to_num(0.1)}).isfinite().all()


def test_output_of_a_method_that_is_fitted_in_closed_form(ran, tmp_path, capsys):
    # The output has the path of `tmp_path`, and with it the name of this test.
    assert run_command(ran[0].replace(out=tmp_path / "run"), ran[1]) == 0
    output = capsys.readouterr().out
    assert re.search(r"keep: fitted in [\d.]+ s, validation ndcg@20 0\.\d{4}\n", output)
    result, report, following = output.splitlines()[-3:]
    levels = r"0\.\d{3} \(content kNN 0\.\d{3}, random 0\.\d{3}\)"
    assert re.search(rf"^KEEP on .*, \d+ users: NDCG@20 {levels}$", result)
    assert re.search(r"^report: .*report\.html$", report)
    assert re.search(r"^next: milk-recsys recommend --run .* --items NEW_ITEMS$", following)
    assert "loss" not in output
    assert "epoch" not in output


def test_recommend_lists_new_items(ran, tmp_path):
    options, dataset, _ = ran
    (tmp_path / "new" / "features").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, x in dataset.features.items():
        rows = rng.standard_normal((7, x.shape[1])).astype(np.float32)
        rows[2:4] = np.nan if name == dataset.modalities[0] else rows[2:4]
        np.save(tmp_path / "new" / "features" / f"{name}.npy", rows)
    assert (
        recommend.main(
            [
                "--run",
                str(options.run.out),
                "--items",
                str(tmp_path / "new"),
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    lists = pl.read_parquet(tmp_path / "users.parquet")
    assert set(lists["user"].unique()) == set(range(dataset.num_users))
    assert lists["score"].is_finite().all()


def test_a_model_that_does_not_fit_its_config_is_an_error(ran, tmp_path):
    options, *_ = ran
    tensors, facts = load_state(options.run.out / "model.safetensors")
    for name in ("config.json", "metrics.json"):
        (tmp_path / name).write_bytes((options.run.out / name).read_bytes())
    save_state(
        tmp_path / "model.safetensors", {k: x for k, x in tensors.items() if k != "items"}, facts
    )
    with pytest.raises(DataError, match=r"model.safetensors: does not fit config.json .* items"):
        load_run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["dataset"]["users"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_state(tmp_path / "model.safetensors", tensors, facts)
    with pytest.raises(DataError, match=r"does not fit config.json in its folder \(60 users"):
        load_run(tmp_path)
