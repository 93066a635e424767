"""What an operator does with a relay that runs, and what its clients see of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import trio

from lattica import Node
from lattica.errors import DialError
from lattica.nat.base.keys.identity import Identity
from tests.loopback.commands.commands import running
from tests.loopback.lattica.daemon.relay_process import client, is_at, relay_process
from tests.support.nets.nets import unused_port

ECHO = "/test/echo/1.0.0"


async def test_a_token_lets_its_peer_in_until_it_is_revoked(tmp_path):
    alice, bob = Identity.generate(), Identity.generate()
    async with relay_process(tmp_path, "--access", "token") as relay:
        token = (await relay.command("token", "new", str(alice.peer_id), "--note", "alice")).strip()
        async with (
            Node(client(relay.addr, token=token), identity=alice) as node,
            Node(client(relay.addr), identity=bob) as other,
        ):
            await node.wait_reachable(60)
            answer = ""
            while "PERMISSION_DENIED" not in answer:
                with pytest.raises(TimeoutError) as refused:
                    await other.wait_reachable(1)
                answer = str(refused.value)
            await relay.command("token", "new", str(bob.peer_id), "--expires", "1h")
            await other.wait_reachable(60)  # its key is enough
            await relay.command("token", "revoke", "--note", "alice")
            with trio.fail_after(60):
                while (await relay.command("accounts", "--json")).count("\n") < 2:
                    await trio.sleep(1)

            async def ask_until_refused() -> None:
                # The relay looks from time to time at what its operator's commands have written.
                while True:
                    through = f"{relay.addr}/p2p-circuit/p2p/{node.peer_id}"
                    await other.connect(through, timeout=60)
                    await other.disconnect(node.peer_id)
                    await trio.sleep(0.3)

            with pytest.raises(DialError, match=r"NO_RESERVATION|PERMISSION_DENIED"):
                with trio.fail_after(60):
                    await ask_until_refused()
            with trio.fail_after(60):
                while is_at(node, relay.addr):  # it does not go on saying so for an hour
                    await trio.sleep(0.05)


async def test_a_ban_disconnects_at_once_and_outlives_a_kill(tmp_path):
    identity = Identity.generate()
    async with (
        relay_process(tmp_path, "--access", "everyone") as relay,
        Node(client(relay.addr), identity=identity) as node,
    ):
        await node.wait_reachable(60)
        first = relay.addr
        await relay.command("ban", str(node.peer_id), "--for", "1h")
        with trio.fail_after(60):
            while node.peers():
                await trio.sleep(0.05)
    listen = first.partition("/p2p/")[0]
    async with relay_process(tmp_path, "--access", "everyone", listen=listen) as relay:
        assert relay.addr == first  # the key is the same
        async with Node(client(relay.addr), identity=identity) as node:
            with pytest.raises(TimeoutError):
                await node.wait_reachable(2)
            await relay.command("unban", str(node.peer_id))
            await node.wait_reachable(60)


async def test_tokens_and_accounts_outlive_a_kill(tmp_path):
    identity = Identity.generate()
    async with relay_process(tmp_path, "--access", "token") as relay:
        address, listen = relay.addr, relay.addr.partition("/p2p/")[0]
        given = await relay.command("token", "new", str(identity.peer_id), "--note", "alice")
        async with Node(client(address, token=given.strip()), identity=identity) as node:
            await node.wait_reachable(60)
            with trio.fail_after(60):  # accounts are written every few seconds
                while not await relay.command("accounts", "--json"):
                    await trio.sleep(1)
        relay.process.kill()
        await relay.process.wait()
    async with relay_process(tmp_path, "--access", "token", listen=listen) as relay:
        assert relay.addr == address
        assert "holds" in await relay.command("token", "list", "--note", "alice")
        account = json.loads(await relay.command("accounts", "--json"))
        assert account["peer"] == str(identity.peer_id)
        assert account["reservations"] == 1
        async with Node(client(address, token=given.strip()), identity=identity) as node:
            await node.wait_reachable(60)


async def test_clients_of_a_relay_that_stops_move_and_nothing_is_dropped(tmp_path):
    async with (
        relay_process(tmp_path / "first", "--open") as first,
        relay_process(tmp_path / "second", "--open") as second,
        Node(client(first.addr, second.addr)) as server,
    ):
        server.handle(ECHO, _echo)
        await server.wait_reachable(60)
        used, spare = (first, second) if is_at(server, first.addr) else (second, first)
        async with Node(client(used.addr)) as caller:
            await caller.connect(f"{used.addr}/p2p-circuit/p2p/{server.peer_id}", timeout=60)
            async with await caller.open_stream(server.peer_id, ECHO) as stream:
                await stream.send_message(b"before")
                assert await stream.receive_message(100) == b"before"
                used.signal(signal.SIGTERM)
                with trio.fail_after(60):
                    while not is_at(server, spare.addr) or is_at(server, used.addr):
                        await trio.sleep(0.05)
                await stream.send_message(b"after")
                assert await stream.receive_message(100) == b"after"
                assert used.process.returncode is None
            used.signal(signal.SIGTERM)  # a second one ends it at once
            with trio.fail_after(60):
                assert await used.process.wait() == 0


async def test_sighup_reads_the_file_again_and_keeps_all_where_it_is_wrong(tmp_path):
    file = tmp_path / "relay.toml"
    file.write_text('[nat.relay_server]\naccess = "token"\n')
    async with (
        relay_process(tmp_path, "--config", str(file)) as relay,
        Node(client(relay.addr)) as node,
    ):
        with pytest.raises(TimeoutError):
            await node.wait_reachable(1)
        file.write_text('[nat.relay_server]\naccess = "anybody"\n')
        relay.signal(signal.SIGHUP)
        with pytest.raises(TimeoutError):
            await node.wait_reachable(1)
        file.write_text('[nat.relay_server]\naccess = "everyone"\n')
        relay.signal(signal.SIGHUP)
        await node.wait_reachable(60)


async def test_sighup_names_what_wants_a_new_start(tmp_path: Path):
    file = tmp_path / "relay.toml"
    port, other = unused_port(), unused_port()

    def write(port: int, drain: float) -> None:
        listen = f"/ip4/127.0.0.1/tcp/{port}"
        file.write_text(f'listen = ["{listen}"]\nrelay.drain = {drain}\n')

    write(port, 1.0)
    with running(tmp_path, "--config", str(file), "relay", "--open") as relay:
        await trio.to_thread.run_sync(relay.said, "ready")
        assert relay.process.stderr is not None
        log = iter(relay.process.stderr.readline, "")
        for now, drain, ends in (
            (port, 2.0, "changed: relay.drain\n"),
            (other, 2.0, "these need a new start: swarm.listen\n"),
        ):
            write(now, drain)
            relay.process.send_signal(signal.SIGHUP)
            found = (line for line in log if "reloaded" in line or "new start" in line)
            with trio.fail_after(60):
                line = await trio.to_thread.run_sync(next, found)
                if now is other:
                    line = await trio.to_thread.run_sync(next, found)
            assert line.endswith(ends)


async def _echo(stream) -> None:
    while True:
        await stream.send_message(await stream.receive_message(100))
