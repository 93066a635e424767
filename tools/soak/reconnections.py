"""`python -m tools.soak.reconnections`: one client comes back to a relay thousands of times.

The relay is a real `lattica relay` on loopback, open to strangers. The client is gone in turn in
each way that there is: it says goodbye, it disappears without a word, or it is back while its old
connection is still there. It reserves each time, and now and then somebody calls it through the
relay. Never may more than one reservation be counted for it, and the relay must not grow.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.request import urlopen

import trio
import typer

from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport, ask_relay
from lattica.nat.traversal.relay.messages import Reserve, Status
from tools.netlab.runs.chaos import usage
from tools.soak.trend import Trend, trend
from tools.soak.watch import BOUNDS, EARLY, MIB, threads_of

ECHO = "/soak/echo/1"
LISTEN = {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1/noise"}
CALL_EVERY = 5
"""Reconnections between two calls through the relay."""
MANY = 1000
"""Reconnections from which on all is expected to be flat without the first third."""
FAILED_SHARE = 0.05
"""Of the calls, while the machine has other things to do, too."""
LOOK_EVERY = 0.5
RESERVATIONS = "lattica_relay_reservations"
TIMEOUT = 120.0
"""Seconds that the relay has to start, and to notice who is gone."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the relay."""

    seconds: float
    reconnections: int
    calls: int
    failed: int
    """Calls that were not answered."""
    most_reservations: int
    """Of one client, at any look."""
    left: int
    """Reservations when the client was gone for good."""
    trends: dict[str, Trend]
    complaints: list[str]

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": not self.complaints,
            "seconds": round(self.seconds, 1),
            "reconnections": self.reconnections,
            "calls": self.calls,
            "failed": self.failed,
            "most_reservations": self.most_reservations,
            "reservations_left": self.left,
            "figures": {
                name: {
                    "start": round(each.start, 2),
                    "end": round(each.end, 2),
                    "bound": round(each.bound, 2),
                    "flat": each.is_flat,
                }
                for name, each in self.trends.items()
            },
            "complaints": self.complaints,
        }


@dataclass(slots=True)
class Relay:
    """One that runs in a process of its own, and what was seen of it."""

    process: trio.Process
    addr: Multiaddr
    peer_id: PeerId
    metrics: str
    most_reservations: int = 0
    samples: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    async def reservations(self) -> int:
        """How many it counts now."""
        page = await trio.to_thread.run_sync(_get, self.metrics)
        (line,) = (each for each in page.splitlines() if each.startswith(f"{RESERVATIONS} "))
        return int(float(line.split()[1]))

    async def see(self) -> None:
        """Notice how many it counts now."""
        self.most_reservations = max(self.most_reservations, await self.reservations())

    async def left(self) -> int:
        """How many it counts when all are gone, for which it has some time."""
        for _ in range(round(TIMEOUT / LOOK_EVERY)):
            if not await self.reservations():
                return 0
            await trio.sleep(LOOK_EVERY)
        return await self.reservations()

    async def look(self) -> None:
        """Look at it until cancelled."""
        while True:
            await self.see()
            memory, files = usage(self.process.pid)
            found = {"MiB": memory / MIB, "files": files, "threads": threads_of(self.process.pid)}
            for name, value in found.items():
                self.samples.setdefault(name, []).append((trio.current_time(), value))
            await trio.sleep(LOOK_EVERY)


def _get(url: str) -> str:
    with urlopen(url, timeout=TIMEOUT) as answer:
        return str(answer.read().decode())


@asynccontextmanager
async def relay(folder: Path, listen: str) -> AsyncIterator[Relay]:
    """`lattica relay --open` at `listen`; ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        watched = f"127.0.0.1:{probe.getsockname()[1]}"
    file = folder / "relay.toml"
    file.write_text(f'log_level = "warning"\n[metrics]\nlisten = ["{watched}"]\n')
    command = [sys.executable, "-m", "lattica", "--config", str(file), "relay", "--open"]
    command += ["--data-dir", str(folder / "data"), "--listen", listen, "--json"]
    environment = {**os.environ, "LATTICA_NAT__PORT_MAPPING__ENABLED": "false"}
    start = partial(
        trio.run_process, command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False,
        env=environment,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(start)
        try:
            assert process.stdout is not None
            text = b""
            with trio.fail_after(TIMEOUT):
                while b"\n" not in text:
                    part = await process.stdout.receive_some()
                    if not part:
                        raise LatticaError("the relay did not start")
                    text += part
            nursery.start_soon(_drain, process.stdout)
            addr, peer_id = split_peer(Multiaddr(json.loads(text.splitlines()[0])["addrs"][0]))
            assert peer_id is not None
            yield Relay(process, addr, peer_id, f"http://{watched}/metrics")
        finally:
            process.terminate()


async def _drain(output: trio.abc.ReceiveStream) -> None:
    while await output.receive_some():
        pass


async def _echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


class Client:
    """Who comes back: a swarm with the same key each time, as a program that was started again."""

    def __init__(self, identity: Identity, served: Relay) -> None:
        self._relay = served
        self.swarm = Swarm(identity, SwarmConfig(listen=()))
        self._circuits = CircuitTransport(self.swarm)
        self.swarm.add_transport(self._circuits)
        self.swarm.protocols.handle_all(self._circuits.handlers)
        self.swarm.protocols.handle(ECHO, _echo)
        self._circuits.accepts_from.add(served.peer_id)
        self._scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self._scope:
            await self.swarm.run(task_status=task_status)

    async def reserve(self) -> None:
        connection = await self.swarm.dial(self._relay.peer_id, [self._relay.addr])
        stream, answer = await ask_relay(connection, Reserve())
        await stream.aclose()
        if answer.status is not Status.OK:
            raise LatticaError(f"the relay refuses a reservation: {answer.status.name}")

    async def call(self, peer_id: PeerId) -> None:
        """Ask for an echo through the relay, on a connection that is new."""
        circuit = Multiaddr(f"{self._relay.addr}/p2p/{self._relay.peer_id}/p2p-circuit")
        await self.swarm.dial(peer_id, [circuit])
        async with await self.swarm.open_stream(peer_id, [ECHO]) as stream:
            await stream.send_all(b"again")
            await stream.send_eof()
            if await stream.receive_exactly(5) != b"again":
                raise LatticaError("an echo came back changed")
        await self.swarm.disconnect(peer_id)

    async def leave(self) -> None:
        """With a goodbye."""
        await self.swarm.close()

    def vanish(self) -> None:
        """Without a word."""
        self._scope.cancel()


async def reconnect(served: Relay, count: int) -> tuple[int, int]:
    """Have one client come back so often; how many calls to it were answered, and were not."""
    identity = Identity.generate()
    calls = failed = 0
    async with trio.open_nursery() as nursery:
        caller = Client(Identity.generate(), served)
        await nursery.start(caller.run)
        before: Client | None = None
        for number in range(count):
            client = Client(identity, served)
            await nursery.start(client.run)
            await client.reserve()
            if before is not None:  # it was still there
                before.vanish()
                before = None
            if number % CALL_EVERY == 0:
                await served.see()
                try:
                    await caller.call(identity.peer_id)
                    calls += 1
                except LatticaError as error:
                    print(f"a call failed: {error}", file=sys.stderr, flush=True)
                    failed += 1
            match number % 3:
                case 0:
                    await client.leave()
                case 1:
                    client.vanish()
                case 2:
                    before = client
        nursery.cancel_scope.cancel()
    return calls, failed


async def run(count: int, listen: str = LISTEN["tcp"]) -> Report:
    """Start a relay and come back to it `count` times."""
    with tempfile.TemporaryDirectory(prefix="lattica-reconnections-") as folder:
        async with relay(Path(folder), listen) as served:
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(served.look)
                calls, failed = await reconnect(served, count)
                nursery.cancel_scope.cancel()
            seconds = trio.current_time() - start
            left = await served.left()
    bounds = BOUNDS if count >= MANY else EARLY
    judged = {name: trend(samples, bounds[name]) for name, samples in served.samples.items()}
    trends = {name: each for name, each in judged.items() if each is not None}
    complaints = [
        f"the relay's {name} grew from {each.start:.1f} to {each.end:.1f}"
        for name, each in trends.items()
        if not each.is_flat
    ]
    if failed > FAILED_SHARE * (calls + failed):
        complaints.append(f"{failed} of {calls + failed} calls failed")
    if served.most_reservations > 1:
        complaints.append(f"{served.most_reservations} reservations were counted for one client")
    if left:
        complaints.append(f"{left} reservations were left when the client was gone")
    most = served.most_reservations
    return Report(seconds, count, calls, failed, most, left, trends, complaints)


def main(
    count: Annotated[int, typer.Option(min=1, help="How often the client comes back.")] = 10_000,
    transport: Annotated[str, typer.Option(metavar="tcp|quic", help="By which transport.")] = "tcp",
) -> None:
    """One client reconnects to a relay again and again; prints one JSON object. Exit status 1: more
    than one reservation was counted for it, or the relay grew."""
    if transport not in LISTEN:
        raise typer.BadParameter("tcp or quic", param_hint="--transport")
    report = trio.run(run, count, LISTEN[transport])
    print(json.dumps(report.as_json()))
    if report.complaints:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
