"""Encoders: mappings, absent modalities, single rows, and the outputs of modules."""

import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from invmod.encoders import ModalityEncoders
from invmod.missingness import collate, mask_from_features
from tests.strategies import NAN, generators, gradients, laws, normal, random_mask, seeded


class Tokens(nn.Module):
    """The mean embedding of the tokens that attention_mask marks, as a language model's pooling."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 3, dtype=torch.float64)

    def forward(self, input_ids, attention_mask, scale=None):
        weight = attention_mask[..., None].double()
        mean = (self.table(input_ids) * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        return mean if scale is None else mean * scale


def tokens(generator, num_rows, mask, hidden):
    ids = torch.randint(0, 9, (num_rows, 5), generator=generator)
    attention = (torch.rand(num_rows, 5, generator=generator) < 0.7).long()
    scale = normal(generator, num_rows, 1)
    ids[~mask], attention[~mask], scale[~mask] = hidden, hidden, NAN
    return {"input_ids": ids, "attention_mask": attention, "scale": scale}


@pytest.mark.parametrize("skip_missing", [False, True])
@laws
@given(generators(), st.integers(0, 6))
def test_a_feature_may_be_a_mapping_of_keyword_arguments(skip_missing, generator, num_rows):
    mask = random_mask(generator, num_rows, 2)
    x = {
        "text": tokens(generator, num_rows, mask[:, 0], -7),
        "audio": normal(generator, num_rows, 2),
    }
    module = Tokens()
    encoders = ModalityEncoders(
        {"text": module, "audio": nn.Linear(2, 3, dtype=torch.float64)}, skip_missing=skip_missing
    )
    z = encoders(x, mask)
    rows = mask[:, 0]
    expected = torch.zeros(num_rows, 3, dtype=torch.float64)
    expected[rows] = module(**{name: values[rows] for name, values in x["text"].items()})
    torch.testing.assert_close(z[:, 0], expected)
    (gradient,) = gradients(z[:, 0], module.table.weight)
    torch.testing.assert_close(gradient, *gradients(expected, module.table.weight))
    everything = torch.ones(num_rows, 2, dtype=torch.bool)
    x["text"] = tokens(generator, num_rows, everything[:, 0], 0)
    torch.testing.assert_close(encoders(x), encoders(x, everything))


@pytest.mark.parametrize(
    ("feature", "error", "message"),
    [
        ({}, ValueError, "the feature of 'text' is an empty mapping"),
        ({1: torch.zeros(3)}, TypeError, "entries of 'text' must be named by strings"),
        ({"ids": [1]}, TypeError, "the feature of 'text[ids]' must be a tensor, got list."),
        (
            {"ids": torch.zeros(3, 5), "length": torch.zeros(2)},
            ValueError,
            "equal numbers of rows, got {'text[ids]': 3, 'text[length]': 2}",
        ),
        (
            {"input_ids": torch.zeros(3, 5).long(), "unknown": torch.zeros(3)},
            TypeError,
            "the module of 'text' failed on a feature of 'input_ids' of shape (3, 5)",
        ),
    ],
)
def test_an_invalid_mapping_is_an_error(feature, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ModalityEncoders({"text": Tokens()})({"text": feature})


def test_encoders_of_vectors_refuse_a_mapping():
    message = "the feature of 'text' must have shape (N, 2), got a mapping."
    with pytest.raises(ValueError, match=re.escape(message)):
        ModalityEncoders.linear({"text": 2}, 3)({"text": {"ids": torch.zeros(3, 2)}})


# --- absent modalities


@pytest.mark.parametrize("skip_missing", [False, True])
@pytest.mark.parametrize("absent", [{}, {"audio": None}])
@laws
@given(generators(), st.integers(0, 6))
def test_a_modality_that_is_absent_or_none_is_missing_in_all_rows(
    skip_missing, absent, generator, num_rows
):
    modules = [nn.Linear(width, 4, dtype=torch.float64) for width in (2, 3, 5)]
    encoders = ModalityEncoders(
        dict(zip(("text", "audio", "image"), modules, strict=True)), skip_missing=skip_missing
    )
    given_ones = {"text": normal(generator, num_rows, 2), "image": normal(generator, num_rows, 5)}
    given_ones["image"][:2] = NAN
    features = {**given_ones, **absent}
    mask = mask_from_features(features, encoders.modalities, num_rows=num_rows)
    z = encoders(features, mask)
    stored = {**given_ones, "audio": torch.full((num_rows, 3), NAN, dtype=torch.float64)}
    assert torch.equal(z, encoders(stored, mask))
    assert (z[:, 1] == 0).all()
    without_image = {"text": given_ones["text"], **absent}
    assert torch.equal(encoders(without_image)[:, 0], modules[0](given_ones["text"]))
    assert (encoders(without_image)[:, 1:] == 0).all()
    (gradient,) = torch.autograd.grad(
        z.sum(), modules[1].weight, allow_unused=True, materialize_grads=True
    )
    assert (gradient == 0).all()


def test_without_any_modality_the_width_must_be_known():
    nothing = torch.zeros(3, 2, dtype=torch.bool)
    encoders = ModalityEncoders.mlp({"a": 2, "b": 3}, 4).double()
    z = encoders({"a": None}, nothing)
    assert torch.equal(z, torch.zeros(3, 2, 4, dtype=torch.float64))
    columns = dict(zip("ab", nothing.unbind(1), strict=True))
    assert torch.equal(encoders({}, columns), z)
    own = ModalityEncoders({"a": nn.Linear(2, 4), "b": nn.Linear(3, 4)})
    with pytest.raises(ValueError, match="the width D of the caller's modules is unknown"):
        own({}, nothing)


def test_a_mask_with_available_cells_of_an_absent_modality_is_an_error():
    encoders = ModalityEncoders.linear({"a": 2, "b": 3}, 4)
    mask = torch.tensor([[True, False], [True, True]])
    with pytest.raises(ValueError, match=r"no modality 'b', but `mask` has 1 available rows of it"):
        encoders({"a": torch.ones(2, 2)}, mask)


# --- batch normalisation and few rows


def normalising(**options):
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, **options)).double()


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_batch_normalisation_trains_on_any_number_of_available_rows(count):
    module, other = normalising(), normalising()
    module(normal(seeded(0), 8, 2))  # running statistics that differ from 0 and 1
    other.load_state_dict(module.state_dict())
    encoders = ModalityEncoders({"a": module}, skip_missing=True).train()
    x, mask = normal(seeded(1), 4, 2), torch.arange(4)[:, None] < count
    z = encoders({"a": x}, mask)
    # One row has no variance, so it is normalised as in evaluation mode.
    expected = other.train(count != 1)(x[:count])
    torch.testing.assert_close(z[:count, 0], expected)
    assert module[1].training
    for name, value in other.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value)
    z.sum().backward()
    assert module[0].weight.grad.isfinite().all()


def test_a_single_image_keeps_the_statistics_of_its_pixels():
    module = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3))
    encoders = ModalityEncoders({"a": module}, skip_missing=True)
    x = normal(seeded(0), 2, 2, 3, 3, dtype=torch.float32)
    z = encoders({"a": x}, torch.tensor([[True], [False]]))
    torch.testing.assert_close(z[0, 0], module(x[:1])[0])
    assert module[0].num_batches_tracked == 2


def test_batch_normalisation_without_running_statistics_names_the_modality_of_a_single_row():
    encoders = ModalityEncoders({"a": normalising(track_running_stats=False)}, skip_missing=True)
    with pytest.raises(ValueError, match="the module of 'a' failed on a feature of shape"):
        encoders({"a": normal(seeded(0), 2, 2)}, torch.tensor([[True], [False]]))


def test_an_error_of_a_single_row_leaves_the_module_as_it_was():
    class Fails(nn.Module):
        def forward(self, x):
            raise ArithmeticError("too hot")

    module = nn.Sequential(normalising(), Fails())
    encoders = ModalityEncoders({"a": module}, skip_missing=True)
    with pytest.raises(ArithmeticError, match="too hot"):
        encoders({"a": normal(seeded(0), 2, 2)}, torch.tensor([[True], [False]]))
    assert module[0][1].training
    assert not module[0][1]._forward_pre_hooks
    assert not module[0][1]._forward_hooks


# --- outputs


class Returns(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((torch.zeros(3, 2), None), "got tuple. Wrap it in a module whose `forward` calls it and "),
        ([torch.zeros(3, 2)], "to use, such as `output[0]`."),
        (
            {"last": torch.zeros(3, 2), "pooled": torch.zeros(3, 2)},
            "got dict with the keys ['last', 'pooled']. Wrap it in a module",
        ),
        ({"last": torch.zeros(3, 2)}, "such as `output['...']`."),
        (None, "must return one tensor (N, D), got NoneType."),
        (np.zeros((3, 2)), "must return one tensor (N, D), got ndarray."),
    ],
)
def test_an_output_that_is_not_a_tensor_is_an_error_that_says_how_to_wrap_it(output, message):
    with pytest.raises(TypeError, match=re.escape("the module of 'a' must return one")) as info:
        ModalityEncoders({"a": Returns(output)})({"a": torch.zeros(3, 2)})
    assert message in str(info.value)


# --- sizes, devices and tracing


@pytest.mark.parametrize("build", [ModalityEncoders.linear, ModalityEncoders.mlp])
def test_sizes_may_be_integers_of_numpy(build):
    encoders = build({"a": np.int64(3)}, np.int32(2))
    assert encoders({"a": torch.zeros(4, 3)}).shape == (4, 1, 2)
    assert encoders({}, torch.zeros(4, 1, dtype=torch.bool)).shape == (4, 1, 2)
    mlp = ModalityEncoders.mlp({"a": np.int64(3)}, 2, hidden_dims=np.array([5, 4]))
    assert [p.shape[0] for p in mlp.parameters()] == [5, 5, 4, 4, 2, 2]
    for width, error in ((2.5, TypeError), (True, TypeError), (0, ValueError)):
        with pytest.raises(error, match=r"ModalityEncoders\.mlp: `hidden_dims`"):
            ModalityEncoders.mlp({"a": 3}, 2, hidden_dims=(4, width))


def test_encoders_run_on_the_meta_device():
    with torch.device("meta"):
        encoders = ModalityEncoders.mlp({"a": 3, "b": 2}, 4)
        mask = torch.ones(5, 2, dtype=torch.bool)
        a, b = torch.zeros(5, 3), torch.zeros(5, 2)
    assert encoders({"a": a, "b": b}, mask).shape == (5, 2, 4)
    assert encoders({"a": a}, mask).is_meta


def test_traced_encoders_follow_the_batch_size_and_the_mask():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoders = ModalityEncoders.mlp({"a": 3, "b": 2}, 4)

        def forward(self, a, b, mask):
            return self.encoders({"a": a, "b": b}, mask)

    def batch(num_rows):
        mask = random_mask(seeded(num_rows), num_rows, 2)
        x = normal(seeded(num_rows), num_rows, 5, dtype=torch.float32)
        x[:, :3][~mask[:, 0]] = NAN
        return x[:, :3], x[:, 3:], mask

    model = Model()
    with warnings.catch_warnings():
        # The tracer warns about every comparison of sizes, and tracing itself is deprecated.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, batch(4))
        by_name = torch.jit.trace(model.encoders, ({"a": batch(4)[0], "b": batch(4)[1]},))
        for num_rows in (7, 1, 0):
            inputs = batch(num_rows)
            torch.testing.assert_close(traced(*inputs), model(*inputs))
            features = {"a": torch.ones(num_rows, 3), "b": torch.ones(num_rows, 2)}
            torch.testing.assert_close(by_name(features), model.encoders(features))


# --- one number per row

ROWS_OF_A_TABLE = [{"a": 1.0}, {"a": None}, {"a": 3.0}]


def test_one_number_per_row_needs_an_axis_and_the_error_says_how():
    encoders = ModalityEncoders.linear({"a": 1}, embedding_dim=2)
    features, mask, _ = collate(ROWS_OF_A_TABLE, modalities=["a"])
    assert features["a"].shape == (3,)
    message = r"must have shape \(N, 1\), got \(3,\)\. Use `x\[:, None\]` for one number per row\."
    with pytest.raises(ValueError, match=message):
        encoders(features, mask)
    assert encoders({"a": features["a"][:, None]}, mask).shape == (3, 1, 2)


def test_a_module_that_fails_on_one_number_per_row_says_how_to_add_an_axis():
    encoders = ModalityEncoders({"a": nn.Linear(1, 2)})
    with pytest.raises(RuntimeError, match=r"the module of 'a' failed .* Use `x\[:, None\]`"):
        encoders({"a": torch.ones(3)})
    encoders = ModalityEncoders({"a": nn.Identity()})
    with pytest.raises(ValueError, match=r"must return \(N, D\) .* Use `x\[:, None\]`"):
        encoders({"a": torch.ones(3)})


def test_features_of_other_shapes_get_no_advice_for_one_number_per_row():
    wide = ModalityEncoders.linear({"a": 6}, embedding_dim=2)
    words = ModalityEncoders({"a": nn.Embedding(2, 2)})
    for encoders, x in (
        (wide, torch.ones(3)),
        (wide, torch.ones(3, 2)),
        (words, torch.tensor([5])),
    ):
        with pytest.raises((ValueError, IndexError)) as caught:
            encoders({"a": x})
        assert "[:, None]" not in str(caught.value)
