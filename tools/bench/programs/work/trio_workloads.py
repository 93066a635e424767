"""The work itself, for implementations with trio streams: ours and py-libp2p.

Both run exactly this code through thin adapters (:class:`BenchStream`, :class:`Dialer`), so that
a difference in the figures is a difference of the implementations.

Wire formats, both on streams of their own:

- `SINK`: the client sends one byte and gets one back (the stream is up); then it sends until it
  ends its direction; the server answers with the number of bytes as 8 bytes, big-endian.
- `ECHO`: every byte comes back, in messages of 128.
- `ACKED`: messages of 1 MiB, each answered by one byte.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
else:
    import bench_child as bc

SINK = "/lattica-bench/sink/1"
ECHO = "/lattica-bench/echo/1"
ACKED = "/lattica-bench/acked/1"
PAYLOAD = os.urandom(bc.MIB)
"""Random: an implementation that compresses must not gain by it."""


class BenchStream(Protocol):
    """A stream as the workloads use it."""

    async def send(self, data: bytes | memoryview) -> None: ...
    async def receive(self) -> int:
        """Take what has arrived and drop it; its length, 0 at the end."""
        ...

    async def receive_exactly(self, n: int) -> bytes: ...
    async def send_eof(self) -> None: ...
    async def aclose(self) -> None: ...


class Dialer(Protocol):
    """A node with an identity of its own that listens nowhere."""

    async def connect(self, addr: str) -> None: ...
    async def disconnect(self) -> None: ...
    async def open(self, protocol: str) -> BenchStream: ...


class Implementation(Protocol):
    """What an adapter provides.

    `max_connections` bounds how many connections its server takes in its life (None: no bound).
    """

    note: str
    max_connections: int | None

    def dialer(self) -> AbstractAsyncContextManager[Dialer]: ...


async def serve_sink(stream: BenchStream) -> None:
    await stream.send(await stream.receive_exactly(1))
    total = 0
    while received := await stream.receive():
        total += received
    await stream.send(total.to_bytes(8, "big"))


async def serve_echo(stream: BenchStream) -> None:
    while True:
        await stream.send(await stream.receive_exactly(bc.SMALL))


async def serve_acked(stream: BenchStream) -> None:
    while True:
        missing = bc.MIB
        while missing > 0:
            received = await stream.receive()
            if received == 0:
                return
            missing -= received
        await stream.send(b"\x06")


Handler = Callable[[BenchStream], Awaitable[None]]
HANDLERS: dict[str, Handler] = {
    SINK: serve_sink,
    ECHO: serve_echo,
    ACKED: serve_acked,
}


async def open_sink(dialer: Dialer) -> BenchStream:
    stream = await dialer.open(SINK)
    await stream.send(b"\x01")
    await stream.receive_exactly(1)
    return stream


async def upload(stream: BenchStream, write: int, seconds: float) -> tuple[int, float]:
    """Send for `seconds`; the bytes the server counted, and the time until its count came."""
    chunk = PAYLOAD[:write]
    sent = 0
    start = time.perf_counter()
    deadline = start + seconds
    while time.perf_counter() < deadline and sent < bc.MAX_BYTES:
        await stream.send(chunk)
        sent += write
    await stream.send_eof()
    counted = int.from_bytes(await stream.receive_exactly(8), "big")
    elapsed = time.perf_counter() - start
    await stream.aclose()
    if counted != sent:
        raise RuntimeError(f"sent {sent} bytes, the server received {counted}")
    return sent, elapsed


async def one_stream(dialer: Dialer, job: bc.Job, write: int) -> tuple[int, float]:
    if job.warmup > 0:
        await upload(await open_sink(dialer), write, job.warmup)
    return await upload(await open_sink(dialer), write, job.seconds)


async def uploads(
    streams: Sequence[BenchStream], write: int, seconds: float
) -> tuple[list[int], float]:
    """The bytes each stream moved, and the time until the last was acknowledged."""
    counts: list[int] = []

    async def send(stream: BenchStream) -> None:
        sent, _ = await upload(stream, write, seconds)
        counts.append(sent)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(send, stream)
    return counts, time.perf_counter() - start


async def many_streams(dialer: Dialer, job: bc.Job) -> tuple[list[int], float]:
    """See :func:`uploads`."""
    await one_stream(dialer, replace(job, seconds=0.05), bc.STREAM_WRITE)
    streams = [await open_sink(dialer) for _ in range(bc.STREAMS)]
    return await uploads(streams, bc.STREAM_WRITE, job.seconds)


async def acked_messages(dialer: Dialer, job: bc.Job) -> tuple[int, float]:
    stream = await dialer.open(ACKED)
    sent = 0
    start = 0.0
    for seconds in (job.warmup, job.seconds):
        sent = 0
        start = time.perf_counter()
        while time.perf_counter() < start + seconds and sent < bc.MAX_BYTES:
            await stream.send(PAYLOAD)
            await stream.receive_exactly(1)
            sent += len(PAYLOAD)
    return sent, time.perf_counter() - start


async def echo(stream: BenchStream, message: bytes) -> None:
    await stream.send(message)
    if await stream.receive_exactly(len(message)) != message:
        raise RuntimeError("the echo came back changed")


async def pingpong_beside_bulk(dialer: Dialer, job: bc.Job) -> dict[str, float]:
    message = PAYLOAD[: bc.SMALL]
    ping = await dialer.open(ECHO)
    await echo(ping, message)
    bulk = await open_sink(dialer)
    moved: list[tuple[int, float]] = []

    async def saturate() -> None:
        moved.append(await upload(bulk, bc.MIB, job.warmup + job.seconds))

    times: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(saturate)
        await trio.sleep(job.warmup)
        end = time.perf_counter() + job.seconds
        while (start := time.perf_counter()) < end:
            await echo(ping, message)
            times.append(time.perf_counter() - start)
    sent, elapsed = moved[0]
    return {
        "pingpong-beside-bulk-p50": bc.percentile(times, 0.5) * 1e3,
        "pingpong-beside-bulk-p99": bc.percentile(times, 0.99) * 1e3,
        "pingpong-beside-bulk-load": sent / elapsed / 1e6,
    }


async def echoes(dialer: Dialer, job: bc.Job, streams: int) -> float:
    """Messages there and back per second, over all streams."""
    message = PAYLOAD[: bc.SMALL]
    opened = [await dialer.open(ECHO) for _ in range(streams)]
    rate = bc.Rate(job.warmup)

    async def work(stream: BenchStream) -> None:
        while rate.running():
            await echo(stream, message)
            rate.count += 1

    for seconds in (job.warmup, job.seconds):
        rate = bc.Rate(seconds)
        async with trio.open_nursery() as nursery:
            for stream in opened:
                nursery.start_soon(work, stream)
    return rate.per_second()


async def open_and_close(dialer: Dialer, streams: int) -> None:
    """Use that many streams, some at once, each to the clean end of both its directions."""
    left = streams

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await upload(await open_sink(dialer), bc.SMALL, seconds=0)

    async with trio.open_nursery() as nursery:
        for _ in range(bc.OPENED_AT_ONCE):
            nursery.start_soon(work)


async def opened_streams(child: bc.Child, dialer: Dialer) -> tuple[float, str]:
    """KiB by which both processes grew by streams that are gone, and which process did."""
    readings = []
    for name, streams in (("warm", bc.OPENED_WARM), ("done", bc.OPENED_STREAMS)):
        await open_and_close(dialer, streams)
        readings.append(await trio.to_thread.run_sync(partial(child.sync, name)))
    return bc.growth_kib(*readings)


async def handshakes(dialer: Dialer, job: bc.Job, most: int) -> float:
    for _ in range(3):
        await dialer.connect(job.addr)
        await dialer.disconnect()
    rate = bc.Rate(job.seconds, most - 3)
    while rate.running():
        await dialer.connect(job.addr)
        await dialer.disconnect()
        rate.count += 1
    return rate.per_second()


async def dials(impl: Implementation, job: bc.Job, most: int) -> float:
    rate = bc.Rate(0)
    limit = most - bc.DIALERS

    async def work(dialer: Dialer) -> None:
        while rate.running():
            # Counted when begun, so that no more than `limit` are ever made.
            rate.count += 1
            await dialer.connect(job.addr)
            await dialer.disconnect()

    async with AsyncExitStack() as stack:
        dialers = [await stack.enter_async_context(impl.dialer()) for _ in range(bc.DIALERS)]
        for dialer in dialers:
            await dialer.connect(job.addr)
            await dialer.disconnect()
        rate = bc.Rate(job.seconds, limit)
        async with trio.open_nursery() as nursery:
            for dialer in dialers:
                nursery.start_soon(work, dialer)
        return rate.per_second()


async def idle(child: bc.Child, impl: Implementation, job: bc.Job, most: int) -> tuple[float, int]:
    """KiB per connection in the server, and how many connections that was measured with."""
    count = min(bc.IDLE_CONNECTIONS, most - bc.IDLE_WARM)
    async with AsyncExitStack() as stack:
        readings = []
        for name, more in (("baseline", bc.IDLE_WARM), ("loaded", count)):
            for _ in range(more):
                dialer = await stack.enter_async_context(impl.dialer())
                await dialer.connect(job.addr)
            reply = await trio.to_thread.run_sync(partial(child.sync, name))
            readings.append(reply["server_rss"])
        value = (readings[1] - readings[0]) / bc.KIB / count
        # Leaving the stack would close every node in turn.
        child.result({job.case: value}, f"{impl.note}; {count} connections")


async def run_client(child: bc.Child, job: bc.Job, impl: Implementation) -> None:
    """Do the work that `job` names and hand in the figures."""
    most = impl.max_connections or 1_000_000
    note = impl.note
    if job.case == "dials":
        child.result({job.case: await dials(impl, job, most)}, note)
    if job.case == "idle-connection":
        await idle(child, impl, job, most)
    async with impl.dialer() as dialer:
        if job.case == "handshakes":
            child.result({job.case: await handshakes(dialer, job, most)}, note)
        await dialer.connect(job.addr)
        if job.case in ("stream-1MiB", "stream-256KiB"):
            write = bc.MIB if job.case == "stream-1MiB" else 256 * bc.KIB
            sent, elapsed = await one_stream(dialer, job, write)
            child.result({job.case: sent / elapsed / 1e6}, note, sent)
        elif job.case == "high-bdp":
            # No warm-up: growing the window is part of the work.
            sent, elapsed = await one_stream(dialer, replace(job, warmup=0.0), 256 * bc.KIB)
            child.result({job.case: sent / elapsed / 50e6}, note, sent)
        elif job.case in bc.LOSSY_CASES:
            sent, elapsed = await upload(await open_sink(dialer), bc.STREAM_WRITE, job.seconds)
            child.result({job.case: sent / elapsed / 1e6}, note, sent)
        elif job.case == bc.RSS_CASE:
            growth, which = await opened_streams(child, dialer)
            child.result({job.case: growth}, f"{note}; {which}")
        elif job.case == "message-1MiB-acked":
            sent, elapsed = await acked_messages(dialer, job)
            child.result({job.case: sent / elapsed / 1e6}, note, sent)
        elif job.case == "streams-100":
            counts, elapsed = await many_streams(dialer, job)
            values = {
                job.case: sum(counts) / elapsed / 1e6,
                "streams-100-fairness": bc.fairness(counts),
            }
            child.result(values, note, sum(counts))
        elif job.case == "pingpong-beside-bulk-p50":
            child.result(await pingpong_beside_bulk(dialer, job), note)
        elif job.case in bc.ECHO_SEQ:
            child.result({job.case: await echoes(dialer, job, 1)}, note)
        elif job.case in bc.ECHO_C64:
            child.result({job.case: await echoes(dialer, job, bc.ECHO_STREAMS)}, note)
    raise bc.Unsupported(f"no such work here: {job.case}")
