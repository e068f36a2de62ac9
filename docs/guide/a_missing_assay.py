r"""
A patient lacks an assay
========================

A hospital has three assays of each patient, but one or two of them were often not made. This guide
predicts the diagnosis from whichever assays a patient has. Nothing is trained, and no value is
filled in: :py:class:`invmod.PatternKernelRidge` fits one kernel regression for each set of
available assays, in closed form.

The data are scikit-learn's 569 breast tumours, with 30 measurements of cell nuclei. Three groups of
ten measurements (means, deviations and extreme values) stand for three assays.
"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import invmod
from invmod.robustness import plot_patterns

data = load_breast_cancer()
names = ("means", "deviations", "extremes")
features = {name: torch.tensor(data.data[:, 10 * m : 10 * m + 10]) for m, name in enumerate(names)}
benign = torch.tensor(data.target)

generator = torch.Generator().manual_seed(0)
train, test = torch.randperm(len(benign), generator=generator).tensor_split([300])

# %%
# In the hospital's records, assays are missing at a nominal rate of 0.4. No patient is without all
# three, because :py:func:`invmod.simulate_mcar` keeps at least one modality in each row, so the
# share of missing assays is 36%:

made = invmod.simulate_mcar(torch.ones(len(benign), 3, dtype=torch.bool), 0.4, generator=generator)
records = invmod.hide_features(features, made.mask, names)
print(f"{int(made.mask[train].all(dim=1).sum())} of {len(train)} patients have all three assays")

# %%
# The regression uses all 300 training patients, whatever assays they have. Its options are
# chosen by leave-one-out errors, so no patient is needed for validation:

model = invmod.PatternKernelRidge(names).fit(records, benign, rows=train)
patient = {name: x[test[:1]] for name, x in features.items()}
print("means and extremes:", model.probabilities({**patient, "deviations": None}))
print("deviations alone:  ", model.probabilities({"deviations": patient["deviations"]}))

# %%
# In each prediction, the first number is the probability of a malignant tumour, and the second that
# of a benign one. Compare the regression with the usual way: fill missing measurements with their
# training means, and train a logistic regression on the same patients. New patients may have any of
# the seven sets of assays:

usual = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=1000))
usual.fit(torch.cat(list(records.values()), dim=1)[train].numpy(), benign[train].numpy())


def predict_usual(features, mask):
    hidden = invmod.hide_features(features, mask, names)
    return torch.tensor(usual.predict(torch.cat(list(hidden.values()), dim=1).numpy()))


def accuracy(predictions, targets):
    return (predictions == targets).double().mean().item()


report = invmod.robustness_report(
    {"regression for each set": model.predict, "means filled in": predict_usual},
    {name: x[test] for name, x in features.items()},
    benign[test],
    accuracy,
    generator=generator,
)
plot_patterns(report)
corrected = [difference.adjusted_p_value for difference in report.differences]
print(f"smallest corrected p-value: {min(corrected):.2f}")

# %%
# On these easy data, no difference between the two is significant, for any set of assays. The
# regression also states the error to expect for each set, which it computes from the training
# patients, without test data: the mean squared error of the two classes, each patient left out
# in turn. So you can decide which assay is worth its price:

print(model.summary())

# %%
# **Where to go from here.** :doc:`/closed_or_trained` says when a regression for each set is
# better than a trained model, and :doc:`/parts/regression` describes its options. On
# :doc:`real assays of breast cancer </examples/omics_subtypes>` and on six views of digits, it is
# compared with thirteen trained methods. With more than 10,000 patients, set ``landmarks``.
