r"""
Compare two models when modalities are missing
==============================================

Two models are not significantly different on complete data. Which of them is better with missing
modalities, and is the difference larger than chance? This guide compares them on the same samples
under the same masks, with corrected p-values, and saves a page with all tables and plots.

The data are scikit-learn's digits, cut into four quadrants as if four cameras had taken them.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier

import invmod
from invmod.robustness import plot_rates, write_page

digits = load_digits()
images = digits.images / 16
quadrants = {
    "top left": images[:, :4, :4].reshape(-1, 16),
    "top right": images[:, :4, 4:].reshape(-1, 16),
    "bottom left": images[:, 4:, :4].reshape(-1, 16),
    "bottom right": images[:, 4:, 4:].reshape(-1, 16),
}
order = np.random.default_rng(0).permutation(len(images))
train, test = order[:1000], order[1000:1400]
pixels = np.concatenate(list(quadrants.values()), axis=1)

# %%
# The first model is gradient-boosted trees, which accept NaN. The second one fills hidden pixels
# with their training means, and then classifies with the five nearest training images.


trees = HistGradientBoostingClassifier(max_iter=60, random_state=0)
trees.fit(pixels[train], digits.target[train])
neighbours = KNeighborsClassifier(5).fit(pixels[train], digits.target[train])
means = pixels[train].mean(axis=0)


def by_trees(features, mask):
    return trees.predict(np.concatenate(list(features.values()), axis=1))


def by_neighbours(features, mask):
    x = np.concatenate(list(features.values()), axis=1)
    return neighbours.predict(np.where(np.isnan(x), means, x))


def right(predicted, target):
    return (predicted == target).astype(float)


def accuracy(predicted, target):
    return right(predicted, target).mean()


report = invmod.robustness_report(
    {"trees": by_trees, "neighbours": by_neighbours},
    {name: x[test] for name, x in quadrants.items()},
    digits.target[test],
    accuracy,
    per_unit=right,
)
print(f"{'visible quadrants':<43} difference  corrected p")
for difference in report.differences:
    print(f"{difference.name:<43} {difference.value:+10.3f}  {difference.adjusted_p_value:.3f}")

# %%
# A difference is the accuracy of the neighbours minus that of the trees. The p-values are
# corrected for the number of comparisons, so that one of them below 0.05 is evidence, however many
# patterns were compared. ``print(report)`` shows all tables of the report.
#
# The curves show the mean over random patterns with a given share of hidden quadrants, with 95%
# intervals:

plot_rates(report)

# %%
# The whole comparison is one HTML file without links to other files:

page = Path(tempfile.mkdtemp()) / "comparison.html"
write_page(report, page)
print(f"{page.stat().st_size // 1024} KiB")

# %%
# One split of the data is one experiment. Before you claim that a method is better, repeat the
# comparison over several splits, as :doc:`the study of digits </examples/digits_quadrants>` does.
# :doc:`/parts/robustness` describes the intervals and tests.
