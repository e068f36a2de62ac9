"""Forecasts of training: the rate, the time left, and the end by early stopping."""

import itertools

import pytest

from milk_recsys.run.forecast import Forecast, stopping_epoch
from milk_recsys.run.loop import judge


@pytest.mark.parametrize("eval_every", [1, 4, 10])
@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("gains", [[], [0], [0, 1], [0, 2, 3]])
def test_the_stopping_epoch_is_that_of_the_loop(eval_every, patience, gains):
    """The loop is simulated with gains at some evaluations; each forecast must come true."""
    epochs = 60
    ends, last_gain = [], -1
    state = {"epoch": -1, "best_epoch": -1, "best": 0.0, "stale": 0, "done": False}
    for epoch in range(epochs):
        state["epoch"] = epoch
        if epoch % eval_every == 0 or epoch == epochs - 1:
            gain = epoch // eval_every in gains
            last_gain = epoch if gain else last_gain
            judge(state, state["best"] + gain, patience)
        if state["done"]:
            ended = epoch
            break
        ends.append((epoch, stopping_epoch(epoch, state["stale"], epochs, eval_every, patience)))
    else:
        ended = epochs - 1
    for epoch, end in ends:
        if epoch >= last_gain:
            assert end == (ended if ended < epochs - 1 else None)


def test_rates_and_times_come_from_the_last_epochs():
    clock = itertools.chain([0.0], (100.0 + 2 * k for k in range(1000)))
    forecast = Forecast(1000, 10, 3, validates=True, clock=clock.__next__)
    assert forecast.after(0, 0).startswith("1e+02 s/epoch, at most ")
    for epoch in range(1, 30):
        text = forecast.after(epoch, 1)
    assert text == (
        "2 s/epoch, at most 32 min 20 s left, without a gain ends after epoch 40 (22 s)"
    )
    assert forecast.after(30, 3, done=True) == "2 s/epoch"
    fitted = Forecast(10, 10, 3, validates=False, clock=itertools.count().__next__)
    assert fitted.after(0, 0) == "1 s/epoch, at most 9 s left"
    assert fitted.after(9, 0) == "1 s/epoch"
