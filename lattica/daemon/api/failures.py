"""Errors as gRPC's status and back: a client raises what the node would have raised.

The status has a code for every language, the message, and in the trailing metadata
`lattica-error` the name of the class.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from lattica import errors
from lattica.daemon.errors import DaemonError, DaemonGoneError
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.limits.shortages import shortage_in
from lattica.nat.base.printable import printable
from lattica.rpc.errors import RpcError, StatusCode

CLASS_KEY: Final = "lattica-error"
"""Of the trailing metadata."""
_MOST_TEXT = 4000
"""Characters of a message; gRPC allows 8 KiB of metadata."""

_CODES: Final[tuple[tuple[type[BaseException], StatusCode], ...]] = (
    (errors.AccessDeniedError, StatusCode.PERMISSION_DENIED),
    (errors.ContentNotFoundError, StatusCode.NOT_FOUND),
    (errors.TicketError, StatusCode.INVALID_ARGUMENT),
    (errors.AddressError, StatusCode.INVALID_ARGUMENT),
    (errors.ConfigError, StatusCode.INVALID_ARGUMENT),
    (errors.LocalProtocolError, StatusCode.INVALID_ARGUMENT),
    (errors.ResourceLimitError, StatusCode.RESOURCE_EXHAUSTED),
    (errors.IntegrityError, StatusCode.DATA_LOSS),
    (errors.DialError, StatusCode.UNAVAILABLE),
    (errors.NotConnectedError, StatusCode.UNAVAILABLE),
    (errors.NoDhtPeersError, StatusCode.UNAVAILABLE),
    (errors.NotStoredError, StatusCode.UNAVAILABLE),
    (errors.ConnectionClosedError, StatusCode.UNAVAILABLE),
    (errors.StreamResetError, StatusCode.UNAVAILABLE),
    (errors.StreamClosedError, StatusCode.UNAVAILABLE),
    (TimeoutError, StatusCode.DEADLINE_EXCEEDED),
    (LatticaError, StatusCode.UNKNOWN),
)
"""The first that an error is."""


def status_of(error: BaseException) -> tuple[StatusCode, str, str]:
    """The code, the message and the name of the class; of a defect nothing but that it is one."""
    if isinstance(error, RpcError):
        code: StatusCode | None = error.code
    else:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    if code is None and (shortage := shortage_in(error)) is not None:
        return StatusCode.RESOURCE_EXHAUSTED, shortage, errors.ResourceLimitError.__name__
    if code is None:
        return StatusCode.INTERNAL, "internal error; see the node's log", ""
    return code, printable(str(error))[:_MOST_TEXT], type(error).__name__


def error_of(code: int, message: str, name: str) -> Exception:
    """The error that a status means."""
    if name == "TimeoutError":
        return TimeoutError(message)
    for kind in _named(name):
        try:
            return kind(message)
        except TypeError:  # one that is made of something else
            continue
    if code == StatusCode.DEADLINE_EXCEEDED:
        # Without a class it is gRPC's own, and says no more than that.
        silent = "the node that runs here has not answered in time: it is busy, or stopped"
        return TimeoutError(message if name else silent)
    if code == StatusCode.CANCELLED:
        return DaemonError(message or "the call was cancelled")
    if code == StatusCode.UNAVAILABLE:
        return DaemonGoneError(f"the node that runs here has ended: {message or 'no reason given'}")
    if code == StatusCode.UNIMPLEMENTED:
        return DaemonError("the daemon does not know this call: it is of another version")
    return DaemonError(message or f"the daemon failed with {StatusCode(code).name}")


def _named(name: str) -> Iterable[type[Exception]]:
    """The class of that name, then those that it is one of."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, LatticaError)):
        return ()
    return [each for each in kind.__mro__ if issubclass(each, LatticaError)]
