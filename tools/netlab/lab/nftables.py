"""Rulesets for what the kernel can do: NATs and firewalls, dead links, partitions. Pure text.

What Linux does of RFC 4787, and where it stops:

* `masquerade` keeps the port if it can and lets mappings to different remote endpoints share an
  external port: mapping and filtering are address-and-port-dependent, although a single inside
  host sees what looks like endpoint-independent mapping. `fully-random` draws a port for each.
* Filtering is by connection: address-and-port-dependent, or nothing at all.
* Packets in both directions refresh a mapping. Timeouts are whole seconds.

Everything else needs the lab's own NAT (`nat_table`); :func:`obstacles` says what and why. What
else is different, and left so:

* A RST must lie in the window to count. One that answers a SYN ends the mapping at once.
* A port below 1024 that is taken becomes another one below 1024.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from tools.netlab.spec.nat import MAX_SESSIONS, NatSpec

ANY_PORT = (1024, 65535)
"""Where the kernel looks for a port that it cannot preserve."""
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
        if spec.port == "preserving" and (spec.port_low, spec.port_high) != ANY_PORT:
            found.append("port_low, port_high: the kernel preserves ports in its own range only")
    elif spec.filtering == "address-dependent":
        found.append("filtering 'address-dependent': the kernel filters by connection")
    if not spec.is_open:
        if not spec.inbound_refresh:
            found.append("inbound_refresh false: in the kernel incoming packets refresh, too")
        for key in ("udp_timeout_s", "tcp_timeout_s", "tcp_transitory_s", "icmp_timeout_s"):
            value = getattr(spec, key)
            if value != int(value):
                found.append(f"{key} {value:g}: the kernel counts whole seconds")
    if spec.max_sessions != MAX_SESSIONS:
        found.append("max_sessions: the kernel has one limit for all routers together")
    return tuple(found)


def opens_ports(spec: NatSpec) -> bool:
    """Whether the router offers a port control protocol."""
    return spec.upnp or spec.natpmp or spec.pcp


def sysctls(spec: NatSpec) -> dict[str, str]:
    """Settings of the router's namespace, by their path below /proc/sys."""
    # Of TCP the kernel has more phases: one side has finished (as good as open, RFC 5382
    # section 5), both have, was reset; and two shorter lives of connections that seem dead.
    opened = ("established", "fin_wait", "close_wait", "max_retrans", "unacknowledged")
    transitory = ("syn_sent", "syn_recv", "last_ack", "time_wait", "close")
    timeouts = {
        "udp_timeout": spec.udp_timeout_s,
        "udp_timeout_stream": spec.udp_timeout_s,
        "icmp_timeout": spec.icmp_timeout_s,
        "icmpv6_timeout": spec.icmp_timeout_s,
        **{f"tcp_timeout_{phase}": spec.tcp_timeout_s for phase in opened},
        **{f"tcp_timeout_{phase}": spec.tcp_transitory_s for phase in transitory},
    }
    settings = {key: str(math.ceil(value)) for key, value in timeouts.items()}
    # A connection from before a reboot is not taken up again.
    settings["tcp_loose"] = "0"
    # Links that reorder and duplicate must not look like an attack.
    settings["tcp_be_liberal"] = "1"
    return {f"net/netfilter/nf_conntrack_{key}": value for key, value in settings.items()}


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
    out, into = f"iifname != {WAN} oifname {WAN}", f"iifname {WAN}"
    web = "{ 80, 443 }"
    rules = []
    if spec.ipv6 == "drop":
        rules.append("meta nfproto ipv6 drop")
    elif spec.ipv6 == "open":
        rules.append("meta nfproto ipv6 accept")
    rules += {
        "nothing": [],
        "udp": [f"{way} meta l4proto udp drop" for way in (out, into)],
        "tcp": [f"{way} meta l4proto tcp drop" for way in (out, into)],
        "all-but-tcp-443": [
            f"{out} tcp dport != 443 drop",
            f"{into} tcp sport != 443 drop",
            f"{out} meta l4proto != tcp drop",
            f"{into} meta l4proto udp drop",
        ],
        "all-but-web": [
            f"{out} tcp dport != {web} drop",
            f"{into} tcp sport != {web} drop",
            f"{out} meta l4proto != tcp drop",
            f"{into} meta l4proto udp drop",
        ],
    }[spec.blocked]
    rules += ["ct state established,related accept", "ct state invalid drop"]
    if opens_ports(spec):
        rules.append("jump miniupnpd")
    rules.append(f"iifname != {WAN} accept")
    if spec.is_open:
        translated = spec.translate == "one-to-one"
        rules.append("meta nfproto ipv4 ct status dnat accept" if translated else "accept")
        if translated:
            rules.append("meta nfproto ipv6 accept")
    rules += _refusal(spec)
    return rules


def _input_rules(spec: NatSpec) -> list[str]:
    """The router itself answers pings from outside, and nothing else."""
    return [
        f"iifname != {WAN} accept",
        "ct state established,related accept",
        "icmp type echo-request accept",
        # A word of nft's own: "ipv6-icmp" is looked up in /etc/protocols.
        "meta l4proto icmpv6 accept",
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


def partition(groups: Sequence[Iterable[str]], name: str = "partition") -> str:
    """Drops what the core would forward between interfaces of different groups.

    Of several at a time each has a `name` of its own.
    """
    sets = ["{ " + ", ".join(f'"{name}"' for name in group) + " }" for group in groups]
    rules = [
        f"iifname {source} oifname {target} drop"
        for source in sets
        for target in sets
        if source != target
    ]
    return _table("inet", name, [_chain("forward", "filter", "forward", -10, rules)])


def no_partition(name: str = "partition") -> str:
    """Undoes :func:`partition`."""
    return _without("inet", name)


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
