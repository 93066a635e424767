"""Tokens: a relay's signed word that it serves one peer, for how long and how much.

A token is a capability that is of use to nobody but the peer whose key it names, so it need not
be kept secret. The peer sends it along with its requests (:class:`~.messages.Reserve`,
:class:`~.messages.Connect`); the relay checks its own signature, and keeps nothing but the IDs of
those that it has taken back. Pure.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass

from lattica.nat.base.errors import AddressError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.envelope import open_envelope, seal_envelope
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.keys.peer_id import decode_peer_id
from lattica.nat.base.protobuf import parse_message
from lattica.nat.pb import circuit_pb2 as pb
from lattica.nat.traversal.relay.messages import MAX_TOKEN

DOMAIN = "lattica-relay-token"
PAYLOAD_TYPE = b"/lattica/relay-token"
PREFIX = "lrt1-"
"""What the text of a token begins with."""
_ID_SIZE = 8


@dataclass(frozen=True, slots=True)
class Token:
    """`relay` serves `peer`. Numbers that are 0 set no limit."""

    relay: PeerId
    peer: PeerId
    id: str
    """16 hexadecimal digits, by which it can be taken back."""
    not_after: int = 0
    """Unix time, seconds."""
    rate: int = 0
    """Bytes a second on all circuits of the peer together."""
    month: int = 0
    """Bytes on the peer's circuits in one calendar month (UTC)."""
    circuits: int = 0
    """At once."""


def new_id() -> str:
    """An ID that no other token has."""
    return secrets.token_hex(_ID_SIZE)


def seal_token(identity: Identity, token: Token) -> bytes:
    """The bytes of a token that `identity`, the relay, gives.

    Raises:
        LocalProtocolError: it is of another relay, or a number is negative or beyond 64 bits.
    """
    if token.relay != identity.peer_id:
        raise LocalProtocolError(f"a token of {token.relay} cannot be signed by another relay")
    try:
        message = pb.Token(
            relay=token.relay.to_bytes(),
            peer=token.peer.to_bytes(),
            id=bytes.fromhex(token.id),
            not_after=token.not_after or None,
            rate=token.rate or None,
            month=token.month or None,
            circuits=token.circuits or None,
        )
    except ValueError as error:
        raise LocalProtocolError(f"not to be put into a token: {error}") from None
    return seal_envelope(identity, DOMAIN, PAYLOAD_TYPE, message.SerializeToString())


def open_token(data: bytes) -> Token:
    """Read a token and check that the relay it names has signed it.

    Whether it has run out, and who sends it, is for the caller to see.

    Raises:
        RemoteProtocolError: it is no token, or the signature is not the relay's.
    """
    opened = open_envelope(data, DOMAIN, PAYLOAD_TYPE, "a relay token", limit=MAX_TOKEN)
    signer = PeerId.from_public_key(opened.signer)
    message = parse_message(pb.Token(), opened.payload, "the relay token")
    relay, peer = decode_peer_id(message.relay), decode_peer_id(message.peer)
    if relay != signer:
        raise RemoteProtocolError(f"a token of {relay} is signed by {signer}")
    if len(message.id) != _ID_SIZE:
        raise RemoteProtocolError(f"the ID of a token has {len(message.id)} bytes")
    return Token(
        relay,
        peer,
        message.id.hex(),
        message.not_after,
        message.rate,
        message.month,
        message.circuits,
    )


def token_text(data: bytes) -> str:
    """As people pass it on."""
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def parse_token(text: str) -> bytes:
    """The bytes of a token that is one, from its text.

    Raises:
        AddressError: it is none; the message does not quote it.
    """
    body = text.strip().removeprefix(PREFIX)
    if not text.strip().startswith(PREFIX) or len(body) > MAX_TOKEN * 2:
        raise AddressError(f"a token of a relay begins with {PREFIX}")
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        open_token(data)
    except (binascii.Error, ValueError, RemoteProtocolError) as error:
        raise AddressError(
            f"the token of a relay is damaged ({error}): copy the whole line that `lattica relay "
            "token new` printed"
        ) from None
    return data
