"""What the specs of this package have in common: strict building from tables, and its error.

A table is what TOML or JSON gives for one spec: a mapping of field names to values. Building is
strict: an unknown key, a value of the wrong type or out of range is a :class:`SpecError` that
names the key and the reason, and the caller (the scenario reader) adds the file.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, Literal, TypeVar

SpecT = TypeVar("SpecT")


class SpecError(ValueError):
    """A spec with a field that is unknown, of the wrong type or out of range.

    `key` is the dotted path of the field (`"burst.enter"`), `reason` says what was expected.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}" if key else reason)
        self.key = key
        self.reason = reason


def require(condition: bool, key: str, reason: str) -> None:
    """Raise :class:`SpecError` for field `key` unless `condition` holds."""
    if not condition:
        raise SpecError(key, reason)


def require_number(
    value: float, key: str, *, low: float = 0.0, high: float = math.inf, above: bool = False
) -> None:
    """`value` is finite and within [low, high], or within (low, high] with `above`."""
    require(math.isfinite(value), key, f"expected a finite number, got {value}")
    enough = value > low if above else value >= low
    if not enough or value > high:
        limits = f"{'more than' if above else 'at least'} {low:g}"
        if high != math.inf:
            limits += f" and at most {high:g}"
        raise SpecError(key, f"expected {limits}, got {value:g}")


def from_table(cls: type[SpecT], table: Mapping[str, object], where: str = "") -> SpecT:
    """The dataclass `cls` built from `table`; `where` is the dotted path of the table itself.

    Whole numbers are taken where the field is a float, lists where it is a tuple, and tables
    where it is another spec. Raises :class:`SpecError`.
    """
    assert is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}
    prefix = f"{where}." if where else ""
    for key in table:
        if key not in known:
            raise SpecError(f"{prefix}{key}", f"unknown key; known are {', '.join(sorted(known))}")
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in table:
            values[name] = _convert(table[name], hints[name], prefix + name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise SpecError(prefix + name, "is required")
    try:
        return cls(**values)
    except SpecError as error:
        raise SpecError(prefix + error.key if error.key else where, error.reason) from None


def to_table(spec: object) -> dict[str, Any]:
    """The table (plain JSON types) from which :func:`from_table` builds an equal spec."""
    assert is_dataclass(spec)
    assert not isinstance(spec, type)
    return {key: _plain(value) for key, value in asdict(spec).items() if value is not None}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return value


def _convert(value: object, hint: Any, key: str) -> object:
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(value, hint, key)
    if origin is Literal:
        if value not in arguments or not isinstance(value, str):
            raise SpecError(
                key, f"expected one of {', '.join(map(repr, arguments))}, got {value!r}"
            )
        return value
    if origin is tuple:
        return _convert_tuple(value, arguments, key)
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise SpecError(key, f"expected a table, got {_type_name(value)}")
        assert isinstance(hint, type)
        return from_table(hint, value, key)
    return _convert_scalar(value, hint, key)


def _convert_tuple(value: object, arguments: tuple[Any, ...], key: str) -> tuple[object, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise SpecError(key, f"expected a list, got {_type_name(value)}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise SpecError(key, f"expected a list of {len(arguments)}, got {len(value)}")
    return tuple(
        _convert(item, hint, f"{key}[{index}]")
        for index, (item, hint) in enumerate(zip(value, arguments, strict=True))
    )


def _convert_scalar(value: object, hint: Any, key: str) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        assert isinstance(value, int | float)
        return float(value)
    if hint is int and is_number and isinstance(value, int):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a string"}
    raise SpecError(key, f"expected {names[hint]}, got {_type_name(value)}")


def _type_name(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {value!r}"
    return {type(None): "null", list: "a list", tuple: "a list", dict: "a table"}.get(
        type(value), type(value).__name__
    )
