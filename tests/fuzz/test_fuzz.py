"""A few hundred damaged inputs with a fixed seed; ``python -m tests.fuzz`` runs thousands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import main
from tests.fuzz.guided import BytesRandom
from tests.fuzz.outcomes import Outcome, outcome_of
from tests.fuzz.targets import NAMES, Targets, without_reports

INPUTS = 50  # Of each target.


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Targets]:
    with without_reports():
        yield Targets(tmp_path_factory.mktemp("fuzz") / "root")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_input_ends_with_a_status_and_one_sentence(targets: Targets, name: str) -> None:
    # The choices of an input are drawn by hypothesis, which simplifies an input that fails.
    @settings(
        max_examples=INPUTS,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def check(random: Random) -> None:
        outcome = outcome_of(targets.make(name, random), seconds=120)
        assert not outcome.failed, outcome.details

    check()


# --- what counts as a failure ---------------------------------------------------------------------


def failing() -> None:
    raise KeyError("a mistake of the program")


def endless() -> None:
    while True:
        try:
            sum(range(1000))
        except Exception:
            return


def silent() -> int:
    return 2


def refused() -> None:
    print("error: a sentence", file=sys.stderr)
    raise SystemExit(2)


@pytest.mark.parametrize(
    ("run", "status"),
    [(failing, "traceback"), (endless, "hang"), (silent, "silent"), (refused, 2), (list, 0)],
)
def test_outcomes_are_classified(run: object, status: int | str) -> None:
    outcome = outcome_of(run, seconds=0.5)  # type: ignore[arg-type]
    assert outcome.status == status
    assert outcome.failed == isinstance(status, str)


def test_memory_is_limited() -> None:
    held = []

    def greedy() -> None:
        held.append(b"x" * (192 << 20))

    assert outcome_of(greedy, mebibytes=64).status == "memory"


def test_the_command_counts_and_reports_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __init__(self, root: Path) -> None:
            pass

        def make(self, name: str, random: Random) -> object:
            return failing if name == "run" else list

    monkeypatch.setattr("tests.fuzz.__main__.Targets", Broken)
    monkeypatch.setattr("tests.fuzz.__main__.resource.setrlimit", lambda *_: None)
    assert main(["--inputs", "6", "--targets", "run", "data"]) == 1
    printed = capsys.readouterr().out
    assert "data             0      3" in printed
    assert "run      traceback      3" in printed
    assert "KeyError: 'a mistake of the program'" in printed
    assert "--seed 0 --first 0 --inputs 1 --targets run data" in printed
    assert "6 inputs in" in printed
    assert "1 kinds of failures" in printed
    assert main(["--inputs", "2", "--targets", "data"]) == 0
    assert Outcome(0, "").failed is False


def test_bytes_are_a_generator_for_the_guided_fuzzer() -> None:
    drawn = [BytesRandom(b"\x07\x00\xff" * 40) for _ in range(2)]
    first, second = ([r.choice("abcdefgh"), r.randrange(10**6), r.random()] for r in drawn)
    assert first == second
    assert 0 <= first[2] < 1
    assert BytesRandom(b"").randrange(9) == 0
