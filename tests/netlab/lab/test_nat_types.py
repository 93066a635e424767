"""Each named NAT type behaves as named, in a lab, whoever does it: the kernel or the lab's own.

(`test_probe.py` has all combinations of mapping and filtering, on the lab's own NAT alone.)
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from tests.netlab.holders import require_root
from tools.netlab.lab import nftables
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.probe.probing import (
    Finding,
    classify,
    differences,
    expected,
    probe_router,
    probe_types,
    scenario_for,
    start_responder,
)
from tools.netlab.spec.nat import NAMES, Behaviour, NatSpec
from tools.netlab.spec.topology import Router

KERNEL = sorted(
    name
    for name, spec in NAMES.items()
    if not nftables.obstacles(spec) and not nftables.opens_ports(spec)
)
"""What both can do; by default the kernel does it."""


@pytest.fixture(scope="module")
def by_default() -> dict[str, Finding]:
    require_root()
    return {finding.name: finding for finding in trio.run(probe_types, list(NAMES), "auto")}


@pytest.fixture(scope="module")
def by_the_lab() -> dict[str, Finding]:
    require_root()
    return {finding.name: finding for finding in trio.run(probe_types, KERNEL, "userspace")}


@pytest.mark.parametrize("name", NAMES)
def test_named_types(by_default: dict[str, Finding], name: str) -> None:
    finding = by_default[name]
    assert finding.wrong == ()
    by_kernel = name in KERNEL or nftables.opens_ports(NAMES[name])
    assert finding.backend == ("nftables" if by_kernel else "userspace")


@pytest.mark.parametrize("name", KERNEL)
def test_the_lab_can_do_what_the_kernel_can(by_the_lab: dict[str, Finding], name: str) -> None:
    finding = by_the_lab[name]
    assert finding.wrong == ()
    assert finding.backend == "userspace"


async def test_variants_that_have_no_name() -> None:
    """The kernel's other abilities: filtered or turned one-to-one, open firewalls, web only."""
    require_root()
    dependent: Behaviour = "address-and-port-dependent"
    one_to_one = NAMES["one-to-one"]
    routers = [
        Router("elastic-closed", nat=replace(one_to_one, filtering=dependent)),
        Router("elastic-straight", nat=replace(one_to_one, hairpin=False)),
        Router("no-firewall", nat=NatSpec(translate="none", filtering="endpoint-independent")),
        Router("web-only", nat=replace(NAMES["symmetric-random"], blocked="all-but-web")),
        Router("few-ports", nat=replace(NAMES["symmetric-random"], port_low=5000, port_high=5999)),
        Router("tcp-blocked", nat=replace(NAMES["linux-masquerade"], blocked="tcp")),
    ]
    findings: dict[str, Finding] = {}

    async def probe(lab: Lab, router: Router) -> None:
        findings[router.name] = await probe_router(lab, router)

    async with open_lab(scenario_for(routers)) as lab:
        await start_responder(lab)
        await start_responder(lab, (443, 80))
        async with trio.open_nursery() as nursery:
            for router in routers:
                nursery.start_soon(probe, lab, router)
    for router in routers:
        finding = findings[router.name]
        assert finding.wrong == (), router.name
        assert finding.backend == "nftables"
    udp = findings["few-ports"].udp
    assert udp is not None
    assert 5000 <= udp["mapped"][1] <= 5999


async def test_mappings_live_as_long_as_they_should() -> None:
    """The kernel counts in seconds and is late by up to one; the lab's own NAT is exact."""
    require_root()
    routers = [
        Router("kernel", nat=replace(NAMES["linux-masquerade"], udp_timeout_s=6.0)),
        Router("own", nat=replace(NAMES["port-restricted"], udp_timeout_s=6.0)),
    ]
    found: dict[str, dict[str, float | None]] = {}

    async def probe(lab: Lab, router: str) -> None:
        result = await classify(lab, f"host-{router}", lifetimes=(1.0, 7.4))
        found[router] = {key: result["udp"][key] for key in ("alive_s", "dead_s")}

    async with open_lab(scenario_for(routers)) as lab:
        await start_responder(lab)
        async with trio.open_nursery() as nursery:
            for router in routers:
                nursery.start_soon(probe, lab, router.name)
    assert found == {name: {"alive_s": 1.0, "dead_s": 7.4} for name in ("kernel", "own")}


async def test_a_nat_behind_another() -> None:
    """Seen from outside, the harder of the two decides."""
    require_root()
    routers = [
        Router("carrier", nat=NAMES["cgnat"]),
        Router("easy", nat=NAMES["full-cone"], behind="carrier"),
        Router("hard", nat=NAMES["symmetric-random"], behind="carrier"),
    ]
    async with open_lab(scenario_for(routers)) as lab:
        await start_responder(lab)
        easy = await classify(lab, "host-easy")
        hard = await classify(lab, "host-hard")
    assert easy["udp"]["filtering"] == "endpoint-independent"
    assert easy["udp"]["mapping"] == "endpoint-independent"
    assert hard["udp"]["filtering"] == "address-and-port-dependent"
    assert hard["udp"]["mapping"] == "address-and-port-dependent"
    assert easy["udp"]["mapped"][0] == hard["udp"]["mapped"][0]


class TestDifferences:
    """That the verdict is not always "as named"."""

    def test_every_field_counts(self) -> None:
        spec = NAMES["port-restricted"]
        want = expected(spec)
        assert want["udp"] is not None
        assert want["tcp"] is not None
        assert differences(spec, want["udp"], want["tcp"]) == ()
        for key in want["udp"]:
            assert differences(spec, {**want["udp"], key: "other"}, want["tcp"])
        for key in want["tcp"]:
            assert differences(spec, want["udp"], {**want["tcp"], key: "other"})

    def test_what_is_blocked_must_not_pass(self) -> None:
        spec = NAMES["udp-blocked"]
        udp, tcp = expected(NAMES["port-restricted"]).values()
        assert differences(spec, udp, tcp) == ("udp: passes",)
        assert differences(spec, None, None) == ("tcp: nothing passes",)
