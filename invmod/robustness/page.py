"""A report as a data frame and as a self-contained page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from invmod.robustness.plots import need, plot_patterns, plot_rates
from invmod.robustness.table import number, p_value, percent, plain, shown_patterns

if TYPE_CHECKING:
    import matplotlib.figure
    import polars

    from invmod.robustness.report import RobustnessReport

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Robustness to missing modalities</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th { border-bottom: 2px solid #999; } tr.worst td { font-weight: 600; }
img { max-width: 100%; height: auto; } p.note { color: #555; max-width: 44rem; }
</style>
</head>
<body>
<h1>Robustness to missing modalities</h1>
<p>{{ report.metric }} ({{ "higher" if report.higher_is_better else "lower" }} is better) of
{{ report.models | join(", ") }}, over {{ report.num_units }} units
{%- if report.num_rows != report.num_units %} and {{ report.num_rows }} rows of features{% endif %};
modalities: {{ report.modalities | join(", ") }}.
{%- if report.num_resamples %} Intervals hold {{ "%.0f" | format(100 * report.confidence) }}% and come from
{{ report.num_resamples }} bootstrap resamples of the units.{% endif %}</p>

<h2>In short</h2>
<div class="scroll"><table>
<tr><th>model</th><th>complete</th><th>worst pattern</th><th></th><th>change</th>
{%- if report.rates %}<th>mean along the missing rates</th>{% endif %}</tr>
{% for row in summary %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p class="note">A pattern is named by the modalities that are left. The change is relative to the complete pattern.</p>

<h2>Every pattern at a glance</h2>
<img src="data:image/png;base64,{{ heat_map }}" alt="Heat map of {{ report.metric }} under each pattern of modalities">
<p class="note">A filled dot is a modality that is there, an empty one a modality that is missing.
{%- if report.patterns_sampled %} The patterns are a sample of all.{% endif %}</p>

{% if curves %}<h2>Along missing rates</h2>
<img src="data:image/png;base64,{{ curves }}" alt="Curves of {{ report.metric }} against the effective missing rate">
<p class="note">Cells are hidden at random, and no row loses all that it has, so the share that is missing (the axis)
falls short of the nominal rate. Bands are intervals. Points are means over {{ report.num_draws }} draws.</p>{% endif %}

<h2>Patterns</h2>
<div class="scroll"><table>
<tr><th>pattern</th>{% for model in report.models %}<th>{{ model }}</th><th>change</th>{% endfor %}</tr>
{% for row in patterns %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>

{% if differences %}<h2>Differences</h2>
<div class="scroll"><table>
<tr><th>pattern</th><th>difference</th><th></th><th>corrected p</th></tr>
{% for row in differences %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p class="note">Paired: both models see the same units and the same hidden cells. The p values are of a permutation test
and are corrected for the number of patterns and comparisons.</p>{% endif %}
</body>
</html>
"""


def page(report: RobustnessReport) -> str:
    """Return the page; whatever names it holds are escaped."""
    jinja2 = need("jinja2")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    shown = shown_patterns(report)
    names = {result.name for result in shown}
    by_model = {model: {result.name: result for result in report.results(model)} for model in report.models}
    rows = []
    for result in shown:
        row = [result.name]
        for model in report.models:
            of_model = by_model[model][result.name]
            row += [number(of_model.value, of_model.interval), percent(of_model.drop)]
        rows.append(row)
    html: str = template.render(
        report=report,
        summary=_summary(report),
        heat_map=_png(plot_patterns(report)),
        curves=_png(plot_rates(report)) if report.rates else None,
        patterns=rows,
        differences=[
            [d.name, f"{d.model} - {d.baseline}", number(d.value, d.interval), p_value(d)]
            for d in report.differences
            if d.name in names
        ],
    )
    return html


def _summary(report: RobustnessReport) -> list[list[str]]:
    rows = []
    for model in report.models:
        complete, worst = report.complete(model), report.worst(model)
        row = [model, number(complete.value, complete.interval), worst.name, number(worst.value, worst.interval)]
        row.append(percent(worst.drop))
        if report.rates:
            points = report.curve(None, model)
            row.append(plain(report.area(None, model)) if points[-1].effective_rate > 0 and points[1:] else "")
        rows.append(row)
    return rows


def _png(figure: matplotlib.figure.Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    need("matplotlib.pyplot").close(figure)
    return base64.b64encode(data.getvalue()).decode("ascii")


def frame(report: RobustnessReport) -> polars.DataFrame:
    """Return one row a model and condition."""
    pl = need("polars")
    rows = [
        {
            "model": result.model,
            "condition": "pattern",
            "name": result.name,
            "num_missing": result.num_missing,
            "rate": None,
            "effective_rate": None,
            "value": result.value,
            "low": result.interval[0] if result.interval else None,
            "high": result.interval[1] if result.interval else None,
            "drop": result.drop,
            "empty_rows": result.empty_rows,
        }
        for result in report.patterns
    ]
    rows += [
        {
            "model": point.model,
            "condition": "rate",
            "name": point.modality or "all",
            "num_missing": None,
            "rate": point.rate,
            "effective_rate": point.effective_rate,
            "value": point.value,
            "low": point.interval[0] if point.interval else None,
            "high": point.interval[1] if point.interval else None,
            "drop": None,
            "empty_rows": None,
        }
        for point in report.rates
    ]
    text, whole, real = pl.String, pl.Int64, pl.Float64
    schema = {
        "model": text,
        "condition": text,
        "name": text,
        "num_missing": whole,
        "rate": real,
        "effective_rate": real,
    }
    schema |= {"value": real, "low": real, "high": real, "drop": real, "empty_rows": whole}
    made: polars.DataFrame = pl.DataFrame(rows, schema=schema)
    return made
