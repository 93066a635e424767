"""RPC for asyncio: `AsyncLattica.rpc`."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

import trio

from lattica.facades.closable import OnlyAsyncWith
from lattica.facades.rpc.core import (
    END,
    End,
    FacadeNamedStub,
    FacadeStub,
    Items,
    StubMethods,
    ThreadItems,
)
from lattica.facades.rpc.unary import named_call, unary_call
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.capture import captured
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.rpc.client.stubs import UnaryMethod
from lattica.rpc.encoding.registry import TypeRegistry
from lattica.rpc.services.definition import Method, as_class, define

if TYPE_CHECKING:
    from lattica.node import Node
    from lattica.rpc.client.stubs import NamedStub
    from lattica.rpc.leases.book import LeaseEnd
    from lattica.rpc.leases.index import Index
    from lattica.rpc.leases.ref import BufferRef
    from lattica.rpc.rpc import Target
    from lattica.rpc.server.methods import Authorize
    from lattica.rpc.telemetry.statistics import RpcStatistics

S = TypeVar("S")
T = TypeVar("T")


class AsyncRpc:
    """Calls between this node and others, for asyncio; see :class:`lattica.rpc.Rpc`."""

    def __init__(self, bridge: Bridge[Any], node: Node) -> None:
        self._bridge = bridge
        self._node = node

    async def serve(
        self,
        service: object,
        *,
        interface: type | None = None,
        name: str | None = None,
        allow: Collection[PeerId | str] | None = None,
        authorize: Authorize | None = None,
        replace: bool = False,
    ) -> None:
        """Serve an object's public methods; see :meth:`lattica.rpc.Rpc.serve`.

        Methods that are async run on the calling loop, each call in a task of its own, which is
        cancelled when the caller gives up; the others run in threads. `authorize` is called in the
        node's thread, and must not block.
        """
        loop = asyncio.get_running_loop()
        definition = define(interface or type(service), TypeRegistry(), name)
        served = _OnLoop(service, definition.methods.values(), loop, self._bridge)
        await self._bridge.acall_plain(
            lambda: self._node.rpc.serve(
                served,
                interface=interface or type(service),
                name=name,
                allow=allow,
                authorize=authorize,
                replace=replace,
            )
        )

    async def withdraw(self, name: str) -> None:
        """Serve a service no more; see :meth:`lattica.rpc.Rpc.withdraw`."""
        await self._bridge.acall_plain(lambda: self._node.rpc.withdraw(name))

    async def register(self, kind: type, name: str | None = None) -> None:
        """Know a type that no annotation mentions; see :meth:`lattica.rpc.Rpc.register`."""
        await self._bridge.acall_plain(lambda: self._node.rpc.register(kind, name))

    @overload
    async def stub(self, target: Target, service: Callable[..., S], **options: Any) -> S: ...

    @overload
    async def stub(self, target: Target, service: str, **options: Any) -> AsyncNamedStub: ...

    async def stub(
        self, target: Target, service: Callable[..., S] | str, **options: Any
    ) -> S | AsyncNamedStub:
        """What stands in for a service of another peer; see :meth:`lattica.rpc.Rpc.stub`.

        Its methods are awaited; those that stream their results are iterated by `async for`
        (:class:`AsyncItems`). Cancelling the task that awaits a call cancels the call. A stream of
        requests is an async iterable, which is read on the calling loop, or any other iterable.
        """
        made = await self._bridge.acall_plain(
            lambda: self._node.rpc.stub(target, service, **options)
        )
        if isinstance(service, str):
            return AsyncNamedStub(self._bridge, made)
        return cast("S", AsyncStub(self._bridge, made, StubMethods(as_class(service))))

    async def call(self, target: Target, method: str, /, *args: Any, **keywords: Any) -> Any:
        """Make a unary call by its name on the wire, as "Echo.shout"."""

        async def call() -> Any:
            return await self._node.rpc.call(target, method, *args, **keywords)

        return await self._bridge.acall(call)

    async def share(self, buffer: Any, *, to: PeerId | str, ttl: float = 20.0) -> BufferRef:
        """Lend a buffer to a peer; see :meth:`lattica.rpc.Rpc.share`."""
        return await self._bridge.acall_plain(lambda: self._node.rpc.share(buffer, to=to, ttl=ttl))

    async def read(
        self, ref: BufferRef, index: Index = ..., *, out: Any = None, timeout: float | None = None
    ) -> Any:
        """Read a buffer that a peer has lent; see :meth:`lattica.rpc.BufferRef.read`."""
        return await self._bridge.acall(lambda: ref.read(index, out=out, timeout=timeout))

    async def release(self, ref: BufferRef) -> None:
        """A lent buffer is needed no more; see :meth:`lattica.rpc.BufferRef.release`."""
        await self._bridge.acall(ref.release)

    async def give(self, ref: BufferRef, peer: PeerId | str) -> BufferRef:
        """A reference for another peer; see :meth:`lattica.rpc.BufferRef.give`."""
        return await self._bridge.acall(lambda: ref.give(peer))

    async def wait_ended(self, ref: BufferRef) -> LeaseEnd:
        """Wait until what this node has lent has ended; see
        :meth:`lattica.rpc.BufferRef.wait_ended`.
        """
        return await self._bridge.acall(ref.wait_ended)

    async def statistics(self) -> RpcStatistics:
        """What was counted so far."""
        return await self._bridge.acall_plain(lambda: self._node.rpc.statistics())


class AsyncStub(FacadeStub):
    """Has the methods of a service, which are awaited or iterated. For any loop."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kind = self._methods.kind(name)
        function = getattr(self._made, name)

        def call(*args: Any, **keywords: Any) -> Any:
            loop = asyncio.get_running_loop()
            wrap = partial(_requests, loop)
            values, named = self._methods.wrapped(name, args, keywords, wrap)
            if kind.streams_response:
                return AsyncItems(self._bridge, partial(function, *values, **named))

            if not isinstance(function, UnaryMethod):
                return self._bridge.acall(partial(function, *values, **named))
            return self._bridge.await_call(unary_call(self._bridge, function, tuple(values), named))

        self.__dict__[name] = call
        return call


class AsyncNamedStub(FacadeNamedStub):
    """Calls methods of a service by their names: `await stub.name(…)` for one result,
    `async for item in stub.name(…)` for results that are streamed."""

    def __getattr__(self, name: str) -> Callable[..., AsyncNamedCall]:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(AsyncNamedCall, self._bridge, self._made, name)


class AsyncNamedCall:
    """A call that begins when it is awaited or iterated."""

    def __init__(
        self, bridge: Bridge[Any], stub: NamedStub, name: str, *args: Any, **keywords: Any
    ) -> None:
        self._bridge = bridge
        self._stub = stub
        self._name = name
        self._args = args
        self._keywords = keywords

    def __await__(self) -> Generator[Any, Any, Any]:
        call = named_call(self._bridge, self._stub, self._name, self._args, self._keywords)
        return self._bridge.await_call(call).__await__()

    def __aiter__(self) -> AsyncItems:
        return self.stream()

    def stream(self) -> AsyncItems:
        """The results as a stream, for `async with`."""
        stub, name, args, keywords = self._stub, self._name, self._args, self._keywords
        make = lambda: stub.call_method(name, args, keywords).stream()  # noqa: E731
        return AsyncItems(self._bridge, make)


class AsyncItems(OnlyAsyncWith):
    """The results of a streaming call: an async iterator. Several tasks may read it.

    :meth:`aclose` gives the call up, and whoever waits for an item stops. `async with` closes it,
    and so does dropping it.
    """

    def __init__(self, bridge: Bridge[Any], make: Callable[[], Any]) -> None:
        self._bridge = bridge
        self._future = bridge.submit_plain(lambda: Items(make()))
        self._close = weakref.finalize(self, _close, bridge, self._future)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        core = await asyncio.wrap_future(self._future)
        try:
            item = await self._bridge.acall(core.receive, give_back=core.put_back)
        except LocalProtocolError:
            if not self._bridge.closing:
                raise
            item = END
        if item is END:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Give the call up. Idempotent."""
        self._close()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _close(bridge: Bridge[Any], made: Any) -> None:
    def close() -> None:
        if made.done() and made.exception() is None:
            made.result().close()

    bridge.soon(close)


# --- from trio to asyncio ---


async def run_on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run an asyncio coroutine on its loop, and wait for it under trio.

    Cancelling that cancels its task. Raises what it raises, and LocalProtocolError when the loop is
    closed.
    """
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()

    def wake(_: object) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    work = captured(coroutine)
    try:
        future = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:
        work.close()
        coroutine.close()
        raise LocalProtocolError("the asyncio loop of the service is closed") from None
    future.add_done_callback(wake)
    try:
        await done.wait()
    except BaseException:
        future.cancel()
        raise
    return future.result().unwrap()


class LoopItems:
    """An async iterator that lives on an asyncio loop, for trio."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Any]) -> None:
        self._loop = loop
        self._make = make
        self._iterator: AsyncIterator[Any] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        item = await run_on(self._loop, self._step())
        if isinstance(item, End):
            raise StopAsyncIteration
        return item

    async def _step(self) -> Any:
        if self._iterator is None:
            made = self._make()
            self._iterator = aiter(await made if asyncio.iscoroutine(made) else made)
        return await anext(self._iterator, END)

    async def aclose(self) -> None:
        """Close it, on its loop; does not wait for that."""
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            with suppress(RuntimeError):
                asyncio.run_coroutine_threadsafe(_closed(close), self._loop)
        await trio.lowlevel.checkpoint()


async def _closed(close: Callable[[], Any]) -> None:
    with suppress(RuntimeError):  # it runs, and is cancelled already
        await close()


def _requests(loop: asyncio.AbstractEventLoop, items: Any) -> Any:
    if hasattr(items, "__aiter__"):
        return LoopItems(loop, lambda: items)
    return ThreadItems(items) if hasattr(items, "__next__") else items


class _TrioItems:
    """The requests of a call, which live under trio, for a handler on an asyncio loop."""

    def __init__(self, bridge: Bridge[Any], items: AsyncIterator[Any]) -> None:
        self._bridge = bridge
        self._items = items

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        async def step() -> Any:
            return await anext(self._items, END)

        item = await self._bridge.acall(step)
        if item is END:
            raise StopAsyncIteration
        return item


class _OnLoop:
    """A service whose async methods run on an asyncio loop."""

    def __init__(
        self,
        service: object,
        methods: Collection[Method],
        loop: asyncio.AbstractEventLoop,
        bridge: Bridge[Any],
    ) -> None:
        for method in methods:
            function = getattr(service, method.attribute, None)
            if function is not None and method.is_async:
                function = _moved(function, method, loop, bridge)
            setattr(self, method.attribute, function)


def _moved(
    function: Callable[..., Any],
    method: Method,
    loop: asyncio.AbstractEventLoop,
    bridge: Bridge[Any],
) -> Callable[..., Any]:
    def prepared(keywords: dict[str, Any]) -> dict[str, Any]:
        if method.stream_parameter is not None:
            items = keywords[method.stream_parameter]
            keywords = {**keywords, method.stream_parameter: _TrioItems(bridge, items)}
        return keywords

    def streamed(*args: Any, **keywords: Any) -> Any:
        return LoopItems(loop, lambda: function(*args, **prepared(keywords)))

    async def awaited(*args: Any, **keywords: Any) -> Any:
        return await run_on(loop, function(*args, **prepared(keywords)))

    return streamed if method.kind.streams_response else awaited
