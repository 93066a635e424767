"""WebSocket: the split of the bytes never matters, and garbage only ever costs itself."""

from __future__ import annotations

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI

from lattica.errors import ConnectionClosedError, RemoteProtocolError
from lattica.nat.transport.websocket import MAX_EARLY_FRAME, WebSocketConn
from tests.support.pairs.raw_pipe import PipeEnd, raw_pipe

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
cut_lists = st.lists(st.integers(0, 2000), max_size=10)
opcodes = st.sampled_from(list(Opcode))
frames = st.builds(Frame, opcodes, st.binary(max_size=30), st.booleans())


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def masked(frame: Frame) -> bytes:
    """The frame on the wire as a client sends it, sound or not."""
    data = bytes(frame.data)
    return bytes([frame.opcode | (frame.fin << 7), 0x80 | len(data), 0, 0, 0, 0]) + data


async def feed(pipe: PipeEnd, conn: WebSocketConn, parts: list[bytes]) -> tuple[bytes, bool]:
    """Send the parts, one receive each at least; what came out, and whether all was well."""
    got = bytearray()
    fine = True

    async def receive() -> None:
        nonlocal fine
        try:
            while piece := await conn.receive():
                got.extend(piece)
        except (RemoteProtocolError, ConnectionClosedError):
            fine = False
        await conn.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        for part in parts:
            if pipe.peer.closed:
                break
            await pipe.send(part)
            await trio.testing.wait_all_tasks_blocked()
        await pipe.aclose()
    return bytes(got), fine


def serve(parts: list[bytes]) -> tuple[bytes, bool]:
    a, b = raw_pipe()
    conn = WebSocketConn(b, ServerProtocol(max_size=(None, MAX_EARLY_FRAME)), "/ws")
    return trio.run(feed, a, conn, parts)


@settings(deadline=None)
@given(st.lists(frames, max_size=6), cut_lists)
def test_any_split_gives_the_same_bytes(sent: list[Frame], cuts: list[int]) -> None:
    stream = REQUEST + b"".join(map(masked, sent))
    whole = serve([stream])
    assert serve(split(stream, cuts)) == whole
    assert b"".join(
        bytes(frame.data) for frame in sent if frame.opcode in (Opcode.BINARY, Opcode.CONT)
    ).startswith(whole[0])


@settings(deadline=None)
@given(st.binary(max_size=200), cut_lists, st.booleans())
def test_a_client_of_garbage(data: bytes, cuts: list[int], open_first: bool) -> None:
    stream = REQUEST * open_first + data
    assert serve(split(stream, cuts)) == serve([stream])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=4), cut_lists)
def test_a_client_that_garbles_its_request(changes: list[tuple[int, int]], cuts: list[int]) -> None:
    stream = bytearray(REQUEST + masked(Frame(Opcode.BINARY, b"data")))
    for place, value in changes:
        stream[place % len(stream)] = value
    assert serve(split(bytes(stream), cuts)) == serve([bytes(stream)])


@settings(deadline=None)
@given(
    st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 101 x\r\n"]), st.binary(max_size=200), cut_lists
)
def test_a_server_of_garbage(start: bytes, data: bytes, cuts: list[int]) -> None:
    async def main() -> tuple[bytes, bool]:
        a, b = raw_pipe()
        uri = WebSocketURI(False, "127.0.0.1", 1, "/", "")
        return await feed(
            b, WebSocketConn(a, ClientProtocol(uri), "/ws"), split(start + data, cuts)
        )

    assert trio.run(main) == (b"", False)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=500), max_size=6), st.integers(1, 400))
def test_two_ends_understand_one_another(sent: list[bytes], chunk: int) -> None:
    async def main() -> None:
        a, b = raw_pipe()
        a.chunk = b.chunk = chunk
        uri = WebSocketURI(False, "127.0.0.1", 1, "/", "")
        client = WebSocketConn(a, ClientProtocol(uri), "/ws")
        server = WebSocketConn(b, ServerProtocol(), "/ws")

        async def run(conn: WebSocketConn, got: bytearray) -> None:
            for data in sent:
                await conn.send(data)
            while len(got) < sum(map(len, sent)):
                got += await conn.receive()

        results = bytearray(), bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, client, results[0])
            nursery.start_soon(run, server, results[1])
        assert results[0] == results[1] == b"".join(sent)

    trio.run(main)
