r"""
A modality is missing not at random
===================================

A blood test that is ordered only for patients who look ill is missing from the healthy ones. Rows
with the test then differ from rows without it. This guide shows how to see that in data, what it
does to a model, and what no method can repair.

The data are scikit-learn's 442 patients with diabetes: age and sex, body measurements, and six
values of a blood test. The target is the progress of the disease after a year.
"""

import torch
from sklearn.datasets import load_diabetes

import invmod
from invmod.missingness import mcar_test, missingness_summary, plot_missingness, simulate_mnar

data = load_diabetes()
values = torch.tensor(data.data / data.data.std(axis=0))
target = torch.tensor(data.target)
features = {"person": values[:, :2], "body": values[:, 2:4], "blood": values[:, 4:]}
names = list(features)
complete = torch.ones(len(values), len(names), dtype=torch.bool)

# %%
# Make the blood test missing from half of the patients, and more often if its values are low:

generator = torch.Generator().manual_seed(0)
result = simulate_mnar(
    features, complete, {"blood": 0.5}, modalities=names, strength=-2.0, generator=generator
)
observed = invmod.hide_features(features, result.mask, names)
plot_missingness(missingness_summary(observed, names))

# %%
# A test of whether the values are missing completely at random compares the patients who have the
# blood test with those who do not, by what was observed of both:

print(mcar_test(observed, names, generator=torch.Generator().manual_seed(0)))

# %%
# A small p-value says that the two groups differ. A large one does not say that they are equal: a
# test sees only what was observed, and blood values matter here.
#
# What it does to the mean
# ------------------------
#
# The mean of the observed values is not the mean of all:

seen = result.mask[:, 2]
print(f"mean of the blood values, all patients:      {values[:, 4:].mean():+.3f}")
print(f"mean of the blood values, patients with it:  {values[seen, 4:].mean():+.3f}")

# %%
# What it does to predictions
# ---------------------------
#
# Three models are fitted on the patients as they were observed: on complete patients only, with
# imputed means, and with one regression for each pattern. They predict the last 142 patients.

train, test = slice(0, 300), slice(300, None)


def rows(of, where):
    return {name: x[where] for name, x in of.items()}


def fitted(of, keep):
    return invmod.PatternKernelRidge(names).fit(rows(of, keep), target[keep])


numbers = torch.arange(len(values))
means = invmod.MeanImputer(names).fit(observed, result.mask, rows=numbers[train])
filled, _ = means(observed, result.mask)
models = {
    "complete patients only": (fitted(observed, numbers[train][seen[train]]), observed),
    "imputed means": (fitted(filled, numbers[train]), filled),
    "one regression per pattern": (fitted(observed, numbers[train]), observed),
}
for name, (model, of) in models.items():
    error = model.predict(rows(of, numbers[test])) - target[test]
    print(f"{name:<28} root mean squared error {error.square().mean().sqrt():.1f}")

# %%
# All three can predict every patient. No test was made, and no model was fitted on complete data.
# So these numbers show neither which model is best nor how much the missing tests cost. Repeat this
# with your own data, over several splits, with the pattern of missing values that you expect.
#
# :py:func:`invmod.calibrate_by_pattern` gives each pattern an interval of its own, which is
# wider if less is known: :doc:`how_sure_is_my_model`.
#
# **What cannot be repaired.** The observed data do not show how large the bias is. Use
# :py:func:`invmod.missingness.simulate_mnar` on complete data to measure how much your model would
# lose, at several values of ``strength``. :doc:`/parts/missingness` has the mechanisms.
