"""The stage with NATs: two homes and a relay in a lab of network namespaces."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tools.demo.stage import Command, DemoError, Host, lattica
from tools.netlab.errors import LabError
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import Event, Running
from tools.netlab.spec import topology
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.strict import SpecError
from tools.netlab.spec.theory import Expected, expected
from tools.netlab.spec.topology import Link, Router
from tools.netlab.wire.forwarder_client import ForwarderError

LINE_DELAY = 0.010
"""Seconds from a home to the middle of the internet: 20 ms from one home to the other."""
LINE_RATE = 1e9
"""Bits a second."""
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


class NoLabError(Exception):
    """The lab cannot be had on this machine; the message is a line that says why."""


@dataclass(frozen=True, slots=True)
class _LabCommand:
    running: Running

    @property
    def errors(self) -> Path:
        return self.running.folder / "stderr.log"

    @property
    def events(self) -> Sequence[Event]:
        return self.running.events

    async def said(self, key: str) -> Event:
        try:
            _, event = await self.running.wait_event(lambda event: key in event)
        except LabError as error:
            raise DemoError(str(error)) from None
        return event

    def kill(self) -> None:
        self.running.process.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        status = await self.running.process.wait()
        await self.running.closed.wait()
        return status


@dataclass(frozen=True, slots=True)
class Homes:
    """Made by :func:`open_homes`."""

    lab: Lab
    expected: Expected
    listen: Mapping[Host, Sequence[str]] = field(default_factory=dict)

    def is_reachable(self, addr: str) -> bool:
        return addr.startswith(f"/ip4/{self.lab.public_ip('relay')}/")

    async def start(
        self,
        host: Host,
        arguments: Sequence[str],
        env: Mapping[str, str],
        program: Sequence[str] = (),
    ) -> Command:
        argv = [*(program or (lattica(),)), *arguments]
        try:
            running = await self.lab.start(host, argv, name=host, env=env)
        except LabError as error:
            raise DemoError(str(error)) from None
        return _LabCommand(running)


def scenario_for(nats: tuple[str, str]) -> Scenario:
    """A relay at a public address, and two homes behind NATs of these types."""
    line = LinkSpec(delay_s=LINE_DELAY, rate_bps=LINE_RATE)
    homes: tuple[tuple[Host, str], ...] = (("publisher", nats[0]), ("fetcher", nats[1]))
    return Scenario(
        name="demo",
        hosts=(
            topology.Host("relay"),
            *(topology.Host(name, behind=f"{name}-nat") for name, _ in homes),
        ),
        routers=tuple(
            Router(f"{name}-nat", nat=NAMES[nat], link=Link(up=line, down=line))
            for name, nat in homes
        ),
    )


@asynccontextmanager
async def open_homes(nats: tuple[str, str]) -> AsyncIterator[Homes]:
    """The stage with NATs. NoLabError if it cannot be had; DemoError if it breaks later."""
    theory = expected(*(NAMES[nat] for nat in nats))
    async with open_stage(scenario_for(nats), theory) as homes:
        yield homes


@asynccontextmanager
async def open_stage(
    scenario: Scenario, theory: Expected, listen: Mapping[Host, Sequence[str]] | None = None
) -> AsyncIterator[Homes]:
    """A stage in a lab. Raises what :func:`open_homes` does."""
    is_built = False
    try:
        async with open_lab(scenario) as lab:
            is_built = True
            yield Homes(lab, theory, listen or {})
    except (LabError, SpecError, ForwarderError, OSError) as error:
        if not is_built:
            raise NoLabError(str(error).partition("\n")[0]) from None
        if isinstance(error, LabError):
            raise DemoError(f"the network lab broke: {error}") from None
        raise


# --- without root ---


def loopback_up() -> None:
    """Switch the loopback device on, which is off in a new network namespace. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        _, flags = struct.unpack("16sh22x", request)
        if not flags & IFF_UP:
            fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def restart_in_user_namespace(arguments: Sequence[str]) -> NoReturn:
    """Become this program again, as root of a user namespace of its own, where labs can be built.

    Raises :class:`NoLabError` where that is not allowed.
    """
    command = ["unshare", "--map-root-user", "--net", sys.executable]
    trial = "from tools.demo.homes import loopback_up; loopback_up()"
    try:
        done = subprocess.run([*command, "-c", trial], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            os.execvp(command[0], [*command, "-m", "tools.demo", *arguments])
    except OSError as error:
        raise NoLabError(f"without root it needs unshare (util-linux): {error.strerror}") from None
    *_, reason = done.stderr.strip().splitlines() or ["no reason given"]
    raise NoLabError(f"without root it needs a user namespace, and may not make one: {reason}")
