"""yamux: the split of the bytes never matters, and each byte comes once and in order.

The state machine joins two sessions by two wires and lets hypothesis do to them, in any order,
whatever applications, the network and the clock may do; a model knows what must come out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from lattica.errors import ConnectionClosedError, RemoteProtocolError, ResourceLimitError
from lattica.nat.config import Limits, Windows
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.events import EventKind
from lattica.nat.mux.session import INITIAL_WINDOW
from lattica.nat.mux.stream_state import MuxStream
from tests.support.clock import Clock
from tests.support.pairs.mux_streams import take_all
from tests.support.pairs.yamux_pair import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    MESSAGE,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Side,
    data_frame,
    drain,
    fill,
    fill_long,
    frame,
    parse,
)

# --- any split of the bytes ---

stream_ids = st.sampled_from([0, 1, 2, 3, 5, 7, 2**32 - 1])
flags = st.sampled_from([0, SYN, ACK, FIN, RST, SYN | FIN, SYN | ACK, ACK | FIN, SYN | RST])
frames = st.one_of(
    st.builds(data_frame, stream_ids, st.binary(max_size=30), flags),
    st.builds(lambda id_, n: data_frame(id_, b"z" * n), stream_ids, st.integers(1000, 70000)),
    st.builds(
        lambda f, id_, n: frame(WINDOW_UPDATE, f, id_, n),
        flags,
        stream_ids,
        st.sampled_from([0, 1, 1000, 2**32 - 1]),
    ),
    st.builds(lambda f, value: frame(PING, f, 0, value), flags, st.integers(0, 2**32 - 1)),
    st.builds(lambda code: frame(GO_AWAY, 0, 0, code), st.integers(0, 3)),
    st.binary(max_size=15),
)
# What a well-behaved peer sends comes first, so that there are streams to do something with.
scripts = st.tuples(
    st.lists(
        st.sampled_from([1, 3, 5]).map(lambda id_: data_frame(id_, b"hello", SYN)),
        max_size=3,
        unique=True,
    ),
    st.lists(frames, max_size=12),
).map(lambda parts: b"".join(parts[0] + parts[1]))
cut_lists = st.lists(st.integers(0, 2**20), max_size=12)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def outcome(pieces: list[bytes]) -> object:
    """Everything one can see of a session after it was fed `pieces`."""
    side = Side(initiator=False, clock=Clock(), limits=Limits(max_streams_per_connection=3))
    own = side.session.open()
    drain(side.session)
    error = ""
    streams: dict[int, list[MuxStream]] = {own.id: [own]}
    for piece in pieces:
        before = {id(s): seen(s) for group in streams.values() for s in group}
        try:
            events = side.receive(piece)
        except RemoteProtocolError as caught:
            error = str(caught)
            break
        for event in events:
            if event.kind is EventKind.ACCEPTED:
                assert event.stream is not None
                streams.setdefault(event.stream.id, []).append(event.stream)
        # Whoever waits on a stream is woken by each call that changes something for him.
        told = {id(event.stream) for event in events}
        for group in streams.values():
            for stream in group:
                if seen(stream) != before.get(id(stream), (0, False, None)):
                    assert id(stream) in told, stream.id
    notable = [
        (event.kind, event.stream and event.stream.id, event.value)
        for event in side.events
        if event.kind is not EventKind.READABLE
    ]
    session = side.session
    return (
        error,
        # Events of the message with the error are not handed out.
        None if error else notable,
        session.went_away,
        sorted(session.streams),
        sorted(Counter((f.kind, f.flags, f.stream_id, f.length) for f in parse(drain(session)))),
        [
            (id_, s.send_credit, s.received_fin, s.reset_reason, take_all(s))
            for id_, group in sorted(streams.items())
            for s in group
            if not error
        ],
        session.budget.used if not error else None,
    )


def seen(stream: MuxStream) -> tuple[int, bool, str | None]:
    return sum(map(len, stream.receive_queue)), stream.received_fin, stream.reset_reason


@settings(max_examples=200)
@given(scripts, cut_lists)
@example(data_frame(1, b"hello", SYN | FIN) + data_frame(3, b"", SYN), list(range(50)))
@example(data_frame(1, b"hello", SYN) + data_frame(1, b"x" * 20, RST), list(range(80)))
def test_any_split_gives_the_same(script: bytes, cuts: list[int]) -> None:
    assert outcome(split(script, cuts)) == outcome([script])


@settings(max_examples=50)
@given(scripts)
def test_byte_by_byte_gives_the_same(script: bytes) -> None:
    if len(script) < 2000:
        assert outcome([script[i : i + 1] for i in range(len(script))]) == outcome([script])


@settings(max_examples=200)
@given(st.binary(max_size=400), cut_lists)
def test_garbage_is_the_peers_fault(data: bytes, cuts: list[int]) -> None:
    outcome(split(data, cuts))


# --- two sessions ---

_CYCLE = bytes(value * 7 % 251 for value in range(251 * 16))
_PATTERN = _CYCLE * 1500
SIDES = st.sampled_from([0, 1])
SIZES = st.sampled_from([1, 2, 100, 511, 513, 5000, 20_000, 70_000, 200_000, 400_000])
ROOMS = st.sampled_from([13, 40, 600, 5000, MESSAGE])
LIMITS = Limits(
    max_streams_per_connection=6,
    receive_memory_per_connection=2 * 1024 * 1024,
)


@dataclass
class Direction:
    """What went into one direction of a stream and what came out."""

    key: int
    sent: int = 0
    taken: int = 0
    finished: bool = False

    def bytes_at(self, start: int, size: int) -> bytes:
        start += self.key % 251
        return _PATTERN[start : start + size]


@dataclass
class Pipe:
    """A stream as the model sees it: two ends, two directions, by side."""

    number: int
    ends: list[MuxStream | None] = field(default_factory=lambda: [None, None])
    flows: list[Direction] = field(default_factory=list)
    """By the side that sends."""
    spoiled: bool = False
    """Reset or closed by a side: from now on only a prefix has to arrive."""
    refused: bool = False


class TwoSessions(RuleBasedStateMachine):
    pipes = Bundle("pipes")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.budgets = [MemoryBudget(2**30), MemoryBudget(2**30)]
        self.sides = [
            Side(
                initiator=index == 0,
                clock=self.clock,
                limits=LIMITS,
                windows=Windows(maximum=1024 * 1024),
                budget=self.budgets[index],
            )
            for index in (0, 1)
        ]
        self.wires = [bytearray(), bytearray()]
        """By the side that sends."""
        self.all: list[Pipe] = []
        self.by_id: dict[int, Pipe] = {}
        self.waiting: list[set[MuxStream]] = [set(), set()]
        """Whose writer waits for its queue to sink."""

    def ends(self, pipe: Pipe, side: int) -> tuple[MuxStream | None, Direction, Direction]:
        """The end at `side`, what goes out of it and what comes in."""
        return pipe.ends[side], pipe.flows[side], pipe.flows[1 - side]

    # What applications do.

    @initialize(target=pipes)
    def open_one(self) -> object:
        pipe = self.open(0)
        self.flow()
        # A long way, so that windows grow.
        for side in (0, 1):
            self.ping(side)
            self.send(side, MESSAGE, 1)
        self.clock.now += 0.5
        self.flow()
        return pipe

    @rule(target=pipes, side=SIDES)
    def open(self, side: int) -> object:
        try:
            stream = self.sides[side].session.open()
        except ResourceLimitError:
            session = self.sides[side].session
            full = len(session.streams) >= LIMITS.max_streams_per_connection
            assert full or session._promised > LIMITS.receive_memory_per_connection // 2
            return multiple()
        pipe = Pipe(len(self.all))
        pipe.ends[side] = stream
        pipe.flows = [Direction(stream.id * 31), Direction(stream.id * 57 + 100)]
        self.all.append(pipe)
        self.by_id[stream.id] = pipe
        return pipe

    @rule(pipe=pipes, side=SIDES, size=SIZES, wait=st.booleans())
    def write(self, pipe: Pipe, side: int, size: int, wait: bool) -> None:
        stream, out, _ = self.ends(pipe, side)
        if stream is None or stream.fin_queued or stream.reset_reason is not None:
            return
        if out.sent + size > len(_PATTERN) - 300:
            return
        stream.write(memoryview(out.bytes_at(out.sent, size)))
        out.sent += size
        if wait and stream.send_pending > size // 2 and stream.wake_below is None:
            stream.wake_below = size // 2
            self.waiting[side].add(stream)

    @rule(pipe=pipes, side=SIDES, size=SIZES)
    def take_back(self, pipe: Pipe, side: int, size: int) -> None:
        """A write is cancelled."""
        stream, out, _ = self.ends(pipe, side)
        if stream is not None and stream.reset_reason is None and not stream.fin_sent:
            pending = stream.send_pending
            taken = stream.unwrite(min(size, pending))
            assert taken == min(size, pending)
            out.sent -= taken
            stream.wake_below = None
            self.waiting[side].discard(stream)

    @rule(pipe=pipes, side=SIDES, size=st.one_of(st.none(), SIZES), times=st.integers(1, 20))
    def take(self, pipe: Pipe, side: int, size: int | None, times: int) -> None:
        stream, _, incoming = self.ends(pipe, side)
        if stream is None:
            return
        for _ in range(times):
            data = bytes(stream.take(size))
            assert size is None or len(data) <= size
            assert data == incoming.bytes_at(incoming.taken, len(data)), "bytes out of order"
            incoming.taken += len(data)
        assert incoming.taken <= incoming.sent or pipe.spoiled

    @rule(pipe=pipes, side=SIDES)
    def finish(self, pipe: Pipe, side: int) -> None:
        stream, out, _ = self.ends(pipe, side)
        if stream is not None:
            if stream.reset_reason is None:
                out.finished = True
            stream.finish()

    @rule(pipe=pipes, side=SIDES)
    def close(self, pipe: Pipe, side: int) -> None:
        self.finish(pipe, side)
        stream = pipe.ends[side]
        if stream is not None:
            self.sides[side].session.discard_received(stream)
            pipe.spoiled = True

    @rule(pipe=pipes, side=SIDES)
    def reset(self, pipe: Pipe, side: int) -> None:
        stream = pipe.ends[side]
        if stream is not None:
            live = self.sides[side].session.streams.get(stream.id) is stream
            self.sides[side].session.reset(stream)
            pipe.spoiled = pipe.spoiled or live

    # What the network and time do.

    @rule(side=SIDES, room=ROOMS, times=st.integers(1, 8))
    def send(self, side: int, room: int, times: int) -> None:
        session = self.sides[side].session
        for _ in range(times):
            if not session.wants_write:
                return
            part = fill(session, room, room) + fill_long(session, room)
            assert part or not session.wants_write, "wants_write, but fill() gives nothing"
            parse(part)
            self.wires[side] += part
            self.hear_of_drained(side)

    def hear_of_drained(self, side: int) -> None:
        for stream in self.sides[side].session.take_drained():
            assert stream.wake_below is None
            self.waiting[side].discard(stream)

    @rule(side=SIDES, size=st.one_of(st.integers(1, 40), SIZES))
    def carry(self, side: int, size: int) -> None:
        """Some bytes of what `side` has sent arrive at the other one."""
        wire = self.wires[side]
        self.arrive(1 - side, bytes(wire[:size]))
        del wire[:size]

    def arrive(self, side: int, data: bytes) -> None:
        streams = [pipe.ends[side] for pipe in self.all]
        before = {id(s): seen(s) for s in streams if s is not None}
        events = self.sides[side].receive(data)
        for event in events:
            if event.kind is EventKind.ACCEPTED:
                assert event.stream is not None
                pipe = self.by_id[event.stream.id]
                assert pipe.ends[side] is None, "a stream was accepted twice"
                pipe.ends[side] = event.stream
            if event.kind is EventKind.RESET:
                assert event.stream is not None
                assert event.stream.reset_reason is not None
                self.waiting[side].discard(event.stream)
                # A refusal, for want of room, is the one reset that nobody asked for.
                pipe = self.by_id[event.stream.id]
                if not pipe.spoiled:
                    assert pipe.ends[1 - side] is None, "reset without a reason"
                    pipe.spoiled = pipe.refused = True
        told = {id(event.stream) for event in events}
        for pipe in self.all:
            stream = pipe.ends[side]
            if stream is not None and not stream.receive_discarded:
                changed = seen(stream) != before.get(id(stream), (0, False, None))
                assert not changed or id(stream) in told, "nobody was told"

    @rule(side=SIDES)
    def ping(self, side: int) -> None:
        self.sides[side].session.ping()

    @rule(seconds=st.sampled_from([0.0001, 0.01, 0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        for side in self.sides:
            side.receive(b"")  # nobody is dead here
            side.session.tick()

    @rule()
    def everything_flows(self) -> None:
        self.flow()

    def flow(self) -> None:
        for _ in range(2000):
            busy = False
            for side in (0, 1):
                self.send(side, MESSAGE, 100)
                if self.wires[side]:
                    busy = True
                    data = bytes(self.wires[side])
                    self.wires[side].clear()
                    self.arrive(1 - side, data)
            if not busy:
                return
        raise AssertionError("the two sessions never come to rest")

    # What must hold at any time.

    @invariant()
    def promises_are_kept(self) -> None:
        for index, side in enumerate(self.sides):
            session = side.session
            live = session.streams.values()
            assert session._promised == sum(s.receive_window for s in live)
            assert session._promised <= LIMITS.receive_memory_per_connection
            assert len(live) <= LIMITS.max_streams_per_connection
            unread = 0
            for pipe in self.all:
                stream = pipe.ends[index]
                if stream is None:
                    continue
                buffered = sum(map(len, stream.receive_queue))
                unread += buffered
                assert INITIAL_WINDOW <= stream.receive_window <= 1024 * 1024
                assert stream.receive_credit >= 0
                if not stream.receive_discarded and not stream.received_fin:
                    total = stream.receive_credit + stream.consumed + buffered
                    if session._data_stream is stream:
                        total += session._data_left  # of a frame that has begun
                    assert total == stream.receive_window
                assert stream.send_credit >= 0
                assert stream.send_pending == sum(map(len, stream.send_queue))
            assert self.budgets[index].used == unread

    @invariant()
    def nobody_sleeps_on_a_queue_that_has_sunk(self) -> None:
        for side in (0, 1):
            drained = self.sides[side].session._drained
            for stream in self.waiting[side]:
                assert stream.wake_below is not None or stream in drained
                if stream.wake_below is not None:
                    assert stream.send_pending > stream.wake_below

    def teardown(self) -> None:
        """Everybody reads to the end: then all that was sent has arrived."""
        for _ in range(200):
            self.flow()
            before = [flow.taken for pipe in self.all for flow in pipe.flows]
            for pipe in self.all:
                for side in (0, 1):
                    self.take(pipe, side, None, 500)
            if before == [flow.taken for pipe in self.all for flow in pipe.flows]:
                break
        self.flow()
        for pipe in self.all:
            for side in (0, 1):
                stream, out, incoming = self.ends(pipe, side)
                if pipe.spoiled:
                    continue
                assert stream is not None, "a stream was never accepted"
                assert incoming.taken == incoming.sent
                assert stream.received_fin == incoming.finished
                assert stream.reset_reason is None
                if out.finished and incoming.finished:
                    assert stream.id not in self.sides[side].session.streams
        for session in (side.session for side in self.sides):
            assert not session.wants_write
            ended = session.close("the end")
            assert session.streams == {}
            assert session._promised == 0
            for stream in ended:
                assert stream.wake_below is None


TestTwoSessions = TwoSessions.TestCase
TestTwoSessions.settings = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --- fill ---


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.sampled_from(["write", "finish", "reset", "unwrite", "credit"]),
            SIZES,
        ),
        max_size=60,
    ),
    st.lists(st.integers(13, 2000), min_size=1, max_size=30),
)
def test_fill_always_gets_on(steps: list[tuple[int, str, int]], rooms: list[int]) -> None:
    """In any state a session that wants to write gives something, and comes to an end."""
    side = Side(initiator=True, clock=Clock())
    streams = [side.session.open() for _ in range(10)]
    for number, (index, action, size) in enumerate(steps):
        stream = streams[index]
        if action == "write" and not stream.fin_queued and stream.reset_reason is None:
            stream.write(memoryview(_PATTERN[:size]))
        elif action == "finish":
            stream.finish()
        elif action == "reset":
            side.session.reset(stream)
        elif action == "unwrite" and stream.reset_reason is None:
            stream.unwrite(min(size, stream.send_pending))
        elif action == "credit" and not stream.syn_due:
            side.receive(frame(WINDOW_UPDATE, ACK, stream.id, size))
        if side.session.wants_write:
            part = fill(side.session, rooms[number % len(rooms)])
            assert part or not side.session.wants_write
            parse(part)
    drain(side.session)
    for stream in streams:
        if stream.reset_reason is None:
            assert not stream.send_pending or not stream.send_credit
            assert stream.fin_sent == (stream.fin_queued and not stream.send_pending)
    try:
        side.session.open()
    except ConnectionClosedError:
        raise AssertionError("the session is not usable any more") from None


def test_frame_kinds_are_those_of_the_document() -> None:
    assert (DATA, WINDOW_UPDATE, PING, GO_AWAY) == (0, 1, 2, 3)
    assert (SYN, ACK, FIN, RST) == (1, 2, 4, 8)
