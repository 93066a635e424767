"""How a call fails: gRPC's status codes as exceptions.

A handler raises one of these to choose what its caller gets; a caller catches them. Which failures
may be tried again is in :attr:`RpcError.may_have_run`, and in `docs/rpc.md`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from lattica.nat.base.errors import LatticaError


class StatusCode(IntEnum):
    """Source: https://grpc.github.io/grpc/core/md_doc_statuscodes.html"""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(LatticaError):
    """A call failed; `code` says how, the subclass too.

    Args:
        message: for people; it travels to the caller.
        may_have_run: whether the handler may have begun. A call that has certainly not may be made
            again without a second thought.
        retry_after: seconds after which the server expects to have room; None: it does not say.
    """

    code: ClassVar[StatusCode] = StatusCode.UNKNOWN
    # A subclass of somebody's may not call __init__.
    may_have_run: bool = True
    retry_after: float | None = None
    error_type: str = ""
    """The name of the exception that the handler raised; empty if it was one of these."""
    remote_traceback: str = ""
    """Where the handler raised it; empty unless the server's configuration allows it."""

    def __init__(
        self,
        message: str = "",
        *,
        may_have_run: bool = True,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        from lattica.nat.base.foreign_code import text_of  # which needs trio

        return text_of(self.args[0]) if self.args else ""


class CallCancelledError(RpcError):
    """The server gave the call up, or the call's iterator was closed by another task."""

    code = StatusCode.CANCELLED


class UnknownError(RpcError):
    """The handler raised an exception of its own; `error_type` is its name."""

    code = StatusCode.UNKNOWN


class InvalidArgumentError(RpcError):
    """An argument is of the wrong type or value, or of a type that the server does not know."""

    code = StatusCode.INVALID_ARGUMENT


class DeadlineExceededError(RpcError, TimeoutError):
    """There was no result in time."""

    code = StatusCode.DEADLINE_EXCEEDED


class NotFoundError(RpcError):
    """What was asked for does not exist."""

    code = StatusCode.NOT_FOUND


class AlreadyExistsError(RpcError):
    """What was to be made exists."""

    code = StatusCode.ALREADY_EXISTS


class PermissionDeniedError(RpcError):
    """The caller may not call this."""

    code = StatusCode.PERMISSION_DENIED


class ResourceExhaustedError(RpcError):
    """A limit or budget of the server's is used up; the message names it."""

    code = StatusCode.RESOURCE_EXHAUSTED


class FailedPreconditionError(RpcError):
    """The system is not in the state that the call needs."""

    code = StatusCode.FAILED_PRECONDITION


class AbortedError(RpcError):
    """The call was given up because of a conflict with another one."""

    code = StatusCode.ABORTED


class OutOfRangeError(RpcError):
    """It is past the valid range, such as reading past the end."""

    code = StatusCode.OUT_OF_RANGE


class UnimplementedError(RpcError):
    """The peer does not serve this service, method or version, or not in this manner."""

    code = StatusCode.UNIMPLEMENTED


class InternalError(RpcError):
    """The server, or the handler, broke its own contract: a result of the wrong type, say."""

    code = StatusCode.INTERNAL


class UnavailableError(RpcError):
    """The peer cannot be reached, was lost in mid-call, or is going away."""

    code = StatusCode.UNAVAILABLE


class DataLossError(RpcError):
    """Data is lost or damaged beyond repair."""

    code = StatusCode.DATA_LOSS


class UnauthenticatedError(RpcError):
    """The call lacks credentials beyond the peer's key."""

    code = StatusCode.UNAUTHENTICATED


_BY_CODE: dict[int, type[RpcError]] = {
    kind.code: kind for kind in RpcError.__subclasses__() if "code" in kind.__dict__
}


def error_of(
    code: int, message: str, *, may_have_run: bool = True, retry_after: float | None = None
) -> RpcError:
    """The exception for a status code; unknown codes are UNKNOWN, as gRPC says."""
    kind = _BY_CODE.get(code, UnknownError)
    return kind(message, may_have_run=may_have_run, retry_after=retry_after)
