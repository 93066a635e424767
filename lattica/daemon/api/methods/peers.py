"""Status, events, logs, connections and calls."""

from __future__ import annotations

import math
import time
from typing import Any

from lattica.daemon.api.methods.base import Emit, MemberMethods
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.daemon.api.status import node_status
from lattica.daemon.api.values import pack, unpack
from lattica.daemon.node.log_lines import LogEntry
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.peer_id import parse_peer_id
from lattica.nat.swarm.events import (
    AddressesChanged,
    EventsLost,
    ListeningOn,
    NetworkChanged,
    PathChanged,
    PeerConnected,
    PeerDisconnected,
    SwarmEvent,
)


class PeerMethods(MemberMethods):
    """See `node.proto`."""

    async def status(self, request: pb.StatusRequest) -> pb.NodeStatus:
        return node_status(self.member)

    async def events(self, request: pb.EventsRequest, emit: Emit[pb.Event]) -> None:
        with self.node.events() as events:
            await emit.send(pb.Event())
            async for event in events:
                await emit.send(event_message(event))

    async def logs(self, request: pb.LogsRequest, emit: Emit[pb.LogLine]) -> None:
        logs = self.member.logs
        position, lines = logs.position, logs.last(request.last)
        await emit.send(pb.LogLine())
        while True:
            for line in lines:
                await emit.send(log_message(line))
            position, lines = await logs.after(position)

    async def connect(self, request: pb.ConnectRequest) -> pb.ConnectReply:
        targets = [*request.targets]
        if not targets:
            raise LocalProtocolError("connect needs an address or a peer ID")
        peer = await self.node.connect(
            targets[0] if len(targets) == 1 else targets,
            timeout=request.timeout_seconds or math.inf,
        )
        path = self.node.path(peer)
        return pb.ConnectReply(peer_id=str(peer), path="" if path is None else path.path)

    async def disconnect(self, request: pb.DisconnectRequest) -> pb.DisconnectReply:
        await self.node.disconnect(request.peer_id)
        return pb.DisconnectReply()

    async def call(self, request: pb.CallRequest) -> pb.CallReply:
        arguments: Any = unpack(request.arguments) if request.arguments else []
        keywords: Any = unpack(request.keywords) if request.keywords else {}
        if not isinstance(arguments, list) or not isinstance(keywords, dict):
            raise LocalProtocolError("arguments are a list, keywords a map with texts as keys")
        if not all(isinstance(name, str) for name in keywords):
            raise LocalProtocolError("keywords are a map with texts as keys")
        peer = parse_peer_id(request.peer_id)
        result = await self.node.rpc.call(peer, request.method, *arguments, **keywords)
        return pb.CallReply(result=pack(result))


def event_message(event: SwarmEvent) -> pb.Event:
    """An event of the swarm, that has happened now."""
    message = pb.Event(time=time.time())
    match event:
        case PeerConnected():
            message.event, message.path = "peer_connected", event.path
            message.peer_id, message.addr = str(event.peer_id), str(event.addr)
        case PeerDisconnected():
            message.event, message.reason = "peer_disconnected", event.reason
            message.peer_id = str(event.peer_id)
        case PathChanged():
            message.event, message.path = "path_changed", event.path
            message.peer_id, message.addr = str(event.peer_id), str(event.addr)
            message.reason = f"it was {event.previous}"
        case ListeningOn():
            message.event, message.addr = "listening_on", str(event.addr)
        case AddressesChanged():
            message.event, message.reason = "addresses_changed", " ".join(map(str, event.addrs))
        case NetworkChanged():
            message.event, message.reason = "network_changed", event.reason
        case EventsLost():
            message.event, message.reason = "events_lost", f"{event.count} of them"
    return message


def log_message(line: LogEntry) -> pb.LogLine:
    """A line of the log."""
    return pb.LogLine(time=line.time, level=line.level, logger=line.logger, message=line.message)
