"""Each assertion of `invmod.testing` passes for a correct part and fails for a broken one."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from invmod import GatedFusion, ModalityEncoders, fuse, masked_mean, testing
from invmod.testing import (
    assert_constant_preserved,
    assert_full_mask_equals_no_mask,
    assert_mask_honoured,
    assert_nan_propagates,
    assert_on_simplex,
    assert_permutation_equivariant,
    assert_permutation_invariant,
)
from tests.strategies import NAN, normal, random_mask, seeded

Z = normal(seeded(0), 4, 3, 2)
MASK = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 0]]).bool()


def fails(message):
    return pytest.raises(AssertionError, match=re.escape(message))


def selected(z, mask):
    return torch.where(mask[..., None], z, 0.0)


# --- masks


def test_parts_that_honour_their_mask_pass():
    assert_mask_honoured(masked_mean, Z, MASK)
    assert_mask_honoured(GatedFusion(3, 2).double(), Z, MASK)
    features = {"text": Z[:, 0], "image": normal(seeded(1), 4, 5)}
    assert_mask_honoured(
        ModalityEncoders.linear({"text": 2, "image": 5}, 3).double(), features, MASK[:, :2]
    )
    assert_mask_honoured(lambda z, mask: mask.sum(dim=1), Z, MASK)  # no gradient at all
    assert_mask_honoured(masked_mean, Z[:0], MASK[:0])


def test_z_and_the_mask_are_not_changed():
    z, mask = Z.clone().requires_grad_(), MASK.clone()
    assert_mask_honoured(masked_mean, z, mask)
    assert torch.equal(z.detach(), Z)
    assert torch.equal(mask, MASK)
    assert z.grad is None


def test_a_product_with_the_mask_is_caught_by_nan():
    with fails(
        "the output changes when the unavailable cell of row 1 and modality 1 holds nan. "
        "Select the available"
    ):
        assert_mask_honoured(lambda z, mask: (mask[..., None] * z).sum(dim=1), Z, MASK)


@pytest.mark.parametrize("row", [1, 2])
def test_the_error_names_the_cell_that_changes_the_output(row):
    def part(z, mask):
        return selected(z, mask).sum(dim=1) + z[row, row % 2, 0].nan_to_num()

    if row == 2:
        with fails("row 2 and modality 0 holds nan"):
            assert_mask_honoured(part, Z, MASK)
    else:
        with fails("row 1 and modality 1 holds nan"):
            assert_mask_honoured(part, Z, MASK)


@pytest.mark.parametrize(
    ("replaced", "caught"), [({}, "1000000000.0"), ({"posinf": torch.inf}, "inf")]
)
def test_a_part_that_only_replaces_nan_is_caught_by_another_fill_value(replaced, caught):
    def part(z, mask):  # adds large contents of unavailable cells
        return (
            selected(z, mask).sum()
            + z.nan_to_num(0.0, **{"posinf": 0.0} | replaced).clamp(min=1e6).sum()
        )

    with fails(f"the unavailable cell of row 1 and modality 1 holds {caught}"):
        assert_mask_honoured(part, Z, MASK)


def test_the_error_for_two_cells_that_only_matter_together_names_all_cells():
    def part(z, mask):
        both = z[1, 1, 0].isnan() & z[2, 0, 0].isnan()
        return selected(z, mask).sum() + 1.0 * both

    with fails("the output changes when all unavailable cells together hold nan"):
        assert_mask_honoured(part, Z, MASK)


def test_parts_that_let_nan_of_available_cells_through_pass():
    assert_nan_propagates(masked_mean, Z, MASK)
    features = {"text": Z[:, 0], "image": normal(seeded(1), 4, 5)}
    encoders = ModalityEncoders.linear({"text": 2, "image": 5}, 3).double()
    assert_nan_propagates(encoders, features, MASK[:, :2])
    # Without an available cell there is nothing to try.
    assert_nan_propagates(lambda z, mask: z[:, 0] * 0, Z[:0], MASK[:0])
    assert_nan_propagates(lambda z, mask: torch.zeros(1), Z, MASK & False)


@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (2, 1)])
def test_a_part_that_swallows_nan_of_one_cell_is_caught_and_the_cell_is_named(cell):
    def part(z, mask):
        z = z.clone()
        z[cell] = z[cell].nan_to_num()
        return selected(z, mask).sum(dim=1)

    message = (
        f"the available cell of row {cell[0]} and modality {cell[1]} holds NaN. A comparison such "
        "as `x > 0` is False for NaN"
    )
    with fails(message):
        assert_nan_propagates(part, Z, MASK)
    z = Z.clone()
    with pytest.raises(AssertionError):
        assert_nan_propagates(part, z, MASK)
    assert torch.equal(z, Z)


@pytest.mark.parametrize(
    ("z", "mask", "error", "message"),
    [
        (Z.long(), MASK, TypeError, "`z` must be floating point, got torch.int64."),
        (Z, MASK.long(), TypeError, "`mask` must have dtype torch.bool, got torch.int64."),
        (Z, MASK[:3], ValueError, "`mask` must have shape (N, M) = (4, 3), got (3, 3)."),
    ],
)
def test_invalid_input_of_the_law_of_nan_is_an_error(z, mask, error, message):
    with pytest.raises(error, match=re.escape(f"assert_nan_propagates: {message}")):
        assert_nan_propagates(masked_mean, z, mask)


def test_a_gradient_into_an_unavailable_cell_is_caught():
    class Leaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, mask):
            return selected(z, mask).sum()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.ones_like(Z), None

    with fails(
        "the gradient with respect to z is not 0 in the unavailable cell of row 1 and modality 1"
    ):
        assert_mask_honoured(Leaks.apply, Z, MASK)

    def part(features, mask):
        return Leaks.apply(torch.stack(list(features.values()), dim=1), mask)

    features = dict(zip(("text", "image", "audio"), Z.unbind(1), strict=True))
    with fails(
        "with respect to the feature of 'text' is not 0 in the unavailable cell of row 2 and "
        "modality 0"
    ):
        assert_mask_honoured(part, features, MASK)


def test_a_selection_after_the_layer_lets_nan_into_the_gradient_of_its_weights():
    """The output is correct, but the weights' gradient is NaN: mask before the layer instead."""

    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2, dtype=torch.float64)

        def forward(self, z, mask):
            return torch.where(mask[..., None], self.layer(z), 0.0)

    with fails(
        "with nan in the unavailable cells, the gradient with respect to parameter 0 is not finite"
    ):
        assert_mask_honoured(Late(), Z, MASK)
    layer = Late()
    with fails("with respect to parameter 0 is not finite"):
        assert_mask_honoured(lambda z, mask: layer(z, mask), Z, MASK, parameters=layer.parameters())
    with fails("with respect to z is not finite"):
        assert_mask_honoured(
            lambda z, mask: torch.where(mask[..., None], 0 * z.sqrt(), 0.0), -Z.abs(), MASK
        )


def test_a_gradient_that_depends_on_unavailable_cells_is_caught():
    class Uneven(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, mask):
            ctx.save_for_backward(z, mask)
            return selected(z, mask).sum()

        @staticmethod
        def backward(ctx, gradient):
            z, mask = ctx.saved_tensors
            return gradient * mask[..., None].expand_as(z) * (1 + z.isnan().sum()), None

    with fails("with nan in the unavailable cells, the gradient with respect to z changes"):
        assert_mask_honoured(lambda z, mask: Uneven.apply(z, mask), Z, MASK)


def test_invalid_arguments_of_the_mask_law_are_rejected():
    with pytest.raises(
        TypeError, match=r"assert_mask_honoured: `z` must be floating point, got torch.int64"
    ):
        assert_mask_honoured(masked_mean, Z.long(), MASK)
    with pytest.raises(
        TypeError,
        match=r"`mask` must have dtype torch.bool, got torch.float32. Use `mask.bool\(\)`",
    ):
        assert_mask_honoured(masked_mean, Z, MASK.float())
    with pytest.raises(
        ValueError, match=r"`mask` must have shape \(N, M\) = \(4, 3\), got \(4, 2\)"
    ):
        assert_mask_honoured(masked_mean, Z, MASK[:, :2])
    with pytest.raises(
        ValueError, match=r"`mask` must have shape \(N, M\) = \(4, 1\), got \(4, 3\)"
    ):
        assert_mask_honoured(lambda z, mask: z["a"], {"a": Z[:, 0]}, MASK)


def test_a_full_mask_that_changes_the_output_is_caught():
    assert_full_mask_equals_no_mask(masked_mean, Z)
    with fails(
        "assert_full_mask_equals_no_mask: a mask with every cell available changes the output. "
        "Tensor-likes"
    ):
        assert_full_mask_equals_no_mask(
            lambda z, mask: z.sum(dim=1) if mask is None else masked_mean(z, mask), Z
        )
    assert_full_mask_equals_no_mask(lambda z, mask: z + 1e-3 * (mask is None), Z, rtol=0, atol=1e-2)


# --- permutations


def test_parts_that_do_not_depend_on_the_order_pass():
    weights = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    assert_permutation_invariant(fuse, Z, weights, MASK, dim=1)
    assert_permutation_invariant(fuse, Z, weights, None, dim=1)
    assert_permutation_invariant(
        lambda z, w: (w @ z).sum(), Z[0], weights, dim=(0, 1), rtol=0, atol=1e-12
    )
    assert_permutation_equivariant(
        lambda z, mask: fuse(z, weights, mask), Z, MASK, dim=0, output_dim=1
    )
    assert_permutation_invariant(masked_mean, Z[:0], MASK[:0], dim=0)


def cyclic(z):
    """Products of neighbours on a ring, which a shift leaves unchanged but a swap does not."""
    return (z * z.roll(1)).sum()


def last_is_special(z):
    """A function that a swap of the first two entries leaves unchanged, but a shift does not."""
    return z[:-1].sum() + 2 * z[-1]


@pytest.mark.parametrize(
    ("part", "order"), [(cyclic, "[1, 0, 2, 3]"), (last_is_special, "[3, 0, 1, 2]")]
)
def test_a_part_that_depends_on_the_order_is_caught_by_one_of_the_two_permutations(part, order):
    z = torch.tensor([1.0, 2.0, 4.0, 8.0])
    with fails(
        f"assert_permutation_invariant: the permutation {order} of dim 0 changes "
        "the output. Scalars are"
    ):
        assert_permutation_invariant(part, z, dim=0)


@pytest.mark.parametrize(
    ("part", "order"),
    [
        (lambda z: z.cumsum(dim=0), "[1, 0, 2]"),
        (lambda z: torch.cat([z[:2], 2 * z[2:]]), "[2, 0, 1]"),
    ],
)
def test_an_output_that_is_not_permuted_with_its_input_is_caught(part, order):
    with fails(
        f"assert_permutation_equivariant: the permutation {order} of dim 0 does not "
        "permute the output equally"
    ):
        assert_permutation_equivariant(part, torch.tensor([1.0, 2.0, 4.0]), dim=0)


def test_inputs_of_different_sizes_are_rejected():
    with pytest.raises(
        ValueError,
        match=r"assert_permutation_invariant: the inputs must have equal sizes along `dim`, "
        r"got \[3, 4\]",
    ):
        assert_permutation_invariant(fuse, Z, torch.ones(1, 4), dim=1)


# --- weights and constants


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[0.5, 0.5], [NAN, 1.0]], "row (1,) has an entry that is not finite: [nan, 1.0]"),
        ([[[1.5, -0.5]]], "row (0, 0) has a negative entry: [1.5, -0.5]"),
        ([0.5, 0.25], "row () sums to 0.75, not to 1: [0.5, 0.25]"),
    ],
)
def test_rows_off_the_simplex_are_named(weights, message):
    with fails(f"assert_on_simplex: {message}"):
        assert_on_simplex(torch.tensor(weights, dtype=torch.float64))


def test_rows_on_the_simplex_pass_within_the_tolerance():
    assert_on_simplex(torch.zeros(0, 3))
    assert_on_simplex(torch.tensor([1.0, 1e-3]), atol=1e-2)
    with fails("not to 1"):
        assert_on_simplex(torch.tensor([1.0, 1e-3]))


def test_a_fusion_that_changes_a_constant_is_caught():
    constant = normal(seeded(2), 4, 2)
    weights = torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert_constant_preserved(lambda z, mask: fuse(z, weights, mask), constant, 3, MASK)
    assert_constant_preserved(masked_mean, constant, 3)

    def mean_over_all(z, mask):  # an unavailable modality counts as 0
        return selected(z, mask).mean(dim=1)

    with fails("assert_constant_preserved: row 1 does not keep its constant"):
        assert_constant_preserved(mean_over_all, constant, 3, MASK)
    with fails("row 0 does not keep its constant"):  # in the second environment alone
        assert_constant_preserved(
            lambda z, mask: fuse(z, weights * torch.tensor([[1.0], [2.0]]), mask), constant, 3
        )


# --- the module


def test_every_name_of_the_module_is_public_and_documented():
    functions = {
        name for name, x in vars(testing).items() if callable(x) and name.startswith("assert_")
    }
    assert functions == set(testing.__all__)
    assert list(testing.__all__) == sorted(testing.__all__)
    for name in testing.__all__:
        text = getattr(testing, name).__doc__
        for part in ("Arguments:\n", "Raises:\n", "AssertionError: ", "Example:\n", ">>> "):
            assert part in text, (name, part)


def test_the_module_needs_neither_pytest_nor_hypothesis():
    code = (
        "import sys, invmod.testing; "
        "sys.exit(bool({'pytest', 'hypothesis', '_pytest'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_random_masks_of_every_kind_pass():
    for seed in range(20):
        assert_mask_honoured(
            masked_mean, normal(seeded(seed), 5, 4), random_mask(seeded(seed), 5, 4)
        )
