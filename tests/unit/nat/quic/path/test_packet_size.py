"""How large datagrams may be: paths that shrink, heal and die, on a virtual clock."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.quic.path.packet_size import (
    HEADER,
    SMALLEST,
    PacketSize,
    is_size_message,
)
from lattica.nat.quic.path.peer_path import connection_id
from lattica.nat.quic.path.pieces import HEADER as PIECE_HEADER
from lattica.nat.quic.path.pieces import Cutter, Joiner, is_piece
from tests.support.clock import Clock

CID = b"peer-cid"
FULL = 1452
A, B = b"a" * 32, b"b" * 32


class PathBetween:
    """Two ends, and a path that loses what is larger than `largest`, and some of the rest."""

    def __init__(self, largest: int, loss: float = 0.0, seed: int = 1, delay: float = 0.0) -> None:
        self.clock = Clock(100.0)
        self.largest = largest
        self.loss = loss
        self.delay = delay
        self.under_way: deque[tuple[float, bytes]] = deque()
        self.random = random.Random(seed)
        self.sent: list[bytes] = []
        self.ours = PacketSize(sending_key=A, receiving_key=B, clock=self.clock)
        self.theirs = PacketSize(sending_key=B, receiving_key=A, clock=self.clock)

    def _passes(self, datagram: bytes) -> bool:
        return len(datagram) <= self.largest and self.random.random() >= self.loss

    def limit(self) -> int | None:
        return self.ours.limit

    def dead(self) -> bool:
        return self.ours.dead

    def run(self, seconds: float, *, losing: bool = False) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            if losing:
                self.ours.suspect(FULL)
            for probe in self.ours.probes(CID, 0.02):
                self.sent.append(probe)
                if self._passes(probe):
                    answer = self.theirs.answer(probe, CID)
                    assert len(answer) <= len(probe)
                    assert is_size_message(probe)
                    assert is_size_message(answer)
                    assert connection_id(answer) == CID
                    if self._passes(answer):
                        self.under_way.append((self.clock.now + self.delay, answer))
            while self.under_way and self.under_way[0][0] <= self.clock.now:
                self.ours.receive_answer(self.under_way.popleft()[1])
            self.clock.now += 0.05


def test_a_path_that_loses_nothing_is_not_probed():
    path = PathBetween(1500)
    path.run(3600)
    assert path.sent == []
    assert path.limit() is None


@pytest.mark.parametrize(
    ("largest", "limit"),
    [(1452, None), (1451, 1200), (1200, 1200), (1199, 540), (540, 540), (539, None)],
)
def test_the_largest_size_that_gets_through(largest, limit):
    path = PathBetween(largest)
    path.run(2, losing=True)
    assert path.limit() == limit
    assert path.dead() is (largest < SMALLEST)


def test_it_shrinks_further_and_heals():
    path = PathBetween(1300)
    path.run(2, losing=True)
    assert path.limit() == 1200
    path.largest = 800
    path.run(3, losing=True)
    assert path.limit() == 540
    path.run(700)  # nobody looks more often than every ten minutes in the end
    assert path.limit() == 540
    path.largest = 1500
    path.run(620)
    assert path.limit() is None
    before = len(path.sent)
    path.run(3600)
    assert len(path.sent) == before


@pytest.mark.parametrize("delay", [0.5, 1.5, 3.0])
@pytest.mark.parametrize(("largest", "limit"), [(1500, None), (1300, 1200)])
def test_a_slow_path_is_not_dead(delay, largest, limit):
    """Answers that are later than a test, from a busy peer or through full queues, count."""
    path = PathBetween(largest, delay=delay)
    path.run(delay + 1, losing=True)
    for _ in range(60):
        path.run(0.5, losing=True)
        assert not path.dead()
        assert path.ours.answers
    assert path.limit() == limit


def test_a_path_that_has_just_shrunk_is_tried_again_soon():
    path = PathBetween(1300)
    path.run(2, losing=True)
    path.largest = 1500
    path.run(11)
    assert path.limit() is None


def test_a_dead_path_is_known_as_such_and_may_live_again():
    path = PathBetween(0)
    path.run(5, losing=True)
    assert path.dead()
    assert path.ours.answers == 0
    path.largest = 1500
    path.run(2, losing=True)
    assert not path.dead()
    assert path.ours.answers > 0


def test_loss_of_all_sizes_alike_changes_nothing_and_costs_little():
    path = PathBetween(1500, loss=0.02)
    path.run(3600, losing=True)
    assert path.limit() is None
    assert len(path.sent) < 1000


def test_another_path_begins_anew():
    path = PathBetween(1300)
    path.run(2, losing=True)
    path.ours.moved()
    assert path.limit() is None
    before = len(path.sent)
    path.run(100)
    assert len(path.sent) == before


def test_forged_answers_change_nothing():
    path = PathBetween(0)
    path.run(0.1, losing=True)
    stranger = PacketSize(sending_key=b"s" * 32, receiving_key=A, clock=path.clock)
    for probe in path.sent:
        path.ours.receive_answer(stranger.answer(probe, CID))
    path.run(2, losing=True)
    assert path.ours.answers == 0


def test_what_is_none_of_these_messages():
    assert not is_size_message(b"\x12" + bytes(HEADER - 2))
    assert not is_size_message(b"\x13" + bytes(HEADER))
    assert not is_size_message(b"\x10" + bytes(HEADER - 1))


def fresh_joiner(budget: MemoryBudget | None = None) -> Joiner:
    return Joiner(budget or MemoryBudget(1 << 20), lambda: 1.0)


@given(
    st.lists(st.binary(min_size=1, max_size=1500), max_size=20),
    st.sampled_from([540, 1200]),
    st.randoms(use_true_random=False),
)
def test_pieces_in_any_order_make_the_datagrams(datagrams, limit, rng):
    pieces = Cutter().cut(datagrams, CID, limit)
    assert all(len(piece) <= limit and is_piece(piece) for piece in pieces)
    assert all(connection_id(piece) == CID for piece in pieces)
    rng.shuffle(pieces)
    joiner = fresh_joiner()
    joined = [whole for piece in pieces if (whole := joiner.receive(piece)) is not None]
    assert sorted(joined) == sorted(datagrams)
    assert joiner.size == 0


@given(st.lists(st.tuples(st.binary(max_size=60), st.sampled_from([0, 400, 1400, 1600, 65000]))))
def test_whatever_comes_costs_a_bounded_memory(pieces):
    budget = MemoryBudget(4000)
    joiner = fresh_joiner(budget)
    for piece, filling in pieces:
        joiner.receive(b"\x14" + CID + piece + bytes(filling))
        held = sum(len(p) for parts in joiner._waiting.values() for p in parts.pieces.values())
        assert held == joiner.size == budget.used <= budget.limit
        assert len(joiner._waiting) <= 64
    joiner.clear()
    assert (joiner.size, budget.used) == (0, 0)


def piece_of(number: int, index: int, count: int, size: int) -> bytes:
    return b"\x14" + CID + number.to_bytes(2, "big") + bytes((index << 4 | count,)) + bytes(size)


def test_pieces_that_never_become_whole_are_bounded_in_bytes():
    """64 datagrams of 14 pieces of 65,000 bytes were 50 MiB for each connection."""
    budget = MemoryBudget(1 << 30)
    joiner = fresh_joiner(budget)
    for number in range(64):
        for index in range(14):
            for size in (65000, 1500):  # longer than a frame of Ethernet, the header counted
                assert joiner.receive(piece_of(number, index, 15, size)) is None
    assert (joiner.size, budget.used) == (0, 0)
    for number in range(64):
        for index in range(14):
            assert joiner.receive(piece_of(number, index, 15, 1400)) is None
            assert joiner.size == budget.used <= 128 * 1024
    assert joiner.size > 100 * 1024
    # Who comes now is not kept out by them.
    whole = [joiner.receive(piece) for piece in Cutter().cut([bytes(1400)], CID, 540)]
    assert whole == [None, None, bytes(1400)]


def test_pieces_wait_for_a_second():
    now = 10.0
    joiner = Joiner(MemoryBudget(1 << 20), lambda: now)
    assert joiner.next_timer() is None
    first, second = (Cutter().cut([bytes([n]) * 1000], CID, 540) for n in (1, 2))
    joiner.receive(first[0])
    assert joiner.next_timer() == 11.0
    now = 10.9
    joiner.expire()
    assert joiner.receive(first[1]) == bytes([1]) * 1000
    joiner.receive(second[0])
    now = 11.9
    assert joiner.next_timer() == now
    joiner.expire()
    assert (joiner.size, joiner.next_timer()) == (0, None)


def test_a_piece_that_comes_twice_counts_once():
    joiner = fresh_joiner()
    first, second = Cutter().cut([bytes(1000)], CID, 540)
    assert [joiner.receive(first), joiner.receive(first)] == [None, None]
    assert joiner.size == len(first) - PIECE_HEADER
    assert joiner.receive(second) == bytes(1000)


def test_a_lost_piece_costs_its_datagram_only():
    cutter, joiner = Cutter(), fresh_joiner()
    first, second = (cutter.cut([bytes([n]) * 1400], CID, 540) for n in (1, 2))
    assert len(first) == 3
    assert [joiner.receive(piece) for piece in first[:2]] == [None, None]
    assert [joiner.receive(piece) for piece in second] == [None, None, bytes([2]) * 1400]
    assert joiner.receive(first[0][:PIECE_HEADER]) is None
