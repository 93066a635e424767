"""What programs see of NATs and links in a lab, beside the type: refusals, hops, time-outs, holes.

What both backends can do they must do alike, so the same exchanges are tried on both.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
import trio

from tests.netlab.holders import Holder, require_root, require_tool
from tests.netlab.lab.forwarder_bench import (
    HOST,
    SERVER,
    SERVER6,
    Bench,
    bench,
    conversation,
    datagrams,
    says,
    settled,
)
from tests.netlab.labs import FEW, TRIES, ask, python, start_echo
from tools.netlab.errors import LabError
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES, NatSpec
from tools.netlab.spec.topology import Backend, Host, Link, Router

BACKENDS: tuple[Backend, ...] = ("nftables", "userspace")


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


async def call(lab: Lab, node: str, script: str, *arguments: object) -> Any:
    """What a script on a node prints, as JSON."""
    status, out, errors = await lab.run(node, python(script, *arguments))
    assert status == 0, errors.decode()
    return json.loads(out)


# --- both backends alike ------------------------------------------------------------------------

# From inside: what comes back of datagrams with few hops to go, and of fragmented ones.
OUTWARD = """
import json, select, socket, sys
ways = {}
for name, address, ttl, size in (
    ("2 hops", sys.argv[1], 2, 1),
    ("3 hops", sys.argv[1], 3, 1),
    ("big", sys.argv[1], 64, 1900),
    ("big IPv6", sys.argv[2], 64, 1900),
):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    ways[sock] = name, (address, 7), size
answered = set()
for _ in range(20):
    for sock, (name, to, size) in ways.items():
        if name not in answered:
            sock.sendto(bytes(size), to)
    while ready := select.select(list(ways), [], [], 0.3)[0]:
        for sock in ready:
            sock.recv(65535)
            answered.add(ways[sock][0])
    if len(answered) >= 3:
        break
print(json.dumps(sorted(answered)))
"""
# From outside: whether a datagram is answered, and what becomes of a TCP connection.
INWARD = """
import errno, json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def datagram(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(2)
    for _ in range(3):
        sock.sendto(b"?", (address, 7))
        try:
            return bool(sock.recv(100))
        except OSError:
            pass
    return False

def connection(address):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.settimeout(6)
    try:
        sock.connect((address, 80))
    except TimeoutError:
        return "silence"
    except OSError as error:
        return errno.errorcode[error.errno]

with ThreadPoolExecutor(4) as pool:
    calls = [pool.submit(f, a) for f in (datagram, connection) for a in sys.argv[1:3]]
print(json.dumps([call.result() for call in calls]))
"""
MASQUERADE = NAMES["linux-masquerade"]
ALIKE = {
    "home": MASQUERADE,
    "reset": replace(MASQUERADE, refuse_tcp="reset"),
    "icmp": replace(MASQUERADE, refuse_tcp="icmp"),
    "walled": NAMES["firewall"],
    "walled-icmp": replace(NAMES["firewall"], refuse_tcp="icmp"),
    "open": NatSpec(translate="none", filtering="endpoint-independent"),
    "rented": NAMES["one-to-one"],
    "no-udp": replace(NAMES["one-to-one"], blocked="udp"),
}
# Datagrams over IPv4 and IPv6 answered; TCP connections over IPv4 and IPv6 (nobody listens).
REFUSED = "ECONNREFUSED"
FROM_OUTSIDE = {
    "home": [False, False, "silence", "silence"],
    "reset": [False, False, REFUSED, REFUSED],
    "icmp": [False, False, REFUSED, REFUSED],
    "walled": [False, False, "silence", "silence"],
    "walled-icmp": [False, False, REFUSED, REFUSED],
    "open": [True, True, REFUSED, REFUSED],
    "rented": [True, True, REFUSED, REFUSED],
    "no-udp": [False, False, REFUSED, REFUSED],
}


async def test_both_backends_behave_alike() -> None:
    routers = tuple(
        Router(f"{kind}-{backend}", nat=nat, backend=backend)
        for (kind, nat), backend in product(ALIKE.items(), BACKENDS)
    )
    hosts = (*(Host(f"h-{router.name}", behind=router.name) for router in routers), Host("s"))
    inward: dict[str, Any] = {}
    outward: dict[str, Any] = {}
    pings: dict[str, bool] = {}
    async with open_lab(Scenario("test", ipv6=True, hosts=hosts, routers=routers)) as lab:
        server, server6 = lab.ip("s"), lab.plan.ipv6["s"]
        await start_echo(lab, "s", "::")

        async def look(router: str) -> None:
            host = f"h-{router}"
            own6 = lab.plan.ipv6[host]
            await start_echo(lab, host, "::")  # IPv4, too
            inward[router] = await call(lab, "s", INWARD, lab.public_ip(host), own6)
            outward[router] = await call(lab, host, OUTWARD, server, server6)
            if router.startswith("home"):
                argv = ["ping", "-n", "-c", "1", "-W", "60", lab.public_ip(router)]
                pings[router] = (await lab.run("s", argv))[0] == 0

        limit = trio.Semaphore(12)

        async def one(router: str) -> None:
            async with limit:
                await look(router)

        async with trio.open_nursery() as nursery:
            for router in routers:
                nursery.start_soon(one, router.name)
    assert inward == {r.name: FROM_OUTSIDE[r.name.rpartition("-")[0]] for r in routers}
    # The router and the core take one from the TTL each.
    passes = ["3 hops", "big", "big IPv6"]
    assert outward == {r.name: [] if r.nat.blocked == "udp" else passes for r in routers}
    assert pings == {"home-nftables": True, "home-userspace": True}


# --- time-outs ----------------------------------------------------------------------------------

# Sends once, and says how long answers kept coming (seconds; at most 10).
LISTEN = """
import json, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.sendto(b"?", (sys.argv[1], 9))
started, last = time.monotonic(), 0.0
try:
    while (left := started + 10 - time.monotonic()) > 0:
        sock.settimeout(left)
        sock.recv(10)
        last = time.monotonic() - started
except TimeoutError:
    pass
print(json.dumps(last))
"""
# Answers each caller every 0.2 seconds for 11 seconds.
PUMP = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 9))
sock.settimeout(0.2)
print('{"event": "ready"}', flush=True)
callers = {}
while True:
    try:
        callers[sock.recvfrom(10)[1]] = time.monotonic()
    except TimeoutError:
        pass
    for caller, since in callers.items():
        if time.monotonic() < since + 11:
            sock.sendto(b"!", caller)
"""


async def test_time_outs() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(incoming_packets_keep_a_mapping_only_where_they_shall)
        nursery.start_soon(tcp_mappings_live_as_long_as_they_should)


async def incoming_packets_keep_a_mapping_only_where_they_shall() -> None:
    short = replace(MASQUERADE, udp_timeout_s=4.0)
    routers = (
        *(Router(backend, nat=short, backend=backend) for backend in BACKENDS),
        Router("strict", nat=replace(short, inbound_refresh=False)),
    )
    hosts = (*(Host(f"h-{router.name}", behind=router.name) for router in routers), Host("s"))
    lasted: dict[str, float] = {}
    async with open_lab(Scenario("test", hosts=hosts, routers=routers)) as lab:
        pump = await lab.start("s", python(PUMP, lab.ip("s")), name="pump")
        await pump.wait_event(lambda event: event.get("event") == "ready")

        async def listen(router: str) -> None:
            lasted[router] = await call(lab, f"h-{router}", LISTEN, lab.ip("s"))

        async with trio.open_nursery() as nursery:
            for router in routers:
                nursery.start_soon(listen, router.name)
    assert {name: last > 7 for name, last in lasted.items()} == {
        "nftables": True,
        "userspace": True,
        "strict": False,
    }


# Connects from ports 5001 and 5002 and listens there; from 5003 and 5004 it sends nothing but a
# SYN, which nobody answers, and says so from 5001. Prints the numbers of what was received.
CLIENT = """
import json, select, socket, sys
open_ones = []
for port in (5001, 5002):
    sock = socket.socket()
    sock.bind(("", port))
    sock.connect((sys.argv[1], 80))
    open_ones.append(sock)
for port in (5003, 5004):
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.bind(("", port))
        sock.connect_ex((sys.argv[1], 81))
        select.select([], [sock], [], 0.2)
open_ones[0].send(b"x")
got = []
for sock in open_ones:
    sock.settimeout(16)
    try:
        got.append(sock.recv(1).decode())
    except TimeoutError:
        got.append(None)
print(json.dumps({"event": "done", "got": got}), flush=True)
"""
# Speaks up at once and after 6.5 seconds where no more than a SYN was seen, and after 3 and 12
# seconds where a connection is open.
LATE = """
import json, socket, sys, threading, time
own, count = sys.argv[1], int(sys.argv[2])
listener = socket.create_server((own, 80))
print(json.dumps({"event": "ready"}), flush=True)
taken = {}
while len(taken) < 2 * count:
    sock, (address, port) = listener.accept()
    taken[address, port] = sock
for (address, port), sock in taken.items():
    if port == 5001:
        sock.recv(1)
started = time.monotonic()
found = {}

def knock(address, port, after, wait):
    time.sleep(max(0, started + after - time.monotonic()))
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((own, 81))
    sock.settimeout(wait)
    try:
        sock.connect((address, port))
    except TimeoutError:
        found[f"{address}:{port}"] = "silence"
    except ConnectionRefusedError:
        found[f"{address}:{port}"] = "reached"

def speak(key, after):
    time.sleep(max(0, started + after - time.monotonic()))
    taken[key].send(b"x")

threads = []
for address in {address for address, _ in taken}:
    threads += [threading.Thread(target=knock, args=(address, 5003, 0, 60))]
    threads += [threading.Thread(target=knock, args=(address, 5004, 6.5, 3))]
    threads += [threading.Thread(target=speak, args=((address, 5001), 3))]
    threads += [threading.Thread(target=speak, args=((address, 5002), 12))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({"event": "done", "found": found}), flush=True)
time.sleep(60)
"""
QUIET = """
table inet quiet {
    chain input {
        type filter hook input priority 0;
        tcp dport 81 tcp flags & (syn | ack | rst) == syn drop
    }
}
"""


async def tcp_mappings_live_as_long_as_they_should() -> None:
    """Open ones 10 seconds, those that are only opening 5."""
    nat = replace(MASQUERADE, tcp_timeout_s=10.0, tcp_transitory_s=5.0)
    routers = tuple(Router(backend, nat=nat, backend=backend) for backend in BACKENDS)
    hosts = (*(Host(f"h-{router.name}", behind=router.name) for router in routers), Host("s"))
    async with open_lab(Scenario("test", hosts=hosts, routers=routers)) as lab:
        status, _, errors = await lab.run("s", ["nft", "-f", "-"], QUIET.encode())
        assert status == 0, errors
        late = await lab.start("s", python(LATE, lab.ip("s"), len(routers)), name="late")
        await late.wait_event(lambda event: event.get("event") == "ready")
        clients = [
            await lab.start(f"h-{backend}", python(CLIENT, lab.ip("s")), name=f"client-{backend}")
            for backend in BACKENDS
        ]
        _, found = await late.wait_event(lambda event: event.get("event") == "done")
        got = [await client.wait_event(lambda e: e.get("event") == "done") for client in clients]
        public = [lab.public_ip(f"h-{backend}") for backend in BACKENDS]
    assert found["found"] == {
        **{f"{address}:5003": "reached" for address in public},
        **{f"{address}:5004": "silence" for address in public},
    }
    assert [event["got"] for _, event in got] == [["x", None]] * len(routers)


# --- holes --------------------------------------------------------------------------------------

# Connects from a port to an endpoint at a time, as the other side does; prints what it hears.
SIMULTANEOUS = """
import json, socket, sys, time
source, address, port, at = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
sock = socket.socket()
sock.bind(("", source))
sock.settimeout(60)
time.sleep(max(0, at - time.time()))
try:
    sock.connect((address, port))
    sock.sendall(b"hello")
    heard = sock.recv(100).decode()
except OSError as error:
    heard = repr(error)
print(json.dumps(heard))
"""


async def test_tcp_connections_are_opened_from_both_sides_at_once() -> None:
    """As DCUtR does it, through all NATs that keep the port of an inside endpoint."""
    slow = Link(LinkSpec(delay_s=0.03), LinkSpec(delay_s=0.03))
    pairs = [
        ("port-restricted", "port-restricted", Link()),
        ("port-restricted", "linux-masquerade", slow),
        ("linux-masquerade", "linux-masquerade", Link()),
        ("full-cone", "restricted-cone", slow),
    ]
    routers: list[Router] = []
    hosts: list[Host] = []
    for number, (left, right, link) in enumerate(pairs):
        routers += [Router(f"ra{number}", nat=NAMES[left]), Router(f"rb{number}", nat=NAMES[right])]
        hosts.append(Host(f"a{number}", behind=f"ra{number}", link=link))
        hosts.append(Host(f"b{number}", behind=f"rb{number}"))
    heard: dict[str, str] = {}
    scenario = Scenario("test", hosts=tuple(hosts), routers=tuple(routers))
    async with open_lab(scenario) as lab:
        start = time.time() + 2

        async def connect(host: str, other: str) -> None:
            to = lab.public_ip(other)
            heard[host] = await call(lab, host, SIMULTANEOUS, 5000, to, 5000, start)

        async with trio.open_nursery() as nursery:
            for number in range(len(pairs)):
                nursery.start_soon(connect, f"a{number}", f"b{number}")
                nursery.start_soon(connect, f"b{number}", f"a{number}")
    assert heard == {host.name: "hello" for host in hosts}


# Makes a mapping, prints it, and then answers everybody with the endpoint it sees.
MAPPED_ECHO = """
import json, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 4000))
sock.settimeout(0.5)
while True:
    sock.sendto(b"?", (sys.argv[1], 7))
    try:
        at = json.loads(sock.recv(100))
        break
    except TimeoutError:
        pass
print(json.dumps({"event": "mapped", "at": at}), flush=True)
sock.settimeout(None)
while True:
    _, source = sock.recvfrom(100)
    sock.sendto(json.dumps(source).encode(), source)
"""


async def test_two_homes_of_one_carrier_meet_only_where_it_turns_packets_back() -> None:
    carriers = {
        "turning": NAMES["cgnat"],
        "straight": replace(NAMES["cgnat"], hairpin=False),
    }
    routers: list[Router] = []
    hosts = [Host("s")]
    for carrier, nat in carriers.items():
        routers.append(Router(carrier, nat=nat))
        for side, home in (("a", "port-restricted"), ("b", "full-cone")):
            routers.append(Router(f"{carrier}-{side}", nat=NAMES[home], behind=carrier))
            hosts.append(Host(f"{side}-{carrier}", behind=f"{carrier}-{side}"))
    scenario = Scenario("test", hosts=tuple(hosts), routers=tuple(routers))
    async with open_lab(scenario) as lab:
        server = lab.ip("s")
        await start_echo(lab, "s", server)
        for carrier in carriers:
            echo = await lab.start(f"b-{carrier}", python(MAPPED_ECHO, server), name=f"e-{carrier}")
            _, event = await echo.wait_event(lambda event: event.get("event") == "mapped")
            address, port = event["at"]
            assert address == lab.public_ip(carrier)
            # The same port, and so the same mapping, as towards the internet.
            mapped = await ask(lab, f"a-{carrier}", server, source=4000)
            assert mapped is not None
            assert mapped[0] == address
            turns = carrier == "turning"
            tries = TRIES if turns else FEW
            met = await ask(lab, f"a-{carrier}", address, port, source=4000, tries=tries)
            # RFC 4787 REQ-9: with the external endpoint.
            assert met == (mapped if turns else None)


# Finds the gateway by SSDP and does what it is told there by SOAP (UPnP IGD, WANIPConnection):
# a list of [action, arguments]. Prints the answers as lists of [name, value].
IGD = """
import json, re, socket, sys, urllib.error, urllib.request
from urllib.parse import urljoin
own, calls = sys.argv[1], json.loads(sys.argv[2])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(2)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
search = (
    "M-SEARCH * HTTP/1.1\\r\\nHOST: 239.255.255.250:1900\\r\\nMAN: \\"ssdp:discover\\"\\r\\n"
    "MX: 1\\r\\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\\r\\n\\r\\n"
)
for _ in range(30):
    sock.sendto(search.encode(), ("239.255.255.250", 1900))
    try:
        reply = sock.recv(2048).decode()
        break
    except TimeoutError:
        pass
location = re.search(r"(?im)^location:\\s*(\\S+)", reply)[1]
about = urllib.request.urlopen(location, timeout=60).read().decode()
service = re.search(
    r"<serviceType>(urn:schemas-upnp-org:service:WANIPConnection:\\d)</serviceType>"
    r".*?<controlURL>(.*?)</controlURL>", about, re.S)
envelope = "http://schemas.xmlsoap.org/soap/e"
answers = []
for action, arguments in calls:
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in arguments.items())
    body = (
        f'<?xml version="1.0"?><s:Envelope xmlns:s="{envelope}nvelope/" '
        f's:encodingStyle="{envelope}ncoding/"><s:Body><u:{action} xmlns:u="{service[1]}">{inner}'
        f"</u:{action}></s:Body></s:Envelope>"
    )
    request = urllib.request.Request(
        urljoin(location, service[2]), body.encode(),
        {"SOAPAction": f'"{service[1]}#{action}"', "Content-Type": "text/xml"})
    try:
        answer = urllib.request.urlopen(request, timeout=60).read().decode()
    except urllib.error.HTTPError as error:
        answer = error.read().decode()
    answers.append(dict(re.findall(r"<(New\\w+|errorCode)>(.*?)</", answer)))
print(json.dumps(answers))
"""
LISTENER = """
import json, socket, sys
listener = socket.create_server((sys.argv[1], 80))
print(json.dumps({"event": "ready"}), flush=True)
while True:
    listener.accept()[0].sendall(b"hello")
"""
CALLER = """
import json, socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])) as sock:
        print(json.dumps(sock.recv(100).decode()))
except OSError:
    print("null")
"""


def mapping(protocol: str, outside: int, inside: int, host: str) -> list[object]:
    return [
        "AddPortMapping",
        {
            "NewRemoteHost": "",
            "NewExternalPort": outside,
            "NewProtocol": protocol,
            "NewInternalPort": inside,
            "NewInternalClient": host,
            "NewEnabled": 1,
            "NewPortMappingDescription": "test",
            "NewLeaseDuration": 600,
        },
    ]


async def test_upnp_mappings_are_for_outsiders() -> None:
    require_tool("miniupnpd", "miniupnpd miniupnpd-nftables")
    routers = (
        Router("home", nat=NAMES["upnp"]),
        Router("carrier", nat=NAMES["cgnat"]),
        Router("deep", nat=NAMES["upnp"], behind="carrier"),
    )
    hosts = (Host("a", behind="home"), Host("d", behind="deep"), Host("b"))
    async with open_lab(Scenario("test", hosts=hosts, routers=routers)) as lab:
        own, outside = lab.ip("a"), lab.public_ip("a")
        await start_echo(lab, "a", own, 9)
        web = await lab.start("a", python(LISTENER, own), name="web")
        await web.wait_event(lambda event: event.get("event") == "ready")

        async def igd(host: str, *calls: list[object]) -> list[dict[str, str]]:
            answers: list[dict[str, str]] = await call(
                lab, host, IGD, lab.ip(host), json.dumps(calls)
            )
            return answers

        assert await call(lab, "b", CALLER, outside, 8080, 1) is None
        answers = await igd(
            "a",
            ["GetExternalIPAddress", {}],
            mapping("UDP", 9009, 9, own),
            mapping("TCP", 8080, 80, own),
        )
        assert answers == [{"NewExternalIPAddress": outside}, {}, {}]
        assert await ask(lab, "b", outside, 9009) is not None
        assert await call(lab, "b", CALLER, outside, 8080, 60) == "hello"

        key = {"NewRemoteHost": "", "NewExternalPort": 8080, "NewProtocol": "TCP"}
        (answer,) = await igd("a", ["DeletePortMapping", key])
        assert answer == {}
        assert await call(lab, "b", CALLER, outside, 8080, 1) is None
        assert await ask(lab, "b", outside, 9009) is not None

        # Behind another NAT the daemon has no public address, and says so.
        (answer,) = await igd("d", mapping("UDP", 9009, 9, lab.ip("d")))
        assert answer["errorCode"] == "501"


@pytest.mark.parametrize("server", [SERVER, SERVER6])
async def test_fragments_pass_although_they_overtake_each_other(server: str) -> None:
    shuffled = LinkSpec(delay_s=0.005, jitter_s=0.005, jitter_reorders=True)
    async with bench(NatSpec(port="random"), ba=shuffled) as at:
        with conversation(at, server) as (sock, _):
            for number in range(40):
                assert says(sock, bytes((number,)) * 6000)


# --- links --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One direction of the bench's wire."""

    sender: Holder
    receiver: Holder
    to: str
    key: str


def ways(at: Bench) -> tuple[Way, Way]:
    return Way(at.host, at.server, SERVER, "ab"), Way(at.server, at.host, HOST, "ba")


async def test_rates_hold_both_ways_and_change_while_running() -> None:
    first = {"ab": 40e6, "ba": 20e6}
    second = {"ab": 5e6, "ba": 10e6}
    async with bench() as at:
        for rates in (first, second):
            for key, rate in rates.items():
                await at.link(**{key: LinkSpec(rate_bps=rate, queue_s=0.5)})
            for way in ways(at):
                await settled(lambda way=way, rates=rates: rate_is(way, rates[way.key]))  # type: ignore[misc]


async def rate_is(way: Way, rate: float) -> None:
    pace = 1.2 * rate / 8 / 1400
    arrivals = await datagrams(
        way.sender,
        way.receiver,
        way.to,
        int(pace * 0.7),
        size=1372,
        pace=pace,
        burst=max(1, int(rate / 10e6)),
    )
    times = [arrived for _, _, arrived in arrivals]
    length = len(times) // 8
    seconds = statistics.median(b - a for a, b in zip(times, times[length:], strict=False))
    assert length * 1400 * 8 / seconds == pytest.approx(rate, rel=0.05)


async def test_loss_and_duplication_hold_both_ways_and_change_while_running() -> None:
    lossy, doubling = LinkSpec(loss=0.2), LinkSpec(duplicate=0.2)
    async with bench(ab=lossy, ba=doubling) as at:
        for specs in ({"ab": lossy, "ba": doubling}, {"ab": doubling, "ba": lossy}):
            await at.link(**specs)
            async with trio.open_nursery() as nursery:
                for way in ways(at):
                    nursery.start_soon(chance_is, at, way, specs[way.key])


async def chance_is(at: Bench, way: Way, spec: LinkSpec) -> None:
    before = await at.counters(way.key)
    arrivals = await datagrams(way.sender, way.receiver, way.to, 1000, pace=2000, expected=10_000)
    after = await at.counters(way.key)
    lost, doubled = (after[key] - before[key] for key in ("lost", "duplicated"))
    assert len(arrivals) == 1000 - lost + doubled
    # Within 4 standard deviations.
    assert lost == pytest.approx(1000 * spec.loss, abs=52 if spec.loss else 0)
    assert doubled == pytest.approx(1000 * spec.duplicate, abs=52 if spec.duplicate else 0)


# Sends one datagram and counts the answers.
COUNT = """
import json, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(3)
sock.sendto(b"?", (sys.argv[1], 7))
answers = 0
try:
    while True:
        sock.recv(100)
        answers += 1
except TimeoutError:
    print(json.dumps(answers))
"""


async def test_a_lab_changes_both_directions_of_a_link() -> None:
    delay = LinkSpec(delay_s=0.001)
    twice, never = replace(delay, duplicate=1.0), replace(delay, loss=1.0)
    hosts = (Host("a", link=Link(delay, delay)), Host("s"))
    async with open_lab(Scenario("test", hosts=hosts)) as lab:
        await start_echo(lab, "s", lab.ip("s"))
        found = []
        for up, down in ((twice, delay), (twice, twice), (delay, twice), (delay, never)):
            await lab.set_link("a", Link(up, down))
            found.append(await call(lab, "a", COUNT, lab.ip("s")))
    assert found == [2, 4, 2, 0]


async def lab_whose_forwarder_is_killed() -> None:
    hosts = (Host("a", link=Link(LinkSpec(delay_s=0.001))), Host("s"))
    async with open_lab(Scenario("test", hosts=hosts)) as lab:
        assert lab._forwarder is not None
        os.kill(lab._forwarder.pid, signal.SIGKILL)
        await trio.sleep_forever()


async def test_a_lab_does_not_outlive_its_forwarder() -> None:
    with trio.fail_after(60), pytest.raises(LabError, match=r"the forwarder .* status -9"):
        await lab_whose_forwarder_is_killed()
