"""Every exception Lattica raises on purpose.

Errors answer "whose fault?". :class:`LocalProtocolError` means the caller broke the
contract of an API; :class:`RemoteProtocolError` means the peer sent something its
protocol forbids. Any other exception that bytes from a peer can provoke is a bug.

This module imports nothing of ours but what makes text printable, so every floor may use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lattica.nat.base.printable import printable_lines

ErrorT = TypeVar("ErrorT", bound=Exception)


class LatticaError(Exception):
    """Base of every error of this package.

    Its text may quote what a peer wrote: `str()` shows what is not printable by its code, so that
    a traceback in any program is safe to look at. `args` and attributes have it as it came.
    """

    def __str__(self) -> str:
        return printable_lines(super().__str__())

    def __reduce__(self) -> tuple[object, ...]:
        # Those that make their message themselves could not be made from it when unpickled.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[ErrorT], args: tuple[object, ...], attributes: dict[str, object]
) -> ErrorT:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def renewed(error: ErrorT) -> ErrorT:
    """The same error as an object of its own, with the same cause, for another task to raise.

    Whoever raises an exception adds its frames to it: of one object that many tasks raise, each
    would show the frames of all the others, and keep their variables alive.
    """
    again = _restored(type(error), error.args, error.__dict__)
    again.__cause__ = error.__cause__
    return again


class LocalProtocolError(LatticaError):
    """The local caller broke the contract of an API or protocol machine."""


class RemoteProtocolError(LatticaError):
    """The peer sent bytes that its protocol does not allow."""


class PeerMismatchError(RemoteProtocolError):
    """The peer at an address proved a key other than the expected one."""

    def __init__(self, expected: object, actual: object) -> None:
        super().__init__(
            f"expected peer {expected}, but the peer at that address is {actual}; "
            "the address is stale or somebody else answers there"
        )
        self.expected = expected
        self.actual = actual


class AddressError(LatticaError, ValueError):
    """A multiaddr, peer ID or `host:port` that cannot be parsed or is not supported."""


class IdentityError(LatticaError):
    """A key file that is missing, unreadable, damaged or readable by others."""


class KeyInUseError(IdentityError):
    """Another node uses this key file: one key is one peer, at one place."""


class ConfigError(LatticaError, ValueError):
    """A configuration value that is unknown, of the wrong type or out of range."""


class ListenError(LatticaError, OSError):
    """A listen address cannot be bound (in use, not ours, not permitted)."""


class AccessDeniedError(LatticaError):
    """An allow- or deny-list, or the private network key, forbids this peer or address."""


class ResourceLimitError(LatticaError):
    """A configured budget (connections, streams, memory) is used up."""


@dataclass(frozen=True, slots=True)
class DialAttempt:
    """One address that was tried, and why it failed."""

    address: str
    error: str
    """For people."""
    cause: Exception | None = field(default=None, compare=False, repr=False)
    """For programs, such as :class:`PeerMismatchError`; None where nobody answered in time."""


class DialError(LatticaError, OSError):
    """No address of a peer led to a connection; `attempts` says why for each."""

    def __init__(self, target: object, attempts: Sequence[DialAttempt]) -> None:
        tried = "; ".join(f"{a.address}: {a.error}" for a in attempts) or "no address known"
        super().__init__(f"cannot connect to {target}: {tried}")
        self.target = target
        self.attempts = tuple(attempts)

    @property
    def has_met_another(self) -> bool:
        """Whether another peer answered at one of the addresses."""
        return any(isinstance(attempt.cause, PeerMismatchError) for attempt in self.attempts)


class NotConnectedError(LatticaError):
    """The peer is not connected and no address of it is known."""


class ConnectionClosedError(LatticaError, OSError):
    """The connection under a stream is gone; the message says why."""


class StreamClosedError(LatticaError, OSError):
    """This side has already closed the stream, or its direction, that is used."""


class StreamResetError(LatticaError, OSError):
    """The stream was aborted by the peer or by this side, or the peer reads no more of it.

    `code` is what the application that did it gave for a cause; 0: nothing.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class PeerLimitError(ResourceLimitError, StreamResetError):
    """The peer has refused a stream: its budget is used up, not one of this node."""


class IncompleteReadError(RemoteProtocolError):
    """The peer ended its direction of the stream in the middle of a message."""


class UnsupportedProtocolError(LatticaError):
    """The peer speaks none of the protocols that were asked for."""

    def __init__(self, peer: object, protocols: Sequence[str]) -> None:
        super().__init__(f"peer {peer} does not speak {', '.join(protocols)}")
        self.peer = peer
        self.protocols = tuple(protocols)
