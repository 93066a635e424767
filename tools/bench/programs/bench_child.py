"""What every benchmark child process shares: its arguments and its JSON lines.

Only the standard library, because each child runs in the virtual environment of the
implementation it measures. A child is started as `python impl_x.py ROLE --case C …`, with the role
"server", "client" or "relay"; the folder of that script is then the first entry of `sys.path`,
which is how the scripts find this module without the checkout (and with it our own `lattica`)
being importable.

Lines on the child's stdout, one JSON object each:

- server: `{"event": "ready", "addr": "…{port}…", "port": N}`; the runner fills in `{port}`.
- client: `{"event": "sync", "name": …}`, answered on stdin by one JSON object, and at the end
  `{"event": "result", "values": {case: number}, "note": …, "bytes": N}`.
- either: `{"event": "error", "message": …}` or `{"event": "unsupported", "message": …}`.

A child ends when its stdin ends, and what it has started does, so none outlives its runner.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

KIB = 1024
MIB = 1024 * KIB
MAX_BYTES = 6_000_000_000
"""No measurement sends more than this, however fast it is."""
SMALL = 128
"""Bytes of a ping-pong or echo message."""
STREAMS = 100
STREAM_WRITE = 64 * KIB
"""Write size on each of those streams: small, so that a slow implementation's counts are fine."""
ECHO_STREAMS = 64
DIALERS = 32
IDLE_WARM = 20
"""Connections made before memory is first measured: imports and caches are not per connection."""
IDLE_CONNECTIONS = 500
OPENED_WARM = 1_000
"""Streams opened and closed before memory is first measured."""
OPENED_STREAMS = 10_000
OPENED_AT_ONCE = 32
OFFERED = 10_000
"""Calls a second that begin whether the earlier ones have ended or not."""
ARRAY = 1024 * MIB
CIRCUIT_WARM = 5
"""Circuits made before memory is first measured."""
CIRCUITS = 60
BUSY_CIRCUITS = 20
"""Those that move all they can together."""
OPEN_CIRCUITS = 500
RESERVATIONS = 100
"""Times that a peer reserves and is called."""
LOST_RELAYS = 5
"""Times that a relay is killed."""
RSS_CASE = "streams-10000-rss"
ECHO_SEQ = ("stream-echo-128B-seq", "echo-128B-seq")
ECHO_C64 = ("stream-echo-128B-c64", "echo-128B-c64")
LOSSY_CASES = ("stream-lossy-1pct-50ms-quic", "stream-lossy-1pct-50ms-tcp")


class Unsupported(Exception):
    """The implementation cannot do this work; the message says why."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the command line asks this child to do.

    `addr` is empty for a server, unless it is to be reached through the relay at that address.
    `warmup` and `seconds` are the unmeasured and measured times. `transport` is "tcp", "quic" or
    "relay"; `host` is the address a server listens on and from which a client may be reached.
    `variant` is for a script that serves several implementations.
    """

    role: str
    case: str
    addr: str
    seconds: float
    warmup: float
    transport: str = "tcp"
    host: str = "127.0.0.1"
    variant: str = ""


class Child:
    """The runner's side of this process, seen from inside: events out, replies in."""

    def __init__(self) -> None:
        # Libraries may print; only our own lines may reach the runner.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._replies: queue.SimpleQueue[dict[str, float]] = queue.SimpleQueue()
        threading.Thread(target=self._watch_stdin, daemon=True).start()

    def _watch_stdin(self) -> None:
        for line in sys.stdin:
            self._replies.put(json.loads(line))
        # With all that it has started: the runner, which gave it a session of its own, may have
        # been killed, and is then not there to do it.
        if os.getsid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    def emit(self, event: str, **fields: object) -> None:
        with self._lock:
            self._out.write(json.dumps({"event": event, **fields}) + "\n")
            self._out.flush()

    def ready(self, addr: str, port: int) -> None:
        """Say that the server listens; `addr` has `{port}` in the port's place."""
        self.emit("ready", addr=addr, port=port)

    def sync(self, name: str) -> dict[str, float]:
        """Tell the runner a point was reached; blocks until it answers (call it in a thread)."""
        self.emit("sync", name=name)
        return self._replies.get()

    def result(self, values: dict[str, float], note: str, sent: int = 0) -> NoReturn:
        """Hand in the figures and leave at once: tearing down is not part of the work."""
        self.emit("result", values=values, note=note, bytes=sent)
        os._exit(0)


def run(main: Callable[[Child, Job], object]) -> NoReturn:
    """Parse the command line, run `main`, and turn any exception into an event."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["server", "client", "relay"])
    parser.add_argument("--case", required=True)
    parser.add_argument("--addr", default="")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--transport", choices=["tcp", "quic", "relay"], default="tcp")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--variant", default="")
    job = Job(**vars(parser.parse_args()))
    # Hundreds of connections, and what some implementations need for each.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    child = Child()
    try:
        main(child, job)
    except BaseException as error:
        if isinstance(error, Unsupported):
            child.emit("unsupported", message=str(error))
        else:
            import traceback

            traceback.print_exc()
            child.emit("error", message=f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


class Rate:
    """Counts what was done in a fixed time, or once: `while rate.running(): …; rate.count += 1`."""

    def __init__(self, seconds: float, most: int = 1_000_000) -> None:
        self.count = 0
        self._most = most
        self._start = time.perf_counter()
        self._deadline = self._start + seconds

    def running(self) -> bool:
        if not self.count:
            return True  # a machine that stood still for that time has no rate of 0
        return self.count < self._most and time.perf_counter() < self._deadline

    def per_second(self) -> float:
        return self.count / (time.perf_counter() - self._start)


def multiaddr(job: Job, quic: str, port: int | str = 0) -> str:
    """Where to listen for `job`; `quic` is the name of its form of QUIC in multiaddrs.

    The port may be the `{port}` of :meth:`Child.ready`.
    """
    if job.transport == "quic":
        return f"/ip4/{job.host}/udp/{port}/{quic}"
    return f"/ip4/{job.host}/tcp/{port}"


def growth_kib(before: dict[str, float], after: dict[str, float]) -> tuple[float, str]:
    """How much both processes grew between two answers to `sync`, and a note on which did."""
    client, server = ((after[k] - before[k]) / KIB for k in ("client_rss", "server_rss"))
    return client + server, f"client {client:+.0f} KiB, server {server:+.0f} KiB"


def peak() -> int:
    """The most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def beside_bulk(job: Job, times: list[float], load: float) -> dict[str, float]:
    """The figures of small calls that took `times` beside a stream of `load` MB/s."""
    case = job.case.removeprefix("rpc-")
    return {case: percentile(times, 0.99) * 1e3, case.replace("p99", "load"): load}


def percentile(samples: list[float], fraction: float) -> float:
    """The sample below which `fraction` of them lie (nearest rank)."""
    if not samples:
        raise ValueError("nothing was measured")
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def fairness(counts: list[int]) -> float:
    """The slowest stream's share relative to the mean, 1.0 when all are equal."""
    return min(counts) * len(counts) / sum(counts)
