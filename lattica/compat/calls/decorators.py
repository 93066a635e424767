"""Marks for the methods of a :class:`~lattica.compat.calls.handler.ConnectionHandler`."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class CallKind(Enum):
    """How a method is called; the value is the mark that the original puts on the function."""

    UNARY = "_is_rpc_method"
    STREAM = "_is_stream_method"
    """Unary too; in the original another protocol, for large arguments and results."""
    STREAM_ITER = "_is_stream_iter_method"
    """The result is a stream of chunks of bytes."""


def rpc_method(function: F) -> F:
    """A call with one argument message and one result."""
    setattr(function, CallKind.UNARY.value, True)
    return function


def rpc_stream(function: F) -> F:
    """As :func:`rpc_method`, which takes arguments and results of any size here, too."""
    setattr(function, CallKind.STREAM.value, True)
    return function


def rpc_stream_iter(function: F) -> F:
    """A call whose result is an iterator of chunks: bytes, text, or messages."""
    setattr(function, CallKind.STREAM_ITER.value, True)
    return function


def kinds_of(handler: type) -> dict[str, CallKind]:
    """The marked methods of a class by name, inherited ones included."""
    found: dict[str, CallKind] = {}
    for name in dir(handler):
        function = getattr(handler, name, None)
        for kind in CallKind:
            if callable(function) and getattr(function, kind.value, False):
                found[name] = kind
    return found
