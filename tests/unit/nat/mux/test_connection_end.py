"""Connections under trio: how they end, and peers that misbehave."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio

from lattica.errors import (
    ConnectionClosedError,
    StreamClosedError,
    StreamResetError,
)
from lattica.nat.config import Limits, Timeouts, Windows
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.session import INITIAL_WINDOW
from lattica.nat.mux.stream import Stream
from lattica.nat.secure.noise import frame as noise_frame
from lattica.nat.swarm.yamux_connection import YamuxConnection
from tests.support.clock import Passes
from tests.support.pairs.connected import (
    BOB,
    KIB,
    MIB,
    PATTERN,
    End,
    ManualPeer,
    Pipe,
    against_manual_peer,
    any_pipe,
    connected,
    make_end,
    pipe_pair,
    quiet,
    read_all,
    tick,
    upgraded_pair,
)
from tests.support.pairs.yamux_pair import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Frame,
    data_frame,
    frame,
    parse,
)

# --- the end of a connection ---


async def lose_abort(a: End) -> None:
    a.connection.abort("pulled the plug")


async def lose_raw(a: End) -> None:
    a.raw.abort()


async def lose_timeout(a: End) -> None:
    """Nothing comes any more; the writer may be stuck as well."""
    for raw in (a.raw, a.raw.peer):
        assert isinstance(raw, Pipe)
        raw.cut = True
    await tick(a.connection)


async def lose_gracefully(a: End) -> None:
    with trio.move_on_after(3):
        await a.connection.aclose()
    a.connection.abort("closed by this side")


@pytest.mark.parametrize("lose", [lose_abort, lose_raw, lose_timeout, lose_gracefully])
async def test_loss_wakes_everybody(lose, autojump_clock) -> None:
    """Whatever they wait for, on whichever side, and whatever state their stream is in."""
    async with connected() as (a, b):
        errors = 0

        async def fails(function: Callable[[], Awaitable[object]]) -> None:
            nonlocal errors
            with pytest.raises(ConnectionClosedError):
                await function()
            errors += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick, b.connection)
            pairs = []
            for index in range(5):
                mine = a.open()
                await mine.send_all(b"x")
                theirs = await b.accept()
                assert await theirs.receive_some() == b"x"
                if index % 2:
                    mine, theirs = theirs, mine
                pairs.append((mine, theirs))
            for mine, _ in pairs:
                nursery.start_soon(fails, mine.receive_some)
                nursery.start_soon(fails, lambda s=mine: s.send_all(PATTERN[: 3 * MIB]))
            # Half-closed: the peer has finished, and this side still sends to it.
            for index in range(2):
                mine = a.open()
                await mine.send_all(b"x")
                theirs = await b.accept()
                if index:
                    mine, theirs = theirs, mine
                else:
                    await theirs.receive_some()
                await theirs.send_eof()
                await read_all(mine)
                nursery.start_soon(fails, lambda s=mine: s.send_all(bytearray(3 * MIB)))
                pairs.append((mine, theirs))
            await quiet()
            assert errors == 0
            await lose(a)
        assert errors == 12
        for pair in pairs:
            for stream in pair:
                for method in (
                    lambda s=stream: s.send_all(b"more"),
                    lambda s=stream: s.send_all(PATTERN),
                    stream.send_eof,
                ):
                    with pytest.raises((ConnectionClosedError, StreamClosedError)):
                        await method()
                await stream.aclose()
        for end in (a, b):
            assert end.connection.closed.is_set()
            assert end.connection.closed_reason
            with pytest.raises(ConnectionClosedError):
                end.open()


async def lose_many(a: End, b: End) -> None:
    a.connection.abort("gone")


async def reset_many(a: End, b: End) -> None:
    for stream in b.accepted:
        stream.reset()


async def answer_many(a: End, b: End) -> None:
    for stream in b.accepted:
        stream.send_nowait(b"?")


@pytest.mark.parametrize("happen", [lose_many, reset_many, answer_many])
async def test_users_of_many_streams_go_on_some_at_a_time(happen, autojump_clock) -> None:
    """What each of them then does is done beside others, not before them."""
    passes = Passes()

    async def use(stream: Stream) -> None:
        await stream.send_all(b"!")
        with suppress(ConnectionClosedError, StreamResetError):
            await stream.receive_some()
        passes.total += 1

    async with connected() as (a, b):
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(use, a.open())
            await quiet()
            trio.lowlevel.add_instrument(passes)
            await happen(a, b)
        trio.lowlevel.remove_instrument(passes)
    assert passes.total == 200
    assert passes.most <= 2 * 32


async def test_what_had_arrived_stays_readable(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(PATTERN[:200_000])
        await mine.send_eof()
        theirs = await b.accept()
        half = a.open()
        await half.send_all(b"not the end")
        other = await b.accept()
        await quiet()
        b.connection.abort("gone")
        assert await read_all(theirs) == PATTERN[:200_000]
        assert await theirs.receive_some() == b""
        assert await other.receive_exactly(3) == b"not"
        with pytest.raises(ConnectionClosedError, match="gone"):
            await other.receive_exactly(100)
        assert await other.receive_some() == b" the end"
        with pytest.raises(ConnectionClosedError, match="gone"):
            await other.receive_some()
        assert b.budget.used == 0


async def test_last_words_of_a_peer_that_has_closed(autojump_clock) -> None:
    """They are in the pipe still when a write of ours fails."""
    async with against_manual_peer() as (end, peer):
        await peer.say(frame(WINDOW_UPDATE, SYN, 1, 0))
        stream = await end.accept()
        frames = [data_frame(1, PATTERN[i : i + 40_000]) for i in range(0, 160_000, 40_000)]
        await peer.say(*frames, data_frame(1, b"", FIN))
        peer.raw.abort()
        await stream.send_all(b"nobody will read this")
        assert await read_all(stream) == PATTERN[:160_000]
        await end.connection.closed.wait()
        assert "without a good-bye" in str(end.connection.closed_reason)


@any_pipe
async def test_closing_sends_what_was_accepted(pipe, autojump_clock) -> None:
    async with connected(**pipe) as (a, b):
        stream = a.open()
        await stream.send_all(PATTERN[:200_000])
        await stream.send_eof()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connection.aclose)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            with pytest.raises(ConnectionClosedError):
                a.open()
            theirs = await b.accept()
            assert await read_all(theirs) == PATTERN[:200_000]
        await a.connection.aclose()
        await b.connection.closed.wait()
        assert a.connection.closed_reason == "closed by this side"
        assert b.connection.closed_reason == "closed by the peer"


async def test_closing_is_bounded_by_the_caller(autojump_clock) -> None:
    """A peer that does not read cannot keep a connection open."""
    async with against_manual_peer(capacity=1000) as (end, peer):
        await peer.say(frame(WINDOW_UPDATE, SYN, 1, 0))
        stream = await end.accept()
        await stream.send_all(PATTERN[:100_000])
        with trio.move_on_after(3) as scope:
            await end.connection.aclose()
        assert scope.cancelled_caught
        end.connection.abort("shutting down")
        with pytest.raises(ConnectionClosedError, match="shutting down"):
            await stream.receive_some()


async def test_go_away_goes_out_last(autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        stream = end.open()
        await stream.send_all(PATTERN[:200_000])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.connection.aclose)
            said = parse(await peer.hear_all())
            peer.raw.abort()
        assert sum(f.length for f in said if f.kind == DATA) == 200_000
        assert said[-1] == Frame(GO_AWAY, 0, 0, 0)


async def test_aborted_before_it_runs(autojump_clock) -> None:
    """Streams that came with the handshake must not be handed to anybody then."""
    _, ours = upgraded_pair()
    raw, _ = pipe_pair()
    end = make_end(raw, ours)
    assert isinstance(end.connection, YamuxConnection)
    end.connection._early = (data_frame(1, b"hello", SYN),)
    end.connection.abort("too many")
    await end.connection.run()
    assert end.accepted == []
    assert end.connection.closed_reason == "too many"


async def test_cancelling_the_task_closes(autojump_clock) -> None:
    raws = pipe_pair()
    ends = [make_end(r, u) for r, u in zip(raws, upgraded_pair(), strict=True)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends[1].connection.run)
        async with trio.open_nursery() as inner:
            inner.start_soon(ends[0].connection.run)
            stream = ends[0].open()
            await stream.send_all(b"x")
            await quiet()
            inner.cancel_scope.cancel()
        with pytest.raises(ConnectionClosedError):
            await stream.receive_some()
        await ends[1].connection.closed.wait()


# --- peers that misbehave ---

VIOLATIONS = {
    "version": b"\x07" + bytes(11),
    "type": frame(9, 0, 0, 0),
    "never opened": data_frame(99, b"x"),
    "overrun": frame(DATA, SYN, 3, INITIAL_WINDOW + 1),
    "open twice": frame(WINDOW_UPDATE, SYN, 1, 0),
    "wrong parity": frame(WINDOW_UPDATE, SYN, 2, 0),
    "pings": frame(PING, SYN, 0, 1) * 5000,
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_violation_costs_the_connection_and_one_line(name, caplog, autojump_clock) -> None:
    caplog.set_level(logging.INFO)
    async with connected() as (a, b), against_manual_peer(capacity=2000) as (end, peer):
        other = a.open()
        await other.send_all(b"unharmed")
        await peer.say(data_frame(1, b"hello", SYN))
        stream = await end.accept()
        assert await stream.receive_some() == b"hello"
        async with trio.open_nursery() as nursery:

            async def fails(function: Callable[[], Awaitable[object]]) -> None:
                with pytest.raises(ConnectionClosedError, match="yamux"):
                    await function()

            nursery.start_soon(fails, stream.receive_some)
            nursery.start_soon(fails, lambda: stream.send_all(PATTERN))
            nursery.start_soon(fails, lambda: end.open().receive_some())
            await quiet()
            # Pings pile up only where nothing is drained; for the rest the peer may read.
            if name != "pings":
                nursery.start_soon(peer.hear_all)
            await peer.say(VIOLATIONS[name], frame(PING, SYN, 0, 1))
        await end.connection.closed.wait()
        lines = [record for record in caplog.records if record.levelno >= logging.INFO]
        assert len(lines) == 1
        assert lines[0].levelname == "WARNING"
        assert "yamux" in lines[0].getMessage()
        assert str(end.connection.peer_id) in lines[0].getMessage()
        assert "/ip4/127.0.0.2" in lines[0].getMessage()
        assert lines[0].exc_info is None
        theirs = await b.accept()
        assert await theirs.receive_some() == b"unharmed"


async def test_violator_is_told(autojump_clock) -> None:
    async with against_manual_peer() as (_, peer):
        await peer.say(VIOLATIONS["version"])
        assert parse(await peer.hear_all())[-1] == Frame(GO_AWAY, 0, 0, 1)


async def test_violation_among_the_early_bytes(caplog, autojump_clock) -> None:
    early = (data_frame(1, b"", SYN), VIOLATIONS["type"])
    async with against_manual_peer(early=early) as (end, peer):
        assert parse(await peer.hear_all())[-1] == Frame(GO_AWAY, 0, 0, 1)
        await end.connection.closed.wait()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_violation_after_the_end_of_streams_wakes_their_users(autojump_clock) -> None:
    """In one message: two streams end, and then the peer breaks the protocol."""
    async with against_manual_peer() as (end, peer):
        await peer.say(frame(WINDOW_UPDATE, SYN, 1, 0) + frame(WINDOW_UPDATE, SYN, 3, 0))
        one, two = await end.accept(), await end.accept()
        await two.send_eof()
        await quiet()
        async with trio.open_nursery() as nursery:

            async def fails() -> None:
                with pytest.raises((StreamResetError, ConnectionClosedError)):
                    await one.receive_some()

            async def ends() -> None:
                assert await two.receive_some() == b""

            nursery.start_soon(fails)
            nursery.start_soon(ends)
            await quiet()
            await peer.say(
                frame(WINDOW_UPDATE, RST, 1, 0) + data_frame(3, b"", FIN) + VIOLATIONS["type"]
            )


async def test_unsealed_bytes(caplog, autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        await peer.raw.send(noise_frame(bytes(100)))
        await end.connection.closed.wait()
        assert "decrypt" in (end.connection.closed_reason or "")
    assert len(caplog.records) == 1
    assert "decrypt" in caplog.records[0].getMessage()


async def test_peer_that_goes_away_with_a_code(caplog, autojump_clock) -> None:
    caplog.set_level(logging.INFO)
    async with against_manual_peer() as (end, peer):
        await peer.say(frame(GO_AWAY, 0, 0, 2))
        peer.raw.abort()
        await end.connection.closed.wait()
        assert end.connection.closed_reason == "closed by the peer"
    assert [record.getMessage() for record in caplog.records] == [
        f"peer ends the connection with code 2 peer={end.connection.peer_id}"
    ]


async def play_dead(end: End, peer: ManualPeer, kind: str) -> float:
    await peer.say(data_frame(1, b"hello", SYN))
    stream = await end.accept()
    assert await stream.receive_some() == b"hello"
    data = data_frame(1, bytes(1000))
    if kind == "half a Noise message":
        await peer.raw.send(peer.upgraded.writer.seal(data)[:500])
    elif kind == "half a yamux frame":
        await peer.say(data[:500])
        assert len(await stream.receive_exactly(488)) == 488
    start = trio.current_time()
    with pytest.raises(ConnectionClosedError, match="not answered"):
        await stream.receive_some()
    return trio.current_time() - start


async def test_peer_that_stalls(autojump_clock) -> None:
    """A minute of silence, in the middle of something or not: it does not get that far."""
    for kind in ("half a Noise message", "half a yamux frame", "nothing"):
        async with (
            against_manual_peer(ticking=True) as (end, peer),
            connected(ticking=True) as (a, b),
        ):
            other = a.open()
            await other.send_all(b"x")
            theirs = await b.accept()
            assert 5 <= await play_dead(end, peer, kind) <= 8
            # Those who answer are not affected, by hours of silence either.
            await theirs.receive_some()
            await trio.sleep(1000)
            await other.send_all(b"still here")
            assert await theirs.receive_some() == b"still here"


async def test_peer_that_trickles_is_alive(autojump_clock) -> None:
    """A message that takes minutes on a slow link comes in all the same."""
    async with against_manual_peer(ticking=True) as (end, peer):
        await peer.say(frame(WINDOW_UPDATE, SYN, 1, 0))
        stream = await end.accept()
        sealed = peer.upgraded.writer.seal(data_frame(1, PATTERN[:60]))
        for index in range(len(sealed)):
            await trio.sleep(5)
            await peer.raw.send(sealed[index : index + 1])
        assert await stream.receive_exactly(60) == PATTERN[:60]


async def test_peer_that_reads_nothing_and_answers_pings(autojump_clock) -> None:
    """Waiting for credit has no limit of its own."""
    async with connected(ticking=True, timeouts=Timeouts()) as (a, b):
        stream = a.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, PATTERN)
            theirs = await b.accept()
            await trio.sleep(3000)
            assert await theirs.receive_exactly(len(PATTERN)) == PATTERN


async def test_peer_that_opens_too_many_streams(autojump_clock) -> None:
    limits = Limits(max_streams_per_connection=10)
    async with against_manual_peer(limits=limits) as (end, peer):
        for number in range(20):
            await peer.say(data_frame(2 * number + 1, b"x", SYN))
        await quiet()
        assert len(end.accepted) == 10
        said = parse(await peer.hear())
        assert [f.stream_id for f in said if f.flags & RST] == list(range(21, 41, 2))
        assert end.connection.closed_reason is None


async def test_peer_that_makes_handlers_fail_and_does_not_read(caplog, autojump_clock) -> None:
    """Resets pile up: it is the connection that ends, and no handler gets the blame."""
    async with against_manual_peer(capacity=300) as (end, peer):

        async def handle() -> None:
            while True:
                stream = await end.accept()
                stream.reset()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle)
            with pytest.raises(ConnectionClosedError):  # noqa: PT012
                for number in range(20_000):
                    await peer.say(data_frame(2 * number + 1, b"", SYN))
            await end.connection.closed.wait()
            nursery.cancel_scope.cancel()
        assert "provokes" in (end.connection.closed_reason or "")


async def test_memory_taken_from_another_connection(autojump_clock) -> None:
    """Its peer hears of the reset though nothing else happens there, and so does its reader."""
    budget = MemoryBudget(100 * KIB)
    async with (
        against_manual_peer(budget=budget) as (one, holder),
        against_manual_peer(budget=budget) as (other, newcomer),
    ):
        await holder.hear()
        await holder.say(*[data_frame(1, bytes(30 * KIB), SYN), data_frame(1, bytes(30 * KIB))])
        held = await one.accept()
        await quiet()
        await newcomer.say(data_frame(1, bytes(60 * KIB), SYN))
        stream = await other.accept()
        assert len(await stream.receive_exactly(60 * KIB)) == 60 * KIB
        with pytest.raises(StreamResetError, match="memory"):
            await held.receive_some()
        assert parse(await holder.hear()) == [Frame(WINDOW_UPDATE, RST, 1, 0)]


async def test_an_error_of_ours_costs_one_connection(caplog, autojump_clock) -> None:
    def broken(stream: Stream) -> None:
        raise ZeroDivisionError

    raws = pipe_pair()
    theirs, ours = upgraded_pair()
    end = make_end(raws[1], ours, on_stream=broken)
    peer = ManualPeer(raws[0], theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end.connection.run)
        await peer.say(data_frame(1, b"", SYN))
        await end.connection.closed.wait()
    assert end.connection.closed_reason == "internal error"
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info


async def test_network_error(autojump_clock) -> None:
    raws = pipe_pair()
    _, ours = upgraded_pair()
    end = make_end(raws[1], ours)

    async def receive() -> memoryview:
        await trio.sleep(1)
        raise OSError(113, "No route to host")

    raws[1].receive = receive  # type: ignore[method-assign]
    await end.connection.run()
    assert end.connection.closed_reason == "network error: [Errno 113] No route to host"
    assert raws[1].aborted


async def test_peer_identity_is_that_of_the_handshake(autojump_clock) -> None:
    async with connected() as (a, b):
        assert a.connection.peer_id == BOB.peer_id
        stream = a.open()
        await stream.send_all(b"x")
        theirs = await b.accept()
        assert stream.peer_id == BOB.peer_id
        assert theirs.id == stream.id == 1
        assert (a.connection.direction.value, b.connection.direction.value) == (
            "outbound",
            "inbound",
        )


async def test_a_first_request_is_one_frame(autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        [ping] = parse(await peer.hear())
        assert ping.kind == PING
        stream = end.open()
        await stream.send_all(b"request")
        stream.close()
        said = parse(await peer.hear())
        while not said[-1].flags & FIN:
            said += parse(await peer.hear())
        assert said[0].flags & SYN
        assert (said[0].kind, said[0].body) == (DATA, b"request")
        assert len(said) <= 2
        await peer.say(frame(WINDOW_UPDATE, ACK, 2, 0) + data_frame(2, b"", FIN))
        await quiet()
        assert end.connection.stream_count == 0


async def test_what_came_before_a_reset_can_be_kept(autojump_clock):
    async with connected() as (alice, bob):
        for keeps in (False, True):
            stream = alice.open()
            await stream.send_all(b"hello")
            served = await bob.accept()
            if keeps:
                served.keep_received()
            await stream.wait_sent()
            stream.reset()
            await quiet()
            if keeps:
                assert await served.receive_some() == b"hello"
            with pytest.raises(StreamResetError):
                await served.receive_some()


async def test_waiting_until_all_has_left(autojump_clock):
    async with connected(windows=Windows(send_buffer=1 << 20)) as (alice, bob):
        stream = alice.open()
        await stream.send_all(bytes(300 * KIB))  # more than the peer's window
        with trio.move_on_after(5) as scope:
            await stream.wait_sent()
        assert scope.cancelled_caught
        served = await bob.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.receive_exactly, 300 * KIB)
            await stream.wait_sent()
        assert stream._core.send_pending == 0


async def test_a_pipe_with_a_limit_gets_small_messages(autojump_clock, monkeypatch):
    """Of a message that is cut nothing can be used."""
    async with connected() as (alice, bob):
        monkeypatch.setattr(type(alice.raw), "most_bytes", 128 * KIB)
        sizes = []
        send = alice.raw.send

        async def watched(data):
            sizes.append(len(data))
            await send(data)

        monkeypatch.setattr(alice.raw, "send", watched)
        stream = alice.open()
        await stream.send_all(bytes(100 * KIB))
        served = await bob.accept()
        assert await served.receive_exactly(100 * KIB) == bytes(100 * KIB)
        assert max(sizes) <= 2 * KIB + 32
