r"""
See robustness during training with Lightning
=============================================

A model can become less robust while its loss falls. This guide adds a callback to a Lightning
trainer that measures the worst pattern of missing modalities after each epoch, on validation rows.
Early stopping and checkpoints can use this metric.

The data are scikit-learn's digits, of which the upper and the lower half are two modalities.
"""

import logging
import warnings

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import invmod
from invmod.integrations.lightning import RobustnessCallback

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning")

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32) / 16
upper, lower = images[:, :4].flatten(1), images[:, 4:].flatten(1)
target = torch.tensor(digits.target)
train, validation = slice(0, 1200), slice(1200, None)


class Halves(pl.LightningModule):
    """A network that reads zeros for a missing half, with or without training for that."""

    def __init__(self, hide):
        super().__init__()
        self.hide = hide
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, features, mask):
        return self.net(torch.cat([x.nan_to_num() for x in features.values()], dim=1))

    def training_step(self, batch, index):
        upper, lower, target = batch
        features = {"upper": upper, "lower": lower}
        if self.hide:
            everything = torch.ones(len(target), 2, dtype=torch.bool)
            mask = invmod.simulate_mcar(everything, 0.5).mask
            features = invmod.hide_features(features, mask, ["upper", "lower"])
        return nn.functional.cross_entropy(self(features, None), target)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.003)


def accuracy(logits, target):
    return (logits.argmax(dim=1) == target).double().mean().item()


# %%
# The callback computes a whole report after each epoch, and logs its figures under names such as
# ``robustness/worst``:

reports = {}
for hide in (False, True):
    pl.seed_everything(0, verbose=False)
    callback = RobustnessCallback(
        {"upper": upper[validation], "lower": lower[validation]},
        target[validation],
        accuracy,
        rates=(),
        num_resamples=0,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=12,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(
        TensorDataset(upper[train], lower[train], target[train]), batch_size=50, shuffle=True
    )
    trainer.fit(Halves(hide), loader)
    reports[hide] = callback.reports

# %%
# With complete batches, the accuracy on complete digits (dashed) rises while that on the worst half
# (line) falls. With hidden halves in training, both rise:

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for hide, name in ((False, "trained on complete digits"), (True, "halves hidden in training")):
    epochs = list(reports[hide])
    worst = [report.worst().value for report in reports[hide].values()]
    complete = [report.complete().value for report in reports[hide].values()]
    (line,) = axes.plot(epochs, worst, label=name)
    axes.plot(epochs, complete, "--", color=line.get_color())
axes.set_xlabel("epoch")
axes.set_ylabel("accuracy")
axes.legend(frameon=False)

# %%
# **Where to go from here.** :doc:`/integrations` has the names that are logged, early stopping and
# checkpoints, and the same callback for Transformers.
