"""`lattica store`: what is kept, served by a process, and let go."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.loopback.commands.commands import (
    LATTICA,
    LISTEN,
    TIMEOUT,
    environment,
    fetch,
    lattica,
)


def store(directory: Path, *arguments: str, status: int = 0) -> str:
    """What a command prints, or says is wrong."""
    done = lattica(directory, "store", *arguments)
    assert done.exit_code == status, done.output
    return done.stdout if status in (0, 3) else done.stderr


def listed(directory: Path) -> dict[str, dict[str, Any]]:
    found = json.loads(store(directory, "ls", "--json"))["publications"]
    return {one["cid"]: one for one in found}


def test_what_is_kept_is_served_and_let_go(tmp_path: Path):
    data = tmp_path / "data"
    source = tmp_path / "model"
    source.mkdir()
    (source / "a").write_bytes(b"a" * 300_000)
    cid = store(data, "add", str(source)).strip()
    (source / "a").write_bytes(b"b" * 300_000)
    other = json.loads(store(data, "add", str(source), "--keep-for", "3600", "--json"))
    assert other["expires"] > other["added"]
    store(data, "pin", cid)
    assert listed(data)[cid]["pinned"]
    assert cid in store(data, "ls")

    command = [*LATTICA, "store", "serve", cid, "--listen", LISTEN]
    with subprocess.Popen(
        command, env=environment(data), stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        ticket = serving.stdout.readline().strip()
        assert fetch(ticket, tmp_path / "out")["cid"] == cid
        store(data, "unpin", cid)
        # Somebody reads it.
        assert json.loads(store(data, "gc", "--json"))["in_use"] == 1
        serving.terminate()
        assert serving.wait(TIMEOUT) == 0
    assert (tmp_path / "out" / "a").read_bytes() == b"a" * 300_000
    assert store(data, "gc", "--dry-run").startswith(cid)
    assert json.loads(store(data, "gc", "--json"))["publications"] == [cid]
    assert set(listed(data)) == {other["cid"]}

    assert store(data, "verify") == ""
    [block] = [p for p in (data / "store" / "blocks").rglob("*") if p.stat().st_size == 300_000]
    block.write_bytes(b"c" * 300_000)
    assert other["cid"] in store(data, "verify", status=3)
    store(data, "verify", "--repair", status=3)
    assert listed(data) == {}


def test_what_is_refused(tmp_path: Path):
    data = tmp_path / "data"
    nothing = "bafkrei" + "a" * 52
    assert "not in the store" in store(data, "pin", nothing, status=1)
    assert "content id" in store(data, "pin", "x", status=2)
    assert "does not exist" in store(data, "add", str(tmp_path / "none"), status=1)
    (tmp_path / "file").write_bytes(bytes(3000))
    assert "quota" in store(data, "add", str(tmp_path / "file"), "--quota", "2k", status=1)
    assert "no size" in store(data, "gc", "--quota", "much", status=2)
    assert "empty" in store(data, "serve", status=1)
