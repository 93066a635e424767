"""What relays and nodes do where the system does not give them what they need: they end with one
line that says what, or go on with less and say so."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import trio

from lattica import Node
from tests.loopback.commands.commands import LATTICA, environment, running
from tests.loopback.lattica.content.test_content_faults import small_disk
from tests.loopback.lattica.daemon.relay_process import client, is_at, relay_process
from tests.loopback.lattica.daemon.test_metrics import get
from tests.support.nets.nets import unused_port

DAEMONS = {"relay": ("relay", "--open"), "node": ("node",)}
PORT = "/ip4/127.0.0.1/tcp/0"


async def last_words(data_dir: Path, daemon: str, listen: str = PORT) -> str:
    """The line that says why it ends at its start; after it may come one that says what to do."""
    command = [*LATTICA, *DAEMONS[daemon], "--data-dir", str(data_dir), "--listen", listen]
    with trio.fail_after(60):
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False,
            env=environment(data_dir),
        )  # fmt: skip
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert not any("Traceback" in line for line in lines)
    (error,) = (line for line in lines[-2:] if line.startswith("lattica: error: "))
    return error.removeprefix("lattica: error: ")


@pytest.mark.parametrize("daemon", DAEMONS)
async def test_what_a_daemon_cannot_begin_with(tmp_path: Path, daemon: str):
    folders = {name: tmp_path / name for name in ("directory", "damaged", "public", "port")}
    for folder in folders.values():
        folder.mkdir()
    (folders["directory"] / "identity.key").mkdir()
    for name in ("damaged", "public"):
        (folders[name] / "identity.key").write_bytes(b"no key")
        (folders[name] / "identity.key").chmod(0o600 if name == "damaged" else 0o644)
    found: dict[str, str] = {}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def run(name: str, folder: Path) -> None:
            listen = f"/ip4/127.0.0.1/tcp/{port}" if name == "port" else PORT
            found[name] = await last_words(folder, daemon, listen)

        async with trio.open_nursery() as nursery:
            for name, folder in folders.items():
                nursery.start_soon(run, name, folder)
    assert "cannot read the key file" in found["directory"]
    assert "is not a key file, or is damaged" in found["damaged"]
    assert "chmod 600" in found["public"]
    assert f"cannot listen on /ip4/127.0.0.1/tcp/{port}" in found["port"]
    assert "in use" in found["port"]


@pytest.mark.root
@pytest.mark.parametrize("daemon", DAEMONS)
async def test_a_disk_without_room_for_the_key(tmp_path: Path, daemon: str):
    with small_disk(tmp_path / "disk", 1) as disk:
        fill(disk)
        words = await last_words(disk / "data", daemon)
    assert "No space left on device" in words


def fill(disk: Path) -> None:
    """Take all the room there is, to the last byte."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.mark.root
async def test_a_relay_goes_on_while_its_disk_is_full_and_says_so(tmp_path: Path):
    port = unused_port()
    file = tmp_path / "relay.toml"
    file.write_text(f'metrics.listen = ["127.0.0.1:{port}"]\n')
    with small_disk(tmp_path / "disk", 2) as disk:
        arguments = ("--config", str(file), "--open")
        async with (
            relay_process(disk / "data", *arguments) as relay,
            Node(client(relay.addr)) as node,
        ):
            await node.wait_reachable(60)
            fill(disk)
            with trio.fail_after(60):
                while (await get(port, "/readyz"))[0] == 200:
                    await trio.sleep(0.1)
            (trouble,) = json.loads((await get(port, "/readyz"))[1])["troubles"]
            assert "relay.sqlite" in trouble
            assert "full" in trouble
            async with Node(client(relay.addr)) as other:  # served all the same
                await other.connect(f"{relay.addr}/p2p-circuit/p2p/{node.peer_id}", timeout=60)
            (disk / "filler").unlink()
            with trio.fail_after(60):
                while (await get(port, "/readyz"))[0] != 200:
                    await trio.sleep(0.1)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit, of util-linux")
@pytest.mark.parametrize("daemon", DAEMONS)
async def test_with_few_descriptors_fewer_peers_are_served_and_the_log_says_so(
    tmp_path: Path, daemon: str
):
    # Inherited by what is started here.
    command = ("prlimit", "--nofile=90:90", *LATTICA)
    with running(tmp_path, *DAEMONS[daemon], "--listen", PORT, by=command) as run:
        addr = (await trio.to_thread.run_sync(run.said, "ready"))["addrs"][0]
        port = int(addr.split("/")[4])
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(120)]
        try:
            async with Node(client(addr)) as node:
                peer = await node.connect(addr, timeout=60)
                if daemon == "relay":
                    await node.wait_reachable(60)
                    assert is_at(node, addr)
                assert node.is_connected(peer)
        finally:
            for each in crowd:
                each.close()
        assert await trio.to_thread.run_sync(run.stop) == 0
    assert "WARNING" in run.log
    assert "this process may have 90 files open" in run.log
    assert "Traceback" not in run.log
