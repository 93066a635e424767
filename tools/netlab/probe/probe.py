"""Probe: what kind of NAT is between this host and a responder, found out by behaviour.

    python -m tools.netlab.probe.probe respond 192.0.2.1 192.0.2.2 [--ports 3478 3479]
    python -m tools.netlab.probe.probe classify 192.0.2.1 [--port 3478] [--lifetimes 1 2 4]

`respond` prints `{"event": "ready"}` once it listens, and runs until it is ended. `classify`
prints one JSON object (:class:`ProbeResult`).
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import trio

from lattica.nat.base.concurrency.exception_groups import leaves
from tools.netlab.packets.stun import Endpoint
from tools.netlab.probe.responder import serve
from tools.netlab.probe.tcp import TcpProbe
from tools.netlab.probe.udp import UdpProbe
from tools.netlab.probe.verdicts import ProbeResult, TcpResult, UdpResult

PORTS: Final = (3478, 3479)
# What an answer over UDP may take (it is asked for four times), and a connection, on a machine that
# has much else to do: what is late would look as if it were filtered.
UDP_TIMEOUT: Final = 1.0
"""Seconds."""
TCP_TIMEOUT: Final = 5.0
"""Seconds."""


async def classify(
    server: Endpoint,
    *,
    lifetimes: Sequence[float] = (),
    udp_timeout: float = UDP_TIMEOUT,
    tcp_timeout: float = TCP_TIMEOUT,
) -> ProbeResult:
    """What is between this host and the responder at `server`, its primary endpoint.

    lifetimes: idle times in seconds after which to look whether a UDP mapping still lives; the
    probe takes as long as the longest of them. The timeouts must be more than a round trip.
    Raises OSError if there is no route to the server.
    """
    local_ip = _local_ip(server)
    udp: UdpResult | None = None
    tcp: TcpResult | None = None

    async def probe_udp() -> None:
        nonlocal udp
        udp = await UdpProbe(local_ip, server, udp_timeout).run(lifetimes)

    async def probe_tcp() -> None:
        nonlocal tcp
        tcp = await TcpProbe(local_ip, server, tcp_timeout).run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe_udp)
        nursery.start_soon(probe_tcp)
    return ProbeResult(udp, tcp)


def _local_ip(server: Endpoint) -> str:
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(server)  # sends nothing: only looks at the routes
        return str(sock.getsockname()[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.netlab.probe.probe", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    respond = commands.add_parser("respond", help="be the responder")
    respond.add_argument("addresses", nargs=2, metavar="IP", help="two addresses of this host")
    respond.add_argument("--ports", nargs=2, type=int, default=PORTS, metavar="PORT")
    ask = commands.add_parser("classify", help="find out what is in between")
    ask.add_argument("server", metavar="IP", help="the responder's first address")
    ask.add_argument("--port", type=int, default=PORTS[0], help="the responder's first port")
    ask.add_argument("--lifetimes", nargs="+", type=float, default=(), metavar="SECONDS")
    ask.add_argument("--udp-timeout", type=float, default=UDP_TIMEOUT, metavar="SECONDS")
    ask.add_argument("--tcp-timeout", type=float, default=TCP_TIMEOUT, metavar="SECONDS")
    return parser


async def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "respond":
        await serve(
            (arguments.addresses[0], arguments.addresses[1]),
            (arguments.ports[0], arguments.ports[1]),
            lambda: print(json.dumps({"event": "ready"}), flush=True),
        )
    result = await classify(
        (arguments.server, arguments.port),
        lifetimes=arguments.lifetimes,
        udp_timeout=arguments.udp_timeout,
        tcp_timeout=arguments.tcp_timeout,
    )
    print(json.dumps(asdict(result)), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Exit status 1 with a message on stderr if a socket cannot be had."""
    arguments = _parser().parse_args(argv)
    status = 0
    try:
        trio.run(_run, arguments)
    except* OSError as errors:
        for error in leaves(errors):
            print(f"probe: {error}", file=sys.stderr)
        status = 1
    except* KeyboardInterrupt:
        status = 130
    return status


if __name__ == "__main__":
    sys.exit(main())
