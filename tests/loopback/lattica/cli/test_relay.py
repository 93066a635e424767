"""`lattica relay`: what it refuses to run as, where it listens, and what it prints."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import socket
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from typer.testing import CliRunner

from lattica.cli import app
from lattica.cli.relay import serve as relay
from lattica.cli.shared.event_json import event_object
from lattica.cli.shared.listening import beside_others, obstacle
from lattica.config import NodeConfig, load_config
from lattica.errors import LatticaError
from lattica.line_writer import QUEUE_SIZE
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.relay.circuit_transport import ask_relay
from lattica.nat.traversal.relay.messages import Reserve, Status
from lattica.nat.traversal.relay.server.events import Refused
from tests.support.nets.nets import running

PEER = Identity.generate().peer_id


def refused(data_dir: Path, *options: str) -> str:
    """The one line that a command which cannot run ends with."""
    runner = CliRunner()
    result = runner.invoke(app, ["--data-dir", str(data_dir), "relay", *options])
    assert result.exit_code == 2
    return result.output.strip()


def test_relay_for_nobody_is_not_started(tmp_path):
    assert "--allow PEER" in refused(tmp_path)


def test_peer_to_allow_must_be_one(tmp_path):
    line = refused(tmp_path, "--allow", str(PEER), "--allow", "alice")
    assert "--allow:" in line
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
    monkeypatch.setattr(relay, "obstacle", lambda addr: None)
    everything = relay.PORTS + relay.STUN_PORTS + relay.WEB_PORTS
    assert relay._with_ports(NodeConfig()).swarm.listen == everything
    chosen = load_config(None, {}, {"listen": ["/ip4/127.0.0.1/tcp/1"]})
    assert relay._with_ports(chosen) is chosen
    assert not caplog.records


@pytest.mark.parametrize("taken", relay.STUN_PORTS + relay.WEB_PORTS)
def test_a_port_that_cannot_be_had_is_left_out(monkeypatch, caplog, taken):
    def found(addr: str) -> OSError | None:
        return OSError(errno.EADDRINUSE, "Address already in use") if addr == taken else None

    monkeypatch.setattr(relay, "obstacle", found)
    with caplog.at_level(logging.WARNING):
        listen = relay._with_ports(NodeConfig()).swarm.listen
    everything = relay.PORTS + relay.STUN_PORTS + relay.WEB_PORTS
    assert listen == tuple(addr for addr in everything if addr != taken)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"not listening on {taken}: Address already in use")


@pytest.mark.parametrize("addr", relay.STUN_PORTS + relay.WEB_PORTS)
def test_obstacles_are_those_that_the_node_would_meet(addr):
    """With a free port instead: what another program has is not to be had, whoever that is."""
    family, any_host = (socket.AF_INET, "0.0.0.0") if "/ip4/" in addr else (socket.AF_INET6, "::")
    kind = socket.SOCK_STREAM if "/tcp/" in addr else socket.SOCK_DGRAM
    with socket.socket(family, kind) as other:
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # A server that would share the port with another one that agrees.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((any_host, 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        port = other.getsockname()[1]
        tested = addr.replace("/443/", f"/{port}/").replace("/3478/", f"/{port}/")
        found = obstacle(tested)
        assert found is not None
        assert found.errno == errno.EADDRINUSE
        (beside,) = beside_others([tested])
        assert beside == tested.replace(f"/{port}/", "/0/")
    assert obstacle(tested) is None
    assert beside_others([tested]) == (tested,)


def test_events_are_json():
    assert event_object(Refused(PEER, None, Status.NO_RESERVATION, "why")) == {
        "event": "refused",
        "peer_id": str(PEER),
        "target": None,
        "status": "NO_RESERVATION",
        "reason": "why",
        "limit": "",
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


async def test_a_reader_that_stalls_stops_nothing(tmp_path):
    """Neither that of the events nor that of the log lines, which are full after 20 of each."""
    code = "from lattica.cli import main; main()"
    command = [sys.executable, "-c", code, "--data-dir", str(tmp_path), "relay"]
    command += ["--allow", str(PEER), "--listen", "/ip4/127.0.0.1/tcp/0", "--json"]
    requests = QUEUE_SIZE + 200
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
        )
        process: trio.Process = await nursery.start(start)
        try:
            for stream in (process.stdout, process.stderr):
                assert isinstance(stream, trio.lowlevel.FdStream)
                fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, 4096)
            assert process.stdout is not None
            assert process.stderr is not None
            lines = Lines(process.stdout)
            addr, peer_id = split_peer(Multiaddr((await lines.event())["addrs"][0]))
            async with running(listen=()) as swarm:
                connection = await swarm.dial(peer_id, [addr])
                for _ in range(requests):
                    with trio.fail_after(60):
                        asked, answer = await ask_relay(connection, Reserve())
                    asked.reset("asked")
                    assert answer.status is Status.PERMISSION_DENIED
            count, lost, logged = 0, 0, Lines(process.stderr)
            while not lost or count + lost < requests:
                event = await lines.event()
                count += event["event"] == "refused"
                lost += event["count"] if event["event"] == "events_lost" else 0
            nursery.start_soon(logged.drain)
            process.terminate()
            assert await process.wait() == 0
        finally:
            process.kill()


async def test_a_reader_that_has_gone_ends_it_quietly(tmp_path):
    code = "from lattica.cli import main; main()"
    command = [sys.executable, "-c", code, "--data-dir", str(tmp_path), "relay"]
    command += ["--allow", str(PEER), "--listen", "/ip4/127.0.0.1/tcp/0", "--json"]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        addr, peer_id = split_peer(Multiaddr((await Lines(process.stdout).event())["addrs"][0]))
        await process.stdout.aclose()
        async with running(listen=()) as swarm:
            with suppress(LatticaError):
                connection = await swarm.dial(peer_id, [addr])
                await ask_relay(connection, Reserve())
            assert await process.wait() == 1
        logged = b""
        while data := await process.stderr.receive_some():
            logged += data
        assert b"Traceback" not in logged
        assert b"BrokenPipe" not in logged
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

    async def drain(self) -> None:
        """Read all that comes."""
        while await self.line():
            pass

    async def event(self) -> dict:
        return json.loads(await self.line())
