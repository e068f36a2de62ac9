"""Make a model that was trained on complete data robust to missing modalities.

    python examples/finetune_any_model/finetune.py                       # plain PyTorch
    python examples/finetune_any_model/finetune.py --trainer lightning   # the same step, in Lightning

The model stands for yours: a small transformer over modality tokens, with nothing of invmod inside. The data are
scikit-learn's handwritten digits as eight sensors see them, one for each row of pixels; any of them may fail once the
model is in use. The file goes in four steps:

    1. your model and how you trained it, on complete samples
    2. what is added: `robust_loss`, which takes the place of the loss in your training step
    3. some epochs with it, from the trained weights on, in a plain loop or in Lightning
    4. accuracy when sensors are missing, before and after, by `invmod.robustness_report`

A transformer leaves a missing modality out through the mask that it has for padding. A model without such a mask takes
an imputer in front of it instead, `invmod.MeanImputer` for one; the guide in the documentation goes that way.
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

import invmod
import invmod.robustness

NUM_SENSORS = 8
SENSORS = tuple(f"row {number}" for number in range(1, NUM_SENSORS + 1))

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Options:
    """Finetune a complete-data transformer on masks, and report its accuracy under missing sensors."""

    trainer: Literal["plain", "lightning"] = "plain"
    """Which loop finetunes; the step is the same."""
    complete_epochs: int = 30
    """Epochs of the training on complete data."""
    robust_epochs: int = 20
    """Epochs of finetuning with masks."""
    penalty_weight: float = 0.1
    """Weight of the variance of the risks over masks."""
    patterns: Literal["all", "one_missing", "one_left"] = "all"
    """Patterns of missing sensors in the report; all are 255."""
    num_draws: int = 2
    """Draws of masks at each missing rate of the report."""
    seed: int = 0
    """Of the split, the initial weights, the order of samples and the masks."""
    out: Path = Path("runs/finetune_any_model")
    """Folder for report.json and report.html."""


# ------------------------------------------------------------------------------ 1. your model, and how you trained it


class SensorTransformer(nn.Module):
    """Logits (N, 10) of what eight sensors see (N, 8, 8); `padding` (N, 8) or (8,) says which tokens to leave out."""

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
        """Classify by the summary token, which attends to all others."""
        tokens = torch.cat(
            [self.summary.expand(len(sensors), 1, -1), self.embed(sensors) + self.position], dim=1
        )
        if padding is not None:
            padding = F.pad(padding.expand(len(sensors), -1), (1, 0), value=False)
        logits: Tensor = self.head(self.encoder(tokens, src_key_padding_mask=padding)[:, 0])
        return logits


def complete_loss(model: nn.Module, sensors: Tensor, targets: Tensor) -> Tensor:
    """What the model was trained with."""
    return F.cross_entropy(model(sensors), targets)


def train(
    model: nn.Module, loader: DataLoader[tuple[Tensor, ...]], loss_of: Loss, epochs: int
) -> None:
    """A plain training loop; what is minimised is an argument of it."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for sensors, targets in loader:
            optimiser.zero_grad()
            loss_of(model, sensors, targets).backward()
            optimiser.step()


# ------------------------------------------------------------------------------------------------ 2. what is added


def robust_loss(penalty_weight: float, generator: torch.Generator) -> Loss:
    """The loss to finetune with: mean and variance of the risks of the complete batch and of three masked ones."""
    envs = invmod.RandomSubsetEnvs(NUM_SENSORS, rates=0.5, num_envs=3)

    def loss_of(model: nn.Module, sensors: Tensor, targets: Tensor) -> Tensor:
        masks = envs.sample_masks(generator=generator)  # (E, M), True is available
        logits = [model(sensors), *(model(sensors, ~mask) for mask in masks)]
        risks = torch.stack([F.cross_entropy(of_env, targets) for of_env in logits])  # (1 + E,)
        return invmod.invariant_objective(
            risks, penalty=invmod.vrex_penalty, penalty_weight=penalty_weight
        )

    return loss_of


# ------------------------------------------------------------------------------------- 3. the same step in Lightning


def train_with_lightning(
    model: nn.Module, loader: DataLoader[tuple[Tensor, ...]], loss_of: Loss, epochs: int
) -> None:
    """What `train` does, by a LightningModule whose training step returns the loss."""
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


# ------------------------------------------------------------------------------------------------- 4. before and after


def predictor(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """What the report asks for: class by features and mask. A hidden sensor comes as NaN and is left out as padding."""
    model.eval()

    def predict(features: dict[str, Tensor], mask: Tensor) -> Tensor:
        sensors = torch.stack([features[name] for name in SENSORS], dim=1).nan_to_num()
        with torch.no_grad():
            return model(sensors, ~mask).argmax(dim=1)

    return predict


def right(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 for each sample whose class is right, else 0."""
    return (predictions == targets).double()


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Share of right classes."""
    return right(predictions, targets).mean().item()


def main(options: Options) -> invmod.RobustnessReport:
    """Train, finetune, compare."""
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

    report = invmod.robustness_report(
        {"complete data": predictor(model), "finetuned": predictor(finetuned)},
        dict(zip(SENSORS, images[test_rows].unbind(1), strict=True)),
        targets[test_rows],
        accuracy,
        per_unit=right,
        patterns=options.patterns,
        num_draws=options.num_draws,
        generator=torch.Generator().manual_seed(options.seed),
    )
    print(report)
    options.out.mkdir(parents=True, exist_ok=True)
    report.save(options.out / "report.json")
    invmod.robustness.write_page(report, options.out / "report.html")
    print(f"\nThe page is {options.out / 'report.html'}.")
    return report


if __name__ == "__main__":
    main(tyro.cli(Options))
