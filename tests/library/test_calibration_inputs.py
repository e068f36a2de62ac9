"""Calibration with features that are None, absent or mappings, and with files of the wrong kind."""

import json

import numpy as np
import pytest
import torch

from invmod.calibration import CalibrationReport, ConformalPredictor, calibrate_by_pattern
from invmod.encoders import ModalityEncoders
from invmod.fusion import masked_mean
from tests.library.test_calibration import RULES, draw, model

NAN = float("nan")


def calibrated(rule="auto", **changes):
    features, _, targets = draw(0, 60)
    return calibrate_by_pattern(
        model("absolute"), features | changes, targets, "absolute", coverage=0.7, rule=rule
    )


# --- None and absent names


@pytest.mark.parametrize("rule", [*RULES, "auto"])
@pytest.mark.parametrize("mask_given", [False, True, "by name"])
def test_an_absent_feature_or_none_is_a_column_of_nan(rule, mask_given):
    predictor = calibrated(rule)
    features, mask, targets = draw(1, 20)
    full = features | {"b": np.full((20, 1), NAN)}
    mask[:, 1] = False
    expected = predictor.intervals(full)
    assert np.isfinite(expected).any()
    absent = {name: x for name, x in features.items() if name != "b"}
    chosen = {
        False: None,
        True: mask,
        "by name": {"a": mask[:, 0], "c": mask[:, 2]},
    }[mask_given]
    for given in (absent, features | {"b": None}):
        np.testing.assert_array_equal(predictor.intervals(given, chosen), expected)
        assert predictor.report(given, targets, chosen) == predictor.report(full, targets)


def test_sets_of_classes_accept_an_absent_feature():
    features, _, targets = draw(0, 60, score="probability")
    predictor = calibrate_by_pattern(model("probability"), features, targets, "probability")
    tests = draw(1, 20)[0]
    expected = predictor.sets(tests | {"c": np.full((20, 1), NAN)})
    np.testing.assert_array_equal(predictor.sets({"a": tests["a"], "b": tests["b"]}), expected)


def test_the_model_receives_hidden_cells_of_the_calibrations_shape_and_dtype(tmp_path):
    seen = []

    def predict(features, mask):
        image, words = features["image"], features["words"]["ids"]
        assert image.shape == (len(mask), 2, 3)
        assert image.dtype == torch.float16
        assert words.shape == (len(mask), 4)
        assert words.dtype == torch.int32
        assert image[~mask[:, 1]].isnan().all()
        assert (words[~mask[:, 2]] == -1).all()
        seen.append(tuple(mask[0].tolist()))
        return features["a"][:, 0].nan_to_num()

    features = {
        "a": torch.arange(20.0)[:, None],
        "image": torch.ones(20, 2, 3, dtype=torch.float16),
        "words": {"ids": torch.ones(20, 4, dtype=torch.int32)},
    }
    predictor = calibrate_by_pattern(predict, features, torch.arange(20.0) + 0.5, "absolute")
    predictor.save(tmp_path / "calibration.json")
    loaded = ConformalPredictor.load(tmp_path / "calibration.json", predict)
    for one in (predictor, loaded):
        seen.clear()
        assert one.intervals({"a": torch.ones(2, 1)}).tolist() == [[0.5, 1.5]] * 2
        assert seen == [(True, False, False)]


def test_a_feature_that_is_none_in_calibration_is_missing_in_all_rows():
    seen = []

    def predict(features, mask):
        seen.append((features["b"] is None, bool(mask[:, 1].any())))
        return np.where(mask[:, 0], features["a"][:, 0], 0.0)

    features = {"a": np.arange(20.0)[:, None], "b": None}
    predictor = calibrate_by_pattern(predict, features, np.arange(20.0), "absolute")
    assert seen == [(True, False)]
    rows = {result.name: result.num_rows for result in predictor.report().patterns}
    assert rows == {"a+b": 20, "a": 20, "b": 0}
    again = ConformalPredictor.from_json(predictor.to_json(), predict)
    for one in (predictor, again):
        assert one.intervals({"a": np.ones((1, 1))}).tolist() == [[1.0, 1.0]]
        # A pattern without calibration rows has infinite intervals.
        only_b = one.intervals({"a": np.full((1, 1), NAN), "b": np.ones((1, 1))})
        assert only_b.tolist() == [[-np.inf, np.inf]]


def test_none_that_a_mask_calls_available_and_nothing_at_all_are_errors():
    predictor = calibrated()
    features, mask, _ = draw(1, 20)
    with pytest.raises(
        ValueError, match=r"intervals: `mask` must be False where a feature is None.*\['b'\]"
    ):
        predictor.intervals(features | {"b": None}, mask)
    with pytest.raises(ValueError, match="must have at least one modality that is not None"):
        predictor.intervals(dict.fromkeys(features))
    with pytest.raises(ValueError, match="must have at least one modality that is not None"):
        calibrated(a=None, b=None, c=None)
    with pytest.raises(KeyError, match=r"intervals: .*unknown \['z'\]"):
        predictor.intervals(features | {"z": features["a"]})

    with pytest.raises(TypeError, match=r"intervals: `features` must be a mapping .* got ndarray"):
        predictor.intervals(features["a"])
    with pytest.raises(TypeError, match=r"by_pattern: `features` must be a mapping .* got Tensor"):
        calibrate_by_pattern(model("absolute"), torch.ones(3, 1), np.ones(3), "absolute")


# --- mappings


def token_features(features):
    """The first feature as a mapping, as of token ids with their attention mask."""
    rest = {name: x for name, x in features.items() if name != "a"}
    return {"a": {"ids": features["a"], "weights": np.ones_like(features["a"])}} | rest


def of_mappings(features, mask):
    assert set(features["a"]) == {"ids", "weights"}
    hidden = np.isnan(features["a"]["weights"]).all(axis=1)
    np.testing.assert_array_equal(hidden, ~mask[:, 0])
    return model("absolute")(features | {"a": features["a"]["ids"]}, mask)


@pytest.mark.parametrize("rule", [*RULES, "auto"])
def test_a_feature_may_be_a_mapping(rule):
    features, _, targets = draw(0, 60)
    tests, _, test_targets = draw(1, 20)
    expected = calibrated(rule)
    found = calibrate_by_pattern(
        of_mappings, token_features(features), targets, "absolute", coverage=0.7, rule=rule
    )
    np.testing.assert_array_equal(found.intervals(token_features(tests)), expected.intervals(tests))
    assert found.report(token_features(tests), test_targets) == expected.report(tests, test_targets)
    absent = {"b": tests["b"], "c": tests["c"]}
    np.testing.assert_array_equal(found.intervals(absent), expected.intervals(absent))


def test_encoders_of_mappings_and_missing_features_can_be_calibrated():
    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(10, 4)

        def forward(self, ids, attention_mask):
            return (self.table(ids) * attention_mask[..., None]).sum(dim=1)

    encoders = ModalityEncoders({"words": Words(), "x": torch.nn.Linear(2, 4)})

    def predict(features, mask):
        return masked_mean(encoders(features, mask), mask).sum(dim=1)

    words = {"ids": torch.arange(40).reshape(20, 2) % 10, "attention_mask": torch.ones(20, 2).int()}
    features = {"words": words, "x": torch.ones(20, 2)}
    predictor = calibrate_by_pattern(predict, features, torch.zeros(20), "absolute")
    assert predictor.intervals({"x": torch.ones(3, 2)}).isfinite().all()
    assert predictor.intervals({"words": words, "x": None}).isfinite().all()


@pytest.mark.parametrize(
    ("feature", "error", "message"),
    [
        ({}, ValueError, "the mapping of 'a' is empty"),
        ({"ids": [1.0]}, TypeError, r"all tensors or all NumPy arrays.*'ids': 'list'"),
        ({"ids": torch.ones(60)}, TypeError, r"all tensors or all NumPy arrays"),
        (np.float64(1.0), TypeError, "all tensors or all NumPy arrays"),
        (np.array(1.0), TypeError, r"must be a tensor \(N, ...\) or None, got a scalar"),
        ({"ids": np.ones(60), "mask": np.ones(3)}, ValueError, "equal numbers of rows"),
    ],
)
def test_wrong_features_are_refused(feature, error, message):
    with pytest.raises(error, match=f"calibrate_by_pattern: .*{message}"):
        calibrated(a=feature)


# --- files and text


def test_files_of_another_kind_or_version_are_refused(tmp_path):
    predictor = calibrated()
    predict, path = model("absolute"), tmp_path / "file.json"
    predictor.report().save(path)
    with pytest.raises(
        ValueError,
        match=r"from_json: .*'invmod conformal predictor', but it has the format 'invmod c",
    ):
        ConformalPredictor.load(path, predict)
    predictor.save(path)
    with pytest.raises(
        ValueError,
        match=r"from_json: .*'invmod calibration report', but it has the format 'invmod c",
    ):
        CalibrationReport.load(path)
    for read, saved in (
        (CalibrationReport.from_json, predictor.report().to_json()),
        (lambda text: ConformalPredictor.from_json(text, predict), predictor.to_json()),
    ):
        newer = json.dumps(json.loads(saved) | {"version": 7})
        for text, message in (
            ("a table", "the text is not JSON"),
            ("[]", "does not state a format"),
            ('{"version": 1}', "does not state a format"),
            (newer, "must have version 1 .* got 7"),
        ):
            with pytest.raises(ValueError, match=f"from_json: .*{message}"):
                read(text)


def test_the_text_of_a_predictor_has_its_rules_and_no_scores():
    predictor = calibrated("nested")
    assert repr(predictor) == str(predictor)
    assert repr(predictor) == (
        "ConformalPredictor(score='absolute', coverage=0.7, num_rows=60, rules={'a+b+c': 'nested', "
        "'a+b': 'nested', 'a+c': 'nested', 'b+c': 'nested', 'a': 'nested', 'b': 'nested', "
        "'c': 'nested'})"
    )
    assert repr(predictor.calibrated[(True, False, False)]).startswith(
        "PatternScores(rule='nested', num_rows="
    )


def test_nested_calibration_leaves_out_rows_that_share_no_modality_and_says_so():
    mask = draw(0, 60)[1]
    report = calibrated("nested").report()
    rows = {result.name: result.num_rows for result in report.patterns}
    assert rows["b"] == mask[:, 1].sum() < 60
    assert "nested: calibrated on all rows that share a modality with this pattern" in str(report)
