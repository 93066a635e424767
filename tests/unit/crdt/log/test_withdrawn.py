"""What was withdrawn, in chains that others take."""

from __future__ import annotations

from lattica.crdt.entries.chain import decode_chain
from lattica.crdt.entries.fork import find_fork
from lattica.crdt.entries.header import Entry
from lattica.crdt.log.feed import Feed
from lattica.crdt.log.withdrawn import withdrawn_chains
from tests.support.crdt.chains import DOC, Writer


def test_a_long_branch_is_cut_where_its_author_has_signed():
    """Whoever passes it on is not to blame for what the author has not signed."""
    liar = Writer(b"liar")
    chain, other = liar.chain(24, b"x" * 60_000), liar.chain(2, "other")
    proof = find_fork(chain[1], other[1])
    assert proof is not None
    branch = [
        entry if entry.header.seq in (1, 9, 23) else Entry(entry.header, bytes(64), entry.payload)
        for entry in chain[1:]
    ]
    feeds = {liar.author: Feed(liar.author, fork=proof)}
    chains = withdrawn_chains([branch[-1].id], branch, feeds)
    taken = [decode_chain(each, DOC.doc_id, lambda author, seq: None) for each in chains]
    # What is wanted is at the end, and needs what is before it.
    assert [[entry.header.seq for entry in each] for each in taken] == [
        list(range(10, 24)),
        list(range(1, 10)),
        list(range(10, 24)),
    ]
