r"""
Make your model robust to missing modalities in twenty minutes
==============================================================

You have a PyTorch model that was trained on complete samples. In use, parts of its input will be missing. This guide
goes from that model to one that copes, and to a report that shows how well. It takes four steps:

1. see how bad it is, with :py:func:`invmod.robustness_report`;
2. put an imputer in front, so that a missing part has a defined value;
3. train on with some parts hidden, so that the model's risk is low, and alike, whichever are there;
4. compare the two reports.

Nothing of your model's code changes. The build of these pages ran all of it, in less than a minute on one core.

Your model
----------

The model stands for yours. It is a plain network for scikit-learn's handwritten digits, each an image of 8 by 8
pixels cut into four quadrants, as four cameras might see it. The quadrants are the modalities: a dictionary of
tensors (N, 16), one for each. The network puts them side by side and knows nothing of missing input.
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
    """Your training loop; what it minimises is an argument."""
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
# How bad is it?
# --------------
#
# The report needs a function of features and mask. What is hidden reaches it as NaN, so that it cannot be seen by
# mistake. Your model has no way to leave a quadrant out: an imputer puts something in its place. The plainest is the
# mean of the training rows.

observed = torch.ones(
    len(targets), len(names), dtype=torch.bool
)  # nothing is missing in nature here
imputer = invmod.MeanImputer(names).fit(quadrants, observed, rows=train)


def predictor(model):
    def predict(features, mask):
        filled, _ = imputer(features, mask)
        with torch.no_grad():
            return model(filled).argmax(dim=1)

    return predict


def right(predictions, targets):
    return (predictions == targets).double()


def accuracy(predictions, targets):
    return right(predictions, targets).mean().item()


test_features = {name: x[test] for name, x in quadrants.items()}
before = invmod.robustness_report(
    predictor(model),
    test_features,
    targets[test],
    accuracy,
    per_unit=right,  # accuracy is a mean over samples: intervals become quick
    generator=torch.Generator().manual_seed(0),
)
print(before)

# %%
# A pattern is named by what is left. With all four quadrants the model is nearly always right; with one left it is
# wrong more often than right, and every quadrant that goes missing costs more than the one before. Nothing in the
# training set said that this could happen.
#
# Train on, with parts hidden
# ---------------------------
#
# An *environment* is a way in which the model will be used. Here it is a mask: which quadrants are there. Two kinds
# cover the range. :py:class:`invmod.LeaveOneOutEnvs` has four masks with one quadrant hidden each,
# :py:class:`invmod.OneHotEnvs` four with one quadrant left each; :py:class:`invmod.UnionEnvs` puts them together.
# Beside the complete batch that makes nine risks for each batch, and the objective is their mean plus a small multiple
# of their variance (:py:func:`invmod.vrex_penalty`).

envs = invmod.UnionEnvs(invmod.LeaveOneOutEnvs(len(names)), invmod.OneHotEnvs(len(names)))
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
# These are all the lines. From the trained weights on, half as many epochs as the first training had are enough here.
#
# Why these masks, and not a coin for each quadrant of each sample (modality dropout,
# :py:class:`invmod.RandomSubsetEnvs`)? Both work. Fixed masks make each risk the loss under *one* condition, so that
# their variance says how unlike the conditions are; over random masks every risk is a mean over conditions already, and
# the penalty has little to do. Where rates in use are known, random subsets at those rates are the better fit.
#
# What was gained, and what it cost
# ---------------------------------
#
# Two models in one report are compared on the same samples under the same masks.

both = invmod.robustness_report(
    {"before": predictor(model), "after": predictor(robust)},
    test_features,
    targets[test],
    accuracy,
    per_unit=right,  # accuracy is a mean over samples: intervals become quick
    generator=torch.Generator().manual_seed(0),
)
print(both)

# %%
# Complete samples lose nothing that could be told from chance (the first row of the last table), and every pattern with
# something missing gains, the worst ones most. That is the usual shape of the bargain, and the penalty weight is its
# price: at ``penalty_weight=1`` the single quadrants gain more and complete samples begin to pay.
#
# The curves show accuracy against the share of quadrants that is missing, the heat map accuracy under every pattern.

plot_rates(both)

# %%

plot_patterns(both)

# %%
# The report is kept as JSON, and as a page to hand on:

folder = Path(tempfile.mkdtemp())
both.save(folder / "report.json")
write_page(both, folder / "report.html")
print(invmod.RobustnessReport.load(folder / "report.json").worst("after").name)

# %%
# Where to go from here
# ---------------------
#
# - Your data has holes already: give the report and the training loop their mask, and draw environments from what each
#   sample has (:py:class:`invmod.KOfAvailableEnvs`). :py:func:`invmod.collate` makes batches of incomplete samples.
# - The mean is a poor stand-in where modalities are correlated: :doc:`/parts/imputation` has better ones.
# - Your model can leave a modality out, as a transformer can: skip the imputer and hand on the mask.
#   ``examples/finetune_any_model`` does that, in plain PyTorch and in Lightning.
# - Your model has an encoder for each modality and fuses them linearly: environments can be weights,
#   :py:class:`invmod.CyclicMixupEnvs` with :py:func:`invmod.fuse`, many at little more than the price of one
#   (:doc:`/quickstart`).
# - The penalty weight, and which penalty: :doc:`/choosing`, :doc:`/parts/objectives`.
