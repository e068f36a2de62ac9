"""Seeded random numbers: they repeat, and leave the process as it was."""

import subprocess
import sys

import torch

from milk_recsys.base.random_state import epoch_seed, seeded

CPU = torch.device("cpu")


def test_a_seed_gives_the_same_numbers_and_other_seeds_give_others():
    def draw(*place):
        with seeded(*place, device=CPU) as generator:
            return torch.rand(3), torch.rand(3, generator=generator)

    for first, second in zip(draw(3), draw(3), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(draw(3)[0], draw(4)[0])
    assert not torch.equal(draw(3)[0], draw(3, 0)[0])
    assert epoch_seed(3, 0) != epoch_seed(3, 1)


def test_the_state_of_the_process_is_restored():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    for mode in ("default", "warn", "error"):
        torch.set_deterministic_debug_mode(mode)
        before = torch.get_deterministic_debug_mode()
        with seeded(1, device=CPU):
            assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_deterministic_debug_mode() == before
    torch.set_deterministic_debug_mode("default")
    assert torch.equal(torch.rand(2), expected)


def test_the_compiler_is_not_imported():
    """Its import takes seconds, more than many runs."""
    code = (
        "import sys, torch\n"
        "from milk_recsys.base.random_state import seeded\n"
        "with seeded(0, device=torch.device('cpu')):\n"
        "    pass\n"
        "assert not {'torch._inductor', 'torch._dynamo', 'sympy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
