"""Snapshots of authors who fork: nothing of them is believed that they have not signed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lattica.crdt.base.turns import Turns, finish
from lattica.crdt.compaction.snapshot import body_parts
from lattica.crdt.document import Document
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.fork import decode_fork, find_fork
from lattica.crdt.entries.header import Entry
from lattica.crdt.entries.remnant import entry_of, remnant_of
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.log.prefix import FeedPrefix
from lattica.crdt.log.withdrawn import vouched
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, Writer
from tests.support.crdt.documents import Clock, replicas
from tests.support.crdt.sync import exchange_all

OWNERS = [Identity(bytes([number + 1]) * 32) for number in range(3)]
NAMES = [each.public_key.data for each in OWNERS]


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[list[Document]]:
    with replicas(tmp_path, OWNERS, Clock()) as opened:
        yield opened


def forged(
    giver: Document,
    monkeypatch: pytest.MonkeyPatch,
    prefix: FeedPrefix,
    withdrawn: Sequence[Entry] = (),
) -> tuple[bytes, ...]:
    """What somebody signs who has made up a part of an author's chain."""

    def body(heads: object) -> Turns[list[bytes]]:
        yield
        return list(body_parts([prefix], withdrawn))

    with monkeypatch.context() as patch:
        patch.setattr(giver._history, "body", body)
        heads = {prefix.author: (len(prefix.ids), prefix.ids[-1])}
        patch.setattr(giver._history, "heads", lambda: heads)
        return giver.snapshot()


@pytest.mark.parametrize("length", [2, 4, 5])
def test_what_nobody_has_signed_of_an_author_who_forks_is_not_believed(
    documents, monkeypatch, length
):
    """Or whoever gives a snapshot parts its reader for ever from those who have the entries."""
    honest, fresh, giver = documents[:3]
    liar = Writer(b"liar")
    chain, other = liar.chain(6), [*liar.chain(5)]
    other.append(liar.next(other[-1], other[-1].header.hlc + 5, "other"))
    for branch in (chain, other):
        honest.receive(encode_chain(branch, with_prev=True), "peer")
    (proof,) = honest.forks()
    fork = decode_fork(proof, DOC.doc_id)
    assert honest.heads()[liar.author] == (5, chain[4].id)
    giver.receive(encode_chain(chain[:1], with_prev=True), "peer")

    made_up = FeedPrefix(liar.author, ids=[chain[0].id], entries=[chain[0]], fork=fork)
    for seq in range(1, length):
        header = chain[seq].header
        left = Entry(replace(header, payload_hash=bytes(32)), bytes(64), None)
        remnant = remnant_of(left)
        made_up.remnants[seq] = remnant
        said = entry_of(remnant, header.doc_id, liar.author, seq, made_up.ids[-1])
        made_up.ids.append(said.id)
    fresh.receive_snapshot(forged(giver, monkeypatch, made_up), NAMES)
    assert fresh.heads()[liar.author] == (1, chain[0].id)
    assert list(fresh.forks()) == [proof]
    exchange_all(honest, fresh)
    assert fresh.heads() == honest.heads()
    assert fresh.root == honest.root
    fresh.close()
    assert not check_document(fresh._replica.database.path).problem_count


def test_a_snapshot_has_nothing_from_the_place_of_a_fork_on(documents, monkeypatch):
    honest, fresh, giver = documents[:3]
    liar = Writer(b"liar")
    chain, other = liar.chain(6), [*liar.chain(3)]
    other.append(liar.next(other[-1], other[-1].header.hlc + 5, "other"))
    for branch in (chain, other):
        honest.receive(encode_chain(branch, with_prev=True), "peer")
    (proof,) = honest.forks()
    giver.receive(encode_chain(chain, with_prev=True), "peer")
    fork = decode_fork(proof, DOC.doc_id)
    assert fork.seq == 3
    ids = [each.id for each in chain]
    behind = FeedPrefix(liar.author, ids=ids, entries=list(chain), fork=fork)
    with pytest.raises(RemoteProtocolError, match="behind a fork"):
        fresh.receive_snapshot(forged(giver, monkeypatch, behind), NAMES)


@pytest.mark.parametrize("is_signed", [False, True])
def test_nothing_is_withdrawn_in_an_open_document_but_by_forks(documents, monkeypatch, is_signed):
    """Or the store whose entries somebody makes up goes on as another session."""
    honest, _, giver = documents[:3]
    honest.registers["a"] = 1
    exchange_all(honest, giver)
    author, feed = honest.author, honest._replica.log.feeds[honest.author]
    (first, last) = honest._replica.database.entries(author, 0, 2)
    made_up = replace(last, header=replace(last.header, seq=7, hlc=last.header.hlc + 7))
    if is_signed:  # as by somebody who has more of a file that is older here
        session = honest._replica._session
        assert session is not None
        hlc = last.header.hlc + 7
        made_up = sign_entry(session, DOC.doc_id, 7, last.id, hlc, 1, last.payload or b"")
    prefix = FeedPrefix(author, ids=[*feed.ids], entries=[first, last])
    honest.receive_snapshot(forged(giver, monkeypatch, prefix, [made_up]), NAMES)
    assert not honest._replica.log.knows(made_up.id)
    honest.registers["a"] = 2
    assert honest.author == author
    assert dict(honest.heads()) == {author: (3, honest.heads()[author][1])}


def test_what_was_withdrawn_is_its_authors_by_what_follows_on_it():
    liar, fork_at = Writer(b"liar"), 3
    chain, other = liar.chain(9), [*liar.chain(fork_at)]
    other.append(liar.next(other[-1], other[-1].header.hlc + 5, "other"))
    proof = find_fork(chain[fork_at], other[-1])
    assert proof is not None
    bare = [Entry(each.header, bytes(64), each.payload) for each in chain]
    assert finish(vouched([*bare[3:6], chain[6], *bare[7:]], ())) == [*bare[3:6], chain[6]]
    assert finish(vouched(bare[3:6], ())) == []
    # And by the proof of his fork.
    assert finish(vouched([bare[2], bare[3]], [proof])) == [bare[2]]
