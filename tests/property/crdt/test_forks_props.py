"""Where a feed is cut at forks follows from the entries and proofs that came, in whatever order."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.crdt.entries.chain import decode_chain, encode_chain
from lattica.crdt.entries.fork import ForkProof, decode_fork, find_fork
from lattica.crdt.entries.header import Entry
from lattica.errors import RemoteProtocolError
from tests.support.crdt.chains import DOC, Writer
from tests.support.crdt.logs import MemoryLog

LIAR = Writer(b"liar")


@st.composite
def histories(draw: st.DrawFn) -> list[list[Entry]]:
    """One author's, which part anywhere, again and again."""
    branches = [list(LIAR.chain(1))]
    for number in range(draw(st.integers(1, 3))):
        source = draw(st.sampled_from(branches))
        branch = source[: draw(st.integers(1, len(source)))]
        for _ in range(draw(st.integers(1, 4))):
            branch.append(LIAR.next(branch[-1], branch[-1].header.hlc + 1 + number, number))
        branches.append(branch)
    return branches


def received(messages: list[list[Entry] | ForkProof]) -> MemoryLog:
    log = MemoryLog()
    for message in messages:
        with contextlib.suppress(RemoteProtocolError):
            if isinstance(message, ForkProof):
                log.receive_fork(message)
            else:
                encoded = encode_chain(message, with_prev=True)
                log.receive(decode_chain(encoded, DOC.doc_id, log.log.id_at))
    return log


@settings(max_examples=80, deadline=None)
@given(histories(), st.data())
def test_the_same_entries_and_proofs_in_any_order_leave_the_same_last_entry(branches, data):
    entries = list({entry.id: entry for branch in branches for entry in branch}.values())
    came = data.draw(st.lists(st.sampled_from(entries), min_size=2, unique_by=lambda e: e.id))
    pairs = data.draw(st.lists(st.tuples(*[st.sampled_from(came)] * 2), max_size=2))
    proofs = [proof for proof in (find_fork(*pair) for pair in pairs) if proof is not None]
    messages: list[list[Entry] | ForkProof] = [*([entry] for entry in came), *proofs]
    one = received(data.draw(st.permutations(messages)))
    other = received(data.draw(st.permutations(messages)))
    assert one.state == other.state
    for feed in one.log.feeds.values():
        if feed.fork is not None:
            assert decode_fork(feed.fork.encode(), DOC.doc_id) == feed.fork
            assert len(feed.ids) <= feed.fork.seq


def test_a_proof_that_follows_on_another_entry_than_the_last_one_cuts_that_too():
    chain, other = Writer(b"a").chain(5), Writer(b"a").chain(5, "other")
    orders = [
        [chain[3:], other[3:], chain[:3]],
        [other[3:], chain[:3], chain[3:]],
        [chain[:3], chain[3:], other[3:]],
        [chain[:3], other[3:], chain[3:]],
    ]
    states = [received([list(each) for each in order]).state for order in orders]
    assert states == [{chain[0].header.author: ([each.id for each in chain[:2]], 2)}] * 4


def test_of_many_at_one_place_it_is_remembered_on_what_they_follow():
    """The third says what the first two do not: that they follow on different ones."""
    chain = LIAR.chain(2)
    last, another = (LIAR.next(chain[-1], chain[-1].header.hlc + n, n) for n in (1, 2))
    same = [LIAR.next(last, last.header.hlc + n, n) for n in (1, 2)]
    third = LIAR.next(another, another.header.hlc + 9, "third")
    for order in ([*same, third, last], [third, *same, last], [last, *same, third]):
        log = received([list(chain), *([each] for each in order)])
        assert log.state == {chain[0].header.author: ([each.id for each in chain], 2)}


def test_an_entry_that_comes_with_its_own_signature_and_a_fork_behind_it():
    replica = MemoryLog()
    chain, other = LIAR.chain(4), LIAR.chain(4, "other")
    spoiled = [Entry(each.header, bytes(64), each.payload) for each in chain[:-1]]
    replica.receive([*spoiled, chain[-1]])
    with contextlib.suppress(RemoteProtocolError):
        replica.receive(other)
    third = LIAR.next(chain[2], chain[3].header.hlc + 1, "third")
    outcome = replica.receive([*chain[:3], third])
    assert (outcome.resigned, [proof.seq for proof in outcome.forks]) == ([chain[1]], [3])
    assert not replica.receive(chain[:3]).resigned


def delivered(chains: list[list[Entry]], orders: list[list[int]]) -> MemoryLog:
    """A replica to which these chains come in some orders, one after another, as in exchanges that
    are repeated.
    """
    log = MemoryLog()
    for order in orders:
        for number in order:
            with contextlib.suppress(RemoteProtocolError):
                encoded = encode_chain(chains[number], with_prev=True)
                log.receive(decode_chain(encoded, DOC.doc_id, log.log.id_at))
    return log


def counted(entries: list[Entry]) -> dict[bytes, tuple[list[bytes], int | None]]:
    """What these leave of an author, whose chains are whole: what stands before each contradiction.

    A model for :attr:`MemoryLog.state`.
    """
    fork = min(
        (
            one.header.seq
            for one in entries
            for other in entries
            if (one.header.seq == other.header.seq and one.id != other.id)
            or (one.header.seq + 1 == other.header.seq and one.id != other.header.prev_id)
        ),
        default=None,
    )
    ids = {each.header.seq: each.id for each in entries if fork is None or each.header.seq < fork}
    return {LIAR.author: ([ids[seq] for seq in sorted(ids)], fork)}


@settings(max_examples=25, deadline=None)
@given(histories(), st.data())
def test_who_signs_only_the_last_of_what_he_sends_is_proved_to_contradict_himself(branches, data):
    """In whatever order it comes: nobody ever has a signature of what he has not signed."""
    entries = list({entry.id: entry for branch in branches for entry in branch}.values())
    tips = {branch[-1].id for branch in branches}
    signed = tips | set(data.draw(st.lists(st.sampled_from([e.id for e in entries]))))
    chains = [
        [
            each if each.id in signed else Entry(each.header, bytes(64), each.payload)
            for each in branch
        ]
        for branch in branches
    ]
    # Pieces of them, too, as others pass them on.
    pieces = list(chains)
    for chain in chains:
        start = data.draw(st.integers(0, len(chain) - 1))
        pieces.append(chain[start:])
        if chain[start].id in signed:
            pieces.append(chain[: start + 1])
    numbers = list(range(len(pieces)))
    one, other = (
        delivered(pieces, [data.draw(st.permutations(numbers)) for _ in range(3)] + [numbers] * 4)
        for _ in range(2)
    )
    assert one.state == other.state == counted(entries)
    # What one of them has proved, anybody can check, and it changes nothing at the other one.
    for log, another in ((one, other), (other, one)):
        for feed in log.log.feeds.values():
            if feed.fork is not None:
                proof = decode_fork(feed.fork.encode(), DOC.doc_id)
                assert proof == feed.fork
                another.receive_fork(proof)
    assert one.state == other.state
    is_forked = any(a[: len(b)] != b and b[: len(a)] != a for a in branches for b in branches)
    assert bool(one.log.feeds[LIAR.author].fork) is is_forked


def test_what_vouches_for_the_last_entry_before_a_fork_proves_an_earlier_one():
    """Two follow on entries that are not here, and what is here is signed only by what follows."""
    first = [*LIAR.chain(1)]
    a, b, c = (first[:], first[:], first[:])
    for number, branch in enumerate((a, b, c)):
        for _ in range(2):
            branch.append(LIAR.next(branch[-1], branch[-1].header.hlc + 1 + number, number))
    a, b, c = ([first[0], Entry(x.header, bytes(64), x.payload), y] for _, x, y in (a, b, c))
    proof = find_fork(a[2], c[2])
    assert proof is not None
    orders: list[list[list[Entry] | ForkProof]] = [
        [c[1:], a[2:], b, b],
        [c[1:], a[2:], b, c],
        [c[1:], a[2:], b[1:], first],
        [b, proof],
        [b[1:], proof, first],
        [proof, b, b],
        [a, b, c, a, b, c],
    ]
    expected = {LIAR.author: ([first[0].id], 1)}
    assert [received(order).state for order in orders] == [expected] * len(orders)


def test_two_chains_of_which_only_the_last_is_signed_prove_a_fork_and_so_does_each_bit_of_it():
    chain, other = LIAR.chain(6), LIAR.chain(5, "other")
    spoiled = [
        [*(Entry(each.header, bytes(64), each.payload) for each in branch[:-1]), branch[-1]]
        for branch in (chain, other)
    ]
    log = delivered(spoiled, [[0, 1], [0, 1]])
    ((ids, fork),) = log.state.values()
    assert (ids, fork) == ([chain[0].id], 1)
    proof = log.log.feeds[LIAR.author].fork
    assert proof is not None
    assert sorted([len(proof.one.path), len(proof.other.path)]) == [3, 4]
    encoded = proof.encode()
    fresh = MemoryLog()
    fresh.receive_fork(decode_fork(encoded, DOC.doc_id))
    fresh.receive(spoiled[0])
    assert fresh.state == log.state
    for place in range(0, len(encoded), 11):
        broken = bytearray(encoded)
        broken[place] ^= 1
        with contextlib.suppress(RemoteProtocolError):
            assert decode_fork(bytes(broken), DOC.doc_id) != proof


def test_a_chain_without_a_signature_for_long_is_refused():
    chain = LIAR.chain(300)
    spoiled = [Entry(each.header, bytes(64), each.payload) for each in chain[:-1]]
    encoded = encode_chain([*spoiled, chain[-1]], with_prev=True)
    with contextlib.suppress(RemoteProtocolError):
        decode_chain(encoded, DOC.doc_id, lambda author, seq: None)
        raise AssertionError
    spoiled[255] = chain[255]
    encoded = encode_chain([*spoiled, chain[-1]], with_prev=True)
    assert len(decode_chain(encoded, DOC.doc_id, lambda author, seq: None)) == 300
