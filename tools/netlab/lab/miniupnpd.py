"""A real miniupnpd on a router: UPnP-IGD, NAT-PMP and PCP."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from tools.netlab.errors import LabError, MissingToolError
from tools.netlab.lab import nftables, programs
from tools.netlab.lab.plan import LAN
from tools.netlab.lab.programs import Running
from tools.netlab.spec.nat import NatSpec

if TYPE_CHECKING:
    from tools.netlab.lab.lab import Lab

START_TIMEOUT = 60.0
"""Seconds that the daemon may take until it listens."""


def find_daemon() -> str:
    """The program. Raises :class:`MissingToolError`."""
    found = shutil.which("miniupnpd", path=programs.environment(Path(), {})["PATH"])
    if found is None:
        raise MissingToolError(
            "a router with upnp, natpmp or pcp needs miniupnpd, built for nftables; as root: "
            "apt-get install miniupnpd miniupnpd-nftables"
        )
    return found


def configuration(router: str, spec: NatSpec, *, ipv6: bool) -> str:
    """The daemon's configuration file. It serves PCP wherever it serves NAT-PMP."""

    def yes(value: bool) -> str:
        return "yes" if value else "no"

    return "\n".join(
        (
            f"ext_ifname={nftables.WAN}",
            f"listening_ip={LAN}",
            "http_port=0",
            f"enable_upnp={yes(spec.upnp)}",
            f"enable_natpmp={yes(spec.natpmp or spec.pcp)}",
            f"ipv6_disable={yes(not ipv6)}",
            "secure_mode=yes",
            "system_uptime=no",
            f"uuid={uuid.uuid5(uuid.NAMESPACE_DNS, router)}",
            "allow 1-65535 0.0.0.0/0 1-65535",
            "",
        )
    )


async def start_daemon(lab: Lab, router: str, spec: NatSpec, *, ipv6: bool) -> Running:
    """Start the daemon on a router, and wait until it serves."""
    name = f"miniupnpd-{router}"
    program = find_daemon()
    folder = lab.folder / name
    folder.mkdir(exist_ok=True)
    (folder / "stderr.log").unlink(missing_ok=True)
    file = folder / "miniupnpd.conf"
    file.write_text(configuration(router, spec, ipv6=ipv6))
    argv = [program, "-d", "-f", str(file), "-P", str(folder / "pid")]
    running = await lab.start(router, argv, name=name)
    ready = "HTTP listening on" if spec.upnp else "Listening for NAT-PMP/PCP"
    if await running.wait_stderr(ready, START_TIMEOUT):
        return running
    raise LabError(f"miniupnpd did not start on {router}{running.last_words()}")
