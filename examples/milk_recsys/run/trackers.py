"""Trackers of a run: TensorBoard, MLflow, and those of other packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from milk_recsys.config.options import Options, to_json
from milk_recsys.config.trackers import find_tracker

__all__ = ["MLflow", "Tracked", "Tracker", "flat_numbers", "open_tracker"]


class Tracker(Protocol):
    """Where a run sends its numbers. An error in a tracker never ends a run.

    A tracker is made by a function ``(folder, config)``: the folder of the run, and its options as
    config.json has them.
    """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Store the numbers of an epoch, such as ``loss`` and ``validation/ndcg@20``."""
        ...

    def finish(self, values: Mapping[str, float]) -> None:
        """Store the final numbers, such as ``test/ndcg@20``, and close."""
        ...


class TensorBoard:
    """Event files in the folder ``tensorboard`` of the run."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("options", "\n".join(f"    {k}: {v}" for k, v in config.items()))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Store the numbers of an epoch."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, values: Mapping[str, float]) -> None:
        """Store the final numbers as step 0, and close the file."""
        self.log(0, values)
        self._writer.close()


class MLflow:
    """A run of MLflow, in the place that its environment variables name.

    MLflow does not accept `@` in names, so ``ndcg@20`` is ``ndcg_at_20``.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        self._mlflow.start_run(run_name=folder.name)
        own = config.get("method") or {}
        options = {**config, **own}
        self._mlflow.log_params({k: v for k, v in options.items() if k != "method"})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Store the numbers of an epoch."""
        named = {name.replace("@", "_at_"): value for name, value in values.items()}
        self._mlflow.log_metrics(named, step=step)

    def finish(self, values: Mapping[str, float]) -> None:
        """Store the final numbers, and end the run of MLflow."""
        self.log(0, values)
        self._mlflow.end_run()


class Tracked:
    """Sends lines of the history to a tracker, and stops when the tracker fails.

    Arguments:
        tracker: the tracker, or None.
        log: function that prints a note.
    """

    def __init__(self, tracker: Tracker | None, log: Callable[[str], None] = print) -> None:
        self._tracker, self._log = tracker, log

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Send a line of history.jsonl."""
        if self._tracker is not None:
            tracker, values = self._tracker, flat_numbers(line)
            step = int(values.pop("epoch"))
            self._guarded(lambda: tracker.log(step, values))

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Send the numbers of metrics.json: those of the test, and of the whole run."""
        if self._tracker is not None:
            tracker = self._tracker
            names = ("test", "test_complete", "best_epoch", "seconds", "seconds_per_epoch")
            values = flat_numbers({name: metrics[name] for name in names if name in metrics})
            self._guarded(lambda: tracker.finish(values))

    def _guarded(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:
            self._tracker = None
            self._log(
                f"note: the tracker failed ({type(error).__name__}: {error!s:.200}); nothing more "
                "is sent to it. The files of the run are complete."
            )


def open_tracker(options: Options, folder: Path, log: Callable[[str], None]) -> Tracked:
    """Open the tracker of a run, if it has one."""
    name = options.run.tracker
    if name is None:
        return Tracked(None)
    try:
        return Tracked(find_tracker(name)()(folder, to_json(options)), log)
    except Exception as error:
        log(f"note: --tracker {name} cannot be opened ({type(error).__name__}: {error!s:.200}).")
        return Tracked(None)


def flat_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers in nested mappings, with names joined by a slash.

    Example:
        >>> flat_numbers({"loss": 0.5, "best": True, "validation": {"ndcg@20": 0.25}})
        {'loss': 0.5, 'validation/ndcg@20': 0.25}
    """
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + name] = value
    return flat
