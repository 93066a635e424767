"""What keeps peers from reaching a node, and what to do about it. Pure.

:func:`examine` turns facts (:mod:`lattica.doctor.facts`) into findings with advice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from statistics import median

from lattica.doctor.distributions import ADVICE
from lattica.doctor.facts import DoctorFacts, is_public_address, waiting_for
from lattica.doctor.reach import How, reach_table
from lattica.nat.base.clocks import clocks_agree
from lattica.nat.base.net.addresses import Kind, ip_of, kind_of
from lattica.nat.base.net.ip import CARRIER_NAT, IpAddress, is_public_host
from lattica.nat.base.printable import rough_duration
from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport
from lattica.nat.traversal.autonat.client_core import Reachability
from lattica.nat.traversal.portmap.mapping import Mapping, Reason
from lattica.nat.traversal.portmap.service import FamilyStatus

KEEPALIVE = 25.0
"""Seconds after which a mapping that is to stay is used again; shorter lives need more."""


class State(Enum):
    OK = "ok"
    WARN = "warn"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that works, or does not. `advice` is empty where there is nothing to do."""

    topic: str
    state: State
    text: str
    advice: str = ""


def examine(facts: DoctorFacts) -> tuple[Finding, ...]:
    """All findings, the one about consent first."""
    found = [
        _asked(facts),
        _listening(facts),
        _ipv4(facts),
        _ipv6(facts),
        _udp(facts),
        _nat(facts),
        _mapping_life(facts),
        _port_mapping(facts),
        _reachability(facts),
        _relays(facts),
        _clocks(facts),
        _packages(facts),
        _verdict(facts),
    ]
    return tuple(finding for finding in found if finding is not None)


def _packages(facts: DoctorFacts) -> Finding | None:
    if not facts.has_original:
        return None
    return Finding(
        "packages",
        State.BAD,
        "The original `lattica` is installed beside this package, and both own the folder "
        "lattica/: whichever is removed takes files of the other with it.",
        ADVICE,
    )


def _asked(facts: DoctorFacts) -> Finding:
    if not facts.servers:
        return Finding(
            "asked outside",
            State.UNKNOWN,
            "No relay is configured, so nothing was asked outside the local network: what kind "
            "of NAT there is cannot be known.",
            "Name a relay that you trust: `lattica doctor --relay ADDR`, or `relays` in the "
            "configuration file, or LATTICA_RELAYS.",
        )
    words = f"Only configured relays and bootstrap peers were asked ({facts.servers})."
    if facts.gave_up and (missing := waiting_for(facts)):
        return Finding(
            "asked outside",
            State.WARN,
            f"{words} When time was over, answers were missing about: {', '.join(missing)}.",
            "Run it again with a longer --wait.",
        )
    return Finding("asked outside", State.OK, words)


def _listening(facts: DoctorFacts) -> Finding:
    ips = [ip for addr in facts.listen if (ip := ip_of(addr)) is not None]
    if not facts.listen:
        return Finding(
            "listening",
            State.BAD,
            "This node listens nowhere: peers reach it only over relays.",
            "Set `listen`, for example to /ip4/0.0.0.0/udp/4001/quic-v1/noise and "
            "/ip4/0.0.0.0/tcp/4001.",
        )
    if ips and all(ip.is_loopback for ip in ips):
        return Finding(
            "listening",
            State.BAD,
            "This node listens on loopback addresses only: nobody outside this machine can "
            "connect to it.",
            "Set `listen` to addresses such as /ip4/0.0.0.0/tcp/4001.",
        )
    text = f"Listening on {facts.ports}."
    kinds = {kind_of(addr) for addr in facts.listen}
    if Kind.QUIC not in kinds or Kind.TCP not in kinds:
        missing = "UDP (QUIC)" if Kind.QUIC not in kinds else "TCP"
        return Finding(
            "listening",
            State.WARN,
            f"{text} Not on {missing}: some pairs of NATs can only be crossed by it.",
            f"Listen on {missing}, too.",
        )
    if not facts.fixed_ports:
        return Finding(
            "listening",
            State.OK,
            f"{text} The ports are others at each start.",
            "To open ports by hand in a firewall or router, set `listen` to fixed ones.",
        )
    return Finding("listening", State.OK, text)


def _addresses(facts: DoctorFacts, version: int) -> list[IpAddress]:
    return [
        interface.ip
        for interface in facts.interfaces
        if interface.version == version and not interface.ip.is_loopback
    ]


def _ipv4(facts: DoctorFacts) -> Finding:
    found = _addresses(facts, 4)
    if not found:
        return Finding("IPv4", State.WARN, "This machine has no IPv4 address.")
    public = [ip for ip in found if is_public_host(ip)]
    if public:
        return Finding("IPv4", State.OK, f"This machine has a public address, {public[0]}.")
    if any(ip in CARRIER_NAT for ip in found):
        return Finding(
            "IPv4",
            State.WARN,
            f"The address {found[0]} is shared by customers of the provider: there is a "
            "carrier-grade NAT (RFC 6598), which opens no ports for you.",
            "Ask the provider for a public IPv4 address, or for IPv6.",
        )
    return Finding("IPv4", State.OK, f"Behind a NAT: the address {found[0]} is a private one.")


def _ipv6(facts: DoctorFacts) -> Finding:
    public = [ip for ip in _addresses(facts, 6) if is_public_host(ip)]
    if not public:
        return Finding(
            "IPv6",
            State.WARN,
            "This machine has no public IPv6 address.",
            "With IPv6 there is no NAT in the way: switch it on in the router, if the provider "
            "has it.",
        )
    if any(ip.version == 6 for addr in facts.reachable if (ip := ip_of(addr)) is not None):
        return Finding("IPv6", State.OK, f"The public address {public[0]} can be reached.")
    return Finding(
        "IPv6",
        State.OK,
        f"This machine has the public address {public[0]}. Where both peers have one, a firewall "
        "is all that may be in the way.",
    )


def _udp(facts: DoctorFacts) -> Finding | None:
    known = [report.udp_works for report in (facts.nat4, facts.nat6)]
    if True in known:
        return Finding("UDP", State.OK, "UDP gets out, and answers come back.")
    if False in known:
        return Finding(
            "UDP",
            State.BAD,
            "UDP does not work: no answer came from any relay's UDP port. Only TCP is left, which "
            "gets through fewer NATs, and not over lossy lines.",
            "Allow outgoing UDP in the firewall, at least from this machine's "
            f"{facts.ports.partition(' and ')[0]}.",
        )
    return None


_MAPPING_WORDS = {
    Behaviour.ENDPOINT_INDEPENDENT: "gives a port one address outside, whoever it talks to",
    Behaviour.ADDRESS_DEPENDENT: "gives a port another address outside for each peer",
    Behaviour.ADDRESS_AND_PORT_DEPENDENT: (
        "gives a port another address outside for each peer and port"
    ),
}
_FILTERING_WORDS = {
    Behaviour.ENDPOINT_INDEPENDENT: "lets in anybody once a port is in use",
    Behaviour.ADDRESS_DEPENDENT: "lets in only hosts that were written to",
    Behaviour.ADDRESS_AND_PORT_DEPENDENT: "lets in only those ports of hosts that were written to",
}
_OLD_NAMES = {
    Behaviour.ENDPOINT_INDEPENDENT: "full cone",
    Behaviour.ADDRESS_DEPENDENT: "restricted cone",
    Behaviour.ADDRESS_AND_PORT_DEPENDENT: "port-restricted cone",
}


def _describe(report: NatReport) -> str:
    assert report.mapping is not None
    what = "firewall" if report.is_translated is False else "NAT"
    if report.is_translated is False:
        text = "Nothing is translated"
        terms = []
    else:
        text = f"The {what} {_MAPPING_WORDS[report.mapping]}"
        terms = [f"{report.mapping.value} mapping"]
    if report.filtering is not None:
        joint = ", and" if what == "NAT" else "; a firewall"
        text += f"{joint} {_FILTERING_WORDS[report.filtering]}"
        terms.append(f"{report.filtering.value} filtering")
        if report.is_hard:
            terms.append("once called symmetric NAT")
        elif what == "NAT":
            terms.append(f"once called {_OLD_NAMES[report.filtering]}")
    text += f" ({', '.join(terms)}; RFC 4787)." if terms else "."
    if report.preserves_port is not None and what == "NAT":
        text += " It keeps port numbers." if report.preserves_port else " It changes port numbers."
    if report.hairpin is False and what == "NAT":
        text += " Its outside address does not work from inside (no hairpinning), so peers behind "
        text += "it use their local addresses."
    return text


def _nat(facts: DoctorFacts) -> Finding | None:
    report = facts.nat4
    if report.mapping is None:
        if not facts.servers or report.udp_works is False:
            return None
        return Finding(
            "NAT",
            State.UNKNOWN,
            "How the NAT maps ports is not known: that takes answers from two different relays.",
            "Configure a second relay that listens on UDP.",
        )
    if report.is_hard:
        return Finding(
            "NAT",
            State.OK if facts.is_open else State.WARN,
            f"{_describe(report)} Nobody can be told in advance where to send to.",
            "" if facts.is_open else _open_ports(facts),
        )
    return Finding("NAT", State.OK, _describe(report))


def _mapping_life(facts: DoctorFacts) -> Finding | None:
    life = facts.lifetime
    if life is None or (life.alive_s is None and life.dead_s is None):
        return None
    if life.dead_s is None:
        text = f"An idle UDP mapping lives longer than {life.alive_s:g} s."
    elif life.alive_s is None:
        text = f"An idle UDP mapping is gone after {life.dead_s:g} s."
    else:
        text = f"An idle UDP mapping lives {life.alive_s:g} to {life.dead_s:g} s."
    if life.dead_s is not None and life.dead_s < KEEPALIVE:
        return Finding(
            "mapping lifetime",
            State.WARN,
            f"{text} That is short: idle connections may be lost.",
            "Raise the UDP time-out in the router; RFC 4787 asks for two minutes at least.",
        )
    return Finding("mapping lifetime", State.OK, text)


def _port_mapping(facts: DoctorFacts) -> Finding | None:
    status = facts.port_mapping
    if status is None:
        return None
    if not status.enabled:
        advice = "" if facts.is_open else "Switch it on: `nat.port_mapping.enabled = true`."
        return Finding("port mapping", State.UNKNOWN, "Switched off by configuration.", advice)
    if facts.useful_mappings:
        words = ", ".join(
            f"{m.port.transport.name} {m.port.number} at {_endpoint(m)} by {m.method.value}"
            for m in facts.useful_mappings
        )
        return Finding("port mapping", State.OK, f"The router has opened {words}.")
    if status.mappings:
        useless = status.mappings[0]
        return Finding(
            "port mapping",
            State.BAD,
            f"The router has opened ports, but of no use: {useless.useless}.",
            "Make the outer router forward to the inner one, switch the inner one to bridge mode, "
            "or ask the provider for a public address.",
        )
    family = next((one for one in status.families if one.family == 4), None)
    if family is None or family.idle is not None:
        why = "it has not run" if family is None else family.idle
        is_public = why == Reason.NOT_NEEDED.value
        return Finding(
            "port mapping", State.OK if is_public else State.UNKNOWN, f"Not tried: {why}."
        )
    text = f"The router opened no ports: {_method_words(family)}."
    state = State.OK if facts.is_open else State.WARN
    return Finding("port mapping", state, text, "" if facts.is_open else _open_ports(facts))


def _endpoint(mapping: Mapping) -> str:
    ip = mapping.external_ip
    return f"[{ip}]:{mapping.external_port}" if ip.version == 6 else f"{ip}:{mapping.external_port}"


def _method_words(family: FamilyStatus) -> str:
    words = []
    for one in family.methods:
        if one.reason is not None:
            detail = f" ({one.detail})" if one.detail else ""
            words.append(f"{one.method.value}: {one.reason.value}{detail}")
        else:
            words.append(f"{one.method.value}: {one.state.value}")
    return "; ".join(words)


def _reachability(facts: DoctorFacts) -> Finding | None:
    public = [fact for fact in facts.addresses if is_public_address(fact.addr)]
    tested = [fact for fact in public if fact.state is not Reachability.UNKNOWN]
    if not tested:
        if not facts.servers:
            return None
        return Finding(
            "reachable",
            State.UNKNOWN,
            "No server has tried to connect to this node (AutoNAT v2).",
            "Configure a relay that answers AutoNAT v2; relays of Lattica do.",
        )
    good = [str(fact.addr) for fact in tested if fact.state is Reachability.REACHABLE]
    bad = [str(fact.addr) for fact in tested if fact.state is Reachability.UNREACHABLE]
    text = " ".join(
        f"{words} {', '.join(addrs)}."
        for words, addrs in (("Strangers can connect to", good), ("Nobody gets through to", bad))
        if addrs
    )
    if good and not bad:
        return Finding("reachable", State.OK, text)
    state = State.OK if good else State.WARN
    return Finding("reachable", state, text, "" if good else _open_ports(facts))


def _clocks(facts: DoctorFacts) -> Finding | None:
    """Whose clock is wrong: who differs from most others."""
    offsets = {r.relay: r.clock_offset for r in facts.relays if r.clock_offset is not None}
    if not offsets:
        return None
    middle = median(offsets.values())
    ours_is_wrong = (
        len(offsets) > 1
        and sum(
            not clocks_agree(offset) and clocks_agree(offset - middle)
            for offset in offsets.values()
        )
        > len(offsets) / 2
    )
    if ours_is_wrong:
        return Finding(
            "clock",
            State.WARN,
            f"This machine's clock is {_ahead(-middle)} those of most relays: it is wrong.",
            "Set it, or have it set: `timedatectl set-ntp true`. Values in the DHT expire by it, "
            "and logs and certificates depend on it.",
        )
    off = {relay: each for relay, each in offsets.items() if not clocks_agree(each)}
    if not off:
        return Finding(
            "clock",
            State.OK,
            f"This machine's clock agrees with {_counted(len(offsets))}.",
        )
    words = "; ".join(f"that of {relay} is {_ahead(each)} it" for relay, each in off.items())
    agreeing = len(offsets) - len(off)
    if agreeing and agreeing >= len(off):
        text = (
            f"This machine's clock agrees with {_counted(agreeing)}, but {words}: theirs is wrong."
        )
        return Finding(
            "clock",
            State.WARN,
            text,
            "Tell whoever runs the relay: tokens that it has given run out by its clock.",
        )
    return Finding(
        "clock",
        State.WARN,
        f"This machine's clock or a relay's is wrong: {words}.",
        "See which of them differs from the time that your phone shows. Tokens that a relay has "
        "given run out by its clock.",
    )


def _counted(count: int) -> str:
    return "1 relay" if count == 1 else f"{count} relays"


def _ahead(seconds: float) -> str:
    amount = rough_duration(abs(seconds))
    return f"{amount} {'ahead of' if seconds > 0 else 'behind'}"


def _relays(facts: DoctorFacts) -> Finding | None:
    if not facts.relays:
        if not facts.servers:
            return None
        return Finding(
            "relays",
            State.WARN,
            "None of the configured peers is a relay: peers that cannot connect directly cannot "
            "connect at all.",
            "Configure a relay.",
        )
    lines = []
    for relay in facts.relays:
        how = relay.path.removeprefix("direct-") or "not connected"
        rtt = "" if relay.rtt is None else f", {1000 * relay.rtt:.0f} ms"
        place = ", reserved" if relay.reserved else ""
        error = f", {relay.error}" if relay.error else ""
        lines.append(f"{relay.relay}: {how}{rtt}{place}{error}")
    text = "; ".join(lines) + "."
    connected = [relay for relay in facts.relays if relay.path]
    reserved = [relay for relay in facts.relays if relay.reserved]
    if not connected:
        return Finding(
            "relays",
            State.BAD,
            text,
            "Check the relays' addresses and that outgoing TCP is allowed; where only web traffic "
            "is, use a relay at TCP port 443 over WebSocket (/tcp/443/wss).",
        )
    if not reserved:
        advice = "Ask the relay's operator to let this peer reserve a place."
        if not facts.own_key and "PERMISSION_DENIED" in text:
            advice = (
                "It was asked with a key for this once, which no allow-list has: ask with this "
                "peer's own by --own-key, whose ID `lattica id` shows."
            )
        return Finding("relays", State.WARN, text, advice)
    if len(connected) < len(facts.relays):
        return Finding(
            "relays",
            State.WARN,
            text,
            "What is not connected does not help: check that it runs and that its address is "
            "right, or take it out of `relays`.",
        )
    if len(reserved) == 1:
        return Finding(
            "relays",
            State.OK,
            text,
            "With a second relay nothing is lost when the first one goes away.",
        )
    return Finding("relays", State.OK, text)


def _open_ports(facts: DoctorFacts) -> str:
    host = next((f" to {ip}" for ip in _addresses(facts, 4) if not is_public_host(ip)), "")
    forward = f"forward {facts.ports}{host} in your router"
    if not host:
        forward = f"open {facts.ports} in the firewall"
    fixed = "" if facts.fixed_ports else " (after setting `listen` to fixed ports)"
    return f"Enable UPnP, NAT-PMP or PCP on your router, or {forward}{fixed}."


def _verdict(facts: DoctorFacts) -> Finding:
    rows = reach_table(facts)
    hows = [row.how for row in rows]
    relay = any(relay.reserved for relay in facts.relays)
    without = "" if relay else " No relay holds a place for this node, so those find no way at all."
    if How.UNKNOWN in hows:
        known = "" if How.DIRECT not in hows else ", unless they have an open port themselves"
        text = f"How peers get to this node is not known{known}."
        return Finding("in all", State.UNKNOWN, text, _open_ports(facts))
    left = [row.peer.value for row in rows if row.how is How.RELAYED]
    birthday = [row.peer.value for row in rows if row.how is How.BIRTHDAY]
    if not left and not birthday:
        return Finding("in all", State.OK, "Peers behind every kind of NAT connect directly.")
    slow = (
        f" It takes longer, and mostly succeeds, with: {'; '.join(birthday)}." if birthday else ""
    )
    text = "Peers connect directly, but"
    text += f" over a relay with: {'; '.join(left)}." if left else " not all at once."
    text += slow + (without if left else "")
    if facts.is_open:
        return Finding("in all", State.OK if relay or not left else State.WARN, text)
    state = State.OK if relay and len(left) <= 2 else State.WARN if relay else State.BAD
    return Finding("in all", state, text, "" if state is State.OK else _open_ports(facts))
