"""A peer's identity: an Ed25519 key, the peer ID derived from it, and its key file.

The key file holds the private key as libp2p's specs/peer-ids has it, which go-, rust- and
js-libp2p read as well: protobuf, the seed followed by the public key. py-libp2p writes the
seed alone; that is read, too.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError

from lattica.nat.base.errors import IdentityError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.peer_id import PeerId, parse_peer_id
from lattica.nat.base.keys.private_file import (
    UnprotectedFileError,
    read_private_file,
    write_private_file,
)
from lattica.nat.base.keys.public_keys import PublicKey, ed25519_public_key
from lattica.nat.pb import keys_pb2 as pb

__all__ = ["Identity", "PeerId", "parse_peer_id"]

_MAX_KEY_FILE = 4096
_SEED = 32


class Identity(InProcess):
    """An Ed25519 key pair and the :class:`PeerId` that is its public name.

    Args:
        seed: the private key, 32 bytes; raises :class:`ValueError` for another number of them.
    """

    instead = "it holds a private key; pass the path of its key file, or `seed` if you must"

    __slots__ = ("_private_key", "peer_id", "public_key", "public_key_bytes")

    def __init__(self, seed: bytes) -> None:
        self._private_key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key: PublicKey = ed25519_public_key(
            self._private_key.public_key().public_bytes_raw()
        )
        self.peer_id = PeerId.from_public_key(self.public_key)
        self.public_key_bytes: bytes = self.public_key.encode()
        """The public key in libp2p's protobuf form."""

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @property
    def seed(self) -> bytes:
        """The private key: whoever has it is this peer."""
        return self._private_key.private_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `data`."""
        return self._private_key.sign(data)

    @classmethod
    def generate(cls) -> Identity:
        """Make a new random identity."""
        return cls(os.urandom(_SEED))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read a key file.

        Raises:
            IdentityError: it is missing, damaged, not Ed25519, not a regular file, belongs to
                another user, or group or others can read or write it (the message gives the
                `chmod` to run).
        """
        path = Path(path)
        try:
            data = read_private_file(path, _MAX_KEY_FILE + 1)
        except OSError as error:
            raise IdentityError(f"cannot read the key file {path}: {error.strerror}") from None
        except UnprotectedFileError as error:
            raise IdentityError(f"the key file {path} {error}") from None
        try:
            if len(data) > _MAX_KEY_FILE:
                raise ValueError("too large")
            message = pb.PrivateKey.FromString(data)
            if not message.HasField("type") or not message.HasField("data"):
                raise ValueError("it holds no key")
            if message.type == pb.ED25519:
                return cls._from_key_data(message.data)
        except (ValueError, DecodeError) as error:
            raise IdentityError(
                f"{path} is not a key file, or is damaged ({error}); "
                "restore it from a backup, or remove it to get a new identity"
            ) from None
        raise IdentityError(f"the key in {path} is not an Ed25519 key")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a new key file with mode 0600; never overwrites one.

        Raises:
            IdentityError: the file exists or cannot be written.
        """
        path = Path(path)
        message = pb.PrivateKey(type=pb.ED25519, data=self.seed + self.public_key.data)
        try:
            write_private_file(path, message.SerializeToString())
        except OSError as error:
            if os.path.lexists(path):
                raise IdentityError(f"{path} exists already; it is not overwritten") from None
            where = f": {error.filename}" if error.filename is not None else ""
            raise IdentityError(
                f"cannot write the key file {path}: {error.strerror or error}{where}"
            ) from None

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str]) -> Identity:
        """Read a key file, or make one when there is none (race-free)."""
        if not os.path.exists(path):
            try:
                identity = cls.generate()
                identity.save(path)
                return identity
            except IdentityError:
                if not os.path.exists(path):
                    raise
        return cls.load(path)

    @classmethod
    def _from_key_data(cls, data: bytes) -> Identity:
        """Read the key: a seed, then perhaps the public key, once or (old files) twice."""
        seed, rest = data[:_SEED], data[_SEED:]
        identity = cls(seed)
        public = identity.public_key.data
        if rest not in (b"", public, public * 2):
            raise ValueError("the public key in it is not that of the private key")
        return identity
