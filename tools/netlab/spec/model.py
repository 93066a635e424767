"""What a scenario is: a small internet, what runs in it and what goes wrong.

A scenario is checked when it is made: one that exists makes sense. Mistakes are
:class:`tools.netlab.spec.strict.SpecError`, which names the key and the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tools.netlab.spec.fault import (
    AddressChange,
    ClockSkew,
    Fault,
    Handover,
    Kill,
    LinkChange,
    LinkDown,
    NatReboot,
    Partition,
    Pause,
    lasts,
)
from tools.netlab.spec.strict import SpecError, require, require_number
from tools.netlab.spec.topology import INTERNET, Host, Node, Relay, Router, require_name
from tools.netlab.spec.workload import (
    CommandProgram,
    FetchProgram,
    NodeProgram,
    Program,
    PublishProgram,
    RelayProgram,
)

MAX_DEPTH = 4
MAX_NODES = 4000


@dataclass(frozen=True, slots=True)
class Scenario:
    """A small internet, what runs in it and what goes wrong.

    duration_s: it runs at least until the last fault is over, and at most this long (faults
        that are not over by then are refused); in between it ends as soon as every program has
        succeeded or failed.
    faults: before the first the clock stands until the programs that are due by then are ready
        or have failed (fetches and commands: have started). So times mean the same on a slow
        machine; see `timeline`.
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
    duration_s: float = 300.0
    settle_s: float = 0.0
    ipv6: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        require_name(self.name)
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
    def nodes(self) -> tuple[Node, ...]:
        """All hosts and routers."""
        return (*self.all_hosts, *self.routers)

    @property
    def all_programs(self) -> tuple[Program, ...]:
        """Programs, and those of the relays; each after those it needs."""
        return tuple(_in_order((*(relay.program for relay in self.relays), *self.programs)))

    def node(self, name: str) -> Node:
        """The host or router of this name; KeyError if there is none."""
        for node in self.nodes:
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


def _check_tree(scenario: Scenario) -> None:
    parents: dict[str, str] = {}
    keys: dict[str, str] = {}
    for kind, nodes in (
        ("relays", scenario.relays),
        ("hosts", scenario.hosts),
        ("routers", scenario.routers),
    ):
        for node in nodes:
            require(node.name != INTERNET, kind, f"{INTERNET!r} is the core's name")
            require(node.name not in parents, kind, f"two nodes are called {node.name!r}")
            parents[node.name] = INTERNET if isinstance(node, Relay) else node.behind
            keys[node.name] = f"{kind}.{node.name}"
    require(bool(parents), "hosts", "there is no host")
    require(len(parents) <= MAX_NODES, "hosts", f"there are more than {MAX_NODES} nodes")
    routers = {router.name for router in scenario.routers}
    for name, parent in parents.items():
        where = f"{keys[name]}.behind"
        require(parent in routers | {INTERNET}, where, f"there is no router {parent!r}")
    for host in scenario.hosts:
        if host.standby is not None:
            known = host.standby in routers | {INTERNET}
            where = f"{keys[host.name]}.standby"
            require(known, where, f"there is no router {host.standby!r}")
    for name in parents:
        depth, at = 0, name
        while at != INTERNET:
            depth, at = depth + 1, parents[at]
            require(
                depth <= MAX_DEPTH,
                f"{keys[name]}.behind",
                f"is more than {MAX_DEPTH} deep, or a circle: the internet is never reached",
            )


def _check_programs(scenario: Scenario) -> None:
    hosts = {host.name for host in scenario.all_hosts}
    programs: dict[str, Program] = {relay.name: relay.program for relay in scenario.relays}
    for program in scenario.programs:
        key = f"programs.{program.name}"
        require_name(program.name)
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
            if isinstance(program, PublishProgram):
                is_relay = isinstance(programs[needed], RelayProgram)
                require(is_relay, f"{key}.relays", f"{needed!r} is not a relay")
        if isinstance(program, CommandProgram):
            _check_placeholders(program, programs)
    list(_in_order(tuple(programs.values())))


def _check_placeholders(program: CommandProgram, programs: dict[str, Program]) -> None:
    """Those that name programs; `plan` knows which nodes have addresses."""
    key = f"programs.{program.name}.argv"
    for kind, name in program.placeholders:
        if kind in ("addr", "ticket"):
            what = f"{{{kind}:{name}}}"
            require(name in program.after, key, f"{what}: {name!r} is not in `after`")
            publishes = kind == "addr" or isinstance(programs[name], PublishProgram)
            require(publishes, key, f"{what}: {name!r} publishes nothing")


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
        ends = f"must be over before the scenario is, and duration_s is {scenario.duration_s:g}"
        require(fault.at_s < scenario.duration_s, f"{key}.at_s", ends)
        for_s = lasts(fault)
        if for_s is not None:
            require_number(for_s, f"{key}.for_s", above=True)
            require(fault.at_s + for_s < scenario.duration_s, f"{key}.for_s", ends)
        match fault:
            case LinkDown(node=node) | LinkChange(node=node) | AddressChange(node=node):
                require(node in hosts or node in routers, f"{key}.node", f"there is no {node!r}")
                if isinstance(fault, AddressChange):
                    changing = scenario.node(node)
                    has = isinstance(changing, Router) or changing.ipv4
                    require(has, f"{key}.node", f"{node!r} has no IPv4 address")
                    outside = changing.behind == INTERNET
                    require(outside, f"{key}.node", f"{node!r} is not directly at the internet")
                    fixed = isinstance(changing, Router) and changing.nat.translate != "ports"
                    reason = f"{node!r} does not translate ports, so that its addresses are fixed"
                    require(not fixed, f"{key}.node", reason)
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
    _check_overlaps(scenario.faults)


def _check_overlaps(faults: tuple[Fault, ...]) -> None:
    """A program that is killed, or stopped, twice at a time would come back too early."""
    until: dict[tuple[type[Fault], str], float] = {}
    for index, fault in sorted(enumerate(faults), key=lambda item: item[1].at_s):
        if isinstance(fault, Kill | Pause):
            kind, ends = (type(fault), fault.program), fault.at_s + (fault.for_s or 0.0)
            reason = "begins before the last fault of this kind is over for this program"
            require(fault.at_s >= until.get(kind, 0.0), f"faults[{index}].at_s", reason)
            until[kind] = ends
