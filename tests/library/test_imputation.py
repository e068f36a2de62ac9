"""Laws of the constant imputers: fits use the given rows only, and states can be restored."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_model, save_model
from torch import nn

from invmod import MeanImputer, ZeroImputer, imputation
from tests.strategies import NAN, generators, laws, normal, random_mask, seeded

NAMES = ("text", "image")
DIMS = {"text": (3,), "image": (2, 2)}
IMPUTERS = [ZeroImputer, MeanImputer]


def draw(generator, num_rows, dtype=torch.float64, share=0.6):
    """Return features with NaN in masked cells, and the mask; the first row is complete."""
    mask = random_mask(generator, num_rows, 2, share)
    mask[0] = True
    features = {
        name: normal(generator, num_rows, *dims, dtype=dtype) for name, dims in DIMS.items()
    }
    for index, name in enumerate(NAMES):
        features[name][~mask[:, index]] = NAN
    return features, mask


@laws
@given(generators(), st.integers(1, 12))
def test_the_mean_is_taken_over_observed_training_rows(generator, num_rows):
    features, mask = draw(generator, num_rows)
    rows = torch.cat(
        [torch.tensor([0]), 1 + torch.randperm(num_rows - 1, generator=generator)[: num_rows // 2]]
    )
    filled, usable = MeanImputer(NAMES).fit(features, mask, rows)(features, mask)
    assert usable.shape == mask.shape
    assert usable.dtype == torch.bool
    assert usable.all()
    for index, name in enumerate(NAMES):
        x, available = features[name].numpy(), mask[:, index].numpy()
        used = [n for n in rows.tolist() if available[n]]
        np.testing.assert_allclose(
            filled[name][~mask[:, index]],
            np.broadcast_to(x[used].mean(axis=0), x[~available].shape),
        )
        assert torch.equal(filled[name][mask[:, index]], features[name][mask[:, index]])


@pytest.mark.parametrize("imputer", IMPUTERS)
@laws
@given(generators(), st.integers(2, 12))
def test_rows_outside_training_or_unobserved_do_not_change_the_fit(imputer, generator, num_rows):
    features, mask = draw(generator, num_rows)
    rows = torch.arange(num_rows // 2)
    fitted = imputer(NAMES).fit(features, mask, rows).state_dict()
    for index, name in enumerate(NAMES):
        features[name][num_rows // 2 :] = 1e9
        features[name][~mask[:, index]] = -7e8
    mask[num_rows // 2 :] = ~mask[num_rows // 2 :]
    again = imputer(NAMES).fit(features, mask, rows).state_dict()
    assert fitted.keys() == again.keys()
    assert all(torch.equal(fitted[key], again[key]) for key in fitted)


@pytest.mark.parametrize("imputer", IMPUTERS)
def test_the_input_features_are_not_modified(imputer):
    features, mask = draw(seeded(0), 8)
    kept = {name: x.clone() for name, x in features.items()}
    filled, _ = imputer(NAMES).fit(features, mask)(features, mask)
    assert list(filled) == list(NAMES)
    for name, x in features.items():
        assert torch.equal(x.isnan(), kept[name].isnan())
        assert filled[name].isfinite().all()
        assert filled[name].shape == x.shape
        assert filled[name].dtype == x.dtype


def test_zeros_fill_integer_features():
    features = {"text": torch.tensor([[5], [7]])}
    filled, _ = ZeroImputer(["text"]).fit(features, torch.ones(2, 1).bool())(
        features, torch.tensor([[True], [False]])
    )
    assert filled["text"].tolist() == [[5], [0]]


@laws
@given(generators(), st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_partial_fit_on_any_partition_equals_fit_on_all_rows(
    generator, num_rows, num_parts, by_rows
):
    features, mask = draw(generator, num_rows)
    part = torch.randint(num_parts, (num_rows,), generator=generator)
    whole, parts = MeanImputer(NAMES).fit(features, mask), MeanImputer(NAMES)
    for number in range(num_parts):
        rows = (part == number).nonzero()[:, 0]
        if by_rows:
            assert parts.partial_fit(features, mask, rows) is parts
        else:
            parts.partial_fit({name: x[rows] for name, x in features.items()}, mask[rows])
    assert list(parts.state_dict()) == list(whole.state_dict())
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], value, rtol=1e-13, atol=1e-13)


def test_fit_discards_earlier_rows_and_partial_fit_keeps_them():
    here = torch.ones(2, 1).bool()
    imputer = MeanImputer(["text"]).partial_fit({"text": torch.tensor([[100.0], [200.0]])}, here)
    imputer.fit({"text": torch.tensor([[1.0], [2.0]])}, here)
    imputer.partial_fit({"text": torch.tensor([[3.0], [6.0]])}, here)
    assert imputer.fill_0.item() == 3.0
    imputer.partial_fit({"text": torch.tensor([[4.0]], dtype=torch.float64)}, here[:1])
    assert imputer.fill_0.dtype == torch.float64
    assert imputer.fill_0.item() == 16 / 5


def test_a_modality_without_observed_rows_has_no_mean():
    features, mask = draw(seeded(0), 5)
    mask[:, 1] = False
    imputer = MeanImputer(NAMES).partial_fit(features, mask)
    with pytest.raises(
        RuntimeError,
        match=re.escape("MeanImputer: not fitted yet for ['image']: no row so far had"),
    ):
        imputer(features, mask)
    features["image"][0], mask[0, 1] = 7.0, True
    imputer.partial_fit(features, mask, torch.tensor([0]))
    assert (imputer(features, mask)[0]["image"] == 7).all()


def test_a_failed_block_does_not_change_the_sums():
    features, mask = draw(seeded(5), 6)
    imputer = MeanImputer(NAMES).partial_fit(features, mask)
    broken = {**features, "image": torch.full_like(features["image"], NAN)}
    message = (
        "MeanImputer.partial_fit: modality 'image' has NaN or an infinity in a row that the mask "
        "marks as observed"
    )
    with pytest.raises(ValueError, match=message):
        imputer.partial_fit(broken, mask)
    imputer.partial_fit(features, mask)
    for key, value in MeanImputer(NAMES).fit(features, mask).state_dict().items():
        torch.testing.assert_close(imputer.state_dict()[key], value, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (
            {"text": torch.ones(3, 5)},
            ValueError,
            "modality 'text' must have shape (N, 2) as in the rows before, got",
        ),
        (
            {"text": torch.ones(3, 2).long()},
            TypeError,
            "modality 'text' must be floating point to have a mean",
        ),
        (
            {},
            ValueError,
            "the mask marks 'text' as available, but `features` lacks it.",
        ),
    ],
)
def test_an_invalid_block_is_an_error(features, error, message):
    imputer = MeanImputer(["text"]).partial_fit(ONE, HERE)
    with pytest.raises(error, match=f"MeanImputer.partial_fit: .*{re.escape(message)}"):
        imputer.partial_fit(features, HERE)


def test_loaded_means_reject_partial_fit_but_can_be_fitted_again():
    features, mask = draw(seeded(2), 9)
    saved = MeanImputer(NAMES).fit(features, mask).state_dict()
    for imputer in (
        MeanImputer(NAMES),
        MeanImputer(NAMES).fit({k: x + 1 for k, x in features.items()}, mask),
    ):
        imputer.load_state_dict(saved)
        with pytest.raises(
            RuntimeError, match=r"MeanImputer.partial_fit: the means were loaded, and the sums"
        ):
            imputer.partial_fit(features, mask)
        assert torch.equal(imputer.fill_0, saved["fill_0"])
        imputer.fit(features, mask).partial_fit(features, mask)
        torch.testing.assert_close(imputer.fill_0, saved["fill_0"])


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 7, 100])
def test_the_block_size_does_not_change_the_means(monkeypatch, rows_at_once):
    features, mask = draw(seeded(0), 7)
    whole = MeanImputer(NAMES).fit(features, mask)
    monkeypatch.setattr(imputation.mean, "ROWS_AT_ONCE", rows_at_once)
    blocks = MeanImputer(NAMES).fit(features, mask)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(blocks.state_dict()[key], value, rtol=1e-14, atol=1e-14)


def test_a_table_is_read_in_blocks(monkeypatch):
    """At most ROWS_AT_ONCE rows are gathered at a time, so a table is never copied as a whole."""
    gathered = []

    class Watched(torch.Tensor):
        def __getitem__(self, index):
            gathered.append(len(index))
            return super().__getitem__(index)

    monkeypatch.setattr(imputation.mean, "ROWS_AT_ONCE", 3)
    features = {"text": torch.ones(10, 2).as_subclass(Watched)}
    MeanImputer(["text"]).fit(features, torch.ones(10, 1, dtype=torch.bool))
    assert gathered == [3, 3, 3, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_do_not_overflow(dtype):
    features = {"text": torch.full((10_000, 1), 60_000.0).to(dtype)}
    mask = torch.ones(10_000, 1, dtype=torch.bool)
    imputer = MeanImputer(["text"]).fit(features, mask)
    assert imputer.fill_0.dtype == torch.float32
    assert imputer.fill_0.item() == features["text"][0].item()
    filled, _ = imputer(features, ~mask)
    assert filled["text"].dtype == dtype
    assert torch.equal(filled["text"], features["text"])


@pytest.mark.parametrize("given", [{}, {"image": None}])
def test_all_rows_of_an_absent_modality_are_filled(given):
    features, mask = draw(seeded(1), 6)
    imputer = MeanImputer(NAMES).fit(features, mask)
    without = mask & torch.tensor([True, False])
    filled, usable = imputer({"text": features["text"]} | given, without)
    assert torch.equal(filled["image"], imputer.fill_1.expand(6, 2, 2))
    assert usable.all()
    alone, _ = imputer(given, torch.zeros_like(mask[:2]))
    assert torch.equal(alone["text"], imputer.fill_0.expand(2, 3))
    empty, usable = imputer({name: x[:0] for name, x in features.items()}, mask[:0])
    assert empty["image"].shape == (0, 2, 2)
    assert usable.shape == (0, 2)


@pytest.mark.parametrize("imputer", IMPUTERS)
@laws
@given(generators(), st.integers(1, 6), st.permutations(NAMES))
def test_the_order_of_a_mapping_mask_does_not_matter(imputer, generator, num_rows, order):
    features, mask = draw(generator, num_rows)
    columns = dict(zip(NAMES, mask.unbind(1), strict=True))
    columns = {name: columns[name] for name in order}
    expected, _ = imputer(NAMES).fit(features, mask)(features, mask)
    got, _ = imputer(NAMES).fit(features, columns)(features, columns)
    assert all(torch.equal(expected[name], got[name]) for name in NAMES)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("imputer", IMPUTERS)
def test_an_unfitted_imputer_is_restored_from_a_state_dict(imputer, assign):
    features, mask = draw(seeded(2), 9, dtype=torch.float32)
    fitted = imputer(NAMES).fit(features, mask)
    extra = ["dtypes"] if imputer is ZeroImputer else []
    assert list(fitted.state_dict()) == ["fill_0", "fill_1", *extra, "modality_names"]
    restored = imputer(NAMES)
    restored.load_state_dict(fitted.state_dict(), assign=assign)
    expected, got = fitted(features, mask)[0], restored(features, mask)[0]
    assert all(torch.equal(expected[name], got[name]) for name in NAMES)


def test_a_restored_imputer_does_not_share_memory_with_its_source():
    features, mask = draw(seeded(2), 9)
    fitted = MeanImputer(NAMES).fit(features, mask)
    restored = MeanImputer(NAMES)
    restored.load_state_dict(fitted.state_dict())
    fitted.fill_0.zero_()
    assert restored.fill_0.abs().sum() > 0


def test_a_fitted_imputer_keeps_its_dtype_and_device_on_loading():
    features, mask = draw(seeded(2), 9)
    saved = MeanImputer(NAMES).fit(features, mask).state_dict()
    other = (
        MeanImputer(NAMES)
        .fit({name: x[:, :1] for name, x in features.items()}, mask)
        .to(torch.float32)
    )
    other.load_state_dict(saved)  # the shapes are those of the loaded tensors
    assert other.fill_0.dtype == torch.float32
    assert torch.equal(other.fill_0, saved["fill_0"].float())
    unfitted = MeanImputer(NAMES)
    unfitted.load_state_dict(saved)
    assert unfitted.fill_0.dtype == torch.float64
    away = MeanImputer(NAMES).fit(features, mask).to("meta")
    with pytest.warns(
        UserWarning, match="non-meta parameter in the checkpoint to a meta parameter"
    ):
        away.load_state_dict(saved)
    assert away.fill_0.device.type == "meta"


def test_an_incomplete_state_is_reported():
    features, mask = draw(seeded(2), 9)
    saved = MeanImputer(NAMES).fit(features, mask).state_dict()
    del saved["fill_0"]
    for imputer in (MeanImputer(NAMES), MeanImputer(NAMES).fit(features, mask)):
        with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"fill_0\"\."):
            imputer.load_state_dict(saved)
    assert MeanImputer(NAMES).load_state_dict(saved, strict=False).missing_keys == ["fill_0"]
    MeanImputer(NAMES).load_state_dict({})  # a state without keys leaves it unfitted


@pytest.mark.parametrize("num_rows", [1, 4])
def test_fills_of_an_absent_modality_are_not_views_of_the_buffer(num_rows):
    features, mask = draw(seeded(2), 9)
    imputer = MeanImputer(NAMES).fit(features, mask)
    kept = imputer.fill_0.clone()
    filled = imputer({}, torch.zeros_like(mask[:num_rows]))[0]["text"]
    assert filled.is_contiguous()
    filled[0] = 7.0
    assert torch.equal(imputer.fill_0, kept)
    assert (filled[1:] == kept).all()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.imputer = MeanImputer(NAMES)
        self.head = nn.Linear(3, 1)


def test_an_imputer_is_restored_as_part_of_a_model_and_from_a_file(tmp_path):
    features, mask = draw(seeded(3), 9, dtype=torch.float32)
    model = Model()
    model.imputer.fit(features, mask)
    expected = model.imputer(features, mask)[0]

    in_memory, from_file = Model(), Model()
    in_memory.load_state_dict(model.state_dict())
    save_model(model, tmp_path / "model.safetensors")
    load_model(from_file, tmp_path / "model.safetensors")
    for restored in (in_memory, from_file):
        got = restored.imputer(features, mask)[0]
        assert all(torch.equal(expected[name], got[name]) for name in NAMES)
        assert torch.equal(restored.head.weight, model.head.weight)


def test_an_unfitted_imputer_has_an_empty_state_and_a_refit_replaces_the_old_one():
    assert MeanImputer(NAMES).state_dict() == {}
    features, mask = draw(seeded(4), 9)
    imputer = MeanImputer(NAMES).fit(features, mask)
    with pytest.raises(
        RuntimeError, match=r"Missing key\(s\) in state_dict: \"fill_0\", \"fill_1\""
    ):
        imputer.load_state_dict({})
    before = imputer.fill_0.clone()
    imputer.fit({name: x + 1 for name, x in features.items()}, mask)
    torch.testing.assert_close(imputer.fill_0, before + 1)


@pytest.mark.parametrize("wrong", ["image", "text"])
def test_a_failed_fit_does_not_change_the_state(wrong):
    features, mask = draw(seeded(5), 6)
    imputer = MeanImputer(NAMES).fit(features, mask)
    before = {key: value.clone() for key, value in imputer.state_dict().items()}
    broken = {name: x + 1 for name, x in features.items()}
    broken[wrong] = torch.full_like(broken[wrong], NAN)
    with pytest.raises(
        ValueError, match=f"modality '{wrong}' has NaN or an infinity in a row that the mask marks"
    ):
        imputer.fit(broken, mask)
    assert all(torch.equal(before[key], value) for key, value in imputer.state_dict().items())


ONE = {"text": torch.ones(3, 2)}
HERE = torch.ones(3, 1, dtype=torch.bool)


def test_a_column_of_a_mapping_must_be_a_vector():
    message = "MeanImputer.fit, modality 'text': `mask` must have shape (N,) = (3,), got (3, 1)."
    with pytest.raises(ValueError, match=re.escape(message)):
        MeanImputer(["text"]).fit(ONE, {"text": HERE})


@pytest.mark.parametrize(
    ("features", "mask", "rows", "error", "message"),
    [
        ({}, HERE, None, KeyError, "`features` lacks the modalities ['text']."),
        ({"text": None}, HERE, None, KeyError, "`features` lacks the modalities ['text']."),
        (
            {**ONE, "x": torch.ones(3)},
            HERE,
            None,
            KeyError,
            "has modalities ['x'] that are not among ('text',).",
        ),
        (
            {"text": torch.ones(3, 2).long()},
            HERE,
            None,
            TypeError,
            "modality 'text' must be floating point",
        ),
        (
            {"text": [[1.0]] * 3},
            HERE,
            None,
            TypeError,
            "the feature of 'text' must be a tensor, got list.",
        ),
        (
            {"text": torch.tensor(1.0)},
            HERE,
            None,
            ValueError,
            "of 'text' must have shape (N, ...), got a scalar.",
        ),
        (
            ONE,
            HERE,
            [0, 1],
            TypeError,
            "`rows` must be row numbers, an int64 tensor of shape (n,), got list.",
        ),
        (ONE, ~HERE, None, ValueError, "modality 'text' is observed in none of the given rows"),
        (
            ONE,
            HERE,
            torch.zeros(0).long(),
            ValueError,
            "modality 'text' is observed in none of the given rows",
        ),
        (
            {"text": torch.full((3, 2), torch.inf)},
            HERE,
            None,
            ValueError,
            "has NaN or an infinity in a row that",
        ),
        (
            ONE,
            HERE,
            torch.tensor([3]),
            ValueError,
            "`rows` must lie in [0, 3), got values from 3 to 3.",
        ),
        (ONE, HERE, torch.tensor([0, 0]), ValueError, "`rows` must be distinct, got some twice."),
        (
            ONE,
            HERE.float(),
            None,
            TypeError,
            "`mask` must have dtype torch.bool, got torch.float32.",
        ),
        (ONE, [[True]] * 3, None, TypeError, "`mask` must be a tensor, got list."),
        (ONE, HERE[:2], None, ValueError, "`mask` must have shape (N, M) = (3, 1), got (2, 1)."),
        (ONE, {"x": HERE[:, 0]}, None, KeyError, "unknown: ['x'], absent: ['text']."),
    ],
)
def test_invalid_input_of_fit_is_an_error(features, mask, rows, error, message):
    with pytest.raises(error, match=f"MeanImputer.fit: .*{re.escape(message)}"):
        MeanImputer(["text"]).fit(features, mask, rows)


@pytest.mark.parametrize(
    ("features", "mask", "error", "message"),
    [
        ({**ONE, "x": None}, HERE, KeyError, "has modalities ['x'] that are not among ('text',)."),
        (ONE, HERE[:2], ValueError, "equal numbers of rows, got {'text': 3, 'mask': 2}."),
        (
            ONE,
            {"text": HERE[:2, 0]},
            ValueError,
            "equal numbers of rows, got {'text': 3, 'mask': 2}.",
        ),
        ({}, {}, KeyError, "unknown: [], absent: ['text']."),
        ({}, torch.tensor(True), ValueError, "`mask` must have shape (N, M), got ()."),
        ({"text": [1.0]}, HERE, TypeError, "the feature of 'text' must be a tensor, got list."),
        (ONE, {}, KeyError, "unknown: [], absent: ['text']."),
        (ONE, [[True]] * 3, TypeError, "`mask` must be a tensor, got list."),
        (ONE, torch.tensor(True), ValueError, "`mask` must have shape (N, M), got ()."),
        (
            {"text": torch.ones(3, 5)},
            HERE,
            ValueError,
            "feature of 'text' must have shape (N, 2) as in `fit`, got (3, 5)",
        ),
    ],
)
def test_invalid_input_of_a_call_is_an_error(features, mask, error, message):
    imputer = ZeroImputer(["text"]).fit(ONE, HERE)
    with pytest.raises(error, match=f"ZeroImputer: .*{re.escape(message)}"):
        imputer(features, mask)


@pytest.mark.parametrize("imputer", IMPUTERS)
def test_calling_an_unfitted_imputer_is_an_error(imputer):
    with pytest.raises(
        RuntimeError,
        match=f"{imputer.__name__}: not fitted yet. Call `fit` with training rows first.",
    ):
        imputer(["text"])(ONE, HERE)
    with pytest.raises(
        TypeError,
        match=f"{imputer.__name__}: `modalities` must be a sequence of names, got the string",
    ):
        imputer("text")
