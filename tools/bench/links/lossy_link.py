"""The link of the lossy cases: two hosts of the network lab (`tools/netlab`) with a bad line.

200 Mbit/s and 25 ms each way, and 1% of the packets lost in the direction of the data, so that
what is measured is how a sender takes loss and not how acknowledgements get lost. The same losses
for everyone: the lab's random numbers start anew with each run. What is not told otherwise sends
with TCP cubic, as on most machines.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from tools.bench.cases import LOSSY_CONGESTION, LOSSY_DELAY, LOSSY_LOSS, LOSSY_RATE
from tools.bench.children import BenchError, UnsupportedError
from tools.netlab.errors import LabError, MissingToolError, NoPrivilegesError
from tools.netlab.lab import registry
from tools.netlab.lab.lab import open_lab, require_tools
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.topology import Host, Link

SET_CONGESTION = f"""
ip route show | while read -r route; do ip route change $route congctl {LOSSY_CONGESTION}; done
"""
"""By the routes: the namespace's own default must be one that is allowed to everybody. A socket
that is told otherwise once it is connected does otherwise."""
Role = Literal["server", "client"]


@dataclass(frozen=True, slots=True)
class Site:
    """Where the two children run: the server's address, and what their commands begin with."""

    host: str = "127.0.0.1"
    server: tuple[str, ...] = ()
    client: tuple[str, ...] = ()


def scenario(sender: Role) -> Scenario:
    """Two hosts at the internet; the line of the sender is the bad one."""
    clean = LinkSpec(delay_s=LOSSY_DELAY, rate_bps=LOSSY_RATE)
    lossy = LinkSpec(delay_s=LOSSY_DELAY, rate_bps=LOSSY_RATE, loss=LOSSY_LOSS)
    line = Link(up=lossy, down=clean)
    receiver: Role = "client" if sender == "server" else "server"
    return Scenario("bench-lossy", hosts=(Host(sender, link=line), Host(receiver)))


def obstacle() -> str | None:
    """Why there can be no such link here; None if it can be tried."""
    if os.geteuid() != 0:
        return "the lossy link needs root (it is made of network namespaces)"
    for program, package in (("nsenter", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            return f"the lossy link needs {program}; as root: apt-get install {package}"
    try:
        require_tools()
    except MissingToolError as error:
        return str(error)
    return None


@asynccontextmanager
async def open_site(sender: Role) -> AsyncIterator[Site]:
    """The two hosts, while the block lasts. Raises `UnsupportedError` or `BenchError`."""
    try:
        async with open_lab(scenario(sender)) as lab:
            record = registry.find(lab.name)
            assert record is not None
            enter = {
                role: ("nsenter", f"--net={record.namespaces[role]}", "--")
                for role in ("server", "client")
            }
            for role in enter:
                _, _, errors = await lab.run(role, ["sh", "-e", "-c", SET_CONGESTION])
                if errors:
                    text = errors.decode(errors="replace").strip()
                    raise UnsupportedError(f"TCP {LOSSY_CONGESTION} cannot be set: {text}")
            yield Site(lab.ip("server"), enter["server"], enter["client"])
    except (NoPrivilegesError, MissingToolError) as error:
        raise UnsupportedError(str(error)) from error
    except LabError as error:
        raise BenchError(f"the lossy link: {error}") from error
