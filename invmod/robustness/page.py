"""Rendering of a report as a self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from invmod._files import write_text
from invmod.robustness.document import figure_png, html_document, png_data_uri
from invmod.robustness.numbers import change, plain, true_minus, with_interval
from invmod.robustness.optional import import_optional
from invmod.robustness.plots import plot_patterns, plot_rates
from invmod.robustness.report import RobustnessReport
from invmod.robustness.table import difference_rows, pattern_rows

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Robustness to missing modalities"

BODY = """\
{# `texts`: positions of the columns that hold names, from 1; the others hold numbers #}
{% macro table(label, header, rows, texts=(1,)) %}
<div class="scroll" role="region" aria-label="{{ label }}" tabindex="0">
<table>
<thead><tr>
{% for name in header %}<th scope="col"
{%- if loop.index not in texts %} class="n"{% endif %}>{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr>
{% for cell in row %}
{% if loop.first %}<th scope="row">{{ cell }}</th>
{% elif loop.index not in texts %}<td class="n">{{ cell | true_minus }}</td>
{% else %}<td>{{ cell }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endmacro %}
<h1>{{ title }}</h1>
<p class="lead">{{ report.metric }}
{{- " (" ~ ("higher" if report.higher_is_better else "lower") }} is better) of
{{ report.models | join(", ") }}, over {{ report.num_units }} units
{%- if report.num_rows != report.num_units %} and {{ report.num_rows }} rows of features{% endif %};
modalities: {{ report.modalities | join(", ") }}.
{%- if report.num_resamples %}
 Intervals have a confidence level of {{ "%.0f" | format(100 * report.confidence) }}% and come from
{{ report.num_resamples }} bootstrap resamples of the units.{% endif %}</p>

<h2>Summary</h2>
{{ table("Summary", summary_header, summary, (1, 3)) }}
<p>A pattern is named by its available modalities. A change is relative to the complete pattern.</p>

<h2>Heat map of the patterns</h2>
<figure>
<img src="{{ heat_map }}" alt="Heat map of {{ report.metric }} under each pattern of modalities">
<figcaption>A filled dot is an available modality, an empty one a missing modality.
{%- if report.patterns_sampled %} The patterns are a sample of all.{% endif %}</figcaption>
</figure>

{% if curves %}
<h2>Along missing rates</h2>
<figure>
<img src="{{ curves }}" alt="Curves of {{ report.metric }} against the effective missing rate">
<figcaption>Cells are hidden at random. No row loses all of its modalities, so the share of hidden
cells (the axis) is smaller than the nominal rate. Bands are confidence intervals. Points are means
over {{ report.num_draws }} draws.</figcaption>
</figure>
{% endif %}

<h2>Patterns</h2>
{{ table("Patterns", pattern_header, patterns) }}

{% if differences %}
<h2>Differences</h2>
{{ table("Differences", ("Pattern", "Models", "Difference", "Corrected p"), differences, (1, 2)) }}
<p>The differences are paired: both models are evaluated on the same units with the same hidden
cells. The p values come from a permutation test and are corrected for the number of patterns and
comparisons.</p>
{% endif %}
"""


def write_page(report: RobustnessReport, path: str | Path) -> None:
    """Write a self-contained HTML page with all tables and plots of a report.

    Arguments:
        report: of `robustness_report`.
        path: of the HTML file. An existing file is replaced only when the new one is complete.

    Raises:
        ImportError: matplotlib or jinja2 is not installed; the message explains how to install it.

    Example:
        >>> import tempfile
        >>> from invmod import PatternResult
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
    write_text(path, page(report))


def page(report: RobustnessReport) -> str:
    """Return the page as HTML, with all text escaped."""
    jinja2 = import_optional("jinja2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["true_minus"] = true_minus
    summary_header, summary = _summary(report)
    body = environment.from_string(BODY).render(
        title=TITLE,
        report=report,
        summary_header=summary_header,
        summary=summary,
        heat_map=_embedded(plot_patterns(report)),
        curves=_embedded(plot_rates(report)) if report.rates else None,
        pattern_header=[
            "Pattern",
            *(text for model in report.models for text in (model, "Change")),
        ],
        patterns=pattern_rows(report),
        differences=difference_rows(report),
    )
    return html_document(TITLE, body)


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
            points = report.curve(None, model)
            row.append(
                plain(report.area(None, model))
                if points[-1].effective_rate > 0 and points[1:]
                else ""
            )
        rows.append(row)
    return header, rows


def _embedded(figure: matplotlib.figure.Figure) -> str:
    """Return the figure as a data URI, and close it."""
    uri = png_data_uri(figure_png(figure))
    import_optional("matplotlib.pyplot").close(figure)
    return uri
