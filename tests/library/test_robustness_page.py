"""The page of a robustness report: its sentences, figures, switches, names and date."""

import dataclasses
import datetime
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt

import invmod
from invmod.robustness import (
    ModelDifference,
    PatternResult,
    ProfileResult,
    RateResult,
    RobustnessReport,
    Violation,
    plot_patterns,
    plot_rates,
    write_page,
)
from invmod.robustness.document import stamp
from invmod.robustness.numbers import p_value
from invmod.robustness.page import page
from invmod.robustness.switches import figures_json, pattern_key
from invmod.robustness.verdict import described, safe_rate, verdict
from tests.library.robustness_cases import by_first, by_mean, made_up, quick

DAY = datetime.date(2026, 3, 1)
NASTY = (
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "<!-- & {{ 7 * 7 }} $x_",
    "_private\u2028$\\frac$",
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to run the script")


def made(values, *, better=True, rates=(), intervals=False, names=None, **more):
    """A report of models with the given values, {model: {bits of the pattern: value}}."""
    m = len(next(iter(next(iter(values.values())))))
    names = names or tuple("abcdefgh"[:m])
    sign = 1 if better else -1
    patterns = []
    for model, by_bits in values.items():
        complete = by_bits["1" * m]
        for bits, value in by_bits.items():
            pattern = tuple(bit == "1" for bit in bits)
            drop = sign * (complete - value) / abs(complete) if complete else None
            bounds = (value - 0.125, value + 0.0625) if intervals else None
            name = "+".join(n for n, has in zip(names, pattern, strict=True) if has)
            patterns.append(PatternResult(model, pattern, name, value, bounds, drop, 0))
    points = tuple(
        RateResult(model, None, rate, rate, value, None)
        for model in values
        for rate, value in rates
    )
    given = {
        "models": tuple(values),
        "modalities": names,
        "metric": "score",
        "higher_is_better": better,
        "num_rows": 10,
        "num_units": 10,
        "confidence": 0.95,
        "num_draws": 3,
        "num_resamples": 9 if intervals else 0,
        "patterns_sampled": False,
        "patterns": tuple(patterns),
        "rates": points,
    }
    return RobustnessReport(**given | more)


class Page(HTMLParser):
    """Rows of tables, text of scripts, and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.scripts, self.attributes, self.tags = {}, [], [], []
        self.words, self.tables, self.labels = [], [], []
        self.feed(text)
        self.close()
        assert not self.tags, f"not closed: {self.tags}"

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.attributes.append((tag, given))
        if tag in ("meta", "img", "input", "link"):
            return
        self.tags.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.row = []
            self.tables[-1].append(self.row)
            if "data-pattern" in given:
                assert given["data-pattern"] not in self.rows
                self.rows[given["data-pattern"]] = self.row
        if tag in ("td", "th"):
            self.row.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.tags.pop() == tag

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("td", "th"):
            self.row[-1] += data
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data
        elif self.tags and self.tags[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def report():
    return quick({"ours": by_mean, "theirs": by_first}, rates=(0.0, 0.5), num_resamples=40)


# --- sentences


def test_the_verdict_has_complete_value_worst_pattern_and_safe_rate():
    rates = ((0.0, 0.8), (0.1, 0.79), (0.25, 0.76), (0.4, 0.7), (0.5, 0.78))
    report = made({"m": {"11": 0.8, "10": 0.6, "01": 0.4}}, rates=rates)
    assert verdict(report) == [
        "With all modalities, score is 0.8000.",
        "The worst pattern is without a: 0.4000, 50.0% worse.",
        "Up to a missing rate of 25.0% of the cells, score stays within 5% of its complete value; "
        "at the next evaluated rate, 40.0%, it does not.",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (made({"m": {"11": 0.8, "10": 0.4}}, intervals=True), "score is 0.8000 [0.6750, 0.8625]."),
        (made({"m": {"11": 0.8, "10": 0.4}}, intervals=True), "b: 0.4000 [0.2750, 0.4625], 50.0%"),
        (made({"m": {"1": 0.8}}), "There is one modality, so no pattern"),
        (made({"m": {"11": 0.8}}), "No pattern with a missing modality was evaluated."),
        (made({"m": {"11": 0.8, "10": 0.8}}), "No pattern with missing modalities is worse."),
        (made({"m": {"11": 0.8, "10": 0.9}}), "No pattern with missing modalities is worse."),
        (
            made({"m": {"11": 0.8, "10": 0.8}}, patterns_sampled=True),
            "No evaluated pattern with missing modalities is worse.",
        ),
        (
            made({"m": {"11": 0.8, "10": 0.4}}, patterns_sampled=True),
            "The worst evaluated pattern is without b",
        ),
        (made({"m": {"11": 0.2, "10": 0.5, "01": 0.3}}, better=False), "without b: 0.5000, 150.0%"),
        (made({"m": {"11": -0.2, "10": -0.5}}), "without b: -0.5000, 150.0% worse."),
        (made({"m": {"11": 0.0, "10": -0.5}}), "undefined, because the complete value is 0."),
        (made({"m": {"11": 0.8, "10": 0.4, "01": 0.4}}), "without b (tied with 1 other): 0.4000"),
        (
            made({"m": {"111": 0.8, "110": 0.4, "011": 0.4, "101": 0.4}}),
            "without c (tied with 2 others): 0.4000",
        ),
        (made({"m": {"11": 0.8, "10": 0.79999}}), "0.8000, less than 0.1% worse."),
        (made({"m": {"111": 0.8, "010": 0.4}}), "The worst pattern is with only b: 0.4000"),
        (made({"m": {"1111": 0.8, "0100": 0.4}}), "The worst pattern is with only b: 0.4000"),
        (made({"m": {"1111": 0.8, "0001": 0.4, "0011": 0.3}}), "is without a and b: 0.3000"),
        (
            made({"m": {"11": 0.8, "10": 0.8}}, rates=((0.0, 0.8), (0.5, 0.77))),
            "Up to the largest evaluated missing rate, 50.0% of the cells, score stays within 5%",
        ),
        (
            made({"m": {"11": 0.8, "10": 0.8}}, rates=((0.0, 0.8), (0.1, 0.7), (0.5, 0.8))),
            "Already at the smallest evaluated missing rate, 10.0% of the cells, score is more "
            "than 5% worse than its complete value.",
        ),
        (
            made({"m": {"11": 0.2, "10": 0.3}}, better=False, rates=((0.1, 0.21), (0.2, 0.25))),
            "Up to a missing rate of 10.0% of the cells",
        ),
    ],
)  # fmt: skip
def test_the_verdict_fits_every_kind_of_report(report, sentence):
    assert sentence in " ".join(verdict(report))
    shown = Page(page(report, date=DAY)).text.replace("\N{MINUS SIGN}", "-")
    assert " ".join(verdict(report)) in shown


def test_the_safe_rate_is_undefined_without_a_curve_or_with_a_complete_value_of_zero():
    values = {"m": {"11": 0.8, "10": 0.4}}
    assert safe_rate(made(values)) is None
    assert safe_rate(made(values, rates=((0.0, 0.8),))) is None
    assert safe_rate(made({"m": {"11": 0.0, "10": -1.0}}, rates=((0.3, 0.0),))) is None
    # A loss of exactly 5% is safe, although 0.8 - 0.76 is rounded.
    assert safe_rate(made(values, rates=((0.3, 0.76),))).rate == 0.3
    assert safe_rate(made(values, rates=((0.3, 0.7599),))) == (0.0, 0.3)


def test_several_models_have_a_verdict_each_and_are_compared():
    values = {
        "base": {"11": 0.8, "10": 0.4, "01": 0.5},
        "ours": {"11": 0.7, "10": 0.6, "01": 0.5},
    }
    differences = tuple(
        ModelDifference("ours", "base", pattern, "x", value, None, p, p)
        for pattern, value, p in (
            ((True, True), -0.1, 0.01), ((True, False), 0.2, 0.04), ((False, True), 0.1, 0.06)
        )
    )  # fmt: skip
    better = made(values, differences=differences)
    sentence = (
        "Of 3 patterns, the model is significantly better than base under 1 and significantly "
        "worse under 1 (at 5%, corrected)."
    )
    assert verdict(better, "ours")[-1] == sentence
    assert not any("significantly" in text for text in verdict(better, "base"))
    lower = made(values, better=False, differences=differences[1:])
    assert (
        "Of 2 patterns, the model is significantly better than base under 0"
        in verdict(lower, "ours")[-1]
    )
    text = Page(page(better, date=DAY)).text
    assert f"base. {' '.join(verdict(better, 'base'))}" in text
    assert f"ours. {' '.join(verdict(better, 'ours'))}" in text
    with pytest.raises(KeyError, match="there is no model 'third'"):
        verdict(better, "third")


def test_profiles_are_in_the_verdict_and_in_a_table():
    profiles = tuple(
        ProfileResult("m", name, (0.6, 0.1), (0.55, 0.05), value, (0.3, 0.45), drop)
        for name, value, drop in (("desk", 0.6, 0.25), ("<phone>", 0.4, 0.5))
    )
    report = made({"m": {"11": 0.8, "10": 0.4}}, profiles=profiles)
    assert verdict(report)[-1] == (
        "Under the worst of 2 profiles, <phone>, score is 0.4000 [0.3000, 0.4500], 50.0% worse."
    )
    one = made({"m": {"11": 0.8, "10": 0.4}}, profiles=profiles[:1])
    assert verdict(one)[-1].startswith("Under the profile desk, score is 0.6000")
    parsed = Page(page(report, date=DAY))
    row = [
        "<phone>",
        "0.6 (0.550)",
        "0.1 (0.050)",
        "0.4000 [0.3000,\xa00.4500]",
        "\N{MINUS SIGN}50.0%",
    ]
    assert [row] == [given for table in parsed.tables for given in table if given[0] == "<phone>"]
    assert "Profiles of missing rates" not in page(made({"m": {"11": 0.8}}), date=DAY)


def test_steps_that_make_a_model_worse_are_in_the_verdict_and_in_a_table():
    def step(model, pattern, added, p, loss=0.1):
        bounds = (loss - 0.05, loss + 0.0625)
        return Violation(model, pattern, "x", added, 0.7, 0.7 + loss, loss, bounds, p, p)

    found = (
        step("m", (True, True, False), "b", 0.03),
        step("m", (True, True, True), "<c>", 0.002),
        step("m", (True, False, True), "<c>", 0.2),
    )
    values = {"111": 0.8, "110": 0.4}
    names = ("a", "b", "<c>")
    report = made({"m": values}, names=names, num_resamples=999, worse_with_more=found)
    assert verdict(report)[-1] == (
        "Adding one modality makes the model significantly worse in 2 cases (at 5%, corrected), "
        "most clearly <c> in addition to a+b."
    )
    one = made({"m": values}, names=names, intervals=True, worse_with_more=found[:1])
    assert "in 1 case (at 5%, corrected), most clearly b in addition to a." in verdict(one)[-1]
    for none in (made({"m": values}, intervals=True, worse_with_more=found[2:], names=names),
                 made({"m": values}, worse_with_more=found, names=names)):  # fmt: skip
        assert not any("Adding one modality" in text for text in verdict(none))
    parsed = Page(page(report, date=DAY))
    (table,) = [table for table in parsed.tables if table[0][1] == "Modality"]
    assert table[1] == [
        "m", "<c>", "a+b", "0.8000", "0.7000", "0.1000 [0.0500,\xa00.1625]", "0.002",
    ]  # fmt: skip
    assert [row[1:3] for row in table[1:]] == [["<c>", "a+b"], ["b", "a"], ["<c>", "a"]]
    rough = made({"m": values}, names=names, num_resamples=9, worse_with_more=found)
    assert "\N{LESS-THAN OR EQUAL TO}\xa00.002" in page(rough, date=DAY)
    many = made({"m": values}, names=names, worse_with_more=found[:1] * 25)
    assert "5 more, with larger p-values" in page(many, date=DAY)
    assert "makes a model worse" not in page(made({"m": values}), date=DAY)


def test_a_pattern_is_described_with_names_quoted_where_they_are_ambiguous():
    result = PatternResult("m", (True, False, False), "x", 0.4, None, 0.5, 0)
    assert described(result, ("a+b", "a", "b")) == 'with only "a+b"'
    assert described(PatternResult("m", (True, True), "x", 0.4, None, 0.5, 0), ("a", "b")) == (
        "with all modalities"
    )


# --- figures


def test_the_table_of_patterns_has_every_value_with_both_bounds(report):
    parsed = Page(page(report, date=DAY))
    assert len(parsed.rows) == 7
    for key, row in parsed.rows.items():
        pattern = tuple(bit == "1" for bit in key)
        first = report.result(pattern, "ours")
        assert row[0] == first.name
        for column, model in ((1, "ours"), (3, "theirs")):
            result = report.result(pattern, model)
            low, high = result.interval
            assert row[column] == f"{result.value:.4f} [{low:.4f},\xa0{high:.4f}]"
            sign = "\N{MINUS SIGN}" if result.drop > 0 else "+"
            drop = f"{sign}{abs(result.drop):.1%}" if result.drop else "0.0%"
            assert row[column + 1] == drop


def test_the_table_of_differences_has_both_bounds_and_names_model_and_baseline(report):
    parsed = Page(page(report, date=DAY))
    table = next(
        table for table in parsed.tables if table[0][0] == "Pattern" and "Models" in table[0]
    )
    assert len(table) == 1 + len(report.differences)
    for row, entry in zip(table[1:], report.differences, strict=True):
        numbers = [
            f"{x:.4f}" if abs(x) >= 5e-4 or x == 0 else f"{x:.1e}"
            for x in (entry.value, *entry.interval)
        ]
        shown = "{} [{},\xa0{}]".format(*numbers).replace("-", "\N{MINUS SIGN}")
        assert row[:3] == [entry.name, "theirs \N{MINUS SIGN} ours", shown]


def test_the_page_has_all_patterns_where_the_text_table_is_shortened():
    features, targets = made_up(20, [f"m{index}" for index in range(6)])
    report = quick(by_mean, features, targets)
    assert "Shown: the complete pattern" in str(report)
    parsed = Page(page(report, date=DAY))
    assert set(parsed.rows) == {pattern_key(result.pattern) for result in report.results()}
    assert "Shown: the complete pattern" not in parsed.text
    assert len(parsed.rows) == 63


def test_the_summary_has_the_worst_value_of_each_model(report):
    parsed = Page(page(report, date=DAY))
    _, *rows = parsed.tables[0]
    for row, model in zip(rows, report.models, strict=True):
        worst = report.worst(model)
        low, high = worst.interval
        assert row[0] == model
        assert row[2:4] == [worst.name, f"{worst.value:.4f} [{low:.4f},\xa0{high:.4f}]"]


# --- names


def test_no_name_is_read_as_html_or_script(tmp_path):
    features, targets = made_up(20, NASTY[:3])

    def metric(predictions, targets):
        return float((predictions == targets).double().mean())

    metric.__name__ = NASTY[1]
    open_before = plt.get_fignums()
    report = quick({NASTY[0]: by_mean, NASTY[3]: by_first}, features, targets, metric,
                   rates=(0.5,), num_resamples=9)  # fmt: skip
    write_page(report, tmp_path / "page.html", date=DAY)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = Page(text)
    assert len(parsed.scripts) == 2
    assert text.count("<script") == text.count("</script") == 2
    assert not [name for _, given in parsed.attributes for name in given if name.startswith("on")]
    images = [given["src"] for tag, given in parsed.attributes if tag == "img"]
    assert len(images) == 2
    assert all(source.startswith("data:image/png;base64,") for source in images)
    assert html.escape(NASTY[0]) in text
    assert "{{ 7 * 7 }}" in parsed.text
    assert NASTY[0] in parsed.text
    data = json.loads(parsed.scripts[0])
    assert data["models"] == [NASTY[0], NASTY[3]]
    assert data["header"][1] == NASTY[1]
    # Other tests of the same process may leave figures open.
    assert plt.get_fignums() == open_before


def test_plots_draw_names_as_they_are():
    values = {"_ours": {"11": 0.8, "10": 0.4}, "$\\frac$": {"11": 0.8, "10": 0.4}}
    report = made(values, rates=((0.0, 0.8), (0.5, 0.6)), names=("$a$", "b"))
    figure = plot_rates(report)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["\N{WORD JOINER}_ours", "\\$\\frac\\$"]
    for drawn in (figure, plot_patterns(report)):
        drawn.canvas.draw()
        plt.close(drawn)


# --- date


def test_the_page_has_date_and_versions_and_is_deterministic(report, tmp_path):
    write_page(report, tmp_path / "a.html", date=DAY)
    write_page(report, tmp_path / "b.html", date=DAY)
    first = (tmp_path / "a.html").read_bytes()
    assert first == (tmp_path / "b.html").read_bytes()
    for part in ("1 March 2026", f"invmod {invmod.__version__}", f"PyTorch {torch.__version__}"):
        assert part in first.decode()
    assert re.search(r"Python 3\.\d+\.\d+", first.decode())
    assert stamp(datetime.date(2026, 12, 24)).startswith("24 December 2026, ")


def test_the_date_is_today_by_default(report, tmp_path):
    before = datetime.date.today()
    write_page(report, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    after = datetime.date.today()
    assert any(f"{day.day} {day:%B %Y}" in text for day in (before, after))


# --- switches


def test_the_switches_have_the_figures_of_every_pattern(report):
    data = json.loads(figures_json(report))
    assert data["models"] == list(report.models)
    rows = Page(page(report, date=DAY)).rows
    assert set(data["patterns"]) == set(rows)
    for key, figures in data["patterns"].items():
        assert [text for pair in figures for text in pair] == rows[key][1:]


def test_the_switches_are_hidden_until_the_script_runs(report):
    parsed = Page(page(report, date=DAY))
    (block,) = [given for _, given in parsed.attributes if given.get("id") == "switches"]
    assert "hidden" in block
    assert len([1 for tag, _ in parsed.attributes if tag == "input"]) == 3
    single = Page(page(made({"m": {"1": 0.8}}), date=DAY))
    assert not single.scripts
    assert not [1 for tag, _ in single.attributes if tag == "input"]


def in_chromium(text: str, script: str, folder: Path, *, width: int = 1400) -> str:
    """Return the page's HTML after its own script and then `script` have run."""
    file = folder / "page.html"
    file.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return run.stdout


@pytest.mark.slow
@needs_chromium
def test_switching_a_modality_off_shows_the_figures_without_it(report, tmp_path):
    text = page(report, date=DAY)
    click = "document.querySelectorAll('#switches input')[{}].click();"
    for clicks in ((), (0,), (0, 2), (0, 2, 2), (0, 1, 2)):
        shown = in_chromium(text, "".join(click.format(index) for index in clicks), tmp_path)
        output = re.search(r"<output.*?</output>", shown, re.DOTALL)[0]
        pattern = tuple(clicks.count(index) % 2 == 0 for index in range(3))
        assert 'id="switches" hidden' not in shown
        if not any(pattern):
            assert "Leave at least one modality on." in output
            assert 'class="chosen"' not in shown
            continue
        table = Page(output).tables[0]
        expected = json.loads(figures_json(report))["patterns"][pattern_key(pattern)]
        assert [row[0] for row in table[1:]] == ["ours", "theirs"]
        assert [row[1:] for row in table[1:]] == expected
        assert re.findall(r'data-pattern="(\d+)" class="chosen"', shown) == [pattern_key(pattern)]


@pytest.mark.slow
@needs_chromium
def test_names_run_no_script_and_a_pattern_that_was_not_evaluated_is_stated(tmp_path):
    report = made({NASTY[0]: {"11": 0.8, "10": 0.4}}, names=NASTY[:2])
    script = (
        "document.querySelectorAll('#switches input')[0].click();"
        "document.body.dataset.scripts = document.scripts.length;"
    )
    text = page(report, date=DAY).replace("<head>", "<head><script>window.alert = () => {"
                                          "document.title = 'alerted'; }</script>")  # fmt: skip
    shown = in_chromium(text, script, tmp_path)
    assert "This pattern was not evaluated." in shown
    assert "alerted</title>" not in shown
    assert 'data-scripts="4"' in shown


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_is_not_wider_than_the_screen(tmp_path, width):
    names = ("a" * 60, "image features", "audio")
    values = {"model " + "m" * 50: {"111": -0.8, "110": -123456.7}, "b": {"111": 0.8, "110": 0.4}}
    report = made(values, names=names, intervals=True, rates=((0.0, 0.8), (0.5, 0.6)))
    script = (
        "document.body.dataset.overflow = "
        "document.documentElement.scrollWidth - document.documentElement.clientWidth;"
    )
    shown = in_chromium(page(report, date=DAY), script, tmp_path, width=width)
    assert re.search(r'data-overflow="(-?\d+)"', shown)[1] == "0"


def test_the_page_shows_corrected_p_values_of_differences_and_steps():
    interval = (0.05, 0.15)
    difference = ModelDifference("m", "n", (True, True), "a+b", 0.1, interval, 0.2, 0.6)
    step = Violation("m", (True, True), "a+b", "a", 0.5, 0.7, 0.2, interval, 0.1, 0.4)
    report = made(
        {"n": {"11": 0.4, "10": 0.3, "01": 0.2}, "m": {"11": 0.5, "10": 0.3, "01": 0.7}},
        intervals=True,
        differences=(difference,),
        worse_with_more=(step,),
    )
    cells = {cell for table in Page(page(report, date=DAY)).tables for row in table for cell in row}
    assert {p_value(0.6, 9, 1), p_value(0.4, 9, 2)} <= cells
    assert not {p_value(0.2, 9, 1), p_value(0.1, 9, 2)} & cells
    assert {"0.1000 [0.0500,\xa00.1500]", "0.2000 [0.0500,\xa00.1500]"} <= cells


def test_bands_of_curves_reach_from_the_lower_to_the_upper_bound():
    points = tuple(
        RateResult("m", None, rate, rate, value, (value - 0.1, value + 0.05))
        for rate, value in ((0.0, 0.8), (0.4, 0.6))
    )
    report = dataclasses.replace(made({"m": {"11": 0.8, "10": 0.6, "01": 0.4}}), rates=points)
    figure = plot_rates(report)
    (band,) = figure.axes[0].collections
    corners = {tuple(row) for row in band.get_paths()[0].vertices.round(6)}
    assert {(0.0, 0.7), (0.0, 0.85), (0.4, 0.5), (0.4, 0.65)} <= corners
    plt.close(figure)
