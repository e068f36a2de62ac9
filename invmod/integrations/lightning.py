"""A callback for Lightning. Importing this module imports ``pytorch_lightning``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from typing_extensions import override

from invmod.integrations.training import PeriodicReport

__all__ = ["RobustnessCallback"]


def _callback_classes() -> list[type]:
    """Return the `Callback` of each installed package of Lightning.

    Lightning exists as two packages with separate classes, `pytorch_lightning` and
    `lightning.pytorch`.
    """
    classes: list[type] = []
    for package in ("pytorch_lightning", "lightning.pytorch"):
        try:
            classes.append(importlib.import_module(package).Callback)
        except ModuleNotFoundError as error:
            # A module that is absent within an installed package is another error.
            if error.name is None or error.name not in (package, package.split(".")[0]):
                raise
    if not classes:
        raise ImportError(
            "invmod.integrations.lightning: needs Lightning: pip install 'invmod[lightning]'."
        )
    return classes


if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
else:
    # With both packages the callback inherits from both, so that each accepts it.
    Callback = type("Callback", tuple(_callback_classes()), {})


class RobustnessCallback(PeriodicReport, Callback):
    r"""Report the robustness of a Lightning module every few epochs, and log it.

    At the end of a training epoch the module predicts held-out data under every pattern of missing
    modalities, as in `robustness_report`. These figures go to ``log_dict``, so to the logger and to
    ``trainer.callback_metrics``, where `EarlyStopping` and `ModelCheckpoint` find them:

    ==============================  ==========================================================
    name                            figure
    ==============================  ==========================================================
    ``robustness/complete``         metric with all modalities
    ``robustness/worst``            metric under the worst pattern
    ``robustness/worst_drop``       its relative loss; absent if the complete metric is 0
    ``robustness/worst_has_NAME``   1 if the worst pattern has the modality NAME, otherwise 0
    ``robustness/area``             mean metric along the missing rates; absent without rates
    ==============================  ==========================================================

    With ``every_n_epochs`` > 1 pass ``strict=False`` to `EarlyStopping`, because the names are
    absent before the first report.

    During the report the module is in evaluation mode and records no gradients. Afterwards each of
    its submodules is in its former mode, and the global random state is the former one. All epochs
    use the same seed, so they hide the same cells.

    Only rank 0 reports, and all ranks log its figures. The other ranks wait, so the report must
    take less time than the timeout of the process group.

    Arguments:
        features: modality name -> (N, ...), tensors or arrays of the held-out data, or mappings of
            them, such as token ids with an attention mask. None is a modality that is missing in
            all rows; `predict` receives it as None.
        targets: (N, ...).
        metric: function of predictions and targets that returns a number.
        predict: function of the module, the features and a mask (N, M), all on the device of the
            module, that returns predictions. None calls ``module(features, mask)``. Hidden cells
            are NaN.
        every_n_epochs: report after the epochs n, 2 n, ..., counted from 1.
        batch_size: number of rows per call of `predict`; None is all rows. With a batch size,
            predictions must have one row per row of the features.
        every_rank: let all ranks report, with the same data. Needed where parameters are sharded
            (FSDP), because each rank must then take part in a forward pass.
        seed: of hidden cells and patterns.
        prefix: of the logged names.
        report_options: further options of `robustness_report`, such as ``mask``, ``patterns``,
            ``rates``, ``higher_is_better``, ``per_unit`` or ``num_resamples`` (0 unless given: no
            intervals).

    Attributes:
        reports: epoch -> `invmod.RobustnessReport`, on the ranks that reported.

    Raises:
        TypeError: an option is unknown, `every_n_epochs` or `batch_size` is not an int, or, during
            training, predictions are not a tensor.
        ValueError: `every_n_epochs` or `batch_size` is not positive; or, during training, an error
            of `robustness_report`.
        RuntimeError: during training: parameters are sharded and `every_rank` is False, or the
            report failed on rank 0.

    Example:
        >>> import torch
        >>> features = {"image": torch.randn(8, 4), "text": torch.randn(8, 3)}
        >>> callback = RobustnessCallback(
        ...     features,
        ...     torch.ones(8),
        ...     lambda predictions, targets: (predictions == targets).double().mean().item(),
        ...     every_n_epochs=5,
        ... )
        >>> callback.reports  # after `Trainer(callbacks=[callback]).fit(...)`: epoch -> report
        {}
    """

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report and log if the epoch is due."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs:
            return
        figures = self._figures(
            pl_module,
            epoch,
            is_main=trainer.is_global_zero,
            broadcast=trainer.strategy.broadcast,
            # Predictions have the precision of validation steps.
            context=trainer.precision_plugin.forward_context,
            convert=trainer.precision_plugin.convert_input,
        )
        # All ranks have the same figures, so synchronising them changes nothing; without it
        # Lightning warns.
        pl_module.log_dict(figures, on_step=False, on_epoch=True, sync_dist=trainer.world_size > 1)
