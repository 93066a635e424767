"""`lattica crdt …`: a document is made, shared, written to, watched and taken back."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from lattica.crdt.entries.fork import find_fork
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.log.disk.database import DocumentDatabase
from lattica.crdt.log.disk.schema import read_genesis
from lattica.nat.base.keys.identity import Identity
from tests.loopback.commands.commands import (
    LATTICA,
    LISTEN,
    TIMEOUT,
    WAIT,
    address_of,
    environment,
    lattica,
    running,
)


def crdt(data_dir: Path, *argv: str, code: int = 0) -> Any:
    """What the command has printed, read as JSON; the last line if there are several."""
    done = lattica(data_dir, "crdt", *argv)
    assert done.exit_code == code, done.output
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else done.stderr


def test_a_document_is_made_and_read_without_a_network(tmp_path: Path) -> None:
    made = crdt(tmp_path, "create", "models", "--json")
    assert made["mode"] == "capability"
    assert crdt(tmp_path, "set", "models", "model/latest", '{"v": 7}', "--json") == {
        "name": "model/latest",
        "peers": [],
    }
    assert crdt(tmp_path, "get", made["document"]) == {"model/latest": {"v": 7}}
    written = crdt(tmp_path, "log", "models", "--json")
    assert (written["name"], written["erased"]) == ("model/latest", False)
    assert "write over it first" in crdt(tmp_path, "erase", "models", written["entry"], code=1)
    crdt(tmp_path, "set", "models", "model/latest", '{"v": 8}', "--json")
    erased = crdt(tmp_path, "erase", "models", written["entry"][:12], "--json")
    assert erased == {"erased": 1, "peers": []}
    assert crdt(tmp_path, "log", "models", "--json")["kind"] == "erase"
    nothing = "nothing is both so old and not needed any more"
    young = crdt(tmp_path, "prune", "models", "--json")
    assert young == {"pruned": 0, "why": nothing, "peers": []}
    done = lattica(tmp_path, "crdt", "prune", "models")
    assert done.stdout == f"0 pruned: {nothing}\n"
    assert lattica(tmp_path, "crdt", "prune", "models", "--grace", "-1").exit_code == 2
    (file,) = (each for each in (tmp_path / "store").glob("*/*") if each.suffix == ".sqlite3")
    assert crdt(tmp_path, "check", str(file), "--json")["erased"] == 1
    assert "no value" in crdt(tmp_path, "get", "models", "note", code=1)
    assert "no document 'modles' is here" in crdt(
        tmp_path, "get", "modles", "note", "--wait", "0", code=1
    )
    assert crdt(tmp_path, "list", "--json")["name"] == "models"
    pruned = crdt(tmp_path, "prune", "models", "--grace", "0", "--json")
    assert pruned == {"pruned": 1, "why": None, "peers": []}
    assert crdt(tmp_path, "get", "models") == {"model/latest": {"v": 8}}


def test_a_document_is_shared_watched_and_taken_back(tmp_path: Path) -> None:
    owner, other = tmp_path / "owner", tmp_path / "other"
    document = crdt(owner, "create", "models", "--json")["document"]
    with running(other, "crdt", "watch", "scratch", "--listen", LISTEN) as first:
        peer = first.said("ready")["peer_id"]
    capability = tmp_path / "capability"
    granted = crdt(owner, "grant", "models", peer, "-o", str(capability), "--json")
    assert granted["level"] == "write"
    assert crdt(owner, "rights", "models", "--json")["peer"] == peer
    with running(owner, "crdt", "watch", "models", "model/", "--listen", LISTEN) as watch:
        address = watch.said("ready")["addrs"][0]
        at = ("--connect", address, "--wait", WAIT)
        said = crdt(other, "set", document, "model/latest", "7", *at, "--json")
        assert len(said["peers"]) == 1
        changed = watch.said("changed")
        assert (changed["name"], changed["value"]) == ("model/latest", 7)
        assert crdt(other, "set", document, "model/latest", "8", *at, "--json")["peers"]
        watch.said("changed")
        pruned = crdt(other, "prune", document, "--grace", "0", *at, "--json")
        assert (pruned["pruned"], len(pruned["peers"])) == (0, 1)
        assert "an owner prunes first" in pruned["why"]
    with running(other, "crdt", "open", document, "--listen", LISTEN) as serving:
        at = ("--connect", serving.said("ready")["addrs"][0], "--wait", WAIT)
        pruned = crdt(owner, "prune", "models", "--grace", "0", *at, "--json")
        assert (pruned["pruned"], len(pruned["peers"])) == (1, 1)
    assert crdt(other, "log", document, "--json")["kind"] == "final"
    assert crdt(other, "prune", document, "--grace", "0", "--json")["pruned"] == 1
    revoked = crdt(owner, "revoke", "models", peer, "--json")
    assert revoked == {"peer": peer, "revoked": 1}
    assert crdt(owner, "get", "models", "model/latest") == 8


def test_a_watcher_whose_output_nobody_reads_keeps_its_node(tmp_path: Path) -> None:
    """Its node stopped with it once the pipe was full; a signal ends it all the same."""
    watching, other = tmp_path / "watching", tmp_path / "other"
    command = [*LATTICA, "crdt", "watch", "scratch", "--listen", LISTEN]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(watching)
    ) as watch:
        try:
            address = address_of(watch)
            for number in range(4):
                value = json.dumps(f"{number}" * 40_000)
                at = ("--connect", address, "--wait", WAIT)
                said = crdt(other, "set", "scratch", "big", value, *at, "--json")
                assert len(said["peers"]) == 1
        finally:
            watch.terminate()
            assert watch.wait(TIMEOUT) == 0


def test_a_sealed_document_is_kept_by_one_who_cannot_read_it(tmp_path: Path) -> None:
    owner, keeper = tmp_path / "owner", tmp_path / "keeper"
    made = crdt(owner, "create", "private", "--sealed", "--json")
    assert made["sealed"] is True
    document = made["document"]
    with running(keeper, "crdt", "watch", "scratch", "--listen", LISTEN) as first:
        peer = first.said("ready")["peer_id"]
    assert crdt(owner, "grant", "private", peer, "--level", "pull", "--json")["level"] == "pull"
    crdt(owner, "set", "private", "note", "nobody else", "--json")
    with running(owner, "crdt", "open", "private", "--listen", LISTEN) as serving:
        at = ("--connect", serving.said("ready")["addrs"][0], "--wait", WAIT)
        assert "no right to read" in crdt(keeper, "get", document, "note", *at, code=1)
    old = crdt(owner, "keys", "private", "--json")
    assert (old["here"], old["current"], old["problem"]) == (True, True, None)
    new = crdt(owner, "rotate-key", "private", "--no-history", "--json")["key"]
    assert crdt(owner, "keys", "private", "--json")["key"] == new != old["key"]
    (file,) = keeper.rglob(f"{document}.sqlite3")
    checked = crdt(keeper, "check", str(file), "--json")
    assert (checked["problems"], checked["unread"], checked["root"]) == ([], 1, None)
    assert b"nobody else" not in file.read_bytes()


def test_another_owner_is_appointed_and_accepts(tmp_path: Path) -> None:
    owner, new, key = tmp_path / "owner", tmp_path / "new", tmp_path / "key"
    recovery, other = Identity.load_or_create(key), Identity.load_or_create(tmp_path / "other")
    made = crdt(
        owner,
        *("create", "models", "--recovery", str(recovery.peer_id)),
        *("--recovery", str(other.peer_id), "--needed", "2", "--json"),
    )
    document = made["document"]
    crdt(owner, "set", "models", "a", "1", "--json")
    assert crdt(owner, "owners", "models", "--json")["frozen"] is False
    half, whole = str(tmp_path / "half"), str(tmp_path / "whole")
    with running(new, "crdt", "watch", "scratch", "--listen", LISTEN) as first:
        peer = first.said("ready")["peer_id"]
    appoint = ("appoint", "models", peer, "--key", str(key), "-o", half, "--json")
    assert "nobody is appointed" in crdt(owner, *appoint, code=1)
    (file,) = owner.rglob(f"{document}.sqlite3")
    contradict(file)
    assert crdt(owner, "owners", "models", "--json")["frozen"] is True
    assert "appoint" in crdt(owner, "grant", "models", peer, code=1)
    assert crdt(owner, *appoint)["enough"] is False
    sign = ("sign-appointment", "models", half, "--key", str(tmp_path / "other"), "-o", whole)
    assert crdt(owner, *sign, "--json")["enough"] is True
    with running(owner, "crdt", "open", "models", "--listen", LISTEN) as serving:
        at = ("--connect", serving.said("ready")["addrs"][0], "--wait", WAIT)
        accepted = crdt(new, "accept", document, whole, *at, "--json")
        assert (accepted["peer"], accepted["frozen"]) == (peer, False)
    assert crdt(new, "owners", document, "--json")["instead_of"] is not None


def contradict(path: Path) -> None:
    """Have the file's session write another second entry, as a restored machine does."""
    genesis = read_genesis(path)
    with closing(DocumentDatabase(path, genesis)) as database:
        database.load()
        session = database.session()
        assert session is not None
        entry = database.entry(session.author, 1)
        header = entry.header
        other = sign_entry(session, genesis.doc_id, 1, header.prev_id, header.hlc, 1, b"\xc0")
        proof = find_fork(entry, other)
        assert proof is not None
        database.keep([], {}, [proof])
