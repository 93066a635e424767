"""Commands beside a `lattica node` that runs: it does their work."""

from __future__ import annotations

import json
import os
import shlex
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.loopback.commands.commands import LISTEN, lattica, running, serving
from tests.loopback.commands.test_port_commands import ask, port_of, shouting


def node(data_dir: Path) -> AbstractContextManager[dict[str, Any]]:
    """Run `lattica node --json` until the end of the block; give its first event."""
    return serving(data_dir, "node", "--listen", LISTEN, stop_by=signal.SIGTERM)


def test_publish_and_fetch_by_the_nodes_that_run(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(os.urandom(1_000_000))
    with node(tmp_path / "a") as source, node(tmp_path / "b"):
        assert source["socket"] == str(tmp_path / "a/node.sock")
        published = lattica(tmp_path / "a", "publish", "model.bin", "--json")
        assert published.exit_code == 0, published.stderr
        ticket = json.loads(published.stdout)
        assert ticket["peer_id"] == source["peer_id"]
        fetched = lattica(tmp_path / "b", "fetch", ticket["ticket"], "-o", "out", "--json")
        assert fetched.exit_code == 0, fetched.stderr
        result = json.loads(fetched.stdout)
        assert result["bytes_fetched"] == 1_000_000
        assert result["path"] == str(tmp_path / "out/model.bin")
        assert (tmp_path / "out/model.bin").read_bytes() == (tmp_path / "model.bin").read_bytes()
        alone = lattica(tmp_path / "b", "fetch", ticket["ticket"], "-o", "two", "--no-daemon")
        assert alone.exit_code == 0, alone.stderr
        own = lattica(tmp_path / "a", "fetch", ticket["ticket"], "-o", "three", "--json")
        assert own.exit_code == 0, own.stderr
        assert json.loads(own.stdout)["bytes_fetched"] == 1_000_000
        _check_status(tmp_path / "a", source)
        ended = lattica(tmp_path / "a", "unpublish", ticket["ticket"])
        assert ended.exit_code == 0, ended.stderr
        gone = lattica(tmp_path / "a", "publish", "missing")
        assert gone.exit_code == 1
        assert gone.stderr.count("lattica: error: ") == 1
        assert "missing does not exist" in gone.stderr
    left = lattica(tmp_path / "a", "status")
    assert left.exit_code == 1
    assert "no node listens" in left.stderr


def test_dht_topics_and_names_beside_the_node_that_runs(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(os.urandom(1000))
    with running(tmp_path / "b", "node", "--listen", LISTEN) as second:
        at = ("--connect", second.next_event()["addrs"][0])
        here = tmp_path / "a"
        with node(here) as first:
            stored = lattica(here, "dht", "put", "models/latest", "[7]", "--json", *at)
            assert stored.exit_code == 0, stored.stderr
            assert json.loads(stored.stdout)["owner"] == first["peer_id"]
            assert json.loads(lattica(here, "dht", "get", "models/latest").stdout) == [7]
            with serving(here, "dht", "provide", "gpu") as provided:
                assert provided["peer_id"] == first["peer_id"]
                found = lattica(here, "dht", "find", "gpu", "--json")
                assert json.loads(found.stdout)["peer_id"] == first["peer_id"], found.stderr
            assert lattica(here, "dht", "find", "gpu").exit_code == 1
            with serving(here, "topic", "sub", "news"):
                said = lattica(here, "topic", "pub", "news", "hello", "--json")
                assert said.exit_code == 0, said.stderr
            published = lattica(here, "publish", "model.bin", "--name", "model", "--json")
            assert published.exit_code == 0, published.stderr
            ended = lattica(here, "unpublish", json.loads(published.stdout)["ticket"])
            assert ended.exit_code == 0, ended.stderr
            name = f"{first['peer_id']}/model"
            record = f"/p2p/{first['peer_id']}/name/model"
            assert any(
                "withdrawn" in lattica(here, "dht", "get", record).stdout for _ in range(100)
            )
        gone = lattica(tmp_path / "c", "fetch", name, "-o", "out", "--no-daemon", *at)
        assert gone.exit_code == 1
        assert f"{name} leads nowhere: its owner has withdrawn it" in gone.stderr
        assert second.stop(signal.SIGTERM) == 0
        assert "without a good-bye" not in second.log


def test_documents_of_the_node_that_runs(tmp_path: Path) -> None:
    here = tmp_path / "a"
    with node(here) as running:
        made = json.loads(lattica(here, "crdt", "create", "models", "--json").stdout)
        [listed] = lattica(here, "crdt", "list", "--json").stdout.splitlines()
        assert json.loads(listed) == made
        with serving(here, "crdt", "watch", "models") as ready:
            assert ready["peer_id"] == running["peer_id"]
        written = lattica(here, "crdt", "set", "models", "latest", '{"step": 7}', "--json")
        assert written.exit_code == 0, written.stderr
        assert json.loads(lattica(here, "crdt", "get", made["document"]).stdout) == {
            "latest": {"step": 7}
        }
        assert lattica(here, "crdt", "get", "models", "nothing").exit_code == 1
        for asked in (("get", "modles", "--wait", "0"), ("log", "modles")):
            said = lattica(here, "crdt", *asked)
            assert said.exit_code == 1
            assert "no document 'modles' is here" in said.stderr
        assert len(lattica(here, "crdt", "list", "--json").stdout.splitlines()) == 1
        log = lattica(here, "crdt", "log", "models", "--json").stdout.splitlines()
        first = json.loads(log[-1])
        assert (first["name"], first["erased"]) == ("latest", False)
        assert "write over it" in lattica(here, "crdt", "erase", "models", first["entry"]).stderr
        lattica(here, "crdt", "set", "models", "latest", '{"step": 8}')
        erased = lattica(here, "crdt", "erase", "models", first["entry"], "--json")
        assert json.loads(erased.stdout) == {"erased": 1, "peers": []}
        assert (
            f"{first['entry'][:16]} register erased"
            in lattica(here, "crdt", "log", "models").stdout
        )
        young = json.loads(lattica(here, "crdt", "prune", "models", "--json").stdout)
        assert young["pruned"] == 0
        assert "so old" in young["why"]
        pruned = lattica(here, "crdt", "prune", "models", "--grace", "0", "--json")
        assert json.loads(pruned.stdout) == {"pruned": 1, "why": None, "peers": []}
        for refused in (("rights", "models"), ("grant", "models", running["peer_id"])):
            said = lattica(here, "crdt", *refused)
            assert said.exit_code == 1
            assert "end it first" in said.stderr
    kept = lattica(here, "crdt", "get", "models", "latest")  # by a node of the command's own
    assert json.loads(kept.stdout) == {"step": 8}


def _check_status(data_dir: Path, source: dict[str, Any]) -> None:
    """The node is connected to the one that has fetched from it."""
    status = json.loads(lattica(data_dir, "status", "--json").stdout)
    assert status["peer_id"] == source["peer_id"]
    assert [each["name"] for each in status["publications"]] == ["model.bin"]
    [shown] = [
        json.loads(line) for line in lattica(data_dir, "peers", "--json").stdout.splitlines()
    ]
    assert shown == {**status["peers"][0], **_moving(shown)}
    paths = lattica(data_dir, "paths", shown["peer_id"][-10:], "--json")
    assert json.loads(paths.stdout)["path"] == "direct-tcp"
    assert lattica(data_dir, "paths", "nobody").exit_code == 1
    looks = lattica(data_dir, "top", "--json", "--count", "2", "--interval", "0.1")
    assert [json.loads(line)["peer_id"] for line in looks.stdout.splitlines()] == [
        source["peer_id"]
    ] * 2
    seen = json.loads(lattica(data_dir, "doctor", "--json", "--wait", "0").stdout)
    [running] = [each for each in seen["findings"] if each["topic"] == "node that runs"]
    assert running["state"] == "ok"
    assert "with 1 peer" in running["text"]


def _moving(peer: dict[str, Any]) -> dict[str, Any]:
    """What may be another one a moment later."""
    return {key: peer[key] for key in ("rtt_seconds", "age_seconds", "connections")}


def test_ports_of_the_node_that_runs(tmp_path: Path) -> None:
    with node(tmp_path / "a") as first, node(tmp_path / "b") as second, shouting() as port:
        exposing = ("expose", f"web={port}", "--to", second["peer_id"])
        with serving(tmp_path / "a", *exposing) as exposed:
            assert exposed["peer_id"] == first["peer_id"]
            assert exposed["exposed"] == [{"port": "web", "target": f"127.0.0.1:{port}"}]
            assert exposed["key"] is None
            command = shlex.split(exposed["command"])
            with serving(tmp_path / "b", *command[1:]) as forwarded:
                assert forwarded["peer_id"] == second["peer_id"]
                [each] = forwarded["forwards"]
                assert ask(port_of(each["local"]), b"hello") == b"HELLO"
