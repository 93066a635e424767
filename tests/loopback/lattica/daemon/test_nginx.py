"""nginx in front of a relay, as `tools/deploy/nginx.conf` has it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from lattica import Node
from tests.loopback.lattica.daemon.relay_process import client, relay_process
from tests.support.keys.certificates import certified
from tests.support.nets.nets import unused_port

EXAMPLE = Path(__file__).parents[4] / "tools/deploy/nginx.conf"
NGINX = shutil.which("nginx")


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx-light)")
async def test_a_peer_reserves_through_tls_by_nginx(tmp_path, monkeypatch):
    certified(tmp_path, "localhost")
    pem = str(tmp_path / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", pem)
    port, inner = unused_port(), unused_port()
    text = EXAMPLE.read_text()
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("server_name relay.example.org", "server_name localhost"),
        ("/etc/letsencrypt/live/relay.example.org/fullchain.pem", pem),
        ("/etc/letsencrypt/live/relay.example.org/privkey.pem", pem),
        ("127.0.0.1:4002", f"127.0.0.1:{inner}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    file = tmp_path / "nginx.conf"
    file.write_text(f"pid {tmp_path}/pid;\nerror_log {tmp_path}/errors;\ndaemon off;\n{text}")
    assert NGINX is not None
    process = await trio.lowlevel.open_process([NGINX, "-c", str(file)], stdin=subprocess.DEVNULL)
    try:
        listen = f"/ip4/127.0.0.1/tcp/{inner}/ws"
        async with relay_process(tmp_path / "data", "--open", listen=listen) as relay:
            peer = relay.addr.rpartition("/")[2]
            async with Node(client(f"/dns4/localhost/tcp/{port}/wss/p2p/{peer}")) as node:
                await node.wait_reachable(60)
                assert any("/wss/" in str(addr) for addr in node.addrs)
    finally:
        process.terminate()
        await process.wait()
