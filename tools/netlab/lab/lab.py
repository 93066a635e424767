"""A running lab: a scenario's namespaces, links, NATs and firewalls, and what can be done to them.

    async with open_lab(scenario) as lab:
        code, out, _ = await lab.run("alice", ["ip", "address"])
        await lab.set_link_up("alice", False)

Everything is removed when the block is left, whatever the reason; see `guardian`. Many labs can
be open at a time, in one process or in several.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from tools.netlab.errors import LabError, MissingToolError, NoPrivilegesError, plain_errors
from tools.netlab.lab import netns, nftables, programs, registry
from tools.netlab.lab.miniupnpd import start_daemon
from tools.netlab.lab.plan import LAN, NodePlan, Plan, Uplink, Wire, make_plan
from tools.netlab.lab.processes import Guardian, Namespace, start_guardian
from tools.netlab.lab.programs import Event, Place, Running
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.topology import INTERNET, Link
from tools.netlab.spec.wire import AddWire, Command, EndSpec, FlushNat, SetExternal, SetLink, SetUp
from tools.netlab.spec.wire import WireSpec as Tuns
from tools.netlab.wire.forwarder_client import (
    DeviceLost,
    ForwarderClient,
    ForwarderError,
    open_forwarder,
)

DEFAULTS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
}
BRIDGE = {
    # Where the kernel can, it would filter and translate also what the bridge passes on.
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
    "net/bridge/bridge-nf-call-arptables": "0",
}
WITHOUT_IPV6 = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
}
WITH_IPV6 = {
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
}


class Lab:
    """See the module. All methods raise :class:`LabError`, and take names of the scenario."""

    def __init__(
        self,
        scenario: Scenario,
        plan: Plan,
        name: str,
        folder: Path,
        guardian: Guardian,
        nursery: trio.Nursery,
    ) -> None:
        self.scenario = scenario
        self.plan = plan
        self.name = name
        self.folder = folder
        """For everything the lab writes; gone with it."""
        self._guardian = guardian
        self._nursery = nursery
        self._namespaces: dict[str, Namespace] = {}
        self._nets: dict[str, netns.Net] = {}
        self._forwarder: ForwarderClient | None = None
        self._wires = {wire.name: wire for wire in plan.wires}
        self._uplinks = {
            wire.name: plan.nodes[wire.owner].uplinks[wire.index] for wire in plan.wires
        }
        """By name of wire, with the addresses that they have now."""
        self._active: dict[str, int] = {}
        self._spares_used: dict[str, int] = {}
        self._cuts: dict[str, set[str]] = {wire.name: set() for wire in plan.wires}
        """By name of wire: who wants it dead. It lives when nobody does."""
        self._changes: dict[str, dict[str, Link]] = {wire.name: {} for wire in plan.wires}
        """By name of wire: what others want it to be; the last one counts."""
        self._daemons: dict[str, Running] = {}
        self._start = trio.current_time()

    def now(self) -> float:
        """Seconds since the network was ready."""
        return trio.current_time() - self._start

    @property
    def has_ended(self) -> bool:
        """Its guardian has gone, and all programs with it."""
        return self._guardian.has_gone

    # --- programs ---

    async def start(
        self,
        node: str,
        argv: Sequence[str],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> Running:
        """Start a program on a node, in the folder `name` of the lab's; it ends with the lab."""
        place = Place(node, self._namespace(node), self.folder / name)
        return await programs.start(
            self._guardian, self._nursery, place, name, argv, env or {}, self.now, on_event
        )

    async def run(
        self, node: str, argv: Sequence[str], stdin: bytes = b""
    ) -> tuple[int, bytes, bytes]:
        """Run a short program on a node: exit status, output, errors."""
        place = Place(node, self._namespace(node), self.folder)
        return await programs.run(self._guardian, place, argv, stdin)

    async def capture(self, node: str, file: Path) -> Running:
        """Write all packets of a node to a pcap file, until the program is stopped."""
        if shutil.which("tcpdump", path=programs.environment(self.folder, {})["PATH"]) is None:
            raise MissingToolError("a capture needs tcpdump; as root: apt-get install tcpdump")
        if not netns.groups_can_be_set():
            # tcpdump insists on setting its own.
            raise NoPrivilegesError("a capture needs real root: tcpdump refuses user namespaces")
        argv = ["tcpdump", "-i", "any", "-U", "-n", "-Z", "root", "-w", str(file)]
        running = await self.start(node, argv, name=f"pcap-{node}")
        if not await running.wait_stderr("listening on", timeout_s=60):
            raise LabError(f"tcpdump does not run on {node}{running.last_words()}")
        return running

    # --- addresses ---

    def public_ip(self, node: str) -> str:
        """The IPv4 address at which the internet sees a node now."""
        uplink = self._uplink(node)
        if uplink.translator is not None:
            uplink = self._uplink(uplink.translator)
        if uplink.public_ip is None:
            raise LabError(f"{node} has no IPv4 address")
        return uplink.public_ip

    def ip(self, node: str) -> str:
        """A node's own IPv4 address at the start."""
        return self.plan.ipv4[node]

    # --- links ---

    # What is done for one reason is undone for the same, also when the node has moved to its
    # other link meanwhile; and what others have done to that link stays done.

    async def set_link_up(self, node: str, up: bool, reason: str = "") -> None:
        """Cut a node's link, or mend it. The devices stay as they are; packets are lost."""
        in_use = self._wire(node)
        for wire in self._wires_of(node):
            cuts = self._cuts[wire.name]
            if up and reason in cuts:
                cuts.remove(reason)
                if not cuts:
                    await self._set_up(wire, True)
            elif not up and wire == in_use:
                cuts.add(reason)
                await self._set_up(wire, False)

    async def _set_up(self, wire: Wire, up: bool) -> None:
        if wire.is_tun:
            await self._command(SetUp(wire.name, up))
            return
        make = nftables.live_link if up else nftables.dead_link
        await self._nft(wire.owner, make(wire.below))
        await self._nft(wire.parent, make(wire.above))

    async def set_link(self, node: str, link: Link, reason: str = "") -> None:
        """Give a node's link other properties. It must have been made to be shaped: with a link
        that is not perfect, or in a scenario with a fault that changes it.
        """
        wire = self._wire(node)
        if not wire.is_tun:
            raise LabError(
                f"the link of {node} is a plain veth pair, which cannot be shaped: give it a "
                "delay or a rate in the scenario"
            )
        self._changes[wire.name].pop(reason, None)
        self._changes[wire.name][reason] = link
        await self._shape(wire)

    async def restore_link(self, node: str, reason: str = "") -> None:
        """Undo :meth:`set_link`."""
        for wire in self._wires_of(node):
            if self._changes[wire.name].pop(reason, None) is not None:
                await self._shape(wire)

    async def _shape(self, wire: Wire) -> None:
        *_, link = wire.link, *self._changes[wire.name].values()
        await self._command(SetLink(wire.name, link.up, "ab"))
        await self._command(SetLink(wire.name, link.down, "ba"))

    async def handover(self, host: str) -> None:
        """Move a host to its other attachment: it loses its addresses and gets others."""
        old, new = self._uplink(host), 1 - self._active.get(host, 0)
        uplinks = self.plan.nodes[host].uplinks
        if new >= len(uplinks):
            raise LabError(f"{host} has no second attachment")
        net = self._nets[host]
        # Of themselves only some go with the addresses.
        for route in old.routes:
            net.remove_route(route.to, route.via, route.device)
        self._remove_addresses(net, old.device, old.addresses)
        self._active[host] = new
        self._connect(net, self._uplink(host))

    async def partition(self, groups: Sequence[Sequence[str]], reason: str = "") -> None:
        """Let the core drop all packets between nodes of different groups."""
        devices = [
            [
                wire.above
                for wire in self.plan.wires
                if wire.owner in group and wire.parent == INTERNET
            ]
            for group in groups
        ]
        await self._nft(INTERNET, nftables.partition(devices, f"partition{reason}"))

    async def heal(self, reason: str = "") -> None:
        """Undo :meth:`partition`."""
        await self._nft(INTERNET, nftables.no_partition(f"partition{reason}"))

    # --- routers ---

    async def reboot_nat(self, router: str) -> None:
        """A router forgets all mappings, also those made by port control protocols."""
        wire = self._wire(router)
        if wire.nat is not None:
            await self._command(FlushNat(wire.name))
            return
        node = self.plan.nodes[router]
        daemon = self._daemons.pop(router, None)
        if daemon is not None:
            await daemon.process.stop(grace_s=0)
        if not node.ruleset:
            raise LabError(f"{router} is not a router")
        await self._nft(router, node.ruleset)
        netns.forget_connections(self._namespaces[router])
        if daemon is not None:
            await self._start_daemon(node)

    async def change_address(self, node: str) -> str:
        """Give a node at the internet another IPv4 address, which is returned.

        One that it had before may come again, after more than a hundred others.
        """
        wire, uplink = self._wire(node), self._uplink(node)
        if not uplink.spares:
            raise LabError(f"{node} has no IPv4 address at the internet that it could change")
        router = next((one for one in self.scenario.routers if one.name == node), None)
        if router is not None and router.nat.translate != "ports":
            raise LabError(f"{node} does not translate ports: its addresses are fixed")
        used = self._spares_used.get(wire.name, 0)
        address = uplink.spares[used % len(uplink.spares)]
        if wire.nat is not None:
            changed = replace(uplink, public_ip=address)
            await self._command(SetExternal(wire.name, (address,)))
        else:
            net = self._nets[node]
            # Of several the first is the one that changes.
            addresses = (f"{address}/24", *uplink.addresses[1:])
            changed = replace(uplink, public_ip=address, addresses=addresses)
            ipv4 = [text for text in uplink.addresses if ":" not in text]
            self._remove_addresses(net, uplink.device, ipv4)
            self._connect(net, changed)
            if router is not None:
                netns.forget_connections(self._namespaces[node])
        self._spares_used[wire.name] = used + 1
        self._uplinks[wire.name] = changed
        return address

    # --- building ---

    async def _build(self, stack: AsyncExitStack) -> None:
        for name in self.plan.nodes:
            namespace = self._namespaces[name] = await self._guardian.namespace()
            stack.callback(namespace.close)
        for name, namespace in self._namespaces.items():
            self._nets[name] = stack.enter_context(netns.Net(namespace))
        self._register()
        for node in self.plan.nodes.values():
            self._prepare(node)
        if any(wire.is_tun for wire in self.plan.wires):
            self._forwarder = await stack.enter_async_context(open_forwarder(_fail))
        async with trio.open_nursery() as nursery:
            for number, wire in enumerate(self.plan.wires):
                if wire.is_tun:
                    nursery.start_soon(self._command, self._add_wire(wire, number))
                else:
                    self._add_veth(wire)
        for node in self.plan.nodes.values():
            self._configure(node)
        async with trio.open_nursery() as nursery:
            for node in self.plan.nodes.values():
                if node.ruleset:
                    nursery.start_soon(self._nft, node.name, node.ruleset)
        if self.scenario.ipv6:
            await netns.wait_for_ipv6(net.without_ipv6 for net in self._nets.values())
        for node in self.plan.nodes.values():
            if node.port_control is not None:
                await self._start_daemon(node)
        self._start = trio.current_time()

    def _register(self) -> None:
        registry.write(
            registry.LabRecord(
                lab=self.name,
                scenario=self.scenario.name,
                folder=self.folder,
                owner=registry.identify(os.getpid()),
                guardian=registry.identify(self._guardian.pid),
                namespaces={name: space.path for name, space in self._namespaces.items()},
            )
        )

    def _prepare(self, node: NodePlan) -> None:
        """Settings that devices inherit when they are made, and the bridge."""
        net = self._nets[node.name]
        settings = DEFAULTS | (WITH_IPV6 if self.scenario.ipv6 else WITHOUT_IPV6)
        if node.forwards:
            settings |= {"net/ipv4/ip_forward": "1"}
            if self.scenario.ipv6:
                settings |= {"net/ipv6/conf/all/forwarding": "1"}
        for path, value in settings.items():
            net.sysctl(path, value)
        net.up("lo")
        if node.bridge is not None:
            net.bridge(LAN)
            for path, value in BRIDGE.items():
                if Path("/proc/sys", path).exists():
                    net.sysctl(path, value)
            # To answer for what is behind TUN devices, and at once.
            net.sysctl(f"net/ipv4/conf/{LAN}/proxy_arp", "1")
            net.sysctl(f"net/ipv4/neigh/{LAN}/proxy_delay", "0")
            if node.neighbours:
                net.sysctl(f"net/ipv6/conf/{LAN}/proxy_ndp", "1")
                net.sysctl(f"net/ipv6/neigh/{LAN}/proxy_delay", "0")

    def _add_wire(self, wire: Wire, number: int) -> AddWire:
        return AddWire(
            Tuns(
                name=wire.name,
                a=EndSpec(wire.below, self._namespaces[wire.owner].path),
                b=EndSpec(wire.above, self._namespaces[wire.parent].path),
                ab=wire.link.up,
                ba=wire.link.down,
                nat=wire.nat,
                external=wire.externals,
                internal=wire.internals,
                seed=self.scenario.seed * 1_000_003 + number,
            )
        )

    def _add_veth(self, wire: Wire) -> None:
        below, above = self._nets[wire.owner], self._nets[wire.parent]
        below.veth(wire.below, self._namespaces[wire.parent], wire.above)
        if wire.bridged:
            above.enslave(wire.above, LAN)
        below.up(wire.below)
        above.up(wire.above)

    def _configure(self, node: NodePlan) -> None:
        """Addresses and routes; all devices are there."""
        net = self._nets[node.name]
        if node.bridge is not None:
            for address in node.bridge:
                net.add_address(LAN, address)
            net.up(LAN)
        for device, address in node.device_addresses:
            net.add_address(device, address)
        if node.uplinks:
            self._connect(net, node.uplinks[0])
        for route in node.routes:
            net.add_route(route.to, route.via, route.device)
        for address in node.neighbours:
            net.proxy_neighbour(LAN, address)
        if node.name == INTERNET:
            # What is addressed to nobody vanishes, as it mostly does.
            net.blackhole("0.0.0.0/0")
            if self.scenario.ipv6:
                net.blackhole("::/0")
        for path, value in node.sysctls:
            net.sysctl(path, value)

    def _remove_addresses(self, net: netns.Net, device: str, addresses: Sequence[str]) -> None:
        # With the first of a network the kernel removes the others.
        for address in reversed(addresses):
            net.remove_address(device, address)

    def _connect(self, net: netns.Net, uplink: Uplink) -> None:
        for address in uplink.addresses:
            net.add_address(uplink.device, address)
        for route in uplink.routes:
            net.add_route(route.to, route.via, route.device)

    async def _start_daemon(self, node: NodePlan) -> None:
        assert node.port_control is not None
        self._daemons[node.name] = await start_daemon(
            self, node.name, node.port_control, ipv6=self.scenario.ipv6
        )

    # --- helpers ---

    def _namespace(self, node: str) -> Namespace:
        if node not in self._namespaces:
            raise LabError(f"there is no node {node!r} in this lab")
        return self._namespaces[node]

    def _wire(self, node: str) -> Wire:
        """The wire of the node's uplink that is in use."""
        index = self._active.get(node, 0)
        name = node if index == 0 else f"{node}+{index}"
        if name not in self._wires:
            raise LabError(f"there is no node {node!r} with a link in this lab")
        return self._wires[name]

    def _wires_of(self, node: str) -> list[Wire]:
        """Those of all its uplinks."""
        return [wire for wire in self.plan.wires if wire.owner == node]

    def _uplink(self, node: str) -> Uplink:
        """The one that is in use."""
        return self._uplinks[self._wire(node).name]

    async def _command(self, command: Command) -> None:
        assert self._forwarder is not None
        try:
            await self._forwarder.command(command)
        except ForwarderError as error:
            raise LabError(f"the forwarder: {error}") from None

    async def _nft(self, node: str, ruleset: str) -> None:
        status, _, errors = await self.run(node, ["nft", "-f", "-"], ruleset.encode())
        if status != 0:
            text = errors.decode(errors="replace").strip()
            raise LabError(f"nft refused the rules of {node}: {text}\n{ruleset}")


def require_tools() -> None:
    """Raises :class:`MissingToolError` where a lab cannot be built for want of a tool."""
    netns.require_pyroute2()
    if shutil.which("nft", path=programs.environment(Path(), {})["PATH"]) is None:
        raise MissingToolError("the network lab needs nft; as root: apt-get install nftables")


def _fail(lost: DeviceLost) -> None:
    """Called in the forwarder's task, which ends with what is raised, and the lab with it."""
    raise LabError(f"the forwarder has lost the device {lost.device} of {lost.name}: {lost.error}")


def _require_tun(file: Path = Path("/dev/net/tun")) -> None:
    if not file.exists():
        raise MissingToolError(f"there is no {file}; as root: modprobe tun")
    if not os.access(file, os.R_OK | os.W_OK):
        raise MissingToolError(f"{file} is not open to you; as root: chmod 666 {file}")


@asynccontextmanager
async def open_lab(scenario: Scenario, name: str | None = None) -> AsyncIterator[Lab]:
    """Build a scenario's network; its programs and faults are the runner's matter.

    Raises :class:`LabError` (its kinds say what is missing), and
    :class:`tools.netlab.spec.strict.SpecError` for a scenario that cannot be built. Errors leave
    nothing behind.
    """
    require_tools()
    plan = make_plan(scenario)
    if any(wire.is_tun for wire in plan.wires):
        _require_tun()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # several for each namespace
    name = name or registry.new_name()
    folder = registry.new_folder(name)
    try:
        with plain_errors():
            async with AsyncExitStack() as stack:
                guardian = await stack.enter_async_context(start_guardian(name, folder))
                nursery = await stack.enter_async_context(trio.open_nursery())
                lab = Lab(scenario, plan, name, folder, guardian, nursery)
                await lab._build(stack)
                yield lab
                # Readers of programs that still run; these go with the guardian.
                nursery.cancel_scope.cancel()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
