"""Opens packets that qh3 has taken, as it does not tell which frames they had (RFC 9001, 5).

Only those of an established connection, with a short header.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from qh3.quic.crypto import derive_key_iv_hp
from qh3.quic.packet import QuicProtocolVersion
from qh3.tls import CipherSuite, cipher_suite_hash, hkdf_expand_label

from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE, QuicCore
from lattica.nat.quic.qh3.packets import LONG_HEADER

_SAMPLE = 16
_LONGEST_NUMBER = 4
_KEY_PHASE = 0x04
_TRIES = 16
"""Packet numbers that may be meant by one that is cut short."""


class PacketKeys:
    """What one direction of a connection is encrypted with, in one key phase."""

    __slots__ = ("_header_key", "_iv", "_secret", "_suite", "aead")

    def __init__(self, suite: CipherSuite, secret: bytes, header_key: bytes | None = None) -> None:
        key, self._iv, own = derive_key_iv_hp(
            cipher_suite=suite, secret=secret, version=QuicProtocolVersion.VERSION_1
        )
        self._suite = suite
        self._secret = secret
        self._header_key = header_key or own
        self.aead = (
            ChaCha20Poly1305(key) if suite is CipherSuite.CHACHA20_POLY1305_SHA256 else AESGCM(key)
        )

    def next(self) -> PacketKeys:
        """Those of the next key phase; what hides headers stays the same."""
        algorithm = cipher_suite_hash(self._suite)
        secret = hkdf_expand_label(algorithm, self._secret, b"quic ku", b"", len(self._secret))
        return PacketKeys(self._suite, secret, self._header_key)

    def nonce(self, number: int) -> bytes:
        """That of the packet with this number."""
        return (int.from_bytes(self._iv, "big") ^ number).to_bytes(12, "big")

    def mask(self, sample: bytes) -> bytes:
        """What hides the header of a packet in which these 16 bytes are (section 5.4)."""
        if isinstance(self.aead, ChaCha20Poly1305):
            cipher = Cipher(algorithms.ChaCha20(self._header_key, sample), None)
            return cipher.encryptor().update(bytes(5))
        return Cipher(algorithms.AES(self._header_key), modes.ECB()).encryptor().update(sample)


class PacketReader:
    """Opens some of the packets that one connection receives."""

    __slots__ = ("_core", "_keys", "_largest", "_phase", "passed")

    def __init__(self, core: QuicCore) -> None:
        self._core = core
        self._keys: PacketKeys | None = None
        self._phase = 0
        self._largest = -1
        self.passed = 0
        """Datagrams that have come since one was opened: by so much numbers may have grown."""

    def open(self, datagram: bytes) -> bytes | None:
        """Return the frames of a packet; None for what cannot be opened.

        That is a datagram with a long header, or a packet whose number is far from those before.
        """
        start = CONNECTION_ID_SIZE + 1
        sample = datagram[start + _LONGEST_NUMBER : start + _LONGEST_NUMBER + _SAMPLE]
        if datagram[0] & LONG_HEADER or len(sample) < _SAMPLE:
            return None
        if self._keys is None:
            self._keys = PacketKeys(*self._core.traffic_secret(sent=False))
        mask = self._keys.mask(sample)
        first = datagram[0] ^ mask[0] & 0x1F
        size = (first & 0x03) + 1
        shown = bytes(a ^ b for a, b in zip(datagram[start : start + size], mask[1:], strict=False))
        header = bytes((first,)) + datagram[1:start] + shown
        phase = (first & _KEY_PHASE) // _KEY_PHASE
        keys = self._keys if phase == self._phase else self._keys.next()
        for number in self._numbers(int.from_bytes(shown, "big"), 1 << 8 * size):
            try:
                frames = keys.aead.decrypt(keys.nonce(number), datagram[start + size :], header)
            except InvalidTag:
                continue
            self._keys, self._phase = keys, phase
            self._largest = max(self._largest, number)
            self.passed = 0
            return frames
        return None

    def _numbers(self, low: int, span: int) -> Iterator[int]:
        """The packet numbers that end in `low`, of `span` ones, the likeliest first."""
        expected = self._largest + 1 + self.passed
        nearest = low + (expected - low + span // 2) // span * span
        for step in range(_TRIES // 2):
            for number in {nearest + step * span, nearest - step * span}:
                if number >= 0:
                    yield number
