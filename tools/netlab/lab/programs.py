"""Programs in a lab's hosts: how they are started, and the JSON events they print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tools.netlab.errors import LabError
from tools.netlab.lab.processes import Guardian, Namespace, Process

MAX_LINE = 1 << 20
MAX_EVENTS = 100_000
LATTICA = (sys.executable, "-c", "from lattica.cli import main; main()")
"""The CLI of the interpreter that runs the lab, installed as a script or not."""

Event = dict[str, Any]
"""What a program said: its JSON object, and under "t" the seconds since the lab's start."""


def environment(folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """A clean environment for a program whose files are in `folder`.

    Nothing of the user's own settings reaches it: a lab must behave the same for everybody.
    """
    kept = ("PATH", "LANG", "LC_ALL", "TZ")
    path = os.environ.get("PATH", os.defpath)
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PATH": f"{path}:/usr/sbin:/sbin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LATTICA_DATA_DIR": str(folder / "data"),
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def parse_event(line: bytes) -> Event | None:
    """The JSON object of a line; None for a line that is something else."""
    if not line.startswith(b"{"):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


class Running:
    """A program that was started. Made by :func:`start`."""

    def __init__(
        self, name: str, host: str, folder: Path, process: Process, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.host = host
        self.folder = folder
        """Its working directory; `stdout.log` and `stderr.log` in it have what it wrote."""
        self.process = process
        self.events: list[Event] = []
        """All it has said so far; at most :data:`MAX_EVENTS`."""
        self.lost = 0
        """Events that it said when there were so many already: not kept, but told of."""
        self.closed = trio.Event()
        """It will say no more."""
        self._clock = clock
        self._changed = trio.lowlevel.ParkingLot()

    async def wait_event(
        self, matches: Callable[[Event], bool], start: int = 0
    ) -> tuple[int, Event]:
        """The first event from number `start` on for which `matches`, and its number.

        Waits for as long as the program may still say something. Raises :class:`LabError` when
        it has said its last word.
        """
        while True:
            for number in range(start, len(self.events)):
                if matches(self.events[number]):
                    return number, self.events[number]
            start = len(self.events)
            if self.closed.is_set():
                raise LabError(f"{self.name} on {self.host} ended{self.last_words()}")
            await self._changed.park()

    def last_words(self) -> str:
        """The end of what it wrote to stderr, for an error message; empty if there is nothing."""
        lines = self.stderr().strip().splitlines()[-12:]
        return "".join(f"\n    {line}" for line in (":", *lines)) if lines else ""

    def stderr(self) -> str:
        """What it wrote to stderr, at most the last MiB of it."""
        file = self.folder / "stderr.log"
        try:
            with file.open("rb") as opened:
                opened.seek(max(0, file.stat().st_size - MAX_LINE))
                return opened.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    async def wait_stderr(self, text: str, timeout_s: float) -> bool:
        """Whether it writes `text` to stderr before it ends and within `timeout_s`."""
        end = trio.current_time() + timeout_s
        while text not in self.stderr():
            if self.process.status is not None or trio.current_time() > end:
                return False
            await trio.sleep(0.02)
        return True

    async def stop(self, grace_s: float = 3.0) -> int:
        """SIGTERM, then SIGKILL; its exit status."""
        return await self.process.stop(grace_s)

    def let_go(self) -> None:
        """Let nobody wait for more from it, though programs that it has started may live on."""
        self.closed.set()
        self._changed.unpark_all()

    async def _read(self, stdout: int, on_event: Callable[[Event], None]) -> None:
        buffer = bytearray()
        try:
            with (self.folder / "stdout.log").open("ab") as log:
                async with trio.lowlevel.FdStream(stdout) as stream:
                    async for chunk in stream:
                        log.write(chunk)
                        log.flush()
                        buffer += chunk
                        while (end := buffer.find(b"\n")) >= 0:
                            self._on_line(bytes(buffer[:end]), on_event)
                            del buffer[: end + 1]
                        if len(buffer) > MAX_LINE:
                            buffer.clear()
            self._on_line(bytes(buffer), on_event)
        finally:
            self.let_go()

    def _on_line(self, line: bytes, on_event: Callable[[Event], None]) -> None:
        event = parse_event(line)
        if event is not None:
            event["t"] = round(self._clock(), 3)
            if len(self.events) < MAX_EVENTS:
                self.events.append(event)
            else:
                self.lost += 1
            on_event(event)
            self._changed.unpark_all()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program runs."""

    host: str
    namespace: Namespace
    folder: Path


async def start(
    guardian: Guardian,
    nursery: trio.Nursery,
    place: Place,
    name: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    clock: Callable[[], float],
    on_event: Callable[[Event], None] = lambda event: None,
) -> Running:
    """Start a program with its standard input at its end; its output is read in `nursery`.

    `on_event` is called with each event as it comes. A folder that is there already is used
    again, for a program that is restarted. Raises :class:`LabError`.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    errors = os.open(
        place.folder / "stderr.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    )
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        process = await guardian.start(
            place.namespace,
            argv,
            env=environment(place.folder, env),
            cwd=place.folder,
            stdin=nothing,
            stdout=writing,
            stderr=errors,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        for fd in (nothing, errors, writing):
            os.close(fd)
    running = Running(name, place.host, place.folder, process, clock)
    nursery.start_soon(running._read, reading, on_event)
    return running


async def run(
    guardian: Guardian, place: Place, argv: Sequence[str], stdin: bytes = b""
) -> tuple[int, bytes, bytes]:
    """Run a short program to its end: exit status, and what it wrote (at most 1 MiB each).

    Killed when cancelled. Raises :class:`LabError` if it cannot be executed.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    # Files and not pipes: nothing can block, whatever it writes.
    files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("in", "out", "err")]
    try:
        os.write(files[0], stdin)
        os.lseek(files[0], 0, os.SEEK_SET)
        process = await guardian.start(
            place.namespace,
            argv,
            env=environment(place.folder, {}),
            cwd=place.folder,
            stdin=files[0],
            stdout=files[1],
            stderr=files[2],
        )
        try:
            status = await process.wait()
        except trio.Cancelled:
            await process.stop(grace_s=0)
            raise
        return status, os.pread(files[1], MAX_LINE, 0), os.pread(files[2], MAX_LINE, 0)
    finally:
        for fd in files:
            os.close(fd)
