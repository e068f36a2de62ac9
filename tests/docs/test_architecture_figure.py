"""The pictures of the packages follow from the imports."""

import architecture_figure as figure
import pytest

from tests.library.test_public_names import ROOMS as LIBRARY
from tests.recsys.test_rooms import ROOMS as RECOMMENDER


def test_the_rooms_are_those_of_the_tests():
    assert figure.find_rooms("milk_recsys").keys() == {*RECOMMENDER, figure.COMMANDS}
    assert figure.find_rooms("invmod").keys() == {*LIBRARY, "integrations"}


@pytest.mark.parametrize("package", figure.PACKAGES)
def test_arrows_lead_downwards_and_imply_all_imports(package):
    needed = figure.find_imports(package)
    levels, arrows = figure.find_levels(needed), figure.find_arrows(needed)
    assert arrows
    assert all(levels[name] > levels[other] for name, other in arrows)
    reached = {name: {other for start, other in arrows if start == name} for name in needed}
    for name in sorted(needed, key=levels.__getitem__):
        reached[name] |= set().union(*(reached[other] for other in reached[name]))
        assert needed[name] <= reached[name]
    picture = figure.draw(package)
    assert picture.count('class="arrow"') == len(arrows)
    assert picture.count("<rect") == len(needed)


def test_an_import_that_follows_from_others_has_no_arrow():
    needed = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert figure.find_arrows(needed) == [("a", "b"), ("b", "c")]
    assert figure.find_levels(needed) == {"a": 2, "b": 1, "c": 0}


def test_rooms_that_import_each_other_are_named():
    with pytest.raises(ValueError, match="import each other: a, b"):
        figure.find_levels({"a": {"b"}, "b": {"a"}, "c": set()})


@pytest.mark.parametrize("package", figure.PACKAGES)
def test_the_table_has_a_line_for_each_room(package):
    lines = figure.table(package).splitlines()[2:]
    assert len(lines) == len(figure.find_rooms(package))
    assert all(line.endswith(". |") for line in lines)
