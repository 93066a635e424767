"""The two messages with which a stream of `/lattica/ports/1.0.0` begins; then come plain bytes.

Who forwards asks: a byte for what is wanted, the length of the port's name in a byte, the name,
and the rest is a key, if it has one. Who exposes answers: a byte for a code, and a text for people.
Each message has its length in front (:meth:`Stream.send_message`). The bytes of the connection come
after the answer :attr:`Code.OK`, in both directions until each has its end; a reset of the stream
is a reset of the TCP connection, with an :class:`Abort` as its code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from lattica.nat.base.errors import LatticaError, RemoteProtocolError

PORTS = "/lattica/ports/1.0.0"

MAX_NAME = 64
"""Characters of a port's name."""
MAX_KEY = 64
"""Bytes."""
MAX_REQUEST = 2 + MAX_NAME + MAX_KEY
MAX_TEXT = 512
"""Bytes of an answer's text."""
MAX_ANSWER = 1 + MAX_TEXT
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Wanted(IntEnum):
    """What a request is for."""

    CONNECTION = 0
    CHECK = 1
    """To hear whether there could be one; the service is not connected to."""


class Code(IntEnum):
    """What an answer says."""

    OK = 0
    NOT_EXPOSED = 1
    NOT_ALLOWED = 2
    BUSY = 3
    """A limit of connections is reached."""
    SERVICE_REFUSES = 4
    """Nobody listens where the service should."""
    SERVICE_UNREACHABLE = 5


class Abort(IntEnum):
    """Why a stream was reset."""

    RESET = 1
    """The TCP connection was."""
    IDLE = 2
    CLOSED = 3
    """The port is exposed or forwarded no more."""


class PortRefusedError(LatticaError):
    """The peer lets nobody, or not this node, connect to a port; `code` says why."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Request:
    """What a stream begins with."""

    name: str
    key: bytes = b""
    wanted: Wanted = Wanted.CONNECTION


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back."""

    code: Code
    text: str = ""


def is_name(text: str) -> bool:
    """Whether a port may be called that."""
    return _NAME.fullmatch(text) is not None


def encode_request(request: Request) -> bytes:
    """A request without its length."""
    name = request.name.encode("ascii")
    return bytes((request.wanted, len(name))) + name + request.key


def decode_request(data: bytes) -> Request:
    """Raises RemoteProtocolError."""
    if len(data) < 2 or len(data) < 2 + data[1]:
        raise RemoteProtocolError("a request for a port is cut short")
    end = 2 + data[1]
    name, key = data[2:end].decode("ascii", "replace"), data[end:]
    if not is_name(name):
        raise RemoteProtocolError(f"no name of a port: {name!r:.100}")
    if len(key) > MAX_KEY:
        raise RemoteProtocolError(f"a key of {len(key)} bytes")
    try:
        return Request(name, key, Wanted(data[0]))
    except ValueError:
        raise RemoteProtocolError(f"a request for a port wants {data[0]}") from None


def encode_answer(answer: Answer) -> bytes:
    """An answer without its length; a long text is cut."""
    text = answer.text.encode()[:MAX_TEXT].decode(errors="ignore")
    return bytes((answer.code,)) + text.encode()


def decode_answer(data: bytes) -> Answer:
    """Raises RemoteProtocolError."""
    if not data:
        raise RemoteProtocolError("an empty answer to a request for a port")
    try:
        return Answer(Code(data[0]), data[1:].decode())
    except ValueError:
        raise RemoteProtocolError(f"no answer to a request for a port: {data!r:.100}") from None
