"""What is said on a channel of weights: which version is the newest, and how to get there. Pure.

An announcement is a signed envelope, whose signer is the channel's publisher, so that anybody may
pass it on::

    [1, channel, sequence, version, manifest's digest, bytes, [delta, …], [multiaddr, …]]
    delta = [digest of the manifest that it leads from, to, of the delta itself, bytes]

Versions are the publisher's own numbers; `sequence` ascends also when it is started anew.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import msgpack

from lattica.content.manifest.cid import DIGEST_SIZE, Cid
from lattica.content.ticket import MAX_ADDRESSES, Ticket
from lattica.nat.base.checks import check_type
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.envelope import open_envelope, seal_envelope
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.keys.peer_id import parse_peer_id
from lattica.nat.base.net.addresses import decode_multiaddr

PROTOCOL = "/lattica/weights/1.0.0"
"""Of asking a peer for the newest announcement, and the beginning of topics' names."""
MAX_ANNOUNCEMENT = 16 * 1024
MAX_DELTAS = 16
MAX_NAME_BYTES = 200
KEY_SIZE = 32

_DOMAIN = "lattica-weights"
_TYPE = b"/lattica/weights"
_MAX_NUMBER = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel of weights: whose, and which of his. As text `PEER/NAME`."""

    publisher: PeerId
    name: str

    def __post_init__(self) -> None:
        check_type("name", self.name, str, "a text")
        if not 0 < len(self.name.encode()) <= MAX_NAME_BYTES or not self.name.isprintable():
            raise LocalProtocolError(
                f"{self.name!r:.100} is no name of a channel: 1 to {MAX_NAME_BYTES} bytes of "
                "printable text"
            )

    def __str__(self) -> str:
        return f"{self.publisher}/{self.name}"

    @property
    def topic(self) -> str:
        """The topic on which it is announced."""
        return f"{PROTOCOL}/{self}"

    @classmethod
    def parse(cls, text: str) -> Channel:
        """Read `PEER/NAME`.

        Raises:
            AddressError: the part before the first slash is no peer ID.
            LocalProtocolError: the rest is no name.
        """
        peer, _, name = text.strip().partition("/")
        return cls(parse_peer_id(peer), name)


@dataclass(frozen=True, slots=True)
class DeltaRef:
    """A published delta: which manifest it leads from and to, and its own content id."""

    base: Cid
    made: Cid
    cid: Cid
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """The newest version of a channel."""

    channel: Channel
    sequence: int
    version: int
    ticket: Ticket
    size: int
    """Bytes of the file of weights."""
    deltas: tuple[DeltaRef, ...]
    """The newest last."""

    def seal(self, identity: Identity) -> bytes:
        """The signed bytes."""
        fields = [
            1,
            self.channel.name,
            self.sequence,
            self.version,
            self.ticket.cid.digest,
            self.size,
            [[d.base.digest, d.made.digest, d.cid.digest, d.size] for d in self.deltas],
            [address.to_bytes() for address in self.ticket.addrs],
        ]
        return seal_envelope(identity, _DOMAIN, _TYPE, msgpack.packb(fields))

    def way_from(self, held: Container[Cid]) -> tuple[Cid, tuple[DeltaRef, ...]] | None:
        """One of the versions that are held, and the deltas that lead from it to this one, in
        order; None if there is no such way, or it is no shorter than the file.
        """
        from_here = {delta.made: delta for delta in self.deltas}
        way: list[DeltaRef] = []
        here = self.ticket.cid
        while here not in held:
            delta = from_here.pop(here, None)
            if delta is None:
                return None
            way.append(delta)
            here = delta.base
        if not way or sum(delta.size for delta in way) > self.size:
            return None
        return here, tuple(reversed(way))


def _delta(row: object) -> DeltaRef:
    match row:
        case [bytes(base), bytes(made), bytes(cid), int(size)] if (
            len(base) == len(made) == len(cid) == DIGEST_SIZE and 0 < size <= _MAX_NUMBER
        ):
            return DeltaRef(Cid(base), Cid(made), Cid(cid), size)
    raise RemoteProtocolError("an announcement of weights names a delta that is none")


def open_announcement(data: bytes, channel: Channel) -> Announcement:
    """Read a signed announcement of this channel.

    Raises:
        RemoteProtocolError: and nothing else: it is none, or not its publisher's.
    """
    opened = open_envelope(
        data, _DOMAIN, _TYPE, "an announcement of weights", limit=MAX_ANNOUNCEMENT
    )
    if PeerId.from_public_key(opened.signer) != channel.publisher:
        raise RemoteProtocolError(f"an announcement for {channel} that somebody else has signed")
    try:
        fields = msgpack.unpackb(
            opened.payload, max_array_len=MAX_DELTAS + MAX_ADDRESSES, max_map_len=0, max_ext_len=0
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"an announcement is not msgpack: {error!r}") from None
    match fields:
        case [1, name, int(sequence), int(version), bytes(digest), int(size), list(), list()] if (
            name == channel.name
            and 0 <= sequence <= _MAX_NUMBER
            and 0 <= version <= _MAX_NUMBER
            and len(digest) == DIGEST_SIZE
            and 0 < size <= _MAX_NUMBER
            and len(fields[6]) <= MAX_DELTAS
            and len(fields[7]) <= MAX_ADDRESSES
            and all(isinstance(address, bytes) for address in fields[7])
        ):
            addrs = tuple(decode_multiaddr(address) for address in fields[7])
            ticket = Ticket(Cid(digest), channel.publisher, addrs)
            deltas = tuple(map(_delta, fields[6]))
            return Announcement(channel, sequence, version, ticket, size, deltas)
    raise RemoteProtocolError("not an announcement of this channel of weights")
