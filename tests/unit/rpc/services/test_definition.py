"""What is read off a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, assert_type

import pytest

from lattica.errors import LocalProtocolError
from lattica.rpc import CallContext, InvalidArgumentError, method, service
from lattica.rpc.encoding.registry import TypeRegistry
from lattica.rpc.services.definition import Kind, define
from tests.support.rpc.pair import rpc_pair


@dataclass
class Order:
    item: str


@dataclass
class Receipt:
    orders: list[Order]


class Base:
    async def inherited(self) -> None: ...


class Everything(Base):
    attribute = 5

    def __init__(self) -> None: ...
    async def unary(self, order: Order) -> Receipt: ...  # type: ignore[empty-body]
    def plain(self, a: int, b: int = 2) -> int: ...  # type: ignore[empty-body]
    async def results(self) -> AsyncIterator[int]:
        yield 1

    def results_plain(self) -> Iterator[int]:
        yield 1

    def results_returned(self) -> AsyncGenerator[int, None]: ...  # type: ignore[empty-body]
    async def requests(self, items: AsyncIterable[int]) -> int: ...  # type: ignore[empty-body]
    def requests_plain(self, items: Generator[int, None, None]) -> int: ...  # type: ignore[empty-body]
    async def both(self, items: AsyncIterator[int]) -> AsyncIterator[str]:
        yield "a"

    async def without_annotations(self, a, b=1):
        return a

    async def generates(self):
        yield 1

    @method(name="renamed", idempotent=True)
    async def original(self) -> None: ...
    @property
    def prop(self) -> int:
        return 1

    @staticmethod
    def static() -> int:
        return 1

    @classmethod
    def of_class(cls) -> int:
        return 1

    def _private(self) -> int:
        return 1


def test_kinds() -> None:
    types = TypeRegistry()
    found = define(Everything, types)
    assert found.name == "Everything"
    assert {name: each.kind for name, each in found.methods.items()} == {
        "inherited": Kind.UNARY,
        "unary": Kind.UNARY,
        "plain": Kind.UNARY,
        "results": Kind.SERVER_STREAM,
        "results_plain": Kind.SERVER_STREAM,
        "results_returned": Kind.SERVER_STREAM,
        "requests": Kind.CLIENT_STREAM,
        "requests_plain": Kind.CLIENT_STREAM,
        "both": Kind.BIDIRECTIONAL,
        "without_annotations": Kind.UNARY,
        "generates": Kind.SERVER_STREAM,
        "renamed": Kind.UNARY,
    }
    assert found.methods["renamed"].idempotent
    assert not found.methods["plain"].is_async
    assert found.methods["results_returned"].is_async
    assert types.find("Receipt") is Receipt
    assert types.find("Order") is Order


def test_what_is_no_service() -> None:
    class Empty:
        def _hidden(self) -> None: ...

    class TwoStreams:
        def merge(self, a: Iterator[int], b: Iterator[int]) -> int: ...  # type: ignore[empty-body]

    class Badly:
        @method(name="a b")
        def named(self) -> None: ...

    class Twice:
        def one(self) -> None: ...
        @method(name="one")
        def two(self) -> None: ...

    for kind, message in (
        (Empty, "no public methods"),
        (TwoStreams, "more than one stream"),
        (Badly, "cannot be called"),
        (Twice, "two methods called 'one'"),
    ):
        with pytest.raises(LocalProtocolError, match=message):
            define(kind, TypeRegistry())
    with pytest.raises(LocalProtocolError):
        service(version=0)(Badly)


class Odd:
    """Parameters in every order."""

    async def context_first(self, ctx: CallContext, a: int, b: int = 2) -> list[int]:
        return [a, b]

    async def positional(self, a: int, /, b: int) -> list[int]:
        return [a, b]

    async def variable(self, *args: int, **kwargs: int) -> list[Any]:
        return [args, kwargs]

    async def told(self, *args: int, context: CallContext, **kwargs: int) -> list[Any]:
        return [context.method, args, kwargs]

    async def keyword(self, *, a: int, b: int = 2) -> list[int]:
        return [a, b]

    async def optional(self, a: int | None = None) -> int | None:
        return a

    async def stream_first(self, items: AsyncIterator[int], by: int = 1) -> list[int]:
        return [item * by async for item in items]

    async def stream_last(self, by: int, items: AsyncIterator[int]) -> list[int]:
        return [item * by async for item in items]

    async def stream_after_default(
        self, by: int = 3, *, items: AsyncIterator[int], ctx: CallContext
    ) -> list[int]:
        return [item * by async for item in items]


async def test_parameters_in_every_order() -> None:
    async with rpc_pair() as pair:
        pair.server.serve(Odd())
        stub: Any = pair.client.stub(pair.server_host.peer_id, Odd)
        assert await stub.context_first(1) == [1, 2]
        assert await stub.context_first(1, b=3) == [1, 3]
        assert await stub.positional(1, 2) == [1, 2]
        assert await stub.positional(1, b=2) == [1, 2]
        assert await stub.variable() == [(), {}]
        assert await stub.variable(1, 2, x=3) == [(1, 2), {"x": 3}]
        assert await stub.told(1, 2, x=3) == ["Odd.told", (1, 2), {"x": 3}]
        assert await stub.keyword(a=1) == [1, 2]
        assert await stub.optional() is None
        assert await stub.optional(None) is None
        assert await stub.stream_first([1, 2]) == [1, 2]
        assert await stub.stream_first([1, 2], 5) == [5, 10]
        assert await stub.stream_first(items=[1, 2], by=5) == [5, 10]
        assert await stub.stream_last(2, [1, 2]) == [2, 4]
        assert await stub.stream_after_default(items=[1]) == [3]
        with pytest.raises(TypeError):
            await stub.keyword(1)
        by_name = pair.client.stub(pair.server_host.peer_id, "Odd")
        with pytest.raises(InvalidArgumentError, match="argument a: expected int"):
            await by_name.keyword(a="x")
        with pytest.raises(InvalidArgumentError):
            await by_name.context_first(1, ctx="forged")
        with pytest.raises(InvalidArgumentError, match="expected int"):
            await by_name.optional("x")


class Interface(Protocol):
    async def ask(self, question: str) -> str: ...


class Abstract(ABC):
    @abstractmethod
    async def ask(self, question: str) -> str: ...


class Implementation:
    def ask(self, question: str, ctx: CallContext) -> str:
        return f"{question}? {str(ctx.peer)[:2]}"

    def more(self) -> str:
        return "is not served"


@service(name="Asker", version=2)
class Second(Implementation):
    pass


async def test_interfaces_and_versions() -> None:
    async with rpc_pair() as pair:
        peer = pair.server_host.peer_id
        interfaces: tuple[Any, ...] = (Interface, Abstract)
        for interface in interfaces:
            pair.server.serve(Implementation(), interface=interface)
            assert await pair.client.stub(peer, interface).ask("Why") == "Why? 12"
            with pytest.raises(Exception, match="has no method 'more'"):
                await pair.client.call(peer, f"{interface.__name__}.more")
        protocol = pair.client.stub(peer, Interface)
        assert_type(protocol, Interface)
        assert_type(await pair.client.stub(peer, Abstract).ask("Why"), str)
        assert_type(await pair.stub.shout("a"), str)
        assert_type(pair.stub.numbers(1), AsyncIterator[int])
        with pytest.raises(LocalProtocolError, match="named by its class"):
            pair.client.stub(peer, lambda: protocol)
        pair.server.serve(Second())
        assert await pair.client.call(peer, "Asker/2.ask", "How") == "How? 12"
        second: Any = pair.client.stub(peer, Second)
        assert await second.more() == "is not served"
        with pytest.raises(LocalProtocolError, match="has no ask"):
            pair.server.serve(object(), interface=Interface, name="X")
        with pytest.raises(LocalProtocolError, match=r"not the class: Second\(\.\.\.\)"):
            pair.server.serve(Second)
