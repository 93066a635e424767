"""Is each NAT what its name says? Found out by the probe, through the real thing."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tools.netlab.errors import LabError
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.plan import in_userspace
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES, NatSpec
from tools.netlab.spec.topology import Backend, Host, Router
from tools.netlab.wire.forwarder_client import PROJECT

RESPONDER = "responder"
PROBE = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(PROJECT)!r}); "
    "from tools.netlab.probe.probe import main; sys.exit(main())",
)
PORTS = (3478, 3479)
WEB_PORTS = (443, 80)
SHORT: dict[object, str] = {
    "endpoint-independent": "EI",
    "address-dependent": "AD",
    "address-and-port-dependent": "APD",
}
AT_A_TIME = 7


@dataclass(frozen=True, slots=True)
class Finding:
    """A NAT's spec and what the probe says (see `probe_verdicts.ProbeResult`)."""

    name: str
    spec: NatSpec
    backend: str
    udp: dict[str, Any] | None
    tcp: dict[str, Any] | None
    wrong: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.wrong

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "type": self.name,
            "backend": self.backend,
            "ok": self.ok,
            "wrong": list(self.wrong),
            "udp": self.udp,
            "tcp": self.tcp,
        }


def scenario_for(routers: Sequence[Router]) -> Scenario:
    """Routers, a host `host-ROUTER` behind each, and the responder."""
    hosts = [Host(f"host-{router.name}", behind=router.name) for router in routers]
    hosts.append(Host(RESPONDER, addresses=2))
    return Scenario("probe", hosts=tuple(hosts), routers=tuple(routers))


async def start_responder(lab: Lab, ports: tuple[int, int] = PORTS) -> None:
    """Start the responder of a lab made from :func:`scenario_for`."""
    first = lab.public_ip(RESPONDER)
    second = lab.plan.nodes[RESPONDER].uplinks[0].addresses[1].partition("/")[0]
    argv = [*PROBE, "respond", first, second, "--ports", *map(str, ports)]
    running = await lab.start(RESPONDER, argv, name=f"responder-{ports[0]}")
    with trio.fail_after(120):
        await running.wait_event(lambda event: event.get("event") == "ready")


async def classify(
    lab: Lab, host: str, port: int = PORTS[0], lifetimes: Sequence[float] = ()
) -> dict[str, Any]:
    """What the probe on a host says of what lies between it and the responder."""
    argv = [*PROBE, "classify", lab.public_ip(RESPONDER), "--port", str(port)]
    if lifetimes:
        argv += ["--lifetimes", *map(str, lifetimes)]
    status, out, errors = await lab.run(host, argv)
    if status != 0:
        raise LabError(f"the probe failed: {errors.decode(errors='replace').strip()}")
    result: dict[str, Any] = json.loads(out)
    return result


def expected(spec: NatSpec) -> dict[str, dict[str, Any] | None]:
    """What the probe must say of a NAT with this spec, by protocol; None: nothing passes.

    Overloaded ports look endpoint-independent to the only host behind the NAT. Where a single
    port can be reached, nothing tells address-dependent mapping from that which depends on ports.
    """
    mapping: str | None = "endpoint-independent" if spec.overload else spec.mapping
    if spec.blocked == "all-but-tcp-443" and mapping != "endpoint-independent":
        mapping = None
    both: dict[str, Any] = {"mapping": mapping, "filtering": spec.filtering, "port": spec.port}
    both["translated"] = spec.translate != "none"
    udp = {**both, "hairpin": spec.hairpin if spec.translate != "none" else None}
    return {
        "udp": None if spec.blocked in ("udp", "all-but-tcp-443", "all-but-web") else udp,
        "tcp": None if spec.blocked == "tcp" else both,
    }


def differences(
    spec: NatSpec, udp: dict[str, Any] | None, tcp: dict[str, Any] | None
) -> tuple[str, ...]:
    """Where the probe's result is not what the spec says."""
    wrong = []
    for protocol, want in expected(spec).items():
        got = udp if protocol == "udp" else tcp
        if want is None or got is None:
            if want is not got:
                wrong.append(f"{protocol}: {'passes' if got else 'nothing passes'}")
            continue
        for key, value in want.items():
            if got[key] != value:
                wrong.append(f"{protocol} {key}: {got[key]}, not {value}")
    return tuple(wrong)


async def probe_router(lab: Lab, router: Router) -> Finding:
    """Probe one router of a lab from the host behind it."""
    web_only = router.nat.blocked in ("all-but-tcp-443", "all-but-web")
    port = WEB_PORTS[0] if web_only else PORTS[0]
    result = await classify(lab, f"host-{router.name}", port)
    return Finding(
        name=router.name,
        spec=router.nat,
        backend="userspace" if in_userspace(router) else "nftables",
        udp=result["udp"],
        tcp=result["tcp"],
        wrong=differences(router.nat, result["udp"], result["tcp"]),
    )


async def probe_types(names: Sequence[str], backend: Backend) -> list[Finding]:
    """Build and probe named NAT types, all in one lab.

    Raises :class:`LabError`, and :class:`tools.netlab.spec.strict.SpecError` for a backend that
    cannot do what a type says.
    """
    routers = [Router(name, nat=NAMES[name], backend=backend) for name in names]
    findings: dict[str, Finding] = {}
    limit = trio.Semaphore(AT_A_TIME)

    async def one(lab: Lab, router: Router) -> None:
        async with limit:
            findings[router.name] = await probe_router(lab, router)

    async with open_lab(scenario_for(routers)) as lab:
        await start_responder(lab)
        if any(router.nat.blocked.startswith("all-but") for router in routers):
            await start_responder(lab, WEB_PORTS)
        async with trio.open_nursery() as nursery:
            for router in routers:
                nursery.start_soon(one, lab, router)
    return [findings[name] for name in names]


def table(findings: Sequence[Finding]) -> Table:
    """For a terminal."""
    # Narrow, so that the verdict has room in 80 columns.
    shown = Table(
        caption="EI: endpoint-independent, AD: address-, APD: and port-dependent",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in ("type", "by", "map", "filter", "port", "hairpin", "verdict"):
        shown.add_column(column, no_wrap=column != "verdict")
    for finding in findings:
        seen = finding.udp or finding.tcp or {}
        hairpin = (finding.udp or {}).get("hairpin")
        verdict = Text("as named", "green") if finding.ok else Text("; ".join(finding.wrong), "red")
        shown.add_row(
            finding.name,
            finding.backend,
            SHORT.get(seen.get("mapping"), "-"),
            SHORT.get(seen.get("filtering"), "-"),
            str(seen.get("port", "-")),
            "-" if hairpin is None else "yes" if hairpin else "no",
            verdict,
        )
    return shown
