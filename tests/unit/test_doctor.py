"""The doctor's judgement: from facts to findings, advice, and who can reach a node how."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from typing import Any

import pytest
import trio
import typer
from hypothesis import given
from hypothesis import strategies as st
from multiaddr.multiaddr import Multiaddr
from typer.testing import CliRunner

from lattica.cli import doctor as command
from lattica.doctor import Finding, State, examine
from lattica.doctor_facts import AddressFact, DoctorFacts, RelayFact, gather, is_settled
from lattica.doctor_reach import How, Peer, how_reached, reach_table
from lattica.nat.portmap.commands import MethodState, MethodStatus
from lattica.nat.portmap.mapping import Mapping, Method, Port, Reason, Transport, why_useless
from lattica.nat.portmap.port_mapping_service import FamilyStatus, PortMappingStatus
from lattica.nat.reachability.autonat_client import Reachability
from lattica.nat.reachability.mapping_lifetime import MappingLifetime
from lattica.nat.reachability.nat_report import Behaviour, NatReport
from lattica.node import Node
from tests.nets import node_config

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
    is_settled(facts)


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
        assert not is_settled(home(nat4=NatReport()))
        assert not is_settled(home(relays=(replace(RELAY, reserved=False),)))
        addr = AddressFact(Multiaddr("/ip4/11.0.0.1/tcp/1"), Reachability.UNKNOWN)
        assert not is_settled(home(addresses=(addr,)))


async def test_facts_of_a_node_on_loopback():
    async with Node(node_config()) as node:
        with trio.fail_after(60):
            facts = await gather(node, 30)
    assert facts.listen
    assert not facts.fixed_ports
    assert facts.servers == 0
    assert not facts.gave_up
    assert find(facts, "listening").state is State.BAD


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_shown(as_json):
    app = typer.Typer()
    app.command()(lambda: command._show(home(), as_json))
    result = CliRunner().invoke(app)
    assert result.exit_code == 0
    if as_json:
        shown = json.loads(result.stdout)
        assert {one["topic"] for one in shown["findings"]} >= {"NAT", "relays", "port mapping"}
        assert shown["nat"]["ipv4"]["mapping"] == "endpoint-independent"
        assert {row["how"] for row in shown["peers"]} <= {how.name.lower() for how in How}
    else:
        assert "port mapping" in result.stdout
