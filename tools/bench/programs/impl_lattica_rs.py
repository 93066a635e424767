"""The original Lattica (PyPI `lattica`, Rust core), or our drop-in: the same work in its terms.

Run as a script: `python impl_lattica_rs.py server|client …`, in the original's own virtual
environment, or (variant `compat`) where ours is installed, whose package has the same name.

What it cannot do, and what is measured instead, is in `NOTES`. It pickles what it sends; both ends
are our own children on loopback here. The work directory is the runner's temporary one.
"""

from __future__ import annotations

import importlib
import os
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.work import content as work
else:
    import bench_child as bc
    from work import content as work

rs: Any = importlib.import_module("lattica")

QUIC = "quic-v1"
TRANSPORTS = {"tcp": "TCP, Noise, yamux", "quic": "QUIC"}
NOTES = {
    "stream": "rpc_stream_iter, server to client (its only stream of messages)",
    "acked": "one rpc_stream call per message",
    "streams": "100 loops of 64 KiB unary calls (more than a few of its streams at once hang)",
    "echo": "unary rpc_method calls",
    "opened": "unary rpc_method calls, each of which it makes on a stream of its own",
    "dial": "a new node for each connection (it cannot disconnect), the shutdown not counted",
    "pingpong": "unary calls beside an rpc_stream_iter",
    "blocks": "put_block and get_block (Bitswap) of 1 MiB, 16 at a time",
}
PAYLOAD = os.urandom(bc.MIB)
BLOCKS = Path("content.blocks")
"""The content ids of a file's blocks, a line each."""
BLOCKS_AT_ONCE = 16
BLOCK_PATIENCE = 60
"""Seconds."""
MOST_NODES = 100
"""In one process: each node has threads and an inotify instance, of which there are 128 a user."""


class Bench(rs.ConnectionHandler):  # type: ignore[misc]
    """The service; its methods are collected by the base class."""

    @rs.rpc_method  # type: ignore[untyped-decorator]
    def echo(self, data: bytes) -> bytes:
        return data

    @rs.rpc_method  # type: ignore[untyped-decorator]
    def take(self, data: bytes) -> int:
        return len(data)

    @rs.rpc_stream  # type: ignore[untyped-decorator]
    def take_large(self, data: bytes) -> int:
        return len(data)

    @rs.rpc_stream_iter  # type: ignore[untyped-decorator]
    def source(self, size: int, seconds: float) -> Iterator[bytes]:
        chunk = PAYLOAD[:size]
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            yield chunk


def make_node(listen: str, bootstraps: list[str]) -> Any:
    """A node with everything off that a benchmark on loopback has no use for."""
    home = tempfile.mkdtemp(dir=".")
    builder = (
        rs.Lattica.builder()
        .with_listen_addrs([listen])
        .with_mdns(False)
        .with_upnp(False)
        .with_autonat(False)
        .with_dcutr(False)
        .with_storage_path(f"{home}/blocks")
        .with_dht_db_path(f"{home}/dht")
        .with_key_path(f"{home}/key")
    )
    if bootstraps:
        builder = builder.with_bootstraps(bootstraps)
    return builder.build()


def connect(job: bc.Job) -> Any:
    """A new node, once it is connected to the server."""
    addr = job.addr
    node = make_node(local_addr(job), [addr])
    peer = addr.rpartition("/")[2]
    deadline = time.perf_counter() + 20
    while peer not in node.get_all_peers():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"no connection to {addr}")
        time.sleep(0.0005)
    return node


def local_addr(job: bc.Job) -> str:
    """Where a client "listens": it cannot dial by QUIC without a socket of that kind."""
    host = job.host if job.host.startswith("127.") else "0.0.0.0"
    return bc.multiaddr(replace(job, host=host), QUIC)


def is_taken(job: bc.Job, port: int) -> bool:
    """Whether something listens there."""
    kind = socket.SOCK_DGRAM if job.transport == "quic" else socket.SOCK_STREAM
    with socket.socket(type=kind) as probe:
        try:
            probe.bind((job.host, port))
        except OSError:
            return True
        return False


def serve(child: bc.Child, job: bc.Job) -> None:
    # It does not tell which port it got, so one is chosen first.
    kind = socket.SOCK_DGRAM if job.transport == "quic" else socket.SOCK_STREAM
    with socket.socket(type=kind) as probe:
        probe.bind((job.host, 0))
        port = int(probe.getsockname()[1])
    node = make_node(bc.multiaddr(job, QUIC, port), [])
    service = Bench(node)
    if job.case in work.CASES:
        work.make_file()
    if job.case == work.FETCH:
        BLOCKS.write_text("\n".join(put_file(node)))
    deadline = time.perf_counter() + 10
    while not is_taken(job, port):
        if time.perf_counter() > deadline:
            raise TimeoutError(f"it does not listen on port {port}")
        time.sleep(0.01)
    child.ready(f"{bc.multiaddr(job, QUIC, '{port}')}/p2p/{node.peer_id()}", port)
    threading.Event().wait()
    del service


def download(
    stub: Any, write: int, seconds: float, limit: float | None = None
) -> tuple[int, float]:
    """What one iterator call of `seconds` delivered here, and how long that took.

    What comes later than `limit` seconds (by default three times as many, and one) does not count.
    """
    limit = 3 * seconds + 1 if limit is None else limit
    received = 0
    start = time.perf_counter()
    for message in stub.source(write, seconds):
        received += len(message)
        if time.perf_counter() > start + limit:
            # Its sender knows no backpressure and has queued much more by now.
            break
    return received, time.perf_counter() - start


def one_stream(stub: Any, job: bc.Job, write: int) -> tuple[int, float]:
    if job.warmup > 0:
        download(stub, write, job.warmup)
    return download(stub, write, job.seconds)


def acked_messages(stub: Any, job: bc.Job) -> tuple[int, float]:
    sent = 0
    start = 0.0
    for seconds in (job.warmup, job.seconds):
        sent = 0
        start = time.perf_counter()
        while time.perf_counter() < start + seconds and sent < bc.MAX_BYTES:
            if stub.take_large(PAYLOAD).result() != len(PAYLOAD):
                raise RuntimeError("the server received something else")
            sent += len(PAYLOAD)
    return sent, time.perf_counter() - start


def many_streams(stub: Any, job: bc.Job) -> tuple[list[int], float]:
    chunk = PAYLOAD[: bc.STREAM_WRITE]

    def work(rate: bc.Rate) -> int:
        while rate.running():
            if stub.take(chunk).result() != len(chunk):
                raise RuntimeError("the server received something else")
            rate.count += 1
        return rate.count

    counts: list[int] = []
    start = 0.0
    with ThreadPoolExecutor(bc.STREAMS) as pool:
        for seconds in (job.warmup, job.seconds):
            start = time.perf_counter()
            rates = [bc.Rate(seconds) for _ in range(bc.STREAMS)]
            counts = [done * len(chunk) for done in pool.map(work, rates)]
    return counts, time.perf_counter() - start


def calls(stub: Any, job: bc.Job) -> dict[str, float]:
    """The work of the rpc bench."""
    name = job.case.removeprefix("rpc-").removesuffix("-quic")
    case = job.case.removeprefix("rpc-")
    if name == "unary-128B-seq":
        return {case: echoes(stub, job, 1)}
    if name == "unary-128B-c64":
        return {case: echoes(stub, job, 64)}
    if name == "unary-256KiB-c32":
        return {case: echoes(stub, job, 32, 256 * bc.KIB)}
    if name == "stream-1MiB":
        sent, elapsed = one_stream(stub, job, bc.MIB)
        return {case: sent / elapsed / 1e6}
    if name == "small-beside-bulk-p99":
        times, load = beside_bulk(stub, job)
        return bc.beside_bulk(job, times, load)
    raise bc.Unsupported(f"no such work here: {job.case}")


def echoes(stub: Any, job: bc.Job, in_flight: int, size: int = bc.SMALL) -> float:
    """Calls per second with a sliding window of futures, which serves it better than threads."""
    message = PAYLOAD[:size]
    rate = bc.Rate(0)
    for seconds in (job.warmup, job.seconds):
        rate = bc.Rate(seconds)
        pending = deque(stub.echo(message) for _ in range(in_flight))
        while pending:
            pending.popleft().result()
            rate.count += 1
            if rate.running():
                pending.append(stub.echo(message))
    return rate.per_second()


def opened_streams(child: bc.Child, stub: Any) -> tuple[float, str]:
    message = PAYLOAD[: bc.SMALL]
    readings = []
    for name, calls in (("warm", bc.OPENED_WARM), ("done", bc.OPENED_STREAMS)):
        pending: deque[Any] = deque()
        for _ in range(calls):
            if len(pending) == bc.OPENED_AT_ONCE:
                pending.popleft().result()
            pending.append(stub.echo(message))
        while pending:
            pending.popleft().result()
        readings.append(child.sync(name))
    return bc.growth_kib(*readings)


def beside_bulk(stub: Any, job: bc.Job) -> tuple[list[float], float]:
    """How long calls took beside a stream, and its MB/s."""
    message = PAYLOAD[: bc.SMALL]
    moved: list[tuple[int, float]] = []
    stub.echo(message).result()

    def saturate() -> None:
        moved.append(download(stub, bc.MIB, job.warmup + job.seconds))

    bulk = threading.Thread(target=saturate)
    bulk.start()
    time.sleep(job.warmup)
    times: list[float] = []
    end = time.perf_counter() + job.seconds
    while (start := time.perf_counter()) < end:
        stub.echo(message).result()
        times.append(time.perf_counter() - start)
    bulk.join()
    received, elapsed = moved[0]
    return times, received / elapsed / 1e6


def put_file(node: Any) -> list[str]:
    """Have the node serve the file, in blocks: it knows of nothing larger."""
    with work.FILE.open("rb") as file:
        return [node.put_block(block) for block in iter(lambda: file.read(bc.MIB), b"")]


def fetch_file(node: Any) -> None:
    """Get all blocks, and write them to one file."""
    work.OUT.mkdir()
    with (work.OUT / work.FILE.name).open("wb") as file, ThreadPoolExecutor(BLOCKS_AT_ONCE) as pool:

        def get(number: int, cid: str) -> None:
            _, block = node.get_block(cid, BLOCK_PATIENCE)
            os.pwrite(file.fileno(), block, number * bc.MIB)

        cids = BLOCKS.read_text().split()
        for _ in pool.map(get, range(len(cids)), cids):
            pass


def content(child: bc.Child, job: bc.Job) -> NoReturn:
    """The work of the content bench."""
    if job.case == work.PUBLISH:
        node = make_node(local_addr(job), [])
        watch = work.Stopwatch()
        put_file(node)
        child.result(watch.published(), f"{name_of(job)}: {NOTES['blocks']}")
    node = connect(job)
    watch = work.Stopwatch()
    fetch_file(node)
    child.result(watch.fetched(), f"{name_of(job)}: {NOTES['blocks']}", work.SIZE)


def handshakes(job: bc.Job) -> float:
    """Nodes connected per second of connecting; they stay until this process ends."""
    nodes = [connect(job)]
    rate = bc.Rate(job.seconds, MOST_NODES - 1)
    while rate.running():
        nodes.append(connect(job))
        rate.count += 1
    return rate.per_second()


def idle(child: bc.Child, job: bc.Job) -> None:
    count = MOST_NODES - bc.IDLE_WARM
    nodes = []
    readings = []
    for name, more in (("baseline", bc.IDLE_WARM), ("loaded", count)):
        nodes += [connect(job) for _ in range(more)]
        readings.append(child.sync(name)["server_rss"])
    value = (readings[1] - readings[0]) / bc.KIB / count
    child.result({job.case: value}, f"{name_of(job)}; {count} connections")


def name_of(job: bc.Job) -> str:
    who = "drop-in for lattica" if job.variant == "compat" else "lattica 1.0.21 (Rust)"
    return f"{who}: {TRANSPORTS[job.transport]}"


def run_client(child: bc.Child, job: bc.Job) -> None:
    what = name_of(job)
    if job.case == "handshakes":
        child.result({job.case: handshakes(job)}, f"{what}: {NOTES['dial']}")
    if job.case == "dials":
        raise bc.Unsupported("a dialer here is a whole node with threads; see handshakes")
    if job.case == "idle-connection":
        idle(child, job)
    if job.case in work.CASES:
        content(child, job)
    node = connect(job)
    service = Bench(node)
    stub = service.get_stub(job.addr.rpartition("/")[2])
    if job.case.startswith("rpc-"):
        child.result(calls(stub, job), f"{what}: {NOTES['echo']}, {NOTES['stream']}")
    if job.case in ("stream-1MiB", "stream-256KiB"):
        write = bc.MIB if job.case == "stream-1MiB" else 256 * bc.KIB
        sent, elapsed = one_stream(stub, job, write)
        child.result({job.case: sent / elapsed / 1e6}, f"{what}: {NOTES['stream']}", sent)
    elif job.case == "high-bdp":
        sent, elapsed = download(stub, 256 * bc.KIB, job.seconds)
        child.result({job.case: sent / elapsed / 50e6}, f"{what}: {NOTES['stream']}", sent)
    elif job.case in bc.LOSSY_CASES:
        sent, elapsed = download(stub, bc.STREAM_WRITE, job.seconds, limit=job.seconds)
        child.result({job.case: sent / elapsed / 1e6}, f"{what}: {NOTES['stream']}", sent)
    elif job.case == bc.RSS_CASE:
        growth, which = opened_streams(child, stub)
        child.result({job.case: growth}, f"{what}: {NOTES['opened']}; {which}")
    elif job.case == "message-1MiB-acked":
        sent, elapsed = acked_messages(stub, job)
        child.result({job.case: sent / elapsed / 1e6}, f"{what}: {NOTES['acked']}", sent)
    elif job.case == "streams-100":
        counts, elapsed = many_streams(stub, job)
        values = {
            job.case: sum(counts) / elapsed / 1e6,
            "streams-100-fairness": bc.fairness(counts),
        }
        child.result(values, f"{what}: {NOTES['streams']}", sum(counts))
    elif job.case == "pingpong-beside-bulk-p50":
        times, load = beside_bulk(stub, job)
        values = {
            "pingpong-beside-bulk-p50": bc.percentile(times, 0.5) * 1e3,
            "pingpong-beside-bulk-p99": bc.percentile(times, 0.99) * 1e3,
            "pingpong-beside-bulk-load": load,
        }
        child.result(values, f"{what}: {NOTES['pingpong']}")
    elif job.case in bc.ECHO_SEQ:
        child.result({job.case: echoes(stub, job, 1)}, f"{what}: {NOTES['echo']}")
    elif job.case in bc.ECHO_C64:
        rate = echoes(stub, job, bc.ECHO_STREAMS)
        child.result({job.case: rate}, f"{what}: {NOTES['echo']}, 64 in flight")
    raise bc.Unsupported(f"no such work here: {job.case}")


def main(child: bc.Child, job: bc.Job) -> None:
    if job.transport == "relay":
        raise bc.Unsupported("it makes no calls over relayed connections")
    if job.role == "server":
        serve(child, job)
    else:
        run_client(child, job)


if __name__ == "__main__":
    bc.run(main)
