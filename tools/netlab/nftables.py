"""Rulesets for what the kernel can do: NATs and firewalls, dead links, partitions. Pure text.

What Linux does of RFC 4787, and where it stops:

* `masquerade` keeps the port if it can and lets mappings to different remote endpoints share an
  external port: mapping and filtering are address-and-port-dependent, although a single inside
  host sees what looks like endpoint-independent mapping. `fully-random` draws a port for each.
* Filtering is by connection: address-and-port-dependent, or nothing at all.
* Packets in both directions refresh a mapping. Timeouts are whole seconds.

Everything else needs the lab's own NAT (`nat_table`); :func:`obstacles` says what and why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from tools.netlab.nat_spec import NatSpec

WAN = "wan"
"""A router's outside interface. All others are inside."""


def obstacles(spec: NatSpec) -> tuple[str, ...]:
    """Why the kernel cannot behave as `spec` says; empty if it can.

    For a router that opens ports on request the kernel's NAT is good enough where it preserves
    ports and filters by connection, since the port mapping daemon works with nothing else.
    """
    dependent = "address-and-port-dependent"
    found = []
    if spec.translate == "ports":
        if spec.filtering != dependent:
            found.append(f"filtering {spec.filtering!r}: the kernel filters by connection")
        if spec.hairpin:
            found.append("hairpin: the kernel's masquerade does not turn packets back")
        if spec.ports_per_host is not None:
            found.append("ports_per_host: the kernel does not count mappings")
        if spec.port == "sequential":
            found.append("port 'sequential': the kernel preserves ports or draws them")
        is_like_linux = spec.mapping == dependent and (spec.overload or spec.port == "random")
        if not is_like_linux and not (opens_ports(spec) and spec.port == "preserving"):
            found.append(f"mapping {spec.mapping!r}: the kernel maps by connection")
    elif spec.filtering == "address-dependent":
        found.append("filtering 'address-dependent': the kernel filters by connection")
    return tuple(found)


def opens_ports(spec: NatSpec) -> bool:
    """Whether the router offers a port control protocol."""
    return spec.upnp or spec.natpmp or spec.pcp


def sysctls(spec: NatSpec) -> dict[str, str]:
    """Settings of the router's namespace, by their path below /proc/sys."""

    def seconds(value: float) -> str:
        return str(max(1, math.ceil(value)))

    conntrack = "net/netfilter/nf_conntrack"
    transitory = seconds(spec.tcp_transitory_s)
    return {
        f"{conntrack}_udp_timeout": seconds(spec.udp_timeout_s),
        f"{conntrack}_udp_timeout_stream": seconds(spec.udp_timeout_s),
        f"{conntrack}_icmp_timeout": seconds(spec.icmp_timeout_s),
        f"{conntrack}_tcp_timeout_established": seconds(spec.tcp_timeout_s),
        f"{conntrack}_tcp_timeout_syn_sent": transitory,
        f"{conntrack}_tcp_timeout_syn_recv": transitory,
        f"{conntrack}_tcp_timeout_fin_wait": transitory,
        # A connection from before a reboot is not taken up again.
        f"{conntrack}_tcp_loose": "0",
        # Links that reorder and duplicate must not look like an attack.
        f"{conntrack}_tcp_be_liberal": "1",
    }


def router(spec: NatSpec, one_to_one: Mapping[str, str] | None = None) -> str:
    """The ruleset of a router that behaves as `spec` says.

    one_to_one: external address by inside address, for translate "one-to-one".
    """
    pairs = one_to_one or {}
    chains = [
        _chain("forward", "filter", "forward", 0, _forward_rules(spec), policy="drop"),
        _chain("input", "filter", "input", 0, _input_rules(spec)),
    ]
    before: list[str] = []
    after: list[str] = []
    if spec.translate == "ports":
        after += _masquerade(spec)
    elif spec.translate == "one-to-one" and pairs:
        inward = _map({outside: inside for inside, outside in pairs.items()})
        outward = _map(pairs)
        towards = "" if spec.hairpin else f"iifname {WAN} "
        before.append(f"{towards}dnat ip to ip daddr map {inward}")
        after.append(f"oifname {WAN} snat ip to ip saddr map {outward}")
        if spec.hairpin:
            after.append(f"oifname != {WAN} ct status dnat snat ip to ip saddr map {outward}")
    if opens_ports(spec):
        before.insert(0, "jump prerouting_miniupnpd")
        after.insert(0, "jump postrouting_miniupnpd")
        names = ("miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd")
        chains += [f"    chain {name} {{\n    }}" for name in names]
    if before:
        chains.append(_chain("prerouting", "nat", "prerouting", -100, before))
    if after:
        chains.append(_chain("postrouting", "nat", "postrouting", 100, after))
    # miniupnpd expects the table to be called "filter".
    return _table("inet", "filter", chains)


def _forward_rules(spec: NatSpec) -> list[str]:
    out = f"iifname != {WAN} oifname {WAN}"
    rules = []
    if spec.ipv6 == "drop":
        rules.append("meta nfproto ipv6 drop")
    elif spec.ipv6 == "open":
        rules.append("meta nfproto ipv6 accept")
    rules += {
        "nothing": [],
        "udp": [f"{out} meta l4proto udp drop"],
        "tcp": [f"{out} meta l4proto tcp drop"],
        "all-but-tcp-443": [f"{out} tcp dport != 443 drop", f"{out} meta l4proto != tcp drop"],
        "all-but-web": [
            f"{out} tcp dport != {{ 80, 443 }} drop",
            f"{out} meta l4proto != tcp drop",
        ],
    }[spec.blocked]
    rules += ["ct state established,related accept", "ct state invalid drop"]
    if opens_ports(spec):
        rules.append("jump miniupnpd")
    rules.append(f"iifname != {WAN} accept")
    if spec.translate == "one-to-one" and spec.filtering == "endpoint-independent":
        rules.append("ct status dnat accept")
    elif spec.translate == "none" and spec.filtering == "endpoint-independent":
        rules.append("accept")
    rules += _refusal(spec)
    return rules


def _input_rules(spec: NatSpec) -> list[str]:
    """The router itself answers pings from outside, and nothing else."""
    return [
        f"iifname != {WAN} accept",
        "ct state established,related accept",
        "icmp type echo-request accept",
        "meta l4proto ipv6-icmp accept",
        *_refusal(spec),
        "drop",
    ]


def _refusal(spec: NatSpec) -> list[str]:
    return {
        "drop": [],
        "reset": ["tcp flags & (syn | ack) == syn reject with tcp reset"],
        "icmp": ["tcp flags & (syn | ack) == syn reject with icmpx type port-unreachable"],
    }[spec.refuse_tcp]


def _masquerade(spec: NatSpec) -> list[str]:
    to_wan = f"oifname {WAN} meta nfproto ipv4"
    if spec.port == "random":
        ports = f"{spec.port_low}-{spec.port_high}"
        with_ports = f"meta l4proto {{ tcp, udp }} masquerade to :{ports} fully-random"
        return [f"{to_wan} {with_ports}", f"{to_wan} masquerade"]
    return [f"{to_wan} masquerade"]


def dead_link(device: str) -> str:
    """Drops all that arrives on `device`, in the namespace that has it (ARP included)."""
    hook = f'type filter hook ingress device "{device}" priority -500; policy drop;'
    return _table("netdev", f"dead-{device}", [f"    chain ingress {{\n        {hook}\n    }}"])


def live_link(device: str) -> str:
    """Undoes :func:`dead_link`."""
    return _without("netdev", f"dead-{device}")


def partition(groups: Sequence[Iterable[str]]) -> str:
    """Drops what the core would forward between interfaces of different groups."""
    sets = ["{ " + ", ".join(f'"{name}"' for name in group) + " }" for group in groups]
    rules = [
        f"iifname {source} oifname {target} drop"
        for source in sets
        for target in sets
        if source != target
    ]
    return _table("inet", "partition", [_chain("forward", "filter", "forward", -10, rules)])


def no_partition() -> str:
    """Undoes :func:`partition`."""
    return _without("inet", "partition")


def _table(family: str, name: str, chains: Iterable[str]) -> str:
    """A ruleset that makes the table anew, whether or not it is there."""
    body = "\n".join(chains)
    return f"{_without(family, name)}table {family} {name} {{\n{body}\n}}\n"


def _without(family: str, name: str) -> str:
    # Deleting what does not exist is an error; adding what exists is not.
    return f"add table {family} {name}\ndelete table {family} {name}\n"


def _chain(
    name: str, kind: str, hook: str, priority: int, rules: Iterable[str], policy: str = "accept"
) -> str:
    head = f"type {kind} hook {hook} priority {priority}; policy {policy};"
    lines = "\n".join(f"        {line}" for line in (head, *rules))
    return f"    chain {name} {{\n{lines}\n    }}"


def _map(pairs: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{key} : {value}" for key, value in pairs.items()) + " }"
