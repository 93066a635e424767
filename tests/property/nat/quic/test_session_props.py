"""QUIC sessions: whatever the network does to datagrams, each byte comes once and in order."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.quic.session.credit import ControlReader, encode_credit
from lattica.nat.quic.session.streams import SpokenStreams
from tests.support.pairs.mux_streams import take_all, write
from tests.support.pairs.quic_pair import SERVER_ADDRESS, Pair

_BYTES = bytes(value * 7 % 251 for value in range(251)) * 1000

# What happens to a datagram: how often it arrives, how late, and which byte is spoilt.
fates = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2]),
        st.floats(0.001, 0.2),
        st.one_of(st.none(), st.none(), st.none(), st.integers(0, 1500)),
    ),
    max_size=60,
)
sizes = st.sampled_from([0, 1, 100, 1200, 5000, 30_000, 100_000])
plans = st.lists(st.tuples(st.sampled_from([0, 1]), sizes, sizes), min_size=1, max_size=6)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Call:
    """A stream: who opened it, what goes each way, and what has come out."""

    side: int
    request: bytes
    answer: bytes
    stream: MuxStream
    got_request: bytes = b""
    got_answer: bytes = b""


@quick
@given(fates, plans)
@example([(0, 0.01, None)] * 8, [(0, 100, 100)])
@example([(1, 0.01, None)] * 8 + [(0, 0.01, None)] * 20, [(0, 30_000, 30_000)] * 6)
@example([(2, 0.2, None), (1, 0.001, None)] * 30, [(1, 5000, 100), (0, 0, 0)])
def test_any_pattern_of_the_network_gives_the_same_bytes(
    fate: list[tuple[int, float, int | None]], plan: list[tuple[int, int, int]]
) -> None:
    pair = Pair()
    left = iter(fate)
    lost_in_a_row = [0, 0]

    def judge(side: int, datagram: bytes) -> list[tuple[float, bytes]]:
        copies, delay, spoilt = next(left, (1, 0.01, None))
        lost_in_a_row[side] = 0 if copies and spoilt is None else lost_in_a_row[side] + 1
        if lost_in_a_row[side] > 3:  # a network that is down for long ends connections
            return [(0.01, datagram)]
        if spoilt is not None:
            place = spoilt % len(datagram)
            datagram = datagram[:place] + bytes((datagram[place] ^ 0x41,)) + datagram[place + 1 :]
        return [(delay * (number + 1), datagram) for number in range(copies)]

    # A handshake that such a network ruins is for its caller to try again, with other sessions.
    pair.establish()
    pair.link.fate = judge
    calls: dict[tuple[int, int], Call] = {}
    for number, (side, size, answer_size) in enumerate(plan):
        stream = pair.sides[side].session.open()
        request = _BYTES[number : number + size]
        write(stream, request)
        stream.finish()
        answer = _BYTES[number + 100 : number + 100 + answer_size]
        calls[side, stream.id] = Call(side, request, answer, stream)

    def serve() -> None:
        for side in (0, 1):
            for stream in pair.sides[1 - side].accepted:
                call = calls[side, stream.id]
                call.got_request += take_all(stream)
                if stream.received_fin and not stream.fin_queued:
                    write(stream, call.answer)
                    stream.finish()
        for call in calls.values():
            call.got_answer += take_all(call.stream)

    def done() -> bool:
        return all(call.stream.received_fin for call in calls.values())

    assert pair.run(done, each=serve, seconds=120)
    serve()
    for call in calls.values():
        assert call.got_request == call.request
        assert call.got_answer == call.answer
    pair.settle(8)
    for end in pair.sides:
        assert end.error is None
        assert end.session.closed is None
        assert not end.session.streams
        assert not end.session._quic_streams._live


@quick
@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.binary(max_size=1300)), max_size=30))
def test_datagrams_of_strangers_change_nothing(garbage: list[tuple[int, bytes]]) -> None:
    pair = Pair()
    for side, datagram in garbage[:5]:
        if datagram:
            pair.send_raw(side, datagram)
    pair.establish()
    for side, datagram in garbage:
        if datagram:
            pair.send_raw(side, datagram, source=SERVER_ADDRESS if side else None)
    _, theirs = pair.open()
    assert take_all(theirs) == b"hi"


actions = st.lists(
    st.tuples(
        st.sampled_from([0, 1]),
        st.sampled_from(["open", "write", "finish", "reset", "take", "wait"]),
        st.integers(0, 7),
    ),
    max_size=40,
)


@quick
@given(actions, st.integers(0, 3))
def test_streams_end_in_every_order(script: list[tuple[int, str, int]], loss: int) -> None:
    pair = Pair()
    pair.establish()
    pair.link.loss = loss / 10
    opened: list[list[MuxStream]] = [[], []]
    for side, what, number in script:
        here = pair.sides[side]
        ends = opened[side] + here.accepted
        if what == "open":
            opened[side].append(here.session.open())
        elif what == "wait":
            pair.settle(number / 100)
        elif ends:
            stream = ends[number % len(ends)]
            if what == "write" and not stream.fin_queued and stream.reset_reason is None:
                write(stream, _BYTES[: 1 + number * 3000])
            elif what == "finish":
                stream.finish()
            elif what == "reset":
                here.session.reset(stream)
            elif what == "take":
                take_all(stream)
    pair.settle(2)
    for end in pair.sides:
        for stream in list(end.session.streams.values()):
            end.session.reset(stream)
    pair.settle(30)
    for end in pair.sides:
        assert end.error is None
        assert not end.session.streams
        assert not end.session._quic_streams._live
        assert end.session._promised == 0


control_frames = st.one_of(
    st.builds(encode_credit, st.integers(0, 2**62), st.integers(0, 2**62)),
    st.binary(max_size=6),
)


@given(st.lists(control_frames, max_size=8).map(b"".join), st.lists(st.integers(1, 30)))
def test_control_frames_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    def read(pieces: list[bytes]) -> tuple[list[tuple[int, int]], bool]:
        reader, found = ControlReader(), []
        try:
            for piece in pieces:
                found += reader.feed(piece)
        except RemoteProtocolError:
            return found, True
        assert len(reader._rest) < 21
        return found, False

    pieces, rest = [], data
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    found, failed = read([*pieces, rest])
    whole, whole_failed = read([data])
    assert failed == whole_failed
    # In one piece, what stands before an error is not reported.
    assert whole == ([] if failed else found)


@given(st.lists(st.integers(0, 40)))
def test_spoken_streams_are_a_set(numbers: list[int]) -> None:
    spoken, model = SpokenStreams(0), set()
    for number in numbers:
        assert spoken.claim(number) == (number not in model)
        model.add(number)
    assert all((number in spoken) == (number in model) for number in range(50))


@quick
@given(st.binary(min_size=1, max_size=60), st.sampled_from([0, 1]))
def test_any_bytes_on_stream_zero_are_at_most_the_connections_end(data: bytes, side: int) -> None:
    pair = Pair().establish()
    pair.sides[side].session._drive.native.send_stream(0, data, False)
    pair.sides[side].session._dirty = True
    pair.settle()
    if pair.sides[1 - side].error is not None:
        assert pair.sides[side].session.closed is not None
