"""A caller that dies in any phase of a call leaves nothing at the server, and harms nobody else."""

from __future__ import annotations

import msgpack
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lattica.nat.mux.stream import Stream
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.protocol.frames import (
    CONTROL,
    Kind,
    encode_hello,
    encode_numbered,
    encode_request,
)
from lattica.rpc.protocol.messages import DATA, encode_call, encode_fetch, encode_message
from lattica.rpc.protocol.messages import Kind as DataKind
from tests.support.rpc.pair import rpc_pair

SESSION = bytes(range(16))
HELLO = encode_hello(SESSION, 0, 1)
GONE = 45.0
"""Seconds after which nothing of it may be left: ten for its session, thirty for a large result."""


def request(method: str, *args: object) -> bytes:
    packed = msgpack.packb(f"Workshop.{method}")
    return encode_request(0, packed, msgpack.packb([*args]))


def call(method: str, kind: int, *args: object) -> bytes:
    packed = msgpack.packb(f"Workshop.{method}")
    arguments = Encoded(msgpack.packb([*args]), ())
    return encode_message(DataKind.CALL, encode_call(packed, kind, arguments))


LARGE = call("echo", 0, bytes(900_000))
ITEM = encode_message(DataKind.ITEM, Encoded(b"\x01", ()))
PHASES: dict[str, tuple[str, bytes]] = {
    "before the hello": (CONTROL, b""),
    "inside the hello": (CONTROL, HELLO[:5]),
    "after the hello": (CONTROL, HELLO),
    "inside a request": (CONTROL, HELLO + request("wait", 3600.0)[:9]),
    "while the handler waits": (CONTROL, HELLO + request("wait", 3600.0)),
    "cancelled, and not answered": (
        CONTROL,
        HELLO + request("wait", 3600.0) + encode_numbered(Kind.CANCEL, 0),
    ),
    "with an answer that it has not acknowledged": (CONTROL, HELLO + request("count", 1)),
    "with a large result that it has not fetched": (CONTROL, HELLO + request("zeros", 100_000)),
    "before a call": (DATA, b""),
    "inside the prefix of a call": (DATA, LARGE[:2]),
    "inside the body of a call": (DATA, LARGE[:400_000]),
    "while the handler of a large call waits": (DATA, call("wait", 0, 3600.0)),
    "before a result that it does not read": (DATA, call("zeros", 0, 20_000_000)),
    "while items are sent": (DATA, call("arrays", 2, 1000, 100_000)),
    "while it sends items": (DATA, call("total", 1) + ITEM * 3),
    "inside an item": (DATA, call("total", 1) + ITEM[:-1]),
    "fetching what there is not": (DATA, encode_fetch(SESSION, 7)),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_a_caller_that_dies(phase: str, autojump_clock: MockClock) -> None:
    protocol, said = PHASES[phase]
    async with rpc_pair() as pair:
        assert await pair.stub.shout("a") == "A"
        server = pair.server._server
        tasks = server.tasks.count
        host = pair.net.host()
        stream: Stream = await host.open_stream(pair.server_host.peer_id, protocol)
        if said:
            with trio.move_on_after(1):
                await stream.send_all(said)
        await wait_all_tasks_blocked()
        host.drop(pair.server_host.peer_id)
        await trio.sleep(GONE)
        assert await pair.stub.shout("b") == "B"
        await wait_all_tasks_blocked()
        found = pair.server.statistics()
        assert found.sessions == 1
        assert found.receive_memory == 0
        assert sum(each.active for each in found.methods) == 0
        assert found.threads == 0
        assert server.tasks.count <= tasks
        assert set(server.control._callers) == {pair.client_host.peer_id}
        assert not server._network_calls
        assert not server.data_calls
        assert server.control.kept.total == 0
