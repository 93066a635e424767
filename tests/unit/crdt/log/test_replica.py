"""What is on disk: nothing half, nothing lost, and a file from a backup is no second writer."""

from __future__ import annotations

import resource
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from lattica.crdt.base.canonical import encode
from lattica.crdt.document import Document
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.log.disk.arrival import Arrival
from lattica.crdt.log.disk.database import DocumentDatabase
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.errors import StoreCorruptError, StoreError, StoreFullError, StoreInUseError
from lattica.crdt.log.prefix import FeedPrefix
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, START, Writer
from tests.support.crdt.logs import NOW

IDENTITY = Identity(bytes(32))
VALUE = (Kind.REGISTER, encode(["key", "value"]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "document.sqlite3"


def ids(replica: Replica) -> dict[bytes, list[bytes]]:
    return {author: feed.ids for author, feed in replica.log.feeds.items()}


def test_what_was_kept_is_there_again(path: Path):
    chain, forked = Writer(b"a").chain(5), Writer(b"b").chain(4)
    replica = Replica(path, DOC, IDENTITY)
    replica.receive(chain, "peer", NOW, 0.0)
    replica.receive(forked, "peer", NOW, 0.0)
    replica.receive(Writer(b"b").chain(4, "other"), "peer", NOW, 0.0)
    own = replica.write([VALUE, VALUE], NOW).admitted
    before, author = ids(replica), replica.author
    replica.close()
    assert path.stat().st_mode & 0o777 == 0o600
    again = Replica(path, DOC, IDENTITY)
    assert ids(again) == before
    assert again.author == author
    feed = again.log.feeds[forked[0].header.author]
    assert feed.fork is not None
    assert (len(feed.ids), feed.fork.seq) == (1, 1)
    assert [feed.size for feed in again.log.feeds.values()] == [
        sum(entry.size for entry in again.database.entries(author, 0, 10))
        for author in again.log.feeds
    ]
    assert list(again.database.entries(author, 0, 10)) == own
    (more,) = again.write([VALUE], NOW).admitted
    assert (more.header.seq, more.header.prev_id) == (3, own[-1].id)
    assert len(list(again.database.all_entries())) == 5 + 1 + 4
    again.close()


def test_a_signature_that_was_replaced_stays_so(path: Path):
    chain = Writer(b"a").chain(3)
    database = DocumentDatabase(path, DOC)
    author = chain[0].header.author
    database.keep([replace(chain[0], signature=bytes(64)), *chain[1:]], {author: b"identity"})
    database.keep([], {}, resigned=[chain[0]])
    assert list(database.entries(author, 0, 9)) == list(chain)
    database.close()
    with pytest.raises(StoreError):
        database.load()


def test_one_program_at_a_time(path: Path):
    replica = Replica(path, DOC, IDENTITY)
    with pytest.raises(StoreInUseError, match=r"by another node or program, .*: close that, or"):
        Replica(path, DOC, IDENTITY)
    replica.close()
    with pytest.raises(StoreError, match="another document"):
        Replica(path, Genesis("other"), IDENTITY)


def test_a_copy_writes_with_a_key_of_its_own(path: Path):
    replica = Replica(path, DOC, IDENTITY)
    replica.write([VALUE], NOW)
    author = replica.author
    replica.close()
    backup = path.with_name("backup")
    shutil.copy(path, backup)
    replica = Replica(path, DOC, IDENTITY)
    replica.write([VALUE], NOW)
    replica.close()
    backup.replace(path)
    restored = Replica(path, DOC, IDENTITY)
    entries = restored.write([VALUE], NOW).admitted
    assert entries[0].header.author != author
    assert entries[0].header.seq == 0
    assert restored.log.feeds[entries[0].header.author].identity == IDENTITY.public_key.data
    assert restored.author == entries[0].header.author
    restored.close()


def set_back(path: Path, *values: tuple[Kind, bytes]) -> tuple[bytes, list[Entry]]:
    """Have a file be as it was before its session wrote these; all that it had written."""
    replica = Replica(path, DOC, IDENTITY)
    replica.write([VALUE], NOW)
    replica.close()
    snapshot = path.read_bytes()
    replica = Replica(path, DOC, IDENTITY)
    replica.write(values, NOW)
    author = replica.author
    out = list(replica.database.entries(author, 0, 9))
    replica.close()
    path.write_bytes(snapshot)  # as a virtual machine's snapshot does: the inode is the same
    return author, out


def test_a_store_that_was_set_back_notices_when_peers_have_more(path: Path, caplog):
    author, out = set_back(path, VALUE)
    back = Replica(path, DOC, IDENTITY)
    assert back.author == author
    assert back.receive(out, "peer", NOW, 0.0).admitted == out[2:]
    assert "another session" in caplog.text
    second = back.author
    assert back.write([VALUE], NOW).admitted[0].header.author == second != author
    back.close()
    again = Replica(path, DOC, IDENTITY)
    assert again.author == second
    again.close()


class Killed(BaseException):
    """Nothing of the process comes after it."""


def take_chain(replica: Replica, out: list[Entry]) -> None:
    replica.receive(out, "peer", NOW, 0.0)


def take_snapshot(replica: Replica, out: list[Entry]) -> None:
    ids = [each.id for each in out]
    prefix = FeedPrefix(out[0].header.author, IDENTITY.public_key.data, ids, entries=out)
    with replica.arrival() as arrival:
        replica.take_prefixes([prefix], [], NOW, arrival)


@pytest.mark.parametrize(
    ("of", "name", "take"),
    [(DocumentDatabase, "keep", take_chain), (Arrival, "take", take_snapshot)],
)
def test_a_store_that_was_set_back_is_killed_as_soon_as_it_has_what_it_lost(
    path: Path, monkeypatch, of, name, take
):
    """Or it would go on with its former session, and contradict itself."""
    author, out = set_back(path, VALUE)
    keep = getattr(of, name)

    def killed(*args: object) -> None:
        keep(*args)
        raise Killed

    back = Replica(path, DOC, IDENTITY)
    monkeypatch.setattr(of, name, killed)
    with pytest.raises(Killed):
        take(back, out)
    back.close()
    again = Replica(path, DOC, IDENTITY)
    assert again.log.length(author) == len(out)
    assert again.author != author
    again.close()


def test_a_store_that_was_set_back_notices_it_by_what_has_to_wait(path: Path):
    author, out = set_back(path, VALUE, VALUE)
    back = Replica(path, DOC, IDENTITY)
    assert back.receive(out[3:], "peer", NOW, 0.0).waiting == 1
    assert back.write([VALUE], NOW).admitted[0].header.author != author
    back.close()


def test_whose_clock_is_behind_is_told_so_once(path: Path, caplog):
    replica = Replica(path, DOC, IDENTITY)
    early = NOW - 3_700_000
    for name in (b"a", b"b", b"c"):
        replica.receive(Writer(name).chain(1), "peer", early, 0.0)
    for _ in range(3):
        replica.advance(early)
    (record,) = caplog.records
    assert "the clock here seems to be 2700 s behind" in record.getMessage()
    assert len(replica.advance(NOW).admitted) == 3
    replica.close()


def test_what_is_good_in_a_damaged_file_is_taken_of_it(path: Path, caplog, monkeypatch):
    """Of the author whose entry is damaged what is before it, and of others all there is."""
    damaged, whole, liar = Writer(b"a").chain(300), Writer(b"b").chain(200), Writer(b"l")
    replica = Replica(path, DOC, IDENTITY)
    for chain in (damaged, whole, liar.chain(4), liar.chain(4, "other")):
        replica.receive(chain, "peer", NOW, 0.0)
    replica.write([VALUE], NOW)
    own = replica.author
    replica.close()
    content = bytearray(path.read_bytes())
    place = content.find(damaged[100].header.encoded)
    content[place + 50] ^= 1
    for what in (bytes(content), bytes(content[:-5000])):
        path.write_bytes(what)
        with monkeypatch.context() as patch:
            patch.setattr(Arrival, "take", _full)
            with pytest.raises(StoreFullError):
                Replica(path, DOC, IDENTITY)
            assert path.read_bytes() == what  # to be tried again
        replica = Replica(path, DOC, IDENTITY)
        assert "entries_saved=" in caplog.text
        feeds = replica.log.feeds
        if what == bytes(content):
            assert feeds[damaged[0].header.author].ids == [each.id for each in damaged[:100]]
            assert feeds[whole[0].header.author].ids == [each.id for each in whole]
            assert feeds[liar.author].fork is not None
            assert len(feeds[own].ids) == 2
        assert replica.author == b""  # what it wrote may go further at others
        replica.receive(damaged, "peer", NOW, 0.0)
        assert feeds[damaged[0].header.author].ids == [each.id for each in damaged]
        replica.close()


def _full(*args: object, **kwargs: object) -> None:
    raise StoreFullError("full")


def test_what_a_killed_process_has_committed_is_taken_of_a_damaged_file(path: Path):
    chain = Writer(b"a").chain(300)
    replica = Replica(path, DOC, IDENTITY)
    replica.receive(chain[:200], "peer", NOW, 0.0)
    replica.close()
    replica = Replica(path, DOC, IDENTITY)
    replica.receive(chain[200:], "peer", NOW, 0.0)
    killed = path.with_name("killed")
    content = bytearray(path.read_bytes())
    shutil.copy(f"{path}-wal", f"{killed}-wal")
    replica.close()
    content[content.find(chain[0].header.encoded) - 3] ^= 0xFF
    killed.write_bytes(content)
    other = Replica(killed, DOC, IDENTITY)
    other.receive(chain, "peer", NOW, 0.0)
    assert len(other.log.feeds[chain[0].header.author].ids) == 300
    other.close()


@pytest.mark.parametrize("what", ["write", "receive", "prune"])
def test_no_room_at_any_commit_loses_nothing_and_it_goes_on_when_there_is_some(tmp_path, what):
    """What stands is read meanwhile."""
    chain, base = Writer(b"a").chain(36), tmp_path / "base"
    with Document(base, DOC, IDENTITY, wall=lambda: NOW) as document:
        for number in range(30):
            document.registers[f"{number % 5}"] = "x" * 500
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = 0
    for room in (4_096, 9_000, 20_000, 40_001, 60_000):
        path = tmp_path / f"{room}"
        shutil.copy(base, path)
        document = Document(path, DOC, IDENTITY, wall=lambda: NOW + 1)
        done = []
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            for number in range(6):
                try:
                    match what:
                        case "write":
                            document.registers[f"new {number}"] = "y" * 3000
                        case "receive":
                            piece = encode_chain(chain[6 * number :][:6], with_prev=True)
                            document.receive(piece, "peer")
                        case _:
                            document.prune(0)
                    done.append(number)
                except StoreError:
                    refused += 1
                assert document.registers["0"]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        document.registers["room"] = True
        document.receive(encode_chain(chain, with_prev=True), "peer")
        document.prune(0)
        root = document.root
        document.close()
        assert not check_document(path).problem_count
        with Document(path, DOC, IDENTITY, wall=lambda: NOW) as document:
            assert document.root == root
            assert document.heads()[chain[0].header.author] == (36, chain[-1].id)
            if what == "write":
                assert all(document.registers[f"new {number}"] for number in done)
    assert refused


def test_a_damaged_file_is_named_moved_aside_and_begun_anew(path: Path, caplog):
    replica = Replica(path, DOC, IDENTITY)
    chain = Writer(b"a").chain(300)
    replica.receive(chain, "peer", NOW, 0.0)
    replica.close()
    content = bytearray(path.read_bytes())
    place = content.find(chain[100].header.encoded)
    content[place + 50] ^= 1
    path.write_bytes(content)
    database = DocumentDatabase(path, DOC)
    with pytest.raises(StoreCorruptError, match="not what its ID says"):
        database.load()
    database.close()
    for number, damaged in enumerate((bytes(content), b"none" * 1000, bytes(content[:50_000])), 1):
        path.write_bytes(damaged)
        caplog.clear()
        replica = Replica(path, DOC, IDENTITY)
        assert "is damaged" in caplog.text
        assert (path.parent / f"{path.name}.damaged-{number}").read_bytes() == damaged
        replica.receive(chain, "peer", NOW, 0.0)
        assert len(replica.log.feeds[chain[0].header.author].ids) == 300
        replica.close()


def test_a_full_disk_loses_nothing_and_forks_nobody(path: Path):
    replica = Replica(path, DOC, IDENTITY)
    replica.write([VALUE], NOW)
    db = replica.database._db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count={pages}")
    before = ids(replica)
    large = (Kind.REGISTER, encode(["key", "x" * 60_000]))
    with pytest.raises(StoreFullError, match="no space"):
        replica.write([VALUE, large], NOW)
    assert ids(replica) == before
    with pytest.raises(StoreFullError):
        replica.receive(Writer(b"a").chain(500), "peer", NOW, 0.0)
    assert ids(replica) == before
    db.execute("PRAGMA max_page_count=1000000")
    assert len(replica.receive(Writer(b"a").chain(500), "peer", NOW, 0.0).admitted) == 500
    (entry,) = replica.write([VALUE], NOW).admitted
    assert entry.header.seq == 2
    replica.close()
    again = Replica(path, DOC, IDENTITY)
    assert len(again.log.feeds) == 2
    again.close()


def test_own_entries_wait_for_the_disk_and_others_do_not(path: Path):
    replica = Replica(path, DOC, IDENTITY)
    statements: list[str] = []
    replica.database._db.set_trace_callback(statements.append)
    replica.write([VALUE], NOW)
    assert "PRAGMA synchronous=FULL" in statements
    statements.clear()
    replica.receive(Writer(b"a").chain(2), "peer", NOW, 0.0)
    assert "PRAGMA synchronous=NORMAL" in statements
    assert sum(statement.startswith("COMMIT") for statement in statements) == 1
    replica.close()


def test_what_was_early_is_kept_when_it_is_due(path: Path):
    writer = Writer(b"a")
    (first,) = writer.chain(1)
    early = writer.next(first, (NOW + 3_600_000) << 16)
    replica = Replica(path, DOC, IDENTITY)
    assert replica.receive([first, early], "peer", NOW, 0.0).admitted == [first]
    assert replica.advance(NOW + 3_600_000).admitted == [early]
    replica.close()
    again = Replica(path, DOC, IDENTITY)
    assert ids(again) == {writer.author: [first.id, early.id]}
    assert again.log.clock.tick(START) > early.header.hlc
    again.close()


def test_a_path_that_cannot_be_made_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot open"):
        DocumentDatabase(tmp_path / "file" / "document", DOC)
    later = tmp_path / "later"
    database = sqlite3.connect(later)
    database.execute("PRAGMA user_version=9")
    database.close()
    with pytest.raises(StoreError, match="version 9"):
        DocumentDatabase(later, DOC)
