"""JSON files and data frames of a robustness report."""

import dataclasses
import json

import polars as pl
import pytest

from invmod.robustness import (
    RobustnessReport,
    to_frame,
)
from tests.library.robustness_cases import (
    NAMES,
    by_first,
    by_mean,
    made_up,
    quick,
)


@pytest.fixture(scope="module")
def report():
    return quick(
        {"ours": by_mean, "<b>theirs</b>": by_first}, rates=(0.0, 0.5, 0.9), num_resamples=40
    )


def test_json_round_trips_a_report(report, tmp_path):
    assert RobustnessReport.from_json(report.to_json()) == report
    path = tmp_path / "report.json"
    report.save(path)
    report.save(path)  # replaces
    assert RobustnessReport.load(path) == report
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert json.loads(path.read_text(encoding="utf-8"))["patterns"][0]["name"] == "text+image+audio"


def test_an_existing_file_survives_a_failed_write(report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("precious", encoding="utf-8")

    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.save(path)
    assert path.read_text(encoding="utf-8") == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "this is not JSON"),
        (lambda text: "[]", "this is JSON, but not a robustness report"),
        (
            lambda text: text.replace('"version": 2', '"version": 9'),
            "the report has version 9, this invmod reads 1 and 2",
        ),
        (
            lambda text: text.replace('"patterns":', '"pattens":'),
            "the report is damaged: 'patterns'",
        ),
        (lambda text: text.replace('"drop":', '"fall":', 1), "the report is damaged: .*'fall'"),
        (lambda text: text.replace('"metric":', '"metrik":'), "the report is damaged: .*'metrik'"),
    ],
)
def test_the_error_for_a_damaged_file_names_the_reason_and_the_path(
    report, tmp_path, damage, message
):
    path = tmp_path / "report.json"
    path.write_text(damage(report.to_json()), encoding="utf-8")
    with pytest.raises(ValueError, match=f"report.json: RobustnessReport.from_json: {message}"):
        RobustnessReport.load(path)
    with pytest.raises(FileNotFoundError):
        RobustnessReport.load(tmp_path / "none.json")


def test_the_frame_has_a_row_for_every_model_and_condition(report):
    frame = to_frame(report)
    assert len(frame) == len(report.patterns) + len(report.rates)
    row = frame.row(
        by_predicate=(pl.col("name") == "image")
        & (pl.col("model") == "ours")
        & (pl.col("condition") == "pattern"),
        named=True,
    )
    expected = next(r for r in report.results("ours") if r.name == "image")
    assert (row["value"], row["low"], row["drop"], row["num_missing"]) == (
        expected.value,
        expected.interval[0],
        expected.drop,
        2,
    )
    assert set(frame.filter(pl.col("condition") == "rate")["name"]) == {"all", *NAMES}
    assert to_frame(quick())["low"].null_count() == 7


def version_1(report):
    """Return the report as the JSON that version 1 wrote."""
    content = json.loads(report.to_json())
    content["version"] = 1
    del content["profiles"], content["worse_with_more"]
    for key in ("patterns", "rates", "differences"):
        for entry in content[key]:
            del entry["num_undefined"]
    for difference in content["differences"]:
        del difference["pattern"]
    return content


def test_a_report_of_version_1_is_read(report):
    expected = dataclasses.replace(report, worse_with_more=())
    assert RobustnessReport.from_json(json.dumps(version_1(report))) == expected


def test_undefined_intervals_of_version_1_become_none(report):
    content = version_1(report)
    content["patterns"][3]["interval"] = [float("nan")] * 2
    text = json.dumps(content)
    assert "NaN" in text
    read = RobustnessReport.from_json(text)
    assert read.patterns[3].interval is None
    assert read.patterns[2] == report.patterns[2]
    json.loads(read.to_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_tokens_that_are_not_json_are_refused(report, token):
    text = report.to_json().replace('"confidence": 0.95', f'"confidence": {token}')
    with pytest.raises(ValueError, match=f"this is not JSON: it has the token {token}"):
        RobustnessReport.from_json(text)
    broken = dataclasses.replace(report, confidence=float(token))
    with pytest.raises(ValueError, match="JSON has no NaN and no infinity"):
        broken.to_json()


def test_a_modality_called_all_is_told_apart_from_the_curve_of_all():
    features, targets = made_up(names=("all", "text"))
    frame = to_frame(quick(by_mean, features, targets, rates=(0.5,), num_draws=1))
    names = frame.filter(pl.col("condition") == "rate")["name"].to_list()
    assert names == ["all", '"all"', "text"]
