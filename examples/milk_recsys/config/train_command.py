"""The command that trains with given options, as text to copy."""

import shlex
from typing import Any

from milk_recsys.config.method import flag
from milk_recsys.config.options import Options, common_names

__all__ = ["train_command"]

FIRST = ("data", "setting", "seed", "split_seed")  # Every method has these options.


def train_command(options: Options) -> str:
    """Return the command line of ``milk-recsys train`` for the options, without defaults.

    ``--model`` is always given, and ``--resume`` never. The words are quoted for a POSIX shell.

    Example:
        >>> train_command(Options.of("keep", data="my shop", seed=3))
        "milk-recsys train --model keep --data 'my shop' --seed 3"
    """
    method = options.definition
    names = common_names(method) - {"model", "resume", *FIRST} | set(method.fields)
    defaults = _defaults(options)
    words = ["milk-recsys", "train", "--model", method.name]
    for name in (*FIRST, *sorted(names)):
        value = options.value(name)
        if value is None or value == defaults[name]:
            continue
        if isinstance(value, bool):
            words.append(flag(name if value else f"no_{name}"))
        else:
            words += [flag(name), str(value)]
    return shlex.join(words)


def _defaults(options: Options) -> dict[str, Any]:
    """Return the values of options that a command line leaves out."""
    method = options.definition
    start = Options.of(method.name, data=options.data.folder).resolved()
    names = {*common_names(method), *method.fields}
    values = {name: start.value(name) for name in names} | {"data": None}
    # Without --preset, the command line takes the values of the first preset.
    return values | dict(next(iter(method.presets.values()), {}))
