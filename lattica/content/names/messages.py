"""`/lattica/names/1.0.0`: asking a peer what one of its names leads to. Pure.

Messages have their length, a varint, in front. The asker sends one, msgpack `[name, sequence]`, and
hears the signed record of that name as soon as there is one with a higher sequence (0: at once),
and each later one; an empty message says that the peer has no such name, now or any more. Who wants
no more closes the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from lattica.content.errors import TicketError
from lattica.content.names.record import MAX_NAME_BYTES, check_name
from lattica.nat.base.errors import RemoteProtocolError

NAMES = "/lattica/names/1.0.0"
MAX_QUESTION = MAX_NAME_BYTES + 32
MAX_RECORD = 8 * 1024
"""Bytes of a signed record; an RSA key with its signature has up to 2 KiB."""
_MAX_SEQUENCE = 2**63


@dataclass(frozen=True, slots=True)
class NameQuestion:
    """What does this name lead to, if that is newer than what is known?"""

    name: str
    sequence: int = 0
    """Of the record that is known."""


def encode_question(question: NameQuestion) -> bytes:
    """The bytes of a question."""
    data: bytes = msgpack.packb([question.name, question.sequence])
    return data


def decode_question(data: bytes) -> NameQuestion:
    """Parse a question.

    Raises:
        RemoteProtocolError: and nothing else.
    """
    try:
        fields = msgpack.unpackb(data, max_array_len=2, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"a question for a name is not msgpack: {error!r}") from None
    match fields:
        case [str(name), int(sequence)] if not isinstance(sequence, bool):
            if 0 <= sequence < _MAX_SEQUENCE:
                try:
                    check_name(name)
                except TicketError as error:
                    raise RemoteProtocolError(str(error)) from None
                return NameQuestion(name, sequence)
    raise RemoteProtocolError("not a question for a name")
