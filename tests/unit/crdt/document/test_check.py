"""What a check of a document's file finds, and what opening it does about that."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lattica.cli import app
from lattica.crdt.document import Document
from lattica.crdt.document.check import MAX_PROBLEMS, check_document, problems_of
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.log.errors import StoreCorruptError, StoreError, StoreInUseError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, Writer
from tests.support.crdt.documents import Clock

OWNER = Identity(bytes(32))


def opened(path: Path) -> Document:
    return Document(path, DOC, OWNER, wall=Clock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "document"
    liar, honest = Writer(b"liar"), Writer(b"honest")
    with opened(path) as document:
        for number in range(6):
            document.registers["a"] = number
        document.text("t").append("text")
        document.prune(0)
        for chain in (liar.chain(5), liar.chain(4, "other"), honest.chain(7)):
            document.receive(encode_chain(chain, with_prev=True), "peer")
    return path


def test_a_file_that_is_right_is_right(path: Path):
    report = check_document(path)
    assert list(problems_of(report)) == []
    assert (report.authors, report.pruned, report.forks, report.withdrawn) == (3, 5, 1, 4)
    assert (report.entries, report.unsigned) == (3 + 1 + 7, 0)
    with opened(path) as document:
        assert report.root == document.root
        with pytest.raises(StoreInUseError):
            check_document(path)
    result = CliRunner().invoke(app, ["crdt", "check", str(path), "--json"])
    assert (result.exit_code, '"problems": []' in result.stdout) == (0, True)
    result = CliRunner().invoke(app, ["crdt", "check", str(path)])
    assert "11 entries of 3 authors verified, 5 pruned, 4 withdrawn, 1 forks" in result.stdout


def spoil(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        assert db.execute(statement).rowcount
    db.close()


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE entry SET signature = zeroblob(64) WHERE seq = 6", "nobody has signed"),
        ("UPDATE entry SET signature = x'00' WHERE seq = 3", "a signature of 1 bytes"),
        ("UPDATE pruned SET ids = zeroblob(length(ids))", "does not follow"),
        ("UPDATE pruned SET remnants = zeroblob(length(remnants))", "only there"),
        ("UPDATE author SET identity = zeroblob(32)", "another identity"),
    ],
)
def test_what_is_wrong_in_it_is_named(path: Path, statement: str, what: str):
    spoil(path, statement)
    report = check_document(path)
    assert report.problem_count
    assert all(what in problem for problem in problems_of(report))
    result = CliRunner().invoke(app, ["crdt", "check", str(path)])
    assert (result.exit_code, what in result.stderr) == (1, True)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET payload = x'00' WHERE seq = 2",
        "UPDATE entry SET header = x'00' WHERE seq = 2",
        "UPDATE author SET fork = x'00' WHERE fork IS NOT NULL",
        "UPDATE document SET genesis = x'00'",
        "DELETE FROM entry WHERE seq = 2",
        "DELETE FROM pruned",
        "UPDATE pruned SET seq = seq + 1",
    ],
)
def test_a_file_that_is_damaged_is_noticed_moved_aside_and_comes_back_from_peers(
    path: Path, tmp_path: Path, statement: str
):
    with opened(path) as document:
        expected, snapshot = document.root, document.snapshot()
    spoil(path, statement)
    with pytest.raises(StoreCorruptError, match="is damaged"):
        check_document(path)
    with opened(path) as document:
        document.receive_snapshot(snapshot, [OWNER.public_key.data])
        assert document.root == expected
        document.registers["a"] = "it goes on"
    assert (tmp_path / "document.damaged-1").exists()
    assert not check_document(path).problem_count


def test_many_problems_are_counted(tmp_path: Path):
    path = tmp_path / "document"
    with opened(path) as document:
        chain = Writer(b"a").chain(MAX_PROBLEMS + 20)
        document.receive(encode_chain(chain, with_prev=True), "peer")
    spoil(path, "UPDATE entry SET signature = x'00'")
    lines = list(problems_of(check_document(path)))
    assert len(lines) == MAX_PROBLEMS + 1
    assert lines[-1] == "and 21 more"


def test_what_is_no_document_is_said(tmp_path: Path):
    (tmp_path / "text").write_text("no database")
    for name in ("none", "text"):
        with pytest.raises(StoreError):
            check_document(tmp_path / name)
