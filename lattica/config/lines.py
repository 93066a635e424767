"""Where in a TOML file a setting is: the standard library's parser does not say."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping


def line_of(text: str, name: str) -> int | None:
    """The number of the line on which a key or table with this dotted name begins; None: there is
    none. `text` is valid TOML.

    By parsing beginnings of the text: the first that has the key ends with its statement.
    """
    lines = text.splitlines(keepends=True)
    if name not in _names(tomllib.loads(text), ""):
        return None
    without, having = 0, len(lines)  # both beginnings are valid
    while having - without > 1:
        middle = (without + having) // 2
        # A beginning that ends within a statement is not valid: look at others near it.
        near = (*range(middle, without, -1), *range(middle + 1, having))
        for end in near:
            found = _parsed("".join(lines[:end]))
            if found is not None:
                break
        else:
            break
        if name in _names(found, ""):
            having = end
        else:
            without = end
    return without + 1


def _parsed(text: str) -> Mapping[str, object] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _names(table: Mapping[str, object], prefix: str) -> Iterator[str]:
    for key, value in table.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")
