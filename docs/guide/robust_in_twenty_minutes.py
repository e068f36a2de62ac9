r"""
Make your model robust to missing modalities in twenty minutes
==============================================================

You have a PyTorch model that was trained on complete samples. In use, parts of its input will be
missing. This guide turns that model into one that still works then, and reports how well it works.
It has four steps:

1. measure the problem with :py:func:`invmod.robustness_report`;
2. put an imputer before the model, so that a missing part has a defined value;
3. finetune the model with some parts hidden, so that its risk is low whichever parts are missing;
4. compare the reports of the two models.

The code of your model does not change. Only the loss in the training step changes. All code of this
page was run when the page was built, in less than a minute on one core.

Your model
----------

The model of this guide is an example of your own model. It is a plain network for scikit-learn's
handwritten digits. Each digit is an image of 8 by 8 pixels, which is cut into four quadrants, as if
four cameras had taken it. The quadrants are the modalities: the features are a dictionary of four
tensors (N, 16). The network concatenates them and has no means to handle missing input.
"""

import copy
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import invmod
from invmod.robustness import plot_patterns, plot_rates, write_page

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32) / 16
targets = torch.tensor(digits.target)
quadrants = {
    "top left": images[:, :4, :4].flatten(1),
    "top right": images[:, :4, 4:].flatten(1),
    "bottom left": images[:, 4:, :4].flatten(1),
    "bottom right": images[:, 4:, 4:].flatten(1),
}
names = tuple(quadrants)
generator = torch.Generator().manual_seed(0)
train, test = torch.randperm(len(targets), generator=generator).tensor_split([1200])


class YourModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def forward(self, features):
        return self.net(torch.cat([features[name] for name in names], dim=1))


def run(model, loss_of, epochs):
    """Your training loop; the loss function is an argument."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train), generator=generator)].split(100):
            batch = {name: x[rows] for name, x in quadrants.items()}
            optimiser.zero_grad()
            loss_of(model, batch, targets[rows]).backward()
            optimiser.step()


torch.manual_seed(0)
model = YourModel()
run(model, lambda model, batch, y: F.cross_entropy(model(batch), y), epochs=40)

with torch.no_grad():
    logits = model({name: x[test] for name, x in quadrants.items()})
hits = logits.argmax(dim=1) == targets[test]
print(f"accuracy on complete test samples: {hits.double().mean():.3f}")

# %%
# Accuracy with missing quadrants
# -------------------------------
#
# The report needs a function that predicts from features and a mask. Hidden features are NaN when
# the report calls it, so that the function cannot use them by mistake. Your model cannot ignore a
# quadrant, so an imputer replaces the hidden values. The simplest imputer uses the mean of the
# training rows.

observed = torch.ones(len(targets), len(names), dtype=torch.bool)  # these data are complete
imputer = invmod.MeanImputer(names).fit(quadrants, observed, rows=train)


def predictor(model):
    def predict(features, mask):
        filled, _ = imputer(features, mask)
        with torch.no_grad():
            return model(filled).argmax(dim=1)

    return predict


def correct(predictions, targets):
    return (predictions == targets).double()


def accuracy(predictions, targets):
    return correct(predictions, targets).mean().item()


test_features = {name: x[test] for name, x in quadrants.items()}
before = invmod.robustness_report(
    predictor(model),
    test_features,
    targets[test],
    accuracy,
    per_unit=correct,  # accuracy is a mean over samples, so its intervals are fast to compute
    generator=torch.Generator().manual_seed(0),
)
print(before)

# %%
# The name of a pattern lists the quadrants that are available. With all four quadrants the model is
# nearly always right. With one quadrant it is wrong more often than right, and every further
# missing quadrant costs more accuracy than the one before. The accuracy on complete test samples,
# which was printed above, gave no warning of this loss.
#
# Finetune with hidden quadrants
# ------------------------------
#
# An *environment* is a condition under which the model is trained: a row of fusion weights, for
# models that fuse linearly, or a mask, for any model. Here it is a mask, which states the available
# quadrants. :py:class:`invmod.environments.LeaveOneOutEnvs` has four masks with one missing
# quadrant each. :py:class:`invmod.environments.OneHotEnvs` has four masks with one available
# quadrant each. :py:class:`invmod.environments.UnionEnvs` combines them. Together with the complete
# batch there are nine risks for each batch. The objective is their mean plus a small multiple of
# their variance (:py:func:`invmod.vrex_penalty`), which makes the risks more equal. Set
# ``penalty_weight=0`` to compare: the penalty had no significant effect on digits.

envs = invmod.environments.UnionEnvs(
    invmod.environments.LeaveOneOutEnvs(len(names)), invmod.environments.OneHotEnvs(len(names))
)
print(envs.sample_masks().int())


def robust_loss(model, batch, y):
    risks = [F.cross_entropy(model(batch), y)]
    for mask in envs.sample_masks():
        filled, _ = imputer(batch, mask.expand(len(y), -1))
        risks.append(F.cross_entropy(model(filled), y))
    return invmod.invariant_objective(
        torch.stack(risks),
        penalty=invmod.vrex_penalty,
        penalty_weight=0.1,
    )


robust = copy.deepcopy(model)
run(robust, robust_loss, epochs=20)

# %%
# That is all the code. Finetuning starts from the trained weights, and half as many epochs as in
# the first training are enough here.
#
# An alternative to these masks is modality dropout, which hides each quadrant of each sample at
# random (``sample_masks((N,))`` of :py:class:`invmod.RandomSubsetEnvs`). Both work. With fixed
# masks each risk is the loss under *one* condition, so the variance of the risks measures how much
# the conditions differ. With random masks each risk is already a mean over conditions, and the
# penalty has little effect. If you know the missing rates in use, random subsets at these rates are
# the better choice.
#
# Gains and costs
# ---------------
#
# A report of two models compares them on the same samples under the same masks.

both = invmod.robustness_report(
    {"before": predictor(model), "after": predictor(robust)},
    test_features,
    targets[test],
    accuracy,
    per_unit=correct,  # accuracy is a mean over samples, so its intervals are fast to compute
    generator=torch.Generator().manual_seed(0),
)
print(both)

# %%
# In the table of differences, the first row (all quadrants) shows no significant difference.
# The mean accuracy rises under every pattern with missing quadrants, most under the worst patterns;
# the column of p-values shows where the rise is significant. The
# penalty weight controls this trade-off: at ``penalty_weight=1`` single quadrants gain more, and
# accuracy on complete samples begins to fall.
#
# The curves show accuracy as a function of the share of missing quadrants. The heat map shows
# accuracy under every pattern.

plot_rates(both)

# %%

plot_patterns(both)

# %%
# The report can be saved as JSON, and as an HTML page:

folder = Path(tempfile.mkdtemp())
both.save(folder / "report.json")
write_page(both, folder / "report.html")
print(invmod.RobustnessReport.load(folder / "report.json").worst("after").name)

# %%
# Next steps
# ----------
#
# - If your data already have missing modalities, pass their mask to the report and to the training
#   loop, and draw environments from the modalities that each sample has
#   (:py:class:`invmod.environments.KOfAvailableEnvs`). :py:func:`invmod.collate` makes batches of
#   incomplete samples.
# - If modalities are correlated, the mean is a poor fill: :doc:`/parts/imputation` has better
#   imputers.
# - If your model can ignore a modality, as a transformer can, pass the mask to it instead of using
#   an imputer. ``examples/finetune_any_model`` does that, in plain PyTorch and in Lightning.
# - If your model has an encoder for each modality and fuses them linearly, environments can be
#   weights, :py:class:`invmod.CyclicMixupEnvs` with :py:func:`invmod.fuse`. Many of them cost
#   little more than one (:doc:`/quickstart`).
# - To choose a penalty and its weight, see :doc:`/choosing` and :doc:`/parts/objectives`.
