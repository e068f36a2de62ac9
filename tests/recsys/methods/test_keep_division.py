"""The work of KEEP is divided over processes without a rest."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from milk_recsys.base.distributed import World
from milk_recsys.methods.keep import model as keep
from milk_recsys.methods.keep.content import choose_divided, share_landmarks
from milk_recsys.methods.keep.division import divided
from tests.recsys.methods.tiny_baselines import make, make_data


@given(st.lists(st.integers(0, 12), max_size=6), st.integers(0, 20), st.integers(1, 5))
def test_each_item_of_a_group_is_in_one_part(sizes, setup, world_size):
    every = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0))
    groups = list(every.split(sizes)) if sizes else []
    parts = divided(groups, setup, World(0, world_size))
    assert len(parts) == world_size
    for g, group in enumerate(groups):
        assert torch.equal(torch.cat([part[g] for part in parts]), group)
        shares = [len(part[g]) for part in parts if len(part[g])]
        # The middle ones of three or more parts are between two boundaries in one group.
        assert len(shares) < 2 or min(shares[0], shares[-1]) >= setup
    sizes_of_ranks = [sum(map(len, part)) for part in parts]
    assert setup or max(sizes_of_ranks) - min(sizes_of_ranks) <= 1


def test_groups_that_are_expensive_to_begin_go_to_different_processes():
    groups = [torch.arange(10), torch.arange(10, 12), torch.arange(12, 14)]
    cheap = divided(groups, 0, World(0, 2))
    assert [[len(group) for group in part] for part in cheap] == [[7, 0, 0], [3, 2, 2]]
    dear = divided(groups, 100, World(0, 3))
    assert [[len(group) > 0 for group in part] for part in dear] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]


@dataclasses.dataclass(frozen=True)
class TwoRanks(World):
    """Rank 0 of two, of which the other one gives what it is told to give."""

    size: int = 2
    rows: object = None
    landmarks: object = None

    def sum(self, x):
        return x if self.rows is None else x + self.rows

    def broadcast(self, value):
        return value if self.landmarks is None else self.landmarks


def test_options_of_other_processes_are_those_that_they_chose():
    """Rank 0 chooses the patterns number 0 and 2, and receives the options of number 1."""
    patterns = [("text", "image"), ("image",), ("text",)]
    given = {"shrinkage": 1.0, "predicted_popularity": 0.0}  # For their choice patterns are chosen.
    one, other = (make("keep", **given).net.regression for _ in range(2))
    expected = {names: one.choose(names) for names in patterns}
    theirs = torch.zeros(3, 5, dtype=torch.float64)
    choice = expected["image",]
    for column, number in enumerate((1.0, choice.ridge, choice.error, torch.nan)):
        theirs[1, column] = number
    # A pattern that is named twice and the empty one are left out.
    choose_divided(other, [*patterns, ("image", "text"), ()], TwoRanks(rows=theirs))
    assert list(other.choices) == patterns
    assert other.choices == expected


def test_landmarks_are_those_of_rank_0(monkeypatch):
    monkeypatch.setattr(keep, "MAX_DIRECT", 15)
    monkeypatch.setattr(keep, "MAX_ROWS", 15)
    regression = make("keep", make_data(), landmarks=4, neighbours=3).net.regression
    own = regression.landmark_rows
    share_landmarks(regression, TwoRanks())
    assert regression.landmark_rows["text"].tolist() == own["text"].tolist()
    others = {"text": [1, 6, 2], "image": own["image"].tolist()}
    share_landmarks(regression, TwoRanks(landmarks=others))
    assert {name: rows.tolist() for name, rows in regression.landmark_rows.items()} == others


def test_the_exact_regression_has_no_landmarks_to_share():
    regression = make("keep").net.regression
    share_landmarks(regression, TwoRanks(landmarks=pytest.fail))
