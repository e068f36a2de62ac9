"""The robustness report: inputs of the models, results, tests, tables, files and plots."""

import builtins
import itertools
import json
import re

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

import invmod
from invmod import RobustnessReport, robustness_report
from invmod.robustness import plot_patterns, plot_rates, text_table, to_frame, write_page
from invmod.robustness.document import figure_png, html_document
from invmod.robustness.resampling import Resamples, adjusted_p_values
from tests.strategies import NAN, generators, laws, normal, random_mask, seeded

NAMES = ("text", "image", "audio")


def accuracy(predictions, targets):
    return float(
        (predictions == targets).mean(dtype=float)
        if isinstance(targets, np.ndarray)
        else (predictions == targets).double().mean()
    )


def right(predictions, targets):
    return (predictions == targets).double()


def mean(predictions, _targets):
    return float(predictions.double().mean())


def made_up(n=60, names=NAMES, seed=0):
    """Features that all contain the sign of the target plus noise, and the targets."""
    generator = seeded(seed)
    targets = torch.randint(2, (n,), generator=generator)
    signal = (2.0 * targets - 1)[:, None]
    return {name: signal + 0.8 * normal(generator, n, 2) for name in names}, targets


def by_mean(features, mask):
    """Predict by the mean of the available modalities."""
    z = torch.stack([x.mean(dim=1) for x in features.values()], dim=1)
    z = torch.where(mask, z, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return (z > 0).long()


def by_first(features, mask):
    """Predict by the first modality, without using the mask."""
    return (next(iter(features.values())).nan_to_num().mean(dim=1) > 0).long()


def quick(predict=by_mean, features=None, targets=None, metric=accuracy, **options):
    made, truth = made_up()
    features = made if features is None else features
    targets = truth if targets is None else targets
    options = {"rates": (), "num_resamples": 0, "generator": seeded(0)} | options
    return robustness_report(predict, features, targets, metric, **options)


# --- inputs of the models


@laws
@given(generators(), st.integers(1, 4), st.integers(1, 6))
def test_a_pattern_is_imposed_on_all_rows_in_addition_to_the_natural_mask(
    generator, num_modalities, num_rows
):
    names = [f"m{index}" for index in range(num_modalities)]
    features = {name: normal(generator, num_rows, 2, 3) for name in names}
    natural = random_mask(generator, num_rows, num_modalities)
    seen = []

    def watch(hidden, mask):
        seen.append(mask.clone())
        assert list(hidden) == names
        for index, name in enumerate(names):
            there = mask[:, index]
            assert torch.equal(hidden[name][there], features[name][there])
            assert hidden[name][~there].isnan().all()
        return mask.double().sum(dim=1)

    report = quick(watch, features, torch.zeros(num_rows), mean, mask=natural)
    patterns = [result.pattern for result in report.patterns]
    assert len(set(patterns)) == len(patterns) == 2**num_modalities - 1
    assert all(patterns[0])
    assert [sum(p) for p in patterns] == sorted((sum(p) for p in patterns), reverse=True)
    for mask, result in zip(seen, report.patterns, strict=True):
        assert torch.equal(mask, natural & torch.tensor(result.pattern))
        assert result.value == pytest.approx(mask.double().sum(dim=1).mean().item())
        assert result.empty_rows == (~mask.any(dim=1)).sum()
        assert result.name == invmod.pattern_name(result.pattern, names)


def test_rows_of_nan_are_missing_if_no_mask_is_given():
    features, targets = made_up()
    features["text"][:10] = NAN
    sums = quick(lambda _, mask: mask.double().sum(dim=1), features, targets, mean).complete().value
    assert sums == pytest.approx((50 * 3 + 10 * 2) / 60)
    assert quick(by_mean, features, targets, patterns=[("text",)]).worst().empty_rows == 10


def test_the_drop_of_a_model_that_ignores_the_mask_is_reported():
    """The model reads only the first modality, so hiding it must reduce the metric."""
    report = quick(by_first)
    assert report.complete().value > 0.8
    for result in report.patterns:
        assert (result.value == report.complete().value) == result.pattern[0]
        if not result.pattern[0]:
            assert result.drop > 0.3
    original, _ = made_up()
    peeking = quick(lambda features, mask: by_first(original, mask))
    # A model that reads the original features is not affected by any pattern.
    assert len({result.value for result in peeking.patterns}) == 1


def test_integers_and_bools_are_hidden_by_a_stated_value():
    ids = torch.arange(12).reshape(6, 2)
    flags = torch.ones(6, 1, dtype=torch.bool)
    seen = {}

    def predict(features, mask):
        seen[tuple(mask[0].tolist())] = {name: x.clone() for name, x in features.items()}
        return torch.zeros(6)

    fills = {"words": -1, "flags": 0}
    quick(predict, {"words": ids, "flags": flags}, torch.zeros(6), mean, integer_fill=fills)
    assert torch.equal(seen[True, True]["words"], ids)
    assert (seen[False, True]["words"] == -1).all()
    assert seen[False, True]["words"].dtype == torch.int64
    assert not seen[True, False]["flags"].any()
    quick(predict, {"words": ids}, torch.zeros(6), mean, integer_fill=-7, rates=(0.9,))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\] for torch.bool, got -1"):
        quick(predict, {"flags": flags}, torch.zeros(6), mean, integer_fill=-1)
    # By default each dtype has the sentinel of `hide_features`.
    quick(predict, {"words": ids, "flags": flags}, torch.zeros(6), mean)
    assert (seen[False, True]["words"] == -1).all()
    assert not seen[True, False]["flags"].any()


def test_a_model_cannot_change_the_given_features():
    features, targets = made_up()
    before = {name: x.clone() for name, x in features.items()}

    def vandal(given, mask):
        for x in given.values():
            x.fill_(7.0)
        mask.fill_(False)
        given.clear()
        return torch.zeros(60)

    quick({"a": vandal, "b": by_mean}, features, targets, rates=(0.5,))
    honest = quick(by_mean, features, targets)
    assert all(torch.equal(features[name], x) for name, x in before.items())
    assert honest.complete().value > 0.9


def test_models_are_called_without_gradients():
    layer = nn.Linear(6, 1, dtype=torch.float64)
    quick(lambda x, _: (layer(torch.cat(list(x.values()), dim=1).nan_to_num())[:, 0] > 0).long())

    def check(x, _):
        out = layer(torch.cat(list(x.values()), dim=1).nan_to_num())
        assert not out.requires_grad
        return out[:, 0]

    quick(check, metric=mean)


# --- rates


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


# --- patterns


def test_the_patterns_of_every_option():
    assert {r.name for r in quick(patterns="one_missing").patterns} == {
        "text+image+audio",
        "text+image",
        "text+audio",
        "image+audio",
    }
    assert {r.name for r in quick(patterns="one_left").patterns} == {"text+image+audio", *NAMES}
    assert [r.name for r in quick(patterns=[("audio", "text"), {"image"}]).patterns] == [
        "text+image+audio",
        "text+audio",
        "image",
    ]
    single, targets = {"text": made_up()[0]["text"]}, made_up()[1]
    for patterns in ("all", "one_missing", "one_left"):
        assert len(quick(by_mean, single, targets, patterns=patterns).patterns) == 1


def test_beyond_eight_modalities_the_patterns_are_a_seeded_sample_and_marked_as_such():
    names = [f"m{index}" for index in range(10)]
    features, targets = made_up(8, names)
    reports = [quick(by_mean, features, targets, generator=seeded(s)) for s in (0, 0, 1)]
    patterns = [{result.pattern for result in report.patterns} for report in reports]
    assert len(patterns[0]) == 255
    assert patterns[0] == patterns[1] != patterns[2]
    assert {(True,) * 10} | {tuple(j != i for j in range(10)) for i in range(10)} <= patterns[0]
    assert {tuple(j == i for j in range(10)) for i in range(10)} <= patterns[0]
    assert set(map(sum, patterns[0])) == set(range(1, 11))
    assert reports[0].patterns_sampled
    assert "255 of 1023 patterns were evaluated" in str(reports[0])
    assert not quick().patterns_sampled


# --- queries


def test_the_summary_equals_one_in_plain_python():
    report = quick({"mean": by_mean, "first": by_first})
    for model in ("mean", "first"):
        values = {result.pattern: result.value for result in report.results(model)}
        assert report.worst(model).value == min(values.values())
        for count, value in report.by_num_missing(model).items():
            assert value == pytest.approx(
                np.mean([v for p, v in values.items() if p.count(False) == count])
            )
        complete = values[True, True, True]
        for result in report.results(model):
            assert result.drop == pytest.approx((complete - result.value) / complete)
    with pytest.raises(KeyError, match="no model 'last' among"):
        report.results("last")


def test_if_lower_is_better_a_positive_drop_is_still_a_loss():
    def error_rate(predictions, targets):
        return 1 - accuracy(predictions, targets)

    report = quick(by_first, metric=error_rate, higher_is_better=False)
    assert report.worst().value == max(result.value for result in report.patterns)
    assert report.worst().drop > 0
    assert "lower is better" in str(report)


def test_a_drop_from_zero_is_undefined():
    report = quick(lambda x, mask: torch.zeros(60), metric=mean)
    assert {result.drop for result in report.patterns} == {None}
    assert "undefined" in str(report)


# --- intervals and tests


def auc(scores, targets):
    positive, negative = scores[targets == 1], scores[targets == 0]
    return float((positive[:, None] > negative).double().mean())


def scores_of(features, mask):
    z = torch.stack([x.mean(dim=1) for x in features.values()], dim=1)
    return torch.where(mask, z, 0.0).sum(dim=1)


def test_intervals_are_percentiles_of_the_bootstrap_over_units():
    report = quick(scores_of, metric=auc, num_resamples=200, patterns="one_left", confidence=0.8)
    features, targets = made_up()
    for result in report.patterns:
        z = torch.stack([x.mean(dim=1) for x in features.values()], dim=1)
        scores = (z * torch.tensor(result.pattern)).sum(dim=1)
        rng = np.random.default_rng(0)
        values = [
            auc(scores[i], targets[i]) for i in (rng.integers(60, size=60) for _ in range(2000))
        ]
        low, high = result.interval
        assert low <= result.value <= high
        np.testing.assert_allclose([low, high], np.quantile(values, [0.1, 0.9]), atol=0.02)


def test_a_metric_with_per_unit_values_gives_the_same_report():
    options = {"predict": {"a": by_mean, "b": by_first}, "rates": (0.0, 0.5), "num_resamples": 50}
    slow, fast = quick(**options), quick(**options, per_unit=right)
    for a, b in zip((*slow.patterns, *slow.rates), (*fast.patterns, *fast.rates), strict=True):
        assert a.value == pytest.approx(b.value)
        np.testing.assert_allclose(a.interval, b.interval)
    for a, b in zip(slow.differences, fast.differences, strict=True):
        assert a.p_value == b.p_value
        assert a.adjusted_p_value == b.adjusted_p_value
        np.testing.assert_allclose(a.interval, b.interval, atol=1e-12)


def test_the_units_need_not_be_the_rows_of_the_features():
    """Seven users are the units; the modalities of 60 items, the rows, are hidden."""
    items, _ = made_up()
    users = torch.arange(7)

    def recommend(features, mask):
        return (users[:, None] * mask.double().mean(dim=1)).sum(dim=1)

    report = quick(recommend, items, users, mean, num_resamples=20)
    assert (report.num_rows, report.num_units) == (60, 7)
    assert report.complete().value == pytest.approx(3 * 60)
    assert "7 units, 60 rows" in str(report)


@laws
@given(generators(), st.integers(1, 5), st.integers(1, 12))
def test_max_t_equals_its_definition(generator, num_tests, count):
    observed = normal(generator, num_tests).numpy()
    permuted = normal(generator, count, num_tests).numpy()
    scale = np.sqrt((permuted**2).mean(axis=0))
    t, null = abs(observed) / scale, abs(permuted) / scale
    plain, adjusted = adjusted_p_values(observed, permuted)
    ranked, running = sorted(range(num_tests), key=lambda h: -t[h]), 0.0
    for place, h in enumerate(ranked):
        assert plain[h] == (1 + sum(null[b, h] >= t[h] for b in range(count))) / (1 + count)
        exceeds = [max(null[b, g] for g in ranked[place:]) >= t[h] for b in range(count)]
        running = max(running, (1 + sum(exceeds)) / (1 + count))
        assert adjusted[h] == running
    assert (adjusted >= plain).all()


def test_the_permutation_test_keeps_its_level_for_models_that_differ_by_chance():
    """For two models with independent, equally frequent errors, about 10% are rejected at 10%."""
    rejected, trials, n = 0, 200, 40
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        differences = rng.integers(0, 2, (n, 6)).astype(float) - rng.integers(0, 2, (n, 6))
        signs = np.stack(list(Resamples(n, 199, trial).swaps())) * -2.0 + 1
        _, adjusted = adjusted_p_values(differences.mean(axis=0), signs @ differences / n)
        rejected += bool((adjusted <= 0.1).any())
    assert rejected / trials <= 0.1 + 3 * (0.09 / trials) ** 0.5
    assert rejected / trials >= 0.04  # the test is not too conservative


def test_a_real_difference_is_significant_and_an_absent_one_is_not():
    report = quick(
        {"first": by_first, "mean": by_mean, "again": by_first}, num_resamples=300, per_unit=right
    )
    assert {(d.model, d.baseline) for d in report.differences} == {
        ("mean", "first"),
        ("again", "first"),
    }
    values = {(r.model, r.name): r.value for r in report.patterns}
    for difference in report.differences:
        assert difference.value == pytest.approx(
            values[difference.model, difference.name] - values["first", difference.name]
        )
        if difference.model == "again":
            assert difference.value == 0
            assert difference.adjusted_p_value == 1
        elif difference.name == "image+audio":
            assert difference.adjusted_p_value < 0.02
            assert difference.interval[0] > 0
        assert difference.adjusted_p_value >= difference.p_value


def test_the_correction_includes_the_number_of_comparisons():
    two = quick({"first": by_first, "mean": by_mean}, num_resamples=99, per_unit=right)
    three = quick(
        {"first": by_first, "mean": by_mean, "again": by_first}, num_resamples=99, per_unit=right
    )
    for a, b in zip(two.differences, three.differences, strict=False):
        assert b.adjusted_p_value == min(1.0, 2 * a.adjusted_p_value)


# --- reproducible


def test_equal_seeds_give_equal_reports():
    options = {"predict": {"a": by_mean, "b": by_first}, "rates": (0.5,), "num_resamples": 20}
    state = torch.get_rng_state()
    first = quick(**options)
    assert quick(**options) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert quick(**options, generator=seeded(1)) != first
    with torch.random.fork_rng():
        torch.manual_seed(3)
        by_default = quick(**options, generator=None)
        torch.manual_seed(3)
        assert quick(**options, generator=None) == by_default


# --- scikit-learn, NumPy


def test_a_scikit_learn_predictor_receives_arrays():
    features, targets = made_up(200)
    arrays = {name: x.numpy() for name, x in features.items()}
    model = HistGradientBoostingClassifier(max_iter=10).fit(
        np.concatenate(list(arrays.values()), axis=1), targets.numpy()
    )

    def predict(x, mask):
        assert isinstance(mask, np.ndarray)
        return model.predict(np.concatenate(list(x.values()), axis=1))

    mask = np.ones((200, 3), dtype=bool)
    report = quick(predict, arrays, targets.numpy(), mask=mask, num_resamples=10, rates=(0.5,))
    assert report.complete().value > 0.95
    assert report.worst().value < 0.9
    assert mask.all()
    assert all(not np.isnan(x).any() for x in arrays.values())


# --- table, files, frame, pictures


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def report():
    return quick(
        {"ours": by_mean, "<b>theirs</b>": by_first}, rates=(0.0, 0.5, 0.9), num_resamples=40
    )


def test_the_table_contains_every_number(report):
    text = str(report)
    assert text == text_table(report)
    for result in report.patterns:
        assert re.search(
            rf"^{re.escape(result.name)} +.*{result.value:.4f} \[{result.interval[0]:.4f}",
            text,
            re.MULTILINE,
        )
    for model in report.models:
        assert f"{report.area(None, model):.4f}" in text
    assert "(higher is better), 60 units, 95% intervals from 40 resamples" in text
    # The intervals start at the same position, so the columns are aligned.
    assert len({line.find("[") for line in text.split("\n\n")[1].splitlines()[2:9]}) == 1
    assert "no intervals" in str(quick())


def test_a_long_list_of_patterns_is_shortened_with_a_note():
    features, targets = made_up(20, [f"m{index}" for index in range(6)])
    report = quick({"a": by_mean, "b": by_first}, features, targets)
    text = str(report)
    assert "Shown: the complete pattern, one missing, one left, and the worst; 63 in all." in text
    assert report.worst("b").name in text
    assert len(text.splitlines()) < 50


def test_json_round_trips_a_report(report, tmp_path):
    assert RobustnessReport.from_json(report.to_json()) == report
    path = tmp_path / "report.json"
    report.save(path)
    report.save(path)  # replaces
    assert RobustnessReport.load(path) == report
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert json.loads(path.read_text(encoding="utf-8"))["patterns"][0]["name"] == "text+image+audio"


def test_an_existing_file_survives_a_failed_write(report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("precious", encoding="utf-8")

    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.save(path)
    assert path.read_text(encoding="utf-8") == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "this is not JSON"),
        (lambda text: "[]", "this is JSON, but not a robustness report"),
        (
            lambda text: text.replace('"version": 1', '"version": 9'),
            "the report has version 9, this invmod reads 1",
        ),
        (
            lambda text: text.replace('"patterns":', '"pattens":'),
            "the report is damaged: 'patterns'",
        ),
        (lambda text: text.replace('"drop":', '"fall":', 1), "the report is damaged: .*'fall'"),
        (lambda text: text.replace('"metric":', '"metrik":'), "the report is damaged: .*'metrik'"),
    ],
)
def test_the_error_for_a_damaged_file_names_the_reason_and_the_path(
    report, tmp_path, damage, message
):
    path = tmp_path / "report.json"
    path.write_text(damage(report.to_json()), encoding="utf-8")
    with pytest.raises(ValueError, match=f"report.json: RobustnessReport.from_json: {message}"):
        RobustnessReport.load(path)
    with pytest.raises(FileNotFoundError):
        RobustnessReport.load(tmp_path / "none.json")


def test_the_frame_has_a_row_for_every_model_and_condition(report):
    frame = to_frame(report)
    assert len(frame) == len(report.patterns) + len(report.rates)
    row = frame.row(
        by_predicate=(pl.col("name") == "image")
        & (pl.col("model") == "ours")
        & (pl.col("condition") == "pattern"),
        named=True,
    )
    expected = next(r for r in report.results("ours") if r.name == "image")
    assert (row["value"], row["low"], row["drop"], row["num_missing"]) == (
        expected.value,
        expected.interval[0],
        expected.drop,
        2,
    )
    assert set(frame.filter(pl.col("condition") == "rate")["name"]) == {"all", *NAMES}
    assert to_frame(quick())["low"].null_count() == 7


def test_the_curves_show_every_point(report):
    figure = plot_rates(report)
    shown = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in shown] == [
        "any modality hidden",
        *(f"{name} hidden" for name in NAMES),
    ]
    for panel, modality in zip(shown, (None, *NAMES), strict=True):
        for line, model in zip(panel.get_lines(), report.models, strict=True):
            points = report.curve(modality, model)
            np.testing.assert_allclose(line.get_xdata(), [point.effective_rate for point in points])
            np.testing.assert_allclose(line.get_ydata(), [point.value for point in points])
        assert len(panel.collections) == 2  # bands
    single = plot_rates(quick(rates=(0.0, 0.5)))
    assert single.axes[0].get_legend() is None
    assert not single.axes[0].collections
    with pytest.raises(KeyError, match="pass `rates`"):
        plot_rates(quick())


@pytest.mark.parametrize("num_modalities", [1, 2, 5, 7])
def test_curves_are_drawn_for_any_number_of_panels(num_modalities):
    features, targets = made_up(20, [f"m{index}" for index in range(num_modalities)])
    figure = plot_rates(
        quick(by_mean, features, targets, rates=(0.0, 0.5), num_draws=1, patterns=[])
    )
    assert sum(panel.get_visible() for panel in figure.axes) == (
        num_modalities + 1 if num_modalities > 1 else 1
    )


def test_the_heat_map_shows_every_value_and_the_available_modalities(report):
    figure = plot_patterns(report)
    dots, heat, _ = figure.axes
    assert [text.get_text() for text in heat.texts] == [
        f"{value:.3f}"
        for a, b in zip(report.results("ours"), report.results("<b>theirs</b>"), strict=True)
        for value in (a.value, b.value)
    ]
    filled = {
        (line.get_xdata()[0], line.get_ydata()[0]): line.get_markerfacecolor() != "white"
        for line in dots.get_lines()
        if line.get_marker() == "o"
    }
    for row, result in enumerate(report.results()):
        assert [filled[column, row] for column in range(3)] == list(result.pattern)
    # All cells have the same value, so the colour range has no width.
    dark = plot_patterns(quick(by_mean, metric=lambda p, t: 0.5, higher_is_better=False))
    assert len(dark.axes[1].texts) == 7


def test_a_heat_map_of_many_patterns_shows_the_complete_one_and_the_worst():
    features, targets = made_up(10, [f"m{index}" for index in range(7)])
    report = quick(by_mean, features, targets)
    figure = plot_patterns(report)
    shown = [float(text.get_text()) for text in figure.axes[1].texts]
    assert len(shown) == 63
    assert shown[0] == pytest.approx(report.complete().value, abs=1e-3)
    assert min(shown) == pytest.approx(report.worst().value, abs=1e-3)


def test_the_page_is_self_contained_and_escapes_names(report, tmp_path):
    write_page(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert not plt.get_fignums()
    assert "&lt;b&gt;theirs&lt;/b&gt;" in page
    assert "<b>theirs" not in page
    assert page.count("data:image/png;base64,iVBOR") == 2
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    assert "://" not in page
    for result in report.patterns:
        assert f"{result.value:.4f}" in page
    write_page(quick(), tmp_path / "short.html")
    short = (tmp_path / "short.html").read_text(encoding="utf-8")
    assert "Along missing rates" not in short
    assert "Differences" not in short


@pytest.mark.parametrize(
    ("function", "module"),
    [
        (plot_rates, "matplotlib"),
        (plot_patterns, "matplotlib"),
        (to_frame, "polars"),
        (write_page, "jinja2"),
    ],
)
def test_the_error_for_a_missing_package_names_the_extra(
    report, tmp_path, monkeypatch, function, module
):
    import importlib

    real = importlib.import_module

    def without(name, *rest):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    arguments = (tmp_path / "page.html",) if function is write_page else ()
    with pytest.raises(ImportError, match=rf"needs {module}: pip install 'invmod\[report\]'"):
        function(report, *arguments)
    assert not list(tmp_path.iterdir())


def test_the_deprecated_methods_call_the_functions_and_warn(report, tmp_path):
    for name, function in (("plot_rates", plot_rates), ("plot_patterns", plot_patterns)):
        with pytest.warns(
            DeprecationWarning, match=rf"RobustnessReport.{name}` .*invmod.robustness.{name}"
        ):
            figure = getattr(report, name)()
        assert figure_png(figure) == figure_png(function(report))
    with pytest.warns(
        DeprecationWarning, match=r"RobustnessReport.to_frame` .*invmod.robustness.to_frame"
    ):
        assert report.to_frame().equals(to_frame(report))
    with pytest.warns(
        DeprecationWarning, match=r"RobustnessReport.save_html` .*invmod.robustness.write_page"
    ) as caught:
        report.save_html(tmp_path / "old.html")
    assert caught[0].filename == __file__
    write_page(report, tmp_path / "new.html")
    assert (tmp_path / "old.html").read_bytes() == (tmp_path / "new.html").read_bytes()


def test_a_page_has_a_typographic_minus_before_numbers_but_not_in_names(tmp_path):
    features, targets = made_up(names=("pre-text", "image"))
    report = quick(by_first, features, targets)
    write_page(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert report.worst().drop > 0
    assert f"\N{MINUS SIGN}{report.worst().drop:.1%}" in page
    assert "pre-text" in page
    assert "pre\N{MINUS SIGN}text" not in page


def test_a_document_escapes_its_title_and_keeps_its_body():
    page = html_document("<b>", "<p>{braces}</p>", style="p { margin: 0; }\n")
    assert "<title>&lt;b&gt;</title>" in page
    assert "<p>{braces}</p>" in page
    assert "p { margin: 0; }" in page


def test_the_table_and_json_need_only_core_dependencies(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] in ("matplotlib", "polars", "jinja2", "scipy", "sklearn"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    report = quick({"a": by_mean, "b": by_first}, rates=(0.5,), num_resamples=3)
    assert str(report)
    assert RobustnessReport.from_json(report.to_json()) == report


# --- errors


class Trained(nn.Module):
    def forward(self, features, mask):
        return by_mean(features, mask)


def failing(features, mask):
    if not mask[0, 1]:
        raise RuntimeError("index out of range")
    return by_mean(features, mask)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"predict": {}}, ValueError, "`predict` must have at least one model"),
        ({"predict": {"a": 3}}, TypeError, "the model 'a' must be callable, got int"),
        (
            {"predict": Trained()},
            ValueError,
            "the model 'model' is in training mode. Call its `eval()` first",
        ),
        (
            {"predict": lambda x, m: x["image"][:, 0]},
            ValueError,
            "predictions of 'model' have NaN under the pattern text+audio",
        ),
        (
            {"predict": lambda x, m: x["text"][:, 0].nan_to_num(), "metric": lambda p, t: NAN},
            ValueError,
            "the metric of 'model' is nan under the pattern text+image+audio",
        ),
        (
            {"predict": lambda x, m: 1.0},
            TypeError,
            "predictions of 'model' must be a tensor or an array, got float under",
        ),
        (
            {"predict": lambda x, m: torch.zeros(3)},
            ValueError,
            "must have the first axis of `targets`, 60 units, got shape (3,)",
        ),
        ({"features": {}}, TypeError, "`features` must be all tensors or all NumPy arrays, got {}"),
        (
            {"features": {"a": torch.zeros(2), "b": np.zeros(2)}},
            TypeError,
            "got {'a': 'Tensor', 'b': 'ndarray'}",
        ),
        ({"features": {"a": [0.0]}}, TypeError, "got {'a': 'list'}"),
        ({"targets": [0, 1]}, TypeError, "`targets` must be a tensor or an array, got list"),
        (
            {"targets": torch.zeros(0)},
            ValueError,
            "`targets` must have at least one unit, got (0,)",
        ),
        ({"mask": [[True]]}, TypeError, "`mask` must be a tensor or an array, got list"),
        ({"mask": torch.ones(60, 2, dtype=torch.bool)}, ValueError, "(60, 3)"),
        ({"mask": torch.ones(60, 3)}, TypeError, "bool"),
        ({"rates": (1.0,)}, ValueError, "`rates` must lie in [0, 1), got 1.0"),
        ({"rates": (-0.1,)}, ValueError, "`rates` must lie in [0, 1), got -0.1"),
        ({"num_draws": 0}, ValueError, "`num_draws` must be at least 1, got 0"),
        ({"num_resamples": -1}, ValueError, "`num_resamples` must not be negative, got -1"),
        ({"confidence": 1.0}, ValueError, "`confidence` must lie in (0, 1), got 1.0"),
        (
            {"patterns": "some"},
            ValueError,
            "`patterns` must be 'all', 'one_missing', 'one_left' or",
        ),
        ({"patterns": ["text"]}, TypeError, "got the string 'text'. Write ('text',)"),
        ({"patterns": [("video",)]}, ValueError, "`patterns` names ['video'], which are not among"),
        ({"patterns": [()]}, ValueError, "each of `patterns` must leave at least one modality"),
        (
            {"per_unit": lambda p, t: torch.zeros(3)},
            ValueError,
            "`per_unit` must return (60,) values, one per unit, got (3,)",
        ),
        (
            {"per_unit": lambda p, t: torch.zeros(60)},
            ValueError,
            "the mean of `per_unit` must be the metric, got 0 and",
        ),
        ({"integer_fill": {"video": 0}}, KeyError, "video"),
    ],
)
def test_invalid_input_is_rejected_with_the_reason(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        quick(**options)


def test_an_error_of_a_model_names_the_model_and_the_condition():
    with pytest.raises(RuntimeError, match="index out of range") as caught:
        quick({"good": by_mean, "bad": failing})
    assert caught.value.__notes__ == [
        "robustness_report: raised by the model 'bad' under the pattern text+audio."
    ]


def test_the_table_reports_emptied_rows_and_formats_numbers_of_any_size():
    features, targets = made_up()
    features["image"][:, :] = features["audio"][:, :] = NAN
    features["text"][:3] = NAN
    text = str(quick(by_mean, features, targets, patterns="one_left"))
    assert "A pattern leaves up to 60 rows without any modality." in text
    large = str(quick(lambda x, mask: mask.double().sum(dim=1) * 12345.678, metric=mean))
    assert re.search(r"text\+image\+audio +37037 ", large)
    tiny = str(quick(lambda x, mask: mask.double().sum(dim=1) * 1e-5, metric=mean))
    assert re.search(r"text\+image\+audio +3.0e-05 ", tiny)


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
