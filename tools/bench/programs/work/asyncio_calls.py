"""The work of the rpc bench for peers that live in asyncio, in terms of two functions of theirs.

Imported by scripts that run in their peer's environment: only the standard library.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
else:
    import bench_child as bc

PAYLOAD = os.urandom(bc.MIB)


class Calls(Protocol):
    """A connected peer."""

    def echo(self, message: bytes) -> Awaitable[object]:
        """A unary call that gives `message` back."""
        ...

    def messages(self) -> AsyncIterator[bytes]:
        """A call that answers with messages of 1 MiB without end; cancelled when it is closed."""
        ...


async def echoes(calls: Calls, job: bc.Job, workers: int, size: int = bc.SMALL) -> float:
    """Calls a second."""
    message = PAYLOAD[:size]

    async def work(rate: bc.Rate) -> None:
        while rate.running():
            await calls.echo(message)
            rate.count += 1

    rate = bc.Rate(0)
    for seconds in (job.warmup, job.seconds):
        rate = bc.Rate(seconds)
        await asyncio.gather(*(work(rate) for _ in range(workers)))
    return rate.per_second()


async def download(calls: Calls, seconds: float) -> float:
    """MB/s."""
    received = 0
    start = time.perf_counter()
    messages = calls.messages()
    async with aclosing(messages):  # type: ignore[type-var]
        async for message in messages:
            received += len(message)
            if time.perf_counter() > start + seconds or received > bc.MAX_BYTES:
                break
        return received / (time.perf_counter() - start) / 1e6


async def beside_bulk(calls: Calls, job: bc.Job) -> dict[str, float]:
    """Small calls beside a stream that sends all it can."""
    message = PAYLOAD[: bc.SMALL]
    await calls.echo(message)
    bulk = asyncio.create_task(download(calls, job.warmup + job.seconds))
    await asyncio.sleep(job.warmup)
    times: list[float] = []
    end = time.perf_counter() + job.seconds
    while (start := time.perf_counter()) < end:
        await calls.echo(message)
        times.append(time.perf_counter() - start)
    return bc.beside_bulk(job, times, await bulk)


async def offered(calls: Calls, job: bc.Job) -> float:
    """99th percentile, in ms, of calls that begin when they are due."""
    await echoes(calls, job, 16)
    message = PAYLOAD[: bc.SMALL]
    times: list[float] = []
    start = time.perf_counter()
    total = int(bc.OFFERED * job.seconds)

    async def one(due: float) -> None:
        await calls.echo(message)
        times.append(time.perf_counter() - due)

    begun = 0
    async with asyncio.TaskGroup() as group:
        while begun < total:
            due = min(total, int((time.perf_counter() - start) * bc.OFFERED) + 1)
            for number in range(begun, due):
                group.create_task(one(start + number / bc.OFFERED))
            begun = due
            await asyncio.sleep(0.0005)
    return bc.percentile(times, 0.99) * 1e3


async def run(calls: Calls, job: bc.Job) -> dict[str, float]:
    """Do the work that `job` names. Raises Unsupported."""
    name = job.case.removeprefix("rpc-")
    match name.removesuffix(f"-{job.transport}"):
        case "unary-128B-seq":
            return {name: await echoes(calls, job, 1)}
        case "unary-128B-c64":
            return {name: await echoes(calls, job, 64)}
        case "unary-256KiB-c32":
            return {name: await echoes(calls, job, 32, 256 * bc.KIB)}
        case "stream-1MiB" | "shm-1MiB":  # they share no memory: what there is to beat
            await download(calls, job.warmup)
            return {name: await download(calls, job.seconds)}
        case "small-beside-bulk-p99":
            return await beside_bulk(calls, job)
        case "unary-128B-open-p99":
            return {name: await offered(calls, job)}
    raise bc.Unsupported(f"no such work here: {job.case}")
