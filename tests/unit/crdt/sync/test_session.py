"""Two documents find out what each other lacks, and the cost follows the difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lattica.crdt.document import Document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.sync.heads import Head, HeadIndex
from lattica.crdt.sync.messages import (
    TURN,
    Want,
    encode_entries,
    encode_ranges,
    encode_wants,
)
from lattica.crdt.sync.ranges import Range, answer_ranges, first_ranges
from lattica.crdt.sync.session import MAX_TURNS, SyncSession
from lattica.crdt.types.payloads import RegisterWrite
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, START, Writer
from tests.support.crdt.sync import NONCE, Exchange, exchange

Make = Callable[[int], Document]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Document] = []

    def document(number: int) -> Document:
        path = tmp_path / f"{number}.sqlite3"
        made.append(
            Document(path, DOC, Identity(bytes([number]) * 32), wall=lambda: START + 1_000_000)
        )
        return made[-1]

    yield document
    for each in made:
        each.close()


def test_both_sides_get_what_they_lack_in_two_turns(make):
    one, two = make(1), make(2)
    one.registers["a"] = 1
    two.registers["b"] = 2
    two.counter("steps").add(3)
    counts, _ = exchange(one, two)
    assert counts.turns == 3
    assert one.root == two.root
    assert one.registers["b"] == 2
    assert two.registers["a"] == 1


def test_who_only_listens_gets_all_and_tells_nothing_whatever_it_is_asked_for(make):
    one, two = make(1), make(2)
    one.registers["a"] = 1
    two.registers["b"] = 2
    _, other = Exchange(one, two, opener_tells=False).run()
    assert dict(one.registers.items()) == {"a": 1, "b": 2}
    assert dict(two.registers.items()) == {"b": 2}
    assert other.received_bytes < 100
    asked = SyncSession(one, "peer", NONCE, is_opener=True, tells=False)
    empty = SyncSession(make(3), "peer", NONCE, is_opener=True)
    whole = Range(b"", None, bytes(16))
    wants = [Want(author, 0, fork=True) for author in one.heads()]
    for _ in range(2):
        assert [*asked.turn()] == [*empty.turn()]
        for message in (*encode_wants(wants), *encode_ranges([whole]), TURN):
            asked.take(message)
            empty.take(message)


def test_equal_documents_are_told_apart_from_others_in_one_round_trip(make):
    one, two = make(1), make(2)
    one.registers["a"] = 1
    exchange(one, two)
    counts, other = exchange(one, two)
    assert counts.turns == 2
    assert counts.sent_bytes + other.sent_bytes < 200
    assert exchange(make(3), make(4))[0].turns == 2


def test_a_fresh_replica_gets_everything_in_one_round_trip(make):
    one, two = make(1), make(2)
    for number in range(40):
        one.receive(encode_chain(Writer(b"%d" % number).chain(3), with_prev=True), "peer")
    counts, _ = exchange(two, one)
    assert counts.turns == 2
    assert one.root == two.root
    assert len(two.head_index) == 40


def test_a_fork_that_one_side_knows_is_known_to_both(make):
    one, two, three = make(1), make(2), make(3)
    byzantine = Writer(b"byzantine")
    chain = byzantine.chain(4)
    branches = []
    for value in ("left", "right"):
        payload = RegisterWrite("key", value).encode()
        entry = sign_entry(
            byzantine.session,
            DOC.doc_id,
            2,
            chain[1].id,
            (START + 9) << 16,
            Kind.REGISTER,
            payload,
        )
        branches.append([*chain[:2], entry, byzantine.next(entry, (START + 10) << 16, value)])
    one.receive(encode_chain(branches[0], with_prev=True), "peer")
    two.receive(encode_chain(branches[1], with_prev=True), "peer")
    for _ in range(3):
        exchange(one, two)
        exchange(three, one)
    for document in (one, two, three):
        assert document.head_index.get(byzantine.author) == Head(
            byzantine.author, 2, chain[1].id[:16], 2
        )
    assert exchange(three, two)[0].turns == 2


def test_what_a_lost_session_has_brought_stays(make):
    from tests.support.crdt.sync import Exchange

    one, two = make(1), make(2)
    for number in range(3):
        one.receive(encode_chain(Writer(b"%d" % number).chain(3), with_prev=True), "peer")
    broken = Exchange(two, one)
    for _ in range(4):
        assert broken.step()
    assert 0 < len(two.head_index) < 3
    exchange(one, two)
    assert one.root == two.root


def test_an_author_whose_chain_proves_nothing_keeps_no_others_from_coming(make):
    one, two = make(1), make(2)
    liar, honest = Writer(b"liar"), Writer(b"honest")
    chain = liar.chain(3)
    unsigned = [chain[0], _unsigned(liar, chain[0], "other")]
    unsigned.append(liar.next(unsigned[-1], (START + 50) << 16))
    one.receive(encode_chain(unsigned, with_prev=True), "peer")
    one.receive(encode_chain(honest.chain(2), with_prev=True), "peer")
    two.receive(encode_chain(chain, with_prev=True), "peer")
    for _ in range(2):
        exchange(one, two)
    assert two.id_at(honest.author, 1) is not None


def _unsigned(writer, before, value):
    from dataclasses import replace

    return replace(writer.next(before, (START + 40) << 16, value), signature=bytes(64))


def test_an_exchange_has_an_end_whatever_the_other_side_says(make):
    session = SyncSession(make(1), "peer", NONCE, is_opener=False)
    lie = next(encode_ranges([Range(b"", None, bytes(16))]))

    def go_on() -> None:
        for _ in range(MAX_TURNS):
            session.take(lie)
            assert session.take(TURN)
            assert list(session.turn())

    with pytest.raises(RemoteProtocolError, match="come to an end"):
        go_on()


def test_what_is_of_no_use_is_not_taken_for_ever(make, monkeypatch):
    monkeypatch.setattr("lattica.crdt.sync.session.MAX_USELESS_BYTES", 10_000)
    session = SyncSession(make(1), "peer", NONCE, is_opener=False)
    message = encode_entries(encode_chain(Writer(b"a").chain(3), with_prev=True))

    def go_on() -> None:
        for _ in range(10_000 // len(message) + 3):
            session.take(message)

    with pytest.raises(RemoteProtocolError, match="of no use"):
        go_on()


# The index and its ranges alone.


def _index(lengths: dict[int, int]) -> HeadIndex:
    import hashlib

    index = HeadIndex()
    for number, length in lengths.items():
        author = hashlib.sha256(b"%d" % number).digest()
        index.set(Head(author, length, bytes([length % 256]) * 16))
    return index


def _reconcile(one: HeadIndex, two: HeadIndex) -> tuple[int, int, set[bytes]]:
    """Messages, bytes and differing authors."""
    sides, ranges = [two, one], first_ranges(one, NONCE)
    messages = size = 0
    found: set[bytes] = set()
    while ranges:
        messages += 1
        size += sum(map(len, encode_ranges(ranges)))
        ranges, differences = answer_ranges(sides[0], NONCE, ranges)
        sides.reverse()
        found |= {each.author for each in differences}
    return messages, size, found


def test_ten_of_ten_thousand_authors_are_found_in_two_round_trips_and_20_kilobytes():
    lengths = dict.fromkeys(range(10_000), 5)
    one = _index(lengths)
    two = _index(lengths | dict.fromkeys(range(0, 10_000, 1000), 6))
    messages, size, found = _reconcile(one, two)
    assert messages <= 3
    assert size <= 20_000
    assert len(found) == 10


def test_an_author_without_anything_is_not_in_the_index():
    one = _index({1: 5, 2: 5, 3: 5})
    for head in one.heads(b"", None)[:2]:
        one.set(Head(head.author, 0, b""))
    assert len(one) == 1
    again = HeadIndex()
    again.set(one.heads(b"", None)[0])
    assert again.fingerprint(NONCE, b"", None) == one.fingerprint(NONCE, b"", None)


def test_who_signs_only_the_last_of_two_chains_is_found_out_by_exchanges(make):
    """The first one asks for signatures, which nobody has; the second one proves it without."""
    one, two = make(1), make(2)
    liar = Writer(b"liar")
    for document, value, count in ((one, "this", 5), (two, "that", 6)):
        chain = liar.chain(count, value)
        spoiled = [Entry(each.header, bytes(64), each.payload) for each in chain[:-1]]
        document.receive(encode_chain([*spoiled, chain[-1]], with_prev=True), "liar")
    one.registers["mine"] = 1
    for _ in range(3):
        exchange(one, two)
        exchange(two, one)
    assert list(one.forks()) == list(two.forks())
    assert len(list(one.forks())) == 1
    assert one.root == two.root
    assert dict(two.registers.items()) == {"mine": 1}


def test_what_is_signed_only_by_what_a_fork_cuts_off_comes_to_those_who_join_later(make):
    """The proof of the fork vouches for the last entry before it."""
    one, two, three = make(1), make(2), make(3)
    chain = Writer(b"liar").chain(4)
    other = Writer(b"liar").next(chain[2], chain[3].header.hlc + 1, "other")
    spoiled = [chain[0], *(Entry(each.header, bytes(64), each.payload) for each in chain[1:3])]
    for document, last in ((one, chain[3]), (two, other)):
        document.receive(encode_chain([*spoiled, last], with_prev=True), "liar")
    exchange(one, two)
    exchange(one, three)
    assert three.id_at(chain[0].header.author, 2) == chain[2].id
    assert list(one.forks()) == list(two.forks()) == list(three.forks())
    assert one.root == two.root == three.root


@pytest.mark.parametrize(
    "ranges",
    [
        [Range(b"", None, ()), Range(b"", None, ())],
        [Range(b"a", b"c", ()), Range(b"b", b"d", ())],
        [Range(b"c", b"d", ()), Range(b"a", b"b", ())],
    ],
)
def test_ranges_of_several_messages_do_not_overlap(make, ranges):
    """Each costs a look at all authors in it: 5,000 that have 300 took seconds, and 35 KB."""
    document = make(1)
    session = SyncSession(document, "peer", NONCE, is_opener=False)
    first, second = (message for each in ranges for message in encode_ranges([each]))
    session.take(first)
    with pytest.raises(RemoteProtocolError, match="overlap"):
        session.take(second)


def test_ranges_of_several_messages_may_touch_and_begin_anew_each_turn(make):
    session = SyncSession(make(1), "peer", NONCE, is_opener=False)
    for _ in range(2):
        for each in (Range(b"a", b"b", bytes(16)), Range(b"b", None, bytes(16))):
            for message in encode_ranges([each]):
                session.take(message)
        assert session.take(TURN)
        list(session.turn())


def test_an_author_is_wanted_once_in_a_turn(make):
    """Each want is answered with all that the author has written."""
    author = bytes(32)
    session = SyncSession(make(1), "peer", NONCE, is_opener=False)
    [message] = encode_wants([Want(author, 0, False)])
    session.take(message)
    with pytest.raises(RemoteProtocolError, match="twice"):
        session.take(message)
    [twice] = encode_wants([Want(author, 0, False), Want(author, 1, False)])
    session = SyncSession(make(2), "peer", NONCE, is_opener=False)
    with pytest.raises(RemoteProtocolError, match="twice"):
        session.take(twice)
