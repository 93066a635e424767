"""The doctor's judgement: from facts to findings, advice, and who can reach a node how."""

from __future__ import annotations

import errno
import ipaddress
import json
import logging
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lattica.cli import app
from lattica.cli import doctor as command
from lattica.doctor.facts import (
    AddressFact,
    DoctorFacts,
    RelayFact,
    gather,
    measure_lifetime,
    waiting_for,
)
from lattica.doctor.findings import Finding, State, examine
from lattica.doctor.machine import machine_facts
from lattica.doctor.reach import How, Peer, how_reached, reach_table
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import Limits
from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport
from lattica.nat.traversal.autonat.client_core import Reachability
from lattica.nat.traversal.autonat.config import AutonatClientConfig, AutonatConfig
from lattica.nat.traversal.autonat.messages import DIAL_REQUEST
from lattica.nat.traversal.portmap.commands import MethodState, MethodStatus
from lattica.nat.traversal.portmap.mapping import (
    Mapping,
    Method,
    Port,
    Reason,
    Transport,
    why_useless,
)
from lattica.nat.traversal.portmap.service import FamilyStatus, PortMappingStatus
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.server.limits import RelayLimits, RelayServerConfig
from lattica.nat.traversal.stun.lifetime import MappingLifetime
from lattica.node import Node
from tests.support.nets.nets import node_config

EI, AD, APD = Behaviour
LISTEN = (
    Multiaddr("/ip4/0.0.0.0/tcp/4001"),
    Multiaddr("/ip4/0.0.0.0/udp/4001/quic-v1/noise"),
)
GATEWAY = ipaddress.IPv4Address("192.168.1.1")
RELAY = RelayFact("12D3Relay", path="direct-quic", rtt=0.02, reserved=True)


def mapping(ip: str = "11.0.0.1", number: int = 4001) -> Mapping:
    address = ipaddress.ip_address(ip)
    return Mapping(Port(Transport.TCP, number), Method.PCP, address, number, why_useless(address))


def port_mapping(*mappings: Mapping, idle: str | None = None, **reasons: Reason) -> Any:
    methods = tuple(
        MethodStatus(Method[name], MethodState.ABSENT, reason) for name, reason in reasons.items()
    )
    return PortMappingStatus(True, (FamilyStatus(4, idle, GATEWAY, methods, mappings),))


NO_GATEWAY = port_mapping(PCP=Reason.PORT_CLOSED, UPNP=Reason.NO_ANSWER)


def home(mapping: Behaviour | None = EI, filtering: Behaviour | None = APD, **more) -> DoctorFacts:
    facts = DoctorFacts(
        listen=LISTEN,
        interfaces=(ipaddress.IPv4Interface("192.168.1.7/24"),),
        nat4=NatReport(
            mapping=mapping,
            filtering=filtering,
            is_translated=True,
            preserves_port=True,
            hairpin=False,
            udp_works=True,
        ),
        relays=(RELAY,),
        servers=1,
        port_mapping=NO_GATEWAY,
    )
    return replace(facts, **more)


def find(facts: DoctorFacts, topic: str) -> Finding:
    [found] = [finding for finding in examine(facts) if finding.topic == topic]
    return found


class TestWords:
    def test_without_relays_nothing_is_asked(self):
        found = find(DoctorFacts(), "asked outside")
        assert found.state is State.UNKNOWN
        assert "nothing was asked" in found.text
        assert "--relay" in found.advice

    def test_a_home_router(self):
        text = find(home(), "NAT").text
        assert "one address outside, whoever it talks to" in text
        assert "endpoint-independent mapping" in text
        assert "address-and-port-dependent filtering" in text
        assert "port-restricted cone" in text
        assert "keeps port numbers" in text
        assert "hairpin" in text

    def test_a_symmetric_one_and_what_to_do(self):
        found = find(home(APD, APD), "NAT")
        assert found.state is State.WARN
        assert "symmetric" in found.text
        assert "UDP 4001 and TCP 4001 to 192.168.1.7" in found.advice
        assert "Enable UPnP" in found.advice

    def test_an_open_one_needs_no_advice(self):
        facts = home(APD, APD, port_mapping=port_mapping(mapping()))
        assert {finding.advice for finding in examine(facts)} <= {
            "",
            find(facts, "IPv6").advice,
            find(facts, "relays").advice,
            find(facts, "reachable").advice,
        }

    def test_a_firewall(self):
        facts = home(
            interfaces=(ipaddress.IPv4Interface("11.0.0.9/24"),),
            nat4=NatReport(EI, APD, is_translated=False, udp_works=True),
        )
        assert "Nothing is translated; a firewall lets in" in find(facts, "NAT").text
        assert "open UDP 4001 and TCP 4001 in the firewall" in find(facts, "port mapping").advice

    def test_udp_blocked(self):
        found = find(home(nat4=NatReport(udp_works=False)), "UDP")
        assert found.state is State.BAD
        assert "outgoing UDP" in found.advice

    def test_a_carrier(self):
        facts = home(interfaces=(ipaddress.IPv4Interface("100.64.0.7/10"),))
        assert "carrier-grade" in find(facts, "IPv4").text

    def test_double_nat(self):
        found = find(home(port_mapping=port_mapping(mapping("192.168.0.3"))), "port mapping")
        assert found.state is State.BAD
        assert "double NAT" in found.text
        assert "bridge mode" in found.advice

    def test_each_method_with_its_reason(self):
        text = find(home(), "port mapping").text
        assert "PCP: nothing listens at the gateway" in text
        assert "UPnP: the gateway does not answer" in text

    @pytest.mark.parametrize(
        ("idle", "state"),
        [(Reason.NOT_NEEDED.value, State.OK), (Reason.NO_GATEWAY.value, State.UNKNOWN)],
    )
    def test_port_mapping_that_was_not_tried(self, idle, state):
        assert find(home(port_mapping=port_mapping(idle=idle)), "port mapping").state is state

    def test_loopback_only(self):
        found = find(home(listen=(Multiaddr("/ip4/127.0.0.1/tcp/1"),)), "listening")
        assert found.state is State.BAD

    def test_one_transport_only(self):
        assert "UDP" in find(home(listen=LISTEN[:1]), "listening").text

    def test_relays_that_cannot_be_had(self):
        relay = RelayFact("12D3", error="connection refused")
        found = find(home(relays=(relay,)), "relays")
        assert found.state is State.BAD
        assert "connection refused" in found.text
        assert "443" in found.advice

    def test_one_of_several_relays_that_cannot_be_had_is_no_good_news(self):
        found = find(home(relays=(RELAY, RelayFact("12D3"))), "relays")
        assert found.state is State.WARN
        assert "12D3: not connected" in found.text

    def test_a_key_for_this_once_is_on_no_allow_list(self):
        refused = RelayFact("12D3", path="direct-tcp", error="not allowed (PERMISSION_DENIED)")
        assert "--own-key" in find(home(relays=(refused,), own_key=False), "relays").advice
        assert "--own-key" not in find(home(relays=(refused,)), "relays").advice
        full = RelayFact("12D3", path="direct-tcp", error="full (RESERVATION_REFUSED)")
        assert "operator" in find(home(relays=(full,), own_key=False), "relays").advice

    @pytest.mark.parametrize(
        ("offsets", "state", "words"),
        [
            ([None, None], None, ""),
            ([0.0, 59.0], State.OK, "agrees with 2 relays"),
            ([7200.0, 7190.0], State.WARN, "This machine's clock is 2.0 h behind"),
            ([-7200.0, -7190.0, 0.0], State.WARN, "This machine's clock is 2.0 h ahead of"),
            ([0.0, 1.0, -300.0], State.WARN, "relay-2 is 5 min behind it: theirs is wrong"),
            ([0.0, 300.0], State.WARN, "relay-1 is 5 min ahead of it: theirs is wrong"),
            ([7200.0], State.WARN, "This machine's clock or a relay's is wrong"),
            ([7200.0, -7200.0], State.WARN, "This machine's clock or a relay's is wrong"),
        ],
    )
    def test_whose_clock_is_wrong(self, offsets, state, words):
        relays = tuple(
            RelayFact(f"relay-{n}", path="direct-tcp", reserved=True, clock_offset=offset)
            for n, offset in enumerate(offsets)
        )
        if state is None:
            assert not any(each.topic == "clock" for each in examine(home(relays=relays)))
            return
        found = find(home(relays=relays), "clock")
        assert found.state is state
        assert words in found.text

    def test_autonat(self):
        addr = Multiaddr("/ip4/11.0.0.1/tcp/4001")
        bad = home(addresses=(AddressFact(addr, Reachability.UNREACHABLE, 2, 2),))
        assert find(bad, "reachable").state is State.WARN
        good = home(addresses=(AddressFact(addr, Reachability.REACHABLE, 2, 2),))
        assert find(good, "reachable").state is State.OK
        assert good.is_open

    def test_short_lives(self):
        assert find(home(lifetime=MappingLifetime(15, 25)), "mapping lifetime").state is State.OK
        found = find(home(lifetime=MappingLifetime(5, 15)), "mapping lifetime")
        assert found.state is State.WARN
        assert "5 to 15 s" in found.text


class TestReach:
    """The table of what theory allows."""

    @pytest.mark.parametrize(
        ("facts", "hows"),
        [
            (home(EI, EI), "direct direct direct direct direct_tcp relayed"),
            (home(EI, AD), "direct direct direct direct direct_tcp relayed"),
            (home(EI, APD), "direct direct direct birthday direct_tcp relayed"),
            (home(EI, None), "direct direct direct birthday direct_tcp relayed"),
            (home(AD, AD), "direct direct birthday relayed relayed relayed"),
            (home(APD, APD), "direct direct birthday relayed relayed relayed"),
            (
                home(nat4=NatReport(udp_works=False)),
                "direct direct_tcp direct_tcp relayed direct_tcp relayed",
            ),
            (home(None, None), "direct unknown unknown unknown unknown unknown"),
            (
                home(APD, APD, port_mapping=port_mapping(mapping())),
                "direct direct direct direct direct relayed",
            ),
            (
                home(APD, APD, port_mapping=port_mapping(mapping(number=443))),
                "direct direct direct direct direct direct",
            ),
        ],
    )
    def test_against_each_kind(self, facts, hows):
        assert [row.how.name.lower() for row in reach_table(facts)] == hows.split()

    def test_the_verdict(self):
        assert find(home(EI, AD), "in all").state is State.OK
        assert find(home(APD, APD), "in all").state is State.WARN
        assert find(home(APD, APD, relays=()), "in all").state is State.BAD
        assert find(DoctorFacts(), "in all").state is not State.OK


@given(
    mapping=st.sampled_from([None, *Behaviour]),
    filtering=st.sampled_from([None, *Behaviour]),
    udp=st.sampled_from([None, True, False]),
    flags=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_whatever_the_facts(mapping, filtering, udp, flags):
    """There is always something to say, in whole sentences, and it can be shown."""
    facts = DoctorFacts(
        listen=LISTEN if flags[0] else (),
        fixed_ports=flags[1],
        interfaces=(ipaddress.IPv4Interface("10.0.0.7/8"),) if flags[2] else (),
        nat4=NatReport(mapping, filtering, is_translated=flags[3], udp_works=udp),
        relays=(RELAY,) if flags[4] else (),
        servers=int(flags[4]),
        port_mapping=NO_GATEWAY if flags[5] else None,
    )
    findings = examine(facts)
    for finding in findings:
        assert finding.text[0].isupper() or finding.topic == "relays"
        assert finding.text.endswith(".")
        assert finding.advice == "" or finding.advice.endswith(".")
    assert len({finding.topic for finding in findings}) == len(findings)
    assert len(reach_table(facts)) == len(Peer)
    assert all(isinstance(how_reached(facts, peer), How) for peer in Peer)
    json.dumps(command._json(facts, findings, reach_table(facts)))
    waiting_for(facts)


def is_settled(facts: DoctorFacts) -> bool:
    return not waiting_for(facts)


class TestSettled:
    def test_without_relays_the_router_is_all(self):
        assert is_settled(DoctorFacts(port_mapping=NO_GATEWAY))
        searching = (MethodStatus(Method.UPNP, MethodState.SEARCHING),)
        status = PortMappingStatus(True, (FamilyStatus(4, None, GATEWAY, searching, ()),))
        assert not is_settled(DoctorFacts(port_mapping=status))
        assert not is_settled(DoctorFacts(port_mapping=PortMappingStatus(True)))
        found = (MethodStatus(Method.PCP, MethodState.FOUND),)
        family = FamilyStatus(4, None, GATEWAY, found, ())
        assert not is_settled(DoctorFacts(port_mapping=PortMappingStatus(True, (family,))))
        mapped = replace(family, mappings=(mapping(),))
        assert is_settled(DoctorFacts(port_mapping=PortMappingStatus(True, (mapped,))))

    def test_with_relays(self):
        assert is_settled(home())
        assert not is_settled(home(unfinished=("the kind of NAT",)))
        asked = replace(RELAY, reserved=False)
        assert not is_settled(home(relays=(RELAY, asked)))
        assert is_settled(home(relays=(RELAY, replace(asked, error="permission denied"))))
        assert is_settled(home(relays=(RELAY, replace(asked, chosen=False))))
        assert not is_settled(home(relays=(RELAY, replace(asked, chosen=False, path=""))))

    def test_what_cannot_be_found_out_is_not_waited_for(self):
        """One relay with one address cannot tell how a NAT filters, others tell nothing at all."""
        addr = AddressFact(Multiaddr("/ip4/11.0.0.1/tcp/1"), Reachability.UNKNOWN)
        for report in (NatReport(udp_works=True), NatReport(EI, None, udp_works=True), NatReport()):
            assert is_settled(home(nat4=report, addresses=(addr,)))

    def test_what_was_missing_when_time_was_over(self):
        found = find(home(unfinished=("the kind of NAT",), gave_up=True), "asked outside")
        assert found.state is State.WARN
        assert "the kind of NAT" in found.text
        assert find(home(gave_up=True), "asked outside").state is State.OK


async def test_facts_of_a_node_on_loopback():
    async with Node(node_config()) as node:
        with trio.fail_after(60):
            facts = await gather(node, 30)
    assert facts.listen
    assert not facts.fixed_ports
    assert facts.servers == 0
    assert not facts.gave_up
    assert find(facts, "listening").state is State.BAD


@asynccontextmanager
async def relay_node(*, serves: bool) -> AsyncIterator[Node]:
    """A relay with one UDP port; only one of Lattica answers STUN and AutoNAT requests."""
    server = RelayServerConfig(enabled=True, limits=RelayLimits(open_to_strangers=True))
    config = node_config(listen=("/ip4/127.0.0.1/udp/0/quic-v1/noise",))
    async with Node(replace(config, nat=replace(config.nat, relay_server=server))) as relay:
        if not serves:
            relay.swarm.protocols.unhandle(DIAL_REQUEST, owner="the AutoNAT server")
        yield relay


@pytest.mark.parametrize("serves", [True, False])
async def test_one_relay_is_enough_for_an_end(serves):
    """There are things that one relay cannot tell: the doctor does not wait for them."""
    async with relay_node(serves=serves) as relay:
        config = node_config(listen=("/ip4/127.0.0.1/udp/0/quic-v1/noise",))
        nat = replace(
            config.nat,
            relay=RelayClientConfig(relays=tuple(str(addr) for addr in relay.addrs)),
            autonat=AutonatConfig(client=AutonatClientConfig(allow_private=True)),
        )
        async with Node(replace(config, nat=nat)) as node:
            with trio.fail_after(100):
                facts = await gather(node, 60)
    assert not facts.gave_up
    assert facts.unfinished == ()
    assert facts.relays[0].reserved
    assert facts.nat4.udp_works
    assert facts.nat4.filtering is None
    assert find(facts, "asked outside").state is State.OK


class FakeNode:
    """A node that is connected to relays at some addresses, and not to one at 11.0.0.99."""

    def __init__(self, *addrs: str) -> None:
        self.traversal = self.relays = self
        self._addrs = addrs

    def status(self) -> list[Any]:
        found = [
            SimpleNamespace(relay=f"relay {addr}", addrs=(Multiaddr(addr),), path="direct-tcp")
            for addr in self._addrs
        ]
        away = (Multiaddr(QUIC.format("11.0.0.99")),)
        return [*found, SimpleNamespace(relay="away", addrs=away, path="")]


QUIC = "/ip4/{}/udp/4001/quic-v1/noise"


class TestLifetime:
    async def run(self, *helpers: str, error: OSError | None = None) -> Any:
        """Which relay measures, the result, and what was said."""
        said: list[str] = []
        measuring: list[Any] = []

        async def helps(server: Any, host: str) -> bool:
            await trio.lowlevel.checkpoint()
            assert host == "0.0.0.0"
            if error is not None:
                raise error
            return server[0] in helpers

        async def measure(server: Any, host: str, *, on_progress: Any) -> MappingLifetime:
            await trio.lowlevel.checkpoint()
            measuring.append(server)
            on_progress(MappingLifetime(25, None))
            on_progress(MappingLifetime(25, 35))
            return MappingLifetime(25, 35)

        node: Any = FakeNode(
            "/dns4/relay.example/udp/4001/quic-v1/noise",
            "/ip4/11.0.0.2/tcp/4001",
            QUIC.format("11.0.0.3"),
            QUIC.format("11.0.0.4"),
        )
        found = await measure_lifetime(node, said.append, measure=measure, helps=helps)
        return measuring, found, said

    async def test_a_relay_that_helps_is_asked(self):
        measuring, found, said = await self.run("11.0.0.4", "11.0.0.99")
        assert measuring == [("11.0.0.4", 4001)]
        assert found == MappingLifetime(25, 35)
        assert said[1:] == [
            "an idle UDP mapping is still there after 25 s",
            "an idle UDP mapping is still there after 25 s, gone after 35 s",
        ]
        assert "lives 25 to 35 s" in find(home(lifetime=found), "mapping lifetime").text

    async def test_nobody_helps(self):
        measuring, found, said = await self.run("11.0.0.99")
        assert (measuring, found) == ([], None)
        assert "no relay helps" in said[0]

    async def test_no_socket(self):
        _, found, said = await self.run(error=OSError(errno.EMFILE, "Too many open files"))
        assert found is None
        assert "Too many open files" in said[0]


class TestCommand:
    """What it says besides the findings, without a node."""

    @pytest.fixture
    def doctor(self, monkeypatch, tmp_path) -> Any:
        asked: list[tuple[float, bool]] = []

        async def gather(config: Any, wait: float, lifetime: bool) -> DoctorFacts:
            await trio.lowlevel.checkpoint()
            asked.append((wait, lifetime))
            logging.getLogger("lattica.nat").info("noise")
            return home(lifetime=MappingLifetime(15, 25) if lifetime else None)

        monkeypatch.setattr(command, "_gather", gather)
        monkeypatch.delenv("LATTICA_LOG_LEVEL", raising=False)
        monkeypatch.setenv("LATTICA_NAT__PORT_MAPPING__ENABLED", "true")

        def run(*arguments: str, before: Sequence[str] = (), env: Any = None) -> Any:
            line = ["--data-dir", str(tmp_path), *before, "doctor", "--json", *arguments]
            result = CliRunner().invoke(app, line, env=env)
            assert result.exit_code == 0, result.output
            return json.loads(result.stdout), result.stderr.splitlines(), asked[-1]

        return run

    def test_quiet_but_for_what_is_asked(self, doctor):
        relay = f"/ip4/11.0.0.1/tcp/4001/p2p/{Identity.generate().peer_id}"
        shown, said, asked = doctor("--relay", relay, "--wait", "7")
        assert said == ["asking 1 relay and the router, up to 7 s…"]
        assert asked == (7.0, False)
        assert shown["mapping_lifetime"] is None

    def test_the_lifetime_if_that_is_asked_for(self, doctor):
        shown, _, asked = doctor("--lifetime")
        assert asked == (20.0, True)
        assert shown["mapping_lifetime"] == {"alive_s": 15, "dead_s": 25}

    @pytest.mark.parametrize("how", [[], ["--json"]])
    def test_the_exit_status_says_whether_something_is_bad(self, how, monkeypatch, tmp_path):
        async def gather(config: Any, wait: float, lifetime: bool) -> DoctorFacts:
            await trio.lowlevel.checkpoint()
            return facts

        monkeypatch.setattr(command, "_gather", gather)
        for facts, status in ((home(), 0), (home(listen=()), 3)):
            assert any(f.state is State.BAD for f in examine(facts)) is bool(status)
            line = ["doctor", "--data-dir", str(tmp_path), *how]
            assert CliRunner().invoke(app, line).exit_code == status

    def test_the_log_if_that_is_asked_for(self, doctor, tmp_path):
        file = tmp_path / "lattica.toml"
        file.write_text('log_level = "info"\n')
        for options in (
            {"before": ("--log-level", "info")},
            {"env": {"LATTICA_LOG_LEVEL": "info"}},
            {"before": ("--config", str(file))},
        ):
            _, said, _ = doctor(**options)
            assert len(said) == 2
            assert said[1].endswith("noise")


def test_the_progress_is_in_the_command(monkeypatch, capsys):
    """`--lifetime` measures with the node that has asked, and tells on standard error."""

    async def measure(node: Node, tell: Any) -> MappingLifetime:
        await trio.lowlevel.checkpoint()
        assert node.swarm.listen_addrs
        tell("so far")
        return MappingLifetime(5, 15)

    monkeypatch.setattr("lattica.doctor.facts.measure_lifetime", measure)
    for wanted, expected in ((False, None), (True, MappingLifetime(5, 15))):
        facts = trio.run(command._gather, node_config(), 0.0, wanted)
        assert facts.lifetime == expected
    assert capsys.readouterr().err == "so far\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_shown(as_json):
    app = typer.Typer()
    app.command()(lambda: command._show(home(), (), as_json))
    result = CliRunner().invoke(app)
    assert result.exit_code == 0
    if as_json:
        shown = json.loads(result.stdout)
        assert {one["topic"] for one in shown["findings"]} >= {"NAT", "relays", "port mapping"}
        assert shown["nat"]["ipv4"]["mapping"] == "endpoint-independent"
        assert {row["how"] for row in shown["peers"]} <= {how.name.lower() for how in How}
    else:
        assert "port mapping" in result.stdout


def test_the_facts_are_of_this_process() -> None:
    facts = machine_facts(Limits(max_connections=10**9))
    assert facts.descriptors == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 0 < facts.connections < facts.descriptors
    assert facts.wanted_connections == 10**9
    assert facts.receive_buffer > 0
