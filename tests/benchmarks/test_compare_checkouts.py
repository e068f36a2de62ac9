"""Tests of the comparison of the metrics of two checkouts."""

import math
from typing import Any

import pytest

from benchmarks import compare_checkouts
from benchmarks.compare_checkouts import compare, main, numbers

METRICS = {
    "model": "knn",
    "finished": True,
    "seconds": 3.0,
    "test": {"users": 9, "ndcg@20": 0.5},
    "floor": {"test": {"ndcg@20": 0.25}},
    "curve": [0.1, 0.2],
}


def test_the_numbers_are_named_by_their_paths_and_times_are_left_out() -> None:
    assert dict(numbers(METRICS)) == {
        "test.users": 9.0,
        "test.ndcg@20": 0.5,
        "floor.test.ndcg@20": 0.25,
        "curve.0": 0.1,
        "curve.1": 0.2,
    }


@pytest.mark.parametrize(
    ("before", "after", "largest", "unpaired"),
    [
        ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.25}, 0.25, []),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0}, 0.0, ["b"]),
        ({"a": 1.0}, {"a": 1.0, "c": 2.0}, 0.0, ["c"]),
        ({"a": 1.0, "b": math.nan}, {"a": 1.5, "b": math.nan}, 0.5, []),
        ({"a": 1.0, "b": math.nan}, {"a": 1.0, "b": 2.0}, 0.0, ["b"]),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": math.nan}, 0.0, ["b"]),
        ({"a": math.inf}, {"a": math.inf}, 0.0, []),
        ({"a": math.inf}, {"a": 1.0}, math.inf, []),
    ],
)
def test_a_number_of_one_side_only_is_named(
    before: dict[str, float], after: dict[str, float], largest: float, unpaired: list[str]
) -> None:
    assert compare(before, after) == (largest, unpaired)


def test_without_a_common_number_the_difference_is_nan() -> None:
    largest, unpaired = compare({"a": 1.0}, {"b": 1.0})
    assert math.isnan(largest)
    assert unpaired == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({}, 0, ""),
        ({"seconds": 9.0}, 0, ""),
        ({"curve": [0.1, 0.2 + 1e-9]}, 0, ""),
        ({"curve": [0.1, 0.3]}, 1, ""),
        ({"floor": {}}, 1, "knn: in one checkout only: floor.test.ndcg@20\n"),
        ({"curve": [math.nan, 0.2]}, 1, "knn: in one checkout only: curve.0\n"),
    ],
)
def test_the_exit_status_is_1_if_the_checkouts_differ(
    change: dict[str, Any],
    status: int,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = iter([METRICS, METRICS | change])
    monkeypatch.setattr(compare_checkouts, "measure", lambda *_given: next(results))
    assert main(["other", "--data", "tiny", "--runs", "knn"]) == status
    assert capsys.readouterr().err == error
