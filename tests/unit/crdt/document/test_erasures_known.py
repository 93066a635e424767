"""What erases is known before it acts, or never acts, or is of somebody whose session has nothing
that counts.
"""

from __future__ import annotations

from pathlib import Path

from lattica.crdt.document import Document
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.erasure import target_of
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.keys.session import SessionKey
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import START, Eraser
from tests.support.crdt.documents import Make
from tests.support.crdt.sync import exchange, exchange_all, take

ANNA, BERT, CARL, DORA = (Identity(bytes([number + 1]) * 32) for number in range(4))


def tell(document: Document, of: Document, author: bytes) -> None:
    for chain in of.chains_of(author, 0):
        document.receive(chain, "peer")


def test_an_erasure_acts_that_was_known_by_what_lacks_its_payload(make: Make):
    """What had been replaced by the erased write stands until the erasure comes in its place."""
    owned = Genesis("owned", (ANNA.public_key.data,))
    anna, bert, carl, late = (make(each, owned) for each in (ANNA, BERT, CARL, DORA))
    bert.registers["a"] = "first"
    exchange_all(bert, carl)
    carl.registers["a"] = "second"
    exchange_all(carl, anna)
    anna.registers["a"] = "third"
    second = next(each for each in anna.entries() if each.peer == CARL.peer_id and each.name == "a")
    assert anna.erase(second) == 1
    tell(late, anna, bert.author)
    tell(late, anna, carl.author)
    assert late.registers["a"] == "first"
    tell(late, anna, anna.author)
    assert [each.value for each in late.registers.conflicts("a")] == ["third"]
    assert late.root == anna.root


def fork_from_the_first_entry_on(document: Document) -> Eraser:
    """A session that contradicts itself from its first entry on, and what it wrote second is erased
    by another one of the same identity; that one.
    """
    liar, again = Eraser(b"a"), Eraser(b"a")
    again.session = SessionKey(bytes(32))
    chain = liar.chain(2)
    take(document, *chain)
    take(document, liar.next(None, chain[0].header.hlc + 1))
    assert "key" not in document.registers
    first = again.next(None, (START + 9) << 16)
    take(document, first, again.erasing(first, target_of(chain[1].header)))
    return again


def test_of_a_session_of_which_nothing_counts_it_is_known_whose_it_is(make: Make, tmp_path: Path):
    anna = make(ANNA)
    fork_from_the_first_entry_on(anna)
    fresh = make(BERT, path=tmp_path / "fresh")
    fresh.receive_snapshot(anna.snapshot(), [ANNA.public_key.data])
    late = make(CARL)
    late.receive_snapshot(fresh.snapshot(), [BERT.public_key.data])
    exchange(late, anna)
    assert late.root == fresh.root == anna.root
    fresh.close()
    report = check_document(tmp_path / "fresh")
    assert (report.problems, report.withdrawn, report.erased) == ([], 2, 1)


def test_it_is_known_where_a_damaged_file_is_saved(make: Make, tmp_path: Path):
    anna = make(ANNA, path=tmp_path / "damaged")
    fork_from_the_first_entry_on(anna)
    root = anna.root
    anna._replica.database._db.execute("UPDATE document SET genesis = x'00'")
    anna.close()
    saved = make(ANNA, path=tmp_path / "damaged")
    assert saved.root == root
    assert len([*saved._replica.database.withdrawn_entries()]) == 2
