"""Kernel regressions that examples/missing_study.py compares with the trained methods.

    kernel ridge                   `PatternKernelRidge` of the features as they are
    kernel ridge on z              the same of the embeddings of a trained encoder
    kernel ridge on z, validation  the same, with its options chosen on validation rows

All three have the default options of `PatternKernelRidge`: kernels, widths, ridges and weights are
chosen in closed form when the regression is fitted. The first two choose on the training rows, by
leave-one-out errors. The encoder is that of the method `ENCODER` with the configuration that the
study chose for it, so the trials of this method count for both regressions on z.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invmod.missingness import mask_from_features
from invmod.regression import PatternKernelRidge
from missing_methods import Problem, train

__all__ = [
    "ENCODER",
    "KERNEL_METHODS",
    "KernelMethod",
    "Predict",
    "fit_kernel_ridge",
    "fit_regression",
    "unchanged",
]

ENCODER = "environments"
Predict = Callable[[Mapping[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class KernelMethod:
    """Inputs and held-out rows of a kernel regression.

    Arguments:
        embedded: whether the inputs are embeddings of the method `ENCODER`, instead of features.
        validation: whether options are chosen on the validation rows of a split, instead of by
            leave-one-out errors on its training rows.
    """

    embedded: bool
    validation: bool


KERNEL_METHODS = {
    "kernel ridge": KernelMethod(embedded=False, validation=False),
    "kernel ridge on z": KernelMethod(embedded=True, validation=False),
    "kernel ridge on z, validation": KernelMethod(embedded=True, validation=True),
}


def fit_kernel_ridge(
    problem: Problem, method: KernelMethod, config: Mapping[str, float], seed: int
) -> Predict:
    """Fit a kernel regression on the training rows of a split.

    Arguments:
        problem: the data and the splits.
        method: inputs and held-out rows.
        config: configuration of the method `ENCODER`; not read without embeddings.
        seed: seed of the split, and of the training of the encoder.

    Returns:
        a function from features and mask to probabilities of classes (N, C).
    """
    embed = train(problem, ENCODER, config, seed).embeddings if method.embedded else unchanged
    return fit_regression(problem, seed, embed, validation=method.validation)


def fit_regression(
    problem: Problem,
    seed: int,
    embed: Callable[[Mapping[str, Tensor], Tensor], Mapping[str, Tensor]],
    *,
    validation: bool = False,
    groups: Tensor | None = None,
    **options: Any,
) -> Predict:
    """Fit a kernel regression on embeddings of the training rows of a split.

    Arguments:
        problem: the data and the splits.
        seed: seed of the split.
        embed: maps features and mask to the inputs of the regression, modality name -> (N, ...).
        validation: choose options on the validation rows of the split.
        groups: integers (N,), the groups of rows that are left out together; None: each row alone.
        options: of `PatternKernelRidge`.

    Returns:
        a function from features and mask to probabilities of classes (N, C).
    """
    names = tuple(problem.features)
    rows, held_out, _ = problem.split(seed)

    def table(of: Tensor) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
        features = {name: x[of] for name, x in problem.features.items()}
        mask = mask_from_features(features, names)
        return embed(features, mask), problem.targets[of], mask

    model = PatternKernelRidge(names, **options).fit(
        *table(rows),
        groups=None if groups is None else groups[rows],
        validation=table(held_out) if validation else None,
    )
    # Classes that no training row has get the probability 0.
    classes, num_classes = problem.targets[rows].unique(), int(problem.targets.max()) + 1

    def predict(features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        known = model.probabilities(embed(features, mask), mask)
        probabilities = known.new_zeros(len(known), num_classes)
        probabilities[:, classes] = known
        return probabilities

    return predict


def unchanged(features: Mapping[str, Tensor], _mask: Tensor) -> Mapping[str, Tensor]:
    """Return the features."""
    return features
