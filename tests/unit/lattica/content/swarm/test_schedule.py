"""Who is asked for what: the schedule alone, and many of them in a simulated network."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.content.download.plan import Span
from lattica.content.swarm.schedule import SILENT_AFTER, Schedule

MIB = 1 << 20


def schedule(pieces: int, seed: int = 1) -> Schedule[str]:
    made = Schedule[str](pieces, random.Random(seed), 32 * MIB)
    made.want(Span(number, 1, MIB) for number in range(pieces))
    return made


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


def ask(made: Schedule[str], source: str, now: float) -> list[int]:
    found = []
    while (piece := made.next(source, now)) is not None:
        found.append(piece)
    return found


def deliver(made: Schedule[str], source: str, piece: int, now: float) -> None:
    made.came(source, MIB, now)
    if made.arrived(source, piece, now):
        made.done(piece)


def test_one_source_is_asked_in_order_and_ever_more_ahead():
    made = schedule(100)
    made.add("a", 0.0, complete=True)
    asked = ask(made, "a", 0.0)
    assert asked == [0]
    order, now = [], 0.0
    longest = 0
    while asked:
        piece = asked.pop(0)
        now += 0.01
        deliver(made, "a", piece, now)
        order.append(piece)
        asked += ask(made, "a", now)
        longest = max(longest, len(asked))
    assert order == list(range(100))
    assert made.is_finished
    assert 16 < longest <= 52  # half a second of what it brings, 100 MiB a second


def test_a_slow_source_has_few_pieces_under_way():
    made = schedule(100)
    made.add("a", 0.0, complete=True)
    asked, now = ask(made, "a", 0.0), 0.0
    for _ in range(20):
        now += 2.0
        deliver(made, "a", asked.pop(0), now)
        asked += ask(made, "a", now)
        assert len(asked) <= 4


def test_rarest_first():
    made = schedule(4)
    made.add("all", 0.0, complete=True)
    for name, has in (("b", bits(0, 1, 3)), ("c", bits(0, 3)), ("d", bits(3))):
        made.add(name, 0.0)
        made.set_holdings(name, has)
    assert made.next("all", 0.0) == 2  # nobody else has it
    assert made.next("b", 0.0) == 1
    assert made.next("c", 0.0) == 0
    assert made.next("d", 0.0) == 3


def test_holdings_that_grow_and_that_were_not_true():
    made = schedule(3)
    made.add("a", 0.0)
    assert made.next("a", 0.0) is None
    assert made.is_stuck
    made.add_holdings("a", [1])
    assert made.next("a", 0.0) == 1
    made.refused("a", 1)
    assert made.next("a", 0.0) is None
    assert made.is_stuck
    made.set_holdings("a", None)
    assert made.next("a", 0.0) == 2


def test_a_piece_of_several_chunks_is_had_of_who_has_them_all():
    made = Schedule[str](5, random.Random(1), 32 * MIB)
    made.want([Span(0, 3, 1000), Span(3, 2, 1000)])
    made.add("a", 0.0)
    made.set_holdings("a", bits(0, 2, 3, 4))
    assert ask(made, "a", 0.0) == [1]
    made.add_holdings("a", [1])
    assert ask(made, "a", 0.0) == [0]


def test_what_is_being_sent_to_others_is_held_back_for_a_while_and_once():
    made = schedule(3)
    made.add("a", 0.0, complete=True)
    made.hold_back("a", [0, 1], 0.0)
    assert made.next("a", 0.0) == 2
    deliver(made, "a", 2, 0.1)
    assert made.next("a", 0.2) is None
    # Who has it is asked at once.
    made.add("b", 0.2)
    made.set_holdings("b", bits(1))
    assert made.next("b", 0.2) == 1
    deliver(made, "b", 1, 0.3)
    assert made.next("a", SILENT_AFTER - 0.1) is None
    assert made.next("a", SILENT_AFTER + 0.1) == 0
    made.broken("a", 6.0)
    made.hold_back("a", [0], 6.0)
    assert made.next("a", 6.0) == 0


def test_work_is_stolen_from_who_is_much_slower():
    made = schedule(4)
    for name in "ab":
        made.add(name, 0.0, complete=True)
    slow = ask(made, "a", 0.0)
    now = 0.0
    fast = ask(made, "b", now)
    while fast:
        now += 0.1
        deliver(made, "b", fast.pop(0), now)
        fast += ask(made, "b", now)
    assert slow == [0]
    now += 2.0
    assert ask(made, "b", now) == [0]
    deliver(made, "b", 0, now + 0.1)
    assert not made.arrived("a", 0, now + 1.0)
    assert made.is_finished


def test_a_source_that_sends_nothing_loses_its_work_and_comes_back():
    made = schedule(2)
    made.add("a", 0.0, complete=True)
    assert made.next("a", 0.0) == 0
    assert made.silence(SILENT_AFTER) == []  # nobody else could do better
    made.add("b", 1.0, complete=True)
    assert made.silence(SILENT_AFTER - 0.1) == []
    assert made.silence(SILENT_AFTER) == ["a"]
    assert made.silence(SILENT_AFTER) == []
    assert made.next("b", SILENT_AFTER) == 1
    deliver(made, "b", 1, 5.1)
    assert made.next("b", 5.2) == 0
    assert made.next("a", 5.2) is None
    deliver(made, "a", 0, 6.0)
    assert not made.arrived("b", 0, 6.1)
    assert made.is_finished


def test_who_was_fast_and_is_lost_keeps_nothing_from_the_slow():
    """While its stream is made anew, others are asked for what it has, too."""
    made = schedule(4)
    for name in "ab":
        made.add(name, 0.0, complete=True)
    assert made.next("a", 0.0) == 0
    assert made.next("b", 0.0) == 1
    deliver(made, "b", 1, 0.01)
    deliver(made, "a", 0, 6.0)
    assert made.next("a", 6.0) is None  # the other one has it sooner
    made.broken("b", 6.1)
    assert made.next("a", 6.1) == 2
    assert made.next("b", 6.2) == 3


def test_wrong_bytes_are_had_again_from_somebody_else():
    made = schedule(1)
    made.add("a", 0.0, complete=True)
    assert made.next("a", 0.0) == 0
    assert made.arrived("a", 0, 0.1)
    made.failed(0)
    assert not made.is_finished
    made.remove("a")
    made.add("b", 0.1, complete=True)
    assert made.next("b", 0.1) == 0
    deliver(made, "b", 0, 0.2)
    assert made.is_finished


def test_what_got_lost_is_wanted_again():
    made = schedule(2)
    made.add("a", 0.0, complete=True)
    made.add("b", 0.0)
    made.set_holdings("b", bits(1))
    for _ in range(2):
        piece = made.next("a", 0.0)
        assert piece is not None
        deliver(made, "a", piece, 0.1)
    made.want([Span(1, 1, MIB)])
    assert made.next("b", 0.2) == 2
    deliver(made, "b", 2, 0.3)
    assert made.is_finished


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_every_piece_is_done_once_and_nothing_is_forgotten(data):
    pieces = data.draw(st.integers(1, 12))
    made = schedule(pieces, data.draw(st.integers(0, 99)))
    names = ["a", "b", "c"]
    made.add("a", 0.0, complete=True)
    done: Counter[int] = Counter()
    asked: dict[str, list[int]] = {name: [] for name in names}
    now = 0.0
    steps = st.sampled_from(["ask", "come", "wrong", "break", "leave", "join", "has", "silence"])
    for _ in range(data.draw(st.integers(0, 60))):
        step, name = data.draw(steps), data.draw(st.sampled_from(names))
        now += data.draw(st.sampled_from([0.0, 0.1, 6.0]))
        if step == "join" and name not in made:
            made.add(name, now)
        if name not in made:
            continue
        if step == "ask":
            asked[name] += ask(made, name, now)
        elif step in ("come", "wrong") and asked[name]:
            piece = asked[name].pop(0)
            made.came(name, MIB, now)
            if made.arrived(name, piece, now):
                if step == "wrong":
                    made.failed(piece)
                else:
                    made.done(piece)
                    done[piece] += 1
        elif step == "break":
            made.broken(name, now)
            asked[name].clear()
        elif step == "leave" and name != "a":
            made.remove(name)
            asked[name].clear()
        elif step == "has":
            made.add_holdings(name, data.draw(st.lists(st.integers(0, pieces - 1))))
        elif step == "silence":
            made.silence(now)
    # Whatever was going on, a source that has all brings the rest.
    for name in names:
        if name in made:
            made.broken(name, now)
    for _ in range(10 * pieces):
        now += 10.0
        for piece in ask(made, "a", now):
            made.came("a", MIB, now)
            if made.arrived("a", piece, now):
                made.done(piece)
                done[piece] += 1
    assert made.is_finished
    assert done == Counter(range(pieces))


# --- many at once ---


class Network:
    """Downloaders with a schedule each, and a source: uplinks in line, messages with a delay."""

    def __init__(
        self, peers: int, pieces: int, uplinks: dict[str, float], seed: int, lag: float = 0.0
    ) -> None:
        self.rng = random.Random(seed)
        self.pieces = pieces
        self.uplinks = uplinks
        self.names = [f"p{number}" for number in range(peers)]
        self.schedules = {name: schedule(pieces, seed + n) for n, name in enumerate(self.names)}
        self.has: dict[str, set[int]] = {name: set() for name in self.names}
        self.free_at: dict[str, float] = defaultdict(float)
        self.sent: Counter[str] = Counter()
        self.events: list[tuple[float, int, tuple[object, ...]]] = []
        self.order = count()
        self.finished: dict[str, float] = {}
        self.lag = lag
        self.claims: dict[int, str] = {}
        self.deferred: set[tuple[str, int]] = set()

    def at(self, when: float, *event: object) -> None:
        heapq.heappush(self.events, (when, next(self.order), event))

    def ask(self, name: str, now: float) -> None:
        made = self.schedules[name]
        for source in made.sources():
            while made.has_room(source) and (piece := made.next(source, now)) is not None:
                if source == "source":
                    owner = self.claims.setdefault(piece, name)
                    if owner != name and (name, piece) not in self.deferred:
                        self.deferred.add((name, piece))
                        self.at(now + 0.04, "later", name, piece)
                        continue
                rate = self.uplinks.get(source, 60 * MIB)
                begin = max(self.free_at[source], now + 0.02)
                self.free_at[source] = end = begin + MIB / rate
                self.sent[source] += 1
                self.at(end + 0.02, "piece", name, source, piece)
                if source == "source":
                    for other in self.names:
                        if other != name:
                            self.at(now + 0.05 + self.lag, "sending", other, piece)

    def run(self, starts: list[float]) -> float:
        for name, start in zip(self.names, starts, strict=True):
            self.at(start, "start", name)
        now = 0.0
        while self.events and len(self.finished) < len(self.names):
            now, _, (kind, *arguments) = heapq.heappop(self.events)
            assert now < 3600
            getattr(self, f"on_{kind}")(now, *arguments)
        assert len(self.finished) == len(self.names)
        return now

    def on_start(self, now: float, name: str) -> None:
        made = self.schedules[name]
        made.scatter()
        made.add("source", now, complete=True)
        for other in self.names:
            if other != name and "source" in self.schedules[other]:
                self.at(now + 0.06, "meet", name, other)
                self.at(now + 0.06, "meet", other, name)
        self.at(now, "tick", name)

    def on_meet(self, now: float, name: str, other: str) -> None:
        self.schedules[name].add(other, now)
        self.schedules[name].set_holdings(other, bits(*self.has[other]))
        self.ask(name, now)

    def on_tick(self, now: float, name: str) -> None:
        self.ask(name, now)
        if name not in self.finished:
            self.at(now + 0.25, "tick", name)

    def on_sending(self, now: float, name: str, piece: int) -> None:
        if "source" in self.schedules[name]:
            self.schedules[name].hold_back("source", [piece], now)

    def on_later(self, now: float, name: str, piece: int) -> None:
        self.schedules[name].deferred("source", piece, now)
        self.ask(name, now)

    def on_has(self, now: float, name: str, other: str, piece: int) -> None:
        if other in self.schedules[name]:
            self.schedules[name].add_holdings(other, [piece])
            self.ask(name, now)

    def on_piece(self, now: float, name: str, source: str, piece: int) -> None:
        made = self.schedules[name]
        deliver(made, source, piece, now)
        self.has[name].add(piece)
        for other in self.names:
            if other != name:
                self.at(now + 0.07 + self.lag, "has", other, name, piece)
        if len(self.has[name]) == self.pieces:
            self.finished.setdefault(name, now)
        self.ask(name, now)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("spread", "lag"), [(0.0, 0.0), (0.5, 0.5), (5.0, 0.0)])
def test_eight_at_once_cost_a_slow_source_little_more_than_one(spread, lag, seed):
    """Also where news comes late."""
    pieces, uplink = 48, 4 * MIB
    net = Network(8, pieces, {"source": uplink}, seed, lag)
    began = [spread * net.rng.random() for _ in range(8)]
    took = net.run(began)
    assert net.sent["source"] <= 1.3 * pieces
    assert took <= 2 * pieces * MIB / uplink


def test_a_fast_source_is_not_held_up_by_slow_peers():
    pieces = 64
    slow = {f"p{number}": 0.5 * MIB for number in range(3)}
    net = Network(3, pieces, {"source": 200 * MIB, **slow}, 1)
    assert net.run([0.0, 0.0, 0.0]) <= 15.0


def test_two_equal_sources_share_the_work():
    made = schedule(200)
    free: dict[str, float] = defaultdict(float)
    queue: list[tuple[float, str, int]] = []
    brought: Counter[str] = Counter()
    for name in "ab":
        made.add(name, 0.0, complete=True)
    now = 0.0
    while True:
        for name in "ab":
            for piece in ask(made, name, now):
                free[name] = max(free[name], now) + 0.05
                heapq.heappush(queue, (free[name], name, piece))
        if not queue:
            break
        now, name, piece = heapq.heappop(queue)
        deliver(made, name, piece, now)
        brought[name] += 1
    assert made.is_finished
    assert now <= 200 * 0.05 / 2 * 1.3
    assert min(brought.values()) > 70


def test_what_was_held_back_is_asked_of_who_has_everything_since():
    """Who was waited for has become complete: of others it is still not asked."""
    made = schedule(2)
    made.add("a", 0.0, complete=True)
    made.add("b", 0.0)
    made.hold_back("a", [0, 1], 0.0)
    assert made.next("a", 0.0) is None
    made.set_holdings("b", None)
    assert made.next("a", 0.1) is None
    assert made.next("b", 0.1) is not None


def test_nobody_is_waited_for_who_is_gone():
    made = schedule(2)
    made.add("a", 0.0, complete=True)
    made.hold_back("a", [0, 1], 0.0)
    assert made.next("a", 0.0) is None
    made.release_held()
    assert made.next("a", 0.1) is not None
