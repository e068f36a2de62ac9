"""What the callbacks for Lightning and Transformers share: data, states and figures."""

import random

import numpy as np
import pytest
import torch
from sklearn.metrics import zero_one_loss
from torch import nn

from invmod.integrations.states import evaluation_mode, kept_random_state
from invmod.integrations.training import PeriodicReport, report_figures
from tests.library.integrations_fits import Net, accuracy, classes, data, expected_report


def test_modes_come_back_module_by_module_and_after_an_error():
    net = Net().train()
    net.frozen.eval()
    modes = [module.training for module in net.modules()]

    def fail():
        with evaluation_mode(net):
            assert not any(module.training for module in net.modules())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [module.training for module in net.modules()] == modes
    assert len(set(modes)) == 2


def test_random_states_come_back():
    states = []
    for change in (False, True):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
        with kept_random_state(torch.device("cpu")):
            if change:
                torch.manual_seed(9), np.random.seed(9), random.seed(9)  # noqa: NPY002
        states.append((torch.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
    assert states[0] == states[1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_random_state_of_a_gpu_comes_back():
    device = torch.device("cuda", 0)
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        with kept_random_state(device):
            torch.rand(3, device=device)
        drawn.append(torch.rand(3, device=device))
        torch.manual_seed(1)
        drawn.append(torch.rand(3, device=device))
    assert all(torch.equal(each, drawn[0]) for each in drawn)


def test_a_model_that_draws_numbers_has_the_same_report_after_every_epoch():
    features, targets = data()
    report = PeriodicReport(
        features, targets, accuracy, predict=lambda *_: torch.randint(2, (len(targets),))
    )
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        report._figures(nn.Identity(), epoch, is_main=True, broadcast=lambda x: x)
    assert report.reports[1] == report.reports[2]


def test_a_batch_size_changes_no_figure():
    features, targets = data()
    net, figures = Net(), []
    for size in (None, 5, 32, 100):
        report = PeriodicReport(features, targets, accuracy, predict=classes, batch_size=size)
        figures.append(report._figures(net, 1, is_main=True, broadcast=lambda x: x))
    assert all(each == figures[0] for each in figures)


def test_features_may_be_arrays():
    features, targets = data(8)
    arrays = {name: x.numpy() for name, x in features.items()}
    arrays["text"].flags.writeable = False  # as pandas returns them
    figures = [
        PeriodicReport(given, labels, accuracy, predict=classes)
        ._figures(Net().requires_grad_(False), 1, is_main=True, broadcast=lambda x: x)
        .keys()
        for given, labels in ((features, targets), (arrays, targets))
    ]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_modality_may_be_a_mapping(batch_size):
    """Token ids and their attention mask are hidden together, with the sentinels of integers."""
    ids = torch.arange(1, 25).reshape(8, 3)
    features = {
        "words": {"ids": ids.numpy(), "attention": ids > 2},
        "image": torch.ones(8, 2),
    }
    seen = set()

    def predict(model, features, mask):
        words = features["words"]
        hidden = (words["ids"] == -1).all(dim=1)
        assert torch.equal(hidden, ~mask[:, 0])
        assert not words["attention"][hidden].any()
        assert torch.equal(features["image"].isnan().all(dim=1), ~mask[:, 1])
        seen.add(len(mask))
        return (~hidden).long()

    report = PeriodicReport(
        features,
        torch.ones(8, dtype=torch.long),
        accuracy,
        predict=predict,
        batch_size=batch_size,
        rates=(0.5,),
    )
    figures = report._figures(nn.Identity(), 1, is_main=True, broadcast=lambda x: x)
    assert figures["robustness/worst"] == 0.0
    assert figures["robustness/worst_has_words"] == 0.0
    assert seen == ({8} if batch_size is None else {3, 2})


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_feature_of_none_is_missing_in_all_rows(batch_size):
    features, targets = data(8)

    def predict(model, given, mask):
        assert list(given) == ["image", "text"]
        assert given["text"] is None or given["text"].isnan().all()
        assert not mask[:, 1].any()
        return (given["image"].nan_to_num().mean(dim=1) > 0).long()

    nan = torch.full_like(features["text"], float("nan"))
    made = []
    for text in (None, nan):
        report = PeriodicReport(
            {"image": features["image"], "text": text},
            targets,
            accuracy,
            predict=predict,
            batch_size=batch_size,
        )
        report._figures(nn.Identity(), 1, is_main=True, broadcast=lambda x: x)
        made.append(report.reports[1])
    assert made[0] == made[1]


def test_features_are_checked_before_training():
    features, targets = data(8)
    with pytest.raises(ValueError, match="equal numbers of rows"):
        PeriodicReport({**features, "text": torch.zeros(7, 1)}, targets, accuracy)
    with pytest.raises(ValueError, match="at least one given"):
        PeriodicReport(dict.fromkeys(features), targets, accuracy)
    with pytest.raises(TypeError, match="must be a tensor"):
        PeriodicReport({**features, "text": "words"}, targets, accuracy)


def test_the_natural_mask_is_that_of_the_features_or_given():
    features, targets = data(8)
    features["text"][:3] = float("nan")
    available = torch.ones(8, 2, dtype=torch.bool)
    for mask, missing in ((None, 3), (available, 0)):
        report = PeriodicReport(features, targets, accuracy, predict=classes, mask=mask, rates=())
        report._figures(Net(), 1, is_main=True, broadcast=lambda x: x)
        text = next(r for r in report.reports[1].patterns if r.pattern == (False, True))
        assert text.empty_rows == missing


def test_rows_of_the_fill_value_of_integers_are_missing():
    words = torch.arange(1, 9)[:, None].repeat(1, 2)
    words[0], words[1:3] = -1, 99
    features = {"words": words, "image": torch.ones(8, 2)}
    for options, missing in (({}, 1), ({"integer_fill": 99}, 2)):
        report = PeriodicReport(
            features,
            torch.ones(8),
            lambda predictions, targets: 1.0,
            predict=lambda model, features, mask: features["image"][:, 0].nan_to_num(),
            rates=(),
            **options,
        )
        report._figures(nn.Identity(), 1, is_main=True, broadcast=lambda x: x)
        alone = next(r for r in report.reports[1].patterns if r.pattern == (True, False))
        assert alone.empty_rows == missing


def test_half_precision_predictions_reach_the_metric_in_float32():
    features, targets = data(8)
    seen = set()

    def metric(predictions, targets):
        seen.add(predictions.dtype)
        return 1.0

    def predict(model, features, mask):
        return features["image"].nan_to_num().bfloat16()

    PeriodicReport(features, targets, metric, predict=predict)._figures(
        nn.Identity(), 1, is_main=True, broadcast=lambda x: x
    )
    assert seen == {torch.float32}


def test_an_error_on_rank_0_reaches_the_others_after_the_broadcast():
    features, targets = data(8)
    broken = PeriodicReport(features, targets, accuracy, predict=lambda *_: "no tensor")
    sent = []

    def broadcast(x):
        sent.append(x)
        return sent[0]

    with pytest.raises(TypeError, match=r"predictions must be a tensor, got str. Pass `predict`"):
        broken._figures(Net(), 1, is_main=True, broadcast=broadcast)
    with pytest.raises(RuntimeError, match="failed on rank 0: TypeError"):
        broken._figures(Net(), 1, is_main=False, broadcast=broadcast)
    assert broken.reports == {}


def test_wrong_options_are_errors_before_training():
    features, targets = data(8)
    with pytest.raises(TypeError, match=r"\['pattern'\] are not options of `robustness_report`"):
        PeriodicReport(features, targets, accuracy, pattern="all")
    with pytest.raises(TypeError, match=r"\['generator'\]"):
        PeriodicReport(features, targets, accuracy, generator=torch.Generator())
    with pytest.raises(ValueError, match="`every_n_epochs` must be at least 1"):
        PeriodicReport(features, targets, accuracy, every_n_epochs=0)
    with pytest.raises(TypeError, match="`batch_size` must be an int"):
        PeriodicReport(features, targets, accuracy, batch_size=0.5)


def test_figures_without_an_area_or_a_drop_leave_them_out():
    report = expected_report(Net(), rates=())
    assert "x/area" not in report_figures(report, "x")
    report = expected_report(Net(), rates=(0.5,))
    assert "x/area" not in report_figures(report, "x")


def test_a_metric_without_a_number_is_named_by_the_callback():
    features, targets = data(8)
    report = PeriodicReport(features, targets, lambda p, t: p == t, predict=classes)
    with pytest.raises(TypeError, match=r"must return one number, got shape \(8,\) from 'model'"):
        report._figures(Net(), 1, is_main=True, broadcast=lambda x: x)


def test_an_error_of_scikit_learn_is_lower_better_in_a_callback():
    features, targets = data(8)
    report = PeriodicReport(features, targets, zero_one_loss, predict=classes, rates=())
    figures = report._figures(Net(), 1, is_main=True, broadcast=lambda x: x)
    assert not report.reports[1].higher_is_better
    assert figures["robustness/worst"] == max(r.value for r in report.reports[1].patterns)
