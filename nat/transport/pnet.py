"""Private networks: only peers that hold the same 32-byte key understand one another.

Source: libp2p specification "Pre-shared Key Based Private Networks"
(https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md). Each side
sends a random 24-byte nonce; everything after it is XOR-ed with the XSalsa20 stream of the
key and that nonce (https://cr.yp.to/snuffle/xsalsa-20081128.pdf). This lies under Noise and
adds neither authenticity nor a handshake: with another key the first bytes come out as
noise, and the protocol above refuses them.

XSalsa20 is Salsa20 with a subkey that HSalsa20 makes of the key and the first 16 bytes of the
nonce; the other 8 bytes are Salsa20's own nonce. HSalsa20 runs once per connection and
direction, so it is plain Python here; Salsa20 is pycryptodome's. (py-libp2p 0.8.1 sends an
8-byte nonce and is therefore incompatible with every other implementation.)
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.swarm_key import KEY_BYTES
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import Buffer
from lattica.nat.mux.delivery import Delivery
from lattica.nat.transport.base import RawConn

if TYPE_CHECKING:
    from Crypto.Cipher import Salsa20

NONCE_BYTES = 24

_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
# One double round: four quarter rounds down the columns, four along the rows.
_QUARTERS = (
    (0, 4, 8, 12),
    (5, 9, 13, 1),
    (10, 14, 2, 6),
    (15, 3, 7, 11),
    (0, 1, 2, 3),
    (5, 6, 7, 4),
    (10, 11, 8, 9),
    (15, 12, 13, 14),
)


def hsalsa20(key: bytes, block: bytes) -> bytes:
    """The 32-byte subkey that HSalsa20 derives from a 32-byte key and a 16-byte block."""
    k = struct.unpack("<8I", key)
    n = struct.unpack("<4I", block)
    c = _SIGMA
    x = [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]
    for _ in range(10):
        for a, b, d, e in _QUARTERS:
            for to, left, right, bits in ((b, a, e, 7), (d, b, a, 9), (e, d, b, 13), (a, e, d, 18)):
                total = (x[left] + x[right]) & 0xFFFFFFFF
                x[to] ^= (total << bits | total >> (32 - bits)) & 0xFFFFFFFF
    return struct.pack("<8I", x[0], x[5], x[10], x[15], x[6], x[7], x[8], x[9])


def xsalsa20(key: bytes, nonce: bytes) -> Salsa20.Salsa20Cipher:
    """The XSalsa20 stream of a 32-byte key and a 24-byte nonce, from its start."""
    from Crypto.Cipher import Salsa20  # few networks are private

    return Salsa20.new(key=hsalsa20(key, nonce[:16]), nonce=nonce[16:])


class PnetCipher:
    """Both directions of one connection; pure, no I/O.

    The nonce has to reach the peer before the first byte of :meth:`encrypt`'s output:
    :meth:`data_to_send` hands it out once. Output of :meth:`encrypt` has to be sent whole
    and in order, as each call moves on in the stream.
    """

    __slots__ = ("_decrypt", "_encrypt", "_key", "_nonce_in", "_nonce_out")

    def __init__(self, key: bytes, *, nonce: bytes | None = None) -> None:
        """Take the shared key, 32 bytes.

        A nonce (24 bytes) is given only to repeat known examples; otherwise it is random.
        """
        if len(key) != KEY_BYTES:
            raise LocalProtocolError(f"a private network key has 32 bytes, not {len(key)}")
        if nonce is None:
            nonce = os.urandom(NONCE_BYTES)
        elif len(nonce) != NONCE_BYTES:
            raise LocalProtocolError(f"a private network nonce has 24 bytes, not {len(nonce)}")
        self._key = bytes(key)
        self._nonce_out = nonce
        self._nonce_in = b""
        self._encrypt = xsalsa20(self._key, nonce)
        self._decrypt: Salsa20.Salsa20Cipher | None = None

    def data_to_send(self) -> bytes:
        """Our nonce the first time, then nothing."""
        nonce, self._nonce_out = self._nonce_out, b""
        return nonce

    def encrypt(self, data: Buffer) -> bytes:
        """Encrypt the next bytes of the outgoing stream; same length."""
        return self._encrypt.encrypt(data)

    def receive(self, data: Buffer) -> bytes:
        """Take bytes in any split; return the plaintext they give, perhaps none yet."""
        if self._decrypt is None:
            missing = NONCE_BYTES - len(self._nonce_in)
            self._nonce_in += bytes(data[:missing])
            if len(self._nonce_in) < NONCE_BYTES:
                return b""
            self._decrypt = xsalsa20(self._key, self._nonce_in)
            data = data[missing:]
        return self._decrypt.decrypt(data) if data else b""


class PnetConn:
    """A connection inside a private network; wraps any other :class:`RawConn`.

    Cancellation and backpressure are those of the wrapped connection: one task may receive
    while another sends, and a cancelled `send` leaves the connection unusable. The nonce
    goes out with the first bytes sent, so the dialer, who speaks first, loses no round trip.
    """

    __slots__ = ("_cipher", "_conn")

    def __init__(self, conn: RawConn, key: bytes) -> None:
        self._conn = conn
        self._cipher = PnetCipher(key)

    @property
    def local_addr(self) -> Multiaddr:
        return self._conn.local_addr

    @property
    def remote_addr(self) -> Multiaddr:
        return self._conn.remote_addr

    @property
    def most_bytes(self) -> int | None:
        return self._conn.most_bytes

    async def receive(self) -> memoryview:
        """Wait for bytes; empty at the end of the stream, also where it ends in the nonce.

        Sends our nonce if nothing has been sent yet: js-libp2p dials, and then waits for it.
        """
        if nonce := self._cipher.data_to_send():
            # A peer that is gone already is the end of the stream, which comes next.
            with contextlib.suppress(OSError):
                await self._conn.send(nonce)
        while data := await self._conn.receive():
            if plain := self._cipher.receive(data):
                return memoryview(plain)
        return memoryview(b"")

    async def send(self, data: Buffer) -> None:
        """Encrypt and send all of `data`."""
        await self._conn.send(self._cipher.data_to_send() + self._cipher.encrypt(data))

    def send_nowait(self, data: bytes) -> int:
        return 0

    def unanswered(self) -> float | None:
        return self._conn.unanswered()

    def mark_authenticated(self) -> None:
        self._conn.mark_authenticated()

    def delivery(self) -> Delivery | None:
        return self._conn.delivery()

    async def aclose(self) -> None:
        await self._conn.aclose()

    def abort(self) -> None:
        self._conn.abort()
