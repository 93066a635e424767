"""What is lent: one end each, whatever happens, and within the times that are promised."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.rpc.errors import ResourceExhaustedError
from lattica.rpc.leases import book as books
from lattica.rpc.leases.book import AWAY, SILENCE, Lease, LeaseBook, LeaseEnd, Loan

PEERS = [Identity.generate().peer_id for _ in range(3)]
ANNA, BERT, CLARA = PEERS
BUDGET = 1000
DEATH = 15.0
"""Seconds within which a reader's death frees what it had been lent."""
peers = st.sampled_from(PEERS)


class Machine(RuleBasedStateMachine):
    """Readers that beat, read, release, vanish and come back; owners that withdraw."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.book = LeaseBook(BUDGET)
        self.made: list[Lease] = []
        self.ends: dict[bytes, LeaseEnd] = {}
        self.connected = set(PEERS)
        self.gone_since: dict[PeerId, float] = {}
        self.last_sign: dict[bytes, float] = {}

    def ended(self, lease: Lease | None) -> None:
        if lease is not None:
            assert lease.id not in self.ends, "two ends"
            assert lease.end is not None
            self.ends[lease.id] = lease.end

    def lease(self, number: int) -> Lease | None:
        return self.made[number % len(self.made)] if self.made else None

    @rule(peer=peers, size=st.integers(0, 400), ttl=st.floats(0.5, 60.0), again=st.booleans())
    def lend(self, peer: PeerId, size: int, ttl: float, again: bool) -> None:
        alive = [each for each in self.made if each.end is None]
        loan = alive[-1].loan if again and alive else Loan(object(), size)
        needed = 0 if loan.leases else loan.size
        name = len(self.made).to_bytes(16, "big")
        try:
            self.made.append(self.book.lend(name, loan, peer, ttl, self.now))
        except ResourceExhaustedError:
            assert self.book.used + needed > BUDGET
            return
        self.last_sign[name] = self.now

    @rule(number=st.integers(0, 50), peer=peers)
    def read(self, number: int, peer: PeerId) -> None:
        lease = self.lease(number)
        if lease is not None:
            found = self.book.find(lease.id, peer, self.now)
            assert found is None or (found is lease and lease.peer == peer and lease.end is None)
            if found is not None:
                self.last_sign[lease.id] = self.now

    @rule(peer=peers)
    def beat(self, peer: PeerId) -> None:
        ids = [each.id for each in self.made]
        for lease, lives in zip(self.made, self.book.beat(ids, peer, self.now), strict=True):
            assert not lives or (lease.peer == peer and lease.end is None)
            if lives:
                self.last_sign[lease.id] = self.now

    @rule(peer=peers)
    def rest(self, peer: PeerId) -> None:
        """All that a reader has is dropped: its time runs, and silence is no death."""
        ids = [each.id for each in self.made]
        alive = [each for each in self.made if self.book.find(each.id, peer, self.now) is each]
        self.book.rest(ids, peer, self.now)
        for lease in alive:
            assert not lease.beats
            self.last_sign[lease.id] = self.now

    @rule(number=st.integers(0, 50), peer=peers)
    def release(self, number: int, peer: PeerId) -> None:
        lease = self.lease(number)
        if lease is not None:
            ended = self.book.release(lease.id, peer)
            assert ended is None or lease.peer == peer
            self.ended(ended)

    @rule(number=st.integers(0, 50))
    def withdraw(self, number: int) -> None:
        lease = self.lease(number)
        if lease is not None:
            self.ended(self.book.withdraw(lease.id))

    @rule(peer=peers)
    def connect_or_not(self, peer: PeerId) -> None:
        self.connected ^= {peer}
        if peer in self.connected:
            self.gone_since.pop(peer, None)
        else:
            self.gone_since[peer] = self.now

    @rule(seconds=st.floats(0.01, 30.0))
    def wait(self, seconds: float) -> None:
        """The driver looks once a second."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            self.book.note_connections(frozenset(self.connected), self.now)
            for lease in self.book.expire(self.now):
                self.ended(lease)

    @invariant()
    def every_lease_has_at_most_one_end(self) -> None:
        for lease in self.made:
            assert self.ends.get(lease.id) == lease.end
        assert self.book.ends.total() == len(self.ends)
        assert len(self.book) == len(self.made) - len(self.ends)

    @invariant()
    def the_budget_is_what_lives(self) -> None:
        loans = {id(each.loan): each.loan for each in self.made if each.end is None}
        assert self.book.used == sum(each.size for each in loans.values()) <= BUDGET

    @invariant()
    def nobody_is_kept_for_longer_than_promised(self) -> None:
        for lease in self.made:
            if lease.end is None:
                silent = self.now - self.last_sign[lease.id]
                assert silent <= lease.ttl + 1.0
                assert not lease.beats or silent <= DEATH
                gone = self.gone_since.get(lease.peer)
                assert gone is None or self.now - max(gone, self.last_sign[lease.id]) <= DEATH


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


def lent(ttl: float = 20.0, *, size: int = 10) -> tuple[LeaseBook, Lease]:
    book = LeaseBook(BUDGET)
    return book, book.lend(bytes(16), Loan(object(), size), ANNA, ttl, 0.0)


def test_it_expires_without_a_sign_of_life() -> None:
    book, lease = lent(20.0)
    assert book.next_due == 20.0
    assert book.find(lease.id, ANNA, 19.0) is lease
    assert book.expire(20.0) == []
    assert book.find(lease.id, BERT, 38.0) is None  # no sign of its reader's
    assert book.expire(39.0) == [lease]
    assert (lease.end, book.used) == (LeaseEnd.EXPIRED, 0)
    assert len(book) == 0
    assert book.find(lease.id, ANNA, 39.0) is None


def test_silence_after_heartbeats_is_death() -> None:
    book, lease = lent(60.0)
    assert book.beat([lease.id, bytes(15) + b"x"], ANNA, 1.0) == [True, False]
    assert book.expire(1.0 + SILENCE - 0.1) == []
    assert book.expire(1.0 + SILENCE) == [lease]
    assert lease.end is LeaseEnd.PEER_LOST
    assert book.beat([lease.id], ANNA, 14.0) == [False]


def test_a_reader_that_is_not_connected_has_ten_seconds_to_come_back() -> None:
    book, lease = lent(60.0)
    book.note_connections(frozenset(), 1.0)
    book.note_connections(frozenset({ANNA}), 8.0)
    assert book.expire(1.0 + AWAY) == []
    book.note_connections(frozenset(), 12.0)
    assert book.expire(12.0 + AWAY) == [lease]
    assert lease.end is LeaseEnd.PEER_LOST


def test_what_is_due_is_not_read_though_nobody_has_looked() -> None:
    book, lease = lent(5.0)
    assert book.find(lease.id, ANNA, 5.0) is None
    assert lease.end is None
    assert book.expire(5.0) == [lease]


def test_a_buffer_that_is_lent_twice_counts_once() -> None:
    book, lease = lent(size=600)
    second = book.lend(b"b" * 16, lease.loan, BERT, 9.0, 0.0)
    assert book.used == 600
    with pytest.raises(ResourceExhaustedError, match=r"rpc\.lease_memory is 1000"):
        book.lend(b"c" * 16, Loan(object(), 401), BERT, 9.0, 0.0)
    assert book.release(lease.id, BERT) is None
    assert book.release(lease.id, ANNA) is lease
    assert book.used == 600
    assert book.withdraw_all() == [second]
    assert (book.used, len(book), second.end) == (0, 0, LeaseEnd.WITHDRAWN)


def test_leases_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MOST_LEASES_OF_PEER", 1)
    book, _ = lent()
    with pytest.raises(ResourceExhaustedError, match="1 leases, 1 of them"):
        book.lend(b"b" * 16, Loan(object(), 0), ANNA, 9.0, 0.0)
    book.lend(b"b" * 16, Loan(object(), 0), BERT, 9.0, 0.0)


def test_heartbeats_do_not_make_the_queue_grow() -> None:
    book, lease = lent()
    for second in range(2000):
        book.beat([lease.id], ANNA, float(second))
        book.expire(float(second))
    assert len(book._queue) < 100


def test_no_network_can_borrow_everything() -> None:
    book = LeaseBook(1000, most_of_network=700)
    book.lend(b"a" * 16, Loan(object(), 400), ANNA, 9.0, 0.0, "there")
    first = book.lend(b"b" * 16, Loan(object(), 300), BERT, 9.0, 0.0, "there")
    with pytest.raises(ResourceExhaustedError, match="lease_memory_per_network is 700") as raised:
        book.lend(b"c" * 16, Loan(object(), 1), CLARA, 9.0, 0.0, "there")
    assert not raised.value.may_have_run
    book.lend(b"d" * 16, Loan(object(), 300), CLARA, 9.0, 0.0, "elsewhere")
    book.release(first.id, BERT)
    book.lend(b"e" * 16, Loan(object(), 300), CLARA, 9.0, 0.0, "there")


def test_no_network_can_have_all_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MOST_LEASES_OF_NETWORK", 2)
    book = LeaseBook(1000)
    for number, peer in enumerate((ANNA, BERT)):
        book.lend(bytes([number]) * 16, Loan(object(), 1), peer, 9.0, 0.0, "there")
    with pytest.raises(ResourceExhaustedError, match="2 leases of a network"):
        book.lend(b"c" * 16, Loan(object(), 1), CLARA, 9.0, 0.0, "there")
    book.lend(b"d" * 16, Loan(object(), 1), CLARA, 9.0, 0.0, "elsewhere")
    book.withdraw_all()
    book.lend(b"e" * 16, Loan(object(), 1), CLARA, 9.0, 0.0, "there")
