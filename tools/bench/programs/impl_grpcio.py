"""grpcio's asyncio API without TLS: the same work in gRPC's terms.

Run as a script in grpcio's own virtual environment: `python impl_grpcio.py server|client …`.
Messages are plain bytes (no protobuf), message limits are off, and every dialer has a connection
of its own (channels of one process otherwise share them).

A stream is a client-streaming call whose answer is the byte count; an echo is a unary call; a
connection is a channel that has become ready (TCP and HTTP/2 settings: there is no encryption and
no proof of identity to pay for).
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.work import asyncio_calls as calls
else:
    import bench_child as bc
    from work import asyncio_calls as calls

grpc: Any = importlib.import_module("grpc")
aio: Any = importlib.import_module("grpc.aio")

OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.so_reuseport", 0),
]
SERVICE = "lattica.bench.Bench"
PAYLOAD = calls.PAYLOAD
NOTE = f"grpcio {grpc.__version__} aio, not encrypted"


async def sink(requests: AsyncIterator[bytes], _context: object) -> bytes:
    total = 0
    async for message in requests:
        total += len(message)
    return total.to_bytes(8, "big")


async def echo(request: bytes, _context: object) -> bytes:
    return request


async def take(request: bytes, _context: object) -> bytes:
    return len(request).to_bytes(8, "big")


async def source(request: bytes, _context: object) -> AsyncIterator[bytes]:
    for _ in range(int.from_bytes(request, "big")):
        yield PAYLOAD


async def measure(request: bytes, _context: object) -> bytes:
    """The most memory that this process has had, before and after the request is thrown away."""
    return bc.peak().to_bytes(8, "big")


async def serve(child: bc.Child, job: bc.Job) -> None:
    server = aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                SERVICE,
                {
                    "Sink": grpc.stream_unary_rpc_method_handler(sink),
                    "Echo": grpc.unary_unary_rpc_method_handler(echo),
                    "Source": grpc.unary_stream_rpc_method_handler(source),
                    "Measure": grpc.unary_unary_rpc_method_handler(measure),
                    "Take": grpc.unary_unary_rpc_method_handler(take),
                },
            ),
        )
    )
    port = server.add_insecure_port(f"{job.host}:0")
    await server.start()
    child.ready(f"{job.host}:{{port}}", port)
    await server.wait_for_termination()


async def connect(addr: str) -> Any:
    channel = aio.insecure_channel(addr, options=OPTIONS)
    await channel.channel_ready()
    return channel


async def upload(channel: Any, write: int, seconds: float) -> tuple[int, float]:
    """Send for `seconds`; the bytes the server counted, and the time until its count came."""
    chunk = PAYLOAD[:write]
    sent = 0
    start = time.perf_counter()
    call = channel.stream_unary(f"/{SERVICE}/Sink")()
    while time.perf_counter() < start + seconds and sent < bc.MAX_BYTES:
        await call.write(chunk)
        sent += write
    await call.done_writing()
    counted = int.from_bytes(await call, "big")
    if counted != sent:
        raise RuntimeError(f"sent {sent} bytes, the server received {counted}")
    return sent, time.perf_counter() - start


async def one_stream(channel: Any, job: bc.Job, write: int) -> tuple[int, float]:
    if job.warmup > 0:
        await upload(channel, write, job.warmup)
    return await upload(channel, write, job.seconds)


async def acked_messages(channel: Any, job: bc.Job) -> tuple[int, float]:
    call = channel.unary_unary(f"/{SERVICE}/Take")
    sent = 0
    start = 0.0
    for seconds in (job.warmup, job.seconds):
        sent = 0
        start = time.perf_counter()
        while time.perf_counter() < start + seconds and sent < bc.MAX_BYTES:
            await call(PAYLOAD)
            sent += len(PAYLOAD)
    return sent, time.perf_counter() - start


async def pingpong_beside_bulk(channel: Any, job: bc.Job) -> dict[str, float]:
    call = channel.unary_unary(f"/{SERVICE}/Echo")
    message = PAYLOAD[: bc.SMALL]
    await call(message)
    bulk = asyncio.create_task(upload(channel, bc.MIB, job.warmup + job.seconds))
    await asyncio.sleep(job.warmup)
    times: list[float] = []
    end = time.perf_counter() + job.seconds
    while (start := time.perf_counter()) < end:
        await call(message)
        times.append(time.perf_counter() - start)
    sent, elapsed = await bulk
    return {
        "pingpong-beside-bulk-p50": bc.percentile(times, 0.5) * 1e3,
        "pingpong-beside-bulk-p99": bc.percentile(times, 0.99) * 1e3,
        "pingpong-beside-bulk-load": sent / elapsed / 1e6,
    }


class Calls:
    """:class:`asyncio_calls.Calls`."""

    def __init__(self, channel: Any) -> None:
        self.echo = channel.unary_unary(f"/{SERVICE}/Echo")
        self._source = channel.unary_stream(f"/{SERVICE}/Source")

    async def messages(self) -> AsyncIterator[bytes]:
        call = self._source((1_000_000).to_bytes(4, "big"))
        try:
            async for message in call:
                yield message
        finally:
            call.cancel()


async def array(channel: Any) -> float:
    """How many times its size either process grew by a message of 1 GiB."""
    call = channel.unary_unary(f"/{SERVICE}/Measure")
    before, mine = int.from_bytes(await call(b""), "big"), bc.peak()
    after = int.from_bytes(await call(b"1" * bc.ARRAY), "big")
    return max(bc.peak() - mine, after - before) / bc.ARRAY


async def dials(job: bc.Job, dialers: int) -> float:
    async def work(rate: bc.Rate) -> None:
        while rate.running():
            channel = await connect(job.addr)
            await channel.close()
            rate.count += 1

    await asyncio.gather(*(work(bc.Rate(job.warmup)) for _ in range(dialers)))
    rate = bc.Rate(job.seconds)
    await asyncio.gather(*(work(rate) for _ in range(dialers)))
    return rate.per_second()


async def idle(child: bc.Child, job: bc.Job) -> None:
    channels = []
    readings = []
    for name, more in (("baseline", bc.IDLE_WARM), ("loaded", bc.IDLE_CONNECTIONS)):
        for _ in range(more):
            channels.append(await connect(job.addr))
        reply = await asyncio.to_thread(partial(child.sync, name))
        readings.append(reply["server_rss"])
    value = (readings[1] - readings[0]) / bc.KIB / bc.IDLE_CONNECTIONS
    child.result({job.case: value}, f"{NOTE}; {bc.IDLE_CONNECTIONS} connections")


async def run_client(child: bc.Child, job: bc.Job) -> None:
    if job.case in ("handshakes", "dials"):
        rate = await dials(job, 1 if job.case == "handshakes" else bc.DIALERS)
        child.result({job.case: rate}, f"{NOTE}: TCP and HTTP/2 settings only")
    if job.case == "idle-connection":
        await idle(child, job)
    channel = await connect(job.addr)
    if job.case.startswith("rpc-"):
        name = job.case.removeprefix("rpc-")
        if name == "array-1GiB-rss-ratio":
            child.result({name: await array(channel)}, NOTE)
        child.result(await calls.run(Calls(channel), job), NOTE)
    if job.case in ("stream-1MiB", "stream-256KiB"):
        write = bc.MIB if job.case == "stream-1MiB" else 256 * bc.KIB
        sent, elapsed = await one_stream(channel, job, write)
        child.result({job.case: sent / elapsed / 1e6}, f"{NOTE}: client-streaming call", sent)
    elif job.case == "high-bdp":
        sent, elapsed = await upload(channel, 256 * bc.KIB, job.seconds)
        child.result({job.case: sent / elapsed / 50e6}, f"{NOTE}: client-streaming call", sent)
    elif job.case in bc.LOSSY_CASES:
        sent, elapsed = await upload(channel, bc.STREAM_WRITE, job.seconds)
        child.result({job.case: sent / elapsed / 1e6}, f"{NOTE}: client-streaming call", sent)
    elif job.case == "message-1MiB-acked":
        sent, elapsed = await acked_messages(channel, job)
        child.result({job.case: sent / elapsed / 1e6}, f"{NOTE}: unary calls", sent)
    elif job.case == "streams-100":
        await upload(channel, bc.STREAM_WRITE, job.warmup)
        start = time.perf_counter()
        done = await asyncio.gather(
            *(upload(channel, bc.STREAM_WRITE, job.seconds) for _ in range(bc.STREAMS))
        )
        elapsed = time.perf_counter() - start
        counts = [sent for sent, _ in done]
        values = {
            job.case: sum(counts) / elapsed / 1e6,
            "streams-100-fairness": bc.fairness(counts),
        }
        child.result(values, f"{NOTE}: client-streaming calls", sum(counts))
    elif job.case == "pingpong-beside-bulk-p50":
        values = await pingpong_beside_bulk(channel, job)
        child.result(values, f"{NOTE}: unary calls beside a client-streaming one")
    elif job.case in bc.ECHO_SEQ:
        child.result({job.case: await calls.echoes(Calls(channel), job, 1)}, f"{NOTE}: unary calls")
    elif job.case in bc.ECHO_C64:
        rate = await calls.echoes(Calls(channel), job, bc.ECHO_STREAMS)
        child.result({job.case: rate}, f"{NOTE}: unary calls, 64 in flight")
    raise bc.Unsupported(f"no such work here: {job.case}")


def main(child: bc.Child, job: bc.Job) -> None:
    if job.transport != "tcp":
        raise bc.Unsupported("grpcio has neither QUIC nor a relay")
    if job.role == "server":
        asyncio.run(serve(child, job))
    else:
        asyncio.run(run_client(child, job))


if __name__ == "__main__":
    bc.run(main)
