"""Read a pickled dictionary of arrays from an npy file without unpickling it.

`numpy.save` pickles a dictionary. Loading a pickle can run any code that its author chose, so it is
parsed here instead: each instruction is read as data, only those that build texts, numbers, tuples,
dictionaries and NumPy arrays are known, and everything else is an error.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError
from milk_recsys.base.reading import check_regular
from milk_recsys.catalogue.npy import BAD_NPY

__all__ = ["read_pickled_arrays"]

MAX_BYTES = 2**26  # Size of the largest file that is read, 64 MiB.


class _Refused(ValueError):
    """The pickle has an instruction or a name that is not known."""


@dataclasses.dataclass(frozen=True)
class _Name:
    """A function or class that the pickle names; it is never imported."""

    module: str
    name: str


@dataclasses.dataclass
class _Array:
    """An array whose contents come with a later instruction."""

    value: Any = None


@dataclasses.dataclass
class _Type:
    """A NumPy dtype: its name, and its byte order, which comes with a later instruction."""

    name: str
    order: str = "|"


_MARK = object()
# NumPy renamed `numpy.core` to `numpy._core` in version 2.
_RECONSTRUCT = tuple(
    _Name(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")
)
_NDARRAY, _DTYPE = _Name("numpy", "ndarray"), _Name("numpy", "dtype")


def read_pickled_arrays(path: Path) -> dict[str, npt.NDArray[np.int64]]:
    """Return the dictionary, from text to whole numbers, that `numpy.save` wrote to a file.

    Nothing is unpickled: a file that would run code is refused.

    Arguments:
        path: an npy file of one Python object, a dictionary of one-dimensional integer arrays.

    Returns:
        name -> int64 (n,).

    Raises:
        DataError: the file is missing, too large, damaged, or holds anything else.
    """
    advice = "Give a file that numpy.save wrote of a dictionary of integer arrays."
    check_regular(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: is larger than {MAX_BYTES:,} bytes. {advice}")
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = header(file)
            content = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}). {advice}") from None
    except BAD_NPY as error:
        raise DataError(f"{path}: is not a npy file ({error!s:.200}). {advice}") from None
    if dtype.kind != "O" or shape != ():
        raise DataError(f"{path}: holds an array {dtype.str} {shape}. {advice}")
    try:
        value = _parse(content)
    except _Refused as error:
        raise DataError(f"{path}: is not read, because it {error}. {advice}") from None
    # `genops` and the handlers fail in these ways for a damaged file.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error!s:.200}). {advice}") from None
    return _arrays_of(path, value, advice)


def _arrays_of(path: Path, value: Any, advice: str) -> dict[str, npt.NDArray[np.int64]]:
    """Check the parsed value, and return its arrays as int64."""
    content = value.value if isinstance(value, _Array) else None
    found = content[0] if isinstance(content, list) and len(content) == 1 else None
    if not isinstance(found, Mapping):
        raise DataError(f"{path}: does not hold a dictionary. {advice}")
    arrays = {}
    for name, item in found.items():
        array = item.value if isinstance(item, _Array) else None
        if not (
            isinstance(name, str)
            and isinstance(array, np.ndarray)
            and array.ndim == 1
            and array.dtype.kind in "iu"
        ):
            raise DataError(f"{path}: the entry {name!r:.60} is not an integer array. {advice}")
        arrays[name] = array.astype(np.int64)
    return arrays


# --- instructions ---------------------------------------------------------------------------------


def _parse(content: bytes) -> Any:
    """Return the value that a pickle describes, made of `_Array`, dictionaries and so on."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_known(*argument.split(" ", 1)))
        elif name in _HANDLERS:
            _HANDLERS[name](stack)
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(f"has the instruction {name}")
    raise ValueError("it ends too early")


def _known(module: str, name: str) -> _Name:
    found = _Name(module, name)
    if found not in (*_RECONSTRUCT, _NDARRAY, _DTYPE):
        raise _Refused(f"names {module}.{name}")
    return found


def _since_mark(stack: list[Any]) -> list[Any]:
    """Remove and return all values above the last mark, and remove the mark."""
    values: list[Any] = []
    while (top := stack.pop()) is not _MARK:
        values.insert(0, top)
    return values


def _tuple_of(count: int | None) -> Callable[[list[Any]], None]:
    def push(stack: list[Any]) -> None:
        values = _since_mark(stack) if count is None else [stack.pop() for _ in range(count)][::-1]
        stack.append(tuple(values))

    return push


def _stack_global(stack: list[Any]) -> None:
    name, module = stack.pop(), stack.pop()
    stack.append(_known(module, name))


def _append(stack: list[Any]) -> None:
    value = stack.pop()
    stack[-1].append(value)


def _appends(stack: list[Any]) -> None:
    values = _since_mark(stack)
    stack[-1].extend(values)


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    stack[-1][key] = value


def _set_items(stack: list[Any]) -> None:
    values = _since_mark(stack)
    stack[-1].update(zip(values[::2], values[1::2], strict=True))


def _reduce(stack: list[Any]) -> None:
    """Begin an array or a dtype, which are the only calls that are known."""
    arguments, called = stack.pop(), stack.pop()
    if called in _RECONSTRUCT and arguments[0] == _NDARRAY:
        stack.append(_Array())
    elif called == _DTYPE:
        stack.append(_Type(arguments[0]))
    else:
        raise _Refused("makes an object that is not an array")


def _build(stack: list[Any]) -> None:
    """Give an array its contents, or a dtype its byte order."""
    state, made = stack.pop(), stack[-1]
    if isinstance(made, _Type):
        made.order = state[1]
    elif isinstance(made, _Array):
        _, shape, kind, fortran, content = state
        made.value = content if isinstance(content, list) else _numbers(shape, kind, content)
        if fortran and len(shape) > 1:
            raise _Refused("has an array in column order")
    else:
        raise _Refused("changes an object that is not an array")


def _numbers(shape: tuple[int, ...], kind: _Type, content: bytes) -> npt.NDArray[Any]:
    """Return an array of numbers from its bytes."""
    dtype: np.dtype[Any] = np.dtype(kind.name)
    if kind.order in ("<", ">"):
        dtype = dtype.newbyteorder("<" if kind.order == "<" else ">")
    if dtype.hasobject:
        raise _Refused("has an array of objects")
    return np.frombuffer(content, dtype=dtype).reshape(shape)


_LITERALS = frozenset(
    (
        "BININT",
        "BININT1",
        "BININT2",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "SHORT_BINBYTES",
        "BINBYTES",
        "BINBYTES8",
    )
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_HANDLERS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": _tuple_of(None),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "STACK_GLOBAL": _stack_global,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "REDUCE": _reduce,
    "BUILD": _build,
}
