"""Peer IDs, addresses and keys on their way to py-libp2p and back."""

from __future__ import annotations

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.keys import PublicKey as Libp2pPublicKey
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.peer.id import ID
from multiaddr.multiaddr import Multiaddr as Libp2pMultiaddr

from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.keys.public_keys import PublicKey
from lattica.nat.base.net.multiaddr import Multiaddr


def libp2p_id(peer_id: PeerId) -> ID:
    return ID(peer_id.to_bytes())


def our_id(peer_id: ID) -> PeerId:
    """A peer ID of py-libp2p as ours.

    Raises:
        AddressError: it is none.
    """
    return PeerId(peer_id.to_bytes())


def libp2p_addr(addr: Multiaddr) -> Libp2pMultiaddr:
    return Libp2pMultiaddr(addr.to_bytes())


def our_addr(addr: Libp2pMultiaddr) -> Multiaddr:
    """An address of py-libp2p as ours.

    Raises:
        AddressError: it has an unknown protocol.
    """
    return Multiaddr(addr.to_bytes())


def libp2p_public_key(key: PublicKey) -> Libp2pPublicKey:
    """Of a key that was decoded here: py-libp2p's own parsers are not for strangers' bytes."""
    return deserialize_public_key(key.encode())


def libp2p_key_pair(identity: Identity) -> KeyPair:
    return create_new_key_pair(identity.seed)
