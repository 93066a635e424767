"""What is found in the DHT, as users see it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lattica.dht.kademlia.contact import Contact
from lattica.dht.records.data import decode_data
from lattica.dht.records.signed_value import SignedValue
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import with_peer
from lattica.nat.base.net.multiaddr import Multiaddr


@dataclass(frozen=True, slots=True)
class DhtValue:
    """A value, as its owner has signed it."""

    value: object
    """Plain data: None, bools, numbers, text, bytes, lists and dicts."""
    owner: PeerId
    sequence: int
    expires: float
    """Seconds since 1970."""
    subkey: str | None = None

    @classmethod
    def of(cls, signed: SignedValue) -> DhtValue:
        """A value whose signature is right."""
        return cls(
            decode_data(signed.data),
            signed.owner,
            signed.sequence,
            signed.expires / 1000,
            signed.subkey.decode() if signed.subkey else None,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What there is under a key."""

    newest: DhtValue
    """The value with the highest sequence, of those without a subkey if there are any. Anybody can
    write a higher one under a key that is not `/p2p/ID/…`: ask for an owner where it matters."""
    values: tuple[DhtValue, ...]
    """Of all owners and subkeys, those with a higher sequence first."""
    peers: int
    """Peers that have answered with a part of it."""

    @classmethod
    def of(cls, signed: Iterable[SignedValue], peers: int) -> Found | None:
        """None: there is nothing."""
        values = sorted(
            map(DhtValue.of, signed), key=lambda v: (-v.sequence, str(v.owner), v.subkey or "")
        )
        if not values:
            return None
        plain = [value for value in values if value.subkey is None]
        return cls((plain or values)[0], tuple(values), peers)

    @property
    def value(self) -> object:
        """The newest value; where all have subkeys, a dict with the newest of each."""
        if self.newest.subkey is None:
            return self.newest.value
        return {v.subkey: v.value for v in reversed(self.values)}

    @property
    def owner(self) -> PeerId:
        """Who has signed the newest."""
        return self.newest.owner

    @property
    def sequence(self) -> int:
        """That of the newest."""
        return self.newest.sequence

    @property
    def expires(self) -> float:
        """When the newest is valid no more, in seconds since 1970."""
        return self.newest.expires


@dataclass(frozen=True, slots=True)
class FoundPeer:
    """A peer, and where it can be dialed."""

    peer_id: PeerId
    addrs: tuple[Multiaddr, ...] = field(default=())
    """With the peer's ID at their end; only those that may be dialed because others say so."""

    @classmethod
    def of(cls, contact: Contact) -> FoundPeer:
        """A peer that was heard of."""
        return cls(
            contact.peer_id, tuple(with_peer(addr, contact.peer_id) for addr in contact.addrs)
        )
