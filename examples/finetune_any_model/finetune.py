"""Make a model that was trained on complete data robust to missing modalities.

    python examples/finetune_any_model/finetune.py                       # plain PyTorch
    python examples/finetune_any_model/finetune.py --trainer lightning   # the same in Lightning

The model is an example of your own model: a small transformer over modality tokens, which uses no
part of invmod. The data are scikit-learn's handwritten digits, seen by eight sensors, one for each
row of pixels. Any of the sensors may fail when the model is in use. The file has four parts:

    1. your model, and its training on complete samples
    2. `robust_loss`, which replaces the loss in your training step
    3. finetuning the trained weights with this loss, in a plain loop or in Lightning
    4. accuracy with missing sensors, before and after, by `invmod.robustness_report`

A transformer ignores a missing modality if its token is marked as padding. A model without a mask
for padding needs an imputer before it, such as `invmod.MeanImputer`; the guide in the
documentation shows that.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from invmod.environments import RandomSubsetEnvs
from invmod.objectives import environment_risks, invariant_objective
from invmod.penalties import vrex_penalty
from invmod.robustness import RobustnessReport, robustness_report, write_page

NUM_SENSORS = 8
SENSORS = tuple(f"row {number}" for number in range(1, NUM_SENSORS + 1))

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Options:
    """Finetune a transformer with masks, and report its accuracy with missing sensors."""

    trainer: Literal["plain", "lightning"] = "plain"
    """Training loop for finetuning; both take the same steps."""
    complete_epochs: int = 30
    """Number of epochs of training on complete data."""
    robust_epochs: int = 20
    """Number of epochs of finetuning with masks."""
    penalty_weight: float = 0.1
    """Weight of the variance of the risks over masks."""
    patterns: Literal["all", "one_missing", "one_left"] = "all"
    """Patterns of missing sensors in the report; `all` has 255."""
    num_draws: int = 2
    """Number of random masks for each missing rate of the report."""
    seed: int = 0
    """Seed of the split, the initial weights, the order of samples and the masks."""
    out: Path = Path("runs/finetune_any_model")
    """Folder for report.json and report.html."""


# --- 1. your model, and its training on complete samples ------------------------------------------


class SensorTransformer(nn.Module):
    """A transformer that classifies a digit from eight sensors.

    It maps sensors (N, 8, 8) to logits (N, 10). `padding`, bool (N, 8) or (8,), is True for tokens
    that attention ignores.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(NUM_SENSORS, width)
        self.position = nn.Parameter(0.1 * torch.randn(NUM_SENSORS, width))
        self.summary = nn.Parameter(0.1 * torch.randn(1, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, sensors: Tensor, padding: Tensor | None = None) -> Tensor:
        """Compute the logits from the summary token, which attends to all others."""
        tokens = torch.cat(
            [self.summary.expand(len(sensors), 1, -1), self.embed(sensors) + self.position], dim=1
        )
        if padding is not None:  # The summary token is never padding.
            padding = F.pad(padding.expand(len(sensors), -1), (1, 0), value=False)
        logits: Tensor = self.head(self.encoder(tokens, src_key_padding_mask=padding)[:, 0])
        return logits


def complete_loss(model: nn.Module, sensors: Tensor, targets: Tensor) -> Tensor:
    """Loss of the training on complete samples."""
    return F.cross_entropy(model(sensors), targets)


def train(
    model: nn.Module, loader: DataLoader[tuple[Tensor, ...]], loss_of: Loss, epochs: int
) -> None:
    """Train in a plain loop, with the loss function `loss_of`."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for sensors, targets in loader:
            optimiser.zero_grad()
            loss_of(model, sensors, targets).backward()
            optimiser.step()


# --- 2. the loss that replaces yours --------------------------------------------------------------


def robust_loss(penalty_weight: float, generator: torch.Generator) -> Loss:
    """Make the loss for finetuning: mean of four risks plus `penalty_weight` times their variance.

    The risks are the losses on the complete batch and on the batch under three random masks.
    """
    envs = RandomSubsetEnvs(NUM_SENSORS, rates=0.5, num_envs=3)

    def loss_of(model: nn.Module, sensors: Tensor, targets: Tensor) -> Tensor:
        available = torch.ones(len(sensors), NUM_SENSORS, dtype=torch.bool)
        risks = environment_risks(
            lambda sensors, mask: model(sensors, ~mask),
            sensors,
            available,
            envs,
            lambda logits: F.cross_entropy(logits, targets),
            include_natural=True,
            generator=generator,
        )
        return invariant_objective(risks, penalty=vrex_penalty, penalty_weight=penalty_weight)

    return loss_of


# --- 3. the same step in Lightning ----------------------------------------------------------------


def train_with_lightning(
    model: nn.Module, loader: DataLoader[tuple[Tensor, ...]], loss_of: Loss, epochs: int
) -> None:
    """Train like `train`, by a LightningModule whose training step returns the loss."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
            return loss_of(self.model, *batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=2e-3)

    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader)


# --- 4. before and after --------------------------------------------------------------------------


def predictor(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """Make the function that the report needs: predicted classes from features and mask.

    The features of a hidden sensor are NaN; its token is marked as padding.
    """
    model.eval()

    def predict(features: dict[str, Tensor], mask: Tensor) -> Tensor:
        # Attention gives a padding token the weight 0, but 0 * NaN is NaN: replace the NaN first.
        sensors = torch.stack([features[name] for name in SENSORS], dim=1).nan_to_num()
        with torch.no_grad():
            return model(sensors, ~mask).argmax(dim=1)

    return predict


def correct(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 for each correct prediction, 0 for the others."""
    return (predictions == targets).double()


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Share of correct predictions."""
    return correct(predictions, targets).mean().item()


def main(options: Options) -> RobustnessReport:
    """Train on complete data, finetune a copy with masks, and compare the two in a report."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / 16  # (N, sensor, pixel)
    targets = torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(options.seed)
    train_rows, test_rows = torch.randperm(len(targets), generator=generator).tensor_split([1200])
    loader = DataLoader(
        TensorDataset(images[train_rows], targets[train_rows]),
        batch_size=100,
        shuffle=True,
        generator=generator,
    )

    torch.manual_seed(options.seed)
    model = SensorTransformer()
    train(model, loader, complete_loss, options.complete_epochs)

    finetuned = copy.deepcopy(model)
    loop = train if options.trainer == "plain" else train_with_lightning
    loop(finetuned, loader, robust_loss(options.penalty_weight, generator), options.robust_epochs)

    report = robustness_report(
        {"complete data": predictor(model), "finetuned": predictor(finetuned)},
        dict(zip(SENSORS, images[test_rows].unbind(1), strict=True)),
        targets[test_rows],
        accuracy,
        per_unit=correct,
        patterns=options.patterns,
        num_draws=options.num_draws,
        generator=torch.Generator().manual_seed(options.seed),
    )
    print(report)
    options.out.mkdir(parents=True, exist_ok=True)
    report.save(options.out / "report.json")
    write_page(report, options.out / "report.html")
    print(f"\nThe page is {options.out / 'report.html'}.")
    return report


if __name__ == "__main__":
    main(tyro.cli(Options))
