"""Calls over the data plane: bodies that do not come, that unpack to much, or that nobody reads."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Awaitable, Callable

import msgpack
import trio
import zstandard

from lattica.nat.base.wire import encode_uvarint
from lattica.nat.config import KIB, MIB
from lattica.nat.mux.stream import Stream
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.protocol.messages import DATA, Kind, encode_call, encode_message, encode_prefix
from tools.attack.attack import Attack, Victim
from tools.attack.attacks.rpc.caller import on_streams, send

STREAMS = 64
"""Streams of each enemy at a time."""
_BODY = 512 * MIB
"""Bytes that are announced."""


def _head(method: str, kind: int = 0, arguments: bytes = b"\x90") -> Encoded:
    return encode_call(msgpack.packb(f"Served.{method}"), kind, Encoded(arguments, ()))


def _streams(
    name: str,
    summary: str,
    act: Callable[[Stream], Awaitable[None]],
    *,
    seconds: float = 10.0,
) -> Attack:
    """Do something on many streams at a time, again and again."""

    async def run(victim: Victim) -> None:
        await on_streams(victim, DATA, act, STREAMS)

    return Attack(name, summary, run, seconds=seconds, calls=True, witness="calling-methods")


async def _unread(stream: Stream) -> None:
    await send(stream, encode_message(Kind.CALL, _head("items", 2)))
    await trio.sleep_forever()


async def _given_up(stream: Stream) -> None:
    await send(stream, encode_message(Kind.CALL, _head("items", 2)))
    await stream.receive_some()
    stream.reset("enough")


async def _dripping(stream: Stream) -> None:
    """A large argument of which a byte comes now and then."""
    head = _head("echo", 0, b"\x91" + msgpack.packb(msgpack.ExtType(24, b"\0")))
    prefix = bytes((Kind.CALL,)) + encode_uvarint(len(head.skeleton)) + b"\x01"
    await send(stream, prefix + encode_uvarint(_BODY << 1) + head.skeleton)
    while True:
        await send(stream, b"x")
        await trio.sleep(0.5)


async def _half(stream: Stream) -> None:
    """A message that ends where nobody expects it."""
    message = encode_message(Kind.CALL, _head("echo", 0, b"\x91" + msgpack.packb(bytes(1000))))
    await send(stream, message[: 1 + zlib.crc32(bytes(message)) % (len(message) - 1)])
    await stream.send_eof()
    await stream.receive_some()


def _bomb() -> bytes:
    """Close to the ratio that is refused: some of the numbers are random."""
    many, random = MIB - 8 * KIB, 4 * KIB
    noise = bytes(byte & 0x7F for byte in secrets.token_bytes(random))
    numbers = b"\x91\xdd" + (many + random).to_bytes(4, "big") + bytes(many) + noise
    plain = _head("echo", 0, numbers)
    packed = zstandard.ZstdCompressor().compress(plain.skeleton)
    skeleton = msgpack.packb(["zstd", [len(plain.skeleton)], packed])
    prefix = encode_prefix(Kind.CALL, len(skeleton), (), is_compressed=True)
    return bytes(prefix + skeleton)


BOMB = _bomb()


async def _bombs(stream: Stream) -> None:
    await send(stream, BOMB)
    await stream.receive_some()


async def _lists(stream: Stream) -> None:
    """As many values as fit, in vain: the answer is refused or thrown away."""
    lists = b"\x91\xdd" + (120_000).to_bytes(4, "big") + b"\x90" * 120_000
    await send(stream, encode_message(Kind.CALL, _head("echo", 0, lists)))
    await stream.receive_some()


async def _endless(stream: Stream) -> None:
    await send(stream, encode_message(Kind.CALL, _head("count", 1)))
    item = encode_message(Kind.ITEM, Encoded(b"\xc0", ()))
    batch = item * (16 * KIB // len(item))
    while True:
        await send(stream, batch)


UNREAD = _streams("rpc-unread-items", "512 streams of items that nobody reads", _unread)
GIVEN_UP = _streams("rpc-resets", "resets streams of items after the first one", _given_up)
DRIPPING = _streams(
    "rpc-dripping-bodies", "512 bodies of 512 MiB that come byte by byte", _dripping, seconds=15
)
HALF = _streams("rpc-half-messages", "ends streams inside messages", _half)
BOMBS = _streams("rpc-bombs", "4 KiB that unpack to a million numbers", _bombs)
LISTS = _streams("rpc-lists", "calls with 120,000 lists", _lists)
ENDLESS = _streams("rpc-endless-requests", "items of 4 bytes without end", _endless)
