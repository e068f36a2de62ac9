"""Draw figures of README and docs/choosing.md: ``python docs/figures.py`` (some minutes).

They are written to docs/images. `digits` shows results of a study on real data, from its table.
`small_study` is an experiment: a classifier on three synthetic modalities with different amounts of
noise.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from torch import Tensor, nn

import invmod
from invmod.robustness.document import figure_png

ALPHAS = (0.1, 1.0, 10.0)
PENALTY_WEIGHTS = (0.0, 1.0, 5.0, 20.0, 50.0)
SEEDS = range(10)
NOISE = {"good": 0.5, "fair": 1.0, "poor": 2.0}  # standard deviation; the signal's is about 1
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.bbox": "tight",
}


def draw_all(folder: Path) -> None:
    """Draw every figure into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, draw in PICTURES.items():
            figure = draw()
            (folder / f"{name}.png").write_bytes(figure_png(figure))
            plt.close(figure)


def draw_environments() -> plt.Figure:
    """Draw environments of three modalities as points in the triangle of weights."""
    # Barycentric coordinates: a corner stands for all weight on one modality.
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    figure, axes = plt.subplots(1, len(ALPHAS), figsize=(8, 2.7))
    for ax, alpha in zip(axes, ALPHAS, strict=True):
        envs = invmod.CyclicMixupEnvs(3, alpha)
        weights = envs.sample((150,), generator=torch.Generator().manual_seed(0)).numpy()
        points = weights[:, 1:].reshape(-1, 3) @ corners
        one = weights[0] @ corners
        ax.plot(*np.vstack([corners, corners[:1]]).T, color="0.4", lw=1)
        ax.scatter(*points.T, s=6, alpha=0.35, lw=0, color="tab:blue")
        ax.scatter(
            *one[1:].T,
            s=36,
            color="tab:orange",
            edgecolor="black",
            lw=0.5,
            label="one draw and its two shifts",
        )
        ax.scatter(*one[0], s=60, color="black", marker="+", label="uniform row")
        for corner, name, offset in zip(
            corners, ("text", "image", "audio"), ((0, -9), (0, -9), (0, 8)), strict=True
        ):
            ax.annotate(
                name, corner, xytext=offset, textcoords="offset points", ha="center", va="center"
            )
        ax.set(title=f"alpha = {alpha:g}", aspect="equal", xlim=(-0.1, 1.1), ylim=(-0.12, 1.0))
        ax.axis("off")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False)
    return figure


def draw_largest_weight() -> plt.Figure:
    """Draw median and quartiles of the largest weight of an environment, as functions of alpha."""
    alphas = np.logspace(-2, 2, 33)
    figure, ax = plt.subplots(figsize=(5.5, 3))
    for num_modalities in (2, 3, 5):
        quartiles = []
        for alpha in alphas:
            envs = invmod.CyclicMixupEnvs(num_modalities, float(alpha), include_uniform=False)
            weights = envs.sample((4000,), generator=torch.Generator().manual_seed(0))
            # The environments of a cycle are permutations of each other: the first one is enough.
            largest = weights[:, 0].amax(dim=1).double()
            quartiles.append(
                torch.quantile(
                    largest, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
                ).numpy()
            )
        low, median, high = np.array(quartiles).T
        (line,) = ax.plot(alphas, median, label=f"{num_modalities} modalities")
        ax.fill_between(alphas, low, high, color=line.get_color(), alpha=0.15, lw=0)
    ax.set(xscale="log", xlabel="alpha", ylabel="largest weight of an environment", ylim=(0, 1.02))
    ax.legend(frameon=False)
    return figure


def draw_small_study() -> plt.Figure:
    """Draw the test loss as a function of the penalty weight, for each alpha: means over seeds."""
    titles = ("all modalities", "the good modality missing", "only the good modality")
    figure, axes = plt.subplots(1, 3, figsize=(8.5, 2.8), sharey=True)
    for alpha, marker in zip(ALPHAS, "os^", strict=True):
        losses = np.array(
            [
                np.mean([small_study(alpha, weight, seed=s) for s in SEEDS], axis=0)
                for weight in PENALTY_WEIGHTS
            ]
        )
        print(f"alpha = {alpha:g}: {losses.round(3).tolist()}")
        for ax, column in zip(axes, losses.T, strict=True):
            ax.plot(
                range(len(PENALTY_WEIGHTS)), column, marker=marker, ms=4, label=f"alpha = {alpha:g}"
            )
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, xlabel="penalty weight")
        ax.set_xticks(range(len(PENALTY_WEIGHTS)), [f"{weight:g}" for weight in PENALTY_WEIGHTS])
    axes[0].set_ylabel("test loss (lower is better)")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    return figure


def small_study(
    alpha: float, penalty_weight: float, *, steps: int = 250, seed: int = 0
) -> tuple[float, float, float]:
    """Train a linear classifier with the invariant objective on synthetic data.

    A latent vector s of 6 numbers decides the label. Each modality has 12 linear mixtures of s,
    plus noise of its own. Encoders, fusion and head are linear. A missing modality is imputed by
    its mean, which is 0.

    Returns:
        test losses with all modalities, without the good one, and with the good one alone.
    """
    generator = torch.Generator().manual_seed(seed)
    mixing = {name: torch.randn(6, 12, generator=generator) / 6**0.5 for name in NOISE}
    train, test = (_synthetic_data(n, mixing, generator) for n in (600, 4000))
    encoders = invmod.ModalityEncoders.linear(dict.fromkeys(NOISE, 12), 4)
    head = nn.Linear(4, 1)
    parameters = [*encoders.parameters(), *head.parameters()]
    for parameter in parameters:
        nn.init.uniform_(parameter, -0.3, 0.3, generator=generator)
    optimiser = torch.optim.Adam(parameters, lr=0.03)

    def risks(
        data: tuple[dict[str, Tensor], Tensor], weights: Tensor, missing: Sequence[str] = ()
    ) -> Tensor:
        features = {name: x * (name not in missing) for name, x in data[0].items()}
        logits = head(invmod.fuse(encoders(features), weights))[..., 0]
        return F.binary_cross_entropy_with_logits(
            logits, data[1].expand_as(logits), reduction="none"
        ).mean(dim=1)

    # One sample of environments for each training step; every step uses all training samples.
    for weights in invmod.CyclicMixupEnvs(3, alpha).sample((steps,), generator=generator):
        loss = invmod.invariant_objective(
            risks(train, weights), penalty=invmod.vrex_penalty, penalty_weight=penalty_weight
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        uniform = torch.full((1, 3), 1 / 3)
        cases = ((), ("good",), ("fair", "poor"))
        complete, without, alone = (float(risks(test, uniform, missing)) for missing in cases)
    return complete, without, alone


def _synthetic_data(
    n: int, mixing: dict[str, Tensor], generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Draw n samples: features (n, 12) of each modality, and labels (n,) of 0 and 1."""
    s = torch.randn(n, 6, generator=generator)
    features = {
        name: s @ mix + NOISE[name] * torch.randn(n, 12, generator=generator)
        for name, mix in mixing.items()
    }
    # (s_0 + s_1) / sqrt(2) is standard normal; the factor 3 makes most labels nearly certain.
    probability = torch.sigmoid(3 * (s[:, 0] + s[:, 1]) / 2**0.5)
    return features, (torch.rand(n, generator=generator) < probability).float()


def draw_digits() -> plt.Figure:
    """Draw the accuracy on digits by the number of hidden quadrants, with 95% intervals."""
    table = Path(__file__).parent / "results/digits_quadrants/table.md"
    rows = {}
    for line in table.read_text(encoding="utf-8").splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if name in DIGITS and name not in rows:
            rows[name] = np.array([[float(x) for x in c.split(" ± ")] for c in cells[:4]])
    figure, ax = plt.subplots(figsize=(6, 3.2))
    for name, label in DIGITS.items():
        mean, half = rows[name].T
        ax.errorbar(range(4), mean, half, label=label, marker="o", ms=4, capsize=2, lw=1.2)
    ax.set(xlabel="hidden quadrants of a digit", ylabel="accuracy on test digits", ylim=(0.45, 1))
    ax.set_xticks(range(4))
    ax.legend(frameon=False)
    return figure


# Methods of the study on digits -> their labels.
DIGITS = {
    "kernel ridge": "PatternKernelRidge, without training",
    "MILK": "environments, alignment and V-REx (MILK)",
    "dropout": "modality dropout",
    "ERM": "trained on complete digits",
}

PICTURES = {
    "digits": draw_digits,
    "environments": draw_environments,
    "largest_weight": draw_largest_weight,
    "small_study": draw_small_study,
}
"""Name of a file in docs/images, without its suffix -> the function that draws it."""

if __name__ == "__main__":
    mpl.use("agg")
    draw_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
