"""Signed values: what an owner says under a key, until when. Pure.

Each is in a signed envelope (libp2p's RFC 0002) of its own, so that whoever stores or passes it on
can change nothing. Under one key every owner has one value for each subkey, and one without: of
two, the one with the higher sequence is valid. A record of the wire holds those of all owners.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lattica.dht.kademlia.messages import MAX_KEY, MAX_VALUE
from lattica.dht.pb import records_pb2 as pb
from lattica.dht.records.data import MAX_DATA, decode_data
from lattica.dht.records.keys import VALUE, owner_of_key
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.envelope import open_envelope, seal_envelope
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.protobuf import decode_text, parse_message

DOMAIN = "lattica-dht-value"
PAYLOAD_TYPE = b"/lattica/dht-value"
MAX_SUBKEY = 256
"""Bytes of text."""
MAX_ENVELOPE = MAX_DATA + 4096
"""Bytes of a value in its envelope; an RSA key with its signature has up to 2 KiB."""
MAX_VALUES = 1024
"""Envelopes in one record."""
_MAX_NUMBER = 2**63
_AT_ONCE = 32
"""Signatures that are checked before others have their turn: some milliseconds."""


@dataclass(frozen=True, slots=True)
class SignedValue:
    """One value, whose signature is right."""

    key: bytes
    """Of the wire."""
    subkey: bytes
    """Empty: none."""
    owner: PeerId
    sequence: int
    expires: int
    """Milliseconds since 1970, by the owner's clock."""
    data: bytes = field(repr=False)
    """msgpack."""
    envelope: bytes = field(repr=False)

    @property
    def place(self) -> bytes:
        """What it shares with the values that it replaces; the order of values in answers."""
        return self.owner.to_bytes() + self.subkey

    def supersedes(self, other: SignedValue) -> bool:
        """Whether this one is valid and the other, in the same place, no more.

        Of two with one sequence, which an owner never signs on purpose, all agree on one.
        """
        return (self.sequence, self.expires, self.envelope) > (
            other.sequence,
            other.expires,
            other.envelope,
        )


def seal_value(
    identity: Identity, key: bytes, subkey: bytes, data: bytes, *, sequence: int, expires: int
) -> SignedValue:
    """Sign a value of our own. Raises LocalProtocolError: the key is somebody else's."""
    owner = owner_of_key(key)
    if owner is not None and owner != identity.peer_id:
        raise LocalProtocolError(f"only {owner} can write this key")
    payload = pb.Value(key=key, subkey=subkey, data=data, sequence=sequence, expires=expires)
    envelope = seal_envelope(identity, DOMAIN, PAYLOAD_TYPE, payload.SerializeToString())
    return SignedValue(key, subkey, identity.peer_id, sequence, expires, data, envelope)


def open_value(envelope: bytes, key: bytes) -> SignedValue:
    """Read a value that was stored under `key`.

    Raises:
        RemoteProtocolError: it is none, is not of that key, belongs to somebody else, or is not
            signed by its owner.
    """
    opened = open_envelope(envelope, DOMAIN, PAYLOAD_TYPE, "a value", limit=MAX_ENVELOPE)
    message = parse_message(pb.Value(), opened.payload, "the signed value")
    if message.key != key or not key.startswith(VALUE) or len(key) > MAX_KEY:
        raise RemoteProtocolError("a value of another key")
    if len(message.subkey) > MAX_SUBKEY or len(message.data) > MAX_DATA:
        raise RemoteProtocolError("a value over the limits")
    decode_text(message.subkey, "a subkey")
    if max(message.sequence, message.expires) >= _MAX_NUMBER:
        raise RemoteProtocolError("a value whose numbers are out of range")
    owner = PeerId.from_public_key(opened.signer)
    if owner_of_key(key) not in (None, owner):
        raise RemoteProtocolError(f"a value by {owner} under a key of somebody else")
    decode_data(message.data)
    return SignedValue(
        key, message.subkey, owner, message.sequence, message.expires, message.data, envelope
    )


def encode_values(values: Iterable[SignedValue]) -> bytes:
    """What a record holds: these, which have to fit (:func:`take_fitting`)."""
    return pb.Values(envelopes=[value.envelope for value in values]).SerializeToString()


def decode_envelopes(record: bytes) -> Sequence[bytes]:
    """The envelopes of a record, not looked into.

    Raises:
        RemoteProtocolError: it is none, or over the limits.
    """
    message = parse_message(pb.Values(), record, "a record of values", limit=MAX_VALUE)
    if len(message.envelopes) > MAX_VALUES:
        raise RemoteProtocolError(f"{len(message.envelopes)} values in one record")
    return message.envelopes


def in_turns(envelopes: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The envelopes of a record, as many at a time as may be opened at once; of an empty record
    none, once.
    """
    return (envelopes[at : at + _AT_ONCE] for at in range(0, max(len(envelopes), 1), _AT_ONCE))


def open_values(
    envelopes: Iterable[bytes], key: bytes, known: Mapping[bytes, SignedValue] | None = None
) -> tuple[tuple[SignedValue, ...], int]:
    """The values that are right, at most one for a place, and how many were not.

    Args:
        known: by envelope, values of that key that were checked before, and are not again: what
            many peers answer is the same.
    """
    known = known or {}
    found: dict[bytes, SignedValue] = {}
    junk = 0
    for envelope in envelopes:
        try:
            value = known.get(envelope) or open_value(envelope, key)
        except RemoteProtocolError:
            junk += 1
            continue
        before = found.get(value.place)
        if before is not None:
            junk += 1
        if before is None or value.supersedes(before):
            found[value.place] = value
    return tuple(found.values()), junk


def take_fitting(values: Iterable[SignedValue]) -> list[SignedValue]:
    """The first ones, as many as one record has room for."""
    taken: list[SignedValue] = []
    size = 0
    for value in values:
        size += len(value.envelope) + 8
        if size > MAX_VALUE or len(taken) == MAX_VALUES:
            break
        taken.append(value)
    return taken
