"""How many objects a skeleton would become: each takes a byte or three, and up to some hundred
bytes of memory. Encoder and decoder hold to the same number.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

MAX_ITEMS: Final = 131_072
"""Arrays, maps and extension values in a message. (Numbers, texts and bytes are as many as there is
room for.)"""
_HEADERS: Final = bytes(
    (*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0))
)
"""With which those begin in msgpack."""
_OTHERS: Final = bytes(each for each in range(256) if each not in _HEADERS)


class TooManyItemsError(ValueError):
    """A skeleton has more than :data:`MAX_ITEMS`."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"more than {most} lists, dicts and values of special types in a message: "
            "send an array, or several messages"
        )


def most_items(skeleton: bytes) -> int:
    """At most how many items there are, fast: text in ASCII counts for nothing, and that in other
    alphabets, floats and bytes for something.
    """
    return len(skeleton.translate(None, _OTHERS))


def check_items(skeleton: bytes, most: int = MAX_ITEMS) -> None:
    """Count if it might be too many; nothing is kept of what is made meanwhile.

    Raises TooManyItemsError, and what msgpack does where the skeleton is none.
    """
    if len(skeleton) <= most or most_items(skeleton) <= most:
        return
    left = most

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TooManyItemsError(most)

    msgpack.unpackb(
        skeleton,
        ext_hook=count,
        list_hook=count,
        object_pairs_hook=count,
        strict_map_key=False,
        timestamp=0,
    )
