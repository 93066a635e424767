"""STUN with coturn: our client and its server, its client and our responder (RFC 5780)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.nat.swarm.addresses.nat_report import Behaviour
from lattica.nat.traversal.stun.behaviour import Responder
from lattica.nat.traversal.stun.client import StunTimeout, client_on_fresh_socket
from lattica.nat.traversal.stun.codec import Endpoint
from lattica.nat.traversal.stun.measurement import measure
from lattica.nat.traversal.stun.responder import StunResponder
from lattica.nat.traversal.stun.transaction import StunTiming
from tests.netlab.holders import require_tool
from tests.support.nets.nets import running, unused_port

pytestmark = pytest.mark.foreign

HOSTS = ("127.0.0.2", "127.0.0.3")
PATIENT = StunTiming(first_wait=0.5, requests=7, last_wait=8.0)
EI = Behaviour.ENDPOINT_INDEPENDENT


@asynccontextmanager
async def coturn(folder: Path) -> AsyncIterator[list[Endpoint]]:
    """A STUN server on two addresses and two ports; those, the main one first."""
    require_tool("turnserver", "coturn")
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    ports = unused_port(), unused_port()
    options = {
        "listening-port": ports[0],
        "alt-listening-port": ports[1],
        "pidfile": folder / "pid",
        "userdb": folder / "users",
        "log-file": "stdout",
    }
    command = [
        str(shutil.which("turnserver", path=path)),
        "-n",
        "--stun-only",
        "--no-tls",
        "--no-dtls",
        "--no-cli",
        *(f"--listening-ip={host}" for host in HOSTS),
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    with (folder / "log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder
        )
    try:
        yield [(host, port) for host in HOSTS for port in ports]
    finally:
        with trio.CancelScope(shield=True):
            process.send_signal(signal.SIGKILL)
            await process.wait()


async def test_our_client_and_their_server(tmp_path):
    async with coturn(tmp_path) as grid, client_on_fresh_socket("127.0.0.1", PATIENT) as client:
        main, other_port, other_host, both = grid
        try:
            binding = await client.ask(main)
        except StunTimeout:
            pytest.fail(f"coturn does not run: {(tmp_path / 'log').read_text()[-2000:]}")
        assert binding.mapped == client.local
        assert (binding.response.origin, binding.response.other) == (main, both)
        for source, ip, port in [
            (other_port, False, True),
            (other_host, True, False),
            (both, True, True),
        ]:
            binding = await client.ask(main, change_ip=ip, change_port=port, accept_from=[source])
            assert binding.source == source
        async with client_on_fresh_socket("127.0.0.1") as fresh:
            responders = [Responder(*each) for each in grid]
            hosts = ["127.0.0.1"]
            measured = await measure(client, responders, hosts, StunTiming(), lambda _: None)
            assert (await fresh.ask(both)).mapped == fresh.local
    assert measured.report.mapping is EI
    assert measured.report.filtering is EI
    assert measured.report.is_translated is False


async def test_their_client_and_our_responder():
    require_tool("turnutils_natdiscovery", "coturn")
    ports = unused_port(), unused_port()
    listen = [f"/ip4/{host}/udp/{port}/quic-v1/noise" for host in HOSTS for port in ports]
    async with running(listen=tuple(listen)) as relay, trio.open_nursery() as nursery:
        nursery.start_soon(StunResponder(relay).run)
        await wait_all_tasks_blocked()
        command = ["turnutils_natdiscovery", "-m", "-f", "-p", str(ports[0]), HOSTS[0]]
        with trio.fail_after(120):
            result = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
        nursery.cancel_scope.cancel()
    said = result.stdout.decode()
    assert "NAT with Endpoint Independent Mapping!" in said
    assert "NAT with Endpoint Independent Filtering!" in said
