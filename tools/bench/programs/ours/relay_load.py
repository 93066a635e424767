"""Many circuits through a relay at once, and the way from a reservation to the first byte."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.ours.relay_swarms import NOTE, Dialer, Lattica, reserve, swarm_of
    from tools.bench.programs.ours.stream import BenchStream
    from tools.bench.programs.work import trio_workloads as work
else:
    import bench_child as bc
    from ours.relay_swarms import NOTE, Dialer, Lattica, reserve, swarm_of
    from ours.stream import BenchStream
    from work import trio_workloads as work

TOGETHER, FIRST_BYTE, OPEN = "circuits-20", "reserve-to-byte-p50", "circuits-500-p99"
CASES = (TOGETHER, FIRST_BYTE, OPEN)
PAUSE = 0.5
"""Seconds between two messages of one circuit."""


def direct_listen(job: bc.Job) -> tuple[str, ...]:
    """Where the called peer listens besides: where relayed is compared with direct."""
    return (f"/ip4/{job.host}/tcp/0",) if job.case == OPEN else ()


async def run_client(child: bc.Child, job: bc.Job) -> None:
    if job.case == TOGETHER:
        await together(child, job)
    elif job.case == FIRST_BYTE:
        await first_byte(child, job)
    else:
        await open_circuits(child, job)


async def together(child: bc.Child, job: bc.Job) -> None:
    """What all circuits move in total, each of a peer of its own, to one that is called."""
    async with contextlib.AsyncExitStack() as stack:
        dialers = []
        for _ in range(bc.BUSY_CIRCUITS):
            dialer = await stack.enter_async_context(Lattica().dialer())
            await dialer.connect_relay(job.addr)
            await dialer.connect(job.addr)
            dialers.append(dialer)

        async def move(seconds: float) -> tuple[int, float]:
            streams = [await work.open_sink(dialer) for dialer in dialers]
            counts, elapsed = await work.uploads(streams, 256 * bc.KIB, seconds)
            return sum(counts), elapsed

        await move(job.warmup)
        sent, elapsed = await move(job.seconds)
        child.result({job.case: sent / elapsed / 1e6}, NOTE, sent)


async def first_byte(child: bc.Child, job: bc.Job) -> None:
    """Both peers are connected to the relay, and nothing else: then one reserves, and the other
    calls it."""
    through = job.addr.partition("/p2p-circuit")[0]
    relay_addr, relay = split_peer(Multiaddr(through))
    assert relay is not None
    times: list[float] = []
    for _ in range(bc.RESERVATIONS):
        async with swarm_of() as (called, circuits), Lattica().dialer() as caller:
            circuits.accepts_from.add(relay)

            called.protocols.handle(work.ECHO, answer)
            connection = await called.dial(relay, [relay_addr])
            target = f"{through}/p2p-circuit/p2p/{called.identity.peer_id}"
            await caller.connect_relay(target)
            start = time.perf_counter()
            await reserve(connection)
            await caller.connect(target)
            await work.echo(await caller.open(work.ECHO), work.PAYLOAD[: bc.SMALL])
            times.append(time.perf_counter() - start)
    values = {
        FIRST_BYTE: bc.percentile(times, 0.5) * 1e3,
        "reserve-to-byte-p99": bc.percentile(times, 0.99) * 1e3,
    }
    child.result(values, f"{NOTE}; {bc.RESERVATIONS} peers, one after the other")


async def answer(stream: Stream) -> None:
    await work.serve_echo(BenchStream(stream))


async def open_circuits(child: bc.Child, job: bc.Job) -> None:
    """Messages there and back on direct connections of so many peers, and then on circuits."""
    relayed, direct = job.addr.split(" ")
    async with contextlib.AsyncExitStack() as stack:
        dialers = [
            await stack.enter_async_context(Lattica().dialer()) for _ in range(bc.OPEN_CIRCUITS)
        ]
        for dialer in dialers:
            await dialer.connect_directly(direct)
        without = bc.percentile(await paced(dialers, job), 0.99) * 1e3
        for dialer in dialers:
            await dialer.disconnect()
        for dialer in dialers:
            await dialer.connect_relay(relayed)
            await dialer.connect(relayed)
        p99 = bc.percentile(await paced(dialers, job), 0.99) * 1e3
        values = {OPEN: p99, "circuits-500-added-p99": p99 - without}
        child.result(values, f"{NOTE}; {bc.OPEN_CIRCUITS} circuits; direct: {without:.1f} ms")


async def paced(dialers: Sequence[Dialer], job: bc.Job) -> list[float]:
    """Seconds that messages took; one begins every `PAUSE` on a stream of each, evenly spread.

    Counted from when each was due: who is late because of an earlier one has waited, too.
    """
    streams = [await dialer.open(work.ECHO) for dialer in dialers]
    times: list[float] = []
    begin = trio.current_time() + 0.1
    measured = begin + job.warmup + PAUSE
    end = measured + job.seconds
    message = work.PAYLOAD[: bc.SMALL]

    async def talk(stream: work.BenchStream, due: float) -> None:
        while due < end:
            await trio.sleep_until(due)
            await work.echo(stream, message)
            if due >= measured:
                times.append(trio.current_time() - due)
            due += PAUSE

    async with trio.open_nursery() as nursery:
        for index, stream in enumerate(streams):
            nursery.start_soon(talk, stream, begin + PAUSE * index / len(streams))
    return times
