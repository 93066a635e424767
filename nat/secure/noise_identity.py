"""The payload of libp2p's Noise handshake: a libp2p identity signs the static key.

Implements `NoiseHandshakePayload` of libp2p specs/noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from libp2p.crypto.keys import PublicKey
from libp2p.crypto.serialization import deserialize_public_key

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.identity import Identity, PeerId
from lattica.nat.base.protobuf import parse_message
from lattica.nat.pb.noise_pb2 import NoiseHandshakePayload

_SIGNED_PREFIX = b"noise-libp2p-static-key:"


@dataclass(frozen=True, slots=True)
class RemoteIdentity:
    """What a handshake proved about the peer."""

    peer_id: PeerId
    public_key: PublicKey


def make_payload(identity: Identity, static_public: bytes) -> bytes:
    """Return the payload that proves `identity` holds the static key (32 bytes)."""
    payload = NoiseHandshakePayload(
        identity_key=identity.public_key_bytes,
        identity_sig=identity.sign(_SIGNED_PREFIX + static_public),
    )
    return payload.SerializeToString()


def verify_payload(payload: bytes, remote_static: bytes) -> RemoteIdentity:
    """Check a peer's payload against the static key it used.

    Raises :class:`RemoteProtocolError` when it is malformed or the signature is wrong.
    """
    message = parse_message(NoiseHandshakePayload(), payload, "noise: the identity payload")
    try:
        public_key = deserialize_public_key(message.identity_key)
        peer_id = PeerId.from_pubkey(public_key)
        genuine = public_key.verify(_SIGNED_PREFIX + remote_static, message.identity_sig)
    except Exception as error:
        # py-libp2p's key classes raise whatever their backends raise (ValueError, KeyError,
        # DecodeError, nacl and coincurve errors); all of it is the peer's doing.
        raise RemoteProtocolError(f"noise: unusable identity key: {error}") from None
    if not genuine:
        raise RemoteProtocolError(f"noise: the signature of {peer_id} is wrong")
    return RemoteIdentity(peer_id, public_key)
