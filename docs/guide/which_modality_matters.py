r"""
Which modality matters?
=======================

Before you pay for a sensor, an assay or a photographer, measure what each modality is worth. This
guide divides the accuracy of a model among its modalities, and shows which of them is worth most
when others are missing.

The data are scikit-learn's 569 breast tumours. Each has ten properties of cell nuclei, of which
there is the mean, the standard error and the largest value: three modalities of ten numbers.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_breast_cancer

import invmod

data = load_breast_cancer()
values = torch.tensor((data.data - data.data.mean(axis=0)) / data.data.std(axis=0))
target = torch.tensor(data.target)
features = {"mean": values[:, :10], "error": values[:, 10:20], "largest": values[:, 20:]}
order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
train, test = order[:300], order[300:]
model = invmod.PatternKernelRidge(list(features)).fit(
    {name: x[train] for name, x in features.items()}, target[train]
)


def accuracy(predicted, target):
    return (predicted == target).double().mean().item()


report = invmod.robustness_report(
    lambda features, mask: model.predict(features),
    {name: x[test] for name, x in features.items()},
    target[test],
    accuracy,
)
print(report)

# %%
# Two questions have different answers. *What is lost without a modality?* is the first line below:
# little, because the other two modalities tell nearly the same. *What is a modality worth on
# average, over all combinations of the others?* is its Shapley value. These values sum to the
# accuracy of the model minus that of guessing.

value = {result.name: result.value for result in report.patterns}
lost = {
    name: report.complete().value - value["+".join(other for other in features if other != name)]
    for name in features
}
malignant = (target[test] == 0).double().mean().item()
guess = max(malignant, 1 - malignant)
shares = report.contributions(empty=guess)
print("lost without it: ", {name: round(value, 3) for name, value in lost.items()})
print("Shapley value:   ", {name: round(value, 3) for name, value in shares.values.items()})

# %%

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
places = torch.arange(len(features))
axes.barh(places - 0.2, list(shares.values.values()), 0.4, label="Shapley value")
axes.barh(places + 0.2, list(lost.values()), 0.4, label="lost if it alone is missing")
axes.set_yticks(places, list(features))
axes.invert_yaxis()
axes.set_xlabel("accuracy")
figure.legend(loc="outside upper right", ncols=2, frameon=False)

# %%
# If a modality has a small loss and a large Shapley value, the others can replace it, and it can
# replace them: keep it as a reserve. If both are near 0, it can be left out. A negative loss means
# that the model is better without the modality; here it is that of two test tumours.
#
# **Where to go from here.** :doc:`compare_two_models` tests differences between models.
# :doc:`/parts/robustness` has the definition of these values and of *violations*: steps at which a
# model becomes worse with an additional modality.
