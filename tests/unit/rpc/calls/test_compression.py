"""Compressed bodies."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.rpc import ResourceExhaustedError, RpcConfig, UnimplementedError, with_options
from lattica.rpc.encoding.compression import Compressed, compress
from lattica.rpc.encoding.encoder import Encoded
from tests.support.rpc_pair import rpc_pair

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
