"""multistream-select 1.0.0: two peers agree on the protocol of a connection or stream.

Source: https://github.com/multiformats/multistream-select and the libp2p specifications
"Connection establishment" (protocol negotiation) and "Optimistic protocol negotiation".
A message is a varint length, the text, and a newline that the length includes. Each side
sends the header `/multistream/1.0.0` once. The initiator proposes protocols one at a time;
the responder echoes the one it accepts or answers `na`; `ls` asks for a list.

A proposal may be followed by data that its sender did not wait for, and refusing it does not
make that data proposals. So where data has come with what is refused, the negotiation of a
stream ends: read on, it could name a protocol by chance, or because somebody chose it so, and
what follows would be done in that protocol's name. Data that comes later cannot be told from the
next proposal of somebody who has read `na` (`Connection.open` says what to do about that).

Pure machines: bytes in by `receive`, bytes out by `data_to_send`, no I/O and no clock (how
long a negotiation may take is the driver's business). Both stop reading at the end of the
negotiation and keep what follows in `rest`, since those bytes belong to the protocol.

A machine of either role raises :class:`~lattica.errors.RemoteProtocolError` for what the
peer may not send, and is not to be used afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.wire import Buffer, NeedMoreData, decode_uvarint, encode_uvarint

PROTOCOL_ID = "/multistream/1.0.0"
MAX_MESSAGE = 1024
"""Longest message taken from a peer, bytes, newline included."""
MAX_PROPOSALS = 64
"""Messages after the header that a responder answers before it gives up on the peer."""


@lru_cache(maxsize=1024)
def encode_message(text: str) -> bytes:
    """One message: length, text, newline. Cached, as names repeat on every stream.

    Raises:
        LocalProtocolError: the text holds a newline or is longer than a peer would take.
    """
    body = text.encode() + b"\n"
    if len(body) > MAX_MESSAGE or b"\n" in body[:-1]:
        raise LocalProtocolError(f"not usable as a protocol name: {text[:80]!r}")
    return encode_uvarint(len(body)) + body


_RESERVED = frozenset(("", "ls", "na", PROTOCOL_ID))
"""What has a meaning of its own where a protocol may be named."""


def check_protocol(name: object) -> None:
    """Whether a protocol may have the name.

    Raises:
        LocalProtocolError: it means something else, no peer could send it, or it is no text.
    """
    if not isinstance(name, str) or not name:
        raise LocalProtocolError(
            f"a protocol's name is a text such as '/echo/1', not {name!r:.100}"
        )
    encode_message(name)
    if name in _RESERVED:
        raise LocalProtocolError(f"{name!r} means something else than a protocol's name to peers")


_HEADER = encode_message(PROTOCOL_ID)
_NOT_AVAILABLE = encode_message("na")
_PROPOSAL_AT = len(_HEADER) + 1


def _encode_list(protocols: Iterable[str]) -> bytes:
    """The answer to `ls`: one message whose text is a row of messages."""
    body = b"".join(map(encode_message, protocols)) + b"\n"
    return encode_uvarint(len(body)) + body


class _Reader:
    """Cuts messages off a growing buffer; holds at most one message more than it was fed."""

    __slots__ = ("buffer", "offset")

    def __init__(self) -> None:
        self.buffer = b""
        self.offset = 0

    def feed(self, data: Buffer) -> None:
        if self.offset or self.buffer:
            self.buffer = self.buffer[self.offset :] + bytes(data)
            self.offset = 0
        else:
            self.buffer = bytes(data)

    def header(self) -> bool:
        """Take the header, which comes first; whether it is there.

        What is something else is refused at its first byte: as a length it could be waited for.
        """
        head = self.buffer[: len(_HEADER)]
        if not _HEADER.startswith(head):
            raise RemoteProtocolError(f"expected {PROTOCOL_ID}, peer sent {head!r}")
        if len(head) < len(_HEADER):
            return False
        self.offset = len(_HEADER)
        return True

    def next(self) -> str | None:
        """The next message without its newline; None if it is not there yet."""
        try:
            length, start = decode_uvarint(self.buffer, self.offset)
        except NeedMoreData:
            return None
        if not 0 < length <= MAX_MESSAGE:
            raise RemoteProtocolError(
                f"multistream message of {length} bytes, where 1 to {MAX_MESSAGE} are allowed"
            )
        end = start + length
        if end > len(self.buffer):
            return None
        if self.buffer[end - 1] != 0x0A:
            raise RemoteProtocolError("multistream message does not end in a newline")
        try:
            text = self.buffer[start : end - 1].decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("multistream message is not UTF-8 text") from None
        self.offset = end
        return text

    def take_rest(self) -> bytes:
        rest = self.buffer[self.offset :]
        self.buffer = b""
        self.offset = 0
        return rest


class Responder:
    """The listening side.

    Args:
        supported: says whether a protocol is accepted.
        list_protocols: what `ls` is answered with.
        pipelined: a proposal may come before the one before it is answered, as go-libp2p's do
            for connections. Not for streams, where that may be data.

    `selected` becomes the agreed protocol; `rest` then holds the bytes that came after the
    negotiation. Header, proposal and first application data may all come in one piece, and
    the answer to header and proposal then leaves in one piece too. With `failed` set the
    negotiation is over too, and nothing agreed on.
    """

    __slots__ = (
        "_list_protocols",
        "_out",
        "_pipelined",
        "_proposals",
        "_reader",
        "_supported",
        "failed",
        "refused",
        "rest",
        "saw_header",
        "selected",
    )

    def __init__(
        self,
        supported: Callable[[str], bool],
        list_protocols: Callable[[], Iterable[str]],
        *,
        pipelined: bool = False,
    ) -> None:
        self.selected: str | None = None
        self.failed = False
        """Data came with a proposal that was refused, and is not to be taken for proposals."""
        self.refused = False
        """A proposal was refused, so what follows may be data that was sent without waiting."""
        self.rest = b""
        self._supported = supported
        self._list_protocols = list_protocols
        self._pipelined = pipelined
        self._reader = _Reader()
        self._out = b""
        self.saw_header = False
        """The peer speaks multistream-select."""
        self._proposals = 0

    def data_to_send(self) -> bytes:
        """Bytes to send now, perhaps none; each is handed out once."""
        out, self._out = self._out, b""
        return out

    def receive(self, data: Buffer) -> None:
        """Take bytes from the peer, in any split.

        Raises:
            RemoteProtocolError: bad framing, another header, or too many proposals.
            LocalProtocolError: the negotiation is over already.
        """
        if self.selected is not None or self.failed:
            raise LocalProtocolError("negotiation is over; these bytes belong to the protocol")
        if not self.saw_header and not self._reader.buffer and self._select_at_once(data):
            return
        self._reader.feed(data)
        if not self.saw_header:
            if not self._reader.header():
                return
            self.saw_header = True
            self._out += _HEADER
        while (text := self._reader.next()) is not None:
            self._proposals += 1
            if self._proposals > MAX_PROPOSALS:
                raise RemoteProtocolError(f"peer made more than {MAX_PROPOSALS} proposals")
            if text == "ls":
                self._out += _encode_list(self._list_protocols())
            elif self._supported(text):
                self._out += encode_message(text)
                self.selected = text
                self.rest = self._reader.take_rest()
                return
            else:
                self._out += _NOT_AVAILABLE
                self.refused = True
                if not self._pipelined and self._reader.take_rest():
                    self.failed = True
                    return

    def _select_at_once(self, data: Buffer) -> bool:
        """The common case: header and a protocol we speak, together in one piece.

        Anything else is left to the reader, which also finds the words for what is wrong.
        """
        if len(data) <= _PROPOSAL_AT or data[: len(_HEADER)] != _HEADER:
            return False
        length = data[len(_HEADER)]
        end = _PROPOSAL_AT + length
        if not 0 < length < 0x80 or end > len(data) or data[end - 1] != 0x0A:
            return False
        try:
            text = bytes(data[_PROPOSAL_AT : end - 1]).decode()
        except UnicodeDecodeError:
            return False
        if text == "ls" or not self._supported(text):
            return False
        self._out = _HEADER + encode_message(text)
        self.saw_header = True
        self.selected = text
        self.rest = bytes(data[end:])
        return True


class Initiator:
    """The dialing side.

    Args:
        protocols: what to propose, in order of preference; at least one.

    Header and first proposal leave together. With a single protocol that is all there is to
    send, so the driver may append application data at once and read the answer later: no
    round trip is lost (optimistic negotiation). With several, the next is proposed on `na`,
    and application data has to wait for `selected`.

    Ends with `selected` set and further bytes in `rest`, or with `failed`: the peer refused
    every protocol. Application data sent optimistically before a refusal may be taken for
    proposals by the peer, so the stream has to be reset then, not used for another attempt.
    """

    __slots__ = (
        "_out",
        "_reader",
        "_turn",
        "failed",
        "protocols",
        "rest",
        "saw_header",
        "selected",
    )

    def __init__(self, protocols: Sequence[str]) -> None:
        if not protocols:
            raise LocalProtocolError("no protocol to propose")
        if not _RESERVED.isdisjoint(protocols):
            raise LocalProtocolError(f"not names of protocols: {', '.join(map(repr, protocols))}")
        self.selected: str | None = None
        self.failed = False
        self.rest = b""
        self.protocols = tuple(protocols)
        self._turn = 0
        self.saw_header = False
        """The peer speaks multistream-select."""
        self._reader = _Reader()
        self._out = _HEADER + encode_message(self.protocols[0])

    def data_to_send(self) -> bytes:
        """Bytes to send now, perhaps none; each is handed out once."""
        out, self._out = self._out, b""
        return out

    def receive(self, data: Buffer) -> None:
        """Take bytes from the peer, in any split.

        Raises:
            RemoteProtocolError: bad framing, or an answer that is neither echo nor `na`.
            LocalProtocolError: the negotiation is over already.
        """
        if self.selected is not None or self.failed:
            raise LocalProtocolError("negotiation is over; these bytes belong to the protocol")
        if not self.saw_header and not self._reader.buffer:
            # The common answer: header and echo of the first proposal, in one piece.
            expected = _HEADER + encode_message(self.protocols[0])
            if data[: len(expected)] == expected:
                self.saw_header = True
                self.selected = self.protocols[0]
                self.rest = bytes(data[len(expected) :])
                return
        self._reader.feed(data)
        if not self.saw_header:
            if not self._reader.header():
                return
            self.saw_header = True
        while (text := self._reader.next()) is not None:
            if text == self.protocols[self._turn]:
                self.selected = text
                self.rest = self._reader.take_rest()
                return
            elif text != "na":
                raise RemoteProtocolError(
                    f"proposed {self.protocols[self._turn]}, peer answered {text[:80]!r}"
                )
            else:
                self._turn += 1
                if self._turn == len(self.protocols):
                    self.failed = True
                    self.rest = self._reader.take_rest()
                    return
                self._out += encode_message(self.protocols[self._turn])
