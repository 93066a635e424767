"""Whether a stream handler is plain or async: told where it is given, or where it has run.

A handler of the wrong kind would be called, return what nobody awaits, and have its stream closed
as if all were well. Most are told by what they are; of a plain function that returns what another
one does (a lambda, a wrapper), only what comes back tells.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from functools import partial

from lattica.nat.base.errors import LocalProtocolError

_TAKES_ASYNC = "Node and AsyncLattica take `async def` handlers, Lattica plain functions"


def check_callable(handler: object) -> None:
    """Raises LocalProtocolError for what cannot be called with a stream."""
    if not callable(handler):
        raise LocalProtocolError(f"a handler is a function of a stream, not {handler!r:.100}")


def check_async_handler(handler: object) -> None:
    """Raises LocalProtocolError for what cannot be awaited with a stream, as far as it shows."""
    check_callable(handler)
    function = _function(handler)
    if _is_generator(function):
        raise LocalProtocolError(f"a handler that yields is none: {_named(handler)}")
    if inspect.iscoroutinefunction(function):
        return
    annotations = getattr(function, "__annotations__", {})
    if "return" in annotations and annotations["return"] in (None, "None"):
        raise LocalProtocolError(f"{_named(handler)} is a plain function: {_TAKES_ASYNC}")


def check_plain_handler(handler: object) -> None:
    """Raises LocalProtocolError for what does not run when it is called, as far as it shows."""
    check_callable(handler)
    function = _function(handler)
    if _is_generator(function):
        raise LocalProtocolError(f"a handler that yields is none: {_named(handler)}")
    if inspect.iscoroutinefunction(function):
        raise LocalProtocolError(f"{_named(handler)} is an async function: {_TAKES_ASYNC}")


def require_awaitable(result: object) -> Awaitable[object]:
    """What an async handler has returned when it was called.

    Raises TypeError for what a plain one returns, when it has run to its end on the loop.
    """
    if not isinstance(result, Awaitable):
        raise TypeError(
            "the handler is a plain function, or returns what cannot be awaited; everything else "
            f"of its loop had to wait for it: {_TAKES_ASYNC}"
        )
    return result


def require_finished(result: object) -> None:
    """What a plain handler has returned.

    Raises TypeError for a coroutine or generator, of which nothing has run.
    """
    if inspect.iscoroutine(result):
        result.close()  # nobody is told that it was never awaited: that is said here
    elif not (inspect.isgenerator(result) or inspect.isasyncgen(result)):
        return
    raise TypeError(f"the handler returned a {type(result).__name__}, unrun: {_TAKES_ASYNC}")


def _function(handler: object) -> object:
    """The function that is called, through partials and objects with `__call__`."""
    while True:
        if isinstance(handler, partial):
            handler = handler.func
        elif inspect.isroutine(handler) or inspect.isclass(handler):
            return handler
        else:
            return getattr(handler, "__call__", handler)  # noqa: B004 -- it is callable


def _is_generator(function: object) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _named(handler: object) -> str:
    name = getattr(_function(handler), "__qualname__", None)
    return name if isinstance(name, str) else f"{handler!r:.100}"
