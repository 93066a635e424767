"""Noise XX as libp2p uses it: the handshake and the transport phase, without I/O.

Implements the Noise Protocol Framework, revision 34, for the one suite libp2p allows,
`Noise_XX_25519_ChaChaPoly_SHA256`, and libp2p's framing (specs/noise): every message,
handshake or transport, is preceded by its length as two big-endian bytes.

Handshake payloads, which bind a libp2p identity to the static key, are in
:mod:`lattica.nat.secure.noise_identity`; another cipher for the transport phase is in
:mod:`lattica.nat.secure.ciphers`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError

PROTOCOL_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
TAG_SIZE = 16
LENGTH_SIZE = 2
MAX_MESSAGE = 65535
MAX_PLAINTEXT = MAX_MESSAGE - TAG_SIZE
KEY_SIZE = 32
# Keys, tags and an identity payload with an RSA-8192 key fit easily; nothing honest is larger.
MAX_HANDSHAKE_MESSAGE = 8192

_pack_nonce = struct.Struct("<4xQ").pack
_pack_length = struct.Struct(">H").pack
_pack_length_into = struct.Struct(">H").pack_into


class CipherState:
    """A key of ChaChaPoly and its message counter (Noise section 5.1)."""

    __slots__ = ("_aead", "_nonce")

    def __init__(self, key: bytes) -> None:
        self._aead: ChaCha20Poly1305 | AESGCM = ChaCha20Poly1305(key)
        self._nonce = 0

    def _next_nonce(self) -> bytes:
        nonce = _pack_nonce(self._nonce)
        self._nonce += 1
        return nonce

    def encrypt(self, plaintext: bytes | memoryview, ad: bytes = b"") -> bytes:
        nonce = self._next_nonce()
        return self._aead.encrypt(nonce, plaintext, ad)

    def encrypt_into(self, plaintext: memoryview, out: memoryview) -> None:
        """Encrypt into `out`, which must be `TAG_SIZE` bytes longer than `plaintext`."""
        nonce = self._next_nonce()
        self._aead.encrypt_into(nonce, plaintext, None, out)

    def decrypt(self, ciphertext: bytes | memoryview, ad: bytes = b"") -> bytes:
        nonce = self._next_nonce()
        try:
            return self._aead.decrypt(nonce, ciphertext, ad)
        except InvalidTag:
            raise RemoteProtocolError("noise: a message does not decrypt") from None

    def decrypt_into(self, ciphertext: memoryview, out: memoryview) -> None:
        """Decrypt into `out`, which must be `TAG_SIZE` bytes shorter than `ciphertext`."""
        nonce = self._next_nonce()
        try:
            self._aead.decrypt_into(nonce, ciphertext, None, out)
        except InvalidTag:
            raise RemoteProtocolError("noise: a message does not decrypt") from None


class _SymmetricState:
    """Chaining key and transcript hash (Noise section 5.2)."""

    def __init__(self, prologue: bytes) -> None:
        # The name is exactly HASHLEN bytes long, so it is its own initial hash.
        self.chaining_key = PROTOCOL_NAME
        self.hash = PROTOCOL_NAME
        self._cipher: CipherState | None = None
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self.chaining_key, key = _hkdf(self.chaining_key, secret)
        self._cipher = CipherState(key)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        out = self._cipher.encrypt(plaintext, self.hash) if self._cipher else plaintext
        self.mix_hash(out)
        return out

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        out = self._cipher.decrypt(ciphertext, self.hash) if self._cipher else ciphertext
        self.mix_hash(ciphertext)
        return out

    def split(self) -> tuple[CipherState, CipherState]:
        first, second = _hkdf(self.chaining_key, b"")
        return CipherState(first), CipherState(second)


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    secret = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")


class XXHandshake:
    """The three messages of the XX pattern, for one side.

    ::

        -> e
        <- e, ee, s, es
        -> s, se

    The caller alternates :meth:`write` and :meth:`read` in the order of the pattern,
    beginning with `write` for the initiator; anything else is a
    :class:`LocalProtocolError`. Messages are without their length prefix.
    """

    def __init__(
        self, *, initiator: bool, static_key: X25519PrivateKey, prologue: bytes = b""
    ) -> None:
        self.initiator = initiator
        self.remote_static: bytes | None = None
        """The peer's static public key, 32 bytes, once it has been received."""
        self._symmetric = _SymmetricState(prologue)
        self._static = static_key
        self._ephemeral = X25519PrivateKey.generate()
        self._remote_ephemeral: X25519PublicKey | None = None
        self._step = 0

    @property
    def done(self) -> bool:
        return self._step == 3

    @property
    def ephemeral_public(self) -> bytes:
        """Our ephemeral public key, 32 bytes."""
        return self._ephemeral.public_key().public_bytes_raw()

    @property
    def chaining_key(self) -> bytes:
        """What both sides know at this point; a secret once the handshake is done."""
        return self._symmetric.chaining_key

    @property
    def transcript_hash(self) -> bytes:
        """Hash of all that was said so far, 32 bytes; names the session once it is done."""
        return self._symmetric.hash

    def write(self, payload: bytes = b"") -> bytes:
        """Return the next message, carrying `payload` (encrypted except in the first)."""
        if self.done or (self._step % 2 == 0) != self.initiator:
            raise LocalProtocolError(f"noise: it is not our turn (message {self._step})")
        step, symmetric = self._step, self._symmetric
        self._step += 1
        message = b""
        if step < 2:
            ephemeral = self._ephemeral.public_key().public_bytes_raw()
            symmetric.mix_hash(ephemeral)
            message = ephemeral
        if step == 1:
            self._mix_dh(self._ephemeral, self._remote_ephemeral)
        if step > 0:
            message += symmetric.encrypt_and_hash(self._static.public_key().public_bytes_raw())
            self._mix_dh(self._static, self._remote_ephemeral)
        return message + symmetric.encrypt_and_hash(payload)

    def read(self, message: bytes) -> bytes:
        """Take the peer's next message and return its payload."""
        if self.done or (self._step % 2 == 0) == self.initiator:
            raise LocalProtocolError(f"noise: it is not the peer's turn (message {self._step})")
        step, symmetric = self._step, self._symmetric
        self._step += 1
        shortest = (KEY_SIZE, 2 * KEY_SIZE + 2 * TAG_SIZE, KEY_SIZE + 2 * TAG_SIZE)[step]
        if len(message) < shortest:
            raise RemoteProtocolError(f"noise: handshake message {step} is too short")
        if step < 2:
            ephemeral, message = message[:KEY_SIZE], message[KEY_SIZE:]
            self._remote_ephemeral = X25519PublicKey.from_public_bytes(ephemeral)
            symmetric.mix_hash(ephemeral)
        if step == 1:
            self._mix_dh(self._ephemeral, self._remote_ephemeral)
        if step > 0:
            sealed, message = message[: KEY_SIZE + TAG_SIZE], message[KEY_SIZE + TAG_SIZE :]
            self.remote_static = symmetric.decrypt_and_hash(sealed)
            self._mix_dh(self._ephemeral, X25519PublicKey.from_public_bytes(self.remote_static))
        return symmetric.decrypt_and_hash(message)

    def split(self) -> tuple[CipherState, CipherState]:
        """Return the (sending, receiving) ciphers of the transport phase."""
        if not self.done:
            raise LocalProtocolError("noise: the handshake is not done")
        first, second = self._symmetric.split()
        return (first, second) if self.initiator else (second, first)

    def _mix_dh(self, private: X25519PrivateKey, public: X25519PublicKey | None) -> None:
        assert public is not None
        try:
            self._symmetric.mix_key(private.exchange(public))
        except ValueError:  # a low-order point gives an all-zero secret
            raise RemoteProtocolError("noise: the peer sent a degenerate key") from None


def frame(message: bytes) -> bytes:
    """Prefix a message (at most 65,535 bytes) with its length."""
    return _pack_length(len(message)) + message


class MessageReader:
    """Cuts a byte stream into length-prefixed messages of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> None:
        self._buffer += data

    def next_message(self) -> bytes | None:
        """Return the next whole message, or None until more bytes are fed."""
        buffer = self._buffer
        if len(buffer) < LENGTH_SIZE:
            return None
        length = int.from_bytes(buffer[:LENGTH_SIZE], "big")
        if length > self._limit:
            raise RemoteProtocolError(
                f"noise: message of {length} bytes, at most {self._limit} are allowed here"
            )
        end = LENGTH_SIZE + length
        if len(buffer) < end:
            return None
        message = bytes(buffer[LENGTH_SIZE:end])
        del buffer[:end]
        return message

    @property
    def rest(self) -> bytes:
        """What has been fed and is not part of a message that was returned."""
        return bytes(self._buffer)


class TransportReader:
    """Decrypts the transport phase: ciphertext stream in, plaintext messages out."""

    __slots__ = ("_cipher", "_early", "_partial")

    def __init__(self, cipher: CipherState, buffered: bytes = b"") -> None:
        self._cipher = cipher
        self._early = buffered
        """What followed the handshake in the same piece."""
        self._partial = bytearray()
        """The beginning of a message whose rest has not arrived."""

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """Return the plaintext of every message completed by `data`.

        `data` may be reused by the caller afterwards: at most one incomplete message (64 KiB) is
        copied and kept.

        Raises:
            RemoteProtocolError: a message is too short or does not decrypt; the channel is unusable
                then.
        """
        return self.open_all(self.split(data))

    def split(self, data: bytes | memoryview) -> list[memoryview]:
        """Return every message completed by `data`, encrypted as it is.

        Each of them must be opened, in their order; those that lie in `data` before it is reused.
        """
        sealed: list[memoryview] = []
        view = memoryview(data)
        if self._early:
            view = memoryview(self._early + view)
            self._early = b""
        position = self._complete(view, sealed) if self._partial else 0
        end_of_data = len(view)
        while end_of_data - position >= LENGTH_SIZE:
            start = position + LENGTH_SIZE
            end = start + ((view[position] << 8) | view[position + 1])
            if end > end_of_data:
                break
            sealed.append(view[start:end])
            position = end
        self._partial += view[position:]
        return sealed

    def _complete(self, view: memoryview, sealed: list[memoryview]) -> int:
        """Go on with the message begun earlier; return how much of `view` belongs to it."""
        partial = self._partial
        position = max(0, LENGTH_SIZE - len(partial))
        partial += view[:position]
        if len(partial) < LENGTH_SIZE:
            return len(view)
        end = position + LENGTH_SIZE + ((partial[0] << 8) | partial[1]) - len(partial)
        partial += view[position:end]
        if end > len(view):
            return len(view)
        sealed.append(memoryview(partial)[LENGTH_SIZE:])
        self._partial = bytearray()
        return end

    def open(self, sealed: memoryview) -> bytes:
        """Return the plaintext of one message. Raises as :meth:`receive` does."""
        if len(sealed) < TAG_SIZE:
            raise RemoteProtocolError("noise: a message is shorter than its tag")
        return self._cipher.decrypt(sealed)

    def open_into(self, sealed: memoryview, out: memoryview) -> None:
        """Put the plaintext of one message into `out`, which is as long as that.

        Raises as :meth:`receive` does; what `out` holds is undefined then.
        """
        self._cipher.decrypt_into(sealed, out)

    def open_all(self, sealed: Iterable[memoryview]) -> list[bytes]:
        """Return the plaintexts of several messages, without those that are empty.

        Raises as :meth:`receive` does.
        """
        return [plain for each in sealed if (plain := self.open(each))]


class TransportWriter:
    """Encrypts the transport phase into the caller's buffer."""

    __slots__ = ("_cipher",)

    OVERHEAD = LENGTH_SIZE + TAG_SIZE

    def __init__(self, cipher: CipherState) -> None:
        self._cipher = cipher

    def seal_into(self, plaintext: memoryview, out: memoryview) -> int:
        """Write one framed message and return its size, `len(plaintext) + OVERHEAD`.

        `plaintext` is 1 to :data:`MAX_PLAINTEXT` bytes; `out` has room for the result.
        """
        size = len(plaintext)
        _pack_length_into(out, 0, size + TAG_SIZE)
        end = LENGTH_SIZE + size + TAG_SIZE
        self._cipher.encrypt_into(plaintext, out[LENGTH_SIZE:end])
        return end

    def seal(self, plaintext: bytes | memoryview) -> bytes:
        """Return one framed message."""
        return frame(self._cipher.encrypt(plaintext))
