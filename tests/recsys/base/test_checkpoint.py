"""Checkpoints: the safetensors format, written and read block by block, and atomically."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from milk_recsys.base import checkpoint
from milk_recsys.base.checkpoint import Destination, Streamed, load_into, load_state, save_state
from milk_recsys.base.errors import DataError

FACTS = {"epoch": 3, "best": 0.25, "name": 'é "quoted"'}


def make_tensors() -> dict[str, Tensor]:
    """Tensors of many dtypes and shapes, some of which are not contiguous."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(50, 6, generator=generator)
    return {
        "users.weight": table,
        "transposed": torch.randn(4, 7, generator=generator).T,
        "every second": torch.randn(9, 3, generator=generator)[::2],
        "half": table.half(),
        "brain": table.bfloat16(),
        "double": torch.randn((), generator=generator, dtype=torch.float64),
        "step": torch.tensor(7.0),
        "trained": torch.rand(11, generator=generator) < 0.5,
        "numbers": torch.arange(5),
        "small": torch.arange(5, dtype=torch.int16),
        "none": torch.empty(0, 3),
        "deep": torch.randn(3, 2, 4, generator=generator),
    }


@pytest.fixture(params=[1, 40, 1 << 24])
def _block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BYTES_AT_ONCE", request.param)


@pytest.mark.usefixtures("_block")
def test_a_file_is_that_of_safetensors_byte_for_byte(tmp_path: Path) -> None:
    tensors = make_tensors()
    save_state(tmp_path / "ours", tensors, FACTS)
    text = checkpoint.json.dumps(FACTS)
    save_file(
        {name: x.contiguous() for name, x in tensors.items()},
        tmp_path / "theirs",
        metadata={"facts": text},
    )
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    for name, x in load_file(tmp_path / "ours").items():
        assert x.dtype == tensors[name].dtype
        assert torch.equal(x, tensors[name])


@pytest.mark.usefixtures("_block")
def test_reading_returns_the_tensors_that_were_written(tmp_path: Path) -> None:
    tensors = make_tensors()
    save_state(tmp_path / "file", tensors, FACTS)
    loaded, facts = load_state(tmp_path / "file")
    assert facts == FACTS
    targets = {name: torch.zeros_like(x) for name, x in tensors.items()}
    targets["transposed"] = torch.zeros(4, 7).T  # Not contiguous.
    targets["users.weight"] = torch.nn.Parameter(torch.zeros(50, 6))
    assert load_into(tmp_path / "file", targets) == FACTS
    for name, x in tensors.items():
        assert torch.equal(loaded[name], x)
        assert torch.equal(targets[name], x)


def test_a_tensor_can_be_written_in_blocks_and_read_in_parts(tmp_path: Path) -> None:
    whole = torch.arange(30.0).view(10, 3)
    save_state(
        tmp_path / "file", {"w": Streamed((10, 3), torch.float32, iter(torch.split(whole, 4)))}, {}
    )
    save_state(tmp_path / "same", {"w": whole}, {})
    assert (tmp_path / "file").read_bytes() == (tmp_path / "same").read_bytes()
    parts = [torch.zeros(3, 3), torch.zeros(7, 3), torch.zeros(0, 3)]
    for part, start in zip(parts, (0, 3, 10), strict=True):
        load_into(tmp_path / "file", {"w": Destination(part, start)})
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([torch.ones(2, 3)], r"the blocks of 'w' have 2 rows, not 4"),
        ([torch.ones(2, 3)] * 3, r"have 6 rows, not 4"),
        (
            [torch.ones(4, 2)],
            r"a block of 'w' must be torch.float32 rows of shape \(3,\), "
            r"got torch.float32 \(4, 2\)",
        ),
        ([torch.ones(4, 3).double()], r"got torch.float64 \(4, 3\)"),
    ],
)
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, blocks: list[Tensor], message: str
) -> None:
    save_state(tmp_path / "file", {"w": torch.zeros(2)}, {"epoch": 1})
    before = (tmp_path / "file").read_bytes()
    with pytest.raises(ValueError, match=message):
        save_state(tmp_path / "file", {"w": Streamed((4, 3), torch.float32, blocks)}, {"epoch": 2})

    def killed() -> Iterator[Tensor]:
        yield torch.ones(2, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_state(
            tmp_path / "file", {"w": Streamed((4, 3), torch.float32, killed())}, {"epoch": 2}
        )
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_state(tmp_path / "file", {"w": torch.zeros(2)}, {"best": float("nan")})
    with pytest.raises(ValueError, match=r"cannot hold the dtype of 'w' \(torch.complex64\)"):
        save_state(tmp_path / "file", {"w": torch.zeros(2, dtype=torch.complex64)}, {})
    assert (tmp_path / "file").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"a": torch.zeros(4, 2)}, "has the unexpected tensor 'b'"),
        (
            {"a": torch.zeros(4, 2), "b": torch.zeros(3), "c": torch.zeros(1)},
            "lacks the tensor 'c'",
        ),
        (
            {"a": torch.zeros(4, 2), "b": torch.zeros(2)},
            r"'b' is torch.float32 \(3,\), expected torch.float32 \(2,\)",
        ),
        (
            {"a": torch.zeros(4, 2), "b": torch.zeros(3).double()},
            r"expected torch.float64 \(3,\)",
        ),
        (
            {"a": Destination(torch.zeros(3, 2), 2), "b": torch.zeros(3)},
            r"expected torch.float32 rows 2 to 5 of \(N, 2,\)",
        ),
        ({"a": Destination(torch.zeros(3, 1), 0), "b": torch.zeros(3)}, "'a' is torch.float32"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(
    tmp_path: Path, targets: dict[str, Any], message: str
) -> None:
    save_state(tmp_path / "file", {"a": torch.ones(4, 2), "b": torch.ones(3)}, {})
    with pytest.raises(DataError, match=message):
        load_into(tmp_path / "file", targets)
    assert not any((x.tensor if isinstance(x, Destination) else x).any() for x in targets.values())


def test_a_part_of_the_tensors_can_be_loaded(tmp_path: Path) -> None:
    save_state(tmp_path / "file", {"a": torch.ones(4, 2), "b": torch.ones(3)}, {"epoch": 1})
    target = torch.zeros(3)
    assert load_into(tmp_path / "file", {"b": target}, partial=True) == {"epoch": 1}
    assert target.tolist() == [1, 1, 1]


def test_an_optional_tensor_that_the_file_lacks_stays_as_it_is(tmp_path: Path) -> None:
    save_state(tmp_path / "file", {"b": torch.ones(3)}, {})
    targets = {"a": torch.zeros(2), "b": torch.zeros(3)}
    load_into(tmp_path / "file", targets, optional=["a", "b"])
    assert targets["a"].tolist() == [0, 0]
    assert targets["b"].tolist() == [1, 1, 1]
    with pytest.raises(DataError, match="lacks the tensor 'a'"):
        load_into(tmp_path / "file", targets, optional=["b"])


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    targets = {"a": torch.zeros(4, 2)}
    with pytest.raises(DataError, match="no such file"):
        load_into(tmp_path / "file", targets)
    save_state(tmp_path / "file", {"a": torch.ones(4, 2)}, {})
    whole = (tmp_path / "file").read_bytes()
    save_file({"a": torch.ones(4, 2)}, tmp_path / "without facts")
    (tmp_path / "longer").write_bytes(whole + b"\0")
    for size in (0, 7, 20, len(whole) - 1):
        (tmp_path / f"cut {size}").write_bytes(whole[:size])
    for file in tmp_path.iterdir():
        if file.name != "file":
            with pytest.raises(DataError, match="is damaged, or not written by a run"):
                load_into(file, targets)
            with pytest.raises(DataError, match="is damaged, or not written by a run"):
                load_state(file)
    assert not targets["a"].any()
