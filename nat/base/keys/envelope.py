"""Signed envelopes: a payload, what it is, who signed it, and for which purpose.

Source: https://github.com/libp2p/specs/blob/master/RFC/0002-signed-envelopes.md. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.public_keys import PublicKey, decode_public_key
from lattica.nat.base.protobuf import parse_message
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.pb import envelope_pb2 as pb


@dataclass(frozen=True, slots=True)
class Opened:
    """The content of an envelope whose signature is right."""

    signer: PublicKey
    payload: bytes


def seal_envelope(identity: Identity, domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """Sign a payload. `domain` says what for: elsewhere the signature is worth nothing."""
    return pb.Envelope(
        public_key=identity.public_key_bytes,
        payload_type=payload_type,
        payload=payload,
        signature=identity.sign(_signed_bytes(domain, payload_type, payload)),
    ).SerializeToString()


def open_envelope(
    data: bytes, domain: str, payload_type: bytes, what: str, *, limit: int
) -> Opened:
    """Read an envelope of at most `limit` bytes; `what` names the payload in errors.

    Raises:
        RemoteProtocolError: it is too long or none, holds a payload of another type, or is not
            signed for `domain`.
    """
    message = parse_message(pb.Envelope(), data, f"the envelope of {what}", limit=limit)
    if message.payload_type != payload_type:
        raise RemoteProtocolError(f"the signed envelope holds something else than {what}")
    signer = decode_public_key(message.public_key)
    signed = _signed_bytes(domain, message.payload_type, message.payload)
    if not signer.verify(signed, message.signature):
        raise RemoteProtocolError(f"the signature of {what} is wrong")
    return Opened(signer, message.payload)


def _signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    return b"".join(map(encode_length_prefixed, (domain.encode(), payload_type, payload)))
