"""Private networks: the cipher against NaCl, and the connection."""

from __future__ import annotations

import pytest
import trio
from nacl.bindings import crypto_secretbox

from lattica.errors import LocalProtocolError
from lattica.nat.transport.pnet import (
    NONCE_BYTES,
    PnetCipher,
    PnetConn,
    hsalsa20,
    xsalsa20,
)
from tests.support.pairs.raw_pipe import raw_pipe

# "Cryptography in NaCl" (Bernstein 2009), sections 8 to 10.
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
FIRST = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
SECOND = bytes.fromhex("dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4")
NONCE = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
STREAM = bytes.fromhex("eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880")

KEY = bytes(range(32))


def test_hsalsa20_is_nacls() -> None:
    assert hsalsa20(SHARED, bytes(16)) == FIRST
    assert hsalsa20(FIRST, NONCE[:16]) == SECOND


def test_xsalsa20_is_nacls() -> None:
    assert xsalsa20(FIRST, NONCE).encrypt(bytes(32)) == STREAM


def test_cipher_is_pynacls() -> None:
    message = bytes(range(256)) * 20
    box = crypto_secretbox(message, NONCE, KEY)
    # A secret box spends the first 32 bytes of the stream on its authenticator.
    cipher = PnetCipher(KEY, nonce=NONCE)
    cipher.encrypt(bytes(32))
    assert cipher.encrypt(message) == box[16:]


def test_nonce_goes_out_once_and_is_random() -> None:
    one, other = PnetCipher(KEY), PnetCipher(KEY)
    nonce = one.data_to_send()
    assert len(nonce) == NONCE_BYTES
    assert nonce != other.data_to_send()
    assert one.data_to_send() == b""


def test_another_key_gives_noise() -> None:
    sender, receiver = PnetCipher(KEY), PnetCipher(bytes(32))
    plain = receiver.receive(sender.data_to_send() + sender.encrypt(b"/multistream/1.0.0"))
    assert plain != b"/multistream/1.0.0"
    assert len(plain) == 18


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_keys_have_32_bytes(key: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        PnetCipher(key)


def test_nonces_have_24_bytes() -> None:
    with pytest.raises(LocalProtocolError, match="24 bytes"):
        PnetCipher(KEY, nonce=bytes(8))


async def test_connection_carries_bytes_both_ways() -> None:
    a, b = raw_pipe()
    a.chunk = b.chunk = 7
    one, other = PnetConn(a, KEY), PnetConn(b, KEY)
    assert (one.local_addr, one.remote_addr) == (a.local_addr, a.remote_addr)

    async def read(conn: PnetConn) -> bytes:
        got = bytearray()
        while piece := await conn.receive():
            got += piece
        return bytes(got)

    await one.send(b"hello ")
    assert bytes(a.peer._inbox[NONCE_BYTES:]) != b"hello "
    await one.send(memoryview(b"world"))
    await other.send(bytearray(b"answer"))
    await one.aclose()
    assert await read(other) == b"hello world"
    other.abort()
    assert b.aborted


async def test_connection_that_ends_in_the_nonce() -> None:
    a, b = raw_pipe()
    await a.send(bytes(NONCE_BYTES - 1))
    await a.aclose()
    with trio.fail_after(60):
        assert len(await PnetConn(b, KEY).receive()) == 0
