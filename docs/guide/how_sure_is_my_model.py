r"""
How sure is my model without this modality?
===========================================

A prediction from half of the input should come with a wider interval. This guide adds intervals to
a finished model that contain the target in 90% of the cases *for each pattern of missing
modalities*, whatever the model is.

The data are scikit-learn's 442 patients with diabetes. The blood test and the body measurements are
each missing from about a third of them, independently of each other.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_diabetes

import invmod

data = load_diabetes()
values = torch.tensor(data.data / data.data.std(axis=0))
target = torch.tensor(data.target)
features = {"person": values[:, :2], "body": values[:, 2:4], "blood": values[:, 4:]}
names = list(features)
everything = torch.ones(len(values), len(names), dtype=torch.bool)
mask = invmod.simulate_mcar(
    everything, [0.0, 0.33, 0.33], generator=torch.Generator().manual_seed(0)
).mask
features = invmod.hide_features(features, mask, names)
train, calibration, test = torch.arange(len(values)).split([150, 150, 142])


def rows(of):
    return {name: x[of] for name, x in features.items()}


# %%
# The model may be any function of features and a mask. Calibration needs rows that were not used
# to fit it.

model = invmod.PatternKernelRidge(names).fit(rows(train), target[train])
predictor = invmod.calibrate_by_pattern(
    lambda features, mask: model.predict(features),
    rows(calibration),
    target[calibration],
    "absolute",
)
report = predictor.report(rows(test), target[test])
print(report)

# %%
# Patients of whom less is known have wider intervals:

intervals = predictor.intervals(rows(test))
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
groups = invmod.missingness.rows_by_pattern(mask[test])
for place, (pattern, number) in enumerate(groups.items()):
    label = invmod.missingness.pattern_name(pattern, names)
    low, high = intervals[number].T
    y = place + torch.linspace(-0.35, 0.35, len(number))
    axes.hlines(y, low, high, color=f"C{place}", linewidth=1, label=label)
    axes.plot(target[test][number], y, ".", color="black", markersize=3)
axes.set_yticks([])
axes.set_xlabel("progress of the disease: interval (line) and outcome (dot)")
figure.legend(loc="outside upper left", ncols=2, frameon=False)

# %%
# The guarantee holds for any model, in finite samples, if calibration and test patients come from
# the same distribution. All patterns here have fewer than 200 calibration rows, so it also needs
# values that are missing completely at random, as they are here. :doc:`/parts/calibration` states
# the rules and what they need, and has sets of classes for classifiers.
