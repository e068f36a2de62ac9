"""KEEP's vectors of new items, which are kept between the evaluations of a run."""

import copy
import types

import numpy as np
import pytest
import torch

from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.keep import embedded
from milk_recsys.methods.keep.embedded import EmbeddedItems
from milk_recsys.methods.learner import make_learner
from milk_recsys.run.evaluation import evaluate_group, evaluate_test

CPU = torch.device("cpu")


@pytest.fixture
def fitted(write_dataset, tmp_path):
    folder = write_dataset(tmp_path / "data", users=60, items=120, pairs_per_user=12)
    options = Options.of(model="keep", data=folder, device="cpu", dtype="float64")
    dataset = read_dataset(folder)
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, CPU)
    learner = make_learner(options, tables)
    learner.prepare()
    return learner, tables


def counting(learner, monkeypatch):
    """Return the list of numbers of items that the model embeds from now on."""
    net, counts = learner.model.net, []
    embed = net.embed_items

    def counted(features, mask):
        counts.append(len(mask))
        return embed(features, mask)

    monkeypatch.setattr(net, "embed_items", counted)
    return counts


def distinct(masks, items):
    """Return the number of different patterns of each of the items in the masks, summed."""
    return sum(len({tuple(mask[item].tolist()) for mask in masks}) for item in items.tolist())


def test_each_pattern_of_an_item_is_embedded_once(fitted, monkeypatch):
    learner, tables = fitted
    counts = counting(learner, monkeypatch)
    evaluate_group(learner, tables, tables.validation, tables.mask)
    evaluate_test(learner, tables, "ndcg@20")
    masks = [tables.mask, tables.natural_mask]
    for m in range(len(tables.modalities)):
        hidden = tables.natural_mask.clone()
        hidden[:, m] = False
        masks.append(hidden)
    expected = distinct(masks, tables.test.candidates)
    expected += distinct(masks[:1], tables.validation.candidates)
    assert sum(counts) == expected < 6 * len(tables.test.candidates)


def test_kept_vectors_give_the_same_scores(fitted):
    learner, tables = fitted
    users, items = torch.arange(60), tables.all_cold.candidates
    for mask in (tables.mask, tables.natural_mask, tables.mask):
        kept = learner.scorer(tables.features, items.flip(0), mask)(users).flip(1)
        direct = learner.model.scorer(tables.features.rows(items), mask[items])(users)
        np.testing.assert_allclose(kept, direct, rtol=1e-10, atol=1e-14)


def test_vectors_of_another_catalogue_or_state_are_forgotten(fitted, monkeypatch):
    learner, tables = fitted
    counts = counting(learner, monkeypatch)
    items = tables.test.candidates
    learner.scorer(tables.features, items, tables.mask)
    learner.scorer(tables.features, items, tables.mask)
    assert counts == [len(items)]
    learner.scorer(copy.copy(tables.features), items, tables.mask)
    assert counts == [len(items)] * 2
    learner.model.net.load_state_dict(learner.model.net.state_dict())
    learner.scorer(learner.model.net._embedded._features, items, tables.mask)
    assert counts == [len(items)] * 2
    state = {name: x.clone() for name, x in learner.model.net.state_dict().items()}
    state["exponent"] += 1
    learner.model.net.load_state_dict(state)
    learner.scorer(tables.features, items, tables.mask)
    assert counts == [len(items)] * 3


def test_vectors_beyond_the_limit_are_not_kept(monkeypatch):
    monkeypatch.setattr(embedded, "MAX_ENTRIES", 3 * 4)
    features, kept, counts = types.SimpleNamespace(), EmbeddedItems(), []

    def embed(items, mask):
        counts.append(len(items))
        return (10 * items + mask.long().sum(dim=1)).double()[:, None].expand(-1, 4)

    mask = torch.tensor([[True, False], [True, True], [False, True], [False, False], [True, True]])
    for chosen in ([0, 1, 2], [2, 3, 4], [4, 3, 0], [], [1, 0]):
        items = torch.tensor(chosen, dtype=torch.int64)
        vectors = kept.vectors(features, items, mask[items], embed)
        expected = 10 * items + mask[items].sum(dim=1)
        assert vectors.shape == (len(chosen), 4)
        assert vectors[:, 0].tolist() == expected.tolist()
    # The first three are kept; the others are embedded whenever they are needed.
    assert counts == [3, 2, 2]
