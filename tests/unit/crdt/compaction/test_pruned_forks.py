"""Authors who contradict what was pruned: what is left of it proves that to everybody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from lattica.crdt.compaction.snapshot import body_digest, body_parts, first_part
from lattica.crdt.document import Document
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.chain import SIGNED_EVERY, encode_chain
from lattica.crdt.entries.fork import decode_fork
from lattica.crdt.entries.header import Entry
from lattica.crdt.entries.remnant import has_signature
from lattica.crdt.log.disk.replica import load_log
from lattica.crdt.log.errors import ContradictionError
from lattica.crdt.log.prefix import FeedPrefix
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, Writer
from tests.support.crdt.documents import Clock, replicas

OWNERS = [Identity(bytes([number + 1]) * 32) for number in range(4)]
NAMES = [each.public_key.data for each in OWNERS]
LENGTH = 2 * SIGNED_EVERY + 5


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[list[Document]]:
    with replicas(tmp_path, OWNERS, Clock()) as opened:
        yield opened


def branches(length: int, fork_at: int) -> tuple[Sequence[Entry], Sequence[Entry]]:
    """Two chains of an author, the other of which ends where it contradicts the one."""
    liar = Writer(b"liar")
    chain = liar.chain(length)
    before = chain[fork_at - 1]
    return chain, (*chain[:fork_at], liar.next(before, before.header.hlc + 5, "other"))


def pruned(document: Document, chain: Sequence[Entry]) -> None:
    document.receive(encode_chain(chain, with_prev=True), "peer")
    assert document.prune(0.0) == len(chain) - 2  # but the first and the newest


def proves(document: Document, chain: Sequence[Entry]) -> bytes:
    """The proof that a chain leads to when it comes again: first a signature is asked for."""
    for _ in range(2):
        with suppress(ContradictionError):
            document.receive(encode_chain(chain, with_prev=True), "peer")
    (proof,) = document.forks()
    return proof


def without_signatures(document: Document) -> None:
    """As a version before has left it."""
    replica = document._replica
    for author in replica.log.feeds:
        number = replica.database.number(author)
        left = sorted(replica.database.gone(author).items())
        older = []
        for _, (entry_id, remnant) in left:
            plain = remnant
            if has_signature(remnant):
                plain = remnant[:13] + bytes([remnant[13] & 0x7F]) + remnant[14:-64]
            older.append((entry_id, plain))
        with replica.database.transaction("NORMAL"):
            replica.database._db.execute("DELETE FROM pruned WHERE author = ?", (number,))
            replica.database.keep_remnants(number, left[0][0], older)


@pytest.mark.parametrize(
    ("length", "fork_at"),
    [(5, 1), (5, 3), (LENGTH, 1), (LENGTH, SIGNED_EVERY - 1), (LENGTH, SIGNED_EVERY + 1)],
)
def test_a_fork_at_a_place_that_was_pruned_is_proved_to_everybody(documents, length, fork_at):
    one, other, third = documents[:3]
    chain, branch = branches(length, fork_at)
    pruned(one, chain)
    proof = proves(one, branch)
    fork = decode_fork(proof, DOC.doc_id)
    assert (fork.author, fork.seq) == (chain[0].header.author, fork_at)
    assert one.heads()[fork.author] == (fork_at, chain[fork_at - 1].id)
    # What is left of the last says when that was: where rights are given, an owner is frozen by it.
    replica = one._replica
    for log in (replica.log, load_log(DOC, replica.database)):
        assert log.feeds[fork.author].hlc == chain[fork_at - 1].header.hlc
    # As it is to whoever has nothing else, and to one that has the other branch, not pruned.
    other.receive_fork(proof)
    other.receive_snapshot(one.snapshot(), NAMES)
    assert (other.root, other.heads()) == (one.root, one.heads())
    assert other._replica.log.feeds[fork.author].hlc == chain[fork_at - 1].header.hlc
    third.receive(encode_chain(branch, with_prev=True), "peer")
    third.receive_fork(proof)
    other.receive_snapshot(third.snapshot(), NAMES)
    assert (other.root, other.heads()) == (third.root, one.heads())
    one.close()
    assert not check_document(one._replica.database.path).problem_count


def test_who_has_it_of_a_snapshot_proves_it_too(documents):
    one, other = documents[:2]
    chain, branch = branches(LENGTH, SIGNED_EVERY + 1)
    pruned(one, chain)
    other.receive_snapshot(one.snapshot(), NAMES)
    assert decode_fork(proves(other, branch), DOC.doc_id).seq == SIGNED_EVERY + 1


def test_what_a_version_before_has_left_is_read_and_gets_its_signatures_of_a_snapshot(documents):
    one, other, third = documents[:3]
    chain, branch = branches(LENGTH, 1)
    for document in (one, other):
        pruned(document, chain)
    without_signatures(one)
    third.receive_snapshot(one.snapshot(), NAMES)
    assert third.heads() == one.heads()
    message = encode_chain(branch, with_prev=True)
    for _ in range(3):
        with pytest.raises(ContradictionError):
            one.receive(message, "peer")
    one.receive_snapshot(other.snapshot(), NAMES)
    assert proves(one, branch)
    # And is not lost to one that lacks them.
    other.receive_snapshot(third.snapshot(), NAMES)
    assert proves(other, branch)


def test_a_signature_of_a_remnant_that_is_not_the_authors_is_refused(documents):
    one, other = documents[:2]
    chain, _ = branches(SIGNED_EVERY + 1, 1)
    pruned(one, chain)
    author = chain[0].header.author
    remnants = one._replica.database.remnants(author)
    last = SIGNED_EVERY - 1
    assert [seq for seq, each in remnants.items() if has_signature(each)] == [last]
    remnants[last] = remnants[last][:-1] + bytes([remnants[last][-1] ^ 1])
    prefix = FeedPrefix(
        author, ids=[each.id for each in chain], entries=[chain[0], chain[-1]], remnants=remnants
    )
    parts = list(body_parts([prefix], ()))
    with pytest.raises(RemoteProtocolError, match="has not signed"):
        other.receive_snapshot([first_part([one.statement(body_digest(parts))]), *parts], NAMES)


@pytest.mark.parametrize(("length", "other_length"), [(6, 9), (LENGTH, 20)])
def test_replicas_that_have_both_pruned_where_an_author_contradicts_himself_come_to_the_same(
    documents, length, other_length
):
    """By their snapshots: neither has a chain that the other one could take."""
    one, other = documents[:2]
    chain, branch = branches(length, 3)
    longer = [*branch]
    while len(longer) < other_length:
        before = longer[-1]
        longer.append(Writer(b"liar").next(before, before.header.hlc + 5, "other"))
    pruned(one, chain)
    pruned(other, longer)
    with pytest.raises(ContradictionError, match="does not know of a fork"):
        one.receive_snapshot(other.snapshot(), NAMES)
    assert [decode_fork(proof, DOC.doc_id).seq for proof in one.forks()] == [3]
    other.receive_snapshot(one.snapshot(), NAMES)
    assert (one.root, one.heads()) == (other.root, other.heads())
    assert list(one.forks()) == list(other.forks())
    for document in (one, other):
        document.close()
        assert not check_document(document._replica.database.path).problem_count
