"""A peer's identity: an Ed25519 key, the peer ID derived from it, and its key file.

The key file holds the private key as libp2p's specs/peer-ids has it, which go-, rust- and
js-libp2p read as well: protobuf, the seed followed by the public key. py-libp2p writes the
seed alone; that is read, too.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from libp2p.crypto.ed25519 import Ed25519PrivateKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair, KeyType
from libp2p.crypto.pb.crypto_pb2 import PrivateKey as PrivateKeyMessage
from libp2p.peer.id import ID as PeerId

from lattica.nat.base.errors import AddressError, IdentityError

__all__ = ["Identity", "PeerId", "parse_peer_id"]

_MAX_KEY_FILE = 4096
_MAX_PEER_ID_TEXT = 200
_SEED = 32


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
            message = PrivateKeyMessage.FromString(data)
            if not message.IsInitialized():
                raise ValueError("it holds no key")
            if message.key_type == KeyType.Ed25519.value:
                return cls(_key_pair(message.data))
        except Exception as error:  # the parsers below raise many types
            raise IdentityError(
                f"{path} is not a key file, or is damaged ({error}); "
                "restore it from a backup, or remove it to get a new identity"
            ) from None
        raise IdentityError(f"the key in {path} is not an Ed25519 key")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a new key file with mode 0600; never overwrites one.

        Raises :class:`IdentityError` when the file exists or cannot be written.
        """
        path = Path(path)
        seed, public = self.key_pair.private_key.to_bytes(), self.key_pair.public_key.to_bytes()
        message = PrivateKeyMessage(key_type=KeyType.Ed25519.value, data=seed + public)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Write aside and link, so that no reader ever sees half a key.
            descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(message.SerializeToString())
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, path)
            finally:
                os.unlink(temporary)
        except OSError as error:
            if os.path.lexists(path):
                raise IdentityError(f"{path} exists already; it is not overwritten") from None
            raise IdentityError(
                f"cannot write the key file {path}: {error.strerror}: {error.filename}"
            ) from None

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


def _key_pair(data: bytes) -> KeyPair:
    """Read the key: a seed, then perhaps the public key, once or (old files) twice."""
    seed, rest = data[:_SEED], data[_SEED:]
    key = Ed25519PrivateKey.from_bytes(seed)
    public = key.get_public_key()
    if rest not in (b"", public.to_bytes(), public.to_bytes() * 2):
        raise ValueError("the public key in it is not that of the private key")
    return KeyPair(key, public)


def parse_peer_id(text: str) -> PeerId:
    """Parse a peer ID (`12D3Koo…`, `Qm…` or CIDv1); raises :class:`AddressError`."""
    text = text.strip()
    if len(text) > _MAX_PEER_ID_TEXT:
        raise AddressError(f"not a peer ID: a text of {len(text)} characters")
    try:
        peer_id = _from_cid(text) or PeerId.from_string(text)
        raw = peer_id.to_bytes()
    except ValueError as error:
        raise AddressError(f"{text!r} is not a peer ID: {error}") from None
    # A multihash: SHA-256 of the key, or the key itself where it is at most 42 bytes.
    sha256 = raw[:2] == b"\x12\x20" and len(raw) == 34
    inlined = raw[:1] == b"\x00" and 2 < len(raw) <= 44 and raw[1] == len(raw) - 2
    if not (sha256 or inlined):
        raise AddressError(f"{text!r} is not a peer ID (expected one like 12D3KooW… or Qm…)")
    return peer_id


def _from_cid(text: str) -> PeerId | None:
    """Decode a peer ID in CID form (codec libp2p-key), of which py-libp2p keeps the prefix."""
    if text.startswith(("1", "Qm")):
        return None
    try:
        raw = PeerId.from_multibase(text).to_bytes()
    except Exception:  # the parsers of py-multibase raise many types
        return None
    return PeerId(raw[2:]) if raw[:2] == b"\x01\x72" else None
