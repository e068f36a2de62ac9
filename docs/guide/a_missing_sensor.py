r"""
My model must survive a missing sensor
======================================

A laboratory measures wines with four instruments, and a model states from which of three vineyards
a wine comes. Instruments fail. This guide compares two ways to predict then: a classifier with
imputed values, and one regression for each combination of working instruments.

The data are the 178 wines of scikit-learn. The instruments are groups of their 13 measurements.
"""

import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import invmod

wine = load_wine()
values = StandardScaler().fit_transform(wine.data)
instruments = {
    "titration": ["alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium"],
    "phenols": ["total_phenols", "flavanoids", "nonflavanoid_phenols", "proanthocyanins"],
    "optics": ["color_intensity", "hue", "od280/od315_of_diluted_wines"],
    "proline": ["proline"],
}
features = {
    name: torch.tensor(values[:, [wine.feature_names.index(column) for column in columns]])
    for name, columns in instruments.items()
}
target = torch.tensor(wine.target)
order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
train, test = order[:90], order[90:]


def rows(of):
    return {name: x[of] for name, x in features.items()}


# %%
# The classifier sees all measurements as one vector. A missing one is NaN, and is replaced by the
# mean, which is 0 here.

classifier = LogisticRegression().fit(values[train], wine.target[train])
columns = [wine.feature_names.index(c) for names in instruments.values() for c in names]


def impute(features, mask):
    filled = np.zeros((len(mask), values.shape[1]))
    filled[:, columns] = torch.cat(list(features.values()), dim=1).nan_to_num()
    return torch.from_numpy(classifier.predict(filled))


# %%
# :py:class:`invmod.PatternKernelRidge` fits one regression for each pattern of available modalities
# in closed form, and chooses its options by leave-one-out errors.

model = invmod.PatternKernelRidge(list(instruments)).fit(rows(train), target[train])


def regress(features, mask):
    return model.predict(features)


# %%
# The report hides every combination of instruments from the same test wines:


def accuracy(predicted, target):
    return (predicted == target).double().mean().item()


report = invmod.robustness_report(
    {"imputed": impute, "regressions": regress},
    rows(test),
    target[test],
    accuracy,
)
invmod.robustness.plot_patterns(report)

# %%
# A filled dot is an instrument that works. Both models are nearly always right with all four
# instruments. With fewer, the regressions lose less, because each of them was fitted for exactly
# the instruments that are left.

for name in report.models:
    print(f"{name}: {report.worst(name).name} is the worst case, {report.worst(name).value:.2f}")

# %%
# In a test suite, a bound keeps it so. It raises an error when a new model falls below it:

report.require(complete=0.9, worst=0.5, model="regressions")

# %%
# **Where to go from here.** :doc:`robust_in_twenty_minutes` makes a network of your own robust.
# :doc:`/parts/regression` describes the regression, and :doc:`/parts/robustness` the report.
