"""Plain TCP sockets: with a given congestion control, what the kernel gets out of a bad link; as
`plain`, what the ports bench has without anything between its client and its service.

Run as a script: `python impl_tcp.py server|client --variant plain|cubic|bbr|… …`. No encryption,
no identity, no streams.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.work import tcp_calls
else:
    import bench_child as bc
    from work import tcp_calls

PAYLOAD = os.urandom(bc.STREAM_WRITE)
CHUNK = 1 << 20


def connect(addr: str, congestion: str) -> socket.socket:
    """Raises :class:`bc.Unsupported` if the kernel does not have that congestion control."""
    host, _, port = addr.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    try:
        # Once it is connected: what the route prescribes overrides what was set before.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    except OSError as error:
        sock.close()
        raise bc.Unsupported(
            f"the kernel does not let us use TCP {congestion} ({error.strerror}); it has what "
            "/proc/sys/net/ipv4/tcp_available_congestion_control says"
        ) from error
    return sock


def serve(child: bc.Child, job: bc.Job) -> None:
    """Count what each connection carries, and answer at its end."""
    with socket.create_server((job.host, 0)) as listener:
        child.ready(f"{job.host}:{{port}}", listener.getsockname()[1])
        buffer = bytearray(CHUNK)
        while True:
            connection, _ = listener.accept()
            with connection:
                total = 0
                while received := connection.recv_into(buffer):
                    total += received
                connection.sendall(total.to_bytes(8, "big"))


def upload(job: bc.Job) -> tuple[int, float]:
    """Send for the measured time; the bytes sent, and the time until the server's count came."""
    with connect(job.addr, job.variant) as sock:
        sent = 0
        start = time.perf_counter()
        while time.perf_counter() < start + job.seconds and sent < bc.MAX_BYTES:
            sock.sendall(PAYLOAD)
            sent += len(PAYLOAD)
        sock.shutdown(socket.SHUT_WR)
        counted = int.from_bytes(sock.recv(8, socket.MSG_WAITALL), "big")
        if counted != sent:
            raise RuntimeError(f"sent {sent} bytes, the server received {counted}")
        return sent, time.perf_counter() - start


def serve_plain(child: bc.Child, job: bc.Job) -> None:
    with socket.create_server((job.host, 0), backlog=256) as listener:
        child.ready(f"{job.host}:{{port}}", listener.getsockname()[1])
        tcp_calls.serve(listener)


def main(child: bc.Child, job: bc.Job) -> None:
    if job.variant == "plain":
        if job.role == "server":
            serve_plain(child, job)
        child.result(tcp_calls.measure(job), "plain sockets, not encrypted")
    if job.transport != "tcp" or job.case not in bc.LOSSY_CASES:
        raise bc.Unsupported(f"no such work here: {job.case}")
    if job.role == "server":
        serve(child, job)
    else:
        sent, elapsed = upload(job)
        note = f"plain sockets, TCP {job.variant}, not encrypted"
        child.result({job.case: sent / elapsed / 1e6}, note, sent)


if __name__ == "__main__":
    bc.run(main)
