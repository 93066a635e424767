"""Ours: `node.rpc`, with its defaults. Started by `impl_lattica.py`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import numpy as np
import trio

from lattica.nat.base.keys.identity import PeerId
from lattica.node import Node
from lattica.rpc.rpc import Rpc

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
else:
    import bench_child as bc

SMALL = bytes(range(bc.SMALL))
LARGE = np.random.default_rng(0).bytes(256 * bc.KIB)


class Bench:
    """The service."""

    def __init__(self) -> None:
        self._tensor = np.frombuffer(np.random.default_rng(1).bytes(bc.MIB), np.float32)

    async def echo(self, data: bytes) -> bytes:
        return data

    async def tensors(self, count: int) -> AsyncIterator[np.ndarray]:
        for _ in range(count):
            yield self._tensor

    async def peak_before(self) -> int:
        return bc.peak()

    async def take(self, array: np.ndarray) -> tuple[int, int]:
        return int(array.nbytes), bc.peak()


async def seconds_of(stub: Bench, seconds: float, workers: int, data: bytes) -> float:
    """Calls a second."""
    rate = bc.Rate(seconds)

    async def work() -> None:
        while rate.running():
            await stub.echo(data)
            rate.count += 1

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(work)
    return rate.per_second()


async def unary(stub: Bench, job: bc.Job, workers: int, data: bytes) -> float:
    if await stub.echo(data) != data:
        raise RuntimeError("the echo came back changed")
    await seconds_of(stub, job.warmup, workers, data)
    return await seconds_of(stub, job.seconds, workers, data)


async def download(stub: Bench, seconds: float) -> float:
    """MB/s of a stream of 1 MiB tensors."""
    received = 0
    start = time.perf_counter()
    stream: Any = stub.tensors(1_000_000)
    async with stream:
        async for tensor in stream:
            received += tensor.nbytes
            if time.perf_counter() > start + seconds or received > bc.MAX_BYTES:
                break
        return received / (time.perf_counter() - start) / 1e6


async def beside_bulk(stub: Bench, job: bc.Job) -> dict[str, float]:
    """Small calls beside a stream that sends all it can."""
    await stub.echo(SMALL)
    times: list[float] = []
    moved: list[float] = []

    async def saturate() -> None:
        moved.append(await download(stub, job.warmup + job.seconds))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(saturate)
        await trio.sleep(job.warmup)
        end = time.perf_counter() + job.seconds
        while (start := time.perf_counter()) < end:
            await stub.echo(SMALL)
            times.append(time.perf_counter() - start)
    return bc.beside_bulk(job, times, moved[0])


async def offered(stub: Bench, job: bc.Job) -> float:
    """99th percentile, in ms, of calls that begin when they are due, whatever came of the
    others.
    """
    await seconds_of(stub, job.warmup, 16, SMALL)
    times: list[float] = []
    start = time.perf_counter()
    total = int(bc.OFFERED * job.seconds)

    async def call(due: float) -> None:
        await stub.echo(SMALL)
        times.append(time.perf_counter() - due)

    begun = 0
    async with trio.open_nursery() as nursery:
        while begun < total:
            due = min(total, int((time.perf_counter() - start) * bc.OFFERED) + 1)
            for number in range(begun, due):
                nursery.start_soon(call, start + number / bc.OFFERED)
            begun = due
            await trio.sleep(0.0005)
    return bc.percentile(times, 0.99) * 1e3


async def array(stub: Bench) -> tuple[float, str]:
    """How many times the array's size either process grew by sending, or receiving, it."""
    before = await stub.peak_before()
    mine = bc.peak()
    sent = np.ones(bc.ARRAY // 8, np.float64)
    size, after = await stub.take(sent)
    if size != bc.ARRAY:
        raise RuntimeError("the array came in another size")
    client, server = (bc.peak() - mine) / bc.ARRAY, (after - before) / bc.ARRAY
    return max(client, server), f"client {client:.2f}, server {server:.2f}"


async def run_client(child: bc.Child, job: bc.Job, rpc: Rpc, peer: PeerId, note: str) -> None:
    """Do the work that `job` names."""
    stub = rpc.stub(peer, Bench, timeout=60.0)
    case = job.case.removeprefix("rpc-")
    name = case.removesuffix("-quic").removesuffix("-relay")
    if name == "unary-128B-seq":
        child.result({case: await unary(stub, job, 1, SMALL)}, note)
    if name == "unary-128B-c64":
        child.result({case: await unary(stub, job, 64, SMALL)}, note)
    if name == "unary-256KiB-c32":
        child.result({case: await unary(stub, job, 32, LARGE)}, note)
    if name in ("stream-1MiB", "shm-1MiB"):
        await download(stub, job.warmup)
        child.result({case: await download(stub, job.seconds)}, note)
    if name == "small-beside-bulk-p99":
        child.result(await beside_bulk(stub, job), note)
    if name == "unary-128B-open-p99":
        child.result({name: await offered(stub, job)}, note)
    if name == "array-1GiB-rss-ratio":
        value, which = await array(stub)
        child.result({name: value}, f"{note}; {which}")
    raise bc.Unsupported(f"no such work here: {job.case}")


async def serve(child: bc.Child, job: bc.Job, node: Node, addr: str) -> None:
    """Serve on a node that can be reached at `addr`, which has `{port}` in the port's place."""
    node.rpc.serve(Bench())
    child.ready(f"{addr}/p2p/{node.peer_id}", int(str(node.addrs[0]).split("/")[4]))
    await trio.sleep_forever()
