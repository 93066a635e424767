"""Who serves which protocol: nobody takes one from another without saying so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.errors import LocalProtocolError
from lattica.nat.base.limits.places import NOBODY
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.serving.protocols import ProtocolTable
from tests.support.pairs.connected import connected, quiet, serve

PING = "/ipfs/ping/1.0.0"


async def one(stream: object) -> None: ...


async def two(stream: object) -> None: ...


@pytest.fixture
def table() -> ProtocolTable:
    made = ProtocolTable(negotiate_timeout=1)
    made.handle(PING, one, owner="ping")
    return made


def handler_of(table: ProtocolTable, protocol: str) -> object:
    return table._served[protocol].handler


def test_what_another_serves_is_not_replaced_by_chance(table: ProtocolTable) -> None:
    with pytest.raises(LocalProtocolError, match="is served by ping"):
        table.handle(PING, two)
    with pytest.raises(LocalProtocolError):
        table.handle_all({"/new/1": two, PING: two})
    assert handler_of(table, PING) is one


def test_what_another_serves_is_replaced_on_request(table: ProtocolTable) -> None:
    table.handle(PING, two, replace=True)
    assert handler_of(table, PING) is two
    with pytest.raises(LocalProtocolError, match="the application"):
        table.handle(PING, one, owner="ping")
    table.unhandle(PING)
    assert table.names == ()


def test_ones_own_is_replaced_and_ended(table: ProtocolTable) -> None:
    for owner, protocol in (("ping", PING), ("the application", "/echo/1")):
        for handler in (one, two):
            table.handle(protocol, handler, owner=owner)
            assert handler_of(table, protocol) is handler
    assert table.names == (PING, "/echo/1")
    assert PING in table
    table.unhandle(PING, owner="ping")
    table.unhandle(PING, owner="ping")  # nothing to do
    assert PING not in table


def test_what_another_serves_is_not_ended(table: ProtocolTable) -> None:
    with pytest.raises(LocalProtocolError, match="by ping, not by the application"):
        table.unhandle(PING)
    assert PING in table


@pytest.mark.parametrize(
    "name", ["/line\nbreak", "/" + "x" * 2000, "", "ls", "na", "/multistream/1.0.0"]
)
def test_name_that_no_peer_could_ask_for(table: ProtocolTable, name: str) -> None:
    with pytest.raises(LocalProtocolError):
        table.handle(name, one)
    assert table.names == (PING,)


@pytest.mark.parametrize("name", [5, None, b"/x/1", ""])
def test_what_is_no_name(table: ProtocolTable, name: Any) -> None:
    with pytest.raises(LocalProtocolError, match="name is a text"):
        table.handle(name, one)
    assert table.names == (PING,)


@pytest.mark.parametrize("handler", [None, 5, "one"])
def test_what_is_no_handler(table: ProtocolTable, handler: Any) -> None:
    with pytest.raises(LocalProtocolError, match="a handler is a function of a stream, not"):
        table.handle("/x/1", handler)
    assert table.names == (PING,)


async def test_a_limit_bounds_the_handlers_of_one_protocol_and_the_others_wait() -> None:
    table = ProtocolTable(negotiate_timeout=10)
    gate, running, most = trio.Event(), 0, 0

    async def handler(_: Stream) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    table.handle("/few/1", handler, limit=2)
    served = table._served["/few/1"]
    stream = cast(Stream, SimpleNamespace(source=NOBODY, progress=(0.0, 0)))
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(served.run, stream)
        await wait_all_tasks_blocked()
        assert running == 2
        gate.set()
    assert (running, most) == (0, 2)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_lets_nobody_in_is_refused(limit: int) -> None:
    with pytest.raises(LocalProtocolError, match="at least 1"):
        ProtocolTable(negotiate_timeout=10).handle("/x/1", trio.sleep_forever, limit=limit)  # type: ignore[arg-type]


async def test_whoever_is_cancelled_when_its_peer_is_gone_is_one_task(autojump_clock) -> None:
    begun: list[Stream] = []
    cancelled: list[Stream] = []

    async def work(stream: Stream) -> None:
        begun.append(stream)
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(stream)

    table = ProtocolTable(negotiate_timeout=1)
    table.handle("/work/1", work, cancel_when_gone=True)
    async with connected() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve, b, table)
        await quiet()
        before = trio.lowlevel.current_statistics().tasks_living
        streams = [await a.connection.open("/work/1") for _ in range(20)]
        await quiet()
        assert len(begun) == 20
        assert trio.lowlevel.current_statistics().tasks_living - before == 20
        for stream in streams:
            stream.reset()
        await quiet()
        assert len(cancelled) == 20
        assert trio.lowlevel.current_statistics().tasks_living == before
        with trio.CancelScope() as scope:
            begun[0].cancel_when_gone(scope)
        assert scope.cancel_called
        nursery.cancel_scope.cancel()
