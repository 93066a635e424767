"""The payload of libp2p's Noise handshake: a libp2p identity signs the static key.

Implements `NoiseHandshakePayload` of libp2p specs/noise, with two extensions of ours: the ciphers
that a side offers for the transport phase (:mod:`lattica.nat.secure.ciphers`), and its instance,
by which two programs with one key are told apart. Others skip them.
"""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.keys.public_keys import PublicKey, decode_public_key
from lattica.nat.base.protobuf import parse_message
from lattica.nat.pb.noise_pb2 import AES_256_GCM, NoiseHandshakePayload
from lattica.nat.secure.ciphers import Cipher

INSTANCE_SIZE = 8
"""Bytes."""
_SIGNED_PREFIX = b"noise-libp2p-static-key:"
_NUMBERS = {Cipher.AES_256_GCM: AES_256_GCM}
"""What can be offered, as it is written in a payload."""


@dataclass(frozen=True, slots=True)
class RemoteIdentity:
    """What a handshake proved about the peer."""

    peer_id: PeerId
    public_key: PublicKey
    ciphers: frozenset[Cipher] = frozenset()
    """What it offers for the transport phase besides ChaChaPoly."""
    instance: bytes = b""
    """Another one for each program that has the key, and each time it is started; empty where the
    peer does not say."""


def new_instance() -> bytes:
    """What tells a node from all others with its key, for as long as it runs."""
    return os.urandom(INSTANCE_SIZE)


def make_payload(
    identity: Identity,
    static_public: bytes,
    ciphers: AbstractSet[Cipher] = frozenset(),
    instance: bytes = b"",
) -> bytes:
    """Return the payload that proves `identity` holds the static key (32 bytes).

    `ciphers` are offered; ChaChaPoly goes without saying. `instance` is told unless it is empty.
    """
    payload = NoiseHandshakePayload(
        identity_key=identity.public_key_bytes,
        identity_sig=identity.sign(_SIGNED_PREFIX + static_public),
    )
    numbers = [number for cipher, number in _NUMBERS.items() if cipher in ciphers]
    if numbers:
        payload.extensions.transport_ciphers.extend(numbers)
    if instance:
        payload.extensions.instance = instance
    return payload.SerializeToString()


def verify_payload(payload: bytes, remote_static: bytes) -> RemoteIdentity:
    """Check a peer's payload against the static key it used.

    Raises:
        RemoteProtocolError: it is malformed or the signature is wrong.
    """
    message = parse_message(NoiseHandshakePayload(), payload, "noise: the identity payload")
    public_key = decode_public_key(message.identity_key)
    peer_id = PeerId.from_public_key(public_key)
    if not public_key.verify(_SIGNED_PREFIX + remote_static, message.identity_sig):
        raise RemoteProtocolError(f"noise: the signature of {peer_id} is wrong")
    numbers = message.extensions.transport_ciphers
    ciphers = frozenset(cipher for cipher, number in _NUMBERS.items() if number in numbers)
    instance = message.extensions.instance
    if len(instance) != INSTANCE_SIZE:
        instance = b""  # of somebody who means something else by it
    return RemoteIdentity(peer_id, public_key, ciphers, instance)
