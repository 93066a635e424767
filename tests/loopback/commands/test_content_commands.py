"""`lattica publish` and `lattica fetch` as processes, over real sockets on loopback."""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lattica.content import Ticket
from lattica.content.manifest.cid import Cid
from tests.loopback.commands.commands import (
    LATTICA,
    LISTEN,
    environment,
    failed_fetch,
    fetch,
    memory,
    published,
    start_fetch,
)

MIB = 1024 * 1024


def make_file(path: Path, megabytes: int) -> Path:
    """A file of chunks that all differ, made quickly."""
    block = bytearray(np.random.default_rng(1).bytes(MIB))
    with open(path, "wb") as file:
        for number in range(megabytes):
            block[:8] = number.to_bytes(8, "little")
            file.write(block)
    return path


def same(first: Path, second: Path) -> bool:
    return filecmp.cmp(first, second, shallow=False)


def journaled(out: Path) -> int:
    """Chunks that an unfinished fetch has noted as written."""
    return sum(p.stat().st_size // 4 for p in out.glob(".lattica-*/journal"))


def wait_for_chunks(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a running fetch has written this many chunks."""
    deadline = time.monotonic() + 60
    while journaled(out) < count:
        assert process.poll() is None, "the fetch has ended too soon"
        assert time.monotonic() < deadline, "the fetch does not get on"
        time.sleep(0.005)


@pytest.mark.slow
def test_file_of_one_gibibyte_in_flat_memory(tmp_path):
    source = make_file(tmp_path / "big.bin", 1024)
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
        _, stderr = process.communicate(timeout=60)
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


def test_unfinished_file_that_is_removed_in_mid_fetch(tmp_path):
    """The exit status is that of the bytes."""
    source = make_file(tmp_path / "f", 128)
    out, again = tmp_path / "out", tmp_path / "again"
    with published(source, tmp_path / "publisher") as provider:
        process = start_fetch(provider.ticket, out)
        wait_for_chunks(out, 30, process)
        for path in out.glob(".lattica-*/0"):
            path.unlink()
        _, stderr = process.communicate(timeout=250)
        assert process.returncode == 0, stderr
        assert same(source, out / "f")
        # By a program that does so all the time.
        process = start_fetch(provider.ticket, again)
        while process.poll() is None:
            for path in again.glob(".lattica-*/0"):
                path.unlink(missing_ok=True)
            time.sleep(0.01)
        _, stderr = process.communicate(timeout=20)
        if process.returncode == 0:
            assert same(source, again / "f")
        else:
            assert process.returncode == 1
            assert "stop that program" in stderr
            assert not (again / "f").exists()


def test_killed_fetch_goes_on_without_fetching_again(tmp_path):
    source = make_file(tmp_path / "f", 384)
    out = tmp_path / "out"
    with published(source, tmp_path / "publisher") as provider:
        killed = 0
        for threshold in (40, 120):
            process = start_fetch(provider.ticket, out)
            wait_for_chunks(out, threshold, process)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=20)
            assert process.returncode == -signal.SIGKILL
            killed = journaled(out)
            assert not (out / "f").exists()
        result = fetch(provider.ticket, out)
        assert result["bytes_fetched"] == (384 - killed) * MIB
    assert same(source, out / "f")
    assert os.listdir(out) == ["f"]


def test_interrupted_fetch_says_that_it_can_go_on(tmp_path):
    source = make_file(tmp_path / "f", 384)
    out = tmp_path / "out"
    with published(source, tmp_path / "publisher") as provider:
        process = start_fetch(provider.ticket, out)
        wait_for_chunks(out, 20, process)
        process.terminate()
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on" in stderr


def test_provider_that_is_killed_and_started_again(tmp_path):
    source = make_file(tmp_path / "f", 384)
    out, data = tmp_path / "out", tmp_path / "publisher"
    with published(source, data) as provider:
        address = provider.info["addrs"][0]
        process = start_fetch(provider.ticket, out)
        wait_for_chunks(out, 40, process)
        provider.process.kill()
        provider.process.wait(20)
    assert process.poll() is None
    with published(source, data, listen=address) as again:
        assert again.ticket == provider.ticket
        _, stderr = process.communicate(timeout=90)
        assert process.returncode == 0, stderr
    assert "trying again" in stderr
    assert same(source, out / "f")


def test_tickets_that_lead_nowhere(tmp_path):
    source = make_file(tmp_path / "f", 1)
    out = tmp_path / "out"
    with published(source, tmp_path / "publisher") as provider:
        ticket = Ticket.parse(provider.ticket)
        wrong = Ticket(Cid.of(b"something else"), ticket.peer_id, ticket.addrs)
        assert "does not serve bafkrei" in failed_fetch(str(wrong), out)
        assert "truncated" in failed_fetch(provider.ticket[:-3], out)
        assert "begins with 'lattica'" in failed_fetch("https://example.org", out)
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


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_that_nobody_reads(tmp_path, unbuffered):
    source = make_file(tmp_path / "f", 1)
    with published(source, tmp_path / "publisher") as provider:
        for command in (
            ["publish", str(source), "--ephemeral", "--listen", LISTEN],
            ["fetch", provider.ticket, "-o", str(tmp_path / "out")],
            ["fetch", "--help"],
        ):
            read, write = os.pipe()
            os.close(read)
            env = {**environment(tmp_path / "data"), "PYTHONUNBUFFERED": unbuffered}
            with os.fdopen(write, "wb") as closed:
                done = subprocess.run(
                    [*LATTICA, *command],
                    stdout=closed,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=env,
                    timeout=100,
                    check=False,
                )
            assert done.returncode == 1, done.stderr
            assert "Traceback" not in done.stderr
            assert "Exception" not in done.stderr
    assert same(source, tmp_path / "out" / "f")


def redirected(redirection: str, *command: str, data_dir: Path) -> tuple[int, str, str]:
    """Exit status, standard output and error of `lattica COMMAND REDIRECTION`."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *LATTICA, *command],
        capture_output=True,
        text=True,
        env=environment(data_dir),
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


FULL = "lattica: error: cannot write to standard output: the disk is full\n"


@pytest.mark.parametrize(
    "command",
    [["id"], ["--help"], ["fetch", "-h"], ["--version"], ["config", "show"]],
    ids=" ".join,
)
def test_standard_output_that_is_full(tmp_path, command):
    code, _, stderr = redirected(">/dev/full", *command, data_dir=tmp_path / "data")
    assert code == 1, stderr
    assert stderr.endswith(FULL)
    assert "Traceback" not in stderr
    assert "Exception" not in stderr


def test_what_was_fetched_stays_where_standard_output_is_full_or_closed(tmp_path):
    source = make_file(tmp_path / "f", 1)
    data = tmp_path / "data"
    publish = ["publish", str(source), "--ephemeral", "--listen", LISTEN]
    code, _, stderr = redirected(">/dev/full", *publish, data_dir=data)
    assert code == 1
    assert stderr.endswith(FULL)
    assert "Traceback" not in stderr
    with published(source, tmp_path / "publisher") as provider:
        for number, (redirection, extra, expected) in enumerate(
            [
                (">/dev/full", [], 1),
                (">/dev/full", ["--json"], 1),
                (">&-", [], 0),
                (">&-", ["--json"], 0),
                ("2>&-", ["--json"], 0),
                ("2>/dev/full", ["--json"], 0),
                ("<&- >&- 2>&-", [], 0),
            ]
        ):
            out = tmp_path / f"out{number}"
            fetch_it = ["fetch", provider.ticket, "-o", str(out), *extra]
            code, stdout, stderr = redirected(redirection, *fetch_it, data_dir=data)
            assert code == expected, stderr
            assert same(source, out / "f")
            assert {path.name for path in out.iterdir()} == {"f"}
            assert "Traceback" not in stderr
            if expected:
                assert stderr.endswith(FULL)
            if redirection.startswith("2"):
                assert json.loads(stdout)["files"] == 1


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_descriptors_that_are_closed(tmp_path, redirection):
    (tmp_path / "data").mkdir()
    code, stdout, stderr = redirected(redirection, "id", data_dir=tmp_path / "data")
    assert code == 0, stderr
    assert ("12D3KooW" in stdout) == (">&-" not in redirection.split())
    assert "Traceback" not in stderr
    # What is wrong costs the same status, whether there is a place to say it or not.
    missing = ["publish", str(tmp_path / "missing"), "--ephemeral"]
    assert redirected(redirection, *missing, data_dir=tmp_path / "data")[0] == 1


def test_locale_that_lacks_characters(tmp_path):
    environ = {**environment(tmp_path / "data"), "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(
        [*LATTICA, "fetch", "--help"], capture_output=True, env=environ, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"blocks\\[0\\].*" in done.stdout
    source = make_file(tmp_path / "naïve", 1)
    with published(source, tmp_path / "publisher") as provider:
        done = subprocess.run(
            [*LATTICA, "fetch", provider.ticket, "-o", str(tmp_path / "out")],
            capture_output=True,
            env=environ,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert b"ve: 1.0 MiB, verified" in done.stdout
    assert b"na\\xefve: 1 file" in done.stderr
    assert same(source, tmp_path / "out" / "naïve")


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
    source = make_file(tmp_path / "f", 256)
    with published(source, tmp_path / "publisher") as provider, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        if configured == "taken":  # by a peer with the same configuration
            other.listen()
        else:
            other.close()
        settings = tmp_path / "node.toml"
        addr = f'"/ip4/127.0.0.1/tcp/{port}"' if configured != "none" else ""
        settings.write_text(
            f'listen = [{addr}]\nidentity_path = "k"\n[swarm.windows]\nmaximum = 262144\n'
        )
        process = subprocess.Popen(
            [*LATTICA, "--config", str(settings), "fetch", provider.ticket, "-o", str(tmp_path)],
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
            time.sleep(0.01)
        _, stderr = process.communicate(timeout=60)
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
            timeout=60,
            env=environment(tmp_path / "fetcher"),
        )
    assert said.returncode == 0, said.stderr
    assert "deleted 4 files (config.json, model-0.safetensors, model-1.safetensors" in said.stdout
    assert "1 file (mine.safetensors) is not part of this" in said.stderr
    left = {str(path.relative_to(out)) for path in out.rglob("*")}
    assert left == {"model.safetensors", "mine.safetensors"}
    assert sorted(load_file(out / "model.safetensors")) == sorted(arrays)
