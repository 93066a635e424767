"""RPC of a node: what it serves, and stubs of what others serve."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import trio

from lattica.nat.base.checks import check_several, check_type
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import AddressError, LocalProtocolError
from lattica.nat.base.keys.peer_id import PeerId, as_peer_id
from lattica.nat.swarm.events import EventsLost, PathChanged
from lattica.nat.swarm.host import Host
from lattica.rpc.client.balance import FixedProviders, Resolver
from lattica.rpc.client.client import Client, Providers
from lattica.rpc.client.options import DEFAULT
from lattica.rpc.client.peer import Peer
from lattica.rpc.client.stubs import NamedStub, Stub
from lattica.rpc.config import RpcConfig
from lattica.rpc.data_plane.budget import ReceiveBudget
from lattica.rpc.data_plane.heavy import HeavyWork
from lattica.rpc.data_plane.shared.sharing import SharedMemory
from lattica.rpc.encoding.registry import TypeRegistry
from lattica.rpc.errors import StatusCode
from lattica.rpc.leases.ref import BufferRef
from lattica.rpc.lending.lending import Lending
from lattica.rpc.server.methods import Authorize
from lattica.rpc.server.server import Server
from lattica.rpc.services.definition import as_class, define
from lattica.rpc.telemetry.statistics import (
    MethodCounters,
    MethodStatistics,
    RpcStatistics,
    Traffic,
)

if TYPE_CHECKING:
    from lattica.rpc.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

S = TypeVar("S")
PeerLike = PeerId | str
Target = PeerLike | Sequence[PeerLike] | Resolver
"""Whom to call: a peer, any of several, or whoever a resolver knows."""


class Rpc:
    """Calls between this node and others. For the trio thread only.

    ::

        class Echo:
            async def shout(self, text: str) -> str:
                return text.upper()

        node.rpc.serve(Echo())                       # on one node
        print(await other.rpc.stub(peer, Echo).shout("hello"))   # on another

    Made by :class:`lattica.Node`, as `node.rpc`; elsewhere by :func:`open_rpc`.
    """

    def __init__(self, host: Host, nursery: trio.Nursery, config: RpcConfig | None = None) -> None:
        self.config = config or RpcConfig()
        self._host = host
        self._tasks = Tasks(nursery)
        self._types = TypeRegistry()
        budget = ReceiveBudget(
            self.config.receive_memory, self.config.receive_memory_per_peer, trio.current_time
        )
        self._budget = budget
        self._traffic = Traffic()
        self._shared = SharedMemory(host, self._tasks, self.config)
        parts = (
            host,
            self._tasks,
            self.config,
            self._types,
            budget,
            self._traffic,
            self._shared,
            HeavyWork(),
        )
        self._server = Server(*parts)
        self._client = Client(*parts)
        self._lending = Lending(
            host, self._tasks, self.config, self._types, self._server, self._client
        )
        self._server.lend = self._lending.share
        if self.config.tracing:
            self._server.tracing = self._client.tracing = _tracing()
        self._tasks.start_soon(self._follow_paths)

    # --- serving ---

    def serve(
        self,
        service: object,
        *,
        interface: type | None = None,
        name: str | None = None,
        allow: Collection[PeerLike] | None = None,
        authorize: Authorize | None = None,
        replace: bool = False,
    ) -> None:
        """Serve an object's public methods to other peers.

        Args:
            service: an instance of a plain annotated class.
            interface: a class that says which methods are served and what travels, where that is
            not
                the object's own class.
            name: what it is called on the wire; by default what its class is called.
            allow: the peers that may call it; by default all.
            authorize: called with the :class:`CallContext` of each call, before the handler; it
                refuses by raising :class:`PermissionDeniedError` or returning False. A plain
                function: what an async one finds would be known too late.
            replace: take the place of a service of that name.

        Raises:
            LocalProtocolError: it cannot be served; the message says why.
        """
        peers = None
        if allow is not None:
            check_several("allow", allow, "the peers that may call it")
            peers = [as_peer_id(peer) for peer in allow]
        self._server.serve(
            service,
            interface=interface,
            name=name,
            allow=peers,
            authorize=authorize,
            replace=replace,
        )

    def withdraw(self, name: str) -> None:
        """Serve a service no more, by its name on the wire; calls that are under way go on.

        Raises:
            LocalProtocolError: it is not served.
        """
        self._server.withdraw(name)

    def register(self, kind: type, name: str | None = None) -> None:
        """Know a dataclass, named tuple, enum or protobuf message that no annotation mentions.

        Raises:
            LocalProtocolError: another type has that name, or it is none that can travel.
        """
        self._types.register(kind, name)

    # --- calling ---

    @overload
    def stub(self, target: Target, service: Callable[..., S], **options: Any) -> S: ...

    @overload
    def stub(self, target: Target, service: str, **options: Any) -> NamedStub: ...

    def stub(
        self, target: Target, service: Callable[..., S] | str, **options: Any
    ) -> S | NamedStub:
        """What stands in for a service of another peer: call it like the object itself.

        Args:
            target: a peer, several of which any will do, or a
                :class:`~lattica.rpc.client.balance.Resolver` of the service's providers.
            service: its class, or its name on the wire. (To type checkers it is a callable, as they
                would not take protocols and abstract classes for a `type`.)
            options: fields of :class:`~lattica.rpc.client.options.CallOptions`.

        Nothing is sent before a method is called. The stub lasts: it outlives connections.
        Methods that are not async where they are defined are awaited like the others.

        Raises:
            LocalProtocolError: the class is no service, or an option is out of range.
            AddressError: the target is no peer.
            TypeError: there is no such option.
        """
        chosen = DEFAULT.changed(options)
        if isinstance(service, str):
            return NamedStub(self._client, self._target(target, service), service, chosen)
        definition = define(as_class(service), self._types)
        where = self._target(target, definition.name)
        return cast("S", Stub(self._client, where, definition, chosen))

    async def call(self, target: Target, method: str, /, *args: Any, **keywords: Any) -> Any:
        """Make a unary call by the name on the wire, as "Echo.shout".

        Raises:
            RpcError: it failed.
            TypeError: an argument cannot be sent.
        """
        check_type("method", method, str, "a text, as Service.method")
        service, dot, name = method.rpartition(".")
        if not dot:
            raise LocalProtocolError(f"a method is called Service.method, not {method!r:.100}")
        return await self.stub(target, service).call_method(name, args, keywords)

    def _target(self, target: Target, service: str) -> Peer | Providers:
        if isinstance(target, (PeerId, str)):
            return self._client.peer(as_peer_id(target))
        if isinstance(target, (list, tuple)):
            target = FixedProviders([as_peer_id(peer) for peer in target])
        if not hasattr(target, "providers"):
            raise AddressError(
                f"not a peer, several, or a resolver: {target!r:.100}; what `connect` gives of an "
                "address is a peer"
            )
        return Providers(self._client, cast("Resolver", target), service)

    # --- lending ---

    def share(self, buffer: Any, *, to: PeerLike, ttl: float = 20.0) -> BufferRef:
        """Lend an array, a tensor or bytes to a peer, which reads parts of it when it wants.

        Args:
            buffer: it stays where it is, and is kept and must not be changed while it is lent.
            to: the only peer that can read it, whoever gets the reference;
                :meth:`BufferRef.give` makes one for another.
            ttl: seconds after which it expires without a sign of life of its reader. Where the
                reference arrives, the node sends those for as long as the program has it.

        Returns:
            A reference, which travels in any message.

        Raises:
            ResourceExhaustedError: `rpc.lease_memory` is used up, or there are too many leases.
            TypeError: it cannot be lent.
            LocalProtocolError: `ttl` is out of range.
        """
        return self._lending.share(buffer, as_peer_id(to), ttl)

    # --- observing ---

    def statistics(self) -> RpcStatistics:
        """What was counted so far."""
        served = {name: method.counters for name, method in self._server.methods.items()}
        served["refused"] = self._server.refused
        methods = [_statistics("server", *each) for each in served.items()]
        methods += [_statistics("client", *each) for each in self._client.counters.items()]
        return RpcStatistics(
            methods=tuple(methods),
            sessions=len(self._server.control.sessions),
            peers=len(self._client.peers),
            receive_memory=self._budget.used,
            data_sent=self._traffic.sent,
            data_received=self._traffic.received,
            threads=self._server.threads.in_use,
            retries=self._client.retries,
            shared_memory=self._shared.statistics(),
            leases=self._lending.statistics(),
        )

    # --- life ---

    async def _follow_paths(self) -> None:
        with self._host.events() as events:
            async for event in events:
                if isinstance(event, PathChanged):
                    self._client.path_changed(event.peer_id)
                elif isinstance(event, EventsLost):
                    for peer in self._client.peers:
                        self._client.path_changed(peer)

    async def aclose(self) -> None:
        """Take no new calls, let those under way finish, and end.

        That takes at most `RpcConfig.drain_timeout` seconds; what has not finished is cancelled.
        """
        self._server.go_away()
        with trio.move_on_after(self.config.drain_timeout):
            await self._server.wait_idle()
        self._server.stop()
        self._lending.close()
        self._client.close()
        # What was written last is on its way when the tasks have had a turn.
        await trio.lowlevel.checkpoint()
        self._tasks.cancel()
        with trio.CancelScope(shield=True):
            await self._tasks.wait_ended()


@asynccontextmanager
async def open_rpc(host: Host, config: RpcConfig | None = None) -> AsyncIterator[Rpc]:
    """RPC on a host, for as long as the block lasts."""
    with single_error():
        async with trio.open_nursery() as nursery:
            rpc = Rpc(host, nursery, config)
            try:
                yield rpc
            finally:
                await rpc.aclose()


def _tracing() -> Tracing:
    try:
        from lattica.rpc.telemetry.tracing import Tracing
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "opentelemetry":
            raise
        raise ImportError(
            "rpc.tracing needs OpenTelemetry: pip install 'lattica-stack[otel]'"
        ) from error
    return Tracing()


def _statistics(side: Any, name: str, counters: MethodCounters) -> MethodStatistics:
    codes = {_code_name(code): count for code, count in counters.codes.items()}
    return MethodStatistics(
        side, name, counters.active, codes, counters.seconds, tuple(counters.buckets)
    )


def _code_name(code: int) -> str:
    try:
        return StatusCode(code).name
    except ValueError:
        return StatusCode.UNKNOWN.name
