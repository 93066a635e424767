"""Callers that ask for much and take little: others are served, and little is kept for them."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgpack
import pytest
import trio
from trio.testing import MockClock

from lattica.errors import StreamResetError
from lattica.nat.base.limits.places import Source
from lattica.nat.base.wire import LengthPrefixed
from lattica.nat.config import MIB
from lattica.nat.mux.stream import Stream
from lattica.rpc import StatusCode, with_options
from lattica.rpc.config import CONTROL_BODY, RpcConfig
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.protocol.frames import (
    CONTROL,
    MAX_FRAME,
    Kind,
    encode_hello,
    encode_numbered,
    encode_request,
)
from lattica.rpc.protocol.messages import DATA, encode_call, encode_fetch, encode_message
from lattica.rpc.protocol.messages import Kind as DataKind
from lattica.rpc.protocol.server_core import MANY
from lattica.rpc.server import control, crew
from lattica.rpc.server import session as sessions
from lattica.rpc.server.control import KeptAnswers
from lattica.rpc.server.deadlines import AT_ONCE
from lattica.rpc.server.session import Session
from tests.support.clock import Passes
from tests.support.rpc.pair import Pair, rpc_pair

COUNT = b"\xaeWorkshop.count"
ZEROS = b"\xaeWorkshop.zeros"
WAIT = b"\xadWorkshop.wait"


def requests(method: bytes, argument: int, calls: range) -> bytes:
    arguments = b"\x91" + msgpack.packb(argument)
    return b"".join(encode_request(call, method, arguments) for call in calls)


async def flood(pair: Pair, data: bytes, session: bytes = bytes(16)) -> Stream:
    stream = await pair.client_host.open_stream(pair.server_host.peer_id, CONTROL)
    await stream.send_all(encode_hello(session, 0, 1) + data)
    return stream


async def answers(stream: Stream, count: int) -> list[list[object]]:
    """The next answers."""
    reader = LengthPrefixed(MAX_FRAME)
    found: list[list[object]] = []
    while len(found) < count:
        for each in reader.feed(await stream.receive_some()):
            frame = msgpack.unpackb(each)
            if frame[0] != Kind.HELLO:
                found.append(frame)
    return found


async def test_others_have_their_turn_beside_a_flood_of_small_calls() -> None:
    calls = range(3000)
    async with rpc_pair() as pair:
        assert await pair.stub.shout("a") == "A"
        stream = await flood(pair, requests(COUNT, 1, calls))
        while not pair.workshop.ran:
            await trio.lowlevel.checkpoint()
        assert await pair.stub.shout("b") == "B"
        assert len(pair.workshop.ran) < len(calls)
        assert [each[1] for each in await answers(stream, len(calls))] == [*calls]


async def test_sessions_of_one_network_have_their_turns_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight of them had eight turns in a pass of the event loop."""
    monkeypatch.setattr(crew, "_TURN", 0.0)  # each call takes one
    passes = Passes()
    run = Session._run

    def counting(session: Session, job: Any) -> Any:
        passes.total += 1
        return run(session, job)

    monkeypatch.setattr(Session, "_run", counting)
    calls = range(100)
    async with rpc_pair() as pair:
        streams = [
            await flood(pair, requests(COUNT, 1, calls), bytes((number,)) * 16)
            for number in range(8)
        ]
        while passes.total < 100:
            await trio.lowlevel.checkpoint()
        passes.start()
        for stream in streams:
            assert len(await answers(stream, len(calls))) == len(calls)
        trio.lowlevel.remove_instrument(passes)
    assert passes.total == 800
    assert passes.most <= 2


async def test_calls_that_are_cancelled_before_their_turn_do_not_run() -> None:
    calls = range(1000)
    cancels = b"".join(encode_numbered(Kind.CANCEL, call) for call in reversed(calls[:32]))
    async with rpc_pair() as pair:
        stream = await flood(pair, requests(COUNT, 1, calls[:32]) + cancels)
        found = await answers(stream, 32)
        assert [each[:3] for each in found] == [[Kind.ERROR, call, 1] for call in calls[:32]]
        assert not pair.workshop.ran
        await stream.send_all(requests(COUNT, 1, calls[32:]))
        assert len(await answers(stream, len(calls) - 32)) == len(calls) - 32
        assert len(pair.workshop.ran) == len(calls) - 32


async def test_large_results_that_nobody_fetches(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_MAX_UNFETCHED", 1_000_000)
    size, calls = 100_000, range(300)
    async with rpc_pair() as pair:
        stream = await flood(pair, requests(ZEROS, size, calls))
        assert len(await answers(stream, MANY)) == MANY
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        kept = pair.server.statistics().receive_memory
        assert MANY * size <= kept < (MANY + 1) * size
        assert await pair.stub.shout("b") == "B"
        # They expire, and then there is room for a few more.
        start = trio.current_time()
        assert len(await answers(stream, len(calls) - MANY)) == len(calls) - MANY
        assert trio.current_time() - start >= 30
        await trio.sleep(31)
        assert pair.server.statistics().receive_memory == 0
        assert await pair.stub.zeros(size) == bytes(size)
        assert pair.server.statistics().receive_memory == 0


async def test_the_large_results_of_all_sessions_of_a_peer_count_together(
    autojump_clock: MockClock,
) -> None:
    size, calls = 100_000, range(1100)
    async with rpc_pair() as pair:
        found = []
        for part, session in ((calls[:600], b"a" * 16), (calls[600:], b"b" * 16)):
            stream = await flood(pair, requests(ZEROS, size, part), session)
            with trio.move_on_after(1):
                found += await answers(stream, len(part))
        stops = sessions._MAX_UNFETCHED // size
        assert stops <= sum(len(each._large) for each in _sessions(pair)) < stops + MANY


async def test_the_calls_of_all_sessions_of_a_peer_count_together(
    autojump_clock: MockClock,
) -> None:
    async with rpc_pair(RpcConfig(max_calls_per_peer=10)) as pair:
        for session, calls in ((b"a" * 16, 6), (b"b" * 16, 12)):
            stream = await flood(pair, requests(WAIT, 3600, range(calls)), session)
            with trio.move_on_after(1):
                await answers(stream, 99)
        assert sum(len(each._waiting) for each in _sessions(pair)) == 10
        (refused, _) = await answers(await flood(pair, requests(WAIT, 1, range(2)), b"c" * 16), 2)
        assert refused[2] == 8
    assert not pair.server._server.control._callers


async def test_the_calls_of_all_peers_of_a_network_count_together(
    autojump_clock: MockClock,
) -> None:
    async with rpc_pair(RpcConfig(max_calls_per_network=10)) as pair:
        streams = []
        for host in (pair.net.host(), pair.net.host()):
            stream = await host.open_stream(pair.server_host.peer_id, CONTROL)
            await stream.send_all(encode_hello(bytes(16), 0, 1) + requests(WAIT, 3600, range(8)))
            streams.append(stream)
        refused = []
        for stream in streams:
            with trio.move_on_after(1):
                refused += await answers(stream, 2)
                refused += await answers(stream, 99)
        assert sum(len(each._waiting) for each in _sessions(pair)) == 10
        data = await pair.client_host.open_stream(pair.server_host.peer_id, DATA)
        waiting = Encoded(b"\x91\x01", ())
        await data.send_all(encode_message(DataKind.CALL, encode_call(WAIT, 0, waiting)))
        assert b"max_calls_per_network" in await data.receive_some()
    assert not pair.server._server._network_calls


async def test_a_call_that_waits_keeps_little_for_the_collector_to_look_at(
    autojump_clock: MockClock,
) -> None:
    """It has 37 or 55 objects, its handler's and the other end's among them; it had 47 and 79."""
    calls = range(100)
    call = encode_call(WAIT, 0, Encoded(b"\x91" + msgpack.packb(3600), ()))
    async with rpc_pair() as pair:
        control_plane = await flood(pair, requests(WAIT, 3600, range(1)))
        await trio.sleep(1)
        gc.collect()
        counts = [_tracked()]
        await control_plane.send_all(requests(WAIT, 3600, range(1, 1 + len(calls))))
        await trio.sleep(1)
        counts.append(_tracked())
        streams = []
        for _ in calls:
            stream = await pair.client_host.open_stream(pair.server_host.peer_id, DATA)
            await stream.send_all(encode_message(DataKind.CALL, call))
            streams.append(stream)
        await trio.sleep(1)
        counts.append(_tracked())
        assert sum(pair.server._server._network_calls.values()) == 1 + 2 * len(calls)
    per_call = [
        {kind: more / len(calls) for kind, more in (after - before).items()}
        for before, after in pairwise(counts)
    ]
    for objects, most in zip(per_call, (42, 65), strict=True):
        assert sum(objects.values()) < most, objects


def _tracked() -> Counter[type]:
    return Counter(map(type, gc.get_objects()))


async def test_a_handler_that_answers_its_deadline_with_an_error_of_its_own_is_too_late(
    autojump_clock: MockClock,
) -> None:
    class Stubborn:
        async def insist(self) -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                raise ValueError("not now") from None

    async with rpc_pair() as pair:
        pair.server.serve(Stubborn())
        stream = await pair.client_host.open_stream(pair.server_host.peer_id, DATA)
        insist = encode_call(b"\xafStubborn.insist", 0, Encoded(b"\x90", ()), timeout_ms=1000)
        await stream.send_all(encode_message(DataKind.CALL, insist))
        with pytest.raises(StreamResetError) as raised:
            await stream.receive_some()
        assert raised.value.code == StatusCode.DEADLINE_EXCEEDED
        counters = pair.server._server.methods["Stubborn.insist"].counters
        assert counters.active == 0
        assert counters.codes == {StatusCode.DEADLINE_EXCEEDED: 1}


async def test_a_frame_of_very_many_lists_is_refused_and_not_decoded() -> None:
    for lists, is_taken in ((3000, True), (5000, False)):
        arguments = b"\x91\xdc" + lists.to_bytes(2, "big") + b"\x90" * lists
        async with rpc_pair() as pair:
            stream = await flood(pair, encode_request(0, COUNT, arguments))
            if is_taken:
                assert len(await answers(stream, 1)) == 1
            else:
                with pytest.raises(StreamResetError):
                    await answers(stream, 1)


async def test_values_of_many_parts_go_over_the_data_plane() -> None:
    many: list[object] = [[] for _ in range(5000)]
    async with rpc_pair() as pair:
        assert await pair.stub.echo(many) == many
        assert await pair.stub.echo("€" * 5000) == "€" * 5000
        names: dict[str, object] = {"n": [[] for _ in range(2000)]}
        assert await with_options(pair.stub, metadata=names).echo(many[:3000]) == many[:3000]


def _sessions(pair: Pair) -> list[Session]:
    return [*pair.server._server.control.sessions.values()]


async def test_answers_that_are_not_acknowledged() -> None:
    size, calls = 60_000, range(400)
    async with rpc_pair() as pair:
        stream = await flood(pair, requests(ZEROS, size, calls))
        got, reader = 0, LengthPrefixed(MAX_FRAME)
        with trio.fail_after(60):
            while got * size < sessions._MAX_KEPT:
                got += len(reader.feed(await stream.receive_some()))
        got -= 1  # the hello
        (session,) = _sessions(pair)
        limit = sessions._MAX_KEPT + sessions._FEW * CONTROL_BODY
        for _ in range(100):
            await trio.lowlevel.checkpoint()
            assert session.core.bytes_kept <= limit
        assert await pair.stub.shout("b") == "B"
        # It goes on as soon as they are, though requests lie before that.
        said = 0
        with trio.fail_after(60):
            while got < len(calls):
                if got > said:
                    await stream.send_all(encode_numbered(Kind.ACK, got))
                    said = got
                got += len(reader.feed(await stream.receive_some()))
        assert session.core.bytes_kept <= limit


async def test_the_sessions_of_a_peer_share_what_is_kept(autojump_clock: MockClock) -> None:
    async with rpc_pair() as pair:
        for number in range(4):
            stream = await flood(pair, requests(ZEROS, 60_000, range(300)), bytes([number]) * 16)
            with trio.move_on_after(0.5):
                while await stream.receive_some():
                    pass
        kept = [session.core.bytes_kept for session in _sessions(pair)]
        most = [
            max(sessions._MAX_KEPT // number + sessions._FEW * CONTROL_BODY, MANY * CONTROL_BODY)
            for number in range(1, 5)
        ]
        assert all(map(int.__le__, kept, most)), kept
        assert abs(pair.server._server.control.kept.total - sum(kept)) <= 4 * sessions._KEPT_GRAIN


def test_a_network_whose_answers_are_kept_leaves_others_theirs() -> None:
    """Eight keys of one host after others had 200 MiB of a node."""
    kept = KeptAnswers()
    kept.add(Source(1, "a"), 64 * MIB)
    assert not kept.is_too_much_for("a")
    kept.add(Source(2, "a"), 1)
    assert (kept.is_too_much_for("a"), kept.is_too_much_for("b")) == (True, False)
    for network in range(3):
        kept.add(Source(3, network), 64 * MIB)
    assert kept.is_too_much_for("b"), "all together have too much"
    kept.add(Source(3, 0), -64 * MIB)
    kept.add(Source(1, "a"), -64 * MIB)
    kept.add(Source(2, "a"), -1)
    assert not kept.is_too_much_for("a")
    assert kept.total == 128 * MIB


async def test_of_a_network_that_has_much_each_session_keeps_little(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_MAX_KEPT_BY_NETWORK", MIB)
    async with rpc_pair() as pair:
        stream = await flood(pair, requests(ZEROS, 60_000, range(300)))
        with trio.move_on_after(1):
            while await stream.receive_some():
                pass
        (session,) = _sessions(pair)
        assert sessions._LEAST_KEPT < session.core.bytes_kept < 2 * MIB + MANY * CONTROL_BODY


async def test_a_session_that_begins_with_a_breach_is_not_kept() -> None:
    async with rpc_pair() as pair:
        stream = await flood(pair, requests(COUNT, 1, range(1)) * 2)
        with suppress(StreamResetError):
            while await stream.receive_some():
                pass
        assert stream.is_dead, "it ended in good order"
        assert not _sessions(pair)
        assert not pair.server._server.control._callers


async def test_of_whoever_has_gone_no_further_calls_are_begun(autojump_clock: MockClock) -> None:
    """What had been read of eight callers kept a thousand threads busy for 15 s after that."""
    async with rpc_pair() as pair:
        stream = await flood(pair, requests(COUNT, 1, range(2000)))
        await answers(stream, 1)
        stream.reset()
        await trio.sleep(5)
        assert 0 < len(pair.workshop.ran) < 1000


@pytest.mark.parametrize("end", ["breach", "good order", "loss"])
async def test_a_session_that_has_ended_waits_for_no_collector(
    autojump_clock: MockClock, end: str
) -> None:
    """16,384 answers of each that did not say which had arrived stayed until the collector ran."""
    async with rpc_pair() as pair:
        stream = await flood(pair, requests(COUNT, 1, range(20)))
        await answers(stream, 20)
        (session,) = map(weakref.ref, _sessions(pair))
        gc.collect()
        gc.disable()
        try:
            if end == "breach":
                await stream.send_all(requests(COUNT, 1, range(1)))
            elif end == "good order":
                await stream.send_eof()
            else:
                stream.reset()
            await trio.sleep(60)
            assert not _sessions(pair)
            assert session() is None
        finally:
            gc.enable()


async def test_too_many_sessions_are_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async with rpc_pair() as pair:
        streams = [
            await flood(pair, requests(COUNT, 1, range(1)), bytes([number]) * 16)
            for number in range(control._MAX_SESSIONS)
        ]
        for stream in streams:
            await answers(stream, 1)
        stream = await flood(pair, requests(COUNT, 1, range(1)), b"x" * 16)
        with suppress(StreamResetError):
            assert not await stream.receive_some()
        assert stream.is_dead
        assert len(_sessions(pair)) == control._MAX_SESSIONS
    assert not caplog.records


async def test_small_calls_go_on_while_a_large_result_is_being_fetched(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_MAX_UNFETCHED", 1_000_000)
    async with rpc_pair() as pair:
        stream = await flood(pair, requests(ZEROS, 50_000_000, range(1)))
        await answers(stream, 1)
        fetch = await pair.client_host.open_stream(pair.server_host.peer_id, DATA)
        await fetch.send_all(encode_fetch(bytes(16), 0))
        await fetch.receive_some()
        start = trio.current_time()
        await stream.send_all(requests(COUNT, 1, range(1, 2)))
        assert (await answers(stream, 1))[0][0] == Kind.RESULT
        assert trio.current_time() - start < 1
        # Fetching was given up: it is there still, until it expires.
        (session,) = _sessions(pair)
        fetch.reset()
        while not session.caller.unfetched:
            await trio.sleep(0.01)
        await trio.sleep(61)
        assert session.caller.unfetched == session.caller.under_way == 0
        assert pair.server.statistics().receive_memory == 0


class _Passes(trio.abc.Instrument):
    """How many calls wait, at the end of each pass of the event loop."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.waiting: list[int] = []

    def before_io_wait(self, timeout: float) -> None:
        self.waiting.append(sum(len(each._waiting) for each in _sessions(self._pair)))


async def test_calls_that_end_at_the_same_moment_are_given_up_in_turns(
    autojump_clock: MockClock,
) -> None:
    calls = range(500)
    arguments = b"\x91" + msgpack.packb(3600)
    waits = b"".join(encode_request(call, WAIT, arguments, timeout_ms=5000) for call in calls)
    async with rpc_pair() as pair:
        stream = await flood(pair, waits)
        await trio.sleep(1)
        passes = _Passes(pair)
        trio.lowlevel.add_instrument(passes)
        start = trio.current_time()
        found = await answers(stream, len(calls))
        trio.lowlevel.remove_instrument(passes)
        assert trio.current_time() - start == pytest.approx(4, abs=0.1)
        assert {each[2] for each in found} == {StatusCode.DEADLINE_EXCEEDED}
        assert passes.waiting[0] == len(calls)
        assert max(a - b for a, b in pairwise(passes.waiting)) <= 2 * AT_ONCE


async def test_deadlines_of_calls_that_have_ended_are_forgotten() -> None:
    async with rpc_pair() as pair:
        for _ in range(3000):
            assert await pair.stub.wait(0) == "waited"
        deadlines = pair.server._server.deadlines
        assert not deadlines._ends
        assert len(deadlines._heap) <= 1100


async def test_a_session_and_its_results_are_its_callers_alone() -> None:
    async with rpc_pair() as pair:
        call = 0
        stream = await flood(pair, requests(ZEROS, 100_000, range(call, call + 1)))
        assert await answers(stream, 1) == [[Kind.ELSEWHERE, call]]
        other = pair.net.host()
        thief = await other.open_stream(pair.server_host.peer_id, CONTROL)
        await thief.send_all(encode_hello(bytes(16), 0, 2))
        welcome = msgpack.unpackb(LengthPrefixed(MAX_FRAME).feed(await thief.receive_some())[0])
        assert welcome[-1] is None, "the session is not known to be anybody else's"
        thief = await other.open_stream(pair.server_host.peer_id, DATA)
        await thief.send_all(encode_fetch(bytes(16), call))
        assert (await thief.receive_some())[0] == DataKind.ERROR
        # Who has it can fetch it still.
        stream = await pair.client_host.open_stream(pair.server_host.peer_id, DATA)
        await stream.send_all(encode_fetch(bytes(16), call))
        assert (await stream.receive_some())[0] == DataKind.RESULT
