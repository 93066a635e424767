"""The addressing plan: which interfaces, addresses and routes a scenario's nodes get. Pure.

Public addresses are taken from 11.0.0.0/8 and 2b00::/16: the lab never touches the real internet,
and the networks meant for documentation will not do, because programs (miniupnpd and any peer
with a sense of reality) rightly refuse to see them as public.

* The core has one interface and one /24 (and /64) for each node directly at the internet: the
  core is .1, the node .2 and following, its next addresses (:class:`AddressChange`) from .128 on.
* A router's local network is a bridge, `lan`, on which the router is .1 and its hosts .10 and
  following. It is 192.168.DEPTH.0/24, the same behind every router of a depth, as it is in homes;
  100.(63 + DEPTH).0.0/16 where other routers hang on it (RFC 6598), and public where nothing is
  translated.
* A link that is shaped, or that has the lab's own NAT on it, is a pair of TUN devices, not a port
  of the bridge; the router then routes to the node's addresses, and answers ARP for them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from tools.netlab.lab import nftables
from tools.netlab.spec.fault import LinkChange
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NatSpec
from tools.netlab.spec.strict import SpecError
from tools.netlab.spec.topology import INTERNET, Host, Link, Node, Router
from tools.netlab.spec.workload import CommandProgram

LAN = "lan"
_MANY = 200
"""More hosts than this do not fit a /24."""
_FIRST_HOST = 10
_FIRST_SPARE = 128

V4 = ipaddress.IPv4Network
V6 = ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Route:
    """To the network `to` through the gateway `via`, or directly, on `device`."""

    to: str
    via: str | None
    device: str


@dataclass(frozen=True, slots=True)
class Wire:
    """A link between two namespaces: `owner`'s uplink number `index` (1: the standby).

    below, above: the device at the node, and the one at what it is behind.
    nat: a NAT of the lab's own between the two, inside towards the node.
    externals, internals: its addresses (see `nat_table.NatTable`).
    bridged: the upper end is a port of the router's `lan`.
    """

    owner: str
    index: int
    parent: str
    below: str
    above: str
    link: Link
    is_tun: bool
    bridged: bool
    nat: NatSpec | None = None
    externals: tuple[str, ...] = ()
    internals: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.owner if self.index == 0 else f"{self.owner}+{self.index}"


@dataclass(frozen=True, slots=True)
class Uplink:
    """How a node is attached: its device's addresses (`"11.0.0.2/24"`) and default routes."""

    device: str
    addresses: tuple[str, ...]
    routes: tuple[Route, ...]
    spares: tuple[str, ...] = ()
    """IPv4 addresses it can change to; empty where it is not directly at the internet."""
    public_ip: str | None = None
    """The IPv4 address at which the internet sees the node, at first, when this one is in use."""
    translator: str | None = None
    """The router whose own address that is; None: the node's own, or one that is always its."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Everything about one namespace but its wires."""

    name: str
    uplinks: tuple[Uplink, ...] = ()
    """The first is in use."""
    bridge: tuple[str, ...] | None = None
    """Addresses of the bridge `lan`, for a router."""
    device_addresses: tuple[tuple[str, str], ...] = ()
    """Addresses of other devices: (device, address)."""
    routes: tuple[Route, ...] = ()
    """Towards what is below."""
    neighbours: tuple[str, ...] = ()
    """IPv6 addresses the router answers for on its bridge."""
    forwards: bool = False
    sysctls: tuple[tuple[str, str], ...] = ()
    ruleset: str = ""
    port_control: NatSpec | None = None
    """The port control protocols that a daemon on this router offers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole scenario."""

    nodes: dict[str, NodePlan]
    wires: tuple[Wire, ...]
    public_ip: dict[str, str] = field(default_factory=dict)
    """Node -> the IPv4 address at which the internet sees it at first."""
    ipv6: dict[str, str] = field(default_factory=dict)
    """Node -> its IPv6 address, where it has one."""
    ipv4: dict[str, str] = field(default_factory=dict)
    """Node -> its own IPv4 address, where it has one."""


def in_userspace(router: Router) -> bool:
    """Whether the lab's own NAT serves this router.

    Raises :class:`SpecError` for a backend that cannot do what the NAT's spec says.
    """
    reasons = nftables.obstacles(router.nat)
    if router.backend == "nftables" and reasons:
        raise SpecError(f"routers.{router.name}.backend", "; ".join(reasons))
    if nftables.opens_ports(router.nat) and (reasons or router.backend == "userspace"):
        why = "; ".join(reasons) or "backend 'userspace' was asked for"
        raise SpecError(
            f"routers.{router.name}.nat",
            f"port control (upnp, natpmp, pcp) needs the kernel's NAT, and it cannot be: {why}",
        )
    return router.backend == "userspace" or bool(reasons)


def make_plan(scenario: Scenario) -> Plan:
    """The plan for a scenario. Raises :class:`SpecError` where one cannot be made."""
    plan = _Planner(scenario).plan()
    _check_placeholders(scenario, plan)
    return plan


def _check_placeholders(scenario: Scenario, plan: Plan) -> None:
    """That the nodes whose addresses a program is to be told have such addresses."""
    families = {"ip": ("IPv4", plan.public_ip), "ip6": ("IPv6", plan.ipv6)}
    for program in scenario.programs:
        if isinstance(program, CommandProgram):
            for kind, name in program.placeholders:
                if kind in families and name not in families[kind][1]:
                    reason = f"{{{kind}:{name}}}: {name!r} has no {families[kind][0]} address"
                    raise SpecError(f"programs.{program.name}.argv", reason)


class _Planner:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.children: dict[str, list[tuple[Node, int]]] = {INTERNET: []}
        for router in scenario.routers:
            self.children[router.name] = []
        for node in scenario.nodes:
            self.children[node.behind].append((node, 0))
        for host in scenario.hosts:
            if host.standby is not None:
                self.children[host.standby].append((host, 1))
        self.routers = {router.name: router for router in scenario.routers}
        self.userspace = {name: in_userspace(router) for name, router in self.routers.items()}
        self.lan4 = {name: self._lan4(router) for name, router in self.routers.items()}
        for router in scenario.routers:
            self._check_nesting(router)
        self.lan6 = {
            name: V6((0x2B00 << 112 | 1 << 80 | number << 64, 64))
            for number, name in enumerate(self.routers, 1)
        }
        # (node, uplink) -> its place among its siblings.
        self.places = {
            (node.name, index): place
            for siblings in self.children.values()
            for place, (node, index) in enumerate(siblings)
        }

    def plan(self) -> Plan:
        nodes = {INTERNET: self._core()}
        for router in self.scenario.routers:
            nodes[router.name] = self._router(router)
        for host in self.scenario.all_hosts:
            nodes[host.name] = NodePlan(host.name, uplinks=tuple(self._uplinks(host)))
        wires = tuple(
            self._wire(node, index)
            for siblings in self.children.values()
            for node, index in siblings
        )
        everybody = self.scenario.nodes
        return Plan(
            nodes,
            wires,
            public_ip={
                node.name: ip
                for node in everybody
                if (ip := nodes[node.name].uplinks[0].public_ip) is not None
            },
            ipv6={n.name: str(self._ip6(n, 0)) for n in everybody if self._has_ipv6(n, 0)},
            ipv4={n.name: str(self._ip4(n, 0)) for n in everybody if self._has_ipv4(n)},
        )

    # --- networks and addresses ---

    def _lan4(self, router: Router) -> V4:
        if router.lan is not None:
            return V4(router.lan)
        number = list(self.routers).index(router.name)
        if router.nat.translate == "none":
            return V4((0x0B80_0000 + (number << 8), 24))
        inside = self.children[router.name]
        depth = len(self.scenario.path_up(router.name))
        if any(isinstance(node, Router) for node, _ in inside):
            return V4(f"100.{63 + depth}.0.0/16")
        return V4(f"10.{depth}.0.0/16" if len(inside) > _MANY else f"192.168.{depth}.0/24")

    def _check_nesting(self, router: Router) -> None:
        """That what a router is behind leaves its hosts a way to the internet."""
        if router.behind == INTERNET:
            return
        inside, outside = self.lan4[router.name], self.lan4[router.behind]
        if inside.overlaps(outside):
            reason = f"{inside} inside and {outside} outside of the router overlap: change `lan`"
            raise SpecError(f"routers.{router.name}.lan", reason)
        above = self.routers[router.behind].nat.translate
        if router.nat.translate == "none" and above == "one-to-one":
            reason = f"{router.behind!r} translates the addresses of what is behind it one to one"
            raise SpecError(f"routers.{router.name}.behind", f"{reason}, not of a whole network")

    def _behind(self, node: Node, index: int) -> str:
        if index == 0:
            return node.behind
        assert isinstance(node, Host)
        assert node.standby is not None
        return node.standby

    def _net4(self, node: Node, index: int) -> V4:
        """The network of the node's uplink."""
        parent = self._behind(node, index)
        if parent != INTERNET:
            return self.lan4[parent]
        return V4((0x0B00_0000 + (self.places[node.name, index] << 8), 24))

    def _net6(self, node: Node, index: int) -> V6:
        parent = self._behind(node, index)
        if parent != INTERNET:
            return self.lan6[parent]
        return V6((0x2B00 << 112 | self.places[node.name, index] << 64, 64))

    def _number(self, node: Node, index: int) -> int:
        """The node's number in the network of its uplink."""
        if self._behind(node, index) == INTERNET:
            return 2
        number = _FIRST_HOST + self.places[node.name, index]
        if number >= self._net4(node, index).num_addresses - 1:
            kind = "routers" if isinstance(node, Router) else "hosts"
            key = f"{kind}.{node.name}.{'behind' if index == 0 else 'standby'}"
            raise SpecError(key, f"{self._behind(node, index)!r} has no address left for it")
        return number

    def _ip4(self, node: Node, index: int) -> ipaddress.IPv4Address:
        return self._net4(node, index)[self._number(node, index)]

    def _ip6(self, node: Node, index: int) -> ipaddress.IPv6Address:
        return self._net6(node, index)[self._number(node, index)]

    def _has_ipv4(self, node: Node) -> bool:
        return not isinstance(node, Host) or node.ipv4

    def _has_ipv6(self, node: Node, index: int) -> bool:
        """IPv6 must be wanted all the way to the internet."""
        if not self.scenario.ipv6 or (isinstance(node, Host) and not node.ipv6):
            return False
        if isinstance(node, Router) and node.nat.ipv6 == "drop":
            return False
        parent = self._behind(node, index)
        return parent == INTERNET or self._has_ipv6(self.routers[parent], 0)

    def _one_to_one(self, router: Router) -> dict[str, str]:
        """External address by inside address."""
        if router.nat.translate != "one-to-one":
            return {}
        inside = self.children[router.name]
        wan = self._net4(router, 0)
        if router.behind != INTERNET:
            key, reason = f"routers.{router.name}.nat", "one-to-one is for the internet's edge only"
            raise SpecError(key, reason)
        if len(inside) > _FIRST_SPARE - _FIRST_HOST:
            raise SpecError(f"routers.{router.name}.nat", "too many hosts for one-to-one")
        return {
            str(self._ip4(node, index)): str(wan[_FIRST_HOST + place])
            for place, (node, index) in enumerate(inside)
        }

    def _seen_at(self, node: Node, index: int) -> tuple[str, str | None]:
        """A node's public IPv4 address, and the router that has it; see :class:`Uplink`."""
        ip, translator = str(self._ip4(node, index)), None
        above = self._behind(node, index)
        while above != INTERNET:
            router = self.routers[above]
            if router.nat.translate == "one-to-one":
                return self._one_to_one(router)[ip], None
            if router.nat.translate == "ports":
                ip, translator = str(self._ip4(router, 0)), router.name
            above = router.behind
        return ip, translator

    # --- nodes ---

    def _uplinks(self, node: Node) -> Iterator[Uplink]:
        count = 2 if isinstance(node, Host) and node.standby is not None else 1
        for index in range(count):
            yield self._uplink(node, index)

    def _uplink(self, node: Node, index: int) -> Uplink:
        device = self._below(node, index)
        addresses: list[str] = []
        routes: list[Route] = []
        spares: tuple[str, ...] = ()
        public: str | None = None
        translator: str | None = None
        outside = self._behind(node, index) == INTERNET
        if self._has_ipv4(node):
            public, translator = self._seen_at(node, index)
            net = self._net4(node, index)
            number = self._number(node, index)
            if isinstance(node, Router) and self.userspace[node.name]:
                # The addresses are those of the NAT on the wire, not of this namespace.
                routes.append(Route("0.0.0.0/0", None, device))
            else:
                count = node.addresses if isinstance(node, Host) else 1
                addresses += [f"{net[number + n]}/{net.prefixlen}" for n in range(count)]
                if isinstance(node, Router):
                    # The router must answer ARP for its hosts' addresses.
                    addresses += [f"{ip}/32" for ip in self._one_to_one(node).values()]
                routes.append(Route("0.0.0.0/0", str(net[1]), device))
            if outside:
                spares = tuple(str(net[number]) for number in range(_FIRST_SPARE, 255))
        if self._has_ipv6(node, index):
            addresses.append(f"{self._ip6(node, index)}/64")
            routes.append(Route("::/0", str(self._net6(node, index)[1]), device))
        return Uplink(device, tuple(addresses), tuple(routes), spares, public, translator)

    def _core(self) -> NodePlan:
        addresses = []
        for node, index in self.children[INTERNET]:
            device = self._above(node, index)
            if self._has_ipv4(node):
                addresses.append((device, f"{self._net4(node, index)[1]}/24"))
            if self._has_ipv6(node, index):
                addresses.append((device, f"{self._net6(node, index)[1]}/64"))
        return NodePlan(
            INTERNET,
            device_addresses=tuple(addresses),
            routes=tuple(self._routes_down(INTERNET)),
            forwards=True,
        )

    def _router(self, router: Router) -> NodePlan:
        lan = self.lan4[router.name]
        bridge = [f"{lan[1]}/{lan.prefixlen}"]
        neighbours = []
        if self._has_ipv6(router, 0):
            bridge.append(f"{self.lan6[router.name][1]}/64")
            neighbours = [
                str(self._ip6(node, index))
                for node, index in self.children[router.name]
                if self._is_tun(node, index) and self._has_ipv6(node, index)
            ]
        by_kernel = not self.userspace[router.name]
        return NodePlan(
            router.name,
            uplinks=(self._uplink(router, 0),),
            bridge=tuple(bridge),
            routes=tuple(self._routes_down(router.name)),
            neighbours=tuple(neighbours),
            forwards=True,
            sysctls=tuple(nftables.sysctls(router.nat).items()) if by_kernel else (),
            ruleset=nftables.router(router.nat, self._one_to_one(router)) if by_kernel else "",
            port_control=router.nat if nftables.opens_ports(router.nat) else None,
        )

    def _routes_down(self, name: str) -> Iterator[Route]:
        """Routes to TUN links' far ends, and to the networks of routers below."""
        for node, index in self.children[name]:
            device = self._above(node, index) if not self._is_bridged(node, index) else LAN
            on_tun = name != INTERNET and self._is_tun(node, index)
            if on_tun and self._has_ipv4(node):
                yield Route(f"{self._ip4(node, index)}/32", None, device)
            if on_tun and self._has_ipv6(node, index):
                yield Route(f"{self._ip6(node, index)}/128", None, device)
            if isinstance(node, Router):
                yield from self._routes_into(node, device)

    def _routes_into(self, router: Router, device: str) -> Iterator[Route]:
        """Routes to the networks inside a router that does not translate them."""
        via4 = None if self.userspace[router.name] else str(self._ip4(router, 0))
        for network in self._open_networks(router):
            yield Route(str(network), via4, device)
        if self._has_ipv6(router, 0):
            via6 = str(self._ip6(router, 0))
            for name in self._routers_from(router):
                if self._has_ipv6(self.routers[name], 0):
                    yield Route(str(self.lan6[name]), via6, device)

    def _open_networks(self, router: Router) -> Iterator[V4]:
        if router.nat.translate == "none":
            yield self.lan4[router.name]
            for node, _ in self.children[router.name]:
                if isinstance(node, Router):
                    yield from self._open_networks(node)

    def _routers_from(self, router: Router) -> Iterator[str]:
        yield router.name
        for node, _ in self.children[router.name]:
            if isinstance(node, Router):
                yield from self._routers_from(node)

    # --- wires ---

    def _below(self, node: Node, index: int) -> str:
        return nftables.WAN if isinstance(node, Router) else f"eth{index}"

    def _above(self, node: Node, index: int) -> str:
        return f"n{self.places[node.name, index]}"

    def _link(self, node: Node, index: int) -> Link:
        return node.link if index == 0 or isinstance(node, Router) else node.standby_link

    def _is_tun(self, node: Node, index: int) -> bool:
        is_nat = isinstance(node, Router) and self.userspace[node.name]
        return is_nat or not self._link(node, index).is_transparent or self._may_change(node)

    def _may_change(self, node: Node) -> bool:
        """Whether a fault will shape the node's link: it must then be one that can be."""
        return any(isinstance(f, LinkChange) and f.node == node.name for f in self.scenario.faults)

    def _is_bridged(self, node: Node, index: int) -> bool:
        return self._behind(node, index) != INTERNET and not self._is_tun(node, index)

    def _wire(self, node: Node, index: int) -> Wire:
        is_nat = isinstance(node, Router) and self.userspace[node.name]
        nat: NatSpec | None = None
        externals: tuple[str, ...] = ()
        internals: tuple[str, ...] = ()
        if is_nat:
            assert isinstance(node, Router)
            nat = node.nat
            if nat.translate == "one-to-one":
                pairs = self._one_to_one(node)
                internals, externals = tuple(pairs), tuple(pairs.values())
            elif nat.translate == "ports":
                externals = (str(self._ip4(node, 0)),)
        return Wire(
            owner=node.name,
            index=index,
            parent=self._behind(node, index),
            below=self._below(node, index),
            above=self._above(node, index),
            link=self._link(node, index),
            is_tun=self._is_tun(node, index),
            bridged=self._is_bridged(node, index),
            nat=nat,
            externals=externals,
            internals=internals,
        )
