"""A plain TCP service, and the work of the ports bench as its client. Only the standard library."""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
else:
    import bench_child as bc

PAYLOAD = os.urandom(bc.MIB)
SINK, ECHO = b"s", b"e"
"""A connection's first byte: what comes is counted, or given back."""


def serve(listener: socket.socket) -> None:
    """A thread for each connection."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(connection,), daemon=True).start()


def _serve_one(connection: socket.socket) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(bc.MIB)
        is_echo = connection.recv(1) == ECHO
        total = 0
        while received := connection.recv_into(buffer):
            total += received
            if is_echo:
                connection.sendall(memoryview(buffer)[:received])
        if not is_echo:
            connection.sendall(total.to_bytes(8, "big"))


def connect(addr: str, kind: bytes) -> socket.socket:
    host, _, port = addr.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(kind)
    return sock


def upload(addr: str, seconds: float) -> float:
    """MB/s, until the service's count is back."""
    with connect(addr, SINK) as sock:
        sent = 0
        start = time.perf_counter()
        while time.perf_counter() < start + seconds and sent < bc.MAX_BYTES:
            sock.sendall(PAYLOAD)
            sent += len(PAYLOAD)
        sock.shutdown(socket.SHUT_WR)
        counted = int.from_bytes(sock.recv(8, socket.MSG_WAITALL), "big")
        if counted != sent:
            raise RuntimeError(f"sent {sent} bytes, the service received {counted}")
        return sent / (time.perf_counter() - start) / 1e6


def echo(sock: socket.socket) -> None:
    message = PAYLOAD[: bc.SMALL]
    sock.sendall(message)
    if sock.recv(bc.SMALL, socket.MSG_WAITALL) != message:
        raise RuntimeError("the echo came back changed")


def echoes(addr: str, connections: int, rate: bc.Rate) -> float:
    """There and back, on so many connections at once, each a thread's."""

    def work(_: int) -> int:
        count = 0
        with connect(addr, ECHO) as sock:
            while rate.running():
                echo(sock)
                count += 1
        return count

    with ThreadPoolExecutor(connections) as pool:
        rate.count = sum(pool.map(work, range(connections)))
    return rate.per_second()


def connects(addr: str, rate: bc.Rate) -> float:
    """Connections one after the other, each used once."""
    while rate.running():
        with connect(addr, ECHO) as sock:
            echo(sock)
        rate.count += 1
    return rate.per_second()


def measure(job: bc.Job) -> dict[str, float]:
    """Do the work that `job` names. Raises Unsupported."""
    name = job.case.removeprefix("ports-")
    works = {
        "stream-1MiB": lambda seconds: upload(job.addr, seconds),
        "echo-128B-seq": lambda seconds: echoes(job.addr, 1, bc.Rate(seconds)),
        "echo-128B-c64": lambda seconds: echoes(job.addr, bc.ECHO_STREAMS, bc.Rate(seconds)),
        "connects": lambda seconds: connects(job.addr, bc.Rate(seconds)),
    }
    if name not in works:
        raise bc.Unsupported(f"no such work here: {job.case}")
    works[name](job.warmup)
    return {name: works[name](job.seconds)}
