"""What a scenario is: machines, routers, links, programs and faults, as frozen dataclasses.

A scenario is a tree. Its root is :data:`INTERNET`, a core that routes public addresses and
nothing else; routers and hosts hang below it, or below other routers (NAT behind NAT). Each node
owns the link to what it is behind: `up` is the direction away from the node.

Everything here is checked when it is made: a scenario that exists can be built. Mistakes are
:class:`tools.netlab.spec.SpecError`, which names the key and the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tools.netlab.link_spec import LinkSpec
from tools.netlab.nat_spec import NatSpec
from tools.netlab.spec import SpecError, require, require_number

INTERNET = "internet"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?")
MAX_DEPTH = 4
MAX_NODES = 4000

Backend: TypeAlias = Literal["auto", "nftables", "userspace"]


@dataclass(frozen=True, slots=True)
class Link:
    """Both directions of a link. The default is a perfect one: a plain veth pair."""

    up: LinkSpec = field(default_factory=LinkSpec)
    """Away from the node that owns the link, towards the internet."""
    down: LinkSpec = field(default_factory=LinkSpec)

    @property
    def is_transparent(self) -> bool:
        return self.up.is_transparent and self.down.is_transparent


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that runs programs.

    behind: the router it is attached to, or "internet" for a public address of its own.
    link: the line to it.
    standby, standby_link: a second attachment, unused until a handover (see :class:`Handover`).
    ipv4, ipv6: whether it has such addresses; IPv6 only where the scenario and the router have.
    addresses: how many IPv4 addresses it has; more than one only directly at the internet.
    """

    name: str
    behind: str = INTERNET
    link: Link = field(default_factory=Link)
    standby: str | None = None
    standby_link: Link = field(default_factory=Link)
    ipv4: bool = True
    ipv6: bool = True
    addresses: int = 1

    def __post_init__(self) -> None:
        _require_name(self.name)
        require(1 <= self.addresses <= 8, "addresses", "expected 1 to 8")
        require(
            self.addresses == 1 or self.behind == INTERNET,
            "addresses",
            "only a host directly at the internet may have several",
        )
        require(self.ipv4 or self.ipv6, "ipv4", "a host needs IPv4 or IPv6")
        require(self.standby != self.behind, "standby", f"is {self.behind!r}, as `behind` is")


@dataclass(frozen=True, slots=True)
class Router:
    """A NAT or firewall with a local network behind it.

    nat: how it translates and filters.
    behind: "internet", or the router that it is itself behind (carrier-grade NAT).
    link: its uplink.
    lan: the IPv4 network inside, e.g. "192.168.1.0/24". By default one by depth: all homes have
        the same, as in life. A router that does not translate has a public network inside.
    backend: "nftables": the kernel's NAT; "userspace": the lab's own; "auto": the kernel's where
        it behaves as `nat` says.
    """

    name: str
    nat: NatSpec = field(default_factory=NatSpec)
    behind: str = INTERNET
    link: Link = field(default_factory=Link)
    lan: str | None = None
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        _require_name(self.name)
        if self.lan is not None:
            _require_lan(self.lan)


@dataclass(frozen=True, slots=True)
class Relay:
    """A host at the internet that runs a relay, a program of the same name.

    ports: the TCP ports it listens on. 443 too, for networks that allow nothing else.
    """

    name: str
    link: Link = field(default_factory=Link)
    ports: tuple[int, ...] = (4001, 443)

    def __post_init__(self) -> None:
        _require_name(self.name)
        require(bool(self.ports), "ports", "expected at least one port")
        for port in self.ports:
            require_number(port, "ports", low=1, high=65535)

    @property
    def host(self) -> Host:
        return Host(self.name, link=self.link)

    @property
    def program(self) -> NodeProgram:
        listen = tuple(f"/ip4/0.0.0.0/tcp/{port}" for port in self.ports)
        return NodeProgram(self.name, self.name, listen=listen)


Node: TypeAlias = Host | Router


# --- programs ---


@dataclass(frozen=True, slots=True)
class NodeProgram:
    """`lattica node`. Succeeds if it was connected to every program in `connect` in time.

    connect: programs whose addresses it is given (their own, and those that others observed).
    stays: it must still be connected to them at the end, if they live.
    listen: multiaddrs.
    at_s: seconds after the start of the scenario; it also waits for those it connects to.
    timeout_s: time for the connections, from when it is ready. A relayed connection is given
        the rest of that time to become a direct one.
    env: added to its environment.
    """

    name: str
    host: str
    connect: tuple[str, ...] = ()
    stays: bool = True
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4001",)
    at_s: float = 0.0
    timeout_s: float = 15.0
    env: tuple[tuple[str, str], ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        return self.connect


@dataclass(frozen=True, slots=True)
class PublishProgram:
    """`lattica publish` of random data. Succeeds if it prints its ticket and stays up.

    size_mib: all files together. files: how many.
    """

    name: str
    host: str
    size_mib: float = 8.0
    files: int = 1
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4002",)
    at_s: float = 0.0
    timeout_s: float = 30.0
    env: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        require_number(self.size_mib, "size_mib", high=1 << 20)
        require_number(self.files, "files", low=1, high=10_000)

    @property
    def needs(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class FetchProgram:
    """`lattica fetch` of what `source` publishes. Succeeds if the bytes are identical.

    timeout_s: time for all of it.
    """

    name: str
    host: str
    source: str
    at_s: float = 0.0
    timeout_s: float = 60.0
    env: tuple[tuple[str, str], ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True, slots=True)
class CommandProgram:
    """Any program. Succeeds if it exits with `exit_code`, or stays up if that is None.

    argv: `{python}`, `{work}` (a folder of its own), `{ip:NODE}` (a node's IPv4 address as the
        internet sees it), `{ip6:NODE}` and, of programs in `after`, `{addr:PROGRAM}` and
        `{ticket:PROGRAM}` are replaced.
    ready: the JSON event on its standard output that makes it ready; None: once it runs.
    after: programs that must be ready (or, if they end by themselves, have ended) before.
    """

    name: str
    host: str
    argv: tuple[str, ...]
    exit_code: int | None = 0
    ready: str | None = None
    after: tuple[str, ...] = ()
    at_s: float = 0.0
    timeout_s: float = 60.0
    env: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.argv), "argv", "expected a program and its arguments")

    @property
    def needs(self) -> tuple[str, ...]:
        return self.after


Program: TypeAlias = NodeProgram | PublishProgram | FetchProgram | CommandProgram
PROGRAMS: dict[str, type[Program]] = {
    "node": NodeProgram,
    "publish": PublishProgram,
    "fetch": FetchProgram,
    "command": CommandProgram,
}


# --- faults ---


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The line of `node` is dead (both ends stay configured, packets are lost).

    for_s: comes up again after that; None: never.
    """

    at_s: float
    node: str
    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class LinkChange:
    """The line of `node` gets other properties; what is on its way is kept.

    for_s: then it is as before; None: it stays so.
    """

    at_s: float
    node: str
    link: Link
    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class NatReboot:
    """`router` forgets all its mappings. for_s: it is off meanwhile."""

    at_s: float
    router: str
    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class AddressChange:
    """`node` (a router, or a host at the internet) gets another public address."""

    at_s: float
    node: str


@dataclass(frozen=True, slots=True)
class Handover:
    """`host` moves to its standby attachment (and back, the next time)."""

    at_s: float
    host: str


@dataclass(frozen=True, slots=True)
class Kill:
    """`program` (or a relay) is killed with SIGKILL. for_s: then it is started anew."""

    at_s: float
    program: str
    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """`program` is stopped with SIGSTOP for `for_s` seconds."""

    at_s: float
    program: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Partition:
    """The core drops all packets between nodes of different groups. Nodes that are in no group
    reach everybody. for_s: then it heals; None: never.
    """

    at_s: float
    groups: tuple[tuple[str, ...], ...]
    for_s: float | None = None

    def __post_init__(self) -> None:
        require(len(self.groups) >= 2, "groups", "expected at least two groups")
        seen: set[str] = set()
        for group in self.groups:
            for name in group:
                require(name not in seen, "groups", f"{name!r} is in two groups")
                seen.add(name)


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """The wall clock of `program` is off by `offset_s` seconds from now on.

    Needs a C compiler, and a program that asks the C library for the time.
    """

    at_s: float
    program: str
    offset_s: float


Fault: TypeAlias = (
    LinkDown
    | LinkChange
    | NatReboot
    | AddressChange
    | Handover
    | Kill
    | Pause
    | Partition
    | ClockSkew
)
FAULTS: dict[str, type[Fault]] = {
    "link-down": LinkDown,
    "link-change": LinkChange,
    "nat-reboot": NatReboot,
    "address-change": AddressChange,
    "handover": Handover,
    "kill": Kill,
    "pause": Pause,
    "partition": Partition,
    "clock-skew": ClockSkew,
}


# --- the whole ---


@dataclass(frozen=True, slots=True)
class Scenario:
    """A small internet, what runs in it and what goes wrong.

    duration_s: it runs at least until the last fault is over, and at most this long; in between
        it ends as soon as every program has succeeded or failed.
    settle_s: it runs this much longer after that, so that what lasts can be seen to last.
    ipv6: the internet has IPv6, too.
    seed: of everything that is random.
    """

    name: str
    about: str = ""
    hosts: tuple[Host, ...] = ()
    routers: tuple[Router, ...] = ()
    relays: tuple[Relay, ...] = ()
    programs: tuple[Program, ...] = ()
    faults: tuple[Fault, ...] = ()
    duration_s: float = 60.0
    settle_s: float = 0.0
    ipv6: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        _require_name(self.name)
        require_number(self.duration_s, "duration_s", above=True)
        require_number(self.settle_s, "settle_s")
        _check_tree(self)
        _check_programs(self)
        _check_faults(self)

    @property
    def all_hosts(self) -> tuple[Host, ...]:
        """Hosts, and those of the relays."""
        return (*(relay.host for relay in self.relays), *self.hosts)

    @property
    def all_programs(self) -> tuple[Program, ...]:
        """Programs, and those of the relays; each after those it needs."""
        return tuple(_in_order((*(relay.program for relay in self.relays), *self.programs)))

    def node(self, name: str) -> Node:
        """The host or router of this name; KeyError if there is none."""
        for node in (*self.all_hosts, *self.routers):
            if node.name == name:
                return node
        raise KeyError(name)

    def path_up(self, name: str) -> tuple[str, ...]:
        """The node, what it is behind, and so on, up to but without the internet."""
        path = []
        while name != INTERNET:
            path.append(name)
            name = self.node(name).behind
        return tuple(path)


def _require_name(name: str) -> None:
    require(
        NAME.fullmatch(name) is not None,
        "name",
        f"expected up to 31 of a-z, 0-9 and '-' (not at an end), got {name!r}",
    )


def _require_lan(text: str) -> None:
    import ipaddress

    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise SpecError("lan", f"expected a network like 192.168.1.0/24: {error}") from None
    require(network.prefixlen <= 28, "lan", f"{text} is too small: expected a /28 or larger")


def _check_tree(scenario: Scenario) -> None:
    parents: dict[str, str] = {}
    for kind, nodes in (
        ("relays", scenario.relays),
        ("hosts", scenario.hosts),
        ("routers", scenario.routers),
    ):
        for node in nodes:
            require(node.name != INTERNET, kind, f"{INTERNET!r} is the core's name")
            require(node.name not in parents, kind, f"two nodes are called {node.name!r}")
            parents[node.name] = INTERNET if isinstance(node, Relay) else node.behind
    require(bool(parents), "hosts", "there is no host")
    require(len(parents) <= MAX_NODES, "hosts", f"there are more than {MAX_NODES} nodes")
    routers = {router.name for router in scenario.routers}
    for name, parent in parents.items():
        where = f"{name}.behind"
        require(parent in routers | {INTERNET}, where, f"there is no router {parent!r}")
    for host in scenario.hosts:
        if host.standby is not None:
            known = host.standby in routers | {INTERNET}
            require(known, f"{host.name}.standby", f"there is no router {host.standby!r}")
    for name in parents:
        depth, at = 0, name
        while at != INTERNET:
            depth, at = depth + 1, parents[at]
            require(
                depth <= MAX_DEPTH,
                f"{name}.behind",
                f"is more than {MAX_DEPTH} deep, or a circle: the internet is never reached",
            )


def _check_programs(scenario: Scenario) -> None:
    hosts = {host.name for host in scenario.all_hosts}
    programs: dict[str, Program] = {relay.name: relay.program for relay in scenario.relays}
    for program in scenario.programs:
        key = f"programs.{program.name}"
        _require_name(program.name)
        require(program.name not in programs, key, "another program has the same name")
        require(program.host in hosts, f"{key}.host", f"there is no host {program.host!r}")
        require_number(program.at_s, f"{key}.at_s")
        require_number(program.timeout_s, f"{key}.timeout_s", above=True)
        programs[program.name] = program
    for program in programs.values():
        for needed in program.needs:
            key = f"programs.{program.name}"
            require(needed in programs, key, f"there is no program {needed!r}")
            if isinstance(program, FetchProgram):
                is_source = isinstance(programs[needed], PublishProgram)
                require(is_source, f"{key}.source", f"{needed!r} publishes nothing")
            if isinstance(program, NodeProgram):
                is_peer = isinstance(programs[needed], NodeProgram)
                require(is_peer, f"{key}.connect", f"{needed!r} is not a node")
    list(_in_order(tuple(programs.values())))


def _in_order(programs: tuple[Program, ...]) -> Iterator[Program]:
    """Each after those it needs; otherwise as they come."""
    done: set[str] = set()
    left = list(programs)
    while left:
        ready = [program for program in left if done.issuperset(program.needs)]
        if not ready:
            names = ", ".join(program.name for program in left)
            raise SpecError("programs", f"wait for each other in a circle: {names}")
        yield from ready
        done.update(program.name for program in ready)
        left = [program for program in left if program.name not in done]


def _check_faults(scenario: Scenario) -> None:
    hosts = {host.name: host for host in scenario.all_hosts}
    routers = {router.name for router in scenario.routers}
    programs = {program.name for program in scenario.all_programs}
    for index, fault in enumerate(scenario.faults):
        key = f"faults[{index}]"
        require_number(fault.at_s, f"{key}.at_s")
        for_s = getattr(fault, "for_s", None)
        if for_s is not None:
            require_number(for_s, f"{key}.for_s", above=True)
        match fault:
            case LinkDown(node=node) | LinkChange(node=node) | AddressChange(node=node):
                require(node in hosts or node in routers, f"{key}.node", f"there is no {node!r}")
                if isinstance(fault, AddressChange):
                    outside = scenario.node(node).behind == INTERNET
                    require(outside, f"{key}.node", f"{node!r} is not directly at the internet")
            case NatReboot(router=router):
                require(router in routers, f"{key}.router", f"there is no router {router!r}")
            case Handover(host=host):
                has = host in hosts and hosts[host].standby is not None
                require(has, f"{key}.host", f"there is no host {host!r} with a standby")
            case Kill(program=program) | Pause(program=program) | ClockSkew(program=program):
                known = program in programs
                require(known, f"{key}.program", f"there is no program {program!r}")
            case Partition(groups=groups):
                for name in (name for group in groups for name in group):
                    known = name in hosts or name in routers
                    require(known, f"{key}.groups", f"there is no node {name!r}")
                    top = known and scenario.path_up(name)[-1]
                    require(
                        top == name,
                        f"{key}.groups",
                        f"{name!r} is behind {top!r}: name that, the core sees no other",
                    )
