"""`lattica crdt prove` and `verify`, from a document's file to what a stranger reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lattica.cli import app
from lattica.crdt.document import Document
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC

ID = DOC.doc_id.hex()


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document"
    with Document(path, DOC, Identity.load_or_create(tmp_path / "key")) as opened:
        opened.registers["model/latest"] = {"cid": b"\1"}
        opened.set("workers").add("a")
    return path


def run(tmp_path: Path, *arguments: str, given: bytes | None = None) -> tuple[int, str, str]:
    command = ["--identity", str(tmp_path / "key"), "crdt", *arguments]
    result = CliRunner().invoke(app, command, input=given)
    return result.exit_code, result.stdout, result.stderr


def test_a_proof_goes_from_one_to_the_other(tmp_path: Path, document: Path):
    peer = str(Identity.load(tmp_path / "key").peer_id)
    code, proof, _ = run(tmp_path, "prove", str(document), "register", "model/latest")
    assert code == 0
    verify = ("verify", "-", "--document", ID, "--signer", peer, "--json")
    code, shown, _ = run(tmp_path, *verify, given=proof.encode())
    assert code == 0
    found = json.loads(shown)
    assert found["value"] == {"cid": {"hex": "01"}}
    assert (found["signer"], found["authors"][0]["peer"]) == (peer, peer)
    assert not found["contested"]
    code, text, _ = run(tmp_path, *verify[:-1], given=proof.encode())
    assert (code, text.splitlines()[0]) == (0, 'register "model/latest": {"cid": {"hex": "01"}}')

    out = tmp_path / "proof"
    arguments = ("prove", str(document), "set", "workers", "--item", '"b"', "-o", str(out))
    assert run(tmp_path, *arguments, "--unsigned")[0] == 0
    code, text, _ = run(tmp_path, "verify", str(out), "--document", ID, "--root", found["root"])
    assert (code, text.splitlines()[0]) == (0, 'set "workers" "b": false')
    code, _, error = run(tmp_path, "verify", str(out), "--document", ID)
    assert (code, "nobody says" in error) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("prove", "{file}", "set", "workers", "--item", "b"), 2, "no JSON"),
        (("prove", "{file}", "set", "workers", "--prefix"), 2, "no proof of a SET"),
        (("prove", "{file}", "text", "a", "--item", "1", "--prefix"), 2, "only one of"),
        (("prove", "{file}-none", "set", "workers"), 1, "is no file"),
        (("prove", "{key}", "set", "workers"), 1, "is not the file of a document"),
        (("verify", "{file}-none", "--document", ID), 1, "cannot read"),
        (("verify", "{key}", "--document", ID), 1, "msgpack"),
        (("verify", "{key}", "--document", "0"), 2, "64 hexadecimal digits"),
        (("verify", "{key}", "--document", ID, "--root", "x"), 2, "64 hexadecimal digits"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, document: Path, arguments, code, message):
    named = [each.format(file=document, key=tmp_path / "key") for each in arguments]
    found, output, error = run(tmp_path, *named)
    assert (found, output) == (code, "")
    assert message in error
