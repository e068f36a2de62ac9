"""How long training will take at most, and when early stopping would end it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

__all__ = ["Forecast", "duration", "stopping_epoch"]

RECENT = 20  # Number of epochs whose times are averaged.


class Forecast:
    """Forecasts from the times of the last epochs, evaluations included.

    Arguments:
        epochs, eval_every, patience: options of the loop.
        validates: whether there are validation items, without which training does not stop early.
        clock: returns seconds.
    """

    def __init__(
        self,
        epochs: int,
        eval_every: int,
        patience: int,
        *,
        validates: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._epochs, self._eval_every, self._patience = epochs, eval_every, patience
        self._validates, self._clock = validates, clock
        self._ends: deque[float] = deque([clock()], maxlen=RECENT + 1)

    def after(self, epoch: int, stale: int, *, done: bool = False) -> str:
        """Return the forecast after an epoch has ended.

        Arguments:
            stale: number of evaluations since the last gain.
            done: whether training ends now.
        """
        self._ends.append(self._clock())
        left = self._epochs - 1 - epoch
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        text = f"{each:.2g} s/epoch"
        if done or left <= 0:
            return text
        text += f", at most {duration(left * each)} left"
        end = stopping_epoch(epoch, stale, self._epochs, self._eval_every, self._patience)
        if self._validates and end is not None:
            text += f", without a gain ends after epoch {end} ({duration((end - epoch) * each)})"
        return text


def stopping_epoch(
    epoch: int, stale: int, epochs: int, eval_every: int, patience: int
) -> int | None:
    """Return the epoch after which training stops if no evaluation brings a gain.

    None if the last epoch comes before.

    Example:
        >>> stopping_epoch(epoch=10, stale=1, epochs=100, eval_every=10, patience=3)
        30
    """
    end = (epoch // eval_every + patience - stale) * eval_every
    return end if end < epochs - 1 else None


def duration(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> duration(4.2), duration(150), duration(8000)
        ('4 s', '2 min 30 s', '2 h 13 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
