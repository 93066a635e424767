"""Runs workloads: a server and a client process each time (and a relay's, where there is one),
implementations taking turns.

Machines are noisy, and drift: so within a case every round has each implementation once, and the
figure is the median over the rounds.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

from tools.bench.cases import LINK_BYTES_PER_SECOND, LINK_DELAY, OURS, Workload
from tools.bench.children import BenchError, Child, UnsupportedError, start
from tools.bench.figures.stats import Measurement, summarize
from tools.bench.links.lossy_link import Site, open_site

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
"""The scripts that children run."""
SETTLE = 1.5
"""Seconds before a server's memory is read: identification and the like must have ended."""
START_LIMIT = 60.0
"""Seconds until a server must listen; the first start may compile bytecode."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how often. `seconds` and `warmup` are for one run of a client."""

    repeats: int = 3
    seconds: float = 2.0
    warmup: float = 0.5
    limit: float = 90.0
    """Seconds a client may take in all."""


@dataclass(frozen=True, slots=True)
class Program:
    """An implementation to run: its name, the Python of its environment, and its script.

    `variant` and `sender`: as in :class:`tools.bench.venvs.Peer`.
    """

    impl: str
    python: Path
    script: Path
    variant: str = ""
    sender: Literal["server", "client"] = "client"
    between: Program | None = None
    """Where only its relay is measured: whose peers are on both sides of it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run yielded: a value for each case name, and what was done."""

    values: Mapping[str, float]
    note: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A workload that an implementation could not do (`unsupported`) or failed to do."""

    workload: str
    impl: str
    message: str
    unsupported: bool


def resident_bytes(pid: int) -> int:
    """Resident memory of a process (Linux: /proc); the kernel's socket buffers are not in it."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError as error:
        raise UnsupportedError(f"the memory of a process cannot be read here: {error}") from error
    for line in text.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise UnsupportedError("the kernel does not tell VmRSS")


@asynccontextmanager
async def _slow_link(python: Path, port: int, folder: Path) -> AsyncIterator[tuple[Child, int]]:
    """The delaying proxy in front of `port`, and the port it listens on."""
    command = [
        str(python),
        str(HERE / "links" / "delay_proxy.py"),
        f"--target=127.0.0.1:{port}",
        f"--delay={LINK_DELAY}",
        f"--rate={LINK_BYTES_PER_SECOND}",
    ]
    async with start("the delaying proxy", command, folder) as proxy:
        with _limit(START_LIMIT, "the delaying proxy did not start"):
            ready = await proxy.event("ready")
        yield proxy, _port(ready)


@asynccontextmanager
async def _relay(
    name: str, command: Sequence[str], folder: Path
) -> AsyncIterator[tuple[Child, str]]:
    """The relay between the two ends, and its address."""
    async with start(f"{name} relay", command, folder) as relay:
        with _limit(START_LIMIT, f"{name} relay did not listen"):
            ready = await relay.event("ready")
        yield relay, str(ready["addr"]).format(port=_port(ready))


def _port(ready: Mapping[str, object]) -> int:
    port = ready.get("port")
    if not isinstance(port, int):
        raise BenchError(f"a server became ready without a port: {ready}")
    return port


@contextmanager
def _limit(seconds: float, message: str) -> Iterator[None]:
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise BenchError(f"{message} within {seconds:.0f} s")


async def _drive(client: Child, others: Mapping[str, Child]) -> Mapping[str, object]:
    """Answer the client's sync points, with everybody's memory, until it has a result."""
    while True:
        event = await client.event("sync", "result")
        if event["event"] == "result":
            return event
        await trio.sleep(SETTLE)
        children = {**others, "client": client}
        rss = {f"{role}_rss": resident_bytes(child.pid) for role, child in children.items()}
        await client.send(dict(rss))


async def _check_path(proxy: Child, result: Mapping[str, object]) -> None:
    """The bytes must have gone through the slow link, not by a shortcut."""
    await proxy.send({})
    with _limit(5, "the delaying proxy did not answer"):
        stats = await proxy.event("stats")
    carried = max(float(str(stats["up"])), float(str(stats["down"])))
    if carried < float(str(result["bytes"])):
        raise BenchError(
            f"{result['bytes']} bytes were measured, but the slow link carried {carried:.0f}"
        )


async def run_once(
    program: Program, workload: Workload, settings: Settings, proxy_python: Path
) -> Reading:
    """One run: fresh processes, in a folder of their own that is then removed.

    Raises :class:`BenchError` or :class:`UnsupportedError`.
    """
    name = f"{program.impl} {workload.label}"
    if workload.bench == "relay" and program.impl != OURS and program.between is None:
        raise UnsupportedError("it is not measured through a relay")
    if workload.bench == "relay" and workload.transport != "relay" and program.impl != OURS:
        raise UnsupportedError("its relay takes no part in this")
    async with AsyncExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="lattica-bench-")
        folder = Path(stack.enter_context(temporary))
        site = Site()
        if workload.path == "lossy":
            site = await stack.enter_async_context(open_site(program.sender))
        command = child_command(program, workload, site)
        others: dict[str, Child] = {}
        server_args = []
        if workload.transport == "relay":
            relay, addr = await stack.enter_async_context(_relay(name, command("relay"), folder))
            others["relay"] = relay
            server_args = [f"--addr={addr}"]
        server = others["server"] = await stack.enter_async_context(
            start(f"{name} server", [*site.server, *command("server"), *server_args], folder)
        )
        with _limit(START_LIMIT, f"{name} server did not listen"):
            ready = await server.event("ready")
        port, proxy = _port(ready), None
        if workload.path == "slow":
            proxy, port = await stack.enter_async_context(_slow_link(proxy_python, port, folder))
        client_args = [
            f"--seconds={settings.seconds * workload.stretch}",
            f"--warmup={settings.warmup}",
            f"--addr={str(ready['addr']).format(port=port)}",
        ]
        client = await stack.enter_async_context(
            start(f"{name} client", [*site.client, *command("client"), *client_args], folder)
        )
        with _limit(settings.limit * workload.stretch, f"{name} client had no result"):
            result = await _drive(client, others)
        if proxy is not None:
            await _check_path(proxy, result)
        return to_reading(result, workload)


def child_command(
    program: Program, workload: Workload, site: Site
) -> Callable[[Literal["server", "client", "relay"]], list[str]]:
    """What starts a child in a role."""

    def command(role: Literal["server", "client", "relay"]) -> list[str]:
        played = program
        if workload.bench == "relay" and role != "relay" and program.between is not None:
            played = program.between
        return [
            str(played.python),
            str(played.script),
            role,
            f"--case={workload.name}",
            f"--transport={workload.transport}",
            f"--host={site.host}",
            f"--variant={played.variant}",
        ]

    return command


def to_reading(result: Mapping[str, object], workload: Workload) -> Reading:
    """Check a result event. Raises :class:`BenchError` if it lacks a case or has no number."""
    values = result.get("values")
    if not isinstance(values, dict):
        raise BenchError(f"a result without values: {result}")
    numbers: dict[str, float] = {}
    for case in workload.cases:
        value = values.get(case.name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise BenchError(f"a result without a number for {case.name}: {values}")
        numbers[case.name] = float(value)
    return Reading(numbers, str(result.get("note", "")))


async def run_workload(
    workload: Workload,
    programs: Sequence[Program],
    settings: Settings,
    proxy_python: Path,
    say: Callable[[str], None],
) -> tuple[list[Measurement], list[Failure]]:
    """All rounds of one workload, the implementations taking turns.

    One that fails once is left out of the remaining rounds, and reported as a failure.
    """
    readings: dict[str, list[Reading]] = {program.impl: [] for program in programs}
    failures: list[Failure] = []
    failed: set[str] = set()
    for round_ in range(min(settings.repeats, workload.max_repeats)):
        for program in programs:
            if program.impl in failed:
                continue
            say(f"{workload.label}: {program.impl}, round {round_ + 1}")
            try:
                reading = await run_once(program, workload, settings, proxy_python)
            except (BenchError, UnsupportedError) as error:
                unsupported = isinstance(error, UnsupportedError)
                failures.append(Failure(workload.label, program.impl, str(error), unsupported))
                failed.add(program.impl)
            else:
                readings[program.impl].append(reading)
    return summarize_readings(workload, readings, failed), failures


def summarize_readings(
    workload: Workload, readings: Mapping[str, Sequence[Reading]], failed: set[str]
) -> list[Measurement]:
    """A measurement for each case and implementation; one that failed has none."""
    return [
        summarize(case, impl, [reading.values[case.name] for reading in taken], taken[0].note)
        for case in workload.cases
        for impl, taken in readings.items()
        if taken and impl not in failed
    ]
