"""The callback for Lightning, in tiny fits on the CPU."""

import importlib
import sys
import types
import warnings

import pytest
import torch
from torch import nn

from tests.library.integrations_fits import Net, accuracy, classes, data, expected_report

with warnings.catch_warnings():
    # Lightning emits deprecation warnings of its dependencies when it is imported.
    warnings.simplefilter("ignore")
    import pytorch_lightning as pl

    import invmod.integrations.lightning as lightning_callbacks
    from invmod.integrations.lightning import RobustnessCallback as LightningReport

pytestmark = [
    # A fit of 32 samples in the main process is what is wanted here.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    # Lightning 2.6 calls a part of torch's pytrees that torch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


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


def test_early_stopping_needs_strict_false_if_the_first_epoch_has_no_report():
    features, targets = data(seed=1)

    def fit(**options):
        stop = pl.callbacks.EarlyStopping(
            "robustness/worst", mode="max", stopping_threshold=0.0, **options
        )
        report = LightningReport(features, targets, accuracy, predict=classes, every_n_epochs=2)
        return lightning_fit([stop, report], max_epochs=4)[1]

    with pytest.raises(RuntimeError, match="robustness/worst` which is not available"):
        fit()
    assert fit(strict=False).current_epoch == 2


def test_between_reports_the_last_figures_stay():
    features, targets = data(seed=1)
    stop = pl.callbacks.EarlyStopping("robustness/complete", mode="max", patience=3, strict=False)
    report = LightningReport(
        features, targets, accuracy, predict=lambda *_: targets, every_n_epochs=3
    )
    _, trainer = lightning_fit([stop, report], max_epochs=12)
    # The first figure is that of epoch 3, and each of the three epochs after it counts.
    assert trainer.current_epoch == 6


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
