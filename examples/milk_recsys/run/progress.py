"""Output of a run: notes, a progress bar with loss, speed and best score, and lines for a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from milk_recsys.base.terminal import printable

__all__ = ["Progress"]

SECONDS_BETWEEN_UPDATES = 0.2


class Progress:
    """Output of a run: a progress bar on a terminal, and one line per evaluation.

    Arguments:
        quiet: print nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,  # Remove the bar at the end; lines printed above it remain.
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def log(self, text: str) -> None:
        """Print a line."""
        # Without markup=False, rich would read square brackets in the text as formatting.
        self.console.print(printable(text), markup=False)

    @contextmanager
    def training(self, model: str, epochs: int, done: int) -> Iterator[TrainingBar]:
        """Show the training of one model, of which `done` epochs are complete already."""
        if done:
            self.log(f"{model}: resuming after epoch {done - 1}")
        bar = TrainingBar(self, self._bars, model, epochs, done)
        try:
            yield bar
        finally:
            bar.close()


class TrainingBar:
    """The progress bar of one model."""

    def __init__(self, progress: Progress, bars: Bars, model: str, epochs: int, done: int) -> None:
        self._progress, self._bars, self._model = progress, bars, model
        self._task = bars.add_task(model, total=epochs, completed=done, figures="")
        self._shown = time.monotonic()

    def step(self) -> None:
        """Refresh the elapsed time within a long epoch."""
        if time.monotonic() - self._shown > SECONDS_BETWEEN_UPDATES:
            self._shown = time.monotonic()
            self._bars.refresh()

    def epoch(self, line: dict[str, Any], best: float, monitor: str, forecast: str = "") -> None:
        """Show an epoch that has ended.

        Arguments:
            line: its line of the history; best: the best validation score so far; monitor: its
                metric; forecast: how long training will take, from `run.forecast`.
        """
        validation = (
            f"validation {monitor} {line['validation'][monitor]:.4f}"
            if "validation" in line
            else ""
        )
        if "loss" not in line:
            figures = ", ".join(filter(None, [f"fitted in {line['seconds']:.3g} s", validation]))
            self._progress.log(f"{self._model}: {figures}")
            return
        speed = f"{line['triples_per_second']:,.0f} triples/s"
        figures = f"loss {line['loss']:.4f}  {speed}"
        if best:  # Without validation items there is no score.
            figures += f"  best {monitor} {best:.4f}"
        figures += f"  {forecast}" if forecast else ""
        self._bars.update(self._task, completed=line["epoch"] + 1, figures=figures)
        if validation:
            mark = " *" if line["best"] else ""
            self._progress.log(
                f"{self._model} epoch {line['epoch']}: loss {line['loss']:.4f}, {speed}, "
                f"{validation}{mark}{f', {forecast}' if forecast else ''}"
            )

    def close(self) -> None:
        """Remove the bar."""
        self._bars.remove_task(self._task)
