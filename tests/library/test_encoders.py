"""Laws of the encoders: any name is allowed, errors name the modality, masked rows do not leak."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from invmod import ModalityEncoders
from invmod.testing import assert_mask_honoured
from tests.strategies import (
    NAN,
    NUM_MODALITIES,
    NUM_ROWS,
    generators,
    laws,
    normal,
    random_mask,
    seeded,
)

AWKWARD = [
    "type",
    "keys",
    "values",
    "pop",
    "a.b",
    "audio.v2",
    "",
    "embedding_dim",
    "forward",
    "wörter",
    "0",
]


def draw(generator, dims, num_rows, embedding_dim=3):
    encoders = ModalityEncoders.linear(dims, embedding_dim).double()
    features = {name: normal(generator, num_rows, dim) for name, dim in dims.items()}
    return encoders, features


@laws
@given(
    st.lists(
        st.one_of(st.sampled_from(AWKWARD), st.text(max_size=5)),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
def test_any_string_may_name_a_modality(names):
    dims = {name: index + 1 for index, name in enumerate(names)}
    encoders = ModalityEncoders.linear(dims, 2)
    assert encoders.modalities == tuple(names)
    z = encoders({name: torch.ones(4, dims[name]) for name in reversed(names)})
    assert z.shape == (4, len(names), 2)
    again = ModalityEncoders.linear(dims, 2)
    again.load_state_dict(encoders.state_dict())
    assert torch.equal(again({name: torch.ones(4, dims[name]) for name in names}), z)


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.booleans())
def test_z_stacks_the_modules_outputs_and_is_zero_where_masked(
    generator, num_rows, num_modalities, masked
):
    dims = {f"m{index}": index + 1 for index in range(num_modalities)}
    encoders, features = draw(generator, dims, num_rows)
    mask = random_mask(generator, num_rows, num_modalities) if masked else None
    z = encoders(features, mask)
    assert z.shape == (num_rows, num_modalities, 3)
    for index, name in enumerate(dims):
        expected = encoders.encoders[index](features[name])
        if mask is not None:
            expected = torch.where(mask[:, index, None], expected, 0.0)
        torch.testing.assert_close(z[:, index], expected)


@pytest.mark.parametrize("build", [ModalityEncoders.linear, ModalityEncoders.mlp])
@laws
@given(generators(), st.integers(0, 6))
def test_content_of_masked_rows_reaches_neither_z_nor_a_gradient(build, generator, num_rows):
    dims = {"text": 3, "image": 2}
    encoders, mask = build(dims, 4).double(), random_mask(generator, num_rows, 2)
    features = {name: normal(generator, num_rows, dim) for name, dim in dims.items()}
    assert_mask_honoured(encoders, features, mask)
    assert (encoders(features, mask)[~mask] == 0).all()


@laws
@given(generators(), st.integers(1, 6), st.permutations(["text", "image", "audio"]))
def test_the_order_of_a_mapping_mask_does_not_matter(generator, num_rows, order):
    encoders, features = draw(generator, {"text": 2, "image": 3, "audio": 1}, num_rows)
    mask = random_mask(generator, num_rows, 3)
    columns = dict(zip(encoders.modalities, mask.unbind(1), strict=True))
    shuffled = {name: columns[name] for name in order}
    assert torch.equal(
        encoders({name: features[name] for name in order}, shuffled), encoders(features, mask)
    )


def test_the_builders_create_the_documented_layers():
    linear = ModalityEncoders.linear({"a": 4, "b": 2}, 3, bias=False)
    assert [type(module) for module in linear.encoders] == [nn.Linear, nn.Linear]
    assert [tuple(p.shape) for p in linear.parameters()] == [(3, 4), (3, 2)]
    mlp = ModalityEncoders.mlp({"a": 4}, 3, hidden_dims=(8, 6), dropout=0.25)
    kinds = [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert [type(module) for module in mlp.encoders[0]] == kinds
    assert mlp.encoders[0][2].p == 0.25
    assert mlp({"a": torch.zeros(2, 4)}).shape == (2, 1, 3)
    shallow = ModalityEncoders.mlp({"a": 4}, 3, hidden_dims=())
    assert [type(module) for module in shallow.encoders[0]] == [nn.Linear]
    assert not any(
        isinstance(module, nn.Dropout) for module in ModalityEncoders.mlp({"a": 4}, 3).modules()
    )


def test_custom_modules_may_take_features_of_any_shape():
    encoders = ModalityEncoders(
        {
            "image": nn.Sequential(nn.Flatten(), nn.Linear(12, 2)),
            "word": nn.Embedding(5, 2),
        }
    )
    features = {"image": torch.full((3, 1, 3, 4), NAN), "word": torch.tensor([4, 99, 0])}
    mask = torch.tensor([[False, True], [False, False], [False, True]])
    z = encoders(features, mask)
    assert torch.equal(z[:, 0], torch.zeros(3, 2))
    assert torch.equal(
        z[:, 1],
        torch.stack(
            [encoders.encoders[1].weight[4], torch.zeros(2), encoders.encoders[1].weight[0]]
        ),
    )


class MeanOfWords(nn.Module):
    """The mean over the tokens that are not padding (id 0). A row of padding alone gives NaN."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 3)

    def forward(self, ids):
        is_token = (ids != 0)[..., None]
        return (self.table(ids) * is_token).sum(dim=1) / is_token.sum(dim=1)


class Recorder(nn.Module):
    """Calls a module and records its inputs."""

    def __init__(self, module):
        super().__init__()
        self.module, self.inputs = module, []

    def forward(self, x):
        self.inputs.append(x.detach().clone())
        return self.module(x)


def draw_images_and_words(generator, num_rows, *, skip_missing):
    """Return encoders, features with NaN or an invalid id in masked cells, and the mask."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
        modules = {"image": Recorder(conv.double()), "words": Recorder(Words().double())}
    mask = random_mask(generator, num_rows, 2)
    ids = torch.randint(1, 9, (num_rows, 5), generator=generator)
    image = normal(generator, num_rows, 2, 5, 5)
    image[~mask[:, 0]], ids[~mask[:, 1]] = NAN, -7
    return (
        ModalityEncoders(modules, skip_missing=skip_missing),
        {"image": image.requires_grad_(), "words": ids},
        mask,
    )


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 3)

    def forward(self, ids):
        return self.table(ids).mean(dim=1)


@pytest.mark.parametrize("skip_missing", [False, True])
@laws
@given(generators(), st.integers(0, 6))
def test_masked_cells_reach_no_module_and_get_no_gradient(skip_missing, generator, num_rows):
    encoders, features, mask = draw_images_and_words(generator, num_rows, skip_missing=skip_missing)
    z = encoders(features, mask)
    assert z.shape == (num_rows, 2, 3)
    assert (z[~mask] == 0).all()
    for m, (name, encoder) in enumerate(zip(encoders.modalities, encoders.encoders, strict=True)):
        (received,) = encoder.inputs
        available = mask[:, m]
        if skip_missing:
            assert torch.equal(received, features[name][available])
        else:
            assert torch.equal(received[available], features[name][available])
            assert (received[~available] == 0).all()
        expected = encoder.module(features[name][available])
        torch.testing.assert_close(z[available, m], expected)
    gradient, *parameters = torch.autograd.grad(
        z.square().sum(), [features["image"], *encoders.parameters()]
    )
    assert (gradient[~mask[:, 0]] == 0).all()
    assert all(g.isfinite().all() for g in parameters)
    alone = encoders.encoders[1].module(features["words"][mask[:, 1]]).square().sum()
    table = encoders.encoders[1].module.table.weight
    expected = torch.autograd.grad(alone, table)[0]
    torch.testing.assert_close(
        torch.autograd.grad(encoders(features, mask)[:, 1].square().sum(), table)[0], expected
    )


def test_a_module_that_is_not_finite_on_zeros_needs_skip_missing():
    results = {}
    for skip_missing in (False, True):
        encoders = ModalityEncoders({"words": MeanOfWords()}, skip_missing=skip_missing)
        ids = torch.tensor([[1, 2, 0], [-7, -7, -7], [3, 0, 0]])
        z = encoders({"words": ids}, torch.tensor([[True], [False], [True]]))
        assert z.isfinite().all()
        (results[skip_missing],) = torch.autograd.grad(z.sum(), encoders.encoders[0].table.weight)
    assert results[False].isnan().any()  # 0 * NaN is NaN
    assert results[True].isfinite().all()


@pytest.mark.parametrize("skip_missing", [False, True])
def test_batch_statistics_ignore_missing_rows_with_skip_missing(
    skip_missing,
):
    x, mask = normal(seeded(0), 8, 2), torch.tensor([True, False] * 4)[:, None]
    encoders = ModalityEncoders(
        {"a": nn.BatchNorm1d(2, dtype=torch.float64)}, skip_missing=skip_missing
    )
    z = encoders({"a": x}, mask)
    available = nn.BatchNorm1d(2, dtype=torch.float64)(x[mask[:, 0]])
    assert torch.allclose(z[mask[:, 0], 0], available) == skip_missing
    assert (
        torch.allclose(encoders.encoders[0].running_mean, 0.1 * x[mask[:, 0]].mean(dim=0))
        == skip_missing
    )


def test_skip_missing_does_not_change_modules_that_treat_rows_independently():
    encoders, features = draw(seeded(0), {"a": 2, "b": 3}, 6)
    skipping = ModalityEncoders(dict(zip("ab", encoders.encoders, strict=True)), skip_missing=True)
    mask = random_mask(seeded(1), 6, 2)
    torch.testing.assert_close(skipping(features, mask), encoders(features, mask))
    torch.testing.assert_close(skipping(features), encoders(features))
    nothing = torch.zeros(6, 2, dtype=torch.bool)
    assert torch.equal(skipping(features, nothing), torch.zeros(6, 2, 3, dtype=torch.float64))


TWO = {"text": 4, "image": 6}
GOOD = {"text": torch.zeros(3, 4), "image": torch.zeros(3, 6)}


@pytest.mark.parametrize(
    ("features", "mask", "error", "message"),
    [
        (
            {**GOOD, "audio": torch.zeros(3, 1)},
            None,
            KeyError,
            "`features` has modalities ['audio'] that are not among ('text', 'image')",
        ),
        (
            {"text": GOOD["text"]},
            torch.ones(3, 2).bool(),
            ValueError,
            "`features` has no modality 'image', but `mask` has 3 available rows of it",
        ),
        (
            {},
            None,
            ValueError,
            "no modality is given, so the number of rows is unknown",
        ),
        (
            {**GOOD, "image": [1.0]},
            None,
            TypeError,
            "the feature of 'image' must be a tensor, got list.",
        ),
        (
            {**GOOD, "image": torch.tensor(1.0)},
            None,
            ValueError,
            "the feature of 'image' must have shape (N, ...)",
        ),
        (
            {**GOOD, "image": torch.zeros(3, 5)},
            None,
            ValueError,
            "feature of 'image' must have shape (N, 6), got (3, 5).",
        ),
        (
            {**GOOD, "image": torch.zeros(3)},
            None,
            ValueError,
            "feature of 'image' must have shape (N, 6), got (3,).",
        ),
        (
            {**GOOD, "image": torch.zeros(2, 6)},
            None,
            ValueError,
            "numbers of rows, got {'text': 3, 'image': 2}.",
        ),
        (
            GOOD,
            torch.ones(3, 2),
            TypeError,
            "`mask` must have dtype torch.bool, got torch.float32.",
        ),
        (
            GOOD,
            torch.ones(2, 3).bool(),
            ValueError,
            "`mask` must have shape (N, M) = (3, 2), got (2, 3).",
        ),
        (GOOD, {"text": torch.ones(3).bool()}, KeyError, "unknown: [], absent: ['image']"),
        (
            GOOD,
            dict.fromkeys(["text", "image", "x"], torch.ones(3).bool()),
            KeyError,
            "unknown: ['x'], absent: []",
        ),
        (
            GOOD,
            {"text": torch.ones(3), "image": torch.ones(3).bool()},
            TypeError,
            "modality 'text': `mask` must have",
        ),
        (
            GOOD,
            {"text": [True], "image": [True]},
            TypeError,
            "modality 'text': `mask` must be a tensor, got list.",
        ),
        (
            GOOD,
            {"text": torch.ones(3).bool(), "image": torch.ones(2).bool()},
            ValueError,
            "modality 'image': `mask` mu",
        ),
        (
            GOOD,
            {"text": torch.ones(3).bool(), "image": torch.tensor(True)},
            ValueError,
            "modality 'image': `mask` must",
        ),
    ],
)
def test_invalid_input_is_an_error_that_names_the_modality(features, mask, error, message):
    encoders = ModalityEncoders.linear(TWO, 2)
    with pytest.raises(error, match=f"ModalityEncoders.*{re.escape(message)}"):
        encoders(features, mask)


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class TwoArgumentError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


class CodedError(Exception):
    """An error that takes a code first, as some errors of torch do."""

    def __init__(self, code, *args):
        super().__init__(*args)


class PrefixedError(Exception):
    def __init__(self, text):
        super().__init__(f"prefixed: {text}")


@pytest.mark.parametrize(
    ("raised", "caught"),
    [
        (ValueError("too hot"), ValueError),
        (TwoArgumentError("too", "hot"), RuntimeError),
        (CodedError(7, "too hot"), RuntimeError),
        (PrefixedError("too hot"), PrefixedError),
    ],
)
def test_an_error_of_a_module_is_raised_again_with_its_modality(raised, caught):
    encoders = ModalityEncoders({"audio.v2": Raises(raised)})
    message = (
        "the module of 'audio.v2' failed on a feature of shape (3, 4) and dtype torch.float32: "
        f"{raised}"
    )
    with pytest.raises(caught, match=re.escape(message)) as info:
        encoders({"audio.v2": torch.zeros(3, 4)})
    assert info.value.__cause__ is raised


def test_a_wrong_width_in_a_custom_module_names_the_modality():
    encoders = ModalityEncoders({"text": nn.Linear(4, 2)})
    with pytest.raises(RuntimeError, match="the module of 'text' failed on a feature of shape"):
        encoders({"text": torch.zeros(3, 5)})


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"a": nn.Flatten(0)}, "the module of 'a' must return (N, D) with N = 3, got (6,)."),
        (
            {"a": nn.Identity(), "b": nn.Linear(2, 5)},
            "must return the same width D, got {'a': 2, 'b': 5}.",
        ),
    ],
)
def test_modules_must_return_rows_of_one_width(modules, message):
    encoders = ModalityEncoders(modules)
    with pytest.raises(ValueError, match=re.escape(message)):
        encoders({name: torch.zeros(3, 2) for name in modules})


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: ModalityEncoders({}), ValueError, "must name at least one modality, got none."),
        (
            lambda: ModalityEncoders({1: nn.Identity()}),
            TypeError,
            "modality names must be strings, got 1.",
        ),
        (
            lambda: ModalityEncoders({"a": 3}),
            TypeError,
            "the encoder of 'a' must be an nn.Module, got int.",
        ),
        (
            lambda: ModalityEncoders.linear({"a": 0}, 3),
            ValueError,
            "the dimension of 'a' must be at least 1, got 0.",
        ),
        (
            lambda: ModalityEncoders.linear({"a": 2}, 0),
            ValueError,
            "of 'embedding_dim' must be at least 1, got 0.",
        ),
        (
            lambda: ModalityEncoders.mlp({"a": 2}, 3, hidden_dims=(0,)),
            ValueError,
            "`hidden_dims` must be at least 1, got 0.",
        ),
    ],
)
def test_invalid_arguments_of_the_constructors_are_errors(build, error, message):
    with pytest.raises(error, match=re.escape(message)):
        build()


def test_the_builders_of_a_subclass_return_the_subclass():
    class Subclass(ModalityEncoders):
        pass

    assert type(Subclass.linear({"a": 1}, 1)) is Subclass
    assert Subclass.linear({"a": 1}, 1)(
        {"a": normal(seeded(0), 2, 1, dtype=torch.float32)}
    ).shape == (
        2,
        1,
        1,
    )


@pytest.mark.parametrize("build", [ModalityEncoders.linear, ModalityEncoders.mlp])
@pytest.mark.parametrize(
    ("dims", "embedding_dim", "error", "message"),
    [
        ({"text": 2.0}, 2, TypeError, "the dimension of 'text' must be an int, got 2.0."),
        ({"text": True}, 2, TypeError, "the dimension of 'text' must be an int, got True."),
        ({"text": 2}, "2", TypeError, "the dimension of 'embedding_dim' must be an int, got '2'."),
        ({"text": -3}, 2, ValueError, "the dimension of 'text' must be at least 1, got -3."),
    ],
)
def test_an_invalid_dimension_is_named_with_its_value(build, dims, embedding_dim, error, message):
    with pytest.raises(error, match=re.escape(f"ModalityEncoders: {message}")):
        build(dims, embedding_dim)
