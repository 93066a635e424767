"""Every NAT type behaves as named: each is probed through the real forwarder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
import trio

from tests.netlab.holders import Holder, namespaces, require_root
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.nat import NAMES, Behaviour, NatSpec
from tools.netlab.spec.wire import AddWire, EndSpec, WireSpec
from tools.netlab.wire.forwarder_client import open_forwarder

pytestmark = pytest.mark.root

HOST, NAT = "10.0.0.1", "10.9.0.1"
SERVERS = ("10.9.9.1", "10.9.9.2")

Nat = NatSpec | None


async def probe(*nats: Nat, lifetimes: tuple[float, ...] = (), port: int = 443) -> dict[str, Any]:
    """What the probe says about these NATs, the innermost first, in a chain."""
    require_root()
    with namespaces(len(nats) + 1) as holders:
        async with open_forwarder() as forwarder:
            for level, nat in enumerate(nats):
                inner, outer = holders[level], holders[level + 1]
                external = (f"10.{9 - len(nats) + level + 1}.0.1",)
                translate = "none" if nat is None else nat.translate
                wire = WireSpec(
                    f"w{level}",
                    EndSpec("up0", inner.path),
                    EndSpec("down0", outer.path),
                    LinkSpec(delay_s=0.001),
                    LinkSpec(delay_s=0.001),
                    nat,
                    () if translate == "none" else external,
                    (HOST,) if translate == "one-to-one" else (),
                    seed=level,
                )
                await forwarder.command(AddWire(wire))
                if level == 0:
                    inner.ip(f"addr add {HOST}/24 dev up0")
                inner.ip("route add default dev up0")
                outer.ip(f"route add {external[0] if translate != 'none' else HOST} dev down0")
                if level < len(nats) - 1:
                    outer.ip("addr add 192.168.0.1/32 dev lo")
                    with_forwarding(outer)
            holders[-1].ip(*(f"addr add {address}/32 dev lo" for address in SERVERS))

            def run() -> dict[str, Any]:
                arguments = ("-m", "tools.netlab.probe.probe")
                ports = ("--ports", str(port), "3479")
                with holders[-1].start(*arguments, "respond", *SERVERS, *ports):
                    waits = ("--lifetimes", *map(str, lifetimes)) if lifetimes else ()
                    ask = ("classify", SERVERS[0], "--port", str(port), *waits)
                    result: dict[str, Any] = json.loads(holders[0].run(*arguments, *ask))
                    return result

            return await trio.to_thread.run_sync(run)


def with_forwarding(router: Holder) -> None:
    router.run("-c", "open('/proc/sys/net/ipv4/ip_forward', 'w').write('1')")


def expected(spec: NatSpec) -> dict[str, Any]:
    """What the probe must say about one protocol."""
    mapping = "endpoint-independent" if spec.overload else spec.mapping
    return {
        "translated": spec.translate != "none",
        "mapping": mapping,
        "filtering": spec.filtering,
        "port": spec.port,
    }


Findings = dict[str, dict[str, Any]]


async def probe_each(specs: Mapping[str, NatSpec]) -> Findings:
    """What the probe says about each: side by side, since it mostly waits for what is dropped."""
    findings: Findings = {}
    limit = trio.Semaphore(4)

    async def probe_one(name: str) -> None:
        async with limit:
            findings[name] = await probe(specs[name])

    async with trio.open_nursery() as nursery:
        for name in specs:
            nursery.start_soon(probe_one, name)
    return findings


@pytest.fixture(scope="module")
def named() -> Findings:
    """The findings about the named types."""
    require_root()
    return trio.run(probe_each, NAMES)


COMBINATIONS = {
    f"{mapping}, {filtering}": NatSpec(mapping, filtering, "random")
    for mapping in get_args(Behaviour)
    for filtering in get_args(Behaviour)
}


@pytest.fixture(scope="module")
def combined() -> Findings:
    """The findings about each mapping with each filter."""
    require_root()
    return trio.run(probe_each, COMBINATIONS)


@pytest.mark.parametrize("name", NAMES)
def test_named_types(named: Findings, name: str) -> None:
    spec = NAMES[name]
    udp, tcp = named[name]["udp"], named[name]["tcp"]
    if spec.blocked == "nothing":
        assert {key: udp[key] for key in expected(spec)} == expected(spec)
        assert udp["hairpin"] == (None if spec.translate == "none" else spec.hairpin)
    else:
        assert udp is None
    found = {key: tcp[key] for key in expected(spec)}
    if spec.blocked == "all-but-tcp-443":
        # The responder's other port cannot be asked.
        assert found.pop("mapping") is None
        assert found.items() <= expected(spec).items()
    else:
        assert found == expected(spec)
    if spec.translate != "none":
        assert tcp["mapped"][0] == NAT


@pytest.mark.parametrize("name", COMBINATIONS)
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_each_mapping_with_each_filter(combined: Findings, name: str, protocol: str) -> None:
    spec = COMBINATIONS[name]
    found = combined[name][protocol]
    assert {key: found[key] for key in expected(spec)} == expected(spec)


async def test_no_nat() -> None:
    result = await probe(None)
    for protocol in ("udp", "tcp"):
        found = result[protocol]
        assert found["translated"] is False
        assert found["mapped"] == found["local"]
        assert found["filtering"] == "endpoint-independent"


async def test_tcp_443_only_lets_no_other_port_through() -> None:
    assert await probe(NAMES["tcp-443-only"], port=3478) == {"udp": None, "tcp": None}


async def test_udp_blocked_may_block_tcp_instead() -> None:
    result = await probe(replace(NAMES["udp-blocked"], blocked="tcp"))
    assert result["tcp"] is None
    assert result["udp"]["filtering"] == "address-and-port-dependent"


async def test_mappings_live_as_long_as_specified() -> None:
    spec = NatSpec("address-and-port-dependent", port="random", udp_timeout_s=6.0)
    udp = (await probe(spec, lifetimes=(0.5, 1.5, 6.5, 7.0)))["udp"]
    assert (udp["alive_s"], udp["dead_s"]) == (1.5, 6.5)


async def test_a_nat_behind_a_carriers_nat_is_as_hard_as_the_harder_one() -> None:
    for inner, outer, mapping in (
        ("full-cone", "symmetric-random", "address-and-port-dependent"),
        ("symmetric-sequential", "cgnat", "address-and-port-dependent"),
        ("port-restricted", "cgnat", "endpoint-independent"),
    ):
        result = await probe(NAMES[inner], NAMES[outer])
        for protocol in ("udp", "tcp"):
            found = result[protocol]
            assert found["mapping"] == mapping
            assert found["filtering"] == "address-and-port-dependent"
            assert found["mapped"][0] == NAT
