"""Data of the controlled experiments in examples/closed_or_trained/train.py.

Each function makes the problem of one repetition, which has one split. Repetitions differ in the
split, and in everything that is drawn at random.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digits_quadrants.train import digits_problem
from invmod.missingness import hide_features, mask_from_features, simulate_mcar
from missing_losses import EMBEDDING_DIM
from missing_methods import Problem, accuracy

__all__ = ["clusters", "images", "informative", "labels", "missing", "size"]

STEPS = 360  # number of training steps, which is that of 40 epochs of 900 rows


def generator_of(seed: int) -> torch.Generator:
    """Return a generator for a repetition."""
    return torch.Generator().manual_seed(3000 + seed)


def problem(
    features: dict[str, Tensor],
    targets: Tensor,
    parts: tuple[Tensor, Tensor, Tensor],
    encoder: Callable[[int], nn.Module] | None = None,
) -> Problem:
    """Make a problem with one split, and with about `STEPS` training steps."""
    epochs = round(STEPS / -(-len(parts[0]) // 100))
    return Problem("controlled", features, targets, lambda _: parts, accuracy, epochs, encoder)


def some_digits(seed: int, num_rows: int) -> tuple[Problem, tuple[Tensor, Tensor, Tensor]]:
    """Return the digits in quadrants, and a split with `num_rows` training rows."""
    digits = digits_problem(1)
    train, validation, test = digits.split(seed)
    return digits, (train[:num_rows], validation, test)


def size(seed: int, num_rows: int) -> Problem:
    """Digits in quadrants with a given number of training rows."""
    digits, parts = some_digits(seed, num_rows)
    return problem(digits.features, digits.targets, parts)


def missing(seed: int, rate: float) -> Problem:
    """Digits in quadrants, 400 training rows; a share of the training cells is missing."""
    digits, parts = some_digits(seed, 400)
    names = tuple(digits.features)
    observed = mask_from_features(digits.features, names)
    kept = simulate_mcar(observed, rate, rows=parts[0], generator=generator_of(seed)).mask
    return problem(hide_features(digits.features, kept, names), digits.targets, parts)


def informative(seed: int) -> Problem:
    """Digits in quadrants, 900 training rows; the class decides which cells are missing.

    In all rows, each left quadrant of the digits 0 to 4, and each right quadrant of the digits 5 to
    9, is missing with a probability of 60%.
    """
    digits, parts = some_digits(seed, 900)
    names = tuple(digits.features)
    left = torch.tensor([name.endswith("left") for name in names])
    at_risk = left == (digits.targets < 5)[:, None]
    hidden = torch.rand(at_risk.shape, generator=generator_of(seed)) < 0.6
    kept = ~(at_risk & hidden)
    return problem(hide_features(digits.features, kept, names), digits.targets, parts)


def labels(seed: int) -> Problem:
    """Digits in halves; the right half is given by features that were made with the labels.

    A network with one hidden layer is trained on the noisy right half of the training rows until it
    fits their classes, and its class scores are the modality. The left half has its pixels.
    """
    digits, parts = some_digits(seed, 300)
    generator = generator_of(seed)
    halves = {
        side: torch.cat([digits.features[f"{end} {side}"] for end in ("top", "bottom")], dim=1)
        for side in ("left", "right")
    }
    right = halves["right"] + torch.randn(halves["right"].shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 10))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(200):
        loss = F.cross_entropy(network(right[parts[0]]), digits.targets[parts[0]])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        made = network(right)
    return problem({"left": halves["left"], "right": made}, digits.targets, parts)


ROWS_PER_GROUP = 8
NUM_GROUPS = (40, 20, 100)  # for training, validation and test


def group_numbers() -> Tensor:
    """Return the group of each row of `clusters`."""
    return torch.arange(sum(NUM_GROUPS)).repeat_interleave(ROWS_PER_GROUP)


def clusters(seed: int) -> Problem:
    """Groups of eight rows that resemble each other, such as samples of one patient.

    A row of a modality is the signal of its class, the vector of its group, and noise. The vectors
    of groups differ more from each other than the signals of the classes do. All rows of a group
    have its class, and no group is in two parts of the split.
    """
    generator = generator_of(seed)
    of_group = torch.randint(2, (sum(NUM_GROUPS),), generator=generator)
    groups = group_numbers()
    features = {}
    for name, strength in (("a", 0.4), ("b", 0.25)):
        signal = strength * F.one_hot(of_group, 2).float() @ torch.randn(2, 20, generator=generator)
        own = torch.randn(len(of_group), 20, generator=generator)
        noise = 0.3 * torch.randn(len(groups), 20, generator=generator)
        features[name] = (signal + own)[groups] + noise
    sizes = [ROWS_PER_GROUP * count for count in NUM_GROUPS]
    train, validation, test = torch.arange(len(groups)).split(sizes)
    return problem(features, of_group[groups], (train, validation, test))


CANVAS = 14


class SmallConvolution(nn.Module):
    """Two convolutions, the maximum over all positions, and a linear map to an embedding."""

    def __init__(self, _width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(32, EMBEDDING_DIM),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels (N, CANVAS^2) to embeddings (N, D)."""
        return self.layers(x.reshape(-1, 1, CANVAS, CANVAS))


def images(seed: int) -> Problem:
    """Halves of digits, each at a random place of a larger picture."""
    digits, parts = some_digits(seed, 900)
    generator = generator_of(seed)
    features = {}
    for side in ("left", "right"):
        top, bottom = (
            digits.features[f"{end} {side}"].reshape(-1, 4, 4) for end in ("top", "bottom")
        )
        half = torch.cat([top, bottom], dim=1)
        canvas = torch.zeros(len(half), CANVAS, CANVAS)
        row = torch.randint(CANVAS - 8 + 1, (len(half),), generator=generator)
        column = torch.randint(CANVAS - 4 + 1, (len(half),), generator=generator)
        for index, pixels in enumerate(half):
            canvas[index, row[index] : row[index] + 8, column[index] : column[index] + 4] = pixels
        features[side] = canvas.flatten(1)
    return problem(features, digits.targets, parts, SmallConvolution)
