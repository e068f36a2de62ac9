"""Names in the words of a command: alone, joined by a sign, or quoted as in the tables."""

from __future__ import annotations

import json

DECODER = json.JSONDecoder()


def quoted(name: str) -> str:
    """Return a name in quotation marks, as the tables show names that could be misread.

    Example:
        >>> quoted("a, b")
        '"a, b"'
    """
    return json.dumps(name, ensure_ascii=False)


def quoted_start(text: str) -> tuple[str, str] | None:
    """Return the quoted name with which a text begins and the rest; None if there is none.

    Example:
        >>> quoted_start('"a+b"+c'), quoted_start("a+b")
        (('a+b', '+c'), None)
    """
    if not text.startswith('"'):
        return None
    try:
        name, end = DECODER.raw_decode(text)
    except ValueError:
        return None
    return name, text[end:]


def parts(text: str, sign: str = ",") -> list[tuple[str, bool]]:
    """Return the entries of a list and whether each is quoted; a quoted entry may have the sign.

    Example:
        >>> parts('id,"p, q",x*')
        [('id', False), ('p, q', True), ('x*', False)]
    """
    entries = []
    while True:
        start = quoted_start(text)
        if start is not None and start[1][:1] in ("", sign):
            name, rest = start
            entries.append((name, True))
        else:
            name, found, rest = text.partition(sign)
            entries.append((name, False))
            rest = found + rest
        if not rest:
            return entries
        text = rest[len(sign) :]
