"""The audit accepts methods without a leak, and names each planted leak."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from invmod import MeanImputer
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.synthetic import tiny_dataset
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.config.method import find_method
from milk_recsys.config.options import DataOptions, Options
from milk_recsys.methods.factors import Factorisation
from milk_recsys.methods.gar import GarOptions
from milk_recsys.methods.gorec.model import cluster_means
from milk_recsys.methods.learner import TrainedLearner, make_learner
from milk_recsys.methods.milk import PRESETS
from milk_recsys.methods.scaling import Columns
from milk_recsys.methods.warm import WarmData
from milk_recsys.study.audit import (
    Leak,
    _check_validation,
    audit,
    compare,
    leaks_by_option,
    tensors_of,
    without_test,
)
from tests.recsys.methods.tiny_baselines import BASELINES

DATASET = tiny_dataset()


@pytest.fixture(autouse=True, scope="module")
def two_threads():
    """Fix the number of threads, since more threads may add up gradients in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def make_options(model, **values):
    fixed = {"factor_batch_size": 256, "embedding_dim": 8}
    own = {name: value for name, value in fixed.items() if name in find_method(model).fields}
    return Options.of(model, **own, compare="none", setting="mtmt", device="cpu", **values)


def run_audit(options, make=make_learner):
    return audit(options, DATASET, draw_split(DATASET, options.data)[0], make=make)


QUICK = ("milk", "erm", "keep", "clcrec", "knn")


@pytest.mark.parametrize(
    "model",
    [
        *QUICK,
        *(pytest.param(m, marks=pytest.mark.slow) for m in sorted({*BASELINES} - {*QUICK})),
    ],
)
def test_a_method_without_a_leak_passes(model):
    names = run_audit(make_options(model))
    assert len(names) > 5
    if find_method(model).needs_factors:
        # The pre-trained vectors are among the tensors that are compared.
        assert any(name.endswith("_buffers.P") for name in names)
    if model == "milk":
        assert any("imputer" in name for name in names)
        assert any("exp_avg" in name for name in names)
    if model == "micro":
        assert any("fixed" in name for name in names)
    if model == "gorec":
        assert any("centres" in name for name in names)


def test_without_test_deletes_pairs_and_features():
    split, _ = draw_split(DATASET, DataOptions())
    blind = without_test(DATASET, split)
    assert not np.isin(blind.interactions[:, 1], split.test).any()
    assert (
        len(blind.interactions) == len(DATASET.interactions) - DATASET.item_counts[split.test].sum()
    )
    assert all(np.isnan(x[split.test]).all() for x in blind.features.values())
    assert all(
        np.array_equal(x[split.warm], DATASET.features[k][split.warm])
        for k, x in blind.features.items()
    )
    assert not np.isnan(DATASET.features["text"]).any()


def plant(model, change):
    """Return a function that builds a learner and then fits a part of it on hidden data."""

    def make(options, tables):
        learner = TrainedLearner(WarmData.of_tables(tables, options), options.replace(model=model))
        learner.prepare()
        change(learner.model, tables, options)
        return learner

    return make


def every_item(tables):
    return torch.arange(tables.features.num_items)


def all_pairs(tables):
    """Training pairs and those of new items."""
    groups = (tables.validation, tables.test)
    new = [torch.stack([g.users, g.candidates[g.positions]], dim=1) for g in groups]
    return torch.cat([tables.pairs, *new])


def impute_from_all(baseline, tables, _options):
    rows = {k: x.float() for k, x in tables.features.rows(every_item(tables)).items()}
    baseline.content._imputer = MeanImputer(tables.modalities).fit(rows, tables.natural_mask)


def scale_by_all(baseline, tables, _options):
    x = torch.cat(list(tables.features.rows(every_item(tables)).values()), dim=1)
    baseline.columns = Columns(x.nan_to_num(0.0).float(), clip=5.0)


def cluster_all(baseline, tables, options):
    rows = tables.features.rows(every_item(tables))
    x = torch.cat([v.nan_to_num(0.0).float() for v in rows.values()], dim=1)
    baseline.net.centres, _ = cluster_means(x, torch.zeros(len(x), 8), 10, options.run.seed)


def graph_of_all(baseline, tables, _options):
    x = tables.features.rows(every_item(tables))["text"].nan_to_num(0.0)
    baseline.whole_graph = (x @ x.T).topk(10, dim=1).indices


def factors_of_all(baseline, tables, options):
    pairs = all_pairs(tables)
    rows = build_user_rows(pairs, tables.num_users, every_item(tables))
    features = tables.features.rows(every_item(tables))
    data = WarmData(tables.modalities, tables.num_users, features, tables.natural_mask, rows)
    factorisation = Factorisation(data, GarOptions(embedding_dim=8), 0)
    factorisation.train_epoch()
    baseline.net.P = factorisation.net["user"].detach()


def targets_of_new_items(baseline, tables, _options):
    baseline.target_counts = torch.bincount(
        all_pairs(tables)[:, 1], minlength=tables.features.num_items
    )


def exclusions_of_all(baseline, tables, _options):
    """CLCRec's items of each user, with the validation and test pairs included."""
    baseline.exclude = build_user_rows(all_pairs(tables), tables.num_users, every_item(tables))


PLANTED = {
    "imputation": ("duif", impute_from_all, "_imputer"),
    "scaling": ("heater", scale_by_all, "columns"),
    "clusters": ("gorec", cluster_all, "centres"),
    "graph": ("micro", graph_of_all, "whole_graph"),
    "factors": ("gar", factors_of_all, "P"),
    "targets": ("dropoutnet", targets_of_new_items, "target_counts"),
    "exclusions": ("clcrec", exclusions_of_all, "exclude"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_part_that_is_fitted_on_test_items_is_named(name):
    model, change, part = PLANTED[name]
    with pytest.raises(Leak, match=rf"^leak: `[^`]*{part}[^`]*`"):
        run_audit(make_options(model), plant(model, change))


def test_a_recommender_that_keeps_the_features_of_new_items_is_named():
    def make(options, tables):
        learner = make_learner(options, tables)
        learner.tables = tables  # instead of tables.training_view()
        return learner

    with pytest.raises(Leak, match=r"`tables\."):
        run_audit(make_options("milk"), make)


def test_training_on_pairs_of_test_items_is_named():
    """An item tower that was trained on test items leaves no table, only other weights."""

    def make(options, tables):
        learner = make_learner(options, tables)
        items = tables.test.candidates[tables.test.positions]
        with torch.no_grad():
            learner.model.encoders.parameters().__next__().mul_(1 + 1e-7 * len(items))
        return learner

    with pytest.raises(Leak, match=r"`model\."):
        run_audit(make_options("erm", dtype="float64"), make)


def validation_reads_test(learner, tables):
    """Make the sign of the scores of a user depend on whether the user has a test pair."""
    whole = learner.scorer

    def scorer(features, items, mask, *, max_users=0):
        score = whole(features, items, mask)
        mine = torch.isin(tables.all_cold.users, tables.test.users)
        busy = torch.bincount(tables.test.users, minlength=tables.num_users) if mine.any() else None

        def changed(users):
            scores = score(users).clone()
            return (
                scores
                if busy is None
                else scores * torch.where(busy[users] > 0, -1.0, 1.0)[:, None]
            )

        return changed

    learner.scorer = scorer


def test_validation_that_depends_on_test_pairs_is_named(monkeypatch):
    def make(options, tables):
        learner = TrainedLearner(WarmData.of_tables(tables, options), options)
        validation_reads_test(learner, tables)
        return learner

    # The audit would find the tensors in the closure of the scorer first. They are hidden here, so
    # that the check of the validation metrics is tested.
    monkeypatch.setattr("milk_recsys.study.audit.tensors_of", lambda thing: iter(()))
    with pytest.raises(
        Leak, match="on the validation items changes when the test items are removed"
    ):
        run_audit(make_options("content_knn"), make)


def test_validation_metrics_of_no_user_are_equal(monkeypatch):
    """A few hundred users may have no validation pair at all; their means are NaN."""
    nan = float("nan")
    tables = (SimpleNamespace(validation=None, mask=None),) * 2

    def check(*metrics):
        answers = iter([({"ndcg@20": value, "users": 0}, None) for value in metrics])
        monkeypatch.setattr("milk_recsys.study.audit.evaluate_group", lambda *_: next(answers))
        _check_validation([None, None], tables, "test")

    check(nan, nan)
    check(0.5, 0.5)
    for values in ((nan, 0.5), (0.5, nan), (0.5, 0.25)):
        with pytest.raises(Leak, match="`ndcg@20` on the validation items changes"):
            check(*values)


def test_a_score_that_depends_on_the_other_items_is_named():
    def make(options, tables):
        learner = TrainedLearner(WarmData.of_tables(tables, options), options)
        whole = learner.scorer

        def scorer(features, items, mask, *, max_users=0):
            score = whole(features, items, mask)
            # Scores are centred over the candidates.
            return lambda users: score(users) - score(users).mean(dim=1, keepdim=True)

        learner.scorer = scorer
        return learner

    with pytest.raises(Leak, match="other new items that are scored"):
        run_audit(make_options("content_knn"), make)


def test_negatives_that_are_new_items_are_a_leak():
    with pytest.raises(Leak, match="is a training negative, but it is a new item"):
        run_audit(make_options("erm", negatives="all"))


def test_a_leak_by_option_is_described():
    assert "negatives all" in leaks_by_option(
        Options.of(model="milk", **PRESETS["authors_code"]).data
    )
    assert leaks_by_option(Options.of(model="milk").data) is None


def test_tensors_are_found_in_attributes_containers_and_closures():
    hidden = torch.tensor([7.0])

    class Thing:
        def __init__(self):
            self.parts = [{"a": torch.tensor(1.0)}, (np.array([2.0]),)]
            self.call = lambda: hidden
            self.itself = self

    values = {name: x.tolist() for name, x in tensors_of(Thing())}
    assert values == {"parts.0.a": 1.0, "parts.1.0": [2.0], "call.hidden": [7.0]}


def test_compare_is_bit_for_bit_and_nan_equals_nan():
    x = torch.tensor([1.0, torch.nan])
    assert compare({"x": x}, {"x": x.clone()}) == ("x",)
    with pytest.raises(Leak, match="`x` differs when"):
        compare({"x": x}, {"x": torch.tensor([1.0 + 2e-7, torch.nan])})
    with pytest.raises(Leak, match="`y` exists only"):
        compare({"x": x}, {"x": x, "y": x})
