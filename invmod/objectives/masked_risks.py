"""Risks of any model that takes a mask, under environments that are subsets of the modalities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invmod._checks import describe_type
from invmod.environments.protocol import (
    Environments,
    check_env_mask,
    check_has_masks,
    takes_mask,
)


def environment_risks(
    predict: Callable[[Any, Tensor], Any],
    features: Any,
    mask: Tensor,
    envs: Environments,
    loss: Callable[[Any], Tensor],
    *,
    include_natural: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Risk of a model under each of several masks, for models that do not fuse linearly.

    .. math::
        R_e = \ell\big( f(x, a \wedge b_e) \big)

    where f is `predict`, x are the features, :math:`\ell` is the loss, a is the mask of the data,
    and :math:`b_e` is the mask of environment e, which is drawn at every call. The model runs once
    for each environment. Any objective of risks can follow, so a training step changes in one line:
    ``loss(model(x, mask))`` becomes ``invariant_objective(environment_risks(...), ...)``.

    A sample for which an environment would hide everything that it has keeps all of it in this
    environment, because most models cannot predict from nothing. The draw of masks cannot be
    compiled: compile `predict` instead of this function.

    Arguments:
        predict: ``predict(features, mask) -> outputs``, a model or a function that calls one. The
            mask is bool (N, M), True is available. What a hidden modality holds is passed on: the
            model must ignore it.
        features: the inputs of a batch, in any form that `predict` takes. Each call receives copies
            of tensors and arrays, also of those in dictionaries, lists and tuples. Objects of other
            types are passed on as they are.
        mask: bool (N, M), the modalities that each sample has.
        envs: environments that are subsets of the modalities, with `sample_masks`, such as
            `invmod.RandomSubsetEnvs`. Those that draw from what each sample has
            (`invmod.environments.KOfAvailableEnvs`) are given the mask.
        loss: ``loss(outputs) -> scalar``, the mean loss of the batch. A lambda holds the targets.
        include_natural: put the risk under the mask of the data first, so that the model stays
            good without further missing modalities. The result then has one more entry.
        generator: source of the masks; None means the global generator.

    Returns:
        (E,), or (1 + E,) with `include_natural`, attached to the graph.

    Raises:
        TypeError: the mask is not a bool tensor, the environments have weights only, or the loss is
            not a floating-point tensor.
        ValueError: the mask is not (N, M), or the loss is not a scalar.

    Example:
        >>> from invmod.environments import OneHotEnvs
        >>> x, mask = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(2, 2, dtype=torch.bool)
        >>> total = lambda x, mask: (x * mask).sum(dim=1)  # a model that sums what is available
        >>> environment_risks(total, x, mask, OneHotEnvs(2), lambda out: out.mean())
        tensor([2., 3.])
        >>> environment_risks(
        ...     total, x, mask, OneHotEnvs(2), lambda out: out.mean(), include_natural=True
        ... )
        tensor([5., 2., 3.])
    """
    function = "environment_risks"
    check_has_masks(function, envs)
    check_env_mask(function, mask, envs.num_modalities)
    masks = _environment_masks(envs, mask, generator)
    masks = [mask, *masks] if include_natural else masks
    risks = []
    for rows in masks:
        # Each call gets its own copies: a model that fills or masks its input in place must not
        # change what the next environment, or the caller, has.
        outputs = predict(_copied(features), rows.clone())
        risks.append(_scalar(function, loss(outputs)))
    return torch.stack(risks)


def _environment_masks(
    envs: Environments, mask: Tensor, generator: torch.Generator | None
) -> list[Tensor]:
    """Draw the mask (N, M) of each environment, combined with the mask of the data."""
    draw = envs.sample_masks  # type: ignore[attr-defined]
    if takes_mask(draw):
        rows = draw(mask=mask, generator=generator).unbind(dim=1)  # (N, E, M)
    else:
        rows = draw(generator=generator, device=mask.device)  # (E, M)
    both = [mask & row for row in rows]
    # A sample that would be left with nothing keeps what it has.
    return [torch.where(kept.any(dim=1, keepdim=True), kept, mask) for kept in both]


def _copied(features: Any) -> Any:
    """Return a copy of tensors and arrays, also within mappings, lists and tuples."""
    if isinstance(features, Tensor):
        return features.clone()
    if isinstance(features, np.ndarray):
        return features.copy()
    if isinstance(features, dict):
        return {key: _copied(value) for key, value in features.items()}
    if type(features) in (list, tuple):
        return type(features)(map(_copied, features))
    return features


def _scalar(function: str, risk: Tensor) -> Tensor:
    """Return the risk; raise unless it is a floating-point scalar."""
    if not isinstance(risk, Tensor) or not risk.is_floating_point():
        raise TypeError(
            f"{function}: `loss` must return a floating-point tensor, got {describe_type(risk)}"
        )
    if risk.ndim != 0:
        raise ValueError(
            f"{function}: `loss` must return a scalar, got shape {tuple(risk.shape)}. Reduce it "
            "over the batch, for example by `.mean()`."
        )
    return risk
