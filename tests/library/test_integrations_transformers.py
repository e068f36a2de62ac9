"""The callback for the Trainer of Transformers, in tiny fits on the CPU."""

import warnings

import torch
from torch import nn

from invmod.integrations.training import report_figures
from tests.library.integrations_fits import Net, accuracy, classes, data, expected_report

with warnings.catch_warnings():
    # Transformers emits deprecation warnings of its dependencies when it is imported.
    warnings.simplefilter("ignore")
    import transformers
    from transformers import Trainer, TrainingArguments

    from invmod.integrations.transformers import RobustnessCallback as TransformersReport


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
