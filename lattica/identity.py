"""A peer's identity: an Ed25519 key, the peer ID derived from it, and its key file.

The key file holds py-libp2p's (and go-libp2p's) protobuf form of the private key.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair, KeyType
from libp2p.crypto.serialization import deserialize_private_key
from libp2p.peer.id import ID as PeerId

from lattica.errors import AddressError, IdentityError

__all__ = ["Identity", "PeerId", "parse_peer_id"]

_MAX_KEY_FILE = 4096


class Identity:
    """An Ed25519 key pair and the :data:`PeerId` that is its public name."""

    __slots__ = ("key_pair", "peer_id", "public_key_bytes")

    def __init__(self, key_pair: KeyPair) -> None:
        self.key_pair = key_pair
        self.peer_id = PeerId.from_pubkey(key_pair.public_key)
        self.public_key_bytes: bytes = key_pair.public_key.serialize()
        """The public key in libp2p's protobuf form."""

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `data`."""
        return self.key_pair.private_key.sign(data)

    @classmethod
    def generate(cls) -> Identity:
        """Make a new random identity."""
        return cls(create_new_key_pair())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read a key file.

        Raises :class:`IdentityError` when it is missing, damaged, not Ed25519, or when
        group or others can read or write it (the message gives the `chmod` to run).
        """
        path = Path(path)
        try:
            with open(path, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                data = file.read(_MAX_KEY_FILE + 1)
        except OSError as error:
            raise IdentityError(f"cannot read the key file {path}: {error.strerror}") from None
        if os.name == "posix" and mode & 0o077:
            raise IdentityError(
                f"the key file {path} is accessible to group or others (mode {mode:04o}); "
                f"whoever reads it can act as this peer. Run: chmod 600 {path}"
            )
        try:
            if len(data) > _MAX_KEY_FILE:
                raise ValueError("too large")
            private_key = deserialize_private_key(data)
        except Exception as error:  # the parsers of py-libp2p raise many types
            raise IdentityError(
                f"{path} is not a key file, or is damaged ({error}); "
                "restore it from a backup, or remove it to get a new identity"
            ) from None
        if private_key.get_type() != KeyType.Ed25519:
            raise IdentityError(f"the key in {path} is not an Ed25519 key")
        return cls(KeyPair(private_key, private_key.get_public_key()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a new key file with mode 0600; never overwrites one.

        Raises :class:`IdentityError` when the file exists or cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Write aside and link, so that no reader ever sees half a key.
            temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(self.key_pair.private_key.serialize())
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, path)
            finally:
                os.unlink(temporary)
        except FileExistsError:
            raise IdentityError(f"{path} exists already; it is not overwritten") from None
        except OSError as error:
            raise IdentityError(f"cannot write the key file {path}: {error.strerror}") from None

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str]) -> Identity:
        """Read a key file, or make one when there is none (race-free)."""
        if not Path(path).exists():
            try:
                identity = cls.generate()
                identity.save(path)
                return identity
            except IdentityError:
                if not Path(path).exists():
                    raise
        return cls.load(path)


def parse_peer_id(text: str) -> PeerId:
    """Parse a peer ID (`12D3Koo…`, `Qm…` or CIDv1); raises :class:`AddressError`."""
    try:
        peer_id = PeerId.from_string(text.strip())
        raw = peer_id.to_bytes()
    except ValueError as error:
        raise AddressError(f"{text!r} is not a peer ID: {error}") from None
    # A multihash: SHA-256 of the key, or the key itself where it is at most 42 bytes.
    sha256 = raw[:2] == b"\x12\x20" and len(raw) == 34
    inlined = raw[:1] == b"\x00" and 2 < len(raw) <= 44 and raw[1] == len(raw) - 2
    if not (sha256 or inlined):
        raise AddressError(f"{text!r} is not a peer ID (expected one like 12D3KooW… or Qm…)")
    return peer_id
