"""`python -m tools.bench.busy`: what a busy process costs its connections and its throughput.

The table of docs/guides/trainer.md. A trainer, a node in a process of its own, does what training
does to Python's interpreter lock; this process is its peer. Three questions:

- `kept`: the trainer holds the lock for so many seconds. Are the connection and the stream that
  were there before still there, over TCP, QUIC and a relay? One JSON object a line, with what the
  trainer logged.
- `bulk`: a thread of the trainer loops in Python while it receives a stream, with switch intervals
  of 5 ms (the default) and 0.5 ms, and without that thread. MB/s.
- `echo`: a thread of the trainer loops in Python, and 32 bytes go to it and come back, a hundred
  times a second: to its node (libp2p's ping), to a handler that is given by name, or to one that
  is given. With `Lattica()`, and with `Lattica(process=True)`. Milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from lattica import Lattica, Node
from lattica.config import NodeConfig, load_config
from lattica.facades.streams.blocking import BlockingStream
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.mux.stream import Stream
from lattica.nat.services.ping import PING
from tools.bench.children import Child, start

ECHO, NAMED, SINK = "/bench/echo/1", "/bench/named-echo/1", "/bench/sink/1"
LISTEN = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1/noise"]
MARKS = {"tcp": "/tcp/", "quic": "/quic-v1/", "relay": "/p2p-circuit"}
"""What tells an address of each path."""
CHUNK = bytes(1 << 20)
PAUSE = 0.01
"""Seconds between two echoes."""
_QUIET = {"nat.port_mapping.enabled": False}


def hold_lock(seconds: float) -> None:
    """Let no other thread run, as a call into C does that keeps the lock: for just so long."""
    ctypes.PyDLL(None).usleep(round(seconds * 1e6))


def loop_in_python(stop: threading.Event) -> None:
    """What a data loader or a tokenizer written in Python does."""
    number = 0
    while not stop.is_set():
        for _ in range(10_000):
            number = (number * 31 + 7) % 1_000_003


class Lines(logging.Handler):
    """Log lines, kept."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def sink(stream: Stream) -> None:
    size = 0
    while data := await stream.receive_view():
        size += len(data)
    await stream.send_message(str(size).encode())


def emit(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


async def trainer(settings: dict[str, object]) -> None:
    """The child: a node, and a thread that does what stdin says."""
    log = Lines()
    logging.getLogger("lattica").addHandler(log)
    async with Node(load_config(environment={}, overrides=_QUIET | settings)) as node:
        node.handle(ECHO, echo)
        node.handle(SINK, sink)
        if settings.get("relays"):
            await node.wait_reachable(30)
        emit("ready", addrs=[str(addr) for addr in node.addrs])
        threads: list[threading.Event] = []
        async for line in trio.wrap_file(sys.stdin):
            order = json.loads(line)
            if "hold" in order:
                emit("holding")
                began = time.monotonic()
                hold_lock(order["hold"])
                seconds = round(time.monotonic() - began, 1)
                await trio.sleep(1)  # the watchdog's thread has its turn
                emit("held", seconds=seconds, log=log.lines)
                log.lines = []
            if "switch" in order:
                sys.setswitchinterval(order["switch"])
                threads.append(threading.Event())
                threading.Thread(target=loop_in_python, args=threads[-1:], daemon=True).start()
                emit("looping")
            if "stop" in order:
                for stop in threads:
                    stop.set()
                emit("stopped")


def program(order: dict[str, Any]) -> None:
    """The child of `echo`: a program with threads, one of which loops in Python."""
    overrides = _QUIET | {"listen": LISTEN[:1]}
    config = load_config(environment={}, overrides=overrides)
    with Lattica(config, process=order["process"]) as lattica:
        lattica.handle(ECHO, echo_in_thread)
        lattica.handle(NAMED, "tools.bench.busy:echo_in_thread")
        if order["switch"] is not None:
            sys.setswitchinterval(order["switch"])
            loop = threading.Thread(target=loop_in_python, args=[threading.Event()], daemon=True)
            loop.start()
        emit("ready", addrs=[str(addr) for addr in lattica.addrs])
        sys.stdin.read()
        os._exit(0)  # the loop goes on


def echo_in_thread(stream: BlockingStream) -> None:
    for data in stream:
        stream.send_all(data)


@asynccontextmanager
async def a_trainer(path: str, settings: dict[str, object]) -> AsyncIterator[tuple[Child, str]]:
    """A trainer, and its address for one path."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(__file__).parents[2]
        command = [sys.executable, "-c", _CHILD.format(root=str(root)), json.dumps(settings)]
        async with start("trainer", command, Path(folder)) as child:
            with trio.fail_after(60):
                ready = await child.event("ready")
            addrs = ready["addrs"]
            assert isinstance(addrs, list)
            yield child, next(addr for addr in addrs if MARKS[path] in addr)


_CHILD = "import sys; sys.path.insert(0, {root!r}); from tools.bench import busy; busy.child()"


def child() -> None:
    """The trainer's entry."""
    settings = json.loads(sys.argv[1])
    if "process" in settings:
        program(settings)
    else:
        trio.run(trainer, settings)


@asynccontextmanager
async def a_relay() -> AsyncIterator[str]:
    config = load_config(
        environment={},
        overrides=_QUIET
        | {
            "listen": LISTEN[:1],
            "nat.relay_server.enabled": True,
            "nat.relay_server.limits.open_to_strangers": True,
            "nat.relay_server.limits.for_strangers.duration": 0.0,
        },
    )
    async with Node(config) as node:
        yield str(node.addrs[0])


async def echoed(stream: Stream, words: bytes) -> bool:
    await stream.send_all(words)
    return await stream.receive_exactly(len(words)) == words


async def kept(
    path: str, seconds: float, settings: dict[str, object] | None = None
) -> dict[str, Any]:
    """Whether a connection and a stream outlive a lock that is held; `settings`: the trainer's."""
    async with reached(path, settings or {}) as (child, addr), Node(peer_config()) as node:
        peer = await node.connect(addr)
        stream = await node.open_stream(peer, ECHO)
        assert await echoed(stream, b"before")
        await trio.sleep(2)  # identified, and idle
        before = connection_serial(node, peer)
        await child.send({"hold": seconds})
        await child.event("holding")
        held = await child.event("held")
        try:
            with trio.fail_after(20):
                works = await echoed(stream, b"after")
        except Exception as error:
            works, held["error"] = False, repr(error)
        return {
            "case": "kept",
            "path": path,
            "held_s": held["seconds"],
            "stream": works,
            "connection": connection_serial(node, peer) == before,
            "error": held.get("error", ""),
            "log": held["log"],
        }


def connection_serial(node: Node, peer: PeerId) -> int | None:
    best = node.swarm.registry.best(peer)
    return None if best is None else best.serial


def peer_config() -> NodeConfig:
    return load_config(environment={}, overrides=_QUIET | {"listen": []})


@asynccontextmanager
async def reached(path: str, settings: dict[str, object]) -> AsyncIterator[tuple[Child, str]]:
    """A trainer that is reached over `path`, and its address."""
    if path != "relay":
        async with a_trainer(path, {"listen": LISTEN, **settings}) as both:
            yield both
        return
    async with (
        a_relay() as relay,
        a_trainer(path, {"listen": [], "relays": [relay], **settings}) as both,
    ):
        yield both


async def bulk(seconds: float) -> AsyncIterator[dict[str, object]]:
    async with a_trainer("tcp", {"listen": LISTEN}) as (child, addr), Node(peer_config()) as node:
        peer = await node.connect(addr)
        for case, order in (("idle", None), ("5 ms", 0.005), ("0.5 ms", 0.0005)):
            if order is not None:
                await child.send({"switch": order})
                await child.event("looping")
            rate = await poured(node, peer, seconds)
            yield {"case": "bulk", "python_loop": case, "value": round(rate), "unit": "MB/s"}
            await child.send({"stop": True})
            await child.event("stopped")


async def echoes(seconds: float) -> AsyncIterator[dict[str, object]]:
    for process in (False, True):
        for switch in (None, 0.005, 0.0005):
            settings: dict[str, object] = {"process": process, "switch": switch}
            async with a_trainer("tcp", settings) as (_, addr), Node(peer_config()) as node:
                peer = await node.connect(addr)
                await trio.sleep(1)
                for protocol, by in (
                    (PING, "the node"),
                    (NAMED, "a handler that is named"),
                    (ECHO, "a handler"),
                ):
                    times = sorted(await echo_times(node, peer, protocol, seconds))
                    yield {
                        "case": "echo",
                        "process": process,
                        "python_loop": "none" if switch is None else f"{switch * 1e3:g} ms",
                        "answered_by": by,
                        "echoes": len(times),
                        "p50": round(times[len(times) // 2] * 1e3, 2),
                        "p99": round(times[len(times) * 99 // 100] * 1e3, 2),
                        "unit": "ms",
                    }


async def echo_times(node: Node, peer: PeerId, protocol: str, seconds: float) -> list[float]:
    """Seconds of each of many echoes."""
    times: list[float] = []
    until = trio.current_time() + seconds
    async with await node.open_stream(peer, protocol) as stream:
        while trio.current_time() < until:
            began = time.perf_counter()
            assert await echoed(stream, bytes(32))
            times.append(time.perf_counter() - began)
            await trio.sleep(PAUSE)
    return times


async def poured(node: Node, peer: PeerId, seconds: float) -> float:
    async with await node.open_stream(peer, SINK) as stream:
        began = trio.current_time()
        while trio.current_time() < began + seconds:
            await stream.send_all(CHUNK)
        await stream.send_eof()
        size = int(await stream.receive_message(100))
        return size / (trio.current_time() - began) / 1e6


async def measure(
    holds: list[float], paths: list[str], seconds: float, echo_seconds: float
) -> None:
    for path in paths:
        for hold in holds:
            print(json.dumps(await kept(path, hold)), flush=True)
    if seconds:
        async for line in bulk(seconds):
            print(json.dumps(line), flush=True)
    if echo_seconds:
        async for line in echoes(echo_seconds):
            print(json.dumps(line), flush=True)


def main(
    hold: Annotated[list[float] | None, typer.Option(help="Seconds (repeatable).")] = None,
    path: Annotated[list[str] | None, typer.Option(help="tcp, quic, relay (repeatable).")] = None,
    seconds: Annotated[float, typer.Option(help="Of each bulk case; 0: none.")] = 3.0,
    echo: Annotated[float, typer.Option(help="Seconds of each echo case; 0: none.")] = 5.0,
) -> None:
    """Hold the interpreter lock in a process, and see what its peers lose. `--hold 0`: not."""
    holds = [6.0, 25.0] if hold is None else [each for each in hold if each > 0]
    trio.run(measure, holds, path or ["tcp", "quic", "relay"], seconds, echo)


if __name__ == "__main__":
    typer.run(main)
