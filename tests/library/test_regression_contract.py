"""`PatternKernelRidge` keeps the contract of all parts: masks, NaN, devices, precision, states."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import invmod
from invmod.regression import PatternKernelRidge
from invmod.testing import assert_mask_honoured, assert_nan_propagates
from tests.library.regression_cases import NAMES, hide, problem, small_model
from tests.strategies import NAN

KERNELS = ("linear", "gaussian", "angle")
KNOWN = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]).bool()


@pytest.mark.parametrize("kernel", KERNELS)
def test_hidden_cells_have_no_part_in_outputs_and_gradients(kernel):
    x, y, mask = problem()
    model = small_model(kernel=kernel).fit(x, y, mask)
    new = {name: v[:4] for name, v in problem(seed=1)[0].items()}
    assert_mask_honoured(model, new, KNOWN)
    assert_nan_propagates(model, new, KNOWN)


def test_an_infinity_in_an_available_cell_gives_nan():
    x, y, mask = problem()
    model = small_model().fit(x, y, mask)
    broken = {name: v.clone() for name, v in x.items()}
    broken["b"][3], mask[3] = torch.inf, True
    result = model(broken, mask)
    assert result[3].isnan().all()
    assert result[:3].isfinite().all()


def test_an_absent_modality_is_missing_in_all_rows():
    x, y, mask = problem()
    model = small_model().fit(x, y, mask)
    without = mask & torch.tensor([True, False, True])
    expected = model(x, without)
    for features in ({"a": x["a"], "c": x["c"]}, {**x, "b": None}):
        assert torch.equal(model(features, without), expected)
        with pytest.raises(ValueError, match="marks 'b' as available, but `features` lacks it"):
            model(features, torch.ones_like(mask))
        with pytest.raises(KeyError, match=r"has modalities \['d'\] that are not among"):
            model({**features, "d": x["a"]}, without)


def test_the_part_is_a_name_of_the_top_level():
    assert invmod.PatternKernelRidge is PatternKernelRidge


def test_autocast_changes_no_bit():
    x, y, mask = problem()
    features = {name: v.float() for name, v in x.items()}
    options = {"kernel": "auto", "weights": "auto", "ridge": "auto", "dtype": torch.float32}
    expected = small_model(**options).fit(features, y, mask)(features, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = small_model(**options).fit(features, y, mask)(features, mask)
    assert torch.equal(result, expected)


def test_a_part_of_a_model_is_saved_moved_and_averaged_with_it():
    x, y, mask = problem()
    model = nn.ModuleDict({"regression": small_model().fit(x, y, mask)})
    expected = model["regression"](x, mask)
    averaged = AveragedModel(model, use_buffers=True)
    averaged.update_parameters(model)
    averaged.update_parameters(model)
    assert torch.equal(averaged.module["regression"](x, mask), expected)
    unfitted = nn.ModuleDict({"regression": small_model()})
    assert not unfitted.state_dict()
    unfitted.load_state_dict(model.state_dict())
    assert torch.equal(unfitted["regression"](x, mask), expected)
    with pytest.raises(RuntimeError, match="Missing key"):
        unfitted.load_state_dict({"regression.targets": y})
    assert torch.equal(unfitted["regression"](x, mask), expected)


def test_a_state_of_other_modalities_is_refused():
    x, y, mask = problem()
    model = small_model().fit(x, y, mask)
    other = PatternKernelRidge(("c", "a", "b"))
    with pytest.raises(RuntimeError, match=r"modalities \['a', 'b', 'c'\], this one has"):
        other.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="not fitted"):
        other(x, mask)


def test_a_mask_of_names_has_no_order():
    x, y, mask = problem()
    columns = dict(zip(NAMES, mask.T, strict=True))
    model = small_model().fit(hide(x, mask, NAN), y, dict(reversed(columns.items())))
    assert torch.equal(model(x, columns), small_model().fit(x, y, mask)(x, mask))


def test_a_file_has_the_state_bit_for_bit(tmp_path):
    pytest.importorskip("safetensors")
    x, y, mask = problem()
    validation = (x, y, mask)
    for dtype in (torch.float64, torch.float32):
        model = PatternKernelRidge(NAMES, dtype=dtype)
        model.fit(x, y, mask, groups=torch.arange(40) // 2, validation=validation)
        model.set_choice({"a": 1, "b": 2}, ridge=0.1).predict(x, mask)
        model.save(tmp_path / "model.safetensors")
        other = PatternKernelRidge(NAMES).load(tmp_path / "model.safetensors")
        state, loaded = model.state_dict(), other.state_dict()
        assert state.keys() == loaded.keys()
        for name, value in state.items():
            assert loaded[name].dtype == value.dtype, name
            # NaN stands for what an option does not have.
            assert torch.equal(loaded[name].nan_to_num(-7.5), value.nan_to_num(-7.5)), name
        assert torch.equal(other(x, mask), model(x, mask))


def test_casting_a_fitted_model_keeps_its_precision():
    x, y, mask = problem()
    model = small_model().fit(x, y, mask)
    expected = model(x, mask)
    for cast in (nn.Module.half, nn.Module.float, nn.Module.double):
        assert torch.equal(cast(model)(x, mask), expected)


def test_classes_that_the_dtype_cannot_hold_are_refused():
    x, y, _ = problem()
    large = torch.where(y[:, 0] > 0, 2**24 + 1, 2**24)
    assert PatternKernelRidge(NAMES).fit(x, large).predict(x).unique().tolist() == [
        2**24,
        2**24 + 1,
    ]
    with pytest.raises(ValueError, match=r"up to 16,777,217, .* exact in torch.float32. Number"):
        small_model(dtype=torch.float32).fit(x, large)


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no GPU: torch.cuda.is_available() is False"
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_gpu_gives_the_values_of_the_cpu(dtype):
    x, y, mask = problem()
    labels = (y[:, 0] > 0).long()
    there = {name: v.cuda() for name, v in x.items()}
    double = dtype == torch.float64
    tolerance = dict.fromkeys(("rtol", "atol"), 1e-6 if double else 1e-3)
    # In float32 rounding may decide a choice, so the options are given.
    make = PatternKernelRidge if double else small_model
    options = {"modalities": NAMES} if double else {"dtype": dtype}
    for targets in (y, labels):
        here = make(**options).fit(x, targets, mask)
        model = make(**options)
        model.fit(there, targets.cuda(), mask.cuda())
        assert model(there, mask.cuda()).is_cuda
        torch.testing.assert_close(model(there, mask.cuda()).cpu(), here(x, mask), **tolerance)
        assert model.kernels == here.kernels
        h = model.smoother(there, mask.cuda())
        torch.testing.assert_close(h.cpu(), here.smoother(x, mask), **tolerance)
        # A fitted model moves with its state, and accepts rows from another device.
        moved = here.cuda()
        torch.testing.assert_close(
            moved(x, mask).cpu(), model(there, mask.cuda()).cpu(), **tolerance
        )
    torch.testing.assert_close(
        model.probabilities(there, mask.cuda()).cpu(),
        here.cpu().probabilities(x, mask),
        **tolerance,
    )
