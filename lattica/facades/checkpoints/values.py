"""What a checkpoint has beside tensors, such as learning rates and step counters, as JSON.

A closed set of types: None, bool, int, float, str, bytes, list, tuple and dict. Nothing that a
stranger has written is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lattica.content.errors import ContentError
from lattica.nat.base.errors import LocalProtocolError


def encode_values(values: Mapping[str, Any]) -> str:
    """As JSON. Raises :class:`~lattica.errors.LocalProtocolError`: one is of another type."""
    return json.dumps(
        {name: _encoded(name, value) for name, value in values.items()}, separators=(",", ":")
    )


def decode_values(text: str) -> dict[str, Any]:
    """From a stranger's JSON. Raises :class:`~lattica.errors.ContentError`: it is none of these."""
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise TypeError("no object")
        return {name: _decoded(value) for name, value in fields.items()}
    except (ValueError, TypeError, RecursionError) as error:
        raise ContentError(f"the checkpoint's values are not as they should be: {error}") from None


def _encoded(name: str, value: Any) -> Any:
    # The very types: what inherits from them has more to it, which would be lost.
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is bytes:
        return ["bytes", value.hex()]
    if type(value) in (list, tuple):
        return [type(value).__name__, *(_encoded(name, one) for one in value)]
    if isinstance(value, tuple) and type(value).__name__ == "Size":
        return ["tuple", *value]
    if isinstance(value, dict):
        pairs = ([_encoded(name, key), _encoded(name, one)] for key, one in value.items())
        return ["dict", *pairs]
    raise LocalProtocolError(
        f"{name!r} has a {type(value).__name__}; beside tensors a checkpoint has None, bool, int, "
        "float, str, bytes, list, tuple and dict"
    )


def _decoded(value: Any) -> Any:
    if not isinstance(value, list):
        if isinstance(value, dict):
            raise TypeError("an object in a value")
        return value
    match value:
        case ["bytes", str(digits)]:
            return bytes.fromhex(digits)
        case ["list", *items]:
            return [_decoded(one) for one in items]
        case ["tuple", *items]:
            return tuple(_decoded(one) for one in items)
        case ["dict", *pairs]:
            return {_decoded(key): _decoded(one) for key, one in pairs}
    raise ValueError("a list of no known kind")
