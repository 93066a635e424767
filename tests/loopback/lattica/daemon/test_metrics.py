"""What a relay shows to those who watch it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from lattica import Node
from lattica.daemon.metrics import http
from lattica.daemon.metrics.http import Page, Route, WatchServer
from lattica.errors import ListenError
from tests.loopback.lattica.daemon.relay_process import client, relay_process
from tests.support.nets.nets import unused_port

ROUTES = {
    "/open": Route(lambda: Page(b"hello")),
    "/closed": Route(lambda: Page(b"hello"), "hush"),
    "/broken": Route(lambda: Page(b"%d" % (1 // 0))),
}


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """The pages of `ROUTES`, on this port."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(WatchServer(ROUTES).serve, "127.0.0.1:0")
        nursery.cancel_scope.cancel()


async def ask(port: int, text: str) -> str:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(text.replace("\n", "\r\n").encode())
        answer = b""
        while part := await stream.receive_some():
            answer += part
    return answer.decode()


async def get(port: int, path: str, *headers: str) -> tuple[int, str]:
    lines = "".join(f"{header}\n" for header in headers)
    answer = await ask(port, f"GET {path} HTTP/1.1\nHost: x\n{lines}\n")
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /open", 200),
        ("GET /open?x=1", 200),
        ("POST /open", 405),
        ("GET /nothing", 404),
        ("GET /closed", 401),
        ("GET /broken", 500),
        ("GET /../open", 404),
        ("\x00\x01", 400),
    ],
)
async def test_pages(request_line, status):
    async with serving() as port:
        answer = await ask(port, f"{request_line} HTTP/1.1\nHost: x\n\n")
        assert answer.startswith(f"HTTP/1.1 {status} ")


async def test_the_token_opens_what_is_closed():
    async with serving() as port:
        assert await get(port, "/closed", "Authorization: Bearer hush") == (200, "hello")
        assert (await get(port, "/closed", "Authorization: Bearer hus"))[0] == 401
        head = await ask(port, "HEAD /open HTTP/1.1\nHost: x\n\n")
        assert head.endswith("\r\n\r\n")
        assert "Content-Length: 5" in head


async def test_who_says_nothing_or_too_much_is_let_go(monkeypatch):
    monkeypatch.setattr(http, "DEADLINE", 0.2)
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 1)
    async with serving() as port:
        first = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(60):
            assert await first.receive_some() == b""
            monkeypatch.undo()
            assert "431" in await ask(port, "GET /open HTTP/1.1\nX: " + "x" * 18_000)


async def test_a_port_in_use_is_said_so():
    async with serving() as port:
        with pytest.RaisesGroup(pytest.RaisesExc(ListenError, match=r"metrics\.listen")):
            async with trio.open_nursery() as nursery:
                await nursery.start(WatchServer(ROUTES).serve, f"127.0.0.1:{port}")


async def test_a_relay_says_how_full_it_is_and_when_it_leaves(tmp_path):
    file = tmp_path / "relay.toml"
    port = unused_port()
    file.write_text(f'metrics.listen = ["127.0.0.1:{port}"]\n')
    async with relay_process(tmp_path, "--config", str(file), "--open") as relay:
        settings = client(relay.addr)
        async with Node(settings) as node:
            await node.wait_reachable(60)
            status, text = await get(port, "/metrics")
            assert status == 200
            for line in (
                "lattica_relay_reservations 1.0",
                'lattica_relay_limit_used_percent{limit="reservations_per_ip"} 12.5',
                'lattica_connections{direction="inbound",path="direct-tcp"} 1.0',
            ):
                assert line in text.splitlines()
            assert str(node.peer_id) not in text
            assert (await get(port, "/readyz"))[0] == 200
            # A circuit that stays open keeps the relay for a while.
            async with Node(client(relay.addr)) as other:
                await other.connect(f"{relay.addr}/p2p-circuit/p2p/{node.peer_id}", timeout=60)
                relay.signal(signal.SIGTERM)
                with trio.fail_after(60):
                    while (await get(port, "/readyz"))[0] != 503:
                        await trio.sleep(0.05)
                assert json.loads((await get(port, "/readyz"))[1])["troubles"] == [
                    "it is about to stop"
                ]
    dashboard = Path(__file__).parents[4] / "tools/deploy/grafana.json"
    wanted = {
        name
        for panel in json.loads(dashboard.read_text())["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:lattica|process)_\w+", target["expr"])
    }
    assert wanted
    assert wanted <= set(re.findall(r"^(\w+)[ {]", text, re.M))
