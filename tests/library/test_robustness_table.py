"""The text table of a robustness report."""

import builtins
import re

import pytest

from invmod.robustness import (
    RobustnessReport,
    text_table,
)
from tests.library.robustness_cases import (
    by_first,
    by_mean,
    made_up,
    mean,
    quick,
)
from tests.strategies import NAN


@pytest.fixture(scope="module")
def report():
    return quick(
        {"ours": by_mean, "<b>theirs</b>": by_first}, rates=(0.0, 0.5, 0.9), num_resamples=40
    )


def test_the_table_contains_every_number(report):
    text = str(report)
    assert text == text_table(report)
    for result in report.patterns:
        assert re.search(
            rf"^{re.escape(result.name)} +.*{result.value:.4f} \[{result.interval[0]:.4f}",
            text,
            re.MULTILINE,
        )
    for model in report.models:
        assert f"{report.area(None, model):.4f}" in text
    assert "(higher is better), 60 units, 95% intervals, 40 resamples" in text
    # The intervals start at the same position, so the columns are aligned.
    assert len({line.find("[") for line in text.split("\n\n")[1].splitlines()[2:9]}) == 1
    assert "no intervals" in str(quick())


def test_a_long_list_of_patterns_is_shortened_with_a_note():
    features, targets = made_up(20, [f"m{index}" for index in range(6)])
    report = quick({"a": by_mean, "b": by_first}, features, targets)
    text = str(report)
    assert "Shown: the complete pattern, one missing, one left, and the worst; 63 in all." in text
    assert report.worst("b").name in text
    assert len(text.splitlines()) < 50


def test_the_table_reports_emptied_rows_and_formats_numbers_of_any_size():
    features, targets = made_up()
    features["image"][:, :] = features["audio"][:, :] = NAN
    features["text"][:3] = NAN
    text = str(quick(by_mean, features, targets, patterns="one_left"))
    assert "A pattern leaves up to 60 rows without any modality." in text
    large = str(quick(lambda x, mask: mask.double().sum(dim=1) * 12345.678, metric=mean))
    assert re.search(r"text\+image\+audio +37037 ", large)
    tiny = str(quick(lambda x, mask: mask.double().sum(dim=1) * 1e-5, metric=mean))
    assert re.search(r"text\+image\+audio +3.0e-05 ", tiny)


def test_the_table_and_json_need_only_core_dependencies(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] in ("matplotlib", "polars", "jinja2", "scipy", "sklearn"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    report = quick({"a": by_mean, "b": by_first}, rates=(0.5,), num_resamples=3)
    assert str(report)
    assert RobustnessReport.from_json(report.to_json()) == report
