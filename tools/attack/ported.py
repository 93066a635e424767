"""What a victim exposes and forwards: a service that echoes, and one that the enemy says it has."""

from __future__ import annotations

from contextlib import suppress

import trio

from lattica.nat.base.keys.identity import Identity
from lattica.node import Node

SERVICE = "echo"
"""What the victim exposes, to anybody."""
KEPT = "kept"
"""The same to whoever has the key."""
ENEMY = Identity(bytes(31) + b"\x01")
"""Whose service the victim forwards."""
ENEMYS = "evil"
"""What that is called."""
CLIENTS = 16
"""Programs at the victim that use it, at a time."""
_PATIENCE = 2.0
"""Seconds that each does."""


async def _echo(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        async for data in stream:
            await stream.send_all(data)


async def _use(port: int) -> None:
    """Connect to what is forwarded, say something, and read slowly what comes."""
    while True:
        with suppress(OSError, trio.BrokenResourceError), trio.move_on_after(_PATIENCE):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"hello")
                data = b"hello"
                while data:
                    await trio.sleep(0.01)
                    data = await stream.receive_some(4096)
        await trio.sleep(0.02)


async def open_ports(node: Node, nursery: trio.Nursery) -> None:
    """Until the nursery is cancelled."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, _echo, [listener])
    target = listener.socket.getsockname()[1]
    node.ports.expose(target, name=SERVICE, to="anyone")
    node.ports.expose(target, name=KEPT)
    forward = await node.ports.forward(ENEMY.peer_id, ENEMYS, local=0)
    for _ in range(CLIENTS):
        nursery.start_soon(_use, forward.port)
