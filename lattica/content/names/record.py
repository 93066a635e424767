"""What a name leads to, signed by the peer whose name it is. Pure.

A name is text below its owner: `12D3KooW…/my-model`. The record is a value of the DHT under the
key `/p2p/ID/name/NAME`, which only that peer can write
(:mod:`lattica.dht.records.signed_value`), with the data `{"cid": …, "description": …}` (binary
content ids; the second one only for repositories), or `{"withdrawn": True}` where its owner has let
it lead nowhere. The same record is what the owner answers when it is asked, as long as it leads
somewhere (:mod:`~lattica.content.names.messages`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lattica.content.errors import TicketError
from lattica.content.manifest.cid import Cid
from lattica.dht.records.data import decode_data, encode_data
from lattica.dht.records.keys import value_key
from lattica.dht.records.signed_value import open_value, seal_value
from lattica.nat.base.errors import AddressError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId, parse_peer_id
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr

MAX_NAME_BYTES = 180
"""UTF-8 bytes, so that the key fits the DHT's limit."""
NAME_TTL = 7 * 24 * 3600.0
"""Seconds for which a record is valid. A publisher that runs signs it anew before."""
_PEER_PART = "/p2p/"


@dataclass(frozen=True, slots=True)
class NameTarget:
    """What a name leads to."""

    cid: Cid
    description: Cid | None = None
    """Of a repository: where its revision is described."""


@dataclass(frozen=True, slots=True)
class NameRecord:
    """What a name leads to, as its owner has signed it."""

    owner: PeerId
    name: str
    target: NameTarget
    sequence: int
    """Of two records of a name, the one with the higher one is valid."""
    expires: float
    """Seconds since 1970, by the owner's clock."""
    envelope: bytes = field(default=b"", repr=False, compare=False)
    """The signed form; empty where only its content is known."""


@dataclass(frozen=True, slots=True)
class NameRef:
    """Whose name is meant, and perhaps where that peer is."""

    peer_id: PeerId
    name: str
    addrs: tuple[Multiaddr, ...] = ()

    def __str__(self) -> str:
        return f"{self.peer_id}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> NameRef:
        """Parse `PEER/NAME`, where PEER is a peer ID or an address that ends in one.

        Raises:
            TicketError: it is no such thing.
        """
        text = text.strip()
        if text.startswith("/"):
            peer, name, addrs = _split_address(text)
        else:
            first, _, name = text.partition("/")
            try:
                peer, addrs = parse_peer_id(first), ()
            except AddressError:
                raise TicketError(
                    f"{text!r:.200} is no PEER/NAME: {first!r:.80} is not a peer ID"
                ) from None
        check_name(name)
        return cls(peer, name, addrs)


def _split_address(text: str) -> tuple[PeerId, str, tuple[Multiaddr, ...]]:
    """Peer, name and address of `/ip4/…/p2p/ID/NAME`: the longest beginning that is an address."""
    position = len(text)
    while (position := text.rfind(_PEER_PART, 0, position)) >= 0:
        end = text.find("/", position + len(_PEER_PART))
        if end < 0:
            continue
        try:
            plain, peer = split_peer(parse_multiaddr(text[:end]))
        except AddressError:
            continue
        if peer is not None:
            # `/p2p/ID` alone says who, and not where.
            return peer, text[end + 1 :], (plain,) if str(plain).strip("/") else ()
    raise TicketError(f"{text!r:.200} is no PEER/NAME: no address ending in /p2p/ID is before it")


def check_name(name: str) -> None:
    """Check the part after the peer.

    Raises:
        TicketError: it is empty, too long, or has characters that cannot be printed.
    """
    if not name or name.startswith("/") or name.endswith("/"):
        raise TicketError(f"a name is text that does not begin or end with '/', not {name!r:.80}")
    if not name.isprintable():
        raise TicketError(f"the name {name!r:.80} has a character that cannot be printed")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise TicketError(f"the name {name!r:.80} is longer than {MAX_NAME_BYTES} bytes")


def name_key(owner: PeerId, name: str) -> str:
    """The key of a name in the DHT. Raises :class:`TicketError` for what can be no name."""
    check_name(name)
    return f"/p2p/{owner}/name/{name}"


def target_data(target: NameTarget | None) -> dict[str, bytes | bool]:
    """The value of a name in the DHT; None: of one that is withdrawn."""
    if target is None:
        return {"withdrawn": True}
    data: dict[str, bytes | bool] = {"cid": bytes(target.cid)}
    if target.description is not None:
        data["description"] = bytes(target.description)
    return data


def read_target(value: object) -> NameTarget | None:
    """What a value says; None: the name is withdrawn. Keys that are not known are left for later
    versions.

    Raises:
        RemoteProtocolError: it is no name's.
    """
    if isinstance(value, dict):
        cid, description = value.get("cid"), value.get("description")
        if isinstance(cid, bytes) and isinstance(description, bytes | None):
            found = None if description is None else Cid.from_bytes(description)
            return NameTarget(Cid.from_bytes(cid), found)
        if value.get("withdrawn") is True:
            return None
    raise RemoteProtocolError("a name's value has no content id")


def seal_name(
    identity: Identity, name: str, target: NameTarget, *, sequence: int, expires: float
) -> NameRecord:
    """Sign what a name of this peer leads to. Raises :class:`TicketError`: it can be no name."""
    key = value_key(name_key(identity.peer_id, name))
    data = encode_data(target_data(target))
    signed = seal_value(identity, key, b"", data, sequence=sequence, expires=int(expires * 1000))
    return NameRecord(
        identity.peer_id, name, target, sequence, signed.expires / 1000, signed.envelope
    )


def open_name(envelope: bytes, owner: PeerId, name: str) -> NameRecord:
    """Read a record of this name, as its owner sent it itself. That is its word at this moment,
    whatever the clocks of both say of when it expires.

    Raises:
        RemoteProtocolError: it is none, of another name, or not signed by its owner.
    """
    signed = open_value(envelope, value_key(name_key(owner, name)))
    if signed.subkey:
        raise RemoteProtocolError("a name's record with a subkey")
    target = read_target(decode_data(signed.data))
    if target is None:
        raise RemoteProtocolError("a name's record that leads nowhere")
    return NameRecord(owner, name, target, signed.sequence, signed.expires / 1000, envelope)
