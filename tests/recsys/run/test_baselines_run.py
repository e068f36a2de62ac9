"""Baselines in train.py: the same split, evaluation, checkpoint, resume and report as MILK."""

import dataclasses
import json

import pytest
import torch

from milk_recsys import load_run
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.command_line import parse_options
from milk_recsys.config.method import find_method
from milk_recsys.config.options import OptionError, Options, from_json, to_json
from milk_recsys.methods.learner import TrainedLearner
from milk_recsys.methods.warm import WarmData
from milk_recsys.run import begin, loop
from milk_recsys.run.loop import train_model
from milk_recsys.run.progress import Progress
from milk_recsys.train import run, run_command
from tests.recsys.methods.tiny_baselines import BASELINES, NEEDS_FACTORS


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_dataset):
    return write_dataset(
        tmp_path_factory.mktemp("data") / "set", users=60, items=80, pairs_per_user=12
    )


def make_options(name, data, out, **values):
    sizes = {
        "batch_size": 64,
        "factor_epochs": 4,
        "factor_batch_size": 64,
        "num_negatives": 5,
        "embedding_dim": 8,
    }
    own = {k: v for k, v in sizes.items() if k in find_method(name).fields}
    loop = {"epochs": 3, "eval_every": 1} if find_method(name).trains else {}
    fixed = {"compare": "none", "device": "cpu", "resume": True}
    return Options.of(name, data=data, out=out, **{**own, **loop, **fixed, **values})


def start(options):
    options, dataset = begin.open_run(options)
    return run(options, dataset, Progress(quiet=True))


KILLED = ("duif", "dropoutnet", "gar")  # With one optimiser, a counter, and two optimisers.
SAME = ("validation", "test", "test_complete", "test_all_cold", "by_pattern", "imposed", "drops")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BASELINES))
def test_a_run_has_the_sections_of_milk_and_resumes_where_it_was_killed(
    name, data, tmp_path, monkeypatch
):
    whole = start(make_options(name, data, tmp_path / "whole"))
    assert whole["model"] == name
    assert set(SAME) <= set(whole)
    assert (tmp_path / "whole" / "report.html").stat().st_size > 10_000
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert set(config["method"]) == {f.name for f in dataclasses.fields(find_method(name).options)}
    # A test of `TrainedLearner` checks that all methods resume exactly.
    if name not in KILLED:
        return
    real, count = TrainedLearner.train_epoch, []

    def killed_in_second_epoch(self, epoch, on_step=None):
        count.append(epoch)
        if len(count) > 1:
            raise KeyboardInterrupt
        return real(self, epoch)

    monkeypatch.setattr(TrainedLearner, "train_epoch", killed_in_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        start(make_options(name, data, tmp_path / "killed"))
    monkeypatch.setattr(TrainedLearner, "train_epoch", real)
    resumed = start(make_options(name, data, tmp_path / "killed"))
    assert {k: resumed[k] for k in SAME} == {k: whole[k] for k in SAME}
    files = [
        (tmp_path / folder / "model.safetensors").read_bytes() for folder in ("whole", "killed")
    ]
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_run_killed_while_its_factors_are_trained_resumes(data, tmp_path, monkeypatch):
    from milk_recsys.methods.factors import Factorisation

    whole = start(make_options("gar", data, tmp_path / "whole"))
    real = Factorisation.train_epoch
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)

    def killed_in_epoch_2(self):
        if self.epoch == 2:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Factorisation, "train_epoch", killed_in_epoch_2)
    with pytest.raises(KeyboardInterrupt):
        start(make_options("gar", data, tmp_path / "killed"))
    assert (tmp_path / "killed" / "checkpoint.safetensors").exists()
    trained_epochs = []
    monkeypatch.setattr(
        Factorisation, "train_epoch", lambda self: trained_epochs.append(self.epoch) or real(self)
    )
    resumed = start(make_options("gar", data, tmp_path / "killed"))
    assert trained_epochs == [2, 3]
    assert resumed["test"] == whole["test"]


def test_a_baseline_has_the_split_and_the_candidates_of_milk(data, tmp_path):
    options, dataset = begin.open_run(
        Options.of(
            model="milk",
            data=data,
            out=tmp_path / "milk",
            compare="none",
            epochs=1,
            embedding_dim=8,
            device="cpu",
        )
    )
    milk = run(options, dataset, Progress(quiet=True))
    knn = start(make_options("content_knn", data, tmp_path / "knn"))
    assert milk["missingness"] == knn["missingness"]
    assert milk["test"]["users"] == knn["test"]["users"]
    assert (tmp_path / "milk/split.npz").read_bytes() == (tmp_path / "knn/split.npz").read_bytes()


def test_a_baseline_can_be_compared_with_the_ablation(data, tmp_path):
    metrics = start(make_options("duif", data, tmp_path / "run", compare="erm"))
    assert metrics["compare"]["model"] == "erm"
    assert "difference" in metrics["compare"]


def test_duif_with_the_mean_of_the_encoders_ranks_as_erm_does(data):
    dataset = read_dataset(data)
    options = Options.of(
        data=data, model="erm", compare="none", epochs=3, embedding_dim=8, dtype="float64", lr=0.05
    )
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    learner_options = Options.of(model="duif", embedding_dim=8, dtype="float64")
    duif = TrainedLearner(WarmData.of_tables(tables, options), learner_options)
    from milk_recsys.methods.milk.model import build_model

    erm = build_model(options, tables.training_view())
    maps = [layer.weight for layer in erm.encoders.encoders]
    with torch.no_grad():
        for layer in erm.encoders.encoders:
            layer.bias.normal_()  # It adds a constant per user, which changes no ranking.
        duif.model.net["user"].weight.copy_(erm.users.weight)
        duif.model.net["item"].weight.copy_(torch.cat(maps, dim=1) / len(maps))
        users, items = torch.arange(dataset.num_users), tables.test.candidates
        by_erm = erm.scorer(tables.features, items, tables.mask)(users)
        by_duif = duif.scorer(tables.features, items, tables.mask)(users)
    assert not torch.allclose(by_erm, by_duif)
    torch.testing.assert_close(
        by_erm - by_erm.mean(dim=1, keepdim=True), by_duif - by_duif.mean(dim=1, keepdim=True)
    )
    assert torch.equal(by_erm.argsort(dim=1), by_duif.argsort(dim=1))


def test_the_training_view_has_no_row_of_a_new_item(data):
    dataset = read_dataset(data)
    options = Options.of(model="milk", data=data, setting="mtmt", compare="none")
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    view, warm = tables.training_view(), WarmData.of_tables(tables, options)
    assert view.features.items.tolist() == split.warm.tolist()
    assert len(view.features._tensors["text"]) == len(split.warm) == warm.num_items
    with pytest.raises(IndexError, match="leave out"):
        view.features.rows(torch.from_numpy(split.test[:1]))
    assert not view.mask[split.cold].any()
    assert not view.natural_mask[split.cold].any()
    assert view.test.candidates.numel() == view.validation.users.numel() == 0
    # Features that the setting hides are NaN, so that no method can read them.
    for m, x in enumerate(warm.features.values()):
        assert x[~warm.mask[:, m]].isnan().all()


def test_the_training_view_of_mapped_features_has_no_row_of_a_new_item(data):
    dataset = read_dataset(data)
    options = Options.of(model="milk", data=data, features="mapped", compare="none")
    split, _ = draw_split(dataset, options.data)
    view = build_tables(dataset, split, options, torch.device("cpu")).training_view()
    assert view.features.mapped
    warm = torch.from_numpy(split.warm)
    expected = torch.from_numpy(dataset.features["text"][split.warm])
    torch.testing.assert_close(view.features.rows(warm)["text"], expected)
    with pytest.raises(IndexError, match="leave out"):
        view.features.rows(torch.from_numpy(split.validation[:1]))


def test_own_options_are_given_on_the_command_line():
    options = parse_options(
        ["--model", "gar", "--similarity-share", "0.25", "--hidden", "32", "--lr", "0.002"]
    )
    assert options.method.similarity_share == 0.25
    assert options.method.hidden == 32
    assert options.method.lr == 0.002
    assert options.loop.eval_every == 1  # The default of GAR.
    assert options.method.real_share == 0.9
    assert from_json(json.loads(json.dumps(to_json(options)))) == options


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "gar", "--alpha", "1"], "--alpha is not an option of gar"),
        (["--model", "gar", "--preset", "paper"], "--preset is not an option of gar"),
        (["--tau", "1"], "--tau is not an option of keep. Add --model micro, which has it"),
        # Batch normalisation needs two rows: batches of one would all be skipped.
        *(
            (
                ["--model", name, "--batch-size", "1"],
                "--batch-size must be at least 2, got 1",
            )
            for name in ("dropoutnet", "heater", "gar", "gorec", "aldi")
        ),
    ],
)
def test_an_option_of_another_model_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_resumed_run_keeps_its_own_options(data, tmp_path):
    start(make_options("duif", data, tmp_path / "run"))
    options = parse_options(["--resume", "--out", str(tmp_path / "run")])
    assert options.run.model == "duif"
    assert options.method.batch_size == 64
    with pytest.raises(SystemExit):
        parse_options(["--resume", "--out", str(tmp_path / "run"), "--l2", "0.5"])


def test_the_run_of_a_baseline_cannot_be_loaded_for_scoring(data, tmp_path):
    start(make_options("duif", data, tmp_path / "run"))
    with pytest.raises(DataError, match="a run of duif"):
        load_run(tmp_path / "run")


def test_several_processes_end_with_status_2(data, tmp_path, monkeypatch, capsys):
    from contextlib import contextmanager

    from milk_recsys import train
    from milk_recsys.base.distributed import World

    @contextmanager
    def two(_device):
        yield type(
            "Two",
            (World,),
            {"barrier": lambda _self: None, "broadcast": lambda _self, value: value},
        )(0, 2)

    monkeypatch.setattr(train, "joined_world", two)
    options, dataset = begin.open_run(make_options("gar", data, tmp_path / "run"))
    assert run_command(options, dataset) == 2
    assert "trains in one process" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_shared_factors_give_the_run_that_trains_them_itself(data, tmp_path):
    from milk_recsys.methods.factors import Factorisation

    options = make_options("heater", data, tmp_path, epochs=2)
    dataset = read_dataset(data)
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    shared = Factorisation(WarmData.of_tables(tables, options), options.method, options.run.seed)
    while not shared.done:
        shared.train_epoch()
    histories = []
    for folder, factors in (("own", None), ("shared", shared.result())):
        (tmp_path / folder).mkdir()
        train_model(options, tables, tmp_path / folder, Progress(quiet=True), factors=factors)
        histories.append(
            [
                json.loads(line)["validation"]
                for line in (tmp_path / folder / "history.jsonl").read_text().splitlines()
            ]
        )
    assert histories[0] == histories[1]
    assert "heater" in NEEDS_FACTORS


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", sorted(BASELINES))
def test_it_runs_on_a_gpu(name, data, tmp_path):
    metrics = start(make_options(name, data, tmp_path / "run", device="cuda"))
    on_cpu = start(make_options(name, data, tmp_path / "cpu"))
    assert metrics["test"]["ndcg@20"] == pytest.approx(on_cpu["test"]["ndcg@20"], abs=0.1)


def test_a_method_that_is_not_a_mapping_is_refused():
    values = to_json(Options.of(model="gar"))
    with pytest.raises(OptionError, match="--method cannot be"):
        from_json(values | {"method": [1]})
