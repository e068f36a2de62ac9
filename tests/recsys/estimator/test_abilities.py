"""The table of methods on the page says what the code says."""

import re
from pathlib import Path

from milk_recsys.config.method import BUILT_IN, find_method
from milk_recsys.estimator.abilities import ABILITIES, abilities

PAGE = Path(__file__).parents[3] / "docs/recommender.md"


def test_the_page_has_every_method_that_can_do_something():
    rows = re.findall(
        r"^\| (`[a-z0-9_`, ]+) \| (`[a-z0-9_`, ]+) \|$", PAGE.read_text(), re.MULTILINE
    )
    listed = {
        name: tuple(re.findall(r"`(\w+)`", can))
        for names, can in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    expected = {name: abilities(find_method(name)) for name in BUILT_IN}
    assert listed == {name: own for name, own in expected.items() if own}
    assert set(ABILITIES) == set(expected["keep"])
