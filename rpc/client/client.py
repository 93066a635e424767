"""The calling side: peers, methods, and what is done when a call fails."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgpack
import trio

from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.swarm.host import Host
from lattica.rpc.client.balance import Balancer, Resolver
from lattica.rpc.client.begun import BegunCall, Done
from lattica.rpc.client.data import DataLink
from lattica.rpc.client.latency import Latencies
from lattica.rpc.client.options import CallOptions
from lattica.rpc.client.peer import Peer
from lattica.rpc.client.response import ResponseStream
from lattica.rpc.client.retry import RetryBudget, pause_before
from lattica.rpc.config import RpcConfig
from lattica.rpc.data_plane.budget import ReceiveBudget
from lattica.rpc.data_plane.heavy import HeavyWork
from lattica.rpc.data_plane.shared.sharing import SharedMemory
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.encoder import Encoded, Encoder
from lattica.rpc.encoding.registry import TypeRegistry
from lattica.rpc.errors import (
    DeadlineExceededError,
    RpcError,
    StatusCode,
    UnavailableError,
)
from lattica.rpc.protocol.frames import milliseconds
from lattica.rpc.services.definition import Kind, Method
from lattica.rpc.telemetry.statistics import MAX_METHODS, MethodCounters, Traffic

if TYPE_CHECKING:
    from lattica.rpc.telemetry.tracing import Tracing

_pack: Final = msgpack.Packer().pack
_RESOLVE_EVERY: Final = 5.0
"""Seconds for which a list of providers is used before it is asked for again."""
_MAX_IDLE_PEERS: Final = 4096
"""Peers that were called and are remembered."""
_OTHERS: Final = "other"


class CalledMethod:
    """A method as its callers know it."""

    __slots__ = ("counters", "definition", "full_name", "latencies", "packed")

    def __init__(
        self,
        full_name: str,
        definition: Method | None,
        counters: MethodCounters,
        latencies: Latencies,
    ) -> None:
        self.full_name = full_name
        self.packed: bytes = _pack(full_name)
        self.definition = definition
        """None where the caller has only the name."""
        self.counters = counters
        self.latencies = latencies

    @property
    def is_idempotent(self) -> bool:
        return self.definition is not None and self.definition.idempotent

    def split(
        self, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any], Any]:
        """A caller's arguments as :meth:`Method.split` has them. Raises TypeError."""
        if self.definition is None:
            return [*args], keywords, None
        return self.definition.split(args, keywords)


class Providers:
    """Any provider of a service, as the target of calls."""

    def __init__(self, client: Client, resolver: Resolver, service: str) -> None:
        self._client = client
        self._resolver = resolver
        self._service = service
        self._known: tuple[PeerId, ...] = ()
        self._asked = -math.inf
        self.balancer = Balancer(trio.current_time, client.rng)
        self.budget = RetryBudget()
        """What may be tried again of the calls to them."""

    async def choose(self, avoid: set[PeerId]) -> Peer:
        """Who gets the next call. Raises UnavailableError if nobody provides the service."""
        now = trio.current_time()
        if now >= self._asked + _RESOLVE_EVERY or not self._known:
            known = tuple(dict.fromkeys(await self._resolver.providers(self._service)))
            self._known, self._asked = known, now
            self.balancer.update(known)
        chosen = self.balancer.choose(self._known, avoid)
        if chosen is None:
            raise UnavailableError(
                f"nobody is known who provides {self._service}", may_have_run=False
            )
        return self._client.peer(chosen)

    def others(self, avoid: set[PeerId]) -> bool:
        """Whether there is a provider besides those."""
        return any(peer not in avoid for peer in self._known)


class Client:
    """Calls of this node to others."""

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
        self.host = host
        self.tasks = tasks
        self.config = config
        self.types = types
        self.encoder = Encoder(types)
        self.decoder = Decoder(types)
        self.budget = budget
        self.traffic = traffic
        self.shared = shared
        self.heavy = heavy
        self.rng = random.Random()
        self.retries = 0
        self.tracing: Tracing | None = None
        """Where calls are spans."""
        self.counters: dict[str, MethodCounters] = {}
        self.peers: dict[PeerId, Peer] = {}
        self._latencies: dict[str, Latencies] = {}
        self._token = trio.lowlevel.current_trio_token()

    # --- peers and methods ---

    def peer(self, peer: PeerId) -> Peer:
        """The calls to a peer."""
        found = self.peers.get(peer)
        if found is None:
            if len(self.peers) >= _MAX_IDLE_PEERS:
                for idle in [each for each in self.peers.values() if not each.calls]:
                    idle.close()
                    del self.peers[idle.id]
            found = self.peers[peer] = Peer(self, peer)
        return found

    def method(self, full_name: str, definition: Method | None = None) -> CalledMethod:
        """A method, with its counters."""
        counted = full_name
        if full_name not in self.counters and len(self.counters) >= MAX_METHODS:
            counted = _OTHERS
        counters = self.counters.setdefault(counted, MethodCounters())
        latencies = self._latencies.setdefault(counted, Latencies())
        return CalledMethod(full_name, definition, counters, latencies)

    def milliseconds_until(self, deadline: float) -> int | None:
        """A deadline as it travels: clocks differ, so as a duration."""
        if deadline == math.inf:
            return None
        return milliseconds(deadline - trio.current_time())

    def forgotten(self, close: Callable[[], None]) -> None:
        """From any thread: nobody holds an iterator any more that was not read to its end."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(close)

    # --- arguments ---

    def encode_arguments(
        self, method: CalledMethod, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[Encoded, Any]:
        """A caller's arguments as they travel, and the iterator of a stream of requests.

        Raises TypeError and ValueError, which name the argument.
        """
        values, keywords, stream = method.split(args, keywords)
        if not keywords:
            small = self.encoder.encode_small(values)
            if small is not None:
                return Encoded(small), stream
        try:
            return self.encoder.encode({"": values, **keywords} if keywords else values), stream
        except (TypeError, ValueError):
            names = (
                [each.name for each in method.definition.parameters] if method.definition else []
            )
            for index, value in enumerate(values):
                name = names[index] if index < len(names) else f"{index + 1}"
                self.encoder.encode(value, f"{method.full_name}: argument {name}")
            for name, value in keywords.items():
                self.encoder.encode(value, f"{method.full_name}: argument {name}")
            raise

    # --- unary calls ---

    def unary(
        self,
        target: Peer | Providers,
        method: CalledMethod,
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        options: CallOptions,
    ) -> Coroutine[Any, Any, Any]:
        """Make a unary call, again if it fails and may be. Raises RpcError, TypeError."""
        if self.tracing is None:
            return self._unary(target, method, args, keywords, options)
        return self._traced_unary(target, method, args, keywords, options, self.tracing)

    def begin(
        self,
        target: Peer | Providers,
        method: CalledMethod,
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        options: CallOptions,
        done: Done,
    ) -> BegunCall | None:
        """Make a unary call for somebody who has no task. None, and nothing has happened, if it is
        one for :meth:`unary`: its arguments are no small ones, it has options for each attempt, or
        it cannot be sent at once. Raises TypeError.
        """
        if self.tracing is not None or isinstance(target, Providers) or not options.is_simple:
            return None
        values, keywords, _ = method.split(args, keywords)
        small = None if keywords else self.encoder.encode_small(values)
        if small is None:
            return None
        deadline = self._deadline(options)
        call = BegunCall(self, target, method, Encoded(small), deadline, options, done)
        return call if call.begin() else None

    def _deadline(self, options: CallOptions) -> float:
        timeout = self.config.call_timeout if options.timeout is None else options.timeout
        return trio.current_time() + timeout

    async def _traced_unary(
        self,
        target: Peer | Providers,
        method: CalledMethod,
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        options: CallOptions,
        tracing: Tracing,
    ) -> Any:
        span = tracing.call(method.full_name, target.id if isinstance(target, Peer) else None)
        options = options.changed({"metadata": span.begin(options.metadata)})
        code: int = StatusCode.CANCELLED
        try:
            result = await self._unary(target, method, args, keywords, options)
            code = StatusCode.OK
            return result
        except RpcError as error:
            code = error.code
            raise
        finally:
            span.end(code)

    async def _unary(
        self,
        target: Peer | Providers,
        method: CalledMethod,
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        options: CallOptions,
    ) -> Any:
        arguments, _ = self.encode_arguments(method, args, keywords)
        deadline = self._deadline(options)
        counters = method.counters
        counters.active += 1
        start = time.perf_counter()
        code: int = StatusCode.CANCELLED
        try:
            if options.hedge_after is not None and method.is_idempotent:
                result = await self._hedged(target, method, arguments, deadline, options)
            else:
                result = await self.attempts(target, method, arguments, deadline, options, set())
            code = 0
            return result
        except RpcError as error:
            code = error.code
            raise
        finally:
            counters.ended(code, time.perf_counter() - start)

    async def attempts(
        self,
        target: Peer | Providers,
        method: CalledMethod,
        arguments: Encoded,
        deadline: float,
        options: CallOptions,
        tried: set[PeerId],
        made: int = 0,
    ) -> Any:
        """Make a call as often as it may be, after `made` attempts. Raises RpcError."""
        attempt = made
        if not made:
            target.budget.called()
        while True:
            attempt += 1
            try:
                return await self._attempt(target, method, arguments, deadline, options, tried)
            except RpcError as error:
                elsewhere = isinstance(target, Providers) and target.others(tried)
                pause = self.pause_after(
                    error, attempt, target, method, deadline, options, elsewhere=elsewhere
                )
                if pause is None:
                    raise
            self.retries += 1
            if pause:
                await trio.sleep(pause)

    def pause_after(
        self,
        error: RpcError,
        attempt: int,
        target: Peer | Providers,
        method: CalledMethod,
        deadline: float,
        options: CallOptions,
        *,
        elsewhere: bool = False,
    ) -> float | None:
        """Seconds until the next attempt, which then counts; None if there is to be none."""
        pause = pause_before(
            error,
            attempt,
            idempotent=method.is_idempotent,
            elsewhere=elsewhere,
            retries=options.retries,
            budget=target.budget,
            rng=self.rng,
        )
        return None if pause is None or trio.current_time() + pause >= deadline else pause

    async def _attempt(
        self,
        target: Peer | Providers,
        method: CalledMethod,
        arguments: Encoded,
        deadline: float,
        options: CallOptions,
        tried: set[PeerId],
    ) -> Any:
        limit = options.attempt_timeout
        if options.adaptive_timeout:
            learned = method.latencies.deadline
            if learned is not None:
                limit = learned if limit is None else min(limit, learned)
        if limit is not None:
            deadline = min(deadline, trio.current_time() + limit)
        if isinstance(target, Peer):
            if not options.adaptive_timeout:
                return await target.unary(method.packed, arguments, deadline, options)
            return await self._timed(target, method, arguments, deadline, options)
        peer = await target.choose(tried)
        tried.add(peer.id)
        target.balancer.started(peer.id)
        start = trio.current_time()
        code = StatusCode.CANCELLED
        try:
            result = await self._timed(peer, method, arguments, deadline, options)
            code = StatusCode.OK
            return result
        except RpcError as error:
            code = error.code
            raise
        finally:
            target.balancer.ended(peer.id, code, trio.current_time() - start)

    async def _timed(
        self,
        peer: Peer,
        method: CalledMethod,
        arguments: Encoded,
        deadline: float,
        options: CallOptions,
    ) -> Any:
        start = trio.current_time()
        try:
            result = await peer.unary(method.packed, arguments, deadline, options)
        except DeadlineExceededError:
            # What took too long counts as that long, or the deadline could never grow again.
            method.latencies.add(2 * (trio.current_time() - start))
            raise
        method.latencies.add(trio.current_time() - start)
        return result

    async def _hedged(
        self,
        target: Peer | Providers,
        method: CalledMethod,
        arguments: Encoded,
        deadline: float,
        options: CallOptions,
    ) -> Any:
        """Make the call twice if the first attempt takes long; the first result counts."""
        results: list[Any] = []
        errors: list[RpcError] = []
        tried: set[PeerId] = set()
        changed = trio.Event()

        async def attempt() -> None:
            try:
                results.append(
                    await self.attempts(target, method, arguments, deadline, options, tried)
                )
            except RpcError as error:
                errors.append(error)
            changed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt)
            running = 1
            with trio.move_on_after(options.hedge_after or 0.0):
                await changed.wait()
            if not changed.is_set() and target.budget.take():
                self.retries += 1
                nursery.start_soon(attempt)
                running = 2
            while not results and len(errors) < running:
                await changed.wait()
                changed = trio.Event()
            nursery.cancel_scope.cancel()
        error = errors[0] if errors else None
        # They lead to the frames of the attempts, and these to the list.
        errors.clear()
        try:
            if error is not None and not results:
                raise error
            return results[0]
        finally:
            del error

    # --- streaming calls ---

    async def collect(
        self,
        target: Peer | Providers,
        method: CalledMethod,
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        options: CallOptions,
    ) -> Any:
        """Make a call whose requests are streamed. It is never made again. Raises RpcError."""
        stream = self.stream(target, method, Kind.CLIENT_STREAM, args, keywords, options)
        try:
            return await stream.result()
        finally:
            stream.close()

    def stream(
        self,
        target: Peer | Providers,
        method: CalledMethod,
        kind: Kind,
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        options: CallOptions,
    ) -> ResponseStream:
        """Make a call whose results are streamed."""
        arguments, requests = self.encode_arguments(method, args, keywords)
        deadline = self._stream_deadline(options)
        span = None
        if self.tracing is not None:
            known = target.id if isinstance(target, Peer) else None
            span = self.tracing.call(method.full_name, known)

        async def choose() -> tuple[DataLink, Encoded]:
            chosen = options
            if span is not None:
                chosen = options.changed({"metadata": span.begin(options.metadata)})
            peer = target if isinstance(target, Peer) else await target.choose(set())
            return peer.streamed(method.packed, kind, arguments, deadline, chosen)

        return ResponseStream(
            self, choose, requests, deadline, method.counters, options.compression, span
        )

    def _stream_deadline(self, options: CallOptions) -> float:
        return math.inf if options.timeout is None else trio.current_time() + options.timeout

    # --- the node ---

    def path_changed(self, peer: PeerId) -> None:
        """New streams to a peer take another path now."""
        found = self.peers.get(peer)
        if found is not None:
            found.path_changed()

    def close(self) -> None:
        """End what is not under way any more."""
        for peer in self.peers.values():
            peer.close()
