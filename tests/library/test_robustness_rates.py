"""Missing rates of a robustness report: curves of one rate, and profiles of unequal rates."""

import itertools
import re

import numpy as np
import pytest
import torch

from invmod.robustness import RobustnessReport, to_frame
from tests.library.robustness_cases import NAMES, by_first, by_mean, made_up, mean, quick, right

PHONE = {"audio": 0.6, "text": 0.1}


def test_a_profile_hides_each_modality_at_its_own_rate():
    features = {name: torch.zeros(4000, 1) for name in NAMES}
    masks = []

    def watch(_, mask):
        masks.append(mask.clone())
        return mask.double().mean(dim=1)

    report = quick(
        watch, features, torch.zeros(4000), mean, rates={"phone": PHONE}, patterns=[], num_draws=2
    )
    assert report.rates == ()
    (profile,) = report.profiles
    assert (profile.name, profile.model) == ("phone", "model")
    assert profile.rates == (0.1, 0.0, 0.6)
    drawn = torch.stack(masks[1:])
    assert drawn.any(dim=2).all()
    hidden = 1 - drawn.double().mean(dim=(0, 1))
    np.testing.assert_allclose(profile.effective_rates, hidden)
    # No row can become empty, because the image is never hidden.
    np.testing.assert_allclose(profile.effective_rates, (0.1, 0.0, 0.6), atol=0.03)
    assert profile.value == pytest.approx(1 - hidden.mean().item())
    assert profile.drop == pytest.approx(hidden.mean().item())


def test_rows_keep_a_modality_and_naturally_missing_cells_do_not_count():
    natural = torch.ones(60, 3, dtype=torch.bool)
    natural[:, 1] = False
    natural[:20, 2] = False
    masks = []

    def watch(_, mask):
        masks.append(mask.clone())
        return torch.zeros(60)

    rates = {"bad": dict.fromkeys(NAMES, 0.9)}
    report = quick(watch, metric=mean, mask=natural, rates=rates, patterns=[], num_draws=3)
    assert all(mask.any(dim=1).all() for mask in masks)
    text, image, audio = report.profile("bad").effective_rates
    drawn = torch.stack(masks[1:])
    assert image == 0.0  # it has no cells that could be hidden
    assert text == pytest.approx(1 - drawn[..., 0].double().mean().item())
    assert audio == pytest.approx(1 - drawn[:, 20:, 2].double().mean().item())


def test_all_models_and_profiles_use_the_same_draws():
    masks = {"a": [], "b": []}

    def watch(name):
        def predict(_, mask):
            masks[name].append(mask.clone())
            return torch.zeros(60)

        return predict

    rates = {"first": PHONE, "again": PHONE, "more": {"audio": 0.8, "text": 0.1}, "equal": 0.3}
    report = quick({"a": watch("a"), "b": watch("b")}, rates=rates, patterns=[], num_draws=1)
    assert all(torch.equal(a, b) for a, b in zip(masks["a"], masks["b"], strict=True))
    _, first, again, more, _ = masks["a"]
    assert torch.equal(first, again)
    assert (more <= first).all()
    assert report.profile("equal").rates == (0.3,) * 3
    assert [profile.name for profile in report.profiles] == [n for n in rates for _ in "ab"]


def test_the_profiles_are_in_table_json_and_frame():
    report = quick(
        {"mean": by_mean, "first": by_first},
        rates={"phone": PHONE, "car": {"image": 0.5}},
        num_resamples=20,
    )
    assert RobustnessReport.from_json(report.to_json()) == report
    text = str(report)
    for profile in report.profiles:
        low, high = profile.interval
        line = next(line for line in text.splitlines() if line.startswith(profile.name))
        assert f"{profile.value:.4f} [{low:.4f}, {high:.4f}]" in line
        assert f"{-profile.drop:+.1%}" in line if profile.drop else "0.0%" in line
        for rate, effective in zip(profile.rates, profile.effective_rates, strict=True):
            assert f"{rate:g} ({effective:.3f})" in line
    frame = to_frame(report)
    rows = frame.filter(frame["condition"] == "profile")
    assert rows["name"].to_list() == [profile.name for profile in report.profiles]
    assert rows["value"].to_list() == [profile.value for profile in report.profiles]
    assert rows["drop"].to_list() == [profile.drop for profile in report.profiles]
    with pytest.raises(KeyError, match=r"no profile 'bus' among \['phone', 'car'\]"):
        report.profile("bus")


def test_rates_may_be_an_array_or_a_tensor():
    expected = quick(rates=(0.0, 0.5), num_draws=1)
    for rates in (
        np.array([0.5, 0.0]),
        torch.tensor([0.0, 0.5]),
        [torch.tensor(0.5), np.float32(0)],
        {0.5, 0.0},
    ):
        assert quick(rates=rates, num_draws=1) == expected
    assert quick(rates=np.array([])).rates == ()


@pytest.mark.parametrize(
    ("rates", "error", "message"),
    [
        ((1.0,), ValueError, "`rates` must lie in [0, 1), got 1.0. To hide a modality in all rows"),
        ((-0.1,), ValueError, "`rates` must lie in [0, 1), got -0.1"),
        ((float("nan"),), ValueError, "`rates` must lie in [0, 1), got nan"),
        (("half",), TypeError, "`rates` must be a number, got 'half'"),
        ((True,), TypeError, "`rates` must be a number, got True"),
        (0.5, TypeError, "`rates` must be a sequence of numbers, or profile ->"),
        ("0.5", TypeError, "`rates` must be a sequence of numbers, or profile ->"),
        ({"phone": {"video": 0.5}}, KeyError, "`rates['phone']` names ['video'], which are not"),
        ({"phone": {"text": 1.0}}, ValueError, "`rates['phone']['text']` must lie in [0, 1)"),
        ({"phone": "bad"}, TypeError, "`rates['phone']` must be a number, got 'bad'"),
        ({3: 0.5}, TypeError, "the names of profiles in `rates` must be strings, got 3"),
        ({"": 0.5}, TypeError, "the names of profiles in `rates` must be strings, got ''"),
    ],
)
def test_invalid_rates_are_rejected_with_the_reason(rates, error, message):
    with pytest.raises(error, match=re.escape(message)):
        quick(rates=rates)


@pytest.mark.parametrize("num_modalities", [1, 2, 4])
def test_missing_rates_empty_no_row_and_the_axis_is_the_hidden_share(num_modalities):
    names = [f"m{index}" for index in range(num_modalities)]
    features = {name: torch.zeros(400, 1) for name in names}
    masks = []

    def watch(_, mask):
        masks.append(mask.clone())
        return mask.double().mean(dim=1)

    rates = (0.0, 0.3, 0.6, 0.9)
    report = quick(watch, features, torch.zeros(400), mean, rates=rates, num_draws=2, patterns=[])
    assert all(mask.any(dim=1).all() for mask in masks)
    assert len(masks) == 1 + 3 * 2 * (1 + num_modalities * (num_modalities > 1))
    for point in report.curve():
        assert point.value == pytest.approx(1 - point.effective_rate)
        empty = point.rate**num_modalities
        expected = (point.rate - empty) / (1 - empty)
        assert point.effective_rate == pytest.approx(
            expected, abs=5 * (0.25 / 800 / num_modalities) ** 0.5
        )
    if num_modalities > 1:
        for name in names:
            for point in report.curve(name):
                assert point.value == pytest.approx(1 - point.effective_rate / num_modalities)
                assert point.effective_rate == pytest.approx(
                    point.rate, abs=5 * (0.25 / 800) ** 0.5
                )
    else:
        assert {point.modality for point in report.rates} == {None}
        assert {point.effective_rate for point in report.rates} == {0.0}
        with pytest.raises(ValueError, match="has no width"):
            report.area()


def test_hidden_cells_are_the_same_for_every_model_and_grow_with_the_rate():
    masks = {"a": [], "b": []}

    def watch(name):
        def predict(_, mask):
            masks[name].append(mask.clone())
            return torch.zeros(60)

        return predict

    quick({"a": watch("a"), "b": watch("b")}, rates=(0.2, 0.5, 0.8), num_draws=1, patterns=[])
    assert all(torch.equal(a, b) for a, b in zip(masks["a"], masks["b"], strict=True))
    first, *_ = masks["a"]
    assert first.all()
    for before, after in itertools.pairwise(masks["a"][4:7]):  # masks of one modality
        assert (after <= before).all()


def test_the_area_is_the_mean_along_the_curve():
    report = quick(rates=(0.0, 0.4, 0.8), num_draws=2)
    points = report.curve("image")
    x, y = [point.effective_rate for point in points], [point.value for point in points]
    assert report.area("image") == pytest.approx(np.trapezoid(y, x) / (x[-1] - x[0]))
    assert min(y) <= report.area("image") <= max(y)
    with pytest.raises(KeyError, match="no curve of 'video'"):
        report.curve("video")
    with pytest.raises(KeyError, match="pass `rates`"):
        quick().curve()


def test_a_point_of_a_curve_is_the_mean_of_its_draws_with_the_interval_of_that_mean():
    """The expected interval is bootstrapped from the mean over the draws of each resample."""
    features, targets = made_up()
    masks = []

    def watch(given, mask):
        masks.append(mask.clone())
        return by_mean(given, mask)

    report = quick(watch, rates=(0.0, 0.7), num_draws=4, num_resamples=300, patterns=[])
    drawn = masks[1:5]  # of all modalities
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) == 4
    hits = torch.stack([right(by_mean(features, mask), targets) for mask in drawn]).numpy()
    point = report.curve()[1]
    assert point.value == pytest.approx(hits.mean())
    rng = np.random.default_rng(0)
    means = [hits[:, rng.integers(60, size=60)].mean() for _ in range(4000)]
    np.testing.assert_allclose(point.interval, np.quantile(means, [0.025, 0.975]), atol=0.02)
    shares = [1 - mask.double().mean().item() for mask in drawn]
    assert point.effective_rate == pytest.approx(np.mean(shares))
