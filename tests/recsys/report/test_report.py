"""The report of a run: its statements, its page and its files."""

import base64
import json
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from invmod.robustness.document import STYLE, html_document
from milk_recsys.catalogue.dataset import DataError
from milk_recsys.report import curves
from milk_recsys.report.findings import find
from milk_recsys.report.page import write_report
from milk_recsys.report.robustness import robustness_png
from milk_recsys.report.values import Estimate
from milk_recsys.report.words import metric_name, number, pattern

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20", "hit@10", "hit@20", "mrr@10", "mrr@20")


# ---------------------------------------------------------------------------------- fixtures


def section(ndcg: float, users: int = 812, **more: int) -> dict[str, Any]:
    shares = (0.9, 1.3, 0.8, 1.0, 1.2, 1.6, 0.7, 0.8)
    values = {name: round(ndcg * share, 6) for name, share in zip(METRICS, shares, strict=True)}
    return {**more, "users": users, "untrained_users": users // 100, **values}


def drop(complete: float, hidden: float, half: float | None) -> dict[str, Any]:
    lost = complete - hidden
    ends = (None, None) if half is None else (lost - half, lost + half)
    relative = lost / complete if complete else None
    values = {
        "complete": complete,
        "hidden": hidden,
        "difference": lost,
        "low": ends[0],
        "high": ends[1],
    }
    return {"ndcg@20": {**values, "relative": relative}}


def gap(value: float, half: float = 0.01) -> dict[str, Any]:
    return {"ndcg@20": {"difference": value, "low": value - half, "high": value + half}}


def model_part(
    complete: float, here: float, hidden: dict[str, float], half: float | None = 0.012
) -> dict[str, Any]:
    names = tuple(hidden)
    by_pattern = {"+".join(names): section(complete, 640, items=61)}
    if len(names) > 1:
        for at, left in enumerate(hidden.values()):
            key = "+".join(name for name in names if name != names[at])
            by_pattern[key] = section((complete + left) / 2, 410 - 130 * at, items=29 - 8 * at)
    return {
        "best_epoch": 40,
        "epochs": 71,
        "seconds_per_epoch": 0.183,
        "validation": section(here + 0.01),
        "test": section(here),
        "test_complete": section(complete),
        "test_all_cold": section(here * 0.7),
        "by_pattern": by_pattern,
        "imposed": {name: section(left) for name, left in hidden.items()} if len(names) > 1 else {},
        "drops": {name: drop(complete, left, half) for name, left in hidden.items()}
        if len(names) > 1
        else {},
    }


HIDDEN = {"text": 0.31, "image": 0.43, "audio": 0.476}


def plausible(hidden: dict[str, float] | None = None, **changes: Any) -> dict[str, Any]:
    """A metrics.json of MILK without an ablation; `text` has the largest loss."""
    hidden = HIDDEN if hidden is None else hidden
    counts = {name: 7 + at for at, name in enumerate(hidden)}
    parts = ("warm", "validation", "test")
    return {
        "model": "milk",
        "data": "embedded",
        "setting": "ftmt",
        "seed": 0,
        "split_seed": 0,
        "monitor": "ndcg@20",
        "candidates": "test",
        "versions": {"invmod": "0.1.0", "torch": "2.13.0+cpu", "device": "cpu, 2 threads"},
        "missingness": {
            "modalities": list(hidden),
            "items": {"warm": 480, "validation": 60, "test": 60},
            "pairs": {"warm": 15200, "validation": 1900, "test": 1872},
            "nature": {part: dict.fromkeys(hidden, 0) for part in parts},
            "removed": {
                part: dict.fromkeys(hidden, 0) if part == "warm" else counts for part in parts
            },
        },
        **model_part(0.483, 0.452, hidden),
        "compare": None,
        **changes,
    }


def compared(
    hidden: dict[str, float] | None = None, half: float = 0.01, **changes: Any
) -> dict[str, Any]:
    """The same with an ablation; `hidden` has its values with a modality hidden."""
    theirs = {"text": 0.24, "image": 0.425, "audio": 0.474} if hidden is None else hidden
    metrics = plausible(**changes)
    part = model_part(0.484, 0.431, theirs)
    metrics["compare"] = {
        "model": "erm",
        **part,
        "difference": {
            "test": gap(metrics["test"]["ndcg@20"] - part["test"]["ndcg@20"], half),
            "test_complete": gap(metrics["test_complete"]["ndcg@20"] - 0.484, half),
            "imposed": {name: gap(HIDDEN[name] - left, half) for name, left in theirs.items()},
            "drops": {
                name: gap((0.483 - HIDDEN[name]) - (0.484 - left), half)
                for name, left in theirs.items()
            },
        },
    }
    return metrics


def history(epochs: int, erm: bool = False) -> list[dict[str, Any]]:
    lines = []
    for epoch in range(epochs):
        risk = 0.12 + 0.57 * 0.93**epoch
        parts = {
            "risk": risk,
            "penalty": 0.0 if erm else 2e-3 * 0.97**epoch + 2e-5 * (epoch % 3),
            "alignment": 0.0 if erm else 0.03 * 0.95**epoch + 0.002,
            "regulariser": 0.3 + 0.05 * epoch,
        }
        line = {
            "epoch": epoch,
            "loss": risk + 1e-4 * parts["regulariser"] + parts["penalty"],
            **parts,
        }
        line |= {"seconds": 0.18, "triples_per_second": 83000.0}
        if epoch % 10 == 0 or epoch == epochs - 1:
            ndcg = 0.46 - 0.25 * 0.9**epoch - (0.02 if erm else 0) - 0.0004 * max(0, epoch - 40)
            line |= {"validation": section(ndcg), "best": epoch <= 40}
        lines.append(line)
    return lines


def write_run(folder: Path, metrics: dict[str, Any], epochs: int = 71, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    dataset = {"name": metrics["data"], "users": 812, "items": 600, "pairs": 18972}
    dataset |= {
        "modalities": dict.fromkeys(metrics["missingness"]["modalities"], 64),
        "fingerprint": "0123abcd",
    }
    options = {
        "model": "milk",
        "lr": 0.001,
        "data": None,
        "resume": False,
        "penalty_weight": 1.0,
        **config,
    }
    (folder / "config.json").write_text(json.dumps({**options, "dataset": dataset}))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "history.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in history(epochs))
    )
    if metrics["compare"]:
        (folder / "compare").mkdir(exist_ok=True)
        lines = (json.dumps(line) + "\n" for line in history(epochs, erm=True))
        (folder / "compare" / "history.jsonl").write_text("".join(lines))
    return folder


class Page(HTMLParser):
    """The text, the addresses of resources, the tags and the attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.addresses, self.tags = "", [], []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        self.addresses += [
            str(value)
            for name, value in attrs
            # An address that begins with # is a place in the page itself.
            if not str(value).startswith("#")
            and name in ("src", "href", "srcset", "action", "data")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path, metrics: dict[str, Any], **more: Any) -> Page:
    return Page(write_report(write_run(folder, metrics, **more)).read_text(encoding="utf-8"))


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an ablation and its report."""
    folder = write_run(tmp_path_factory.mktemp("report") / "run", compared())
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------ the statements


def test_the_modality_with_the_largest_loss_is_named_with_its_loss_and_interval() -> None:
    answer = find(plausible()).worth
    assert answer.headline == "“text”: without it NDCG@20 falls by 0.1730 (35.8%)."
    assert (
        "from 0.4830 to 0.3100: a loss of 0.1730 (35.8% of the value with complete items)"
        in answer.details[0]
    )
    assert (
        "95% interval over 812 customers of 0.1610 to 0.1850, which excludes 0" in answer.details[0]
    )
    assert "“image” (0.0530, 11.0%" in answer.details[1]
    assert "do not overlap" in answer.details[1]


def test_the_order_of_the_modalities_in_the_file_does_not_matter() -> None:
    hidden = dict(reversed(HIDDEN.items()))
    assert find(plausible(hidden)).worth.headline == find(plausible()).worth.headline
    assert [loss.modality for loss in find(plausible(hidden)).losses] == ["text", "image", "audio"]


def test_a_second_largest_loss_that_is_none_is_not_called_a_loss() -> None:
    answer = find(plausible({"text": 0.31, "image": 0.483, "audio": 0.49})).worth
    assert answer.details[1] == (
        "The value is not lower when any of the other modalities is hidden."
    )


def test_overlapping_intervals_make_the_order_of_two_modalities_uncertain() -> None:
    answer = find(plausible({"text": 0.31, "image": 0.32})).worth
    assert "that of “image” overlap, so their order is uncertain" in answer.headline
    assert "intervals overlap" in answer.details[1]


def test_a_loss_whose_interval_includes_0_is_not_significant() -> None:
    answer = find(plausible({"text": 0.475, "image": 0.48})).worth
    assert "but this loss is not statistically significant" in answer.headline
    assert "which includes 0: the loss is not statistically significant" in answer.details[0]


def test_a_negative_loss_is_called_a_gain() -> None:
    answer = find(plausible({"text": 0.50, "image": 0.52})).worth
    assert answer.headline == "None: hiding a modality does not lower NDCG@20 in this run."
    assert (
        "a gain of 0.0170 (3.5% of the value with complete items), "
        "with a 95% interval over 812 customers of 0.0050 to 0.0290" in answer.details[0]
    )


def test_without_intervals_the_significance_is_unknown() -> None:
    metrics = plausible(drops={})
    answer = find(metrics).worth
    assert "“text”" in answer.headline
    assert "so its significance is unknown" in answer.details[0]
    metrics["drops"] = None
    assert find(metrics).worth == answer


def test_a_single_modality_cannot_be_ranked() -> None:
    assert (
        find(plausible({"text": 0.0})).worth.headline
        == "There is only one modality, “text”: without it an item has no content to be ranked by."
    )


def test_losing_less_than_the_ablation() -> None:
    answer = find(compared()).ablation[0]
    assert answer.headline == "Yes: with “text” hidden MILK loses 0.0710 less than ERM."
    assert "95% interval 0.0610 to 0.0810, which excludes 0" in answer.details[0]
    assert "0.3100 for MILK and 0.2400 for ERM, a difference of +0.0700" in answer.details[1]
    assert "no significant difference for “image” and “audio”" in answer.details[-1]


def test_losing_more_than_the_ablation_is_reported() -> None:
    metrics = compared({"text": 0.40, "image": 0.46, "audio": 0.476})
    answer = find(metrics).ablation[0]
    assert answer.headline == "No: with “text” hidden MILK loses 0.0890 more than ERM."
    assert (
        "MILK loses 0.0890 more (95% interval 0.0790 to 0.0990, which excludes 0)"
        in answer.details[0]
    )
    assert "MILK loses more for “image”" in answer.details[-1]


def test_a_difference_of_losses_whose_interval_includes_0_is_not_significant() -> None:
    answer = find(compared({"text": 0.307, "image": 0.43, "audio": 0.47})).ablation[0]
    assert answer.headline.startswith("There is no significant difference")
    assert "which includes 0: not significant" in answer.details[0]


def test_a_smaller_loss_from_a_lower_value_is_no_advantage() -> None:
    metrics = compared()
    metrics["drops"] = {name: drop(0.30, left - 0.15, 0.01) for name, left in HIDDEN.items()}
    metrics["compare"]["drops"]["text"] = drop(0.484, 0.20, 0.01)
    metrics["compare"]["difference"]["drops"]["text"] = gap(0.14 - 0.284)
    answer = find(metrics).ablation[0]
    assert answer.headline.startswith("Yes")
    assert any("The smaller loss is not an advantage" in detail for detail in answer.details)


def test_without_the_paired_difference_of_losses_the_interval_is_conservative() -> None:
    metrics = compared()
    del metrics["compare"]["difference"]["drops"]
    findings = find(metrics)
    less = findings.loss_differences["text"]
    assert less.value == pytest.approx(0.071)
    assert (less.low, less.high) == pytest.approx((0.07 - 0.01 - 0.009, 0.07 + 0.01 + 0.011))
    assert any("wider than necessary" in caveat for caveat in findings.caveats)
    del metrics["compare"]["difference"]
    assert find(metrics).loss_differences["text"] == Estimate(pytest.approx(0.071))
    assert "so the significance is unknown" in find(metrics).ablation[0].headline


@pytest.mark.parametrize(
    ("ablation", "half", "headline"),
    [
        (0.431, 0.01, "MILK, by 0.0210 on NDCG@20."),
        (0.480, 0.01, "ERM, by 0.0280 on NDCG@20."),
        (0.455, 0.01, "There is no significant difference (it is 0.0030)."),
    ],
)
def test_the_better_of_the_two_is_named_whichever_it_is(
    ablation: float, half: float, headline: str
) -> None:
    metrics = compared()
    metrics["compare"]["test"] = section(ablation)
    metrics["compare"]["difference"]["test"] = gap(0.452 - ablation, half)
    assert find(metrics).ablation[1].headline == headline


def test_the_cost_of_the_setting() -> None:
    answer = find(plausible()).gaps
    assert (
        answer.headline
        == "NDCG@20 is 0.4520 with gaps and 0.4830 with complete items: 0.0310 lower (6.4%)."
    )
    metrics = plausible()
    metrics["test"] = section(0.488)
    assert find(metrics).gaps.headline.endswith("complete items: 0.0050 higher (1.0%).")
    metrics = plausible(setting="ftft")
    metrics["missingness"]["removed"]["test"] = dict.fromkeys(HIDDEN, 0)
    assert (
        find(metrics).gaps.headline == "Not tried: the setting FTFT removes nothing from new items."
    )


@pytest.mark.parametrize(
    ("baseline", "half", "headline"),
    [
        (0.331, 0.01, "Yes. MILK is better than content kNN, which needs no training."),
        (
            0.480,
            0.01,
            "No. Content kNN, which needs no training, is better, by 0.0280 on NDCG@20. Do "
            "not use MILK before you have found the cause.",
        ),
        (
            0.455,
            0.01,
            "Not clear. There is no significant difference between MILK and content kNN, which "
            "needs no training (it is 0.0030 on NDCG@20).",
        ),
    ],
)
def test_a_model_is_compared_with_the_untrained_baseline(
    baseline: float, half: float, headline: str
) -> None:
    difference = {"test": gap(0.452 - baseline, half)}
    answer = find(
        plausible(
            floor={"model": "content_knn", "test": section(baseline), "difference": difference}
        )
    ).verdict
    assert answer.question == "Is it good enough to use?"
    assert answer.headline == headline
    assert f"NDCG@20: MILK 0.4520 and content kNN {baseline:.4f}." in answer.details[0]


def test_an_untrained_baseline_that_was_left_out_is_reported() -> None:
    answer = find(plausible(floor={"model": "content_knn", "left_out": "Too large."})).verdict
    assert answer.headline == "Not compared."
    assert answer.details[-1] == "Content kNN was not evaluated: Too large."


def test_null_values_stay_missing() -> None:
    metrics = compared()
    metrics["test"]["ndcg@20"] = None
    metrics["drops"]["text"]["ndcg@20"] |= {"low": None, "high": None}
    metrics["drops"]["image"]["ndcg@20"]["hidden"] = float("nan")
    findings = find(metrics)
    assert [loss.modality for loss in findings.losses] == ["text", "audio"]
    assert "No interval over customers" in findings.worth.details[0]
    assert findings.ablation[1].headline == "Not measured: a value is missing."


def test_patterns_with_few_users_are_marked() -> None:
    metrics = plausible()
    metrics["by_pattern"]["text+image"]["users"] = 12
    caveats = find(metrics).caveats
    assert any("fewer than 30 customers" in text and "“without audio”" in text for text in caveats)


def test_the_monitored_metric_is_reported_if_drops_have_it() -> None:
    metrics = plausible(monitor="recall@10")
    assert find(metrics).metric == "ndcg@20"
    for drops in metrics["drops"].values():
        drops["recall@10"] = drops["ndcg@20"]
    assert find(metrics).metric == "recall@10"


def test_patterns_in_words() -> None:
    names = ("text", "image", "audio")
    keys = {
        "text+image+audio": "all modalities",
        "text+audio": "without image",
        "audio": "only audio",
    }
    assert {key: pattern(key, names) for key in keys} == keys
    assert pattern("none", names) == "no modality"
    assert pattern("a+b", ("a+b", "c")) == "without c"
    assert pattern("strange", names) == "strange"
    assert metric_name("hit@10") == "hit rate@10"
    assert (number(-0.5), number(None), number(float("inf"))) == ("−0.5000", "–", "–")


# ----------------------------------------------------------------------------------- the files


def test_the_files_are_complete_and_no_other_file_is_left(run: Path) -> None:
    given = {"config.json", "metrics.json", "history.jsonl", "compare"}
    assert {path.name for path in run.iterdir()} - given == {
        "curves.png",
        "robustness.png",
        "report.html",
    }
    assert png_size(run / "curves.png") == (1080, 1836)
    width, height = png_size(run / "robustness.png")
    assert width == 1080
    assert 1500 < height < 2500
    assert (run / "report.html").stat().st_size < 1_000_000


def test_a_report_can_be_written_again_and_is_the_same(run: Path) -> None:
    first = (run / "report.html").read_bytes()
    assert write_report(run) == run / "report.html"
    assert (run / "report.html").read_bytes() == first


def test_the_page_needs_no_other_file(run: Path, page: Page) -> None:
    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", html))


def test_the_page_is_made_by_the_library(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    start, end = html_document("MILK on embedded", "|", style=STYLE).split("</style>")
    assert html.startswith(start)
    assert html.endswith(end.partition("|")[2])


def test_the_page_contains_the_pictures_of_its_folder(run: Path, page: Page) -> None:
    pictures = [base64.b64decode(address.partition(",")[2]) for address in page.addresses]
    assert pictures == [(run / "robustness.png").read_bytes(), (run / "curves.png").read_bytes()]


def test_the_page_is_accessible(page: Page) -> None:
    assert ("html", {"lang": "en"}) in page.attributes
    assert all((attributes.get("alt") or "") for tag, attributes in page.attributes if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in page.attributes if tag == "th")
    assert page.tags.count("caption") == page.tags.count("table") > 6
    assert any(
        attributes.get("name") == "viewport" for tag, attributes in page.attributes if tag == "meta"
    )
    assert page.tags.count("h1") == 1


def test_the_page_has_the_findings_before_any_picture_and_contains_every_value(
    run: Path, page: Page
) -> None:
    metrics = compared()
    html = (run / "report.html").read_text(encoding="utf-8")
    findings = find(metrics)
    answers = [findings.verdict, findings.worth, findings.gaps, *findings.ablation]
    assert html.index("“text”: without it") < html.index("<img")
    for text in [answer.headline for answer in answers] + findings.caveats:
        assert text in page.text
    for part in (metrics, metrics["compare"]):
        for group in ("validation", "test", "test_complete", "test_all_cold"):
            assert number(part[group]["mrr@20"]) in page.text
        for values in [*part["by_pattern"].values(), *part["imposed"].values()]:
            assert number(values["recall@10"]) in page.text
    for text in ("18,972", "15,200", "2.13.0+cpu", "penalty_weight", "0.183", "cpu, 2 threads"):
        assert text in page.text


def test_names_with_special_characters_are_escaped(tmp_path: Path) -> None:
    hidden = {"<script>alert(1)</script>": 0.31, "$x_1$ & {{ y }}": 0.43, '"語"': 0.47}
    metrics = plausible(hidden, data="a<b>&'\"")
    page = page_of(tmp_path / "run", metrics, tag="<i>{{ 7 * 7 }}</i>")
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert "“<script>alert(1)</script>”: without it" in page.text
    assert "$x_1$ & {{ y }}" in page.text
    assert "<i>{{ 7 * 7 }}</i>" in page.text
    assert "MILK on a<b>&'\"" in page.text


@pytest.mark.parametrize(
    "case", ["alone", "one modality", "one epoch", "nulls", "no drops", "bare", "many"]
)
def test_every_kind_of_run_has_a_report(tmp_path: Path, case: str) -> None:
    metrics, epochs = compared(), 71
    if case == "alone":
        metrics = plausible()
    elif case == "one modality":
        metrics = plausible({"text": 0.0})
        metrics["compare"] = {
            "model": "erm",
            **model_part(0.4, 0.4, {"text": 0.0}),
            "difference": {},
        }
    elif case == "one epoch":
        epochs = 1
        metrics |= {"epochs": 1, "best_epoch": 0}
    elif case == "nulls":
        for part in (metrics, metrics["compare"]):
            part["test"] = {
                name: value if name == "users" else None for name, value in part["test"].items()
            }
            part["by_pattern"]["text+image"] |= dict.fromkeys(METRICS)
            part["seconds_per_epoch"] = part["best_epoch"] = None
    elif case == "no drops":
        del metrics["drops"]
        metrics["compare"]["drops"] = None
    elif case == "bare":
        for name in ("by_pattern", "imposed", "drops", "versions", "test_all_cold", "compare"):
            metrics[name] = None
    elif case == "many":
        metrics = plausible(
            {f"a modality with quite a long name {at}": 0.01 * at + 0.1 for at in range(30)}
        )
    page = page_of(tmp_path / "run", metrics, epochs=epochs)
    assert "None" not in page.text.replace("None: hiding", "")
    assert "nan" not in page.text.split()
    assert png_size(tmp_path / "run" / "robustness.png")[0] == 1080
    assert png_size(tmp_path / "run" / "robustness.png")[1] < 5000
    assert png_size(tmp_path / "run" / "curves.png")[0] == 1080


def test_a_method_without_epochs_has_no_curves(tmp_path: Path) -> None:
    metrics = {**plausible(), "model": "keep"}
    page = page_of(tmp_path / "run", metrics, epochs=1)
    assert "KEEP has no epochs" in page.text
    assert "Best epoch" not in page.text
    assert "nothing is known about their preferences" in page.text
    assert not (tmp_path / "run" / "curves.png").exists()


@pytest.mark.slow
def test_intervals_of_patterns_are_drawn_if_there_are_any() -> None:
    metrics = plausible()
    plain = robustness_png(metrics, find(metrics))
    for part in metrics["by_pattern"].values():
        part["intervals"] = {
            "ndcg@20": {"low": part["ndcg@20"] - 0.03, "high": part["ndcg@20"] + 0.03}
        }
    assert robustness_png(metrics, find(metrics)) != plain


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", None, r"metrics\.json: no such file"),
        ("metrics.json", "{", r"metrics\.json: is not valid JSON"),
        ("metrics.json", "[]", r"metrics\.json: must contain a JSON object, got list"),
        ("metrics.json", "{}", r"metrics\.json: no model, data, setting, monitor, test"),
        ("history.jsonl", None, r"history\.jsonl: no such file"),
        ("history.jsonl", '{"epoch": 0}\n{"loss": 1}\n', r"history\.jsonl: line 2"),
    ],
)
def test_a_damaged_run_is_an_error_and_leaves_no_report(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    run = write_run(tmp_path / "run", plausible())
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    with pytest.raises(DataError, match=message):
        write_report(run)
    assert not (run / "report.html").exists()
    assert not (run / "curves.png").exists()


def test_importing_the_report_imports_no_torch() -> None:
    code = (
        "import sys, milk_recsys.report.page; "
        "sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    path = str(Path(__file__).parents[3] / "examples")
    assert (
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False
        ).returncode
        == 0
    )


@pytest.mark.parametrize(
    ("losses", "scale"), [([0.7, 0.2], "log"), ([-0.1, -0.2], "linear"), ([0.0], "linear")]
)
@pytest.mark.parametrize("rival", [False, True])
def test_a_loss_of_0_or_less_is_drawn_on_a_linear_axis(
    losses: list[float], scale: str, rival: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(curves, "png", lambda figure: drawn.append(figure) or b"")
    metrics = plausible()
    history = [{"epoch": k, "loss": x} for k, x in enumerate(losses)]
    rival_history = [{"epoch": 0, "loss": 0.5}] if rival else []
    curves.curves_png(history, rival_history, metrics, find(metrics))
    axes = drawn[0].axes[0]
    assert axes.get_yscale() == scale
    assert [list(line.get_ydata()) for line in axes.lines] == [losses]
    assert ("log scale" in axes.get_ylabel()) == (scale == "log")
    low, high = axes.get_ylim()
    assert low <= min(losses) <= max(losses) <= high
