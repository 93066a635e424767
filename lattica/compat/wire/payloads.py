"""Arguments and results as the original has them on the wire: nothing for None, a protobuf message
as its bytes, and a pickle of everything else. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lattica.compat.calls.arguments import gather, received, single_message
from lattica.compat.pickles.reader import read_pickle
from lattica.compat.pickles.writer import write_pickle


def encode_value(value: Any) -> bytes:
    """A result, or the one argument of a call.

    Raises:
        TypeError: it is neither a message nor plain data.
    """
    if value is None:
        return b""
    if hasattr(value, "SerializeToString"):
        return bytes(value.SerializeToString())
    return write_pickle(value)


def encode_arguments(
    function: Callable[..., Any] | None, args: tuple[Any, ...], named: dict[str, Any]
) -> bytes:
    """The arguments of a call, packed as :func:`lattica.compat.calls.arguments.pack` does.

    Raises:
        TypeError: they cannot be sent.
    """
    args, named = gather(function, args, named)
    if named:
        return write_pickle(named)
    return encode_value(args[0]) if len(args) == 1 else write_pickle([*args]) if args else b""


def decode_result(data: bytes, message_class: type | None) -> Any:
    """A result; of the annotated message class, if there is one.

    Raises:
        RemoteProtocolError: it is neither plain data nor such a message.
    """
    if not data or message_class is None:
        value = read_pickle(data) if data else None
    else:
        value = _message(data, message_class)
    return received(value, message_class)


def decode_arguments(method: Callable[..., Any], data: bytes) -> Any:
    """What :func:`lattica.compat.calls.arguments.invoke` takes.

    Raises:
        RemoteProtocolError: it is neither plain data nor the message that the method takes.
    """
    if not data:
        return None
    message_class = single_message(method)
    return read_pickle(data) if message_class is None else _message(data, message_class)


def _message(data: bytes, message_class: type) -> Any:
    """The message; where these are no bytes of one, what a pickle has in its place."""
    try:
        return received(data, message_class)
    except Exception:  # each implementation of messages has errors of its own
        return read_pickle(data)
