"""The split by time: no test item has a training pair, and no pair after the cut trains."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milk_recsys.base.errors import DataError, OptionError
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.split import Split, draw_split, split_facts
from milk_recsys.catalogue.split_file import read_split, write_split
from milk_recsys.catalogue.synthetic import embedded_dataset
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.catalogue.time_split import first_seen, parse_cut
from milk_recsys.config.options import DataOptions, Options, validate
from milk_recsys.study.audit import audit

DAY = 86400.0


def timed(seed: int = 0, days: int = 60) -> Dataset:
    """The embedded set with whole days as times; items appear on different days."""
    whole = embedded_dataset()
    rng = np.random.default_rng(seed)
    appears = rng.integers(0, days, whole.num_items)
    items = np.asarray(whole.interactions[:, 1])
    times = (appears[items] + rng.integers(0, days, len(items))).astype(np.float64) * DAY
    return dataclasses.replace(whole, times=times)


def tables_of(dataset: Dataset, **options: Any) -> tuple[Split, Tables, list[str]]:
    chosen = Options.of("keep", split_by="first_seen", compare="none", **options)
    split, notes = draw_split(dataset, chosen.data)
    return split, build_tables(dataset, split, chosen, torch.device("cpu")), notes


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.none() | st.integers(15, 50))
def test_what_is_new_is_later_and_nothing_later_trains(seed: int, cut: int | None) -> None:
    dataset = timed(seed)
    given_cut = None if cut is None else str(cut * DAY)
    split, tables, _ = tables_of(dataset, cut=given_cut)
    assert split.cut is not None
    assert dataset.times is not None
    first = first_seen(dataset)
    assert (first[split.warm] < split.cut).all()
    assert (first[split.cold] >= split.cut).all()
    assert first[split.validation].max() <= first[split.test].min()
    assert abs(len(split.validation) - len(split.test)) <= 1
    if cut is not None:
        assert split.cut == cut * DAY
    else:  # A fifth of the items is new, or a few more that appeared at the time of the cut.
        used = int(np.isfinite(first).sum())
        same = int((first == split.cut).sum())
        assert 0.2 * used - 1 <= len(split.cold) <= 0.2 * used + same
    users, items = tables.pairs.unbind(1)
    time = {
        tuple(pair): t for pair, t in zip(dataset.interactions.tolist(), dataset.times, strict=True)
    }
    assert max(time[pair] for pair in zip(users.tolist(), items.tolist(), strict=True)) < split.cut
    assert not set(items.tolist()) & set(split.cold.tolist())
    # Every pair of a warm item from before the cut trains.
    expected = np.isin(dataset.interactions[:, 1], split.warm) & (dataset.times < split.cut)
    assert len(users) == expected.sum()


def test_only_users_with_a_past_are_ranked_and_the_rest_is_noted() -> None:
    dataset = timed()
    assert dataset.times is not None
    # User 0 has pairs after the cut alone.
    of_user = dataset.interactions[:, 0] == 0
    times = np.where(of_user, 200 * DAY, dataset.times)
    split, tables, notes = tables_of(dataclasses.replace(dataset, times=times))
    past = set(tables.pairs[:, 0].tolist())
    assert 0 not in past
    for group in (tables.validation, tables.test):
        assert len(group.users) > 0
        assert set(group.users.tolist()) <= past
    [note] = [text for text in notes if text.startswith("cut at ")]
    pairs = np.asarray(dataset.interactions)
    new = np.isin(pairs[:, 1], split.cold)
    strangers = int((new & ~np.isin(pairs[:, 0], list(past))).sum())
    assert f"{strangers} pairs of users without an earlier pair" in note
    facts = split_facts(dataclasses.replace(dataset, times=times), split)
    assert facts["pairs"]["warm"] == tables.num_pairs
    assert facts["pairs"]["test"] == len(tables.test.users)


def test_a_file_keeps_the_cut(tmp_path: Path) -> None:
    dataset = timed()
    split, tables, _ = tables_of(dataset)
    write_split(tmp_path / "split.npz", split)
    again, _ = read_split(tmp_path / "split.npz", dataset, "ftmt")
    assert again.cut == split.cut
    options = Options.of("keep", compare="none")
    other = build_tables(dataset, again, options, torch.device("cpu"))
    assert torch.equal(other.pairs, tables.pairs)
    with pytest.raises(DataError, match="has no times"):
        read_split(tmp_path / "split.npz", embedded_dataset(), "ftmt")


def test_the_audit_finds_no_use_of_test_items() -> None:
    options = Options.of("keep", split_by="first_seen", compare="none", setting="ftft")
    dataset = timed()
    split, _ = draw_split(dataset, options.data)
    assert audit(options, dataset, split)


def test_cuts_are_dates_or_seconds() -> None:
    assert parse_cut("2011-03-04") == 1299196800
    assert parse_cut("2011-03-04T01:00") == parse_cut("2011-03-04T03:00+02:00")
    assert parse_cut("1299196800.5") == 1299196800.5
    for text in ("soon", "", "nan", "2011-13-01"):
        with pytest.raises(OptionError, match="--cut must be a date"):
            parse_cut(text)


def test_errors_say_what_to_do() -> None:
    dataset = timed()
    with pytest.raises(DataError, match="has no times, which --split-by first_seen needs"):
        draw_split(embedded_dataset(), DataOptions(split_by="first_seen"))
    for cut, part in (("1960-01-01", "training"), ("2100-01-01", "validation")):
        with pytest.raises(DataError, match=f"there is no {part} item. Items appear from 1970"):
            draw_split(dataset, DataOptions(split_by="first_seen", cut=cut))
    options: dict[str, Any]
    for options, message in (
        ({"cut": "2011-03-04"}, "--cut needs --split-by first_seen"),
        ({"split": Path("s.npz"), "split_by": "first_seen"}, "Leave out --split-by"),
        ({"fit_all": True, "split": Path("s.npz")}, "Leave out --split"),
        ({"fit_all": True, "split_by": "first_seen"}, "Leave out --split-by"),
        ({"fit_all": True, "setting": "mtmt"}, "Leave out --setting mtmt"),
        ({"fit_all": True, "model": "milk"}, "Give --epochs"),
        ({"fit_all": True, "model": "milk", "epochs": 5, "compare": "erm"}, "no test items"),
    ):
        chosen = Options.of(**dict[str, Any]({"compare": "none"} | options))
        with pytest.raises(OptionError, match=message):
            validate(chosen)


def test_the_default_cut_of_a_real_shop(data_root: Path) -> None:
    """Counts that were computed from the raw table, independently of this code."""
    dataset = read_dataset(data_root / "online_retail_t")
    split, tables, _ = tables_of(dataset)
    assert len(split.cold) == 629
    ranked = torch.cat([tables.validation.users, tables.test.users])
    assert (len(ranked), len(torch.unique(ranked))) == (27_841, 1_241)
