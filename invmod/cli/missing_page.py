"""The page of ``invmod missing``."""

from __future__ import annotations

import datetime
import functools

from invmod._optional import import_optional
from invmod.missingness import McarTest, MissingnessSummary
from invmod.missingness.picture import plot_missingness
from invmod.missingness.summary_text import (
    headline,
    pair_rows,
    pattern_rows,
    rate_rows,
    test_rows,
)
from invmod.robustness.document import (
    TABLE,
    figure_png,
    html_document,
    png_data_uri,
    stamp,
    template_environment,
)

PIXELS_PER_INCH = 76  # of the picture on the page, whose smallest text has 8 points
DPI = 144  # of the PNG file

BODY = (
    TABLE
    + """\
<h1>What is missing from {{ title }}</h1>
<p class="lead">{{ stamp }}</p>
<div class="answer"><p class="headline">{{ headline }}.</p>
{% if test %}<p>{{ test }}</p>{% endif %}</div>
{% if image %}
<figure>
<div class="scroll" role="region" aria-label="Picture" tabindex="0">
<img style="max-width: none; width: {{ width }}px" src="{{ image }}"
alt="Missing rates, patterns and correlation of missingness">
</div>
<figcaption>A filled dot is an available modality, an empty one a missing modality.</figcaption>
</figure>
{% endif %}
<h2>Rates</h2>
{{ table("Rates", *rates) }}
<h2>Patterns</h2>
{{ table("Patterns", *patterns) }}
{% if pairs[1] %}
<h2>Missing together</h2>
{{ table("Missing together", *pairs) }}
<p>“Expected” is the number of rows if the two modalities were missing independently. The
correlation is the phi coefficient. In the odds ratio, each count is increased by 1/2.</p>
{% endif %}
{% if tests %}
<h2>Test of each modality</h2>
{{ table("Test of each modality", *tests) }}
<p>Rows that have the modality completely are grouped by the pattern of the other modalities. The
test compares the variation of their values between groups with that after permutations.</p>
{% endif %}
<h2>Notes</h2>
<p>A value is missing if it is null, NaN or blank text. A modality is missing from a row if all of
its values are.</p>
<p>MCAR (missing completely at random) means that which modalities are missing does not depend on
any value. A test can contradict it and cannot prove it: it does not see that the chance to be
missing depends on the missing value itself.
{% if test and test.left_out %} Values that are not tested: {{ test.left_out | join(", ") }}.
{%- endif %}</p>
"""
)


def missing_page(
    summary: MissingnessSummary,
    test: McarTest | None,
    *,
    title: str,
    date: datetime.date | None = None,
) -> str:
    """Return a self-contained HTML page with the tables, the picture and the test.

    Arguments:
        summary: of `missingness_summary`.
        test: of `mcar_test`, or None.
        title: name of the data.
        date: shown on the page; None means today.

    Example:
        >>> import torch
        >>> from invmod.missingness import missingness_summary
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> page = missing_page(missingness_summary(mask, ["a", "b"]), None, title="x.csv")
        >>> "<h1>What is missing from x.csv</h1>" in page
        True
    """
    environment = template_environment("The page of missing modalities")
    png = picture(summary) if summary.num_rows else None
    body = environment.from_string(BODY).render(
        title=title,
        stamp=stamp(date),
        headline=headline(summary),
        test=test,
        image=None if png is None else png_data_uri(png),
        # The header of a PNG file has its width in bytes 16 to 19. A wide picture is scrolled, so
        # that its text can be read on any screen.
        width=0 if png is None else int.from_bytes(png[16:20]) * PIXELS_PER_INCH // DPI,
        rates=rate_rows(summary),
        patterns=pattern_rows(summary),
        pairs=pair_rows(summary),
        tests=test_rows(test) if test is not None and test.modalities else None,
    )
    return html_document(f"What is missing from {title}", body)


@functools.lru_cache(maxsize=1)  # the PNG file and the page show the same picture
def picture(summary: MissingnessSummary) -> bytes:
    """Return the picture as a PNG file."""
    drawn = plot_missingness(summary)
    png = figure_png(drawn, dpi=DPI)
    import_optional("matplotlib.pyplot", what="The picture").close(drawn)
    return png
