"""Where the demo plays: hosts on which `lattica` can be run. And the stage without NATs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

import trio

from tools.netlab.lab.programs import Event, parse_event
from tools.netlab.spec.theory import Expected

STOP_TIMEOUT = 10.0
"""Seconds that a command which is told to stop has for it."""
LAST_LINES = 12

Host: TypeAlias = str
"""`relay`, `publisher` or `fetcher`, or one of a crowd."""


class DemoError(Exception):
    """The demo failed; the message says what did."""


class Command(Protocol):
    """A `lattica …` that was started."""

    @property
    def errors(self) -> Path:
        """What it writes to standard error."""

    @property
    def events(self) -> Sequence[Event]:
        """The JSON objects that it has written so far."""

    async def said(self, key: str) -> Event:
        """The first JSON object with that key that it writes; DemoError if it ends before."""

    async def wait(self) -> int:
        """Its exit status, when it has ended and all it wrote was read."""

    def kill(self) -> None:
        """End it at once."""


class Stage(Protocol):
    """Hosts on which `lattica` can be run. What was started ends with the stage."""

    @property
    def listen(self) -> Mapping[Host, Sequence[str]]:
        """Multiaddrs to listen on; where there are none, the command's own."""

    @property
    def expected(self) -> Expected:
        """What theory says of the path from the fetcher to the publisher."""

    def is_reachable(self, addr: str) -> bool:
        """Whether others reach the relay by this address of its."""

    async def start(
        self,
        host: Host,
        arguments: Sequence[str],
        env: Mapping[str, str],
        program: Sequence[str] = (),
    ) -> Command:
        """Run `lattica ARGUMENTS`, or another program, on a host, `env` added to its
        environment."""


def lattica() -> str:
    """The installed command of the interpreter that runs this."""
    script = Path(sys.executable).parent / "lattica"
    if not script.exists():
        raise DemoError(f"{script} is missing; run `make demo`, which installs it")
    return str(script)


def last_words(file: Path) -> str:
    """The end of what a command wrote there, for an error message; empty if there is nothing."""
    lines = file.read_text(errors="replace").strip().splitlines() if file.exists() else []
    return "".join(f"\n    {line}" for line in lines[-LAST_LINES:])


# --- without NATs ---


class _LocalCommand:
    """A command on this machine."""

    def __init__(self, name: str, process: trio.Process, errors: Path) -> None:
        self.errors = errors
        self._name = name
        self._process = process
        self.events: list[Event] = []
        self._closed = False
        self._changed = trio.lowlevel.ParkingLot()

    async def said(self, key: str) -> Event:
        while True:
            for event in self.events:
                if key in event:
                    return event
            if self._closed:
                raise DemoError(f"{self._name} ended{last_words(self.errors)}")
            await self._changed.park()

    async def wait(self) -> int:
        while not self._closed:
            await self._changed.park()
        return await self._process.wait()

    def kill(self) -> None:
        self._process.kill()

    async def read(self) -> None:
        """Until it closes its standard output."""
        assert self._process.stdout is not None
        buffer = b""
        async for chunk in self._process.stdout:
            *lines, buffer = (buffer + chunk).split(b"\n")
            self.events += [event for event in map(parse_event, lines) if event is not None]
            self._changed.unpark_all()
        self._closed = True
        self._changed.unpark_all()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        with trio.CancelScope(shield=True):
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
            with trio.move_on_after(STOP_TIMEOUT):
                await self._process.wait()
            self._process.kill()
            await self._process.wait()


LOOPBACK = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1/noise")


class Loopback:
    """All on 127.0.0.1. Made by :func:`open_loopback`."""

    listen: Mapping[Host, Sequence[str]] = {"relay": LOOPBACK, "publisher": LOOPBACK}
    expected: Expected = "direct"

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self._folder = folder
        self._nursery = nursery
        self._commands: list[_LocalCommand] = []

    def is_reachable(self, addr: str) -> bool:
        return True

    async def start(
        self,
        host: Host,
        arguments: Sequence[str],
        env: Mapping[str, str],
        program: Sequence[str] = (),
    ) -> Command:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LATTICA_")}
        # No command may ask the real network's router to open ports.
        env = {**kept, **env, "LATTICA_NAT__PORT_MAPPING__ENABLED": "false"}
        errors = self._folder / f"{host}.log"
        with errors.open("ab") as log, trio.CancelScope(shield=True):
            # In a session of its own: Ctrl-C is for the demo, which then ends it.
            script, *first = program or (lattica(),)
            try:
                process = await trio.lowlevel.open_process(
                    [script, *first, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=env,
                    cwd=self._folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise DemoError(f"cannot run {script}: {error.strerror}") from None
            command = _LocalCommand(f"lattica {arguments[0]}", process, errors)
            self._commands.append(command)
        self._nursery.start_soon(command.read)
        return command

    async def stop(self) -> None:
        """End all commands."""
        async with trio.open_nursery() as nursery:
            for command in self._commands:
                nursery.start_soon(command.stop)


@asynccontextmanager
async def open_loopback(folder: Path) -> AsyncIterator[Loopback]:
    """The stage without NATs; logs are written to `folder`."""
    async with trio.open_nursery() as nursery:
        stage = Loopback(folder, nursery)
        try:
            yield stage
        finally:
            await stage.stop()
