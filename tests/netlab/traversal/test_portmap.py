"""Port mapping with a real miniupnpd: made, used from outside, renewed, found lost, removed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.netlab.holders import require_root, require_tool
from tests.netlab.labs import FEW, ask, python
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import Event, Running
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Router

PORT = 4001
ENOUGH_S = 120
"""For what must happen, on a machine that has much else to do."""

# Echoes over UDP and TCP on a port, and has it mapped as a swarm that listens there would; prints
# each change of the mapped addresses. Arguments: address to listen on, port, configuration.
MAPPER = """
import json, signal, sys
import trio
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.keys.identity import Identity
from lattica.nat.swarm.events import EventBus
from lattica.nat.traversal.portmap.service import PortMappingService
from lattica.nat.traversal.portmap.config import PortMappingConfig

host, port, config = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])

def say(**event):
    print(json.dumps(event), flush=True)

class Swarm:
    identity = Identity.generate()
    events = EventBus()
    listen_addrs = (
        Multiaddr(f"/ip4/{host}/tcp/{port}"),
        Multiaddr(f"/ip4/{host}/udp/{port}/quic-v1/noise"),
    )
    own_addresses = None
    def set(self, source, addrs):
        say(event="addrs", addrs=[str(addr) for addr in addrs])

swarm = Swarm()
swarm.own_addresses = swarm

async def echo_udp():
    sock = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
    await sock.bind((host, port))
    while True:
        _, source = await sock.recvfrom(2048)
        await sock.sendto(json.dumps(source[:2]).encode(), source)

async def echo_tcp(stream):
    await stream.send_all(await stream.receive_some())

async def main():
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo_udp)
            await nursery.start(trio.serve_tcp, echo_tcp, port)
            service = PortMappingService(swarm, PortMappingConfig(**config))
            nursery.start_soon(service.run)
            async def report():
                while True:
                    await trio.sleep(0.2)
                    [status] = [f for f in service.status().families if f.family == 4] or [None]
                    if status is not None:
                        say(event="status", idle=status.idle, methods={
                            one.method.value: [one.state.value, one.reason and one.reason.name]
                            for one in status.methods
                        }, mappings=[
                            [m.method.value, m.port.transport.name, m.external_port, m.useless]
                            for m in status.mappings
                        ])
            nursery.start_soon(report)
            async for _ in signals:
                nursery.cancel_scope.cancel()
    say(event="ended")

trio.run(main)
"""
# Says whether a TCP connection to an address brings back what is sent.
CALL = """
import json, socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as s:
        s.sendall(b"hello")
        print(json.dumps(s.recv(100) == b"hello"))
except OSError:
    print(json.dumps(False))
"""
CONNECT = """
import json, socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])).close()
    print(json.dumps(True))
except OSError:
    print(json.dumps(False))
"""
DOCTOR = """
import typer
from lattica.cli import doctor
app = typer.Typer()
doctor.register(app)
app(["--json"])
"""
ONLY: dict[str, dict[str, Any]] = {
    "PCP": {"upnp": False, "natpmp": False},
    "NAT-PMP": {"upnp": False, "pcp": False},
    "UPnP": {"natpmp": False, "pcp": False},
}


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()
    require_tool("miniupnpd", "miniupnpd miniupnpd-nftables")


def scenario(**fields: Any) -> Scenario:
    routers = (Router("home", nat=NAMES["upnp"]),)
    hosts = (Host("a", behind="home"), Host("b", behind="home"), Host("outside"))
    return Scenario("portmap", **{"hosts": hosts, "routers": routers, **fields})


async def start(lab: Lab, node: str, *, host: str = "0.0.0.0", **config: Any) -> Running:
    script = python(MAPPER, host, PORT, json.dumps(config))
    return await lab.start(node, script, name=f"mapper-{node}")


async def until(running: Running, event: str, start: int = 0, **fields: Any) -> tuple[int, Event]:
    def matches(one: Event) -> bool:
        return one.get("event") == event and all(one[key] == fields[key] for key in fields)

    with trio.fail_after(ENOUGH_S):
        return await running.wait_event(matches, start)


async def mapped(running: Running, start: int = 0) -> tuple[int, list[str]]:
    """The addresses outside, once both transports have one."""

    def matches(one: Event) -> bool:
        return one.get("event") == "addrs" and len(one["addrs"]) == 2

    with trio.fail_after(ENOUGH_S):
        number, event = await running.wait_event(matches, start)
    return number, event["addrs"]


def addrs(ip: str, port: int = PORT) -> list[str]:
    return [f"/ip4/{ip}/tcp/{port}", f"/ip4/{ip}/udp/{port}/quic-v1/noise"]


async def reached(lab: Lab, ip: str, port: int = PORT) -> tuple[bool, bool]:
    """Whether a host outside reaches UDP and TCP."""
    udp = await ask(lab, "outside", ip, port) is not None
    _, out, _ = await lab.run("outside", python(CALL, ip, port, 60))
    return udp, json.loads(out)


async def closed(lab: Lab, ip: str, port: int = PORT) -> bool:
    _, out, _ = await lab.run("outside", python(CALL, ip, port, 1))
    return await ask(lab, "outside", ip, port, tries=FEW) is None and not json.loads(out)


@pytest.mark.parametrize("method", ONLY)
async def test_each_method_alone(method):
    async with open_lab(scenario()) as lab:
        ip = lab.public_ip("a")
        assert await closed(lab, ip)
        a = await start(lab, "a", **ONLY[method])
        _, found = await mapped(a)
        assert found == addrs(ip)
        assert await reached(lab, ip) == (True, True)
        _, status = await until(a, "status", len(a.events))
        assert {one[0] for one in status["mappings"]} == {method}
        # A second host that wants the same gets the next best.
        b = await start(lab, "b", **ONLY[method])
        _, others = await mapped(b)
        assert set(others).isdisjoint(found)
        ports = {addr.split("/")[4] for addr in others}
        assert len(ports) == 1
        assert await reached(lab, ip, int(*ports)) == (True, True)
        assert await a.stop(grace_s=60) == 0
        assert await closed(lab, ip)
        assert await reached(lab, ip, int(*ports)) == (True, True)


async def restart_the_router(config: dict[str, Any]) -> None:
    async with open_lab(scenario()) as lab:
        ip = lab.public_ip("a")
        a = await start(lab, "a", check_s=2, **config)
        await mapped(a)
        await trio.sleep(4)  # the router's clock must have gone forward to be seen to begin anew
        await lab.reboot_nat("home")
        with trio.fail_after(ENOUGH_S):
            while await reached(lab, ip) != (True, True):
                await trio.sleep(0.5)
        assert await a.stop(grace_s=60) == 0
        assert await closed(lab, ip)


async def test_a_restarted_router_is_asked_again():
    """By each method alone, and by all, at the same time: it is waiting for the most part."""
    failed: dict[str, Exception] = {}

    async def attempt(name: str, config: dict[str, Any]) -> None:
        try:
            await restart_the_router(config)
        except Exception as error:
            failed[name] = error

    async with trio.open_nursery() as nursery:
        for name, config in {**ONLY, "all": {}}.items():
            nursery.start_soon(attempt, name, config)
    if failed:
        raise ExceptionGroup(f"not by {', '.join(failed)}", list(failed.values()))


async def test_mappings_are_renewed_and_follow_the_address():
    async with open_lab(scenario()) as lab:
        a = await start(lab, "a", lifetime_s=20, check_s=3)
        number, _ = await mapped(a)
        await trio.sleep(30)
        assert await reached(lab, lab.public_ip("a")) == (True, True)
        assert not [one for one in a.events[number + 1 :] if one["event"] == "addrs"]
        new = await lab.change_address("home")
        await until(a, "addrs", number + 1, addrs=addrs(new))


async def test_a_node_closes_its_ports_when_it_is_stopped():
    async with open_lab(scenario()) as lab:
        ip = lab.public_ip("a")
        options = [f"--listen={addr}" for addr in addrs("0.0.0.0")]
        main = [sys.executable, "-c", "from lattica.cli import main; main()"]
        node = await lab.start("a", [*main, "node", "--ephemeral", *options], name="node")
        assert await node.wait_stderr("transport=tcp port=4001 outside", ENOUGH_S)
        _, out, _ = await lab.run("outside", python(CONNECT, ip, PORT, 60))
        assert json.loads(out)
        assert await node.stop(grace_s=60) == 0
        _, out, _ = await lab.run("outside", python(CONNECT, ip, PORT, 5))
        assert not json.loads(out)


async def test_the_doctor_tells_what_the_router_did():
    async with open_lab(scenario()) as lab:
        status, out, errors = await lab.run("a", python(DOCTOR))
        assert status == 0, errors.decode()
        said = json.loads(out)
        finding = next(one for one in said["findings"] if one["topic"] == "port mapping")
        assert finding["state"] == "ok"
        assert lab.public_ip("a") in finding["text"]
        assert said["findings"][0]["state"] == "unknown"  # nobody outside was asked


async def test_a_gateway_that_is_itself_behind_a_nat():
    routers = (
        Router("carrier", nat=NAMES["cgnat"]),
        Router("home", nat=NAMES["upnp"], behind="carrier"),
    )
    async with open_lab(scenario(routers=routers)) as lab:
        a = await start(lab, "a")
        # This daemon maps nothing when its own address is not public.
        methods = {
            "PCP": ["found", "OUT_OF_RESOURCES"],
            "NAT-PMP": ["absent", "NETWORK_FAILURE"],
            "UPnP": ["absent", "NETWORK_FAILURE"],
        }
        await until(a, "status", methods=methods, mappings=[])
        assert not [one for one in a.events if one["event"] == "addrs" and one["addrs"]]


def has_searched(event: Event) -> bool:
    if event["event"] != "status":
        return False
    return event["idle"] or "searching" not in {one[0] for one in event["methods"].values()}


async def sent(lab: Lab, node: str, host: str, tmp_path: Path) -> tuple[Event, int]:
    """The status after a while, and how many packets of the three methods were sent."""
    file = tmp_path / f"{node}.pcap"
    capture = await lab.capture(node, file)
    a = await start(lab, node, host=host)
    await trio.sleep(24)  # longer than any search takes, but on a busy machine
    with trio.fail_after(ENOUGH_S):
        _, status = await a.wait_event(has_searched, len(a.events))
    assert await a.stop(grace_s=60) == 0
    await capture.stop()
    argv = ["tcpdump", "-n", "-r", str(file), f"src host {lab.ip(node)} and (udp or tcp)"]
    done = await trio.run_process(argv, capture_stdout=True, capture_stderr=True)
    return status, len(done.stdout.splitlines())


async def test_silent_on_loopback_and_quiet_without_such_a_gateway(tmp_path):
    """Both at the same time: it is waiting for the most part."""
    require_tool("tcpdump", "tcpdump")
    routers = (Router("home", nat=NAMES["upnp"]), Router("plain", nat=NAMES["port-restricted"]))
    hosts = (Host("a", behind="home"), Host("b", behind="plain"))
    told: dict[str, tuple[Event, int]] = {}
    async with open_lab(scenario(routers=routers, hosts=hosts)) as lab:

        async def listen(node: str, host: str) -> None:
            told[node] = await sent(lab, node, host, tmp_path)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, "a", "127.0.0.1")
            nursery.start_soon(listen, "b", "0.0.0.0")
    status, count = told["a"]
    assert status["idle"]
    assert count == 0
    status, count = told["b"]
    assert {one[0] for one in status["methods"].values()} == {"absent"}
    assert status["mappings"] == []
    assert 0 < count <= 16 + 4
