"""The page of a node that runs, as a browser gets it."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path
from typing import Any

import trio

from lattica import Node
from lattica.config import load_config
from lattica.daemon.node.running import member_of
from tests.support.nets.nets import unused_port

HOSTILE = "<script>alert(1)</script>"


async def get(port: int, target: str, *lines: str, at: str = "127.0.0.1") -> tuple[str, bytes]:
    async with await trio.open_tcp_stream(at, port) as stream:
        head = "\r\n".join((f"GET {target} HTTP/1.1", *lines, "", ""))
        await stream.send_all(head.encode())
        data = b""
        async for part in stream:
            data += part
    first, _, body = data.partition(b"\r\n\r\n")
    return first.decode(), body


async def test_the_page(tmp_path: Path) -> None:
    overrides: dict[str, Any] = {
        "listen": ("/ip4/127.0.0.1/tcp/0",),
        "nat.port_mapping.enabled": False,
        "data_dir": tmp_path,
        "node.page": "127.0.0.1:0",
        "node.api": False,
    }
    config = load_config(environment={}, overrides=overrides)
    async with Node(config) as node, member_of(node) as member:
        port = int(member.page.removesuffix("/").rpartition(":")[2])
        host = f"Host: 127.0.0.1:{port}"
        for path in ("/", "/page.js", "/page.css"):
            head, body = await get(port, path, host)
            assert head.startswith("HTTP/1.1 200")
            assert "default-src 'none'" in head
            # Nothing is fetched from elsewhere, and nothing a peer says is taken as markup.
            assert b"https://" not in body
            assert b"innerHTML" not in body
        head, body = await get(port, "/status", host)
        assert json.loads(body)["peer_id"] == str(node.peer_id)
        assert (await get(port, "/nothing", host))[0].startswith("HTTP/1.1 404")
        assert (await get(port, "/status", "Host: evil.example"))[0].startswith("HTTP/1.1 421")
        assert (await get(port, "/status", host, "X: " + "y" * 20_000))[0].startswith(
            "HTTP/1.1 431"
        )
        logging.getLogger("lattica.test.page").warning(HOSTILE + "\n\nevent: status")
        await member.logs.after(0)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(f"GET /events HTTP/1.1\r\n{host}\r\n\r\n".encode())
            data = b""
            while data.count(b"event: status\n") < 2:
                data += await stream.receive_some()
        events = data.partition(b"\r\n\r\n")[2].decode().split("\n\n")
        shown = [json.loads(each.partition("data: ")[2]) for each in events if "data: " in each]
        assert any(HOSTILE in each.get("message", "") for each in shown)
        assert any(each.get("peer_id") == str(node.peer_id) for each in shown)


async def test_elsewhere_it_asks_for_the_token(tmp_path: Path) -> None:
    token = bytes(range(16))
    overrides: dict[str, Any] = {
        "listen": (),
        "nat.port_mapping.enabled": False,
        "data_dir": tmp_path,
        "node.page": "127.0.0.1:0",
        "node.page_token": token,
        "node.api": False,
    }
    config = load_config(environment={}, overrides=overrides)
    async with Node(config) as node, member_of(node) as member:
        port = int(member.page.removesuffix("/").rpartition(":")[2])
        assert (await get(port, "/", "Host: x"))[0].startswith("HTTP/1.1 401")
        head, _ = await get(port, f"/?token={token.hex()}", "Host: x")
        assert head.startswith("HTTP/1.1 303")
        assert "HttpOnly; SameSite=Strict" in head
        cookie = f"Cookie: lattica-page={token.hex()}"
        assert (await get(port, "/", "Host: x", cookie))[0].startswith("HTTP/1.1 200")


class TwoAddresses(trio.abc.HostnameResolver):
    """As where `localhost` is 127.0.0.1 and ::1."""

    addresses = ("127.0.0.1", "127.0.0.2")

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        inet = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*inet, (address, port)) for address in self.addresses]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


async def test_every_address_of_its_host_is_answered_at(tmp_path: Path) -> None:
    port = unused_port()
    overrides: dict[str, Any] = {
        "listen": (),
        "nat.port_mapping.enabled": False,
        "data_dir": tmp_path,
        "node.page": f"localhost:{port}",
        "node.api": False,
    }
    config = load_config(environment={}, overrides=overrides)
    async with Node(config) as node:
        trio.socket.set_custom_hostname_resolver(TwoAddresses())
        async with member_of(node):
            trio.socket.set_custom_hostname_resolver(None)
            for address in TwoAddresses.addresses:
                with trio.fail_after(60):
                    head, _ = await get(port, "/", f"Host: localhost:{port}", at=address)
                assert head.startswith("HTTP/1.1 200")
