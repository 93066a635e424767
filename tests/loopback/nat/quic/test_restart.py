"""A peer that is killed and started anew on the same port is reached again at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from lattica.errors import ConnectionClosedError, StreamResetError
from lattica.nat.base.keys.identity import Identity, parse_peer_id
from lattica.nat.config import Timeouts
from lattica.nat.mux.stream import Stream
from lattica.nat.quic.connection import QuicConnection
from lattica.nat.quic.endpoint import QuicEndpoint
from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE
from lattica.nat.quic.stateless_reset import ResetSender
from lattica.node import Node
from tests.support.nets.nets import ECHO, LISTEN_ON, ask_echo, echo, node_config, running, settled

QUIC = LISTEN_ON["quic"]
GONE = (ConnectionClosedError, StreamResetError)
PROGRAM = f"""
import json, sys, trio
from lattica import Node
from lattica.config import load_config

async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)

async def main():
    config = load_config(environment={{}}, overrides=json.loads(sys.argv[1]))
    async with Node(config) as node:
        node.handle({ECHO!r}, echo)
        if len(sys.argv) > 2:
            await node.connect(sys.argv[2])
        print(node.addrs[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def started(settings: dict[str, object], *arguments: str) -> tuple[trio.Process, str]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", PROGRAM, json.dumps(settings), *arguments], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        data = await process.stdout.receive_some()
        assert data, "the program has ended"
        line += data
    return process, line.decode().strip()


async def echoed(stream: Stream, data: bytes) -> bytes:
    await stream.send_all(data)
    return await stream.receive_exactly(len(data))


async def killed(process: trio.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("dialed_by", ["us", "the peer"])
async def test_a_peer_that_was_killed_and_started_anew(tmp_path: Path, dialed_by: str) -> None:
    Identity.generate().save(tmp_path / "key")
    settings: dict[str, object] = {
        "identity_path": str(tmp_path / "key"),
        "listen": list(QUIC),
        "nat.port_mapping.enabled": False,
        "swarm.timeouts.keep_alive_timeout": 1000,
    }
    # The other process takes as long as it takes to start: silence says nothing, to either side.
    patient = Timeouts(keep_alive_interval=999, keep_alive_timeout=1000, delivery=1000)
    async with Node(node_config(listen=QUIC, timeouts=patient)) as node:
        node.handle(ECHO, echo)
        to_us = () if dialed_by == "us" else (str(node.addrs[0]),)
        process, addr = await started(settings, *to_us)
        bound = addr.partition("/p2p/")[0]
        settings["listen"] = [bound]
        if dialed_by == "us":
            await node.connect(addr)
        peer = parse_peer_id(addr.rpartition("/")[2])
        await node.wait_connected(peer)
        stream = await node.open_stream(peer, ECHO)
        assert await echoed(stream, b"before") == b"before"
        (connection,) = node.swarm.registry
        assert isinstance(connection, QuicConnection)
        session = connection.session
        await settled(lambda: session.peer_reset_token)
        await killed(process)
        node.add_address(peer, bound)
        process, _ = await started(settings)
        try:
            with trio.fail_after(60):
                with pytest.raises(GONE, match="started anew"):
                    await echoed(stream, b"after")  # which the node may have heard by now
                assert await ask_echo(node, peer) == b"hello"
        finally:
            await killed(process)


async def test_only_the_right_token_ends_a_connection() -> None:
    async with running(listen=QUIC) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        (connection,) = client.registry
        assert isinstance(connection, QuicConnection)
        link, session = connection._link, connection.session
        await settled(lambda: session.peer_reset_token)
        await settled(lambda: server.registry.total)
        (there,) = server.registry
        assert isinstance(there, QuicConnection)
        their_session = there.session
        await settled(lambda: their_session.peer_reset_token)
        assert their_session.peer_reset_token != session.peer_reset_token
        endpoint, source = link._carrier, link.destination
        assert isinstance(endpoint, QuicEndpoint)
        cid = their_session.connection_ids[0]
        assert len(cid) == CONNECTION_ID_SIZE
        forged = ResetSender(Identity.generate().seed, source)
        other_socket = ResetSender(server.identity.seed, (source[0], source[1] + 1))
        for sender in (forged, other_socket):
            reset = sender.answer(cid, 1200, now=0.0)
            assert reset is not None
            endpoint._deliver_unknown(b"", reset, len(reset), source)
        assert link.failure is None
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        real = ResetSender(server.identity.seed, source).answer(cid, 1200, now=0.0)
        assert real is not None
        endpoint._deliver_unknown(b"", real, len(real), source)
        await connection.closed.wait()
        assert "started anew" in str(connection.closed_reason)
        assert not endpoint._by_token
