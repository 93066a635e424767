"""`lattica publish` and `lattica fetch` as processes, over real sockets on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from lattica.cli import app
from lattica.content import Ticket
from lattica.content.manifest.cid import Cid
from lattica.nat.base.keys.identity import Identity
from tests.loopback.commands.commands import (
    LATTICA,
    LISTEN,
    MIB,
    TIMEOUT,
    environment,
    failed_fetch,
    fetch,
    make_file,
    memory,
    published,
    same,
    start_fetch,
)
from tests.support.nets.nets import unused_port


@pytest.mark.slow
def test_file_of_half_a_gibibyte_in_flat_memory(tmp_path):
    source = make_file(tmp_path / "big.bin", 512)
    with published(source, tmp_path / "publisher") as provider:
        idle = provider.memory("VmRSS")
        process = start_fetch(provider.ticket, tmp_path / "out")
        peak = 0
        while process.poll() is None:
            try:
                peak = max(peak, memory(process.pid, "VmHWM"))
            except (AssertionError, OSError):
                break  # it has just ended
            time.sleep(0.02)
        _, stderr = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, stderr
        assert same(source, tmp_path / "out" / "big.bin")
        assert provider.memory("VmHWM") - idle < 200 * MIB
        # A publisher that has served nothing is what an idle node is.
        assert peak - idle < 200 * MIB
        assert os.listdir(tmp_path / "out") == ["big.bin"]


def checkpoint(directory: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    directory.mkdir()
    arrays = {
        f"model.layers.{layer}.{part}": rng.standard_normal(shape, np.float32)
        for layer in range(4)
        for part, shape in (("mlp.weight", (1024, 1024)), ("norm.weight", (1024,)))
    }
    for shard in range(2):
        chosen = {n: a for n, a in arrays.items() if int(n.split(".")[2]) % 2 == shard}
        save_file(chosen, directory / f"model-{shard}.safetensors", {"format": "pt"})
    (directory / "config.json").write_text('{"hidden_size": 1024}\n')
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "merges.txt").write_bytes(b"")
    return arrays


def test_checkpoint_and_one_layer_of_it(tmp_path):
    arrays = checkpoint(tmp_path / "model")
    out, layer = tmp_path / "out", tmp_path / "layer"
    with published(tmp_path / "model", tmp_path / "publisher", "--name", "tiny") as provider:
        assert provider.info["name"] == "tiny"
        assert provider.info["files"] == 4
        result = fetch(provider.ticket, out)
        assert result["bytes"] == result["bytes_fetched"] == provider.info["bytes"]
        for path in (p for p in (tmp_path / "model").rglob("*") if p.is_file()):
            assert same(path, out / path.relative_to(tmp_path / "model"))
        assert fetch(provider.ticket, out)["bytes_fetched"] == 0
        fetch(provider.ticket, layer, "--tensors", "model.layers.2.*")
    (only,) = layer.iterdir()
    loaded = load_file(only)
    assert sorted(loaded) == ["model.layers.2.mlp.weight", "model.layers.2.norm.weight"]
    for name, array in loaded.items():
        assert np.array_equal(array, arrays[name])


def test_tickets_that_lead_nowhere(tmp_path):
    source = make_file(tmp_path / "f", 1)
    out = tmp_path / "out"
    with published(source, tmp_path / "publisher") as provider:
        ticket = Ticket.parse(provider.ticket)
        wrong = Ticket(Cid.of(b"something else"), ticket.peer_id, ticket.addrs)
        assert "does not serve bafkrei" in failed_fetch(str(wrong), out)
        assert "truncated" in failed_fetch(provider.ticket[:-3], out, status=2)
        assert "begins with 'lattica'" in failed_fetch("https://example.org", out, status=2)
    assert "cannot connect" in failed_fetch(provider.ticket, out)
    assert not out.exists()


def test_file_that_changes_after_it_was_published(tmp_path):
    source = make_file(tmp_path / "f", 2)
    with published(source, tmp_path / "publisher") as provider:
        make_file(source, 3)
        error = failed_fetch(provider.ticket, tmp_path / "out")
        assert "has changed a file since it made the ticket" in error
        assert "ask for a new ticket" in error
    assert not (tmp_path / "out" / "f").exists()


def listening(pid: int) -> set[str]:
    """Local addresses of a process's sockets that listen, or are UDP: hex, as in /proc/net."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target.removeprefix("socket:[").rstrip("]"))
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (fields[3] == "0A" or table.startswith("udp")):
                found.add(fields[1])
    return found


@pytest.mark.parametrize("configured", ["free", "taken", "none"])
def test_fetch_listens_where_it_is_configured_to(tmp_path, configured):
    source = make_file(tmp_path / "f", 32)
    with published(source, tmp_path / "publisher") as provider, socket.socket() as other:
        port = unused_port()
        other.bind(("127.0.0.1", port))
        if configured == "taken":  # by a peer with the same configuration
            other.listen()
        else:
            other.close()
        settings = tmp_path / "node.toml"
        addr = f'"/ip4/127.0.0.1/tcp/{port}"' if configured != "none" else ""
        settings.write_text(f'listen = [{addr}]\nidentity_path = "k"\n')
        # Slowly: what it listens on is looked at meanwhile.
        fetching = ("fetch", provider.ticket, "-o", str(tmp_path), "--max-rate", "8")
        process = subprocess.Popen(
            [*LATTICA, "--config", str(settings), *fetching],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(tmp_path / "fetcher"),
        )
        seen: set[str] = set()
        assert process.stderr is not None
        first = process.stderr.readline()
        while process.poll() is None:
            with contextlib.suppress(OSError):
                seen |= listening(process.pid)
            time.sleep(0.05)
        _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, first + stderr
    # What it says first is of use.
    assert first.startswith(("path: ", "f: 1 file")), first
    assert "listening" not in stderr
    assert not (tmp_path / "k").exists()  # the key of the peer that runs all the time
    hosts = {address.partition(":")[0] for address in seen}
    ports = {int(address.partition(":")[2], 16) for address in seen}
    if configured == "none":
        assert seen == set()
    else:
        assert hosts == {"0100007F"}
        assert (port in ports) == (configured == "free")


def test_a_checkpoint_in_other_shards(tmp_path):
    """What is there is not fetched again, stale files are named, and --delete removes them."""
    arrays = checkpoint(tmp_path / "old")
    old = {path.name for path in (tmp_path / "old").glob("*.safetensors")}
    new, out = tmp_path / "new", tmp_path / "out"
    new.mkdir()
    save_file(arrays, new / "model.safetensors")
    with published(tmp_path / "old", tmp_path / "publisher") as provider:
        fetch(provider.ticket, out)
    (out / "mine.safetensors").write_bytes(b"not of a fetch")
    with published(new, tmp_path / "publisher") as provider:
        result = fetch(provider.ticket, out)
        assert result["bytes_fetched"] < result["bytes"] // 100
        beside = {Path(path).name for path in result["other_files"]}
        assert beside == old | {"mine.safetensors", "config.json", "merges.txt"}
        said = subprocess.run(
            [*LATTICA, "fetch", provider.ticket, "-o", str(out), "--delete"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=environment(tmp_path / "fetcher"),
        )
    assert said.returncode == 0, said.stderr
    assert "deleted 4 files (config.json, model-0.safetensors, model-1.safetensors" in said.stdout
    assert "1 file (mine.safetensors) is not part of this" in said.stderr
    left = {str(path.relative_to(out)) for path in out.rglob("*")}
    assert left == {"model.safetensors", "mine.safetensors"}
    assert sorted(load_file(out / "model.safetensors")) == sorted(arrays)


def test_what_would_travel_from_one_version_to_the_next(tmp_path):
    checkpoint(tmp_path / "old")
    arrays = checkpoint(tmp_path / "new")
    arrays["model.layers.1.mlp.weight"] += 1
    shard = {name: array for name, array in arrays.items() if int(name.split(".")[2]) % 2 == 1}
    save_file(shard, tmp_path / "new" / "model-1.safetensors", {"format": "pt"})
    with published(tmp_path / "new", tmp_path / "publisher") as provider:
        done = subprocess.run(
            [*LATTICA, "diff", tmp_path / "old", provider.ticket],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
            env=environment(tmp_path / "differ"),
        )
        assert "1 file changed: model-1.safetensors" in done.stdout
        assert "1 tensor changed: model.layers.1.mlp.weight" in done.stdout
        assert "4.0 MiB of 16.0 MiB would travel" in done.stdout
        result = fetch(provider.ticket, tmp_path / "out", "--base", str(tmp_path / "old"))
    assert result["bytes_fetched"] == 4 * MIB
    assert same(tmp_path / "new" / "model-1.safetensors", tmp_path / "out" / "model-1.safetensors")


def test_a_name_is_followed_from_one_publisher_to_the_next(tmp_path):
    """The real commands: fetched by name, and kept up to date when it is published anew."""
    source, out, data = tmp_path / "model", tmp_path / "out", tmp_path / "publisher"
    source.mkdir()
    (source / "a").write_text("1")
    (source / "old").write_text("1")
    address = f"/ip4/127.0.0.1/tcp/{unused_port()}"
    with published(source, data, "--name", "model", listen=address) as first:
        name = f"{address}/p2p/{first.info['peer_id']}/model"
        assert first.info["published_name"] == f"{first.info['peer_id']}/model"
        assert fetch(name, tmp_path / "once")["files"] == 2
        watching = start_fetch(name, out, "--watch")
        try:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["cid"] == first.info["cid"]
        except BaseException:
            watching.kill()
            raise
    (source / "a").write_text("2")
    (source / "old").unlink()
    try:
        with published(source, data, "--name", "model", listen=address) as second:
            assert json.loads(watching.stdout.readline())["cid"] == second.info["cid"]
        assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "2"}
    finally:
        watching.terminate()
        watching.communicate(timeout=TIMEOUT)
    assert watching.returncode == 0


def test_only_names_can_be_watched(tmp_path):
    cid = "bafkrei" + "a" * 52
    assert "PEER/NAME" in failed_fetch(cid, tmp_path / "out", "--watch", status=2)
    peer = "12D3KooWGoxYj4jVqjEGzsrTTCTDLGFNEgxNDGRMsfBkLi5bSdxq"
    assert "a name is text" in failed_fetch(f"{peer}/", tmp_path / "out", status=2)


@pytest.mark.parametrize("ref", [f"{Identity.generate().peer_id}/model", str(Cid(bytes(32)))])
def test_a_fetch_that_knows_nobody_to_ask_says_how_to_name_somebody(
    ref: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lattica.cli.content.fetch._WAIT_FOR_PEERS", 0.0)
    monkeypatch.setenv("LATTICA_LISTEN", f'["{LISTEN}"]')
    result = CliRunner().invoke(app, ["fetch", ref, "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "--connect" in result.output
