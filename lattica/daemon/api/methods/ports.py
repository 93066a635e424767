"""Ports: exposed and forwarded for as long as their calls last."""

from __future__ import annotations

import time
from contextlib import ExitStack

import trio

from lattica.daemon.api.methods.base import Emit, MemberMethods
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc.ports.endpoints import parse_endpoint
from lattica.rpc.ports.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    PortEvent,
)


class PortMethods(MemberMethods):
    """See `node.proto`."""

    async def expose(self, request: pb.ExposeRequest, emit: Emit[pb.PortMessage]) -> None:
        ports, to = self.node.ports, [*request.to]
        if not request.ports or (to and request.anyone):
            raise LocalProtocolError("ports to expose, and peers or anyone, and not both")
        named = [
            (each.name or str(parse_endpoint(each.target).port), each.target)
            for each in request.ports
        ]
        key = None if to or request.anyone else ports.key_for(*(name for name, _ in named))
        ready = pb.PortMessage(time=time.time(), event="ready", side="expose", key=key or "")
        with ExitStack() as stack:
            for name, target in named:
                exposure = ports.expose(
                    target,
                    name=name,
                    to="anyone" if request.anyone else to,
                    key=key,
                    idle_timeout=request.idle_timeout_seconds or None,
                    on_event=lambda event: emit.offer(port_message(event)),
                )
                stack.callback(exposure.close)
                ready.ports.add(name=exposure.name, place=str(exposure.target))
            await emit.send(ready)
            await trio.sleep_forever()

    async def forward(self, request: pb.ForwardRequest, emit: Emit[pb.PortMessage]) -> None:
        if not request.ports:
            raise LocalProtocolError("ports to forward")
        ready = pb.PortMessage(time=time.time(), event="ready", side="forward")
        with ExitStack() as stack:
            for each in request.ports:
                forward = await self.node.ports.forward(
                    request.peer,
                    each.port,
                    local=each.local or None,
                    key=request.key,
                    idle_timeout=request.idle_timeout_seconds or None,
                    on_event=lambda event: emit.offer(port_message(event)),
                )
                stack.callback(forward.close)
                ready.ports.add(name=forward.name, place=str(forward.local))
                ready.peer_id = str(forward.peer_id)
            await emit.send(ready)
            await trio.sleep_forever()


def port_message(event: PortEvent) -> pb.PortMessage:
    """What has happened to a connection just now."""
    message = pb.PortMessage(
        time=time.time(), side=event.side.value, port=event.port, peer_id=str(event.peer_id)
    )
    match event:
        case ConnectionOpened():
            message.event = "connection_opened"
            message.id, message.local, message.path = event.id, event.local, event.path
        case ConnectionClosed():
            message.event = "connection_closed"
            message.id, message.local, message.path = event.id, event.local, event.path
            message.bytes_to_peer, message.bytes_from_peer = (
                event.bytes_to_peer,
                event.bytes_from_peer,
            )
            message.seconds, message.reason = event.seconds, event.reason
        case ConnectionRefused():
            message.event, message.reason = "connection_refused", event.reason
    return message
