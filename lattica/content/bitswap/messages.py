"""Bitswap messages: what a peer wants, what it has, and blocks. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lattica.content.bitswap.pb.bitswap_pb2 import Message as Wire
from lattica.content.manifest.cid import DIGEST_SIZE, Cid
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.protobuf import parse_message

PROTOCOL: Final = "/ipfs/bitswap/1.2.0"

MAX_WANTS: Final = 1024
"""Of one message, as of one peer."""

MAX_BLOCK: Final = 32 * 1024 * 1024
"""Bytes of a block. The specification has 2 MiB; the original sends 8 MiB and more."""

MAX_REQUEST: Final = 256 * 1024
"""Bytes of a message without blocks."""

MAX_MESSAGE: Final = MAX_BLOCK + 64 * 1024

_RAW_SHA256: Final = bytes((0x01, 0x55, 0x12, DIGEST_SIZE))
_MAX_CID: Final = 128


@dataclass(frozen=True, slots=True)
class Want:
    """A block that a peer wants, or wants no more."""

    cid: bytes
    """Binary; of any form. Only raw SHA-256 ones are served."""
    have_only: bool = False
    """It asks whether the block is there, not for the block."""
    cancel: bool = False
    send_dont_have: bool = False
    """It wants to be told that the block is not there."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of either side."""

    wants: tuple[Want, ...] = ()
    full: bool = False
    """The wants are all that the peer has."""
    blocks: tuple[bytes, ...] = ()
    """Whose name would be a raw SHA-256 CID."""
    haves: tuple[bytes, ...] = ()
    dont_haves: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.wants or self.blocks or self.haves or self.dont_haves)


def own_cid(cid: bytes) -> Cid | None:
    """A CID of the one form that is served here; None for others."""
    try:
        return Cid.from_bytes(cid)
    except RemoteProtocolError:
        return None


def encode(message: Message) -> bytes:
    """As it goes on the stream, after its length."""
    wire = Wire()
    if message.wants or message.full:
        wire.wantlist.full = message.full
    for priority, want in enumerate(message.wants):
        wire.wantlist.entries.add(
            block=want.cid,
            priority=len(message.wants) - priority,
            cancel=want.cancel,
            want_type=Wire.Wantlist.HAVE if want.have_only else Wire.Wantlist.BLOCK,
            send_dont_have=want.send_dont_have,
        )
    for block in message.blocks:
        wire.payload.add(prefix=_RAW_SHA256, data=block)
    for cid in message.haves:
        wire.presences.add(cid=cid, type=Wire.HAVE)
    for cid in message.dont_haves:
        wire.presences.add(cid=cid, type=Wire.DONT_HAVE)
    return wire.SerializeToString()


def decode(data: bytes) -> Message:
    """Blocks of other forms than raw SHA-256 are left out: nobody here asks for them.

    Raises:
        RemoteProtocolError: it is no message, or beyond the limits.
    """
    wire = parse_message(Wire(), data, "bitswap message", limit=MAX_MESSAGE)
    if len(wire.wantlist.entries) + len(wire.presences) > MAX_WANTS:
        raise RemoteProtocolError(f"a bitswap message with more than {MAX_WANTS} entries")
    presences = [(_bounded(each.cid), each.type) for each in wire.presences]
    return Message(
        wants=tuple(
            Want(
                _bounded(each.block),
                have_only=each.want_type == Wire.Wantlist.HAVE,
                cancel=each.cancel,
                send_dont_have=each.send_dont_have,
            )
            for each in wire.wantlist.entries
        ),
        full=wire.wantlist.full,
        blocks=tuple(each.data for each in wire.payload if each.prefix == _RAW_SHA256),
        haves=tuple(cid for cid, kind in presences if kind == Wire.HAVE),
        dont_haves=tuple(cid for cid, kind in presences if kind == Wire.DONT_HAVE),
    )


def _bounded(cid: bytes) -> bytes:
    if not 0 < len(cid) <= _MAX_CID:
        raise RemoteProtocolError(f"a content id of {len(cid)} bytes")
    return cid


def wants_of(cids: Iterable[Cid], *, have_only: bool) -> tuple[Want, ...]:
    """Questions that are answered in any case."""
    return tuple(Want(bytes(cid), have_only=have_only, send_dont_have=True) for cid in cids)


def cancel_of(cid: Cid) -> Want:
    """What takes a question back."""
    return Want(bytes(cid), cancel=True)
