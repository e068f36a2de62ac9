"""`benchmarks/mutants.py`: which mutants are drawn, and what counts as killed."""

import json

import pytest

from benchmarks import mutants

SOURCE = '''\
"""A module."""

from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    Number = int | float


class Base:
    @override
    def larger(self, x: int | None, y: int) -> bool | None:
        limit: int | float = 0
        return x > y
'''
TEST = "from invmod.room import Base\n\n\ndef test_larger():\n    assert Base().larger(2, 1)\n"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one module and one test, which does not notice that > becomes >=."""
    for name, text in (
        ("invmod/__init__.py", ""),
        ("invmod/room.py", SOURCE),
        ("tests/library/test_room.py", TEST),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    return tmp_path


def changes(folder, count=100, seed=0):
    return {m.change: (m, s) for m, s in mutants.draw([folder / "invmod/room.py"], count, seed)}


def test_code_for_type_checkers_is_not_mutated(checkout):
    lines = {line for change in changes(checkout) for line in change.splitlines()}
    assert lines
    assert all("return x" in line or "limit" in line for line in lines), lines
    assert not any("int & float" in line or "int + float" in line for line in lines)


def test_a_larger_sample_contains_a_smaller_one(checkout):
    assert list(changes(checkout, 4, 3))[:2] == list(changes(checkout, 2, 3))


def test_a_draw_depends_on_its_seed_only(checkout):
    assert list(changes(checkout, 1, 3)) == list(changes(checkout, 1, 3))
    assert len({*(tuple(changes(checkout, 1, seed)) for seed in range(20))}) > 3


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "outcome"), [("<", "killed"), (">=", "survived")])
def test_a_mutant_is_killed_if_a_test_fails(checkout, operator, outcome):
    source = SOURCE.replace("x > y", f"x {operator} y")
    mutant = mutants.Mutant("id", "invmod/room.py", 15, "change")
    entry = mutants.tested(mutant, source, checkout)
    assert (entry["outcome"], entry["id"]) == (outcome, "id")
    assert (checkout / "invmod/room.py").read_text(encoding="utf-8") == SOURCE


def test_the_score_leaves_equivalent_mutants_out(tmp_path):
    entries = [
        {"id": str(n), "path": "invmod/a.py", "line": n, "change": "-x\n+y", "outcome": outcome}
        for n, outcome in enumerate(("killed", "killed", "survived", "survived"))
    ]
    judged = {"2": {"kind": "equivalent", "reason": "Both round to 0."}}
    text, share = mutants.summary(entries, judged, mutants.parse([]))
    assert share == pytest.approx(2 / 3)
    assert "| a | 4 | 2 | 1 | 0.667 |" in text
    assert "Both round to 0." in text
    assert "not judged" in text


def test_an_unfinished_line_of_the_journal_is_left_out(tmp_path):
    journal = tmp_path / "journal.jsonl"
    journal.write_text(json.dumps({"id": "a", "outcome": "killed"}) + '\n{"id": "b", "out')
    assert list(mutants.read_journal(journal)) == ["a"]
    assert mutants.read_journal(tmp_path / "none") == {}
