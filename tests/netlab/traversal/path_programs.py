"""Programs of the tests of paths that come and go, in a lab's hosts. They print JSON events.

path_programs.py fetch TICKET FOLDER     as `lattica fetch`, and tells how it gets on
path_programs.py liar VICTIM PRIVATE     a relay that says it sees everybody at these addresses
path_programs.py watch DEVICE            counts what comes in, until it is stopped
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import trio

from lattica.cli.shared.event_json import event_object
from lattica.config import NodeConfig
from lattica.content import Ticket, fetch
from lattica.content.events import FetchEvent, FetchProgress, Retrying
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.connection import Connection
from lattica.nat.services.identify.messages import Identify
from lattica.nat.services.identify.service import IdentifyService
from lattica.nat.swarm.events import (
    EventStream,
    PathChanged,
    PeerConnected,
    PeerDisconnected,
    SwarmEvent,
)
from lattica.nat.transport.udp_socket import Address
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.relay.server.events import RelayEvent
from lattica.nat.traversal.relay.server.limits import RelayLimits, RelayServerConfig, StrangerLimits
from lattica.nat.traversal.stun.responder import StunResponderCore
from lattica.node import Node

RELAY_PORTS = (
    "/ip4/0.0.0.0/tcp/4001",
    "/ip4/0.0.0.0/udp/4001/quic-v1/noise",
    "/ip4/0.0.0.0/udp/3478/quic-v1/noise",
)
LIES = 4
"""Ports that are named at each of the addresses that are lied about."""
MAX_PACKETS = 100_000


def say(event: str, **more: object) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


def tell(event: SwarmEvent | RelayEvent) -> None:
    print(json.dumps(event_object(event)), flush=True)


# --- fetch ---


def told(event: FetchEvent) -> None:
    match event:
        case FetchProgress(bytes_done=done):
            say("progress", bytes=done)
        case Retrying(error=error):
            say("retrying", why=error)


async def watch_paths(events: EventStream) -> None:
    async for event in events:
        if isinstance(event, PeerConnected | PathChanged | PeerDisconnected):
            tell(event)


async def run_fetch(ticket: str, folder: str) -> None:
    async with trio.open_nursery() as nursery:
        async with Node(NodeConfig()) as node:
            with node.events() as events:
                nursery.start_soon(watch_paths, events)
                result = await fetch(node, Ticket.parse(ticket), Path(folder), progress=told)
                status = node.path(Ticket.parse(ticket).peer_id)
                say(
                    "fetched",
                    bytes=result.bytes_total,
                    over_network=result.bytes_fetched,
                    path=None if status is None else status.path,
                )
        nursery.cancel_scope.cancel()


# --- liar ---


async def run_liar(victim: str, private: str, believer: str) -> None:
    """Lies in every place where a relay says who or where somebody is."""
    config = NodeConfig(
        swarm=SwarmConfig(listen=RELAY_PORTS),
        nat=TraversalConfig(
            relay_server=RelayServerConfig(
                enabled=True,
                limits=RelayLimits(
                    open_to_strangers=True,
                    strangers_rate=0,
                    for_strangers=StrangerLimits(duration=0, data=0, rate=0),
                ),
            )
        ),
    )
    lies = [
        Multiaddr(f"/ip4/{ip}/{part}")
        for ip in (victim, private)
        for port in range(4001, 4001 + LIES)
        for part in (f"tcp/{port}", f"udp/{port}/quic-v1/noise")
    ]
    made = 0
    describe = IdentifyService._describe
    respond: Callable[..., Any] = StunResponderCore._response

    def lie() -> tuple[str, int]:
        nonlocal made
        made += 1
        return (victim, private)[made % 2], 4001 + made // 2 % LIES

    def lying_description(service: IdentifyService, connection: Connection) -> Identify:
        ip, port = lie()
        observed = Multiaddr(f"/ip4/{ip}/tcp/{port}")
        return replace(describe(service, connection), observed_addr=observed)

    def lying_response(
        core: StunResponderCore, request: object, size: int, source: Address, *more: object
    ) -> Any:
        nonlocal made
        if source[0] == believer:
            made += 1
            source = (victim, 20_000 + 7 * made % 30_000)
        return respond(core, request, size, source, *more)

    with (
        mock.patch.object(IdentifyService, "_describe", lying_description),
        mock.patch.object(StunResponderCore, "_response", lying_response),
    ):
        async with Node(config) as node:
            say("ready", addr=str(node.addrs[0]), id=str(node.peer_id))
            node.swarm.own_addresses.set("mapped", lies)
            service = node.traversal.relay_service
            assert service is not None
            service.on_event.append(
                lambda event: print(json.dumps(event_object(event)), flush=True)
            )
            await trio.sleep_forever()


# --- watch ---


async def run_watch(device: str) -> None:
    """Tells of each packet for this machine."""
    with trio.socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as sock:
        await sock.bind((device, 0x0800))
        say("ready")
        for _ in range(MAX_PACKETS):
            packet, address = await sock.recvfrom(2048)
            if address[2] == socket.PACKET_OUTGOING or len(packet) < 24:
                continue
            header = 4 * (packet[0] & 15)
            protocol = {6: "tcp", 17: "udp"}.get(packet[9], "other")
            source = socket.inet_ntoa(packet[12:16])
            port = int.from_bytes(packet[header + 2 : header + 4], "big")
            say("packet", protocol=protocol, source=source, port=port)


async def main(*words: str) -> None:
    role, *arguments = words
    programs: dict[str, Any] = {"fetch": run_fetch, "liar": run_liar, "watch": run_watch}
    await programs[role](*arguments)


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.DEBUG if "-v" in sys.argv else logging.INFO,
        format="%(asctime)s %(name)s %(message)s",
    )
    trio.run(main, *(word for word in sys.argv[1:] if word != "-v"))
