"""A handler object as a service of ours: `ClassName.method`, with one payload each way."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lattica.compat.calls.arguments import invoke, sent_result
from lattica.compat.calls.decorators import CallKind, kinds_of


def service_of(handler: object) -> object:
    """What :meth:`lattica.rpc.Rpc.serve` takes for it.

    Methods are looked up in the handler when they are called: it registers itself before its own
    `__init__` has run to the end.
    """
    made = {
        name: _streaming(handler, name) if kind is CallKind.STREAM_ITER else _unary(handler, name)
        for name, kind in kinds_of(type(handler)).items()
    }
    return types.new_class(type(handler).__name__, exec_body=lambda space: space.update(made))()


def _unary(handler: object, name: str) -> Callable[..., Any]:
    def call(self: object, payload: Any = None) -> Any:
        return sent_result(invoke(getattr(handler, name), payload))

    return call


def _streaming(handler: object, name: str) -> Callable[..., Any]:
    def call(self: object, payload: Any = None) -> Iterator[bytes]:
        return chunks(invoke(getattr(handler, name), payload))

    return call


def chunks(items: Iterable[Any]) -> Iterator[bytes]:
    """The items of a stream as bytes; they are closed with it."""
    items = iter(items)
    try:
        for item in items:
            yield chunk(item)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def chunk(item: Any) -> bytes:
    """An item of a stream as bytes, as readers get them.

    Raises:
        TypeError: it is none. The original leaves such items out without a word.
    """
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    if isinstance(item, str):
        return item.encode()
    if hasattr(item, "SerializeToString"):
        return bytes(item.SerializeToString())
    if isinstance(item, list):
        try:
            return bytes(item)
        except (TypeError, ValueError):
            pass
    raise TypeError(
        "an item of a stream is bytes, text, a message, or a list of numbers below 256; "
        f"not {type(item).__name__}"
    )
