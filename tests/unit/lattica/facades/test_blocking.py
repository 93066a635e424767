"""The blocking facade on a node without a network: threads, time limits, errors, ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import pytest

from lattica.errors import (
    DialError,
    IncompleteReadError,
    LatticaError,
    ListenError,
    LocalProtocolError,
    RemoteProtocolError,
    StreamClosedError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.facades import facade
from lattica.facades.blocking import Lattica
from lattica.facades.streams.blocking import BlockingStream
from lattica.facades.threads.handoff import MAX_COPIED, MAX_QUEUED
from tests.support.doubles.fake_node import BUILT_IN, WINDOW, FakeNode

PATIENCE = 30.0
"""Seconds after which a test that hangs fails. Nothing that passes waits for it."""

Peer = Any


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    node = FakeNode()
    monkeypatch.setattr(facade, "make_node", lambda config, identity: node)
    return node


@pytest.fixture
def lattica(node: FakeNode) -> Iterator[Lattica]:
    with Lattica() as lattica:
        yield lattica


def in_thread(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "this has not come about"
        time.sleep(0.001)


def echo(stream: BlockingStream) -> None:
    for chunk in stream:
        stream.send_all(chunk)


def sink(stream: BlockingStream) -> None:
    for _ in stream:
        pass


# --- calls ---


def test_calls_reach_the_node(lattica: Lattica, node: FakeNode) -> None:
    assert str(lattica.peer_id) == "self"
    assert list(map(str, lattica.addrs)) == ["/memory/self"]
    assert str(lattica.connect("somebody")) == "somebody"
    peer: Peer = "self"
    lattica.wait_connected(peer, timeout=PATIENCE)
    lattica.add_address(peer, "/memory/x")
    lattica.disconnect(peer)
    assert lattica.is_connected(peer)
    assert len(lattica.peers()) == 1
    assert node.log == ["connect somebody", "connect self", "address self /memory/x"]
    assert str(lattica.path(peer)) == "direct-memory"
    lattica.wait_announced(timeout=3)
    with pytest.raises(TimeoutError):
        lattica.wait_reachable(timeout=0.01)
    assert node.log[-2:] == ["announced 3.0", "reachable 0.01"]


def test_errors_cross_with_their_type_and_content(lattica: Lattica) -> None:
    with pytest.raises(DialError, match="nobody there") as caught:
        lattica.connect("fail")
    assert caught.value.attempts[0].address == "/memory/fail"
    with pytest.raises(ValueError, match="begins with /"):
        lattica.handle("echo", echo)
    peer: Peer = "self"
    with pytest.raises(UnsupportedProtocolError):
        lattica.open_stream(peer, "/none")


def test_a_timeout_cancels_the_call(lattica: Lattica, node: FakeNode) -> None:
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        lattica.connect("hang", timeout=0.01)
    assert node.log == ["connect hang", "cancelled hang"]
    with pytest.raises(TimeoutError):
        lattica.connect("slow")  # the node's own limit
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="number of seconds"):
            lattica.connect("somebody", timeout=wrong)


def test_many_threads_at_once(lattica: Lattica) -> None:
    lattica.handle("/echo", echo)
    peer: Peer = "self"

    def work(number: int) -> None:
        payload = number.to_bytes(2, "big") * 5000
        with lattica.open_stream(peer, "/echo") as stream:
            sending = in_thread(stream.send_all, payload)
            assert stream.receive_exactly(len(payload), timeout=PATIENCE) == payload
            sending.result(PATIENCE)
            stream.send_eof()
            assert stream.receive_some() == b""

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(work, number) for number in range(100)]:
            done.result(PATIENCE)


def test_a_call_from_the_nodes_own_thread_is_refused(lattica: Lattica) -> None:
    def inside() -> None:
        with pytest.raises(LocalProtocolError, match="another thread"):
            lattica.connect("somebody")
        with pytest.raises(LocalProtocolError, match="own thread"):
            lattica.close()

    lattica._bridge.call_plain(inside)


def test_progress_is_told_in_the_calling_thread(lattica: Lattica) -> None:
    import trio

    told: list[tuple[int, int]] = []

    async def work(tell: Callable[[int], None]) -> str:
        for step in range(3):
            tell(step)
            await trio.lowlevel.checkpoint()
        return "done"

    result = lattica._bridge.call_reporting(
        work, lambda step: told.append((step, threading.get_ident()))
    )
    assert result == "done"
    assert told == [(step, threading.get_ident()) for step in range(3)]

    async def endless(tell: Callable[[int], None]) -> None:
        tell(0)
        await trio.sleep_forever()

    def refuse(step: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        lattica._bridge.call_reporting(endless, refuse)


# --- streams ---


def test_small_reads_do_not_cross(lattica: Lattica, monkeypatch: pytest.MonkeyPatch) -> None:
    peer: Peer = "self"
    lattica.handle("/text", lambda stream: stream.send_all(b"0123456789" * 100))
    with lattica.open_stream(peer, "/text") as stream:
        assert stream.receive_exactly(1) == b"0"
        with monkeypatch.context() as patch:
            patch.setattr(lattica._bridge, "call", None)
            assert stream.receive_some(3) == b"123"
            assert stream.receive_exactly(6) == b"456789"
            assert stream.receive_exactly(0) == b""
        rest = b"".join(stream)
        assert rest == b"0123456789" * 99
        assert stream.receive_some() == b""
        buffer = bytearray(5)
        assert stream.receive_into(buffer) == 0
        with pytest.raises(IncompleteReadError, match="0 of 2"):
            stream.receive_exactly(2)


def test_receive_into_fills_the_callers_memory(lattica: Lattica) -> None:
    peer: Peer = "self"
    payload = os.urandom(5 * WINDOW + 7)
    lattica.handle("/blob", lambda stream: stream.send_all(payload))
    with lattica.open_stream(peer, "/blob") as stream:
        head = stream.receive_exactly(3)
        buffer = bytearray(len(payload) - 10)
        assert stream.receive_into(memoryview(buffer)[:4], fill=True) == 4
        assert stream.receive_into(memoryview(buffer)[4:], fill=True) == len(buffer) - 4
        assert head + buffer == payload[:-7]
        tail = bytearray(100)
        assert stream.receive_into(tail, fill=True) == 7
        assert tail[:7] == payload[-7:]
        with pytest.raises(LocalProtocolError, match="read-only"):
            stream.receive_into(memoryview(b"abc"))
        with pytest.raises(LocalProtocolError, match="empty"):
            stream.receive_into(bytearray())


def test_arrays_are_sent_and_received_into(lattica: Lattica) -> None:
    lattica.handle("/echo", echo)
    peer: Peer = "self"
    grid: Any = np.arange(200_000, dtype=np.float32).reshape(400, 500)
    with lattica.open_stream(peer, "/echo") as stream:
        for source in (grid, grid.T, grid[::2, ::5], memoryview(grid.T), grid[:3, 1]):
            expected = np.asarray(source)
            target = np.zeros(expected.shape[::-1], np.float32).T
            sending = in_thread(stream.send_all, source)
            assert stream.receive_into(target, fill=True, timeout=PATIENCE) == target.nbytes
            assert np.array_equal(target, expected)
            sending.result(PATIENCE)
        stream.send_message(grid[:2, 0])
        assert stream.receive_message(8) == grid[:2, 0].tobytes()
        with pytest.raises(TypeError, match="str"):
            stream.send_all("text")  # type: ignore[arg-type]


def test_a_reset_says_why(lattica: Lattica, node: FakeNode) -> None:
    gone = threading.Event()

    def wait(stream: BlockingStream) -> None:
        with pytest.raises(TimeoutError):
            stream.wait_gone(timeout=0)
        stream.wait_gone(timeout=PATIENCE)
        gone.set()

    lattica.handle("/wait", wait)
    peer: Peer = "self"
    stream = lattica.open_stream(peer, "/wait")
    with pytest.raises(LocalProtocolError, match="error code"):
        stream.reset(code=-1)
    stream.reset("done with it", 7)
    assert gone.wait(PATIENCE)
    assert node.reset_codes[0] == 7


def test_nothing_is_lost_when_a_read_times_out(lattica: Lattica) -> None:
    peer: Peer = "self"
    go_on = threading.Event()

    def halves(stream: BlockingStream) -> None:
        stream.send_all(b"12345")
        go_on.wait(PATIENCE)
        stream.send_all(b"67890")
        stream.receive_some()

    lattica.handle("/halves", halves)
    with lattica.open_stream(peer, "/halves") as stream:
        with pytest.raises(TimeoutError):
            stream.receive_exactly(10, timeout=0.05)
        with pytest.raises(TimeoutError):
            stream.receive_into(bytearray(10), fill=True, timeout=0.05)
        go_on.set()
        assert stream.receive_exactly(10, timeout=PATIENCE) == b"1234567890"
        with pytest.raises(TimeoutError):
            stream.receive_some(timeout=0)


def test_messages(lattica: Lattica) -> None:
    peer: Peer = "self"
    messages = [b"", b"x", b"y" * 200, b"z" * (3 * WINDOW)]

    def repeat(stream: BlockingStream) -> None:
        with suppress(IncompleteReadError):
            while True:
                stream.send_message(stream.receive_message(4 * WINDOW))

    lattica.handle("/repeat", repeat)
    with lattica.open_stream(peer, "/repeat") as stream:
        for message in messages:
            stream.send_message(bytearray(message), timeout=PATIENCE)
            assert stream.receive_message(4 * WINDOW, timeout=PATIENCE) == message
        stream.send_message(b"12345")
        with pytest.raises(RemoteProtocolError, match="5 bytes, where 4 are allowed"):
            stream.receive_message(4, timeout=PATIENCE)
        assert stream.receive_message(5) == b"12345"  # it is still there
        stream.send_eof()
        with pytest.raises(IncompleteReadError, match="where a message was expected"):
            stream.receive_message(5, timeout=PATIENCE)


def test_a_message_that_does_not_come_in_time_or_to_its_end(lattica: Lattica) -> None:
    peer: Peer = "self"
    go_on = threading.Event()

    def in_pieces(stream: BlockingStream) -> None:
        stream.send_all(b"\x96")  # half of the length, 150
        go_on.wait(PATIENCE)
        stream.send_all(b"\x01" + b"m" * 150 + b"\x05cut")
        stream.send_eof()

    lattica.handle("/pieces", in_pieces)
    with lattica.open_stream(peer, "/pieces") as stream:
        with pytest.raises(TimeoutError):
            stream.receive_message(200, timeout=0.05)
        go_on.set()
        assert stream.receive_message(200, timeout=PATIENCE) == b"m" * 150
        with pytest.raises(IncompleteReadError, match="in a message"):
            stream.receive_message(200, timeout=PATIENCE)
        assert b"".join(stream) == b"\x05cut"
        assert not stream.is_gone
        stream.reset()
        with pytest.raises(StreamResetError):
            stream.receive_message(200, timeout=PATIENCE)
        assert stream.is_gone


def test_sends_of_many_threads_are_whole(lattica: Lattica) -> None:
    peer: Peer = "self"
    size = WINDOW + 100
    received: list[bytes] = []

    def collect(stream: BlockingStream) -> None:
        for _ in range(8):
            received.append(stream.receive_exactly(size))
        stream.send_all(b"!")

    lattica.handle("/collect", collect)
    with lattica.open_stream(peer, "/collect") as stream:
        sends = [in_thread(stream.send_all, bytes([number]) * size) for number in range(8)]
        for send in sends:
            send.result(PATIENCE)
        assert stream.receive_exactly(1, timeout=PATIENCE) == b"!"
    assert sorted(received) == [bytes([number]) * size for number in range(8)]


def test_sends_arrive_in_order_whether_queued_or_not(lattica: Lattica) -> None:
    peer: Peer = "self"
    sizes = [1, 100, MAX_COPIED, 3, 2 * MAX_QUEUED, 5, MAX_COPIED + 1, WINDOW, 7, 0] * 5
    pieces: list[bytes | bytearray] = [bytes([i]) * size for i, size in enumerate(sizes)]
    pieces[::3] = [bytearray(piece) for piece in pieces[::3]]
    whole = b"".join(pieces)
    result: Future[bytes] = Future()
    lattica.handle("/all", lambda stream: result.set_result(b"".join(stream)))
    with lattica.open_stream(peer, "/all") as stream:
        for piece in pieces:
            stream.send_all(piece, timeout=PATIENCE)
            if isinstance(piece, bytearray):
                piece[:] = bytes(len(piece))
        stream.send_eof()
        with pytest.raises(StreamClosedError):
            stream.send_all(b"more")
        assert result.result(PATIENCE) == whole


@pytest.mark.parametrize("end", ["stream", "handler"])
def test_what_is_queued_still_arrives_after_the_end(node: FakeNode, end: str) -> None:
    peer: Peer = "self"
    received: Future[bytes] = Future()
    ready = threading.Event()
    data = os.urandom(5 * WINDOW)

    def slow(stream: BlockingStream) -> None:
        ready.wait(PATIENCE)
        received.set_result(stream.receive_exactly(len(data)))

    with Lattica() as lattica:
        if end == "handler":
            lattica.handle("/send", lambda stream: stream.send_all(data))
            slow_end = in_thread(slow, lattica.open_stream(peer, "/send"))
            ready.set()
            slow_end.result(PATIENCE)
        else:
            lattica.handle("/slow", slow)
            stream = lattica.open_stream(peer, "/slow")
            stream.send_all(data)
            reading = in_thread(stream.receive_some)
            until(lambda: lattica._bridge._live)
            stream.close()
            with pytest.raises(StreamClosedError):
                reading.result(PATIENCE)
            with pytest.raises(StreamClosedError):
                stream.send_all(b"more")
            with pytest.raises(StreamClosedError):
                stream.send_eof()
            ready.set()
        assert received.result(PATIENCE) == data


def test_an_error_behind_a_queued_send_is_met_by_the_next(lattica: Lattica) -> None:
    peer: Peer = "self"

    def refuse(stream: BlockingStream) -> None:
        raise KeyError

    lattica.handle("/refuse", refuse)
    stream = lattica.open_stream(peer, "/refuse")

    def send_until_it_fails() -> None:
        while True:
            stream.send_all(b"x" * 1000, timeout=PATIENCE)

    with pytest.raises(StreamResetError):
        send_until_it_fails()
    for _ in range(2):
        with pytest.raises(StreamResetError):
            stream.send_all(b"x")


def test_several_threads_share_what_is_received(lattica: Lattica) -> None:
    peer: Peer = "self"
    payload = b"".join(number.to_bytes(4, "big") for number in range(20_000))
    lattica.handle("/numbers", lambda stream: stream.send_all(payload))
    with lattica.open_stream(peer, "/numbers") as stream:

        def read() -> list[bytes]:
            return [stream.receive_exactly(4, timeout=PATIENCE) for _ in range(5000)]

        readers = [in_thread(read) for _ in range(4)]
        numbers = [number for reader in readers for number in reader.result(PATIENCE)]
    assert b"".join(sorted(numbers)) == payload


def test_the_end_of_a_stream(lattica: Lattica) -> None:
    peer: Peer = "self"
    lattica.handle("/sink", sink)
    stream = lattica.open_stream(peer, "/sink")
    assert "/sink" in repr(stream)
    assert (stream.protocol, str(stream.peer_id), stream.id) == ("/sink", "self", 1)
    stream.close()
    stream.close()
    with pytest.raises(StreamClosedError):
        stream.send_all(b"x")
    with pytest.raises(StreamClosedError):
        stream.receive_some()
    stream = lattica.open_stream(peer, "/sink")
    stream.reset()
    stream.reset()
    with pytest.raises(StreamResetError):
        stream.receive_some()
    with pytest.raises(KeyError), lattica.open_stream(peer, "/sink") as stream:
        raise KeyError
    with pytest.raises(StreamResetError):
        stream.send_all(b"x")
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="max_bytes"):
            stream.receive_some(wrong)
    with pytest.raises(ValueError, match="-1 bytes"):
        stream.receive_exactly(-1)


def test_closing_a_stream_wakes_the_thread_that_receives(lattica: Lattica) -> None:
    peer: Peer = "self"
    lattica.handle("/sink", sink)
    stream = lattica.open_stream(peer, "/sink")
    receiving = in_thread(stream.receive_some)
    until(lambda: lattica._bridge._live)
    stream.close()
    with pytest.raises(StreamClosedError):
        receiving.result(PATIENCE)


# --- handlers ---


def test_a_handler_that_raises_costs_its_stream(lattica: Lattica, node: FakeNode) -> None:
    peer: Peer = "self"

    def bad(stream: BlockingStream) -> None:
        raise KeyError("bad handler")

    def exits(stream: BlockingStream) -> None:
        sys.exit(3)

    lattica.handle("/bad", bad)
    lattica.handle("/exits", exits)
    for protocol in ("/bad", "/exits"):
        stream = lattica.open_stream(peer, protocol)
        with pytest.raises(StreamResetError):
            stream.receive_some(timeout=PATIENCE)
    assert [type(error) for error in node.failures] == [KeyError, RuntimeError]
    assert str(lattica.connect("somebody")) == "somebody"
    lattica.unhandle("/bad")
    with pytest.raises(UnsupportedProtocolError):
        lattica.open_stream(peer, "/bad")


def test_what_cannot_be_called_is_no_handler(lattica: Lattica, node: FakeNode) -> None:
    wrong: Any = None
    with pytest.raises(LocalProtocolError, match="a handler is a function of a stream, not None"):
        lattica.handle("/p", wrong)
    assert "/p" not in node.handlers


def test_an_async_function_is_no_handler_for_threads(lattica: Lattica, node: FakeNode) -> None:
    async def handler(stream: object) -> None: ...

    async def generator(stream: object) -> AsyncIterator[bytes]:
        yield b""

    class Served:
        async def __call__(self, stream: object) -> None: ...

        async def method(self, stream: object) -> None: ...

    wrong: list[Any] = [handler, partial(handler), Served(), partial(Served()), Served().method]
    for each in wrong:
        with pytest.raises(LocalProtocolError, match="an async function: Node and AsyncLattica"):
            lattica.handle("/p", each)
    with pytest.raises(LocalProtocolError, match="yields"):
        lattica.handle("/p", generator)
    assert "/p" not in node.handlers


def test_a_handler_that_returns_what_did_not_run_has_failed(
    lattica: Lattica, node: FakeNode
) -> None:
    async def handler(stream: object) -> None: ...

    lattica.handle("/p", lambda stream: handler(stream))
    with lattica.open_stream("self", "/p") as stream, pytest.raises(StreamResetError):
        stream.receive_some(timeout=PATIENCE)
    (error,) = node.failures
    assert "returned a coroutine, unrun" in str(error)


def test_what_the_node_serves_is_replaced_on_request_only(lattica: Lattica) -> None:
    with pytest.raises(LocalProtocolError):
        lattica.handle(BUILT_IN, lambda stream: stream.send_all(b"mine"))
    lattica.handle(BUILT_IN, lambda stream: stream.send_all(b"mine"), replace=True)
    assert lattica.open_stream("self", BUILT_IN).receive_exactly(4) == b"mine"


def test_handlers_are_bounded_and_further_streams_wait(node: FakeNode) -> None:
    peer: Peer = "self"
    gate = threading.Semaphore(0)
    started = threading.Semaphore(0)
    names: set[str] = set()

    def handler(stream: BlockingStream) -> None:
        names.add(threading.current_thread().name)
        started.release()
        gate.acquire(timeout=PATIENCE)
        stream.send_all(stream.receive_some())

    with Lattica(max_handler_threads=2) as lattica:
        lattica.handle("/slow", handler)
        streams = [lattica.open_stream(peer, "/slow") for _ in range(4)]
        for _ in range(2):
            assert started.acquire(timeout=PATIENCE)
        assert not started.acquire(timeout=0.05)
        with pytest.raises(TimeoutError):  # the fourth is not read: its sender is held up
            streams[3].send_all(bytes(2 * MAX_QUEUED), timeout=0.05)
        streams[3].reset()
        for stream in streams[:3]:
            stream.send_all(b"x")
        for _ in range(4):
            gate.release()
        for stream in streams[:3]:
            assert stream.receive_some(timeout=PATIENCE) == b"x"
    assert threading.main_thread().name not in names


def test_close_from_inside_a_handler(node: FakeNode) -> None:
    peer: Peer = "self"
    lattica = Lattica().start()
    closed: Future[None] = Future()

    def handler(stream: BlockingStream) -> None:
        lattica.close()
        closed.set_result(None)

    lattica.handle("/close", handler)
    lattica.open_stream(peer, "/close")
    closed.result(PATIENCE)


def test_close_wakes_handlers_and_waits_for_them(node: FakeNode) -> None:
    peer: Peer = "self"
    outcome: list[BaseException] = []

    def handler(stream: BlockingStream) -> None:
        try:
            stream.receive_some()
        except LocalProtocolError as exc:
            time.sleep(0.05)
            outcome.append(exc)

    with Lattica() as lattica:
        lattica.handle("/wait", handler)
        lattica.open_stream(peer, "/wait")
        until(lambda: lattica._handlers._running and lattica._bridge._live)
    assert len(outcome) == 1


def test_close_leaves_a_stuck_handler_behind(
    node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    peer: Peer = "self"
    gate = threading.Event()
    with Lattica() as lattica:
        lattica.handle("/stuck", lambda stream: gate.wait(PATIENCE))
        lattica.open_stream(peer, "/stuck")
        until(lambda: lattica._handlers._running)
    assert "1 stream handlers have not returned" in caplog.text
    gate.set()


# --- events ---


def test_events(lattica: Lattica, node: FakeNode) -> None:
    with lattica.events() as events:
        lattica.connect("one")
        lattica.connect("two")
        got: list[Any] = [events.receive(), next(events)]
        assert got == ["connected one", "connected two"]
        with pytest.raises(TimeoutError):
            events.receive(timeout=0.01)
        waiting = in_thread(list, events)
        until(lambda: lattica._bridge._live)
    assert waiting.result(PATIENCE) == []
    with pytest.raises(LocalProtocolError, match="closed"):
        events.receive()
    events.close()
    assert not node.subscribers


def test_events_end_with_the_node(node: FakeNode) -> None:
    with Lattica() as lattica:
        events = lattica.events()
        waiting = in_thread(list, events)
        until(lambda: lattica._bridge._live)
    assert waiting.result(PATIENCE) == []
    assert list(events) == []
    with pytest.raises(LocalProtocolError):
        events.receive()
    events.close()


# --- beginning and end ---


def test_before_start_and_after_close(node: FakeNode) -> None:
    lattica = Lattica()
    too_early: list[Callable[[], object]] = [
        lambda: lattica.peer_id,
        lambda: lattica.connect("x"),
        lattica.events,
    ]
    for use in too_early:
        with pytest.raises(LocalProtocolError, match="not started"):
            use()
    assert lattica.start() is lattica
    assert lattica.start() is lattica
    peer: Peer = "self"
    lattica.handle("/echo", echo)
    stream = lattica.open_stream(peer, "/echo")
    stream.send_all(b"buffered")
    assert stream.receive_exactly(1, timeout=PATIENCE) == b"b"
    for _ in range(2):
        lattica.close()
    too_late: list[Callable[[], object]] = [
        lambda: lattica.peer_id,
        lambda: lattica.addrs,
        lambda: lattica.connect("x"),
        lambda: lattica.handle("/echo", echo),
        lattica.events,
        lattica.start,
        stream.receive_some,
        lambda: stream.send_all(b"x"),
    ]
    for use in too_late:
        with pytest.raises(LocalProtocolError, match="Lattica is closed"):
            use()
    stream.close()
    stream.reset()
    never = Lattica()
    never.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        never.start()


def test_close_while_calls_are_blocked(node: FakeNode) -> None:
    peer: Peer = "self"
    lattica, may_return = Lattica().start(), threading.Event()
    lattica.handle("/sink", lambda stream: may_return.wait(PATIENCE))
    stream = lattica.open_stream(peer, "/sink")
    blocked = [in_thread(lattica.connect, "hang") for _ in range(10)]
    blocked.append(in_thread(stream.receive_some))
    blocked.append(in_thread(stream.send_all, bytes(2 * MAX_QUEUED)))
    until(lambda: len(lattica._bridge._live) == len(blocked))
    closers = [in_thread(lattica.close) for _ in range(3)]
    for call in blocked:
        with pytest.raises(LocalProtocolError, match="is closed"):
            call.result(PATIENCE)
    may_return.set()
    for closer in closers:
        closer.result(PATIENCE)


def test_close_with_a_timeout(node: FakeNode) -> None:
    lattica = Lattica().start()
    call = in_thread(lattica.connect, "late")
    until(lambda: "connect late" in node.log)
    with pytest.raises(TimeoutError, match="not stopped"):
        lattica.close(timeout=0.01)
    lattica._bridge.soon(node.release.set)
    lattica.close()
    with pytest.raises(LocalProtocolError):
        call.result(PATIENCE)


def test_what_the_node_raises_when_it_opens(
    node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.trouble = "listen"
    lattica = Lattica()
    with pytest.raises(ListenError, match="in use"):
        lattica.start()
    with pytest.raises(LocalProtocolError, match="closed"):
        lattica.start()
    lattica.close()
    assert not caplog.records


def test_close_while_it_opens(node: FakeNode) -> None:
    node.trouble = "opening"
    lattica = Lattica()
    starting = in_thread(lattica.start)
    until(lambda: lattica._bridge._token)
    with pytest.raises(LocalProtocolError, match="not started"):
        lattica.connect("x")
    lattica.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        starting.result(PATIENCE)


def test_what_the_node_raises_when_it_closes(node: FakeNode) -> None:
    node.trouble = "closing"
    lattica = Lattica().start()
    with pytest.raises(OSError, match="disk is full"):
        lattica.close()
    lattica.close()


def test_a_node_that_crashes(node: FakeNode, caplog: pytest.LogCaptureFixture) -> None:
    lattica = Lattica().start()
    blocked = in_thread(lattica.connect, "hang")
    with pytest.raises(LatticaError, match="stopped because of an error") as caught:
        lattica.connect("crash")
    assert not isinstance(caught.value, LocalProtocolError)
    with pytest.raises(LatticaError, match="stopped because of an error"):
        blocked.result(PATIENCE)
    until(lambda: lattica._bridge._ended.done())
    with pytest.raises(LatticaError, match="stopped") as caught:
        lattica.connect("somebody")
    assert "ZeroDivisionError" in repr(caught.value.__cause__)
    assert "a bug in the node" in caplog.text
    lattica.close()


def test_a_crash_that_nobody_has_seen_is_raised_by_close(node: FakeNode) -> None:
    lattica = Lattica().start()
    lattica._bridge.soon(node.spawn, node._crash)
    until(lambda: lattica._bridge._ended.done())
    with pytest.raises(ExceptionGroup):
        lattica.close()


# --- interruption, exit, fork: what only another process can show ---

PRELUDE = """
import os, signal, sys, threading, time
from lattica.facades import facade
from lattica.facades.blocking import Lattica
from tests.support.doubles.fake_node import FakeNode
node = FakeNode()
facade.make_node = lambda config, identity: node
def interrupt_when(condition):
    def wait():
        while not condition():
            time.sleep(0.001)
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=wait, daemon=True).start()
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def test_keyboard_interrupt_cancels_the_call() -> None:
    done = run_python("""
with Lattica() as lattica:
    interrupt_when(lambda: "connect hang" in node.log)
    try:
        lattica.connect("hang")
    except KeyboardInterrupt:
        print(node.log[-1])
    print(lattica.connect("somebody"))
""")
    assert (done.stdout.split("\n")[:2], done.stderr) == (["cancelled hang", "somebody"], "")


def test_keyboard_interrupt_disposes_of_a_late_result() -> None:
    done = run_python("""
with Lattica() as lattica:
    lattica.handle("/sink", lambda stream: stream.receive_some())
    calls = lattica._bridge._live
    interrupt_when(lambda: calls)
    threading.Timer(0.2, lambda: lattica._bridge.soon(node.release.set)).start()
    try:
        lattica.open_stream("late", "/sink")
    except KeyboardInterrupt:
        lattica.peers()  # what was asked for before has happened then
        print("interrupted", node.resets > 0)
""")
    assert (done.stdout, done.stderr) == ("interrupted True\n", "")


def test_keyboard_interrupt_while_it_starts() -> None:
    done = run_python("""
node.trouble = "opening"
lattica = Lattica()
interrupt_when(lambda: lattica._bridge._token)
try:
    lattica.start()
except KeyboardInterrupt:
    print("interrupted", lattica._bridge._ended.done())
""")
    assert (done.stdout, done.stderr) == ("interrupted True\n", "")


def test_exit_without_close() -> None:
    done = run_python("""
lattica = Lattica().start()
lattica.handle("/stuck", lambda stream: time.sleep(1000))
lattica.open_stream("self", "/stuck")
for _ in range(3):
    threading.Thread(target=lambda: lattica.connect("hang"), daemon=True).start()
threading.excepthook = lambda args: None
time.sleep(0.05)
print("end")
""")
    assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)


def test_exit_without_close_of_a_node_that_does_not_stop() -> None:
    done = run_python("""
from lattica.facades.threads import bridge
bridge.EXIT_GRACE = 0.1
lattica = Lattica().start()
threading.excepthook = lambda args: None
threading.Thread(target=lambda: lattica.connect("late"), daemon=True).start()
while not node.log: time.sleep(0.01)
print("end")
""")
    assert (done.stdout, done.returncode) == ("end\n", 0)


@contextmanager
def forked() -> Iterator[Callable[[Callable[[], object]], str]]:
    """A function that runs another one in a forked child, and returns what it raised."""

    def run(fn: Callable[[], object]) -> str:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                fn()
                report = "nothing"
            except BaseException as exc:
                report = f"{type(exc).__name__}: {exc}"
            os.write(writing, report.encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with open(reading, "rb") as file:
            return file.read().decode()

    yield run


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_gets_a_clear_error(lattica: Lattica) -> None:
    peer: Peer = "self"
    lattica.handle("/echo", echo)
    stream = lattica.open_stream(peer, "/echo")
    with forked() as run:
        uses: list[Callable[[], object]] = [
            lambda: lattica.connect("somebody"),
            lambda: lattica.peer_id,
            lambda: stream.send_all(b"x"),
            stream.receive_some,
            stream.close,
            lattica.start,
        ]
        for use in uses:
            assert "after a fork" in run(use)
        assert run(lattica.close) == "nothing"
        assert run(stream.reset) == "nothing"
    stream.send_all(b"still here")
    assert stream.receive_exactly(10, timeout=PATIENCE) == b"still here"


def test_a_forked_child_can_exit_and_have_a_node_of_its_own() -> None:
    done = run_python("""
lattica = Lattica().start()
child = os.fork()
if child == 0:
    node = FakeNode()
    with Lattica() as other:
        other.handle("/x", lambda stream: stream.send_all(b"y"))
        print("child", other.open_stream("self", "/x").receive_some())
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(lattica.connect("somebody"))
""")
    assert (done.stdout, done.stderr) == ("child b'y'\n7\nsomebody\n", "")


def test_the_reserved_names_are_free() -> None:
    names = {*vars(Lattica), *vars(BlockingStream)}
    reserved = {"store", "get", "put_block", "get_block", "get_stub"}
    assert not names & reserved
    assert not [name for name in names if name.startswith("with_")]


def test_quiet(node: FakeNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Lattica() as lattica:
        lattica.connect("somebody")
    assert not caplog.records
