"""Objectives on problems with known solutions: ``python docs/known_answers.py``.

The script takes about four minutes. It writes the figures of docs/parts/objectives.md into
docs/images, and their numbers and those of docs/theory.md into docs/known_answers.json. With the
argument `objectives` or `theory` it computes only the numbers of that page, and keeps the others.
The tests run the same functions. The page of theory shows the problems of known_answers_patterns.py
and known_answers_sharing.py, and the fusion weights below. The page of objectives shows three
problems:

* Two bits (Kamath et al. 2021). Y is -1 or 1 with equal probability. X1 is Y with its sign flipped
  with probability alpha in every environment; X2 is Y with its sign flipped with probability beta_e
  in environment e. The predictor is linear in X1 and X2, so it has two weights; the loss is the
  squared error, and risks are expectations under the known distribution.
* A linear structural model (Arjovsky et al. 2019): X1 ~ N(0, s), Y = X1 + N(0, s) and
  X2 = Y + N(0, 1), where s is the variance in the environment.
* Coloured digits (Arjovsky et al. 2019): scikit-learn's digits with the label "below five", a
  quarter of the labels flipped, in a colour that agrees with the label for 80% and 90% of the
  samples of the two training environments, and for 10% of the test samples.

Fusion weights: the target y ~ N(0, 1), two embeddings z_m = y + N(0, s_m), and their weighted sum
h = w_1 z_1 + w_2 z_2. An environment is a pair of weights with sum 1, and nothing else differs
between environments. If a modality is missing, the other one has the weight 1, as in `invmod.fuse`.
If the missing embedding is filled with its mean 0 instead, the other one keeps the weight 1/2.
"""

import argparse
import datetime
import json
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from known_answers_patterns import expected_dcg, pattern_numbers
from known_answers_sharing import sharing_numbers
from matplotlib import pyplot as plt
from scipy import optimize
from sklearn.datasets import load_digits
from torch import Tensor, nn

import invmod
from invmod.robustness.document import figure_png

HERE = Path(__file__).parent
ALPHAS_AND_BETAS = ((0.25, (0.1, 0.2)), (0.1, (0.11, 0.4)), (0.05, (0.1, 0.2)))
WEIGHTS = tuple(10.0**exponent for exponent in torch.arange(-2, 6.01, 0.25).tolist())
SPREADS = (0.04, 4.0)  # s of the linear structural model in its two environments
METHODS = ("ERM", "IRMv1", "V-REx")
EMBEDDING_NOISE = torch.tensor([0.25, 4.0], dtype=torch.float64)  # s of the fusion weights
FUSION_ENVS = ((0.5, 0.5), (0.9, 0.1), (0.1, 0.9))
FUSION_PENALTIES = (0.0, 1.0, 10.0, 100.0, 1000.0, 1e4)
FUSION_PATTERNS = {"1": (1.0, 0.0), "2": (0.0, 1.0), "1 and 2": (0.5, 0.5)}

RisksAndPenalty = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Function of the predictor's weights (2,) that returns risks (E,) and a penalty, a scalar."""


# --- two bits -------------------------------------------------------------------------------------


def two_bit(alpha: float, betas: tuple[float, ...], penalty: str) -> RisksAndPenalty:
    """Return the expected risks of the two-bit problem as a function of the weights, and a penalty.

    The penalty "V-REx" is the variance of the risks. "IRMv1" is the mean over environments of
    (dR_e/ds)^2, where R_e(s) is the risk of s times the predictor, at s = 1.
    """
    # With weights w: E[(w.X)^2] = |w|^2 + 2 w_1 w_2 c d and E[Y w.X] = w_1 c + w_2 d, where
    # c = E[Y X1] = 1 - 2 alpha and d = E[Y X2] = 1 - 2 beta_e. So R_e(s) = 1 - 2 s product +
    # s^2 square, with the names below.
    c, d = 1 - 2 * alpha, 1 - 2 * torch.tensor(betas, dtype=torch.float64)

    def risks_and_penalty(w: Tensor) -> tuple[Tensor, Tensor]:
        square = w.square().sum() + 2 * w[0] * w[1] * c * d
        product = w[0] * c + w[1] * d
        if penalty == "V-REx":
            return 1 - 2 * product + square, invmod.vrex_penalty(1 - 2 * product + square)
        return 1 - 2 * product + square, (2 * (square - product)).square().mean()

    return risks_and_penalty


def sampled_two_bit(
    alpha: float,
    betas: tuple[float, ...],
    penalty: str,
    *,
    samples: int,
    generator: torch.Generator,
) -> RisksAndPenalty:
    """Estimate risks and penalty of the two-bit problem from samples, with functions of invmod."""
    data = []
    for beta in betas:
        y = torch.randint(2, (samples,), generator=generator).double() * 2 - 1
        flips = torch.rand(samples, 2, generator=generator, dtype=torch.float64) < torch.tensor(
            [alpha, beta]
        )
        data.append((torch.where(flips, -y[:, None], y[:, None]), y))

    def risks_and_penalty(w: Tensor) -> tuple[Tensor, Tensor]:
        risks = torch.stack([(x @ w - y).square().mean() for x, y in data])
        if penalty == "V-REx":
            return risks, invmod.vrex_penalty(risks)
        h = torch.stack([invmod.penalties.irm_derivatives(x @ w, y, loss="mse") for x, y in data])
        return risks, invmod.penalties.irm_penalty_from_derivatives(h)

    return risks_and_penalty


# --- the linear structural model ------------------------------------------------------------------


def linear_model(
    spreads: tuple[float, ...], penalty: str, *, noise_of_y: bool = True
) -> RisksAndPenalty:
    """Return the expected risks of the linear structural model, and the penalty V-REx or IRMv1.

    IRMv1 has one dummy scale for each of the two features.

    Arguments:
        spreads: s of each environment.
        penalty: "V-REx" or "IRMv1".
        noise_of_y: s is the variance of the noise of Y (and that of X2 is 1); if False, it is the
            other way round.
    """
    s = torch.tensor(spreads, dtype=torch.float64)
    of_y, of_x2 = (s, torch.ones_like(s)) if noise_of_y else (torch.ones_like(s), s)

    def risks_and_penalty(w: Tensor) -> tuple[Tensor, Tensor]:
        # The residual Y - w_1 X1 - w_2 X2 is a sum of the three independent noises with these
        # coefficients, so its variance is the sum of their squares times the variances.
        on_x1, on_y, on_x2 = 1 - w[0] - w[1], 1 - w[1], w[1]
        risks = s * on_x1**2 + of_y * on_y**2 + of_x2 * on_x2**2
        if penalty == "V-REx":
            return risks, invmod.vrex_penalty(risks)
        # Derivatives of the risk by a scale of the first feature and by a scale of the second one.
        by_x1 = -2 * w[0] * s * on_x1
        by_x2 = -2 * w[1] * (s * on_x1 + of_y * on_y - of_x2 * on_x2)
        return risks, (by_x1.square() + by_x2.square()).mean()

    return risks_and_penalty


def minimise(risks_and_penalty: RisksAndPenalty, weight: float, start: Tensor) -> Tensor:
    """Find a local minimum of the mean risk plus `weight` times the penalty with L-BFGS.

    Arguments:
        risks_and_penalty: function of the predictor's weights.
        weight: weight of the penalty.
        start: the weights to start from, (2,).
    """
    w = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [w],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        risks, penalty = risks_and_penalty(w)
        # The division keeps the loss of order 1, so that the tolerances suit every weight.
        loss = (risks.mean() + weight * penalty) / (1 + weight)
        loss.backward()
        return loss

    for _ in range(4):  # A restart discards curvature that was estimated far from the minimum.
        optimiser.step(closure)
    return w.detach()


def minimise_in_long_steps(
    risks_and_penalty: RisksAndPenalty, weight: float, start: tuple[float, float]
) -> list[float]:
    """Find a minimum like `minimise`, but with BFGS.

    Its first step is as long as the gradient, so it may leave the valley of the start.
    """

    def loss_and_gradient(values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        w = torch.tensor(values, requires_grad=True)
        risks, penalty = risks_and_penalty(w)
        loss = risks.mean() / weight + penalty
        (gradient,) = torch.autograd.grad(loss, w)
        return loss.item(), gradient.numpy()

    minimum: list[float] = optimize.minimize(
        loss_and_gradient, start, jac=True, method="BFGS"
    ).x.tolist()
    return minimum


def path(
    risks_and_penalty: RisksAndPenalty,
    weights: Iterable[float],
    start: tuple[float, float] = (0.0, 0.0),
) -> list[list[float]]:
    """Follow a minimum while the weight of the penalty grows.

    The first minimum is that of ERM (weight 0), found from `start`. Each of the others is found
    from the one before.

    Returns:
        a row [weight, w1, w2] for each minimum.
    """
    w = minimise(risks_and_penalty, 0.0, torch.tensor(start, dtype=torch.float64))
    minima = [[0.0, *w.tolist()]]
    for weight in weights:
        w = minimise(risks_and_penalty, weight, w)
        minima.append([weight, *w.tolist()])
    return minima


# --- fusion weights -------------------------------------------------------------------------------


def fusion_slopes(weights: Tensor) -> Tensor:
    """Return the slope of E[y | h] on h for fusion weights (..., 2), (...)."""
    # Cov(y, h) = w_1 + w_2 and Var(h) = (w_1 + w_2)^2 + w_1^2 s_1 + w_2^2 s_2.
    total = weights.sum(dim=-1)
    return total / (total.square() + weights.square() @ EMBEDDING_NOISE)


def fusion_risks(envs: tuple[tuple[float, float], ...]) -> RisksAndPenalty:
    """Return the expected risks of u_1 w_1 z_1 + u_2 w_2 z_2 as a function of u, and V-REx.

    u_m is the product of the head and of the scale that the encoder of modality m gives to z_m.
    """
    w = torch.tensor(envs, dtype=torch.float64)

    def risks_and_penalty(u: Tensor) -> tuple[Tensor, Tensor]:
        risks = (1 - w @ u).square() + w.square() @ (u.square() * EMBEDDING_NOISE)
        return risks, invmod.vrex_penalty(risks)

    return risks_and_penalty


def best_scales(weight: float) -> list[float]:
    """Return [weight, u_1, u_2, mean risk, standard deviation of risks] at the global minimum.

    The minimum is the best one from several starts, since mean risk + weight * V-REx can have
    more than one local minimum.
    """
    risks_and_penalty = fusion_risks(FUSION_ENVS)
    minima = []
    for start in ((1e-3, 1e-3), (0.1, 0.1), (0.4, 0.4), (1.0, 0.2), (1.4, 0.2)):
        w = minimise(risks_and_penalty, weight, torch.tensor(start, dtype=torch.float64))
        risks, penalty = risks_and_penalty(w)
        row = [weight, *w.tolist(), float(risks.mean()), float(penalty) ** 0.5]
        minima.append((float(risks.mean() + weight * penalty), row))
    return min(minima)[1]


def sampled_fusion(samples: int, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Draw for each pattern the fused embeddings h and the targets y, (samples,) each."""
    drawn = {}
    for name, weights in FUSION_PATTERNS.items():
        y, *noise = torch.randn(3, samples, generator=generator, dtype=torch.float64)
        z = y[:, None] + torch.stack(noise, dim=1) * EMBEDDING_NOISE.sqrt()
        mask = (torch.tensor(weights) > 0).expand(samples, 2)
        equal = torch.full((1, 2), 0.5, dtype=torch.float64)
        drawn[name] = invmod.fuse(z[:, :, None], equal, mask)[0, :, 0], y
    return drawn


def fusion_numbers(*, samples: int = 100_000, list_length: int = 50) -> dict[str, Any]:
    """Compute slopes by pattern, the effect of V-REx, and the expected DCG of mixed lists."""
    drawn = sampled_fusion(samples, torch.Generator().manual_seed(0))
    slopes = {
        name: fusion_slopes(torch.tensor(w, dtype=torch.float64))
        for name, w in FUSION_PATTERNS.items()
    }
    patterns = fusion_risks(tuple(FUSION_PATTERNS.values()))
    # Of all single heads v, this one has the least mean risk over patterns.
    single = float(len(slopes) / sum(1 / slope for slope in slopes.values()))
    u = torch.full((2,), single, dtype=torch.float64)
    rows = {
        name: {
            "slope": float(slopes[name]),
            "sampled slope": float((h @ y) / (h @ h)),
            "slope with mean fill": float(
                fusion_slopes((torch.tensor(FUSION_PATTERNS[name]) > 0).double() / 2)
            ),
            "risk of its own slope": float(1 - slopes[name]),
            "risk of one slope": float(risk),
        }
        for (name, (h, y)), risk in zip(drawn.items(), patterns(u)[0], strict=True)
    }
    h = torch.stack([h for h, _ in drawn.values()], dim=1).flatten()  # patterns take turns
    best = h.reshape(-1, len(slopes)) * torch.stack(list(slopes.values()))
    used = len(h) // list_length * list_length
    return {
        "patterns": rows,
        "one slope": single,
        "slope by environment": fusion_slopes(
            torch.tensor(FUSION_ENVS, dtype=torch.float64)
        ).tolist(),
        "V-REx": [best_scales(weight) for weight in FUSION_PENALTIES],
        "dcg": {
            name: expected_dcg(best.flatten()[:used], scores[:used], list_length)
            for name, scores in (("own slopes", best.flatten()), ("one slope", h))
        },
    }


# --- coloured digits ------------------------------------------------------------------------------


def coloured_digits(generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Colour the digits of two training environments and of the test environment.

    Returns:
        for each environment the pixels (n, 128), which are 0 in one of the two colour channels, and
        the labels (n,).
    """
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=generator)
    pixels = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    label = (torch.tensor(digits.target)[order] < 5) ^ (
        torch.rand(len(order), generator=generator) < 0.25
    )
    environments = []
    env_rows = torch.arange(len(order)).tensor_split([750, 1500])
    for rows, flip in zip(env_rows, (0.2, 0.1, 0.9), strict=True):
        colour = label[rows] ^ (torch.rand(len(rows), generator=generator) < flip)
        x = torch.stack([pixels[rows] * ~colour[:, None], pixels[rows] * colour[:, None]], dim=1)
        environments.append((x.flatten(1), label[rows].float()))
    return environments


def train_on_colours(
    method: str, seed: int, *, steps: int = 400, anneal: int = 60, weight: float = 1e4
) -> list[float]:
    """Train on the two training environments; return training accuracy and test accuracy.

    The penalty has weight 1 up to step `anneal`. From then on it has the full weight, and the whole
    loss is divided by that weight.
    """
    generator = torch.Generator().manual_seed(seed)
    *training, test = coloured_digits(generator)
    model = nn.Sequential(
        nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1)
    )
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            nn.init.zeros_(parameter)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        logits = [model(x)[:, 0] for x, _ in training]
        losses = [
            F.binary_cross_entropy_with_logits(z, y)
            for z, (_, y) in zip(logits, training, strict=True)
        ]
        risks = torch.stack(losses)
        loss = risks.mean() + 1e-3 * sum(p.square().sum() for p in model.parameters())
        if method != "ERM":
            current_weight = invmod.objectives.step_schedule(
                step, first=1.0, last=weight, at=anneal
            )
            if method == "V-REx":
                penalty = invmod.vrex_penalty(risks)
            else:
                pairs = zip(logits, training, strict=True)
                penalty = torch.stack([invmod.irm_penalty(z, y) for z, (_, y) in pairs]).mean()
            loss = (loss + current_weight * penalty) / max(current_weight, 1.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        accuracies = [
            ((model(x)[:, 0] > 0) == (y > 0)).float().mean().item() for x, y in (*training, test)
        ]
    return [(accuracies[0] + accuracies[1]) / 2, accuracies[2]]


# --- figures --------------------------------------------------------------------------------------


def made() -> str:
    """Return the date and the machine."""
    return f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}"


def run_theory() -> dict[str, Any]:
    """Compute all numbers of the page of theory."""
    return {
        "made": made(),
        "patterns": pattern_numbers(),
        "sharing": sharing_numbers(),
        "fusion": fusion_numbers(),
    }


def run_objectives() -> dict[str, Any]:
    """Compute all numbers that the figures show."""
    two_bits = {
        f"{alpha}; {', '.join(map(str, betas))}": {
            penalty: path(two_bit(alpha, betas, penalty), WEIGHTS) for penalty in METHODS[1:]
        }
        for alpha, betas in ALPHAS_AND_BETAS
    }
    linear = {
        "V-REx": path(linear_model(SPREADS, "V-REx"), WEIGHTS),
        "IRMv1 from ERM": path(linear_model(SPREADS, "IRMv1"), WEIGHTS),
        "IRMv1 from (1, 1)": minimise_in_long_steps(
            linear_model(SPREADS, "IRMv1"), 1e6, (1.0, 1.0)
        ),
    }
    digits = {method: [train_on_colours(method, seed) for seed in range(4)] for method in METHODS}
    return {
        "made": made(),
        "two_bits": two_bits,
        "linear": linear,
        "digits": digits,
    }


COLOURS = {"ERM": "0.35", "IRMv1": "#d55e00", "V-REx": "#0072b2"}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.bbox": "tight",
}


def draw_two_bits(numbers: dict[str, Any]) -> plt.Figure:
    """Draw the two weights as functions of the penalty weight, for each of the three problems."""
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 2.9), sharey=True)
    for ax, paths, (alpha, betas) in zip(
        axes, numbers["two_bits"].values(), ALPHAS_AND_BETAS, strict=True
    ):
        for method, points in paths.items():
            weight, w1, w2 = zip(*points[1:], strict=True)
            ax.plot(weight, w1, color=COLOURS[method], label=f"{method}: weight of X1")
            ax.plot(weight, w2, color=COLOURS[method], ls="--", label=f"{method}: weight of X2")
        ax.axhline(1 - 2 * alpha, color="0.6", lw=0.8, ls=":", label="invariant: weight of X1")
        ax.set(
            xscale="log",
            xlabel="penalty weight",
            title=f"flips {alpha} | {', '.join(map(str, betas))}",
        )
    axes[0].set_ylabel("weight of the predictor")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.17, 1, 1))
    return figure


def draw_linear_model(numbers: dict[str, Any]) -> plt.Figure:
    """Draw the paths of minima in the plane of the two weights, over contours of the mean risk."""
    grid = torch.linspace(-0.15, 1.2, 200, dtype=torch.float64)
    risks_and_penalty = linear_model(SPREADS, "V-REx")
    risk = torch.stack(
        [
            torch.stack([risks_and_penalty(torch.stack([a, b]))[0].mean() for a in grid])
            for b in grid
        ]
    )
    figure, ax = plt.subplots(figsize=(5.6, 4.2))
    levels = [0.5, 0.8, 1.0, 1.5, 2, 3, 4, 6, 8]
    contour = ax.contour(grid, grid, risk, levels=levels, colors="0.75", linewidths=0.7)
    ax.clabel(contour, fontsize=7, fmt="%g")
    for name, method in (("V-REx", "V-REx"), ("IRMv1 from ERM", "IRMv1")):
        _, w1, w2 = zip(*numbers["linear"][name], strict=True)
        ax.plot(
            w1,
            w2,
            color=COLOURS[method],
            marker="o",
            ms=3,
            label=f"{name}, growing weight"
            if "ERM" not in name
            else "IRMv1 from ERM, growing weight",
        )
        ax.plot(w1[-1], w2[-1], color=COLOURS[method], marker="s", ms=7)
    ax.plot(1, 1, color=COLOURS["IRMv1"], marker="o", mfc="none")
    ax.annotate(
        "",
        numbers["linear"]["IRMv1 from (1, 1)"],
        (1, 1),
        arrowprops={"arrowstyle": "->", "color": COLOURS["IRMv1"]},
    )
    ax.text(
        1.03,
        0.55,
        "IRMv1 from (1, 1)\nby long steps",
        color=COLOURS["IRMv1"],
        fontsize=8,
        ha="left",
    )
    ax.plot(
        *numbers["linear"]["V-REx"][0][1:],
        marker="o",
        color=COLOURS["ERM"],
        ms=7,
        ls="",
        label="ERM",
    )
    ax.plot(1, 0, marker="*", ms=13, color="black", ls="", label="invariant predictor")
    ax.set(
        xlabel="weight of X1, the cause",
        ylabel="weight of X2, the effect",
        xlim=(-0.15, 1.45),
        ylim=(-0.15, 1.2),
    )
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure


def draw_digits(numbers: dict[str, Any]) -> plt.Figure:
    """Draw training accuracy and test accuracy of each method, for each seed."""
    figure, ax = plt.subplots(figsize=(5.6, 3.1))
    for place, method in enumerate(METHODS):
        train, test = zip(*numbers["digits"][method], strict=True)
        for offset, values, face in ((-0.12, train, "none"), (0.12, test, COLOURS[method])):
            ax.plot(
                [place + offset] * len(values), values, "o", color=COLOURS[method], mfc=face, ms=6
            )
            mean = sum(values) / len(values)
            ax.hlines(mean, place + offset - 0.1, place + offset + 0.1, color=COLOURS[method], lw=2)
            side = 0.12 if offset > 0 else -0.12
            ax.text(
                place + offset + side,
                mean,
                f"{mean:.2f}",
                ha="left" if offset > 0 else "right",
                va="center",
                fontsize=8,
                color=COLOURS[method],
            )
    ax.axhline(0.75, color="0.6", lw=0.8, ls=":")
    ax.text(-0.45, 0.76, "the best without colour", fontsize=7, color="0.4", ha="left")
    ax.axhline(0.5, color="0.6", lw=0.8, ls=":")
    ax.text(-0.45, 0.51, "chance", fontsize=7, color="0.4", ha="left")
    ax.plot([], [], "o", color="0.4", mfc="none", label="training environments")
    ax.plot([], [], "o", color="0.4", label="test: colour turned over")
    ax.set(
        xticks=range(3), xticklabels=METHODS, ylim=(0.1, 1.12), xlim=(-0.5, 2.6), ylabel="accuracy"
    )
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    return figure


PICTURES = {
    "two_bits": draw_two_bits,
    "linear_model": draw_linear_model,
    "coloured_digits": draw_digits,
}


def main() -> None:
    """Compute the numbers, and write them and the figures."""
    parser = argparse.ArgumentParser(description="Compute the numbers of two pages.")
    parser.add_argument("page", nargs="?", choices=("objectives", "theory"), help="only this page")
    page = parser.parse_args().page
    file = HERE / "known_answers.json"
    numbers = json.loads(file.read_text(encoding="utf-8"))
    if page != "theory":
        numbers = run_objectives() | {"theory": numbers["theory"]}
    if page != "objectives":
        numbers["theory"] = run_theory()
    file.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    if page == "theory":  # It has no figures.
        return
    with mpl.rc_context(STYLE):
        for name, draw in PICTURES.items():
            figure = draw(numbers)
            (HERE / "images" / f"{name}.png").write_bytes(figure_png(figure))
            plt.close(figure)


if __name__ == "__main__":
    torch.set_num_threads(1)
    mpl.use("agg")
    main()
