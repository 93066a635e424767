"""Peers that send rubbish, nothing, or too much: one typed error, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import msgpack
import pytest
import trio

from lattica.errors import StreamResetError
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.peer_log import BURST
from lattica.nat.base.wire import encode_length_prefixed, encode_uvarint
from lattica.nat.mux.stream import Stream
from lattica.rpc import (
    DeadlineExceededError,
    ResourceExhaustedError,
    RpcConfig,
    RpcError,
    StatusCode,
    UnavailableError,
    UnknownError,
    open_rpc,
    with_options,
)
from lattica.rpc.data_plane.budget import SLOW
from lattica.rpc.data_plane.data_stream import BODY_STALL
from lattica.rpc.protocol.client_core import ClientCore
from lattica.rpc.protocol.frames import (
    CONTROL,
    GOING_AWAY,
    Kind,
    encode_error,
    encode_hello,
    encode_numbered,
    encode_request,
    encode_result,
    encode_welcome,
)
from lattica.rpc.protocol.messages import DATA, encode_prefix
from lattica.rpc.protocol.messages import Kind as MessageKind
from lattica.rpc.protocol.server_core import ServerCore
from tests.support.doubles.memory_host import memory_net
from tests.support.rpc.pair import rpc_pair
from tests.support.rpc.services import Workshop

SESSION = bytes(range(16))
HELLO = encode_hello(SESSION, 0, 1)
SHOUT = b"\xaeWorkshop.shout"


HUGE = b"\xc8\x20\x00\x10" + b"\x7f" * 0x2000
"""A number, packed, that Python does not put in decimals."""


def frame(*parts: object) -> bytes:
    return encode_length_prefixed(bytes(msgpack.packb(parts)))


def huge_fact(name: str) -> bytes:
    """An error, packed, of whose facts one is a huge number."""
    return b"\x95\x05\x00\x02\xa1x\x81" + msgpack.packb(name) + HUGE


BAD_CALLERS: dict[str, tuple[str, bytes]] = {
    "rubbish": (CONTROL, b"\xff" * 20),
    "no hello": (CONTROL, encode_request(0, SHOUT, b"\x91\xa1a")),
    "version": (CONTROL, frame(0, 9, SESSION, 0, 1)),
    "huge version": (
        CONTROL,
        encode_length_prefixed(b"\x95\x00" + HUGE + msgpack.packb(SESSION) + b"\x00\x01"),
    ),
    "huge kind": (CONTROL, HELLO + encode_length_prefixed(b"\x92" + HUGE + b"\x00")),
    "huge number": (CONTROL, HELLO + encode_length_prefixed(b"\x92\x02" + HUGE)),
    "session": (CONTROL, frame(0, 1, b"short", 0, 1)),
    "hello twice": (CONTROL, HELLO + HELLO),
    "long frame": (CONTROL, HELLO + encode_uvarint(1 << 30)),
    "no array": (CONTROL, HELLO + frame()),
    "kind": (CONTROL, HELLO + frame(99, 1)),
    "a result": (CONTROL, HELLO + encode_result(0, b"\x01")),
    "number": (CONTROL, HELLO + frame(1, -1, "Workshop.shout", [])),
    "method": (CONTROL, HELLO + frame(1, 0, 7, [])),
    "arguments": (CONTROL, HELLO + frame(1, 0, "Workshop.shout", 7)),
    "arguments by name": (CONTROL, HELLO + frame(1, 0, "Workshop.shout", {"": 7})),
    "timeout": (CONTROL, HELLO + frame(1, 0, "Workshop.shout", -1, None, [])),
    "metadata": (CONTROL, HELLO + frame(1, 0, "Workshop.shout", 1, {1: 2}, [])),
    "order": (
        CONTROL,
        HELLO + encode_request(5, SHOUT, b"\x91\xa1a") + encode_request(5, SHOUT, b"\x91\xa1a"),
    ),
    "ack": (CONTROL, HELLO + encode_numbered(Kind.ACK, 100)),
    "ack of nothing": (CONTROL, HELLO + encode_numbered(Kind.ACK, 0)),
    "bomb": (CONTROL, HELLO + encode_length_prefixed(b"\xdd\x00\x00\xff\xff" * 5000)),
    "data rubbish": (DATA, b"\xff" * 20),
    "data kind": (DATA, encode_prefix(MessageKind.RESULT, 1, ()) + b"\xc0"),
    "data skeleton": (DATA, b"\x00" + encode_uvarint(1 << 40) + b"\x00"),
    "data buffers": (DATA, b"\x00\x01" + encode_uvarint(1 << 20)),
    "data buffer": (DATA, b"\x00\x01\x01" + encode_uvarint(1 << 60)),
    "data call": (DATA, encode_prefix(MessageKind.CALL, 1, ()) + b"\x01"),
    "data fetch": (DATA, encode_prefix(MessageKind.FETCH, 1, ()) + b"\x01"),
    "data compressed": (DATA, b"\x20\x01\x00\xc0"),
}


@pytest.mark.parametrize("case", BAD_CALLERS)
async def test_bad_callers_lose_their_stream_only(case: str) -> None:
    protocol, data = BAD_CALLERS[case]
    async with rpc_pair() as pair:
        assert await pair.stub.shout("a") == "A"
        stream = await pair.client_host.open_stream(pair.server_host.peer_id, protocol)
        with trio.fail_after(60), suppress(StreamResetError):
            await stream.send_all(data)
            while await stream.receive_some():
                pass
        assert stream.is_dead, "it ended in good order"
        assert await pair.stub.shout("b") == "B"
        while any(each.active for each in pair.server.statistics().methods):
            await trio.sleep(0.001)
        assert pair.server.statistics().receive_memory == 0


async def test_a_caller_that_sends_half_a_body_and_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rpc_pair() as pair:
        stream = await pair.client_host.open_stream(pair.server_host.peer_id, DATA)
        await stream.send_all(encode_prefix(MessageKind.CALL, 10, [bytes(1000)]) + b"\x96")
        await trio.sleep(1)
        stream.reset()
        assert await pair.stub.shout("b") == "B"
        assert pair.server.statistics().receive_memory == 0


async def test_a_body_that_is_only_claimed_keeps_nobody_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    size = 3_000_000
    config = RpcConfig(receive_memory=4_000_000, receive_memory_per_peer=4_000_000)
    async with rpc_pair(config, RpcConfig()) as pair:
        streams = []
        for immutable in (0, 1):
            stream = await pair.client_host.open_stream(pair.server_host.peer_id, DATA)
            head = b"\x96\xaeWorkshop.shout\x00\xc0\xc0\xc0\x90"
            sizes = encode_uvarint(size << 1 | immutable)
            await stream.send_all(bytes((0, len(head), 1)) + sizes + head)
            streams.append(stream)
        await trio.sleep(1)
        assert pair.server.statistics().receive_memory < size
        assert await pair.stub.echo(bytes(1_500_000)) == bytes(1_500_000)
        for stream in streams:
            with trio.fail_after(100), suppress(StreamResetError):
                while await stream.receive_some():
                    pass
        assert trio.current_time() >= BODY_STALL
        assert pair.server.statistics().receive_memory == 0


@pytest.mark.parametrize("immutable", [0, 1])
async def test_each_mib_of_a_body_has_its_own_time(
    immutable: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A body may take longer than a part of it, and is given up when a part does not come."""
    parts, size = 4, 5 * 1024 * 1024
    async with rpc_pair() as pair:
        stream = await pair.client_host.open_stream(pair.server_host.peer_id, DATA)
        head = b"\x96\xadWorkshop.echo\x00\xc0\xc0\xc0\x91\xc7\x01\x18\x00"
        sizes = encode_uvarint(size << 1 | immutable)
        await stream.send_all(bytes((0, len(head), 1)) + sizes + head)
        for _ in range(parts):
            await trio.sleep(0.9 * BODY_STALL)
            await stream.send_all(bytes(1024 * 1024))
        assert not stream.is_dead
        start = trio.current_time()
        with trio.fail_after(2 * BODY_STALL), suppress(StreamResetError):
            while await stream.receive_some():
                pass
        assert trio.current_time() - start == pytest.approx(BODY_STALL, abs=1.5)
        assert pair.server.statistics().receive_memory == 0


async def test_a_body_that_drips_yields_its_memory(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As soon as others need it; and what the others send is there whole."""
    size, sent = 3_500_000, 3_000_000
    config = RpcConfig(receive_memory=5_000_000, receive_memory_per_peer=4_000_000)
    async with rpc_pair(config, RpcConfig()) as pair, open_rpc(pair.net.host()) as other:
        stream = await pair.client_host.open_stream(pair.server_host.peer_id, DATA)
        head = b"\x96\xadWorkshop.echo\x00\xc0\xc0\xc0\x90"
        await stream.send_all(bytes((0, len(head), 1)) + encode_uvarint(size << 1) + head)
        await stream.send_all(bytes(sent))
        await trio.sleep(SLOW + 1)
        held = pair.server.statistics().receive_memory
        assert held > sent
        stub = other.stub(pair.server_host.peer_id, Workshop)
        # There is room, and it keeps what it has.
        assert await stub.echo(bytes(500_000)) == bytes(500_000)
        assert not stream.is_dead
        assert await stub.echo(bytes(2_500_000)) == bytes(2_500_000)
        with pytest.raises(StreamResetError) as caught:
            await stream.receive_some()
        assert caught.value.code == StatusCode.RESOURCE_EXHAUSTED
        while pair.server.statistics().receive_memory:
            await trio.sleep(0.01)


async def test_a_result_that_drips_yields_its_memory(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """On the calling side: the call fails with the reason."""
    config = RpcConfig(receive_memory=5_000_000, receive_memory_per_peer=4_000_000)
    async with rpc_pair(client_config=config) as pair, open_rpc(pair.net.host()) as other:

        async def drip(stream: Stream) -> None:
            await stream.send_all(bytes((3, 1, 1)) + encode_uvarint(3_500_000 << 1) + b"\x90")
            await stream.send_all(bytes(3_000_000))
            while await stream.receive_some():
                pass

        slow = pair.net.host()
        slow.handle(DATA, drip, owner="test")
        other.serve(Workshop())
        async with trio.open_nursery() as nursery:
            failures: list[ResourceExhaustedError] = []

            async def ask() -> None:
                with pytest.raises(ResourceExhaustedError, match="came too slowly") as caught:
                    await pair.client.stub(slow.peer_id, Workshop).echo(bytes(100_000))
                failures.append(caught.value)

            nursery.start_soon(ask)
            await trio.sleep(SLOW + 1)
            assert not failures
            assert len(await pair.stub.zeros(3_000_000)) == 3_000_000
        assert failures
        assert pair.client.statistics().receive_memory == 0


Answer = Callable[[bytes], bytes]
"""What a bad server writes, given the session that the client named."""

BAD_SERVERS: dict[str, Answer] = {
    "rubbish": lambda session: b"\xff" * 20,
    "no hello": lambda session: encode_result(0, b"\x01"),
    "another session": lambda session: encode_welcome(SESSION, 0, None),
    "hello twice": lambda session: encode_welcome(session, 0, None) * 2,
    "a call that was not made": lambda session: (
        encode_welcome(session, 0, None) + encode_result(77, b"\x01")
    ),
    "claims": lambda session: encode_welcome(session, 0, 5),
    "an error that is none": lambda session: (
        encode_welcome(session, 0, None) + frame(5, 0, "code", 1, 2)
    ),
    "huge type": lambda session: (
        encode_welcome(session, 0, None) + encode_length_prefixed(huge_fact("type"))
    ),
    "huge traceback": lambda session: (
        encode_welcome(session, 0, None) + encode_length_prefixed(huge_fact("traceback"))
    ),
    "huge kind": lambda session: (
        encode_welcome(session, 0, None) + encode_length_prefixed(b"\x92" + HUGE + b"\x00")
    ),
    "going away again": lambda session: encode_welcome(session, 0, None) + 2 * GOING_AWAY,
    "a request": lambda session: (
        encode_welcome(session, 0, None) + encode_request(0, SHOUT, b"\x90")
    ),
}


@pytest.mark.parametrize("case", BAD_SERVERS)
async def test_bad_servers(case: str) -> None:
    async with memory_net() as net:
        server, host = net.host(), net.host()

        async def answer(stream: Stream) -> None:
            hello = msgpack.unpackb(await stream.receive_message(1000))
            await stream.send_all(BAD_SERVERS[case](hello[2]))
            while await stream.receive_some():
                pass

        server.handle(CONTROL, answer, owner="test")
        async with open_rpc(host) as client:
            stub = client.stub(server.peer_id, Workshop)
            for _ in range(2):
                with trio.fail_after(60), pytest.raises(UnavailableError, match="breaks RPC"):
                    await stub.shout("a")


async def test_a_server_that_answers_more_than_it_was_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each answer takes the client time, and there would be no end of them."""
    async with memory_net() as net:
        server, host = net.host(), net.host()
        sessions = []

        async def answer(stream: Stream) -> None:
            hello = msgpack.unpackb(await stream.receive_message(1000))
            sessions.append(hello[2])
            greeting = encode_welcome(hello[2], 0, None)
            await stream.send_all(greeting + 2 * encode_result(0, b"\xa1A"))
            with suppress(StreamResetError):
                while await stream.receive_some():
                    pass

        server.handle(CONTROL, answer, owner="test")
        async with open_rpc(host) as client:
            stub = client.stub(server.peer_id, Workshop)
            for _ in range(2):
                with trio.fail_after(60):
                    assert await stub.shout("a") == "A"
    assert len(set(sessions)) == 2
    assert "more answers than calls" in caplog.text


async def test_a_server_that_greets_and_ends_the_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It is come back to once at once, and then ever more seldom."""
    async with memory_net() as net:
        server, host = net.host(), net.host()
        times: list[float] = []

        async def answer(stream: Stream) -> None:
            times.append(trio.current_time())
            hello = msgpack.unpackb(await stream.receive_message(1000))
            highest = None if len(times) == 1 else 0
            await stream.send_all(encode_welcome(hello[2], 0, highest))
            await stream.send_eof()

        server.handle(CONTROL, answer, owner="test")
        async with open_rpc(host) as client:
            stub = with_options(client.stub(server.peer_id, Workshop), timeout=10.0)
            with pytest.raises(DeadlineExceededError):
                await stub.shout("a")
            pauses = [b - a for a, b in pairwise(times)]
            assert len(times) <= 25
            assert all(pause >= 0.1 for pause in pauses[1:]), pauses
            assert pauses[-2] >= 0.4


async def test_an_error_on_the_data_plane_with_a_fact_that_is_none() -> None:
    async with memory_net() as net:
        server, host = net.host(), net.host()
        skeleton = b"\x93\x02\xa1x\x81\xa4type" + HUGE

        async def answer(stream: Stream) -> None:
            await stream.receive_some()
            await stream.send_all(encode_prefix(MessageKind.ERROR, len(skeleton), ()) + skeleton)
            await stream.send_eof()

        server.handle(DATA, answer, owner="test")
        async with open_rpc(host) as client:
            stub = client.stub(server.peer_id, Workshop)
            with pytest.raises(UnavailableError, match="are texts"):
                await stub.echo(bytes(200_000))


def _error(code: object) -> bytes:
    skeleton = bytes(msgpack.packb([code, "odd", {}]))
    return bytes(encode_prefix(MessageKind.ERROR, len(skeleton), ())) + skeleton


BAD_ENDS: dict[str, tuple[bytes, str]] = {
    "a code that cannot be counted": (_error([]), "an error is a code"),
    "a code that is a text": (_error("x"), "an error is a code"),
    "a result": (encode_prefix(MessageKind.RESULT, 1, ()) + b"\x01", "in place of an item"),
    "a call": (encode_prefix(MessageKind.CALL, 1, ()) + b"\x01", "in place of an item"),
    "a code of its own": (_error(2**40), "odd"),
}


@pytest.mark.parametrize("case", BAD_ENDS)
async def test_a_stream_of_items_that_ends_otherwise(case: str) -> None:
    said, match = BAD_ENDS[case]
    async with memory_net() as net:
        server, host = net.host(), net.host()

        async def answer(stream: Stream) -> None:
            await stream.receive_some()
            await stream.send_all(said)
            await stream.receive_some()

        server.handle(DATA, answer, owner="test")
        async with open_rpc(host) as client:
            stub = client.stub(server.peer_id, Workshop)
            with trio.fail_after(60), pytest.raises(RpcError, match=match):
                async for _ in stub.numbers(3):
                    pass
            (counted,) = [each for each in client.statistics().methods if "numbers" in each.method]
            assert not counted.active
            assert [*counted.codes] == ["UNKNOWN" if match == "odd" else "UNAVAILABLE"]


async def test_handlers_that_fail_often_write_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    async with rpc_pair() as pair:
        for _ in range(100):
            with pytest.raises(UnknownError, match="it broke"):
                await pair.stub.boom()
    lines = [each for each in caplog.records if "Workshop.boom failed" in each.getMessage()]
    assert 1 <= len(lines) <= BURST + 1
    assert lines[0].exc_info


async def test_tasks_that_fail_often_write_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ValueError("a defect")

    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        for _ in range(100):
            tasks.start_soon(fails)
    assert 1 <= len(caplog.records) <= BURST + 1


async def test_a_defect_while_reading_ends_the_session_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a defect")

    async with rpc_pair() as pair:
        assert await pair.stub.shout("a") == "A"
        with monkeypatch.context() as patch:
            patch.setattr(ServerCore, "receive", fails)
            with trio.fail_after(60), pytest.raises(UnavailableError):
                await pair.stub.shout("b")
        assert await pair.stub.shout("c") == "C"
        with monkeypatch.context() as patch:
            patch.setattr(ClientCore, "_on_frame", fails)
            with trio.fail_after(60), pytest.raises(UnavailableError, match="breaks RPC"):
                await pair.stub.shout("d")
        assert await pair.stub.shout("e") == "E"


async def test_an_error_of_a_code_that_is_not_known() -> None:
    async with memory_net() as net:
        server, host = net.host(), net.host()

        async def answer(stream: Stream) -> None:
            hello = msgpack.unpackb(await stream.receive_message(1000))
            await stream.send_all(encode_welcome(hello[2], 0, None))
            await stream.receive_message(1000)
            await stream.send_all(encode_error(0, 99, "odd", {"retry_after": -5, "type": "X"}))
            while await stream.receive_some():
                pass

        server.handle(CONTROL, answer, owner="test")
        async with open_rpc(host) as client:
            with pytest.raises(Exception, match="odd") as raised:
                await client.stub(server.peer_id, Workshop).shout("a")
            assert raised.value.retry_after is None  # type: ignore[attr-defined]


async def test_servers_that_hang(autojump_clock: trio.testing.MockClock) -> None:
    """In every phase: before the hello, before an answer, in the middle of one."""
    async with memory_net() as net:
        for said in (b"", b"\x01", b"hello", b"half"):
            server, host = net.host(), net.host()

            async def hang(stream: Stream, said: bytes = said) -> None:
                if said in (b"hello", b"half"):
                    hello = msgpack.unpackb(await stream.receive_message(1000))
                    await stream.send_all(encode_welcome(hello[2], 0, None))
                if said == b"half":
                    await stream.send_all(encode_result(0, b"\xc4\x10" + bytes(16))[:8])
                await trio.sleep_forever()

            server.handle(CONTROL, hang, owner="test")
            server.handle(DATA, lambda stream: trio.sleep_forever(), owner="test")
            async with open_rpc(host) as client:
                stub = with_options(client.stub(server.peer_id, Workshop), timeout=5.0)
                start = trio.current_time()
                with pytest.raises(DeadlineExceededError):
                    await stub.shout("a")
                with pytest.raises(DeadlineExceededError):
                    await stub.echo(bytes(1_000_000))
                with pytest.raises(DeadlineExceededError):
                    await anext(aiter(stub.numbers(3)))
                assert trio.current_time() - start < 16
                assert host.connections[server.peer_id].stream_count <= 1
