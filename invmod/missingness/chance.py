"""Random missingness: MCAR, MAR and MNAR.

The probability that a cell is hidden is constant (missing completely at random, MCAR), depends on
the values of another modality (missing at random, MAR), or depends on the hidden values themselves
(missing not at random, MNAR).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from invmod._checks import check_names, checked_rows
from invmod.missingness.arrays import Feature, count_rows, given_features
from invmod.missingness.calibration import (
    Rates,
    Score,
    calibrated,
    checked_score,
    rate_columns,
    scaled_scores,
)
from invmod.missingness.masks import MaskLike, check_any_mask, mask_columns
from invmod.missingness.simulated import SimulatedMissing, mean_over_available, uniform


def simulate_mcar(
    mask: Tensor,
    rates: Rates,
    *,
    modalities: Sequence[str] | None = None,
    rows: Tensor | None = None,
    allow_empty: bool = False,
    generator: torch.Generator | None = None,
) -> SimulatedMissing:
    r"""Hide cells completely at random, each modality at its own rate.

    .. math::
        P(\text{cell } (n, m) \text{ is hidden} \mid a_{nm} = 1) = r_m,
        \quad\text{all cells independent}

    Unless `allow_empty` is set, a row never loses its last modality: the draw follows the
    distribution above *conditional* on every non-empty row keeping at least one modality. It is
    sampled exactly, without rejection. The condition lowers the effective rate:

    .. math::
        P(\text{cell } (n, m) \text{ is hidden} \mid \text{row } n \text{ keeps something})
            = 1 - \frac{1 - r_m}{1 - \prod_{j \in A_n} r_j}

    where :math:`A_n` are the modalities that row n has. For example, each of three modalities at
    rate 0.5 is hidden with probability 3/7 = 0.43, and a row with one modality keeps it. The exact
    average is in the result's `expected_rates`. A row without any modality is unchanged.

    Arguments:
        mask: bool (N, M), the availability before the simulation.
        rates: the rates :math:`r_m` in [0, 1]: one for all, M in the order of the columns, or name
            -> rate. A name that is not in the mapping has rate 0.
        modalities: the M names of the columns; needed only where `rates` is a mapping.
        rows: int64 (n,), the rows that may lose modalities; all N if None.
        allow_empty: whether a row may lose all of its modalities.
        generator: source of randomness; None is the global generator.

    Returns:
        `SimulatedMissing`; its shortfall is 0.

    Raises:
        KeyError: `rates` names an unknown modality.
        TypeError: the mask is not bool, rates are not numbers, or a mapping is given without
            `modalities`.
        ValueError: a rate outside [0, 1], a wrong number of rates, rows out of range or given
            twice, or a row whose modalities all have rate 1 although `allow_empty` is False.

    References:
        Rubin, Inference and Missing Data, Biometrika 63(3), 1976.

    Example:
        >>> result = simulate_mcar(torch.ones(1000, 3, dtype=torch.bool), 0.5)
        >>> result.expected_rates
        tensor([0.4286, 0.4286, 0.4286], dtype=torch.float64)
        >>> bool(result.mask.any(dim=1).all())
        True
        >>> mask, _ = simulate_mcar(
        ...     torch.ones(2, 2, dtype=torch.bool), {"text": 1.0}, modalities=["image", "text"]
        ... )
        >>> mask
        tensor([[ True, False],
                [ True, False]])
    """
    check_any_mask("simulate_mcar", mask)
    names = None if modalities is None else check_names("simulate_mcar", modalities)
    if names is not None and len(names) != mask.shape[1]:
        raise ValueError(
            f"simulate_mcar: `modalities` must name the {mask.shape[1]} columns of `mask`, got "
            f"{len(names)} names."
        )
    rate = rate_columns("simulate_mcar", rates, mask.shape[1], names)
    chosen = checked_rows("simulate_mcar", rows, mask.shape[0], mask.device)
    p = torch.tensor(rate, dtype=torch.float64, device=mask.device).expand(len(chosen), -1)
    return _hide("simulate_mcar", mask, chosen, p, 1 - p, allow_empty, generator)


def simulate_mar(
    features: Mapping[str, Feature | None],
    mask: MaskLike,
    rates: Rates,
    *,
    modalities: Sequence[str],
    driver: str,
    strength: float,
    score: Score | Mapping[str, Score] | None = None,
    rows: Tensor | None = None,
    allow_empty: bool = False,
    generator: torch.Generator | None = None,
) -> SimulatedMissing:
    r"""Hide cells at random, at rates that depend on the values of another modality, the driver.

    .. math::
        P(\text{cell } (n, m) \text{ is hidden} \mid a_{nm} = 1) = \sigma(\beta_m + \gamma \, s_n),
        \qquad \operatorname{mean}_{n : a_{nm} = 1} \sigma(\beta_m + \gamma \, s_n) = r_m

    where :math:`\gamma` is `strength` and :math:`s_n` is the driver's score of row n, scaled to
    mean 0 and standard deviation 1 over the rows that have the driver. The second equation
    determines the intercept :math:`\beta_m`, so the overall rate equals the requested one. A row
    without the driver has :math:`s_n = 0`.

    The driver itself is never hidden. The values that the rates depend on therefore stay observed,
    which distinguishes "missing at random" from "missing not at random". Rows that have the driver
    cannot become empty; all other rows follow the rule of `simulate_mcar`.

    Arguments:
        features: modality name -> (N, ...), tensor, NumPy array or mapping of them; only the driver
            is read, in its available cells.
        mask: bool (N, M) or name -> (N,), the availability before the simulation.
        rates: the rates :math:`r_m` in [0, 1]: one for all modalities except the driver, M in the
            order of `modalities`, or name -> rate; the driver's rate must be 0. A name that is not
            in the mapping has rate 0.
        modalities: the M names in the order of the mask's columns, at least two.
        driver: the modality whose values determine the rates.
        strength: :math:`\gamma`, the change of the log-odds per standard deviation of the score. If
            it is positive, rows with a large score lose more modalities; 0 is equivalent to
            `simulate_mcar`.
        score: function of a modality's available rows (n, ...) to (n,), or name -> such a function.
            None is the mean of a row's entries. Integer features and mappings need a function,
            because the mean of ids has no meaning.
        rows: int64 (n,), the rows that may lose modalities; all N if None. Scores are standardised,
            and rates are calibrated, over these rows.
        allow_empty: whether a row may lose all of its modalities.
        generator: source of randomness; None is the global generator.

    Returns:
        `SimulatedMissing`; its shortfall is 0.

    Raises:
        KeyError: an unknown modality, or the driver is not among the features.
        TypeError: the mask is not bool, rates or `strength` are not numbers, or the driver has
            integer features and no `score` is given.
        ValueError: a rate outside [0, 1], a rate above 0 for the driver, fewer than two modalities,
            scores that are all equal, not finite or of a wrong shape, rows out of range or given
            twice, or a row that would lose all modalities with certainty.

    References:
        Rubin, Inference and Missing Data, Biometrika 63(3), 1976. Muzellec et al., Missing Data
        Imputation using Optimal Transport, ICML 2020, section 5 (a logistic model whose intercept
        is fitted to the rate).

    Example:
        >>> age = torch.tensor([20.0, 30.0, 70.0, 80.0])
        >>> features = {"age": age, "scan": torch.zeros(4, 8)}
        >>> all_available = torch.ones(4, 2, dtype=torch.bool)
        >>> result = simulate_mar(
        ...     features,
        ...     all_available,
        ...     {"scan": 0.5},
        ...     modalities=["age", "scan"],
        ...     driver="age",
        ...     strength=1000.0,
        ... )
        >>> result.mask[:, 1], result.expected_rates
        (tensor([ True,  True, False, False]), tensor([0.0000, 0.5000], dtype=torch.float64))
    """
    function = "simulate_mar"
    names = check_names(function, modalities)
    if driver not in names:
        raise KeyError(f"{function}: `driver` must be one of {names}, got {driver!r}.")
    if len(names) < 2:
        raise ValueError(
            f"{function}: `modalities` must name the driver and at least one other, got {names}."
        )
    # A single rate applies to all modalities except the driver, which is never hidden.
    if isinstance(rates, Real) or (isinstance(rates, Tensor) and rates.ndim == 0):
        rates = {name: float(rates) for name in names if name != driver}
    rate = rate_columns(function, rates, len(names), names)
    if rate[names.index(driver)] > 0:
        raise ValueError(
            f"{function}: the rate of the driver {driver!r} must be 0, got "
            f"{rate[names.index(driver)]}. If the driver itself is hidden, the rates depend on "
            "hidden values: use `simulate_mnar`."
        )
    columns, chosen = _mask_and_rows(function, features, mask, names, rows)
    score_of = checked_score(function, strength, score, names)
    has_driver = columns[chosen, names.index(driver)]
    s = torch.zeros(len(chosen), dtype=torch.float64, device=columns.device)
    if any(0 < r < 1 for r in rate):
        s[has_driver] = scaled_scores(
            function, driver, features.get(driver), chosen[has_driver], score_of
        )
    logits = (strength * s)[:, None].expand(-1, len(names))
    return _hide(
        function,
        columns,
        chosen,
        *calibrated(logits, columns[chosen], rate),
        allow_empty,
        generator,
    )


def simulate_mnar(
    features: Mapping[str, Feature | None],
    mask: MaskLike,
    rates: Rates,
    *,
    modalities: Sequence[str],
    strength: float,
    score: Score | Mapping[str, Score] | None = None,
    rows: Tensor | None = None,
    allow_empty: bool = False,
    generator: torch.Generator | None = None,
) -> SimulatedMissing:
    r"""Hide cells at rates that depend on the hidden values themselves.

    .. math::
        P(\text{cell } (n, m) \text{ is hidden} \mid a_{nm} = 1)
            = \sigma(\beta_m + \gamma \, s_{nm}),
        \qquad \operatorname{mean}_{n : a_{nm} = 1} \sigma(\beta_m + \gamma \, s_{nm}) = r_m

    The symbols are those of `simulate_mar`, except that :math:`s_{nm}` is the score of modality m
    itself. Unless `allow_empty` is set, a row never loses its last modality: as in `simulate_mcar`,
    the draw is conditional on every non-empty row keeping at least one modality, and the effective
    rate in `expected_rates` is lower than the requested one. With ``allow_empty=True`` the two are
    equal.

    Arguments:
        features: modality name -> (N, ...), tensor, NumPy array or mapping of them; those with a
            rate between 0 and 1 are read, in their available cells.
        mask: bool (N, M) or name -> (N,), the availability before the simulation.
        rates: the rates :math:`r_m` in [0, 1]: one for all, M in the order of `modalities`, or name
            -> rate. A name that is not in the mapping has rate 0.
        modalities: the M names in the order of the mask's columns.
        strength: :math:`\gamma`, the change of the log-odds per standard deviation of the score. If
            it is positive, cells with a large score are hidden more often; 0 is equivalent to
            `simulate_mcar`.
        score: function of a modality's available rows (n, ...) to (n,), or name -> such a function.
            None is the mean of a row's entries. Integer features and mappings need a function,
            because the mean of ids has no meaning.
        rows: int64 (n,), the rows that may lose modalities; all N if None. Scores are standardised,
            and rates are calibrated, over these rows.
        allow_empty: whether a row may lose all of its modalities.
        generator: source of randomness; None is the global generator.

    Returns:
        `SimulatedMissing`; its shortfall is 0.

    Raises:
        KeyError: an unknown modality, or a modality whose rate is between 0 and 1 is not in
            `features`.
        TypeError: the mask is not bool, rates or `strength` are not numbers, or a modality has
            integer features and no `score` is given.
        ValueError: a rate outside [0, 1], scores that are all equal, not finite or of a wrong
            shape, rows out of range or given twice, or a row that would lose all modalities with
            certainty.

    References:
        Rubin, Inference and Missing Data, Biometrika 63(3), 1976. Muzellec et al., Missing Data
        Imputation using Optimal Transport, ICML 2020, section 5.

    Example:
        >>> features = {
        ...     "income": torch.tensor([1.0, 2.0, 8.0, 9.0]),
        ...     "age": torch.tensor([1.0, 2.0, 3.0, 4.0]),
        ... }
        >>> all_available = torch.ones(4, 2, dtype=torch.bool)
        >>> mask, _ = simulate_mnar(
        ...     features,
        ...     all_available,
        ...     {"income": 0.5},
        ...     modalities=["age", "income"],
        ...     strength=1000.0,
        ... )
        >>> mask[:, 1]
        tensor([ True,  True, False, False])
    """
    function = "simulate_mnar"
    names = check_names(function, modalities)
    rate = rate_columns(function, rates, len(names), names)
    columns, chosen = _mask_and_rows(function, features, mask, names, rows)
    score_of = checked_score(function, strength, score, names)
    available = columns[chosen]
    s = torch.zeros(available.shape, dtype=torch.float64, device=columns.device)
    for m, name in enumerate(names):
        if 0 < rate[m] < 1:
            available_rows = available[:, m]
            s[available_rows, m] = scaled_scores(
                function, name, features.get(name), chosen[available_rows], score_of
            )
    return _hide(
        function,
        columns,
        chosen,
        *calibrated(strength * s, available, rate),
        allow_empty,
        generator,
    )


def _hide(
    function: str,
    mask: Tensor,
    chosen: Tensor,
    p: Tensor,
    q: Tensor,
    allow_empty: bool,
    generator: torch.Generator | None,
) -> SimulatedMissing:
    """Hide the cells of the chosen rows with probability p = 1 - q (n, M).

    Unless `allow_empty` is set, the draw is conditional on each row keeping at least one modality.
    """
    available = mask[chosen]
    # A cell that is naturally missing counts as lost with certainty, so it never protects its row.
    p, q = torch.where(available, p, 1.0), torch.where(available, q, 0.0)
    u = uniform(*available.shape, generator=generator).to(mask.device)
    if allow_empty:
        hidden, expected = u < p, p
    else:
        # keeps_any[m] (n,) is the probability that a row keeps at least one of the columns m..M-1.
        # The backward recursion only adds and multiplies non-negative numbers, so it stays accurate
        # for rates close to 1, unlike 1 - prod(p).
        keeps_any = [torch.zeros_like(p[:, 0])]
        for m in reversed(range(p.shape[1])):
            keeps_any.insert(0, q[:, m] + p[:, m] * keeps_any[0])
        must_empty = available.any(dim=1) & (keeps_any[0] == 0)
        if must_empty.any():
            raise ValueError(
                f"{function}: row {int(chosen[must_empty][0])} loses all its modalities with "
                "certainty, but a row must keep at least one. Lower a rate, leave such rows out "
                "through `rows`, or pass `allow_empty=True`."
            )
        hidden, kept_any = torch.zeros_like(available), torch.zeros_like(available[:, 0])
        # Draw the columns in order. By Bayes' rule, a row that has kept nothing so far loses column
        # m with probability p_m * keeps_any[m + 1] / keeps_any[m]; any other row is unconstrained.
        for m in range(p.shape[1]):
            p_hidden = torch.where(kept_any, p[:, m], p[:, m] * keeps_any[m + 1] / keeps_any[m])
            hidden[:, m] = u[:, m] < p_hidden
            kept_any |= ~hidden[:, m]  # p is 1 in unavailable cells, so they never count as kept
        expected = 1 - q / keeps_any[0][:, None]
    simulated = torch.ones_like(mask)
    simulated[chosen] = ~(hidden & available)
    return SimulatedMissing(
        mask.clone(), simulated, chosen, mean_over_available(expected, available)
    )


def _mask_and_rows(
    function: str,
    features: Mapping[str, Feature | None],
    mask: MaskLike,
    names: tuple[str, ...],
    rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the mask (N, M) and the row numbers after checking both against the features."""
    total = count_rows(function, given_features(function, features, names))
    columns = mask_columns(function, mask, names, total)
    return columns, checked_rows(function, rows, total, columns.device)
