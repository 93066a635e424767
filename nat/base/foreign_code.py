"""What code that is not ours may raise: which of it passes, and how it is put in words.

Handlers, hooks and callbacks are called from tasks of ours, and may raise anything: also what is no
`Exception` (`sys.exit()`, asyncio's `CancelledError`, `GeneratorExit`), and exceptions whose text
cannot be had or cannot be encoded. That costs the call or the stream for which they ran, and
neither our task nor the node. What passes is what was not theirs to raise: trio's cancellation, and
a person's Ctrl-C.
"""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable
from types import CodeType
from typing import Final

import trio

from lattica.nat.base.printable import encodable

_ENDS: Final = (StopIteration, StopAsyncIteration)


def parted(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Of what foreign code has raised: what must pass, and what is its own; a group may hold both.

    None for a part that is empty. What must pass is raised by the caller, in any case.
    """
    if isinstance(error, Exception):
        return None, error
    if isinstance(error, BaseExceptionGroup):
        return error.split(_must_pass)
    return (error, None) if _must_pass(error) else (None, error)


def settle(error: BaseException, report: Callable[[BaseException], object]) -> None:
    """Have what is foreign code's own reported, and raise what must pass; see :func:`parted`."""
    passing, own = parted(error)
    try:
        if own is not None:
            report(own)
        if passing is not None:
            raise passing from None
    finally:
        # Their tracebacks lead to frames that hold them: those would wait for the collector.
        del error, passing, own


def as_raised(error: BaseException) -> BaseException:
    """What foreign code has raised, where Python has made a RuntimeError of it, since it would have
    passed for the end of a coroutine or generator (PEP 479).
    """
    cause = error.__cause__
    if not isinstance(error, RuntimeError) or not isinstance(cause, _ENDS):
        return error
    return cause if str(error).endswith(f" raised {type(cause).__name__}") else error


def text_of(value: object) -> str:
    r"""`str(value)`, also where its `__str__` raises or returns what cannot be encoded, which is
    shown by its code, such as `\udce9`.
    """
    try:
        text = encodable(str(value))
    except BaseException as error:
        if parted(error)[0] is not None:
            raise
        return f"<a {encodable(type(value).__name__)} without text>"
    return text


def described(error: BaseException) -> str:
    """An exception's type and text, as the last line of a traceback has them."""
    name, text = encodable(type(error).__name__), text_of(error)
    return f"{name}: {text}" if text else name


def _must_pass(error: BaseException) -> bool:
    if isinstance(error, trio.Cancelled):
        return True
    if isinstance(error, KeyboardInterrupt):
        return _is_ctrl_c(error)
    # A coroutine that is closed from outside, because its loop is gone, waits in a trap of trio's.
    return isinstance(error, GeneratorExit) and _innermost_module(error) == "trio._core._traps"


def _is_ctrl_c(error: KeyboardInterrupt) -> bool:
    """Whether the handler of SIGINT has raised it, and no `raise` of somebody else's.

    Signals are handled in the main thread. Where their handler is not in Python, it leaves no
    frame: then it is taken for a real one.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    handler = signal.getsignal(signal.SIGINT)
    if handler in (signal.SIG_IGN, signal.SIG_DFL):
        return False
    code = _code_of(handler)
    traceback = error.__traceback__
    while code is not None and traceback is not None:
        if traceback.tb_frame.f_code is code:
            return True
        traceback = traceback.tb_next
    return code is None


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _innermost_module(error: BaseException) -> str | None:
    module = None
    traceback = error.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__")
        traceback = traceback.tb_next
    return module
