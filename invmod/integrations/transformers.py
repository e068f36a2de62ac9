"""A callback for the Trainer of Transformers. Importing this module imports ``transformers``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if find_spec("transformers") is None:
    raise ImportError(
        "invmod.integrations.transformers: needs Transformers: pip install 'invmod[transformers]'."
    )

from torch import distributed, nn
from transformers import TrainerCallback
from typing_extensions import override

from invmod.integrations.training import PeriodicReport, Predict
from invmod.robustness.inputs import Array

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

__all__ = ["RobustnessCallback"]


class RobustnessCallback(PeriodicReport, TrainerCallback):
    r"""Report the robustness of a Trainer's model every few epochs, and log it.

    At the end of an epoch the model predicts held-out data under every pattern of missing
    modalities, as in `robustness_report`. The figures go to ``trainer.log``, so to all places that
    ``report_to`` names and to ``trainer.state.log_history``. Their names are those of
    `invmod.integrations.lightning.RobustnessCallback`: ``robustness/complete``,
    ``robustness/worst``, ``robustness/worst_drop``, ``robustness/worst_has_NAME`` and
    ``robustness/area``.

    An evaluation of the same epoch gets them too, with ``eval_`` before the names. With
    ``eval_strategy="epoch"`` and a report after every epoch,
    ``metric_for_best_model="robustness/worst"`` therefore keeps the most robust model.

    During the report the model is in evaluation mode and records no gradients. Afterwards each of
    its submodules is in its former mode, and the global random state is the former one. All epochs
    use the same seed, so they hide the same cells. Only rank 0 reports, and all ranks log its
    figures; the other ranks wait, so the report must take less time than ``ddp_timeout``.

    Arguments:
        trainer: the Trainer that trains the model and logs. Callbacks do not receive it, so build
            it first and then call ``trainer.add_callback(RobustnessCallback(trainer, ...))``.
        features: modality name -> (N, ...), tensors or arrays of the held-out data, or mappings of
            them, such as token ids with an attention mask. None is a modality that is missing in
            all rows; `predict` receives it as None.
        targets: (N, ...).
        metric: function of predictions and targets that returns a number.
        predict: function of the model, the features and a mask (N, M), all on the device of the
            model, that returns predictions, such as the logits of ``model(**inputs)``. None calls
            ``model(features, mask)``, which must return a tensor. Hidden cells are NaN.
        every_n_epochs, batch_size, every_rank, seed, prefix, report_options: as in
            `invmod.integrations.lightning.RobustnessCallback`.

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
        >>> def add_report(trainer, features, labels, accuracy):
        ...     def predict(model, features, mask):
        ...         return model(pixels=features["image"].nan_to_num()).logits.argmax(dim=1)
        ...     trainer.add_callback(
        ...         RobustnessCallback(trainer, features, labels, accuracy, predict=predict))
    """

    def __init__(
        self,
        trainer: Trainer,
        features: Mapping[str, Any],
        targets: Array,
        metric: Callable[[Any, Any], float],
        *,
        predict: Predict | None = None,
        every_n_epochs: int = 1,
        batch_size: int | None = None,
        every_rank: bool = False,
        seed: int = 0,
        prefix: str = "robustness",
        **report_options: Any,
    ) -> None:
        super().__init__(
            features,
            targets,
            metric,
            predict=predict,
            every_n_epochs=every_n_epochs,
            batch_size=batch_size,
            every_rank=every_rank,
            seed=seed,
            prefix=prefix,
            **report_options,
        )
        self.trainer = trainer
        # The figures of the current epoch, empty if it has no report.
        self._current: dict[str, float] = {}

    @override
    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the figures of the epoch before."""
        self._current = {}

    @override
    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report and log if the epoch is due."""
        # The last epoch ends early with `max_steps`; it counts as an epoch.
        epoch = math.ceil(round(state.epoch or 0.0, 6))
        if epoch % self.every_n_epochs:
            return
        model: nn.Module = self.trainer.accelerator.unwrap_model(kwargs["model"])
        self._current = self._figures(
            model, epoch, is_main=state.is_world_process_zero, broadcast=_broadcast
        )
        # Logging clears the flag by which the Trainer then logs the loss of the epoch.
        should_log = control.should_log
        self.trainer.log(dict(self._current))
        control.should_log = should_log

    @override
    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the figures of the epoch to the metrics of the evaluation."""
        metrics: dict[str, float] | None = kwargs.get("metrics")
        if metrics is not None:
            metrics.update({f"eval_{name}": value for name, value in self._current.items()})

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the figures, because the Trainer may load the best model now."""
        self._current = {}


def _broadcast(figures: Any) -> Any:
    """Return the figures of rank 0."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return figures
    objects = [figures]
    distributed.broadcast_object_list(objects, src=0)
    return objects[0]
