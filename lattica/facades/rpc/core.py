"""What the RPC of both facades does alike: kinds of methods, and streams of results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from lattica.facades.threads.bridge import Bridge
from lattica.rpc.client.stubs import AnyStub, with_options
from lattica.rpc.encoding.registry import TypeRegistry
from lattica.rpc.errors import CallCancelledError
from lattica.rpc.services.definition import Kind, define

T = TypeVar("T")


class End:
    """In place of an item: there are no more."""


END: Final = End()


class Results(Protocol):
    """The results of a streaming call."""

    async def __anext__(self) -> Any: ...

    def close(self) -> None:
        """Give the call up."""
        ...


class Items:
    """The results of a streaming call; used in the trio thread. Several tasks may wait for one."""

    def __init__(self, stream: Results) -> None:
        self._stream = stream
        self._returned: deque[Any] = deque()
        self._lock = trio.Lock()
        self._closed = False

    async def receive(self) -> Any:
        """The next item, or END."""
        async with self._lock:
            if self._returned:
                return self._returned.popleft()
            if self._closed:
                return END
            try:
                return await anext(self._stream)
            except StopAsyncIteration:
                self._closed = True
                return END
            except CallCancelledError:
                if self.is_closed:
                    return END
                raise

    @property
    def is_closed(self) -> bool:
        """There will be no more items."""
        return self._closed

    def put_back(self, item: Any) -> None:
        """Take back an item that came to nobody."""
        if item is not END:
            self._returned.appendleft(item)

    def close(self) -> None:
        """Give the call up; whoever waits gets END."""
        self._closed = True
        self._returned.clear()
        self._stream.close()


class ThreadItems(Generic[T]):
    """A blocking iterator as an async one: it is advanced in a thread."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self._iterator: Iterator[T] | None = None

    def __aiter__(self) -> ThreadItems[T]:
        return self

    async def __anext__(self) -> T:
        item = await trio.to_thread.run_sync(self._step, abandon_on_cancel=True)
        if isinstance(item, End):
            raise StopAsyncIteration
        return item

    def _step(self) -> T | End:
        if self._iterator is None:
            self._iterator = iter(self._items)
        try:
            return next(self._iterator, END)
        except StopAsyncIteration as error:  # which would pass for the end
            raise RuntimeError("the iterator raised StopAsyncIteration") from error


class FacadeStub(AnyStub):
    """What the stubs of both facades are made of: `made`, which is the node's, and its methods."""

    def __init__(self, bridge: Bridge[Any], made: Any, methods: StubMethods) -> None:
        self._bridge = bridge
        self._made = made
        self._methods = methods

    def __repr__(self) -> str:
        return f"<stub of {self._methods.name}>"

    def _with(self, changes: dict[str, Any]) -> FacadeStub:
        return type(self)(self._bridge, with_options(self._made, **changes), self._methods)


class FacadeNamedStub(AnyStub):
    """The same for stubs that know the service by its name only."""

    def __init__(self, bridge: Bridge[Any], made: Any) -> None:
        self._bridge = bridge
        self._made = made

    def __repr__(self) -> str:
        return repr(self._made)

    def _with(self, changes: dict[str, Any]) -> FacadeNamedStub:
        return type(self)(self._bridge, with_options(self._made, **changes))


class StubMethods:
    """The methods of a service, for stubs: what kind each is, and where its requests are."""

    def __init__(self, service: type) -> None:
        self._service = define(service, TypeRegistry())
        self._methods = {each.attribute: each for each in self._service.methods.values()}

    @property
    def name(self) -> str:
        return self._service.name

    def kind(self, name: str) -> Kind:
        """Raises AttributeError if there is no such method."""
        found = self._methods.get(name)
        if found is None:
            raise AttributeError(f"{self._service.name} has no method {name!r}")
        return found.kind

    def wrapped(
        self,
        name: str,
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        wrap: Callable[[Any], Any],
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, in which the stream of requests is wrapped.

        Raises TypeError, as a call of the method itself would.
        """
        method = self._methods[name]
        values, named, stream = method.split(args, keywords)
        if method.stream_parameter is not None:
            named = {**named, method.stream_parameter: wrap(stream)}
        return values, named
