"""Services and their stubs: `ConnectionHandler`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lattica.compat.calls.arguments import pack, result_class, taken
from lattica.compat.calls.decorators import CallKind, kinds_of
from lattica.compat.calls.rpc_client import Sent
from lattica.compat.wire.payloads import decode_result, encode_arguments
from lattica.nat.base.in_process import InProcess
from lattica.rpc.client.stubs import AnyStub

if TYPE_CHECKING:
    from lattica.compat.calls.results import RpcFuture, StreamIterator
    from lattica.compat.client import CompatLattica


class ConnectionHandler:
    """Base of services: methods marked by `rpc_method`, `rpc_stream` or `rpc_stream_iter` can be
    called by every peer under the class's name.

    Making one serves it on the node; a later one of the same name takes its place.
    """

    _rpc_methods: ClassVar[dict[str, Callable[..., Any]]] = {}
    _stream_methods: ClassVar[dict[str, Callable[..., Any]]] = {}
    _stream_iter_methods: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        attributes = {
            CallKind.UNARY: "_rpc_methods",
            CallKind.STREAM: "_stream_methods",
            CallKind.STREAM_ITER: "_stream_iter_methods",
        }
        kinds = kinds_of(cls)
        for kind, attribute in attributes.items():
            found = {name: getattr(cls, name) for name, own in kinds.items() if own is kind}
            setattr(cls, attribute, found)

    def __init__(self, lattica_instance: CompatLattica) -> None:
        self.lattica_instance = lattica_instance
        lattica_instance.register_service(self)

    def get_service_name(self) -> str:
        """The name by which peers call it."""
        return type(self).__name__

    def get_methods(self) -> dict[str, Callable[..., Any]]:
        """The methods marked by `rpc_method`."""
        return {name: getattr(self, name) for name in type(self)._rpc_methods}

    def get_stream_methods(self) -> dict[str, Callable[..., Any]]:
        """The methods marked by `rpc_stream`."""
        return {name: getattr(self, name) for name in type(self)._stream_methods}

    def get_stub(self, peer_id: str) -> ServiceStub:
        """What stands in for this service at another peer. It lasts: it outlives connections."""
        return ServiceStub(self.lattica_instance, str(peer_id), type(self))


class ServiceStub(InProcess):
    """Calls methods of a service at a peer.

    What kind a method is says the class that it was made of; others are called as `rpc_method`.
    """

    instead: ClassVar[str] = AnyStub.instead

    def __init__(self, lattica: CompatLattica, peer_id: str, service: type) -> None:
        self._lattica = lattica
        self._peer_id = peer_id
        self._service = service
        self._kinds = kinds_of(service)

    def __repr__(self) -> str:
        return f"<stub of {self._service.__name__} at {self._peer_id}>"

    def __getattr__(self, name: str) -> Callable[..., RpcFuture | StreamIterator]:
        if name.startswith("_"):
            raise AttributeError(name)
        kind = self._kinds.get(name, CallKind.UNARY)
        function = getattr(self._service, name, None)
        message_class = result_class(function)
        full_name = f"{self._service.__name__}.{name}"
        client = self._lattica.get_client(self._peer_id)

        def call(*args: Any, **named: Any) -> RpcFuture | StreamIterator:
            args = tuple(map(taken, args))
            named = {name: taken(value) for name, value in named.items()}
            sent = Sent(
                payload=pack(function, args, named),
                encode=partial(encode_arguments, function, args, named),
                result=message_class,
                decode=partial(decode_result, message_class=message_class),
                is_streamed=kind is CallKind.STREAM,
            )
            if kind is CallKind.STREAM_ITER:
                return client.stream(full_name, sent)
            return client.submit(full_name, sent)

        self.__dict__[name] = call
        return call
