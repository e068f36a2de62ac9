"""What a run tells on the terminal: notes, a progress bar with loss, speed and the best score, and lines for a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

__all__ = ["Progress"]

SECONDS_BETWEEN_UPDATES = 0.2


class Progress:
    """The terminal during a run. A terminal gets a moving bar; a log file gets one line an evaluation.

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
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line; square brackets in it are text."""
        self.console.print(text, markup=False)

    @contextmanager
    def training(self, model: str, epochs: int, done: int, *, trains: bool = True) -> Iterator[TrainingBar]:
        """Show the training of one model, of which `done` epochs are over already; one that `trains` has a loss."""
        if done:
            self.say(f"{model}: going on after epoch {done - 1}")
        bar = TrainingBar(self, self._bars, model, epochs, done, trains=trains)
        try:
            yield bar
        finally:
            bar.close()


class TrainingBar:
    """The bar of one model."""

    def __init__(self, progress: Progress, bars: Bars, model: str, epochs: int, done: int, *, trains: bool) -> None:
        self._progress, self._bars, self._model, self._trains = progress, bars, model, trains
        self._task = bars.add_task(model, total=epochs, completed=done, figures="")
        self._shown = time.monotonic()

    def step(self) -> None:
        """Keep the clock moving within a long epoch."""
        if time.monotonic() - self._shown > SECONDS_BETWEEN_UPDATES:
            self._shown = time.monotonic()
            self._bars.refresh()

    def epoch(self, line: dict[str, Any], best: float, monitor: str) -> None:
        """Show the line of an epoch that has ended."""
        speed = f"{line['triples_per_second']:,.0f} triples/s"
        figures = f"loss {line['loss']:.4f}  {speed}  best {monitor} {best:.4f}"
        self._bars.update(self._task, completed=line["epoch"] + 1, figures=figures)
        if "validation" in line:
            score, mark = line["validation"][monitor], " *" if line["best"] else ""
            done = f"{self._model} epoch {line['epoch']}: loss {line['loss']:.4f}, {speed},"
            self._progress.say(f"{done if self._trains else self._model + ':'} validation {monitor} {score:.4f}{mark}")

    def close(self) -> None:
        """Take the bar away."""
        self._bars.remove_task(self._task)
