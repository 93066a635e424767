"""Values of settings, by type: of Python, as TOML has them, or as texts of the environment."""

from __future__ import annotations

import math
import os
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin


@dataclass(frozen=True, slots=True)
class Source:
    """Where values come from, for decoding them and for naming them in errors."""

    label: str
    is_text: bool = False
    """All values are strings of the environment."""
    folder: Path | None = None
    """What relative paths are relative to; None: the current directory."""

    def path(self, text: str) -> Path:
        """The path that a text is here. Raises ValueError, saying what is expected."""
        path = Path(os.path.expanduser(text))
        if path.parts and path.parts[0].startswith("~"):
            raise ValueError("a path in the home directory of a user that exists")
        return self.folder / path if self.folder is not None else path


def decode_value(kind: Any, raw: object, source: Source) -> object:
    """The value of a setting of this type.

    Raises:
        ValueError: it is none; the message says what is expected.
    """
    origin, parameters = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if raw is None or raw == "":
            return None
        (kind,) = (parameter for parameter in parameters if parameter is not type(None))
        return decode_value(kind, raw, source)
    if origin is tuple:
        return _decode_tuple(parameters[0], raw, source)
    if kind is bool:
        return _decode_bool(raw, source)
    if kind is int or kind is float:
        return _decode_number(kind, raw, source)
    if kind is bytes:
        return _decode_bytes(raw)
    if kind is Path:
        if isinstance(raw, Path):
            return raw
        if isinstance(raw, str) and raw and "\0" not in raw:
            return source.path(raw)
        raise ValueError("a path")
    if kind is str:
        if isinstance(raw, str):
            return raw
        raise ValueError("a text")
    raise TypeError(f"settings of type {kind} are not supported")


def _decode_tuple(kind: Any, raw: object, source: Source) -> tuple[object, ...]:
    if source.is_text and isinstance(raw, str):
        raw = _split_list(raw)
    if not isinstance(raw, (list, tuple)):
        raise ValueError("a list separated by commas" if source.is_text else "a list")
    try:
        return tuple(decode_value(kind, item, source) for item in raw)
    except ValueError as error:
        raise ValueError(f"a list in which each item is {error}") from None


def _split_list(text: str) -> object:
    """Separated by commas, or in brackets as in the file and in JSON."""
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        document = tomllib.loads(f"list = {text.strip()}")
    except (tomllib.TOMLDecodeError, RecursionError):
        document = {}
    if document.keys() != {"list"}:
        raise ValueError("a list separated by commas, or in brackets with quotes")
    return document["list"]


def _decode_bool(raw: object, source: Source) -> bool:
    if isinstance(raw, bool):
        return raw
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if source.is_text and isinstance(raw, str) and raw.strip().lower() in words:
        return words[raw.strip().lower()]
    raise ValueError("true or false")


def _decode_number(kind: type[int] | type[float], raw: object, source: Source) -> int | float:
    expected = "a whole number" if kind is int else "a number"
    try:
        if source.is_text and isinstance(raw, str):
            number: int | float = kind(raw)
        elif isinstance(raw, int) and not isinstance(raw, bool):
            number = kind(raw)
        elif kind is float and isinstance(raw, float):
            number = raw
        else:
            raise ValueError(expected)
        if not math.isfinite(number):
            raise ValueError(expected)
    except (ValueError, OverflowError):
        raise ValueError(expected) from None
    return number


def _decode_bytes(raw: object) -> bytes:
    if isinstance(raw, bytes):
        return raw
    if isinstance(raw, str):
        try:
            return bytes.fromhex(raw)
        except ValueError:
            pass
    raise ValueError("bytes in hexadecimal")
