"""Compressed bodies."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.rpc import ResourceExhaustedError, RpcConfig, UnimplementedError, with_options
from lattica.rpc.encoding.compression import MANY_BUFFERS, Compressed, compress
from lattica.rpc.encoding.encoder import Encoded
from tests.support.rpc.pair import rpc_pair

RANDOM = np.random.default_rng(2)


def compressible(blocks: int) -> bytes:
    """A twentieth of it is noise."""
    return b"".join(RANDOM.bytes(200) + bytes(3800) for _ in range(blocks))


@pytest.mark.parametrize("algorithm", ["zstd", "lz4"])
async def test_calls(algorithm: str) -> None:
    async with rpc_pair() as pair:
        stub: Any = with_options(pair.stub, compression=algorithm)
        for size in (0, 10, 5_000, 1_000_000):
            assert await stub.echo(bytes(size)) == bytes(size)
            assert (await stub.double(np.ones(size))).sum() == 2 * size
            noise = np.random.default_rng(1).bytes(size)
            assert await stub.echo([noise, {"a": noise}]) == [noise, {"a": noise}]
        assert [int(each[0]) async for each in stub.arrays(3, 1_000_000)] == [0, 1, 2]
        connection = pair.client_host.connections[pair.server_host.peer_id]
        sent = sum(each.bytes_queued for each in connection.session.streams.values())
        data = compressible(2500)
        assert await stub.echo(data) == data
        after = sum(each.bytes_queued for each in connection.session.streams.values())
        assert after - sent < 1_000_000
        assert pair.server.statistics().receive_memory == 0


async def test_what_is_unpacked_counts() -> None:
    config = RpcConfig(receive_memory=1_000_000)
    async with rpc_pair(config, RpcConfig()) as pair:
        with pytest.raises(ResourceExhaustedError, match="receive_memory"):
            await with_options(pair.stub, compression="zstd").echo(compressible(1250))
        with pytest.raises(LocalProtocolError, match="zstd or lz4"):
            with_options(pair.stub, compression="brotli")


def packed(*parts: Any) -> bytes:
    return bytes(msgpack.packb(parts))


@pytest.mark.parametrize("algorithm", ["zstd", "lz4"])
def test_what_is_no_compressed_body(algorithm: str) -> None:
    plain, buffer = compressible(25), compressible(12)
    body = compress(Encoded(plain, (buffer,)), algorithm)
    assert body is not None
    size = len(body.buffers[0])
    assert compress(Encoded(bytes(10_000_000)), algorithm) is None or algorithm == "lz4"
    _, sizes, skeleton = msgpack.unpackb(body.skeleton)
    with pytest.raises(RemoteProtocolError, match="more than 500 times"):
        Compressed(packed(algorithm, [10**9, sizes[1]], skeleton), (size,))
    for wrong in ([99_999, sizes[1]], [100_001, sizes[1]], [sizes[0], 40_001]):
        claimed = Compressed(packed(algorithm, wrong, skeleton), (size,))
        with pytest.raises(RemoteProtocolError):
            claimed.unpack([bytes(body.buffers[0])])
    good = Compressed(body.skeleton, (size,))
    assert good.size == len(plain) + len(buffer)
    assert good.unpack([bytes(body.buffers[0])]) == (plain, [buffer])
    with pytest.raises(RemoteProtocolError):
        good.unpack([b"rubbish"])


HUGE_WINDOW = b"\x28\xb5\x2f\xfd\x00" + bytes([17 << 3]) + (1 << 3 | 1).to_bytes(3, "little")
"""The beginning of a zstd frame that makes its reader remember 128 MiB; one byte follows."""


def test_no_window_is_larger_than_what_comes_out() -> None:
    body = compress(Encoded(b"x" * 5000, (bytes(3000),) * 3), "zstd")
    assert body is not None
    _, sizes, skeleton = msgpack.unpackb(body.skeleton)
    claimed = Compressed(packed("zstd", [sizes[0], 3], skeleton), (10,))
    with pytest.raises(RemoteProtocolError, match="too much memory"):
        claimed.unpack([HUGE_WINDOW + b"a"])


def test_all_parts_of_a_message_have_one_decompressor(monkeypatch: pytest.MonkeyPatch) -> None:
    import zstandard

    made = []

    def make(**options: Any) -> Any:
        made.append(options)
        return zstandard_decompressor(**options)

    zstandard_decompressor = zstandard.ZstdDecompressor
    monkeypatch.setattr(zstandard, "ZstdDecompressor", make)
    plain = [bytes([number % 7]) * (2000 + number) for number in range(200)]
    body = compress(Encoded(b"x" * 5000, tuple(plain)), "zstd")
    assert body is not None
    buffers = [bytes(each) for each in body.buffers]
    unpacking = Compressed(body.skeleton, tuple(map(len, buffers)))
    assert unpacking.unpack(buffers) == (b"x" * 5000, plain)
    assert made == [{"max_window_size": 5000}]


async def test_many_buffers_are_unpacked_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    unpack = Compressed.unpack

    def watched(self: Compressed, buffers: list[bytes]) -> Any:
        threads.append(threading.current_thread())
        return unpack(self, buffers)

    monkeypatch.setattr(Compressed, "unpack", watched)
    async with rpc_pair() as pair:
        stub: Any = with_options(pair.stub, compression="zstd")
        value = [compressible(1)[:1500]] * (MANY_BUFFERS + 50)  # some are in the skeleton
        assert await stub.echo(value) == value
    assert threads
    assert threading.current_thread() not in threads


@pytest.mark.parametrize(
    "skeleton",
    [
        (b"\xdd" + (100_000).to_bytes(4, "big")) * 400 + bytes(100_000),
        b"\x93\xa4zstd" + (b"\xdd" + (100_000).to_bytes(4, "big")) * 400 + bytes(100_000),
        b"\x93\xa4zstd\x91" + (b"\xdc" + (9_000).to_bytes(2, "big")) * 400 + bytes(9_000),
        b"\x93\xa4zstd\x91\x01" + b"\x91" * 400,
        b"\x93\xa4zstd\x91" + b"\xdf" + (9_000).to_bytes(4, "big") + bytes(20_000),
        b"\x93\xa4zstd\x91\x01\xc4\x01a" + bytes(10),
        b"\xdf" + (9_000).to_bytes(4, "big") + bytes(20_000),
    ],
)
def test_headers_that_claim_much_make_no_lists(skeleton: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="without its sizes"):
            Compressed(skeleton, ())
        assert tracemalloc.get_traced_memory()[1] < 2 * len(skeleton) + 64 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "skeleton",
    [b"", b"\xc1", packed("zstd"), packed("zstd", [1], "x"), packed("zstd", [-1], b""),
     packed(1, [1], b""), packed("zstd", [1, 2], b"")],
)  # fmt: skip
def test_sizes_that_are_none(skeleton: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="without its sizes"):
        Compressed(skeleton, ())
    with pytest.raises(UnimplementedError):
        Compressed(packed("rot13", [1], b"x"), ())
