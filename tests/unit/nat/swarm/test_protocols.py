"""Who serves which protocol: nobody takes one from another without saying so."""

from __future__ import annotations

from typing import Any

import pytest

from lattica.errors import LocalProtocolError
from lattica.nat.swarm.protocols import ProtocolTable

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
