"""RPC for threads: `Lattica.rpc`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from lattica.facades.closable import OnlyWith
from lattica.facades.rpc.core import (
    END,
    FacadeNamedStub,
    FacadeStub,
    Items,
    StubMethods,
    ThreadItems,
)
from lattica.facades.rpc.unary import named_call, unary_call
from lattica.facades.threads.bridge import Bridge
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.rpc.client.stubs import UnaryMethod
from lattica.rpc.services.definition import as_class

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


class BlockingRpc:
    """Calls between this node and others, for threads; see :class:`lattica.rpc.Rpc`."""

    def __init__(self, bridge: Bridge[Any], node: Node) -> None:
        self._bridge = bridge
        self._node = node

    def serve(
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

        Methods run in threads of their own; those that are async run in the node's, under trio.
        `authorize` is called in the node's thread, and must not block.
        """
        self._bridge.call_plain(
            lambda: self._node.rpc.serve(
                service,
                interface=interface,
                name=name,
                allow=allow,
                authorize=authorize,
                replace=replace,
            )
        )

    def withdraw(self, name: str) -> None:
        """Serve a service no more; see :meth:`lattica.rpc.Rpc.withdraw`."""
        self._bridge.call_plain(lambda: self._node.rpc.withdraw(name))

    def register(self, kind: type, name: str | None = None) -> None:
        """Know a type that no annotation mentions; see :meth:`lattica.rpc.Rpc.register`."""
        self._bridge.call_plain(lambda: self._node.rpc.register(kind, name))

    @overload
    def stub(self, target: Target, service: Callable[..., S], **options: Any) -> S: ...

    @overload
    def stub(self, target: Target, service: str, **options: Any) -> BlockingNamedStub: ...

    def stub(
        self, target: Target, service: Callable[..., S] | str, **options: Any
    ) -> S | BlockingNamedStub:
        """What stands in for a service of another peer; see :meth:`lattica.rpc.Rpc.stub`.

        Its methods block, and return what the service's return; those that stream their results
        return an iterator (:class:`BlockingItems`). A stream of requests is an iterable, which is
        read in a thread. To type checkers it is the class itself: write that with plain `def`.
        """
        made = self._bridge.call_plain(lambda: self._node.rpc.stub(target, service, **options))
        if isinstance(service, str):
            return BlockingNamedStub(self._bridge, made)
        return cast("S", BlockingStub(self._bridge, made, StubMethods(as_class(service))))

    def call(self, target: Target, method: str, /, *args: Any, **keywords: Any) -> Any:
        """Make a unary call by its name on the wire, as "Echo.shout"."""

        async def call() -> Any:
            return await self._node.rpc.call(target, method, *args, **keywords)

        return self._bridge.call(call)

    def share(self, buffer: Any, *, to: PeerId | str, ttl: float = 20.0) -> BufferRef:
        """Lend a buffer to a peer; see :meth:`lattica.rpc.Rpc.share`."""
        return self._bridge.call_plain(lambda: self._node.rpc.share(buffer, to=to, ttl=ttl))

    def read(
        self, ref: BufferRef, index: Index = ..., *, out: Any = None, timeout: float | None = None
    ) -> Any:
        """Read a buffer that a peer has lent; see :meth:`lattica.rpc.BufferRef.read`."""
        return self._bridge.call(lambda: ref.read(index, out=out, timeout=timeout))

    def release(self, ref: BufferRef) -> None:
        """A lent buffer is needed no more; see :meth:`lattica.rpc.BufferRef.release`."""
        self._bridge.call(ref.release)

    def give(self, ref: BufferRef, peer: PeerId | str) -> BufferRef:
        """A reference for another peer; see :meth:`lattica.rpc.BufferRef.give`."""
        return self._bridge.call(lambda: ref.give(peer))

    def wait_ended(self, ref: BufferRef) -> LeaseEnd:
        """Wait until what this node has lent has ended; see
        :meth:`lattica.rpc.BufferRef.wait_ended`.
        """
        return self._bridge.call(ref.wait_ended)

    def statistics(self) -> RpcStatistics:
        """What was counted so far."""
        return self._bridge.call_plain(lambda: self._node.rpc.statistics())


class BlockingStub(FacadeStub):
    """Has the methods of a service, which block. For any number of threads."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kind = self._methods.kind(name)
        function = getattr(self._made, name)

        def call(*args: Any, **keywords: Any) -> Any:
            values, named = self._methods.wrapped(name, args, keywords, _requests)
            if kind.streams_response:
                make = partial(function, *values, **named)
                items = self._bridge.call_plain(lambda: Items(make()))
                return BlockingItems(self._bridge, items)

            if not isinstance(function, UnaryMethod):
                return self._bridge.call(partial(function, *values, **named))
            return self._bridge.wait_for(unary_call(self._bridge, function, tuple(values), named))

        self.__dict__[name] = call
        return call


class BlockingNamedStub(FacadeNamedStub):
    """Calls methods of a service by their names: `stub.name(…)` blocks for the one result, and
    `stub.name.stream(…)` is an iterator of results that are streamed."""

    def __getattr__(self, name: str) -> BlockingNamedMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        return BlockingNamedMethod(self._bridge, self._made, name)


class BlockingNamedMethod:
    """A method that is known by its name."""

    def __init__(self, bridge: Bridge[Any], stub: NamedStub, name: str) -> None:
        self._bridge = bridge
        self._stub = stub
        self._name = name

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Call it, and wait for the result."""
        call = named_call(self._bridge, self._stub, self._name, args, keywords)
        return self._bridge.wait_for(call)

    def stream(self, *args: Any, **keywords: Any) -> BlockingItems:
        """Call it; the results, one after the other."""
        items = self._bridge.call_plain(
            lambda: Items(self._stub.call_method(self._name, args, keywords).stream())
        )
        return BlockingItems(self._bridge, items)


def _requests(items: Any) -> Any:
    if not isinstance(items, Iterable):
        raise TypeError(f"a stream of requests is an iterable, not {type(items).__name__}")
    return ThreadItems(items)


class BlockingItems(OnlyWith):
    """The results of a streaming call: an iterator, for any number of threads, each of which gets
    items of its own.

    Closing it gives the call up, and whoever waits for an item stops. `with` closes it, and so does
    dropping it.
    """

    def __init__(self, bridge: Bridge[Any], core: Items) -> None:
        self._bridge = bridge
        self._core = core
        self.close = weakref.finalize(self, bridge.soon, core.close)
        """Give the call up. Idempotent."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            item = self._bridge.call(self._core.receive, give_back=self._core.put_back)
        except LocalProtocolError:
            if not self._bridge.closing:
                raise
            item = END
        if item is END:
            raise StopIteration
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
