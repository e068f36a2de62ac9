"""The callbacks for Lightning and Transformers, in tiny fits on the CPU."""

import importlib
import random
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from invmod.integrations.training import (
    PeriodicReport,
    evaluation_mode,
    kept_random_state,
    report_figures,
)
from invmod.robustness import robustness_report

with warnings.catch_warnings():
    # Both packages emit deprecation warnings of their dependencies when they are imported.
    warnings.simplefilter("ignore")
    import pytorch_lightning as pl
    import transformers
    from transformers import Trainer, TrainingArguments

    import invmod.integrations.lightning as lightning_callbacks
    from invmod.integrations.lightning import RobustnessCallback as LightningReport
    from invmod.integrations.transformers import RobustnessCallback as TransformersReport

pytestmark = [
    # A fit of 32 samples in the main process is what is wanted here.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    # Lightning 2.6 calls a part of torch's pytrees that torch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

NAMES = ("image", "text")


def data(num_rows=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(2, (num_rows,), generator=generator)
    signal = (2.0 * targets - 1)[:, None]
    features = {
        "image": signal + 0.3 * torch.randn(num_rows, 3, generator=generator),
        "text": signal + 2 * torch.randn(num_rows, 2, generator=generator),
    }
    return features, targets


def accuracy(predictions, targets):
    return (predictions == targets).double().mean().item()


class Net(nn.Module):
    """A classifier of both modalities with everything that a report must leave as it was."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, image, text):
        x = torch.cat([image.nan_to_num(), text.nan_to_num()], dim=1)
        return self.head(self.frozen(self.encoder(x)))


def classes(model, features, mask):
    """Predictions; everything that a report must see or protect is checked here."""
    net = getattr(model, "net", model)
    assert not any(module.training for module in net.modules())
    assert not torch.is_grad_enabled()
    torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    return net(features["image"], features["text"]).argmax(dim=1)


def expected_report(net, **options):
    features, targets = data(seed=1)
    with evaluation_mode(net):
        return robustness_report(
            lambda features, mask: net(features["image"], features["text"]).argmax(dim=1),
            features,
            targets,
            accuracy,
            generator=torch.Generator().manual_seed(0),
            **{"rates": (0.0, 0.25, 0.5, 0.75), "num_resamples": 0, **options},
        )


class LitNet(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()
        self.losses = []

    def on_train_epoch_start(self):
        if self.current_epoch:
            assert self.net.encoder.training
            assert not self.net.frozen.training
        self.net.frozen.eval()

    def training_step(self, batch, index):
        image, text, targets = batch
        loss = nn.functional.cross_entropy(self.net(image, text), targets)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


def lightning_fit(callbacks, max_epochs=2, **options):
    torch.manual_seed(0)
    features, targets = data()
    dataset = torch.utils.data.TensorDataset(*features.values(), targets)
    module = LitNet()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True))
    return module, trainer


# --- what both share


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


def test_features_are_checked_before_training():
    features, targets = data(8)
    with pytest.raises(ValueError, match="equal numbers of rows"):
        PeriodicReport({**features, "text": torch.zeros(7, 1)}, targets, accuracy)
    with pytest.raises(ValueError, match=r"must not be None, but \['text'\] are"):
        PeriodicReport({**features, "text": None}, targets, accuracy)
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
        LightningReport(features, targets, accuracy, pattern="all")
    with pytest.raises(TypeError, match=r"\['generator'\]"):
        LightningReport(features, targets, accuracy, generator=torch.Generator())
    with pytest.raises(ValueError, match="`every_n_epochs` must be at least 1"):
        LightningReport(features, targets, accuracy, every_n_epochs=0)
    with pytest.raises(TypeError, match="`batch_size` must be an int"):
        LightningReport(features, targets, accuracy, batch_size=0.5)


def test_figures_without_an_area_or_a_drop_leave_them_out():
    report = expected_report(Net(), rates=())
    assert "x/area" not in report_figures(report, "x")
    report = expected_report(Net(), rates=(0.5,))
    assert "x/area" not in report_figures(report, "x")


# --- Lightning


def test_lightning_logs_the_figures_of_its_report():
    features, targets = data(seed=1)
    report = LightningReport(features, targets, accuracy, predict=classes)
    module, trainer = lightning_fit([report])
    assert list(report.reports) == [1, 2]
    expected = expected_report(module.net)
    assert report.reports[2] == expected
    logged = {
        name.removeprefix("robustness/"): value.item()
        for name, value in trainer.callback_metrics.items()
    }
    worst = expected.worst()
    assert logged == pytest.approx(
        {
            "complete": expected.complete().value,
            "worst": worst.value,
            "worst_drop": worst.drop,
            "worst_has_image": float(worst.pattern[0]),
            "worst_has_text": float(worst.pattern[1]),
            "area": expected.area(),
        }
    )


def test_lightning_trains_the_same_model_with_and_without_reports():
    features, targets = data(seed=1)
    report = LightningReport(features, targets, accuracy, predict=classes)
    plain, _ = lightning_fit([], max_epochs=3)
    reported, _ = lightning_fit([report], max_epochs=3)
    assert plain.losses == reported.losses
    for ours, theirs in zip(plain.parameters(), reported.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_lightning_reports_every_n_epochs_with_the_options_given():
    features, targets = data(seed=1)
    report = LightningReport(
        features,
        targets,
        accuracy,
        predict=classes,
        every_n_epochs=2,
        prefix="missing",
        patterns="one_left",
        rates=(),
    )
    _, trainer = lightning_fit([report], max_epochs=5)
    assert list(report.reports) == [2, 4]
    assert len(report.reports[2].patterns) == 3
    assert set(trainer.callback_metrics) == {
        f"missing/{name}"
        for name in ("complete", "worst", "worst_drop", "worst_has_image", "worst_has_text")
    }


def test_early_stopping_monitors_the_worst_pattern():
    features, targets = data(seed=1)
    stop = pl.callbacks.EarlyStopping("robustness/worst", mode="max", stopping_threshold=0.0)
    # The stopping comes first in the list, and yet sees the figures of the same epoch.
    _, trainer = lightning_fit(
        [stop, LightningReport(features, targets, accuracy, predict=classes)], max_epochs=4
    )
    assert trainer.current_epoch == 1


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_lightning_predicts_in_the_precision_of_validation(precision):
    features, targets = data(seed=1)
    seen = set()

    def predict(model, features, mask):
        logits = model.net(features["image"], features["text"])
        seen.add(logits.dtype)
        return logits.argmax(dim=1)

    lightning_fit(
        [LightningReport(features, targets, accuracy, predict=predict)],
        max_epochs=1,
        precision=precision,
    )
    assert seen == {torch.bfloat16 if precision == "bf16-mixed" else torch.float64}


def test_the_callback_serves_both_packages_of_lightning(monkeypatch):
    """With `lightning.pytorch` as well, the class inherits from both; alone, from that one."""
    other = types.ModuleType("lightning.pytorch")
    other.Callback = type("Callback", (), {"state_key": "other"})
    package = types.ModuleType("lightning")
    package.pytorch = other
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", other)
    try:
        both = importlib.reload(lightning_callbacks).RobustnessCallback
        assert issubclass(both, pl.Callback)
        assert issubclass(both, other.Callback)
        monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
        alone = importlib.reload(lightning_callbacks).RobustnessCallback
        assert issubclass(alone, other.Callback)
        assert not issubclass(alone, pl.Callback)
        monkeypatch.setitem(sys.modules, "lightning", None)
        monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
        with pytest.raises(ImportError, match=r"'invmod\[lightning\]'"):
            importlib.reload(lightning_callbacks)
    finally:
        monkeypatch.undo()
        importlib.reload(lightning_callbacks)


# --- Transformers


class HubNet(nn.Module):
    """A model as the Trainer wants it: a loss and logits from keyword arguments."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, image, text, labels=None):
        logits = self.net(image, text)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def transformers_fit(tmp_path, add, epochs=2, **options):
    torch.manual_seed(0)
    features, targets = data()
    rows = [
        {"image": features["image"][i], "text": features["text"][i], "labels": targets[i]}
        for i in range(len(targets))
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        learning_rate=0.02,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="epoch",
        dataloader_pin_memory=False,
        **{"save_strategy": "no", **options},
    )
    trainer = Trainer(
        model=HubNet(), args=arguments, train_dataset=rows, eval_dataset=rows, callbacks=None
    )
    trainer.remove_callback(transformers.PrinterCallback)
    callback = add(trainer)
    if callback is not None:
        trainer.add_callback(callback)
    trainer.train()
    return trainer, callback


def hub_report(trainer, **options):
    features, targets = data(seed=1)
    return TransformersReport(trainer, features, targets, accuracy, predict=classes, **options)


def test_transformers_logs_the_figures_of_its_report(tmp_path):
    trainer, report = transformers_fit(tmp_path, hub_report)
    assert list(report.reports) == [1, 2]
    expected = report_figures(expected_report(trainer.model.net), "robustness")
    logged = [entry for entry in trainer.state.log_history if "robustness/worst" in entry]
    assert [entry["epoch"] for entry in logged] == [1.0, 2.0]
    assert {name: logged[1][name] for name in expected} == expected
    assert set(expected) == {
        f"robustness/{name}"
        for name in ("complete", "worst", "worst_drop", "worst_has_image", "worst_has_text", "area")
    }


def test_transformers_trains_and_logs_the_same_with_and_without_reports(tmp_path):
    plain, _ = transformers_fit(tmp_path, lambda trainer: None)
    reported, _ = transformers_fit(tmp_path, hub_report)
    losses = [
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        for trainer in (plain, reported)
    ]
    # Logging in a callback must not suppress the loss of the epoch.
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
    for ours, theirs in zip(plain.model.parameters(), reported.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_transformers_chooses_the_best_model_by_the_worst_pattern(tmp_path):
    trainer, report = transformers_fit(
        tmp_path,
        hub_report,
        epochs=3,
        eval_strategy="epoch",
        save_strategy="best",
        metric_for_best_model="robustness/worst",
        greater_is_better=True,
    )
    assert trainer.state.best_metric == max(each.worst().value for each in report.reports.values())
    # After training the figures may be those of another model, so an evaluation lacks them.
    assert not any("robustness" in name for name in trainer.evaluate())


def test_transformers_reports_every_n_epochs(tmp_path):
    _, report = transformers_fit(
        tmp_path, lambda trainer: hub_report(trainer, every_n_epochs=2, rates=()), epochs=3
    )
    assert list(report.reports) == [2]
    assert report.reports[2].rates == ()
