"""The programs of a scenario as they run: command lines, success and failure."""

from __future__ import annotations

import hashlib
import random
import re
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from lattica.content.manifest.paths import RESERVED_PREFIX
from tools.netlab.errors import LabError
from tools.netlab.lab.lab import Lab
from tools.netlab.lab.programs import LATTICA, Event, Running
from tools.netlab.runs import skew
from tools.netlab.runs.mesh import RELAYED, Mesh, path_kind
from tools.netlab.runs.report import Outcome
from tools.netlab.runs.timeline import Timeline
from tools.netlab.spec.fault import ClockSkew
from tools.netlab.spec.workload import (
    PLACEHOLDER,
    PROGRAMS,
    CommandProgram,
    FetchProgram,
    NodeProgram,
    Program,
    PublishProgram,
    RelayProgram,
)
from tools.netlab.wire.forwarder_client import PROJECT

MIB = 1 << 20
KINDS = {cls: kind for kind, cls in PROGRAMS.items()}
START_TIMEOUT = 180.0
"""Seconds that a program may take until it is ready; machines are busy."""
REPORT_WITHIN = 1.0
"""Seconds after which the other end says what one end of a connection has said."""
RESERVED_WITHIN = 5.0
"""Seconds that those who look for a node wait until it can be reached through its relays."""


class Job:
    """One program of a scenario: it may be started several times, and has one outcome."""

    def __init__(
        self, program: Program, lab: Lab, mesh: Mesh, on_event: Callable[[Event], None]
    ) -> None:
        self.program = program
        self.name = program.name
        self.ready = trio.Event()
        """Those that need it may start. Set also when it has failed: they fail by themselves."""
        self.up = trio.Event()
        """It is ready or, if it works towards an end, is at work. Set also when it has failed."""
        self.done = trio.Event()
        """It has succeeded or failed, though it may still run."""
        self.running: Running | None = None
        self.killed = False
        """A fault killed it, and nobody has started it since."""
        self._comes_again = False
        """And a fault will start it."""
        self.ticket = ""
        self._lab = lab
        self._mesh = mesh
        self._report = on_event
        self._argv: list[str] = []
        self._life = 0
        self._ok = False
        self._detail = "was not started"
        self._values: dict[str, Any] = {}
        self._began = self._ended = self._ready_at = 0.0
        self._changed = trio.lowlevel.ParkingLot()
        self._started_again = trio.lowlevel.ParkingLot()
        self._clock_file = lab.folder / f"{self.name}.clock"
        self._is_skewed = any(
            isinstance(fault, ClockSkew) and fault.program == self.name
            for fault in lab.scenario.faults
        )

    @property
    def folder(self) -> Path:
        return self._lab.folder / self.name

    # --- running ---

    async def run(self, others: Mapping[str, Job], timeline: Timeline) -> None:
        """From waiting for its turn to its success or failure; the program may run on."""
        program = self.program
        await timeline.until(program.at_s)
        for name in program.needs:
            await others[name].ready.wait()
        self._began = self._lab.now()
        self._detail = "did not come to an end"
        try:
            await self._act(others)
        except LabError as error:
            self._detail = str(error)
        self._ended = self._lab.now()
        self.ready.set()
        self.up.set()
        self.done.set()

    async def restart(self) -> None:
        """Start it again that was killed. Does nothing if it had not been started."""
        if not self.killed:
            return
        self._now_running().let_go()
        try:
            await self._start()
        finally:
            self._comes_again = False
            self._started_again.unpark_all()

    async def _start(self) -> Running:
        """Start the program, the first time or again."""
        env = dict(self.program.env)
        if self._is_skewed:
            library = await trio.to_thread.run_sync(skew.build, self._lab.folder)
            env |= skew.environment(library, self._clock_file)
        self.killed = False
        on_event = partial(self._on_event, self._life)
        self.running = await self._lab.start(
            self.program.host, self._argv, name=self.name, env=env, on_event=on_event
        )
        return self.running

    def signal(self, number: int) -> None:
        """Does nothing if it does not run."""
        if self._runs:
            assert self.running is not None
            self.running.process.send_signal(number)

    def kill(self, *, comes_again: bool) -> None:
        """End it by a fault; `comes_again`: :meth:`restart` will be called. Until then it has
        neither succeeded nor failed. Does nothing if it does not run.
        """
        if self._runs:
            self.signal(signal.SIGKILL)
            self.killed = True
            self._comes_again = comes_again
            # What it said before its end may still be read after it.
            self._life += 1
            self._mesh.forget(self.name)

    def skew(self, offset_s: float) -> None:
        """Set its wall clock."""
        skew.set_offset(self._clock_file, offset_s)

    def mesh_changed(self) -> None:
        """To be called when any node has said something."""
        self._changed.unpark_all()

    def is_apart(self, others: Mapping[str, Job]) -> bool:
        """Whether it was connected to all that it is to stay connected to, and is not now."""
        return self._ok and self._runs and bool(self._lost(others))

    def _lost(self, others: Mapping[str, Job]) -> list[str]:
        if not isinstance(self.program, NodeProgram) or not self.program.stays:
            return []
        return [name for name in self._missing() if not others[name].killed]

    def finish(self, others: Mapping[str, Job]) -> Outcome:
        """Its outcome, judged by the state at the end as well."""
        ok, detail = self._ok, self._detail
        if self._stays and ok and not self.killed:
            status = self.running.process.status if self.running else None
            if status is not None:
                ok = False
                detail = f"ended with status {status}{self._last_words()}"
            elif lost := self._lost(others):
                ok, detail = False, f"{detail}; at the end not to {', '.join(lost)}"
        if isinstance(self.program, NodeProgram):
            self._values["links"] = self._links()
        return Outcome(
            program=self.name,
            host=self.program.host,
            kind=KINDS[type(self.program)],
            ok=ok,
            detail=self._mesh.named(detail),
            seconds=round(max(0.0, self._ended - self._began), 3),
            values=self._values,
        )

    @property
    def _runs(self) -> bool:
        return self.running is not None and self.running.process.status is None

    @property
    def _stays(self) -> bool:
        """Whether it is meant to run until it is stopped."""
        if isinstance(self.program, CommandProgram):
            return self.program.exit_code is None
        return not isinstance(self.program, FetchProgram)

    def _on_event(self, life: int, event: Event) -> None:
        if life == self._life:
            self._mesh.feed(self.name, event)
        self._report(event)

    def _last_words(self) -> str:
        return self.running.last_words() if self.running else ""

    async def _act(self, others: Mapping[str, Job]) -> None:
        match self.program:
            case NodeProgram() as program:
                await self._node(program, others)
            case PublishProgram() as program:
                await self._publish(program)
            case FetchProgram() as program:
                await self._fetch(program, others[program.source])
            case CommandProgram() as program:
                await self._command(program, others)

    # --- each kind ---

    async def _node(self, program: NodeProgram, others: Mapping[str, Job]) -> None:
        is_relay = isinstance(program, RelayProgram)
        command = ["relay", "--open"] if is_relay else ["node"]
        self._argv = [*LATTICA, *command, "--json", *_options("--listen", program.listen)]
        relays = [
            name for name in program.connect if isinstance(others[name].program, RelayProgram)
        ]
        for target in program.connect:
            addrs = self._mesh.addresses(target)
            if target not in relays:
                addrs += self._mesh.relayed_addresses(target, relays)
            self._argv += _options("--connect", addrs)
        await self._start()
        with trio.move_on_after(START_TIMEOUT):
            event = await self._wait_event(lambda event: event.get("event") == "ready")
        if self._mesh.peer_id(self.name) is None:
            raise LabError(f"was not ready after {START_TIMEOUT:g} s{self._last_words()}")
        self._ready_at = float(event["t"])
        with trio.move_on_after(program.timeout_s):
            while self._missing() or self._relayed():
                await self._changed.park()
        # What is late is not wrong, on a busy machine.
        with trio.move_on_after(START_TIMEOUT):
            while self._missing():
                await self._changed.park()
        # The others' news of it have the address at which they see this node.
        with trio.move_on_after(REPORT_WITHIN):
            while not all(self._mesh.is_mutual(self.name, target) for target in program.connect):
                await self._changed.park()
        if any(self.name in job.program.needs for job in others.values()):
            await self._be_reserved(relays)
        missing = self._missing()
        self._ok = not missing
        if missing:
            reason = _reason(self.running.stderr()) if self.running else ""
            took = f"after {self._lab.now() - self._ready_at:.0f} s"
            self._detail = f"not connected to {', '.join(missing)} {took}{reason}"
        elif program.connect:
            self._detail = f"connected to {', '.join(map(self._described, program.connect))}"
        else:
            self._detail = "ready"

    async def _be_reserved(self, relays: list[str]) -> None:
        """Wait until one of the relays lets others through; those at public addresses need none."""
        with trio.move_on_after(RESERVED_WITHIN if relays else 0):
            while not any(self._mesh.has_reservation(self.name, relay) for relay in relays):
                await self._changed.park()

    def _described(self, target: str) -> str:
        link = self._mesh.link(self.name, target)
        return target if link is None else f"{target} ({link.kind})"

    def _links(self) -> dict[str, dict[str, float]]:
        """For each target, the seconds from being ready to a connection of each kind of path."""
        return {
            target: {
                kind: round(max(0.0, t - self._ready_at), 3)
                for kind, t in self._mesh.first_paths(self.name, target).items()
            }
            for target in self.program.needs
        }

    def _relayed(self) -> bool:
        links = [self._mesh.link(self.name, target) for target in self.program.needs]
        return any(link is not None and link.kind == RELAYED for link in links)

    def _missing(self) -> list[str]:
        return [name for name in self.program.needs if self._mesh.link(self.name, name) is None]

    async def _publish(self, program: PublishProgram) -> None:
        data = self.folder / "files"
        await trio.to_thread.run_sync(make_files, data, program, self._lab.scenario.seed)
        options = _options("--listen", program.listen)
        for relay in program.relays:
            options += _options("--relay", self._mesh.addresses(relay))
        path = data if program.files != 1 else next(data.iterdir())
        self._argv = [*LATTICA, "publish", str(path), "--json", *options]
        await self._start()
        with trio.move_on_after(START_TIMEOUT + program.timeout_s):
            event = await self._wait_event(lambda event: "ticket" in event)
            if program.relays and not any(path_kind(addr) == RELAYED for addr in event["addrs"]):
                names = " or ".join(program.relays)
                raise LabError(f"its ticket does not lead through {names}{self._last_words()}")
            self.ticket = str(event["ticket"])
            self._ok = True
            self._detail = f"{event['bytes'] / MIB:.1f} MiB in {event['files']} file(s)"
            return
        took = f"{START_TIMEOUT + program.timeout_s:g} s"
        raise LabError(f"no ticket after {took}{self._last_words()}")

    async def _fetch(self, program: FetchProgram, source: Job) -> None:
        if not source.ticket:
            raise LabError(f"{source.name} had no ticket")
        out = self.folder / "out"
        self._argv = [*LATTICA, "fetch", source.ticket, "-o", str(out), "--json"]
        await self._start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_fetching, out)
            running, status = await self._wait_exit(program.timeout_s)
            nursery.cancel_scope.cancel()
        if status is None:
            raise LabError(f"not done after {program.timeout_s:g} s{self._last_words()}")
        if status != 0:
            raise LabError(f"ended with status {status}{self._last_words()}")
        same = await trio.to_thread.run_sync(
            lambda: tree_hash(out) == tree_hash(source.folder / "files")
        )
        if not same:
            raise LabError("what it fetched is not what was published")
        result = next((event for event in running.events if "mb_per_s" in event), {})
        self._values = {key: result.get(key) for key in ("bytes", "seconds", "mb_per_s", "paths")}
        self._ok = True
        steps = ", then ".join(str(step["path"]) for step in result.get("paths", ()))
        self._detail = f"identical, {result.get('mb_per_s', 0)} MB/s; {steps}"

    async def _wait_fetching(self, out: Path) -> None:
        """A fetch is at work once it has its provider's manifest, and room for the files."""
        while not any(out.glob(f"{RESERVED_PREFIX}*")):  # noqa: ASYNC110, ASYNC240
            await trio.sleep(0.05)
        self.up.set()

    async def _command(self, program: CommandProgram, others: Mapping[str, Job]) -> None:
        self._argv = [self._filled(argument, others) for argument in program.argv]
        await self._start()
        if program.ready is not None:
            with trio.move_on_after(program.timeout_s) as waiting:
                await self._wait_event(lambda event: event.get("event") == program.ready)
            if waiting.cancelled_caught:
                raise LabError(f"no event {program.ready!r} after {program.timeout_s:g} s")
        self.up.set()
        if program.exit_code is None:
            self._ok, self._detail = True, "runs"
            return
        if program.ready is not None:
            self.ready.set()
        running, status = await self._wait_exit(program.timeout_s)
        if status != program.exit_code:
            got = "did not end" if status is None else f"ended with status {status}"
            raise LabError(f"{got}, not {program.exit_code}{self._last_words()}")
        self._ok, self._detail = True, f"ended with status {status}"
        self._values["events"] = running.events[-1:]

    async def _wait_event(self, matches: Callable[[Event], bool]) -> Event:
        """The first that it, or the one started in its place, says and that `matches`.

        Raises :class:`LabError` when it has said its last word.
        """
        while True:
            running = self._now_running()
            try:
                _, event = await running.wait_event(matches)
                return event
            except LabError:
                if not await self._is_replaced(running):
                    raise

    async def _wait_exit(self, timeout_s: float) -> tuple[Running, int | None]:
        """It, or the one started in its place, and its exit status; None, and it is killed, if
        it takes longer.
        """
        with trio.move_on_after(timeout_s):
            while True:
                running = self._now_running()
                status = await running.process.wait()
                if not await self._is_replaced(running):
                    await running.closed.wait()
                    return running, status
        running = self._now_running()
        await running.stop(grace_s=0)
        return running, None

    async def _is_replaced(self, ended: Running) -> bool:
        """Whether another was started in its place; a fault that will do that is waited for."""
        while self.running is ended and self._comes_again:
            await self._started_again.park()
        return self.running is not ended

    def _now_running(self) -> Running:
        assert self.running is not None
        return self.running

    def _filled(self, text: str, others: Mapping[str, Job]) -> str:
        def value(match: re.Match[str]) -> str:
            kind, _, name = match[1].partition(":")
            if kind == "python":
                return sys.executable
            if kind == "project":
                return str(PROJECT)
            if kind == "work":
                self.folder.mkdir(parents=True, exist_ok=True)
                return str(self.folder)
            if kind == "ip":
                return self._lab.public_ip(name)
            if kind == "ip6":
                return self._lab.plan.ipv6[name]
            if kind == "ticket":
                return others[name].ticket
            return next(iter(self._mesh.addresses(name)), "")

        try:
            return PLACEHOLDER.sub(value, text)
        except KeyError as error:
            raise LabError(f"{text}: there is no {error}") from None


def _reason(log: str) -> str:
    """The last thing that a node's log complains of, without time and place."""
    telling = (" WARNING ", " ERROR ", "bootstrap peer is unreachable")
    lines = [line for line in log.splitlines() if any(words in line for words in telling)]
    return f" ({lines[-1].partition(': ')[2]})" if lines else ""


def _options(option: str, values: tuple[str, ...] | list[str]) -> list[str]:
    return [part for value in values for part in (option, value)]


def make_files(folder: Path, program: PublishProgram, seed: int) -> None:
    """Random files, the same for the same scenario and program."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{seed} {program.name}")
    size = round(program.size_mib * MIB) // program.files
    for number in range(program.files):
        with (folder / f"part-{number:04}.bin").open("wb") as file:
            left = size
            while left > 0:
                file.write(rng.randbytes(min(left, MIB)))
                left -= MIB


def tree_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(folder)} {digest}\n".encode())
    return total.hexdigest()
