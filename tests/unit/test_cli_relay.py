"""`lattica relay`: what it refuses to run as, where it listens, and what it prints."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from multiaddr.multiaddr import Multiaddr
from typer.testing import CliRunner

from lattica.cli import app, relay
from lattica.cli.event_json import event_object
from lattica.config import NodeConfig, load_config
from lattica.identity import Identity
from lattica.nat.addresses import split_peer
from lattica.nat.relay.circuit_transport import ask_relay
from lattica.nat.relay.messages import Reserve, Status
from lattica.nat.relay.relay_events import Refused
from tests.nets import running

pytestmark = pytest.mark.usefixtures("restored_logging")

PEER = Identity.generate().peer_id


def refused(data_dir: Path, *options: str) -> str:
    """The one line that a command which cannot run ends with."""
    runner = CliRunner()
    result = runner.invoke(app, ["--data-dir", str(data_dir), "relay", *options])
    assert result.exit_code == 1
    return result.output.strip()


def test_relay_for_nobody_is_not_started(tmp_path):
    assert "--allow PEER" in refused(tmp_path)


def test_peer_to_allow_must_be_one(tmp_path):
    line = refused(tmp_path, "--allow", str(PEER), "--allow", "alice")
    assert "allow_peers" in line
    assert "alice" in line


def test_file_can_say_whom_to_serve(tmp_path):
    file = tmp_path / "relay.toml"
    file.write_text(
        "[nat.relay_server]\n"
        f'allow_peers = ["{PEER}"]\n'
        "[nat.relay_server.limits]\nopen_to_strangers = true\nmax_reservations = 5\n"
        "[nat.relay_server.limits.for_strangers]\nrate = 77\n"
    )
    server = load_config(file, {}).nat.relay_server
    assert server.allow_peers == (str(PEER),)
    assert server.limits.open_to_strangers
    assert server.limits.max_reservations == 5
    # What is not said is what strangers get by default, and not what friends get.
    assert server.limits.for_strangers.rate == 77
    assert server.limits.for_strangers.duration == 120.0
    assert server.limits.for_allowed.rate == 0


def test_default_ports_are_a_relays(monkeypatch, caplog):
    monkeypatch.setattr(relay, "_web_port_obstacle", lambda: None)
    assert relay._with_ports(NodeConfig()).swarm.listen == relay.PORTS + relay.WEB_PORTS
    monkeypatch.setattr(relay, "_web_port_obstacle", lambda: "Permission denied")
    with caplog.at_level(logging.WARNING):
        assert relay._with_ports(NodeConfig()).swarm.listen == relay.PORTS
    assert "not listening on port 443" in caplog.text
    assert "Permission denied" in caplog.text
    chosen = load_config(None, {}, {"listen": ["/ip4/127.0.0.1/tcp/1"]})
    assert relay._with_ports(chosen) is chosen


def test_events_are_json():
    assert event_object(Refused(PEER, None, Status.NO_RESERVATION, "why")) == {
        "event": "refused",
        "peer_id": str(PEER),
        "target": None,
        "status": "NO_RESERVATION",
        "reason": "why",
    }


async def test_daemon_introduces_itself_relays_and_stops(tmp_path):
    code = "from lattica.cli import main; main()"
    command = [sys.executable, "-c", code, "--data-dir", str(tmp_path), "relay", "--open"]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--json"]
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
        process: trio.Process = await nursery.start(start)
        try:
            assert process.stdout is not None
            lines = Lines(process.stdout)
            ready = await lines.event()
            assert ready["event"] == "ready"
            addr, peer_id = split_peer(Multiaddr(ready["addrs"][0]))
            assert str(peer_id) == ready["peer_id"]
            async with running(listen=()) as swarm:
                connection = await swarm.dial(peer_id, [addr])
                _, answer = await ask_relay(connection, Reserve())
                assert answer.status is Status.OK
                connected = await lines.event()
                made = await lines.event()
                assert [connected["event"], made["event"]] == ["peer_connected", "reservation_made"]
                assert connected["peer_id"] == made["peer_id"] == str(swarm.identity.peer_id)
                assert made["renewed"] is False
            process.terminate()
            while line := await lines.line():
                assert json.loads(line)["event"] in ("reservation_ended", "peer_disconnected")
            assert await process.wait() == 0
        finally:
            process.kill()


class Lines:
    """What a process prints, line by line."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._rest = b""

    async def line(self) -> bytes:
        """The next line; empty at the end."""
        while b"\n" not in self._rest:
            data = await self._stream.receive_some()
            if not data:
                return b""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def event(self) -> dict:
        return json.loads(await self.line())
