"""Rendering of a report as a self-contained HTML page."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import TYPE_CHECKING

from invmod._files import write_text
from invmod._optional import import_optional
from invmod.robustness import switches
from invmod.robustness.document import (
    STYLE,
    TABLE,
    figure_png,
    html_document,
    png_data_uri,
    stamp,
    template_environment,
)
from invmod.robustness.numbers import change, level, p_value, plain, with_interval
from invmod.robustness.plots import plot_patterns, plot_rates
from invmod.robustness.report import RobustnessReport
from invmod.robustness.table import (
    area_text,
    difference_rows,
    notes,
    pattern_rows,
    profile_rows,
)
from invmod.robustness.verdict import name_without, verdict

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Robustness to missing modalities"
MAX_STEPS = 20  # rows of the table of steps, of which there are M 2^(M-1) at most

# On a narrow screen, intervals break after their value, and curves scroll instead of shrinking.
PAGE_STYLE = (
    STYLE
    + switches.STYLE
    + """\
thead th { white-space: normal; min-width: 4.5rem; }
@media (max-width: 40rem) {
  .n { white-space: normal; }
  th, td { padding: 0.3rem 0.45rem; }
  tbody th[scope=row] { min-width: 6.5rem; overflow-wrap: anywhere; }
  img.wide { max-width: none; width: 44rem; }
}
"""
)

BODY = (
    TABLE
    + """\
<h1>{{ title }}</h1>
<p class="lead">{{ report.metric }}
{{- " (" ~ ("higher" if report.higher_is_better else "lower") }} is better) of
{{ report.models | join(", ") }}, over {{ report.num_units }} units
{%- if report.num_rows != report.num_units %} and {{ report.num_rows }} rows of features{% endif %};
modalities: {{ report.modalities | join(", ") }}.
{%- if has_intervals %}
 Intervals have a confidence level of {{ level }}.{% endif %}
{%- if report.num_resamples %}
 Number of resamples: {{ report.num_resamples }}.{% endif %}</p>
<p class="lead">{{ stamp }}</p>

<div class="answer">
{% for model, sentences in verdicts %}
{% if loop.length == 1 %}
<p class="headline">{{ sentences[0] | true_minus_numbers }}</p>
<p>{{ sentences[1:] | join(" ") | true_minus_numbers }}</p>
{% else %}
<p><strong>{{ model }}.</strong> {{ sentences | join(" ") | true_minus_numbers }}</p>
{% endif %}
{% endfor %}
</div>

<h2>Summary</h2>
{{ table("Summary", summary_header, summary, texts=(1, 3)) }}
<p>A pattern is named by its available modalities. A change is relative to the complete pattern.</p>

{% if report.modalities | length > 1 %}
<div id="switches" hidden>
<h2>Switch modalities off</h2>
<fieldset class="switches">
<legend>Available modalities</legend>
{% for name in report.modalities %}
<label><input type="checkbox" checked autocomplete="off"> {{ name }}</label>
{% endfor %}
</fieldset>
<output id="chosen" aria-live="polite"></output>
</div>
{% endif %}

<h2>Heat map of the patterns</h2>
<figure>
<img src="{{ heat_map }}" alt="Heat map of {{ report.metric }} under each pattern of modalities">
<figcaption>A filled dot is an available modality, an empty one a missing modality.
{%- if report.patterns_sampled %} The patterns are a sample of all.{% endif %}</figcaption>
</figure>

{% if curves %}
<h2>Along missing rates</h2>
<figure>
<div class="scroll" role="region" aria-label="Curves" tabindex="0">
<img class="wide" src="{{ curves }}"
alt="Curves of {{ report.metric }} against the effective missing rate">
</div>
<figcaption>Cells are hidden at random. No row loses all of its modalities, so the share of hidden
cells (the axis) is smaller than the nominal rate. Bands are confidence intervals. Points are means
over {{ report.num_draws }} draws.</figcaption>
</figure>
{% endif %}

{% if profiles %}
<h2>Profiles of missing rates</h2>
{{ table("Profiles of missing rates", *profiles) }}
<p>Each modality has a missing rate of its own. In brackets: the share of its cells that was hidden.
It is smaller, because no row loses all of its modalities. Values are means over
{{ report.num_draws }} draws.</p>
{% endif %}

<h2>Patterns</h2>
{{ table("Patterns", pattern_header, patterns, keys=keys) }}
{% if notes %}<p>{{ notes | join(" ") }}</p>{% endif %}

{% if steps %}
<h2>Steps at which one modality more makes a model worse</h2>
{{ table("Steps at which one modality more makes a model worse", step_header, steps,
  texts=(1, 2, 3)) }}
{% if more_steps %}<p>{{ more_steps }} more, with larger p-values or smaller losses.</p>{% endif %}
<p>Each step adds one modality to a pattern.
{%- if report.num_resamples %} The p-values are one-sided and corrected for all steps between the
patterns. A step with a large p-value may be due to chance.{% endif %}</p>
{% endif %}

{% if differences %}
<h2>Differences</h2>
{{ table("Differences", ("Pattern", "Models", "Difference", "Corrected p"), differences,
  texts=(1, 2)) }}
<p>The differences are paired: both models are evaluated on the same units with the same hidden
cells. The p-values come from a permutation test and are corrected for the number of patterns and
comparisons.</p>
{% endif %}
{% if report.modalities | length > 1 %}
<script type="application/json" id="figures">{{ figures | safe }}</script>
<script>
{{ script | safe }}</script>
{% endif %}
"""
)


def write_page(
    report: RobustnessReport, path: str | Path, *, date: datetime.date | None = None
) -> None:
    """Write a self-contained HTML page with the findings, tables and plots of a report.

    The page needs no network. A script in it lets the reader switch modalities off; without
    JavaScript, the table of all patterns has the same figures.

    Arguments:
        report: of `robustness_report`.
        path: of the HTML file. An existing file is replaced only when the new one is complete.
        date: shown on the page, with the versions of invmod, PyTorch and Python; None means today.

    Raises:
        ImportError: matplotlib or jinja2 is not installed; the message explains how to install it.

    Example:
        >>> import tempfile
        >>> from invmod.robustness import PatternResult
        >>> results = (
        ...     PatternResult("m", (True, True), "a+b", 0.8, None, 0.0, 0),
        ...     PatternResult("m", (True, False), "a", 0.4, None, 0.5, 0),
        ... )
        >>> report = RobustnessReport(
        ...     ("m",), ("a", "b"), "accuracy", True, 10, 10, 0.95, 3, 0, False, results
        ... )
        >>> path = Path(tempfile.mkdtemp()) / "report.html"
        >>> write_page(report, path)
        >>> path.read_text()[:15]
        '<!doctype html>'
    """
    write_text(path, page(report, date=date))


def page(report: RobustnessReport, *, date: datetime.date | None = None) -> str:
    """Return the page as HTML, with all text escaped."""
    environment = template_environment()
    environment.filters["true_minus_numbers"] = _true_minus_numbers
    summary_header, summary = _summary(report)
    body = environment.from_string(BODY).render(
        title=TITLE,
        report=report,
        has_intervals=any(result.interval for result in report.patterns),
        level=level(report.confidence),
        notes=notes(report, shortened=False),
        stamp=f"Page of {stamp(date)}.",
        verdicts=[(model, verdict(report, model)) for model in report.models],
        summary_header=summary_header,
        summary=summary,
        heat_map=_embedded(plot_patterns(report)),
        curves=_embedded(plot_rates(report)) if report.rates else None,
        profiles=_capitalized(profile_rows(report)) if report.profiles else None,
        pattern_header=[
            "Pattern",
            *(text for model in report.models for text in (model, "Change")),
        ],
        patterns=pattern_rows(report, shortened=False),
        keys=[switches.pattern_key(result.pattern) for result in report.results()],
        step_header=(
            "Model",
            "Modality",
            "Added to",
            "Without it",
            "With it",
            "Loss",
            "Corrected p",
        ),
        steps=_steps(report)[:MAX_STEPS],
        more_steps=max(0, len(report.worse_with_more) - MAX_STEPS),
        differences=difference_rows(report, shortened=False, minus="\N{MINUS SIGN}"),
        figures=switches.figures_json(report),
        script=switches.SCRIPT,
    )
    return html_document(TITLE, body, style=PAGE_STYLE)


def _true_minus_numbers(text: str) -> str:
    """Replace the hyphen before a digit by a minus sign, except inside a word or a range."""
    return re.sub(r"(?<![\w)\]-])-(?=\d)", "\N{MINUS SIGN}", text)


def _capitalized(table: tuple[list[str], list[list[str]]]) -> tuple[list[str], list[list[str]]]:
    (first, *others), rows = table
    return [first.capitalize(), *others], rows


def _steps(report: RobustnessReport) -> list[list[str]]:
    """Return one row per step at which one modality more makes a model worse, the surest first."""
    return [
        [
            entry.model,
            entry.added,
            name_without(entry, report.modalities),
            plain(entry.value_without),
            plain(entry.value),
            with_interval(entry.loss, entry.interval),
            p_value(entry.adjusted_p_value, report.num_resamples, len(report.models)),
        ]
        for entry in report.violations()
    ]


def _summary(report: RobustnessReport) -> tuple[list[str], list[list[str]]]:
    """Return the header and one row per model."""
    header = ["Model", "Complete", "Worst pattern", "Worst value", "Change"]
    if report.rates:
        header.append("Mean along the missing rates")
    rows = []
    for model in report.models:
        complete, worst = report.complete(model), report.worst(model)
        row = [
            model,
            with_interval(complete.value, complete.interval),
            worst.name,
            with_interval(worst.value, worst.interval),
            change(worst.drop),
        ]
        if report.rates:
            row.append(area_text(report, None, model))
        rows.append(row)
    return header, rows


def _embedded(figure: matplotlib.figure.Figure) -> str:
    """Return the figure as a data URI, and close it."""
    uri = png_data_uri(figure_png(figure))
    import_optional("matplotlib.pyplot").close(figure)
    return uri
