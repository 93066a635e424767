"""NatSpec: how a router translates and filters, in the terms of RFC 4787; and the named types.

Behaviour counts, not names: the names below (of the kind that router tests use) are only keys to
specs, and each spec is verified by a probe (`probe.py`) through the real thing.

Sources: RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP), RFC 6888 (carrier-grade NAT).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from tools.netlab.spec.strict import require, require_number

Behaviour: TypeAlias = Literal[
    "endpoint-independent", "address-dependent", "address-and-port-dependent"
]
PortAllocation: TypeAlias = Literal["preserving", "sequential", "random"]
Translation: TypeAlias = Literal["ports", "one-to-one", "none"]
Blocked: TypeAlias = Literal["nothing", "udp", "tcp", "all-but-tcp-443", "all-but-web"]
Refusal: TypeAlias = Literal["drop", "reset", "icmp"]
Ipv6: TypeAlias = Literal["firewall", "open", "drop"]


MAX_SESSIONS: Final = 65536


@dataclass(frozen=True, slots=True)
class NatSpec:
    """What a NAT or stateful firewall does. The default is a good home router.

    translate: "ports": addresses and ports are rewritten (NAPT); "one-to-one": each inside host
        has an external address of its own and ports stay; "none": nothing is rewritten, only
        filtered (a firewall).
    mapping: when an inside endpoint keeps its external endpoint (RFC 4787 section 4.1): always,
        per remote address, or per remote address and port. Only with translate "ports".
    filtering: what may come in to a mapping (RFC 4787 section 5): everything, what comes from
        addresses it has sent to, or from addresses and ports it has sent to. Where ports are not
        translated each endpoint has its mapping from the start, so that "endpoint-independent"
        filters nothing at all, whether or not the host has sent anything (see `is_open`).
    port: external port of a new mapping: the inside port where free (else the next free one),
        the next free one, or any free one at random.
    port_low, port_high: range of ports that are handed out (a preserved one may lie outside;
        the kernel gives a port below 1024 that is taken another one below 1024).
    port_step: step of "sequential".
    ports_per_host: most mappings of one inside host at a time, per protocol (a carrier's limit).
    overload: mappings to different remote endpoints may share an external port, as Linux does;
        needs mapping and filtering "address-and-port-dependent". A NAT that preserves ports and
        overloads them looks endpoint-independent until two inside hosts use the same port.
    hairpin: an inside host may reach another by its external endpoint (and is seen with its own
        external endpoint, RFC 4787 REQ-9).
    udp_timeout_s, icmp_timeout_s: life of a mapping after the last packet that refreshes it.
    tcp_timeout_s, tcp_transitory_s: the same for established connections, and for those that
        are opening or closing (RFC 5382 REQ-5).
    inbound_refresh: incoming packets refresh, too, as they do in Linux (outgoing ones always
        do, RFC 4787 REQ-6).
    refuse_tcp: what an unsolicited TCP SYN from outside gets: nothing, a RST, or ICMP
        "port unreachable" (RFC 5382 REQ-4 wants nothing, or the ICMP after 6 seconds).
    blocked: traffic with the outside that is dropped: UDP, TCP, all but TCP to port 443 there,
        or all but TCP to ports 80 and 443. ICMP passes with "udp" and "tcp" only.
    ipv6: IPv6 is never translated: "firewall" filters it as `filtering` and the timeouts say
        (endpoint-independent after RFC 6092: whoever has sent something is open to all, unless
        the router `is_open` anyway), "open" passes it, "drop" has none.
    upnp, natpmp, pcp: port control protocols that the router offers to the inside. The lab
        starts a daemon for them; the translation here does not look at them. The daemon knows
        NAT-PMP and its successor PCP only together.
    max_sessions: bound on the state that is kept; beyond it new flows are dropped and counted.
    """

    mapping: Behaviour = "endpoint-independent"
    filtering: Behaviour = "address-and-port-dependent"
    port: PortAllocation = "preserving"
    translate: Translation = "ports"
    port_low: int = 1024
    port_high: int = 65535
    port_step: int = 1
    ports_per_host: int | None = None
    overload: bool = False
    hairpin: bool = False
    udp_timeout_s: float = 120.0
    tcp_timeout_s: float = 7440.0
    tcp_transitory_s: float = 240.0
    icmp_timeout_s: float = 60.0
    inbound_refresh: bool = False
    refuse_tcp: Refusal = "drop"
    blocked: Blocked = "nothing"
    ipv6: Ipv6 = "firewall"
    upnp: bool = False
    natpmp: bool = False
    pcp: bool = False
    max_sessions: int = MAX_SESSIONS

    def __post_init__(self) -> None:
        require_number(self.port_low, "port_low", low=1, high=65535)
        require_number(self.port_high, "port_high", low=self.port_low, high=65535)
        require_number(self.port_step, "port_step", low=1, high=1024)
        if self.ports_per_host is not None:
            require_number(self.ports_per_host, "ports_per_host", low=1)
        for key in ("udp_timeout_s", "tcp_timeout_s", "tcp_transitory_s", "icmp_timeout_s"):
            require_number(getattr(self, key), key, above=True)
        require_number(self.max_sessions, "max_sessions", low=1, high=1 << 20)
        dependent = "address-and-port-dependent"
        require(
            not self.overload
            or (
                self.translate == "ports"
                and self.mapping == dependent
                and self.filtering == dependent
            ),
            "overload",
            f"needs translate 'ports' and mapping and filtering {dependent!r}: otherwise an "
            "incoming packet would have several owners",
        )
        require(
            self.translate == "ports"
            or (self.mapping == "endpoint-independent" and self.port == "preserving"),
            "translate",
            f"{self.translate!r} keeps ports: it needs mapping 'endpoint-independent' and port "
            "'preserving'",
        )
        require(
            self.natpmp == self.pcp,
            "pcp",
            "needs the same value as natpmp: one daemon speaks both on one port",
        )

    @property
    def is_open(self) -> bool:
        """Whether everything may come in at any time, in IPv4 and IPv6: nothing is filtered."""
        return self.translate != "ports" and self.filtering == "endpoint-independent"


_EIM: Behaviour = "endpoint-independent"
_ADM: Behaviour = "address-dependent"
_APDM: Behaviour = "address-and-port-dependent"

# Every type that the probe can tell apart, under the names in use. The comment gives
# mapping / filtering / port allocation. Those that the kernel can do are as the kernel does them:
# incoming packets refresh.
NAMES: Mapping[str, NatSpec] = MappingProxyType(
    {
        # EIM / EIF / preserving: the friendliest one.
        "full-cone": NatSpec(filtering=_EIM, hairpin=True),
        # EIM / ADF / preserving.
        "restricted-cone": NatSpec(filtering=_ADM),
        # EIM / APDF / preserving: most home routers.
        "port-restricted": NatSpec(),
        # EIM / APDF / random: the same, for a router that hides its inside ports.
        "port-restricted-random": NatSpec(port="random", hairpin=True),
        # ADM / ADF / sequential.
        "address-dependent": NatSpec(mapping=_ADM, filtering=_ADM, port="sequential"),
        # APDM / APDF / sequential: a symmetric NAT whose next port can be guessed.
        "symmetric-sequential": NatSpec(mapping=_APDM, port="sequential"),
        # APDM / APDF / random: the hardest one.
        "symmetric-random": NatSpec(mapping=_APDM, port="random", inbound_refresh=True),
        # What Linux's masquerade does: preserving and overloading.
        "linux-masquerade": NatSpec(
            mapping=_APDM, overload=True, udp_timeout_s=30.0, inbound_refresh=True
        ),
        # A carrier's NAT after RFC 6888: EIM / EIF / random, few ports for each customer.
        "cgnat": NatSpec(
            filtering=_EIM, port="random", hairpin=True, ports_per_host=1024, udp_timeout_s=60.0
        ),
        # Each host has a public address of its own, and all is open (a cloud's "elastic IP").
        "one-to-one": NatSpec(
            translate="one-to-one", filtering=_EIM, hairpin=True, inbound_refresh=True
        ),
        # No translation; nothing comes in that was not asked for.
        "firewall": NatSpec(translate="none", inbound_refresh=True),
        # A home router in an office where UDP is forbidden.
        "udp-blocked": NatSpec(blocked="udp"),
        # The strictest office: TCP to port 443 and nothing else.
        "tcp-443-only": NatSpec(
            mapping=_APDM, port="random", blocked="all-but-tcp-443", inbound_refresh=True
        ),
        # A home router that opens ports on request.
        "upnp": NatSpec(upnp=True, natpmp=True, pcp=True, inbound_refresh=True),
    }
)
