"""Stubs: what a caller holds in place of the service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any, ClassVar, TypeVar, cast

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess
from lattica.rpc.client.begun import BegunCall, Done
from lattica.rpc.client.client import CalledMethod, Client, Providers
from lattica.rpc.client.options import CallOptions
from lattica.rpc.client.peer import Peer
from lattica.rpc.client.response import ResponseStream
from lattica.rpc.services.definition import Kind, Method, Service

S = TypeVar("S")
Target = Peer | Providers


class AnyStub(InProcess, ABC):
    """What :func:`with_options` takes: stubs of the node, and those of its facades."""

    instead: ClassVar[str] = "it calls by a node of this one; make one in each, of a node there"

    @abstractmethod
    def _with(self, changes: dict[str, Any]) -> AnyStub:
        """The same with other options. Raises TypeError, LocalProtocolError."""


class Stub(AnyStub):
    """Has the methods of a service. To a type checker it is the service's class."""

    def __init__(
        self, client: Client, target: Target, service: Service, options: CallOptions
    ) -> None:
        self._remake: Callable[[CallOptions], Stub] = lambda changed: Stub(
            client, target, service, changed
        )
        self._options = options
        self._service = service.name
        for method in service.methods.values():
            setattr(self, method.attribute, _function(client, target, method, options))

    def __repr__(self) -> str:
        return f"<stub of {self._service}>"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self._service} has no method {name!r}")

    def _with(self, changes: dict[str, Any]) -> Stub:
        return self._remake(self._options.changed(changes))


def _function(
    client: Client, target: Target, definition: Method, options: CallOptions
) -> Callable[..., Any]:
    """What stands in for a method."""
    method = client.method(definition.full_name, definition)
    kind = definition.kind

    def collect(*args: Any, **keywords: Any) -> Any:
        return client.collect(target, method, args, keywords, options)

    def stream(*args: Any, **keywords: Any) -> Any:
        return client.stream(target, method, kind, args, keywords, options)

    if kind.streams_response:
        return stream
    return collect if kind.streams_request else UnaryMethod(client, target, method, options)


class UnaryMethod:
    """A method with one request and one result, of a peer's service."""

    __slots__ = ("_client", "_method", "_options", "_target")

    def __init__(
        self, client: Client, target: Target, method: CalledMethod, options: CallOptions
    ) -> None:
        self._client = client
        self._target = target
        self._method = method
        self._options = options

    def __call__(self, *args: Any, **keywords: Any) -> Coroutine[Any, Any, Any]:
        return self._client.unary(self._target, self._method, args, keywords, self._options)

    def begin(
        self, args: tuple[Any, ...], keywords: dict[str, Any], done: Done
    ) -> BegunCall | None:
        """Call it from somewhere that is no task; see :meth:`Client.begin`."""
        return self._client.begin(self._target, self._method, args, keywords, self._options, done)


class NamedStub(AnyStub):
    """Calls methods of a service by their names, without its class.

    `await stub.name(…)` is a unary call; `async for item in stub.name(…)` one whose results are
    streamed. Requests cannot be streamed.
    """

    def __init__(self, client: Client, target: Target, service: str, options: CallOptions) -> None:
        self._client = client
        self._target = target
        self._service = service
        self._options = options
        self._remake: Callable[[CallOptions], NamedStub] = lambda changed: NamedStub(
            client, target, service, changed
        )
        self._methods: dict[str, CalledMethod] = {}

    def __repr__(self) -> str:
        return f"<stub of {self._service}>"

    def __getattr__(self, name: str) -> Callable[..., NamedCall]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **keywords: self.call_method(name, args, keywords)

    def _with(self, changes: dict[str, Any]) -> NamedStub:
        return self._remake(self._options.changed(changes))

    def call_method(self, name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> NamedCall:
        """A call of a method, whatever its name is."""
        method = self._method(name)
        return NamedCall(self._client, self._target, method, args, keywords, self._options)

    def _method(self, name: str) -> CalledMethod:
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = self._client.method(f"{self._service}.{name}")
        return method


class NamedCall:
    """A call that begins when it is awaited or iterated."""

    __slots__ = ("_args",)

    def __init__(self, *args: Any) -> None:
        self._args: tuple[Any, ...] = args

    def __await__(self) -> Generator[Any, Any, Any]:
        client, target, method, args, keywords, options = self._args
        return cast(
            "Generator[Any, Any, Any]",
            client.unary(target, method, args, keywords, options).__await__(),
        )

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.stream()

    def stream(self) -> ResponseStream:
        """The results as a stream, for `async with`."""
        client, target, method, args, keywords, options = self._args
        made = client.stream(target, method, Kind.SERVER_STREAM, args, keywords, options)
        return cast("ResponseStream", made)


def unary_of(stub: NamedStub, name: str) -> UnaryMethod:
    """A method that has one result, whatever its name is."""
    return UnaryMethod(stub._client, stub._target, stub._method(name), stub._options)


def with_options(stub: S, **changes: Any) -> S:
    """The same stub with other options: `with_options(stub, timeout=2.0).shout("a")`. Stubs of
    `Lattica` and `AsyncLattica`, too.

    `changes` are fields of :class:`~lattica.rpc.client.options.CallOptions`.

    Raises:
        TypeError: one of them is none.
        LocalProtocolError: a value is out of range, or it is no stub.
    """
    if not isinstance(stub, AnyStub):
        raise LocalProtocolError(f"not a stub: {stub!r:.100}")
    return cast("S", stub._with(changes))
