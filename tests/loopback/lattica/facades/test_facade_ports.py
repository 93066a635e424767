"""Exposed and forwarded ports of the blocking and the asyncio facade."""

from __future__ import annotations

import socket
import threading

import pytest

from lattica import AsyncLattica, Lattica
from lattica.config import load_config
from lattica.errors import ListenError, LocalProtocolError
from lattica.rpc.ports.events import ConnectionClosed, PortEvent

CONFIG = load_config(
    environment={},
    overrides={"listen": ("/ip4/127.0.0.1/tcp/0",), "nat.port_mapping.enabled": False},
)


def greeting_service() -> socket.socket:
    """Greets one client, and ends when it is closed."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(b"hello")

    threading.Thread(target=serve, daemon=True).start()
    return listener


def greeting(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        return client.recv(100)


def test_threads() -> None:
    told: list[PortEvent] = []
    ended = threading.Event()

    def on_event(event: PortEvent) -> None:
        told.append(event)
        if isinstance(event, ConnectionClosed):
            ended.set()

    with greeting_service() as service, Lattica(CONFIG) as server, Lattica(CONFIG) as client:
        exposed = server.expose(service.getsockname()[1], name="s", on_event=on_event)
        assert exposed.key
        with client.forward(server.addrs, "s", key=exposed.key, timeout=60) as forwarded:
            assert forwarded.local == f"127.0.0.1:{forwarded.port}"
            assert forwarded.peer_id == server.peer_id
            assert greeting(forwarded.port) == b"hello"
            with pytest.raises(ListenError):
                client.forward(server.peer_id, "s", local=forwarded.port)
        assert ended.wait(60)
        assert [event.port for event in told] == ["s", "s"]
        with pytest.raises(LocalProtocolError, match="already"):
            server.expose(1, name="s")
        exposed.close()
        server.expose(1, name="s").close()
    exposed.close()


async def asyncio_main() -> bytes:
    import asyncio

    with greeting_service() as service:
        async with AsyncLattica(CONFIG) as server, AsyncLattica(CONFIG) as client:
            await server.expose(service.getsockname()[1], name="s", to=[client.peer_id])
            forwarded = await client.forward(await server.addrs(), "s")
            return await asyncio.to_thread(greeting, forwarded.port)


def test_asyncio() -> None:
    import asyncio

    assert asyncio.run(asyncio_main()) == b"hello"
