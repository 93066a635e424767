"""What a node serves: services by name, and the two planes over which they are called."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.mux.turns import Turnstile
from lattica.nat.swarm.host import Host
from lattica.rpc.config import RpcConfig
from lattica.rpc.data_plane.budget import ReceiveBudget
from lattica.rpc.data_plane.heavy import HeavyWork, is_heavy
from lattica.rpc.data_plane.shared.sharing import SharedMemory
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.encoder import Encoded, Encoder
from lattica.rpc.encoding.registry import TypeRegistry
from lattica.rpc.errors import (
    InternalError,
    ResourceExhaustedError,
    RpcError,
    UnimplementedError,
)
from lattica.rpc.protocol.frames import CONTROL
from lattica.rpc.protocol.messages import DATA
from lattica.rpc.server.control import ControlPlane
from lattica.rpc.server.data import DataPlane
from lattica.rpc.server.deadlines import Deadlines
from lattica.rpc.server.methods import Authorize, ServedMethod
from lattica.rpc.server.threads import HandlerThreads
from lattica.rpc.server.workers import Workers
from lattica.rpc.services.context import CallContext, Lend
from lattica.rpc.services.definition import Service, define, define_method
from lattica.rpc.telemetry.statistics import MethodCounters, Traffic

if TYPE_CHECKING:
    from lattica.rpc.telemetry.tracing import Tracing

_OWNER = "rpc"


class Server:
    """Serves calls from when the first service is there."""

    def __init__(
        self,
        host: Host,
        tasks: Tasks,
        config: RpcConfig,
        types: TypeRegistry,
        budget: ReceiveBudget,
        traffic: Traffic,
        shared: SharedMemory,
        heavy: HeavyWork,
    ) -> None:
        self.tasks = tasks
        self.config = config
        self.types = types
        self.encoder = Encoder(types)
        self.decoder = Decoder(types)
        self.budget = budget
        self.traffic = traffic
        self.shared = shared
        self.heavy = heavy
        self.turnstile = Turnstile()
        """Where sessions stand that want more than a turn, one of each network in a round."""
        self.methods: dict[str, ServedMethod] = {}
        self.refused = MethodCounters()
        """Calls of what is not served, or when there was no room."""
        self.data_calls: Counter[PeerId] = Counter()
        """Calls under way over the data plane."""
        self._network_calls: Counter[Hashable] = Counter()
        """Calls under way by network, over both planes."""
        self.going_away = False
        self._progress = trio.Event()
        self.deadlines = Deadlines(tasks)
        self.threads = HandlerThreads(Workers(tasks), config.max_threads)
        self.lend: Lend | None = None
        """Lends buffers to callers."""
        self.tracing: Tracing | None = None
        """Where calls are spans."""
        self.control = ControlPlane(self)
        self._data = DataPlane(self)
        self._host = host
        self._services: dict[str, object] = {}

    # --- services ---

    def serve(
        self,
        implementation: object,
        *,
        interface: type | None,
        name: str | None,
        allow: Collection[PeerId] | None,
        authorize: Authorize | None,
        replace: bool,
    ) -> Service:
        """See :meth:`lattica.rpc.rpc.Rpc.serve`."""
        if inspect.iscoroutinefunction(authorize) or inspect.iscoroutinefunction(
            getattr(authorize, "__call__", None)  # noqa: B004 -- of an object
        ):
            raise LocalProtocolError("authorize is an async function: it must be a plain one")
        if isinstance(implementation, type):
            kind = implementation.__name__
            raise LocalProtocolError(f"an object of {kind} is served, not the class: {kind}(...)")
        service = define(interface or type(implementation), self.types, name)
        if service.name in self._services and not replace:
            raise LocalProtocolError(f"{service.name} is served already; pass replace=True")
        served = {}
        for method in service.methods.values():
            function = getattr(implementation, method.attribute, None)
            if not callable(function):
                raise LocalProtocolError(f"{implementation!r:.100} has no {method.attribute}()")
            if interface is not None:
                # The interface says what travels, the implementation how it runs.
                own = getattr(type(implementation), method.attribute, None)
                if inspect.isfunction(own):
                    found = define_method(service.name, method.attribute, own, TypeRegistry())
                    method = method.implemented_by(found)
            served[method.full_name] = ServedMethod(
                method,
                function,
                MethodCounters(),
                self.threads,
                None if allow is None else frozenset(allow),
                authorize,
            )
        self._remove(service.name)
        if not self._services:
            self._host.handle(CONTROL, self.control.serve, owner=_OWNER)
            self._host.handle(DATA, self._data.serve, owner=_OWNER)
            self.shared.serve()
        self._services[service.name] = implementation
        self.methods.update(served)
        return service

    def withdraw(self, name: str) -> None:
        """Serve a service no more; calls that are under way go on."""
        if name not in self._services:
            raise LocalProtocolError(f"{name} is not served")
        self._remove(name)

    def _remove(self, name: str) -> None:
        self._services.pop(name, None)
        for full_name in [each for each in self.methods if each.rpartition(".")[0] == name]:
            del self.methods[full_name]

    # --- for the planes ---

    def context(
        self,
        peer: PeerId,
        method: ServedMethod,
        path: str,
        deadline: float,
        metadata: Mapping[str, Any] | None,
        is_cancelled: Callable[[], bool],
    ) -> CallContext:
        """What the handler of a call may know of it."""
        name = method.definition.full_name
        return CallContext(
            peer, name, path, deadline, metadata, is_cancelled=is_cancelled, lend=self.lend
        )

    def count_call(self, network: Hashable, more: int) -> None:
        """A call of somebody in a network begins (1) or ends (-1)."""
        self._network_calls[network] += more
        if not self._network_calls[network]:
            del self._network_calls[network]

    def no_room(self, of_peer: int, network: Hashable) -> RpcError | None:
        """Why no further call is taken of a peer that has so many under way."""
        config = self.config
        if of_peer >= config.max_calls_per_peer:
            return self._busy("peer", config.max_calls_per_peer)
        if self._network_calls.get(network, 0) >= config.max_calls_per_network:
            return self._busy("network", config.max_calls_per_network)
        return None

    async def encoded(self, value: Any, method: ServedMethod, network: Hashable) -> Encoded:
        """What a method has returned, for a caller in a network. Raises InternalError."""
        name = f"{method.definition.full_name} returned a value"
        encode = partial(self.encoder.encode, value, name)
        try:
            return await self.heavy.answer(network, encode) if is_heavy(value) else encode()
        except (TypeError, ValueError) as error:
            raise InternalError(str(error)) from None

    def _busy(self, whose: str, limit: int) -> RpcError:
        """There is no room for another call; it says when there may be."""
        text = f"busy: {limit} calls of this {whose} are under way (rpc.max_calls_per_{whose})"
        return ResourceExhaustedError(text, may_have_run=False, retry_after=0.1)

    def unknown(self, full_name: str) -> RpcError:
        """There is no such method here."""
        service, _, name = full_name[:200].rpartition(".")
        if service in self._services:
            text = f"{service} has no method {name!r} here"
        elif others := sorted(
            each for each in self._services if each.partition("/")[0] == service.partition("/")[0]
        ):
            text = f"no {service!r} is served here, but {', '.join(others)}"
        else:
            text = f"no service {service!r} is served here"
        return UnimplementedError(text, may_have_run=False)

    def wrong_kind(self, method: ServedMethod) -> RpcError:
        """The caller takes the method for one of another kind."""
        kind = method.definition.kind
        if kind.streams_request:
            hint = "it takes a stream, which only a stub of its class can send"
        elif kind.streams_response:
            hint = "its results are a stream, to be iterated"
        else:
            hint = "it has one result"
        return UnimplementedError(
            f"{method.definition.full_name} is {kind.name.lower().replace('_', '-')} here, and was "
            f"called otherwise: {hint}",
            may_have_run=False,
        )

    # --- end ---

    def go_away(self) -> None:
        """Take no new calls, and tell the callers."""
        self.going_away = True
        for session in self.control.sessions.values():
            session.go_away()

    def call_ended(self) -> None:
        """A call is over, and whoever waits for that may look again."""
        if self.going_away:
            self._progress.set()

    async def wait_idle(self) -> None:
        """Wait until no call is under way, and no result waits to be fetched."""
        sessions = self.control.sessions
        while self.data_calls or not all(each.is_idle for each in sessions.values()):
            self._progress = trio.Event()
            await self._progress.wait()

    def stop(self) -> None:
        """Serve nothing any more."""
        if self._services:
            self._host.unhandle(CONTROL, owner=_OWNER)
            self._host.unhandle(DATA, owner=_OWNER)
            self.shared.stop()
            self._services.clear()
            self.methods.clear()
        self.control.end_all()
