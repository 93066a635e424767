"""Pieces of data with gaps between them: who leaves too many is let go, and nobody else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import pytest

from lattica.errors import RemoteProtocolError
from lattica.nat.base.limits.places import Source
from lattica.nat.config import KIB, MIB
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.quic.session import reassembly
from lattica.nat.quic.session.reassembly import Reassembly
from tests.support.pairs.mux_streams import take_all, write
from tests.support.pairs.quic_pair import CLIENT_ADDRESS, Link, Pair
from tools.attack.attacks.quic_packets import Sealer, filled, gaps, stream_gaps, tls_gaps, varint

OFTEN = 2 * KIB
MANY = 6000
"""Packets; about a thousand are enough."""


@pytest.fixture
def often(monkeypatch: Any) -> None:
    """One datagram of two or so is looked at."""
    monkeypatch.setattr(reassembly, "_EVERY", OFTEN)


def watch(pair: Pair, side: int = 1) -> Reassembly:
    return pair.sides[side].session._reassembly


class Enemy:
    """Sends packets that no library does to the server of a pair."""

    def __init__(self, pair: Pair) -> None:
        self.victim = pair.b.session
        self.sealer = Sealer(pair.a.session._drive.core, self.victim.connection_ids[0])
        self.sent = 0

    def send(self, frames: bytes, before: bytes = b"") -> None:
        """Have the victim receive a packet with these frames, behind something else."""
        datagram = before + self.sealer.packet(frames)
        self.sent += 1
        self.victim.receive(datagram, len(datagram), CLIENT_ADDRESS)

    def send_all(
        self,
        frames: Iterator[bytes],
        *,
        before: bytes = b"",
        step: int = 0,
        why: str = "gaps that nobody fills",
    ) -> None:
        """Go on until the victim has had enough; the packets' numbers grow by `step` more."""
        packets = filled(frames)
        with pytest.raises(RemoteProtocolError, match=why):
            self._send_many(packets, before, step)

    def _send_many(self, packets: Iterator[bytes], before: bytes, step: int) -> None:
        while self.sent < MANY:
            self.send(next(packets), before)
            self.sealer.number += step


@pytest.mark.parametrize(
    "frames",
    [gaps, tls_gaps, lambda: stream_gaps(0), lambda: stream_gaps(4), lambda: stream_gaps(1)],
)
def test_who_leaves_gaps_without_end_is_let_go(frames: Callable[[], Iterator[bytes]]) -> None:
    pair = Pair().establish()
    pair.open(0)
    pair.open(1)
    Enemy(pair).send_all(frames())


def test_it_does_not_help_to_use_many_streams() -> None:
    pair = Pair().establish()
    several = [stream_gaps(4 * number) for number in range(64)]
    mixed = (next(several[number % 64]) for number in count())
    Enemy(pair).send_all(mixed)


def test_what_cannot_be_read_counts_as_if_it_were_full_of_them() -> None:
    pair = Pair().establish()
    Enemy(pair).send_all(gaps(), step=1 << 30)


def test_what_is_hidden_behind_another_packet_counts_as_well() -> None:
    pair = Pair().establish()
    enemy = Enemy(pair)
    cid = enemy.victim.connection_ids[0]
    other = b"\xe0\x00\x00\x00\x01" + bytes((len(cid),)) + cid + b"\x00" + b"\x20" + bytes(32)
    enemy.send_all(gaps(), before=other)


def test_what_others_have_sent_says_nothing_of_the_peer(often: None) -> None:
    pair = Pair().establish()
    victim = pair.b.session
    for _ in range(3000):
        victim.receive(b"\x40" + victim.connection_ids[0] + bytes(1100), 1109, CLIENT_ADDRESS)
    assert not watch(pair).pieces
    pair.open()


@pytest.mark.parametrize("seed", range(4))
def test_what_is_lost_and_late_leaves_nothing(often: None, seed: int) -> None:
    pair = Pair().establish()
    pair.link = Link(delay=0.02, jitter=0.01, loss=0.05, duplication=0.05, seed=seed)
    sessions = [side.session for side in pair.sides]
    opened = [sessions[number % 2].open() for number in range(60)]
    for number, stream in enumerate(opened):
        write(stream, bytes(1 + number * 7919 % 60_000))
    sent = sum(stream.send_pending for stream in opened)
    got = most = 0

    def read() -> None:
        nonlocal got, most
        most = max(most, watch(pair, 0).pieces, watch(pair, 1).pieces)
        got += sum(len(take_all(stream)) for side in pair.sides for stream in side.accepted)

    assert pair.run(lambda: got == sent, each=read)
    assert 0 < most < 1000
    pair.link = Link()
    pair.settle(10)
    for stream in (*opened, *pair.a.accepted, *pair.b.accepted):
        stream.finish()
    pair.settle(10)
    for side, session in enumerate(sessions):
        assert not session.streams
        assert not watch(pair, side).pieces
        assert set(watch(pair, side)._read) == {0}


@pytest.mark.parametrize("frame", [b"\x04", None], ids=["reset", "stop"])
def test_what_waits_is_gone_with_its_stream(often: None, frame: bytes | None) -> None:
    pair = Pair().establish()
    _, theirs = pair.open()
    enemy = Enemy(pair)
    for payload in islice(filled(stream_gaps(theirs.id)), 100):
        enemy.send(payload)
    assert watch(pair).pieces > 1000
    ends = varint(theirs.id) + varint(0) + varint(1 << 20)
    if frame is None:
        pair.b.session.reset(theirs)
        pair.transmit(1)
        frame = b"\x04"
    enemy.send(frame + ends)
    assert not watch(pair).pieces


def with_a_hole(stream_id: int) -> Iterator[bytes]:
    for number in count(10):
        yield b"\x0e" + varint(stream_id) + varint(1000 * number) + varint(1000) + bytes(1000)


def test_who_has_most_of_the_memory_for_what_waits_is_let_go(often: None) -> None:
    budget = MemoryBudget(MIB)
    pairs = [
        Pair(b={"budget": budget, "source": Source("?", network)}).establish()
        for network in ("theirs", "ours")
    ]
    bad, good = map(Enemy, pairs)
    of_good = filled(with_a_hole(0))
    for _ in range(200):  # less than half of what may wait, and left there
        good.send(next(of_good))
    assert 0 < watch(pairs[1]).size == budget.waiting
    bad.send_all(with_a_hole(0), why="has most of it")
    assert bad.sent < 1000
    for _ in range(100):
        good.send(next(of_good))
    pairs[0].b.session.shut(1, "")
    assert budget.waiting == watch(pairs[1]).size > 0
    pairs[1].b.session.close("")
    assert not budget.waiting


def test_all_that_may_be_under_way_behind_one_that_was_lost(often: None) -> None:
    pair = Pair(Link(delay=0.1)).establish()
    mine, theirs = pair.open()
    size, got, most = 12 * MIB, 0, 0
    write(mine, bytes(size))
    mine.finish()
    late = False

    def fate(side: int, datagram: bytes) -> list[tuple[float, bytes]]:
        nonlocal late
        if side == 0 and got > 4 * MIB and not late and len(datagram) > 1000:
            late = True
            return [(1.0, datagram)]
        return [(0.1, datagram)]

    pair.link.fate = fate

    def read() -> None:
        nonlocal got, most
        got += len(take_all(theirs))
        most = max(most, watch(pair).pieces)

    assert pair.run(lambda: got == size + 2, each=read)
    assert 100 < most < reassembly._ORDINARY
    pair.settle(3)
    assert not watch(pair).pieces


def test_messages_and_acknowledgements_are_no_pieces(often: None) -> None:
    pair = Pair(Link(delay=0.001)).establish()
    pair.b.session.wants_messages = True
    mine, theirs = pair.open()
    for _ in range(200):
        pair.a.session.send_message(bytes(900))
        write(theirs, bytes(5000))
        pair.settle(0.01)
        take_all(mine)
    assert not watch(pair, 0).pieces
    assert not watch(pair, 1).pieces
