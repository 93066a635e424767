"""The buffers that a node lends, and those that it has been lent. The driver of
:mod:`lattica.rpc.leases.book` and :mod:`lattica.rpc.leases.keeping`.
"""

from __future__ import annotations

import math
import secrets
import weakref
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio

from lattica.nat.base.buffers import flat_bytes
from lattica.nat.base.checks import check_seconds
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import LatticaError, LocalProtocolError
from lattica.nat.base.keys.peer_id import PeerId, as_peer_id, parse_peer_id
from lattica.nat.base.limits.places import source_of
from lattica.nat.swarm.host import Host
from lattica.rpc.client.client import Client
from lattica.rpc.client.options import DEFAULT
from lattica.rpc.client.stubs import NamedStub
from lattica.rpc.config import RpcConfig
from lattica.rpc.encoding.arrays import loaded
from lattica.rpc.encoding.registry import TypeRegistry
from lattica.rpc.errors import DataLossError, InvalidArgumentError, NotFoundError, RpcError
from lattica.rpc.leases.book import ID_BYTES, Lease, LeaseBook, LeaseEnd, Loan
from lattica.rpc.leases.index import Index, decode_index, encode_index, part_of
from lattica.rpc.leases.keeping import MOST_IN_BEAT, Keeping
from lattica.rpc.leases.ref import MAX_TTL, REF_NAME, BufferRef
from lattica.rpc.lending.service import SERVICE, LeaseService
from lattica.rpc.server.server import Server
from lattica.rpc.telemetry.statistics import LeaseStatistics

T = TypeVar("T")

_LOOK: Final = 1.0
"""Seconds between looks at which readers are connected, and what has ended."""
_BEAT_TIME: Final = 3.0
"""Seconds for a heartbeat or a release to be answered in."""
_IN_THREAD: Final = 256 * 1024
"""Bytes whose checksum is computed in a thread."""


class Lending:
    """For the trio thread only, apart from :meth:`share` and :meth:`received`."""

    def __init__(
        self,
        host: Host,
        tasks: Tasks,
        config: RpcConfig,
        types: TypeRegistry,
        server: Server,
        client: Client,
    ) -> None:
        self._host = host
        self._tasks = tasks
        self._server = server
        self._client = client
        self._book = LeaseBook(config.lease_memory, config.lease_memory_per_network)
        self._keeping = Keeping()
        self._own: weakref.WeakKeyDictionary[BufferRef, Lease] = weakref.WeakKeyDictionary()
        self._ended: dict[bytes, trio.Event] = {}
        self._dropped: dict[PeerId, list[bytes]] = {}
        self._token = trio.lowlevel.current_trio_token()
        self._is_watching = False
        self._is_served = False
        self._kind = type(REF_NAME, (BufferRef,), {"_leases": self})
        types.register(self._kind, REF_NAME)

    def statistics(self) -> LeaseStatistics:
        """What was counted so far."""
        ends = {end.value: self._book.ends[end] for end in LeaseEnd}
        return LeaseStatistics(len(self._book), self._book.used, ends, self._keeping.count)

    # --- lending ---

    def share(self, value: Any, peer: PeerId, ttl: float) -> BufferRef:
        """Lend a buffer to a peer; from any thread. See :meth:`lattica.rpc.Rpc.share`."""
        check_seconds("ttl", ttl, MAX_TTL)
        loan = Loan(*_lendable(value))
        return self._in_trio(lambda: self._lend(loan, peer, ttl))

    def _in_trio(self, function: Callable[[], T]) -> T:
        try:
            if trio.lowlevel.current_trio_token() is self._token:
                return function()
        except RuntimeError:
            pass  # no thread of trio's
        return trio.from_thread.run_sync(function, trio_token=self._token)

    def _lend(self, loan: Loan, peer: PeerId, ttl: float) -> BufferRef:
        if self._tasks.closed:
            raise LocalProtocolError("this node's RPC has ended")
        now = trio.current_time()
        path = self._host.path(peer)
        network = None if path is None else source_of(path.addr).network
        lease = self._book.lend(secrets.token_bytes(ID_BYTES), loan, peer, ttl, now, network)
        if not self._is_served:
            self._is_served = True
            self._server.serve(
                LeaseService(self),
                interface=None,
                name=SERVICE,
                allow=None,
                authorize=None,
                replace=False,
            )
        if not self._is_watching:
            self._is_watching = True
            self._tasks.start_soon(self._watch)
        value = loan.value
        is_bytes = isinstance(value, memoryview)
        ref: BufferRef = self._kind(
            str(self._host.peer_id),
            lease.id,
            ttl,
            loan.size,
            "" if is_bytes else str(value.dtype),
            (loan.size,) if is_bytes else tuple(map(int, value.shape)),
        )
        self._own[ref] = lease
        return ref

    async def _watch(self) -> None:
        """End what is due, while anything is lent."""
        try:
            while len(self._book):
                now = trio.current_time()
                self._book.note_connections(
                    frozenset(each.peer_id for each in self._host.peers()), now
                )
                for lease in self._book.expire(now):
                    self._tell(lease)
                due = self._book.next_due
                await trio.sleep_until(min(now + _LOOK, math.inf if due is None else due))
        finally:
            self._is_watching = False

    def lease_of(self, ref: BufferRef) -> Lease | None:
        """The lease of a reference that this node has made."""
        return self._own.get(ref) or self._book.get(ref.id)

    async def wait_ended(self, lease: Lease) -> LeaseEnd:
        while lease.end is None:
            await self._ended.setdefault(lease.id, trio.Event()).wait()
        return lease.end

    def withdraw(self, lease: Lease) -> None:
        self._tell(self._book.withdraw(lease.id))

    def _tell(self, lease: Lease | None) -> None:
        if lease is not None and (event := self._ended.pop(lease.id, None)) is not None:
            event.set()

    def close(self) -> None:
        """Lend nothing any more."""
        for lease in self._book.withdraw_all():
            self._tell(lease)

    # --- answers to readers ---

    async def serve_read(self, lease_id: bytes, index: list[Any], peer: PeerId) -> tuple[Any, int]:
        """See :meth:`LeaseService.read`."""
        loan = self._found(lease_id, peer).loan
        part = _sendable(part_of(loan.value, decode_index(index)))
        return part, await _checksum(part)

    def serve_renewal(self, ids: list[bytes], peer: PeerId) -> list[bool]:
        return self._book.beat(ids, peer, trio.current_time())

    def serve_rest(self, ids: list[bytes], peer: PeerId) -> None:
        self._book.rest(ids, peer, trio.current_time())

    def serve_release(self, ids: list[bytes], peer: PeerId) -> None:
        for lease_id in ids:
            self._tell(self._book.release(lease_id, peer))

    def serve_gift(self, lease_id: bytes, to: str, peer: PeerId) -> BufferRef:
        lease = self._found(lease_id, peer)
        try:
            receiver = parse_peer_id(to)
        except LatticaError as error:
            raise InvalidArgumentError(str(error)[:300], may_have_run=False) from None
        return self._lend(lease.loan, receiver, lease.ttl)

    def _found(self, lease_id: bytes, peer: PeerId) -> Lease:
        lease = self._book.find(lease_id, peer, trio.current_time())
        if lease is None:
            raise NotFoundError("the caller has no such lease: it has ended, or never was")
        return lease

    # --- reading ---

    async def read(self, ref: BufferRef, index: Index, out: Any, timeout: float | None) -> Any:
        """See :meth:`BufferRef.read`."""
        if (lease := self.lease_of(ref)) is not None:
            await trio.lowlevel.checkpoint()
            return _copied(lease, index, out)
        options = {} if out is None else {"out": (out, None)}
        try:
            part, checksum = await self._call(
                ref.owner_id, "read", ref.id, encode_index(index), timeout=timeout, **options
            )
        except NotFoundError:
            self._keeping.forget(ref.owner_id, ref.id)
            raise
        if await _checksum(part) != checksum:
            raise DataLossError("a lent buffer came with another checksum than it was sent with")
        return part

    async def release(self, ref: BufferRef) -> None:
        self._keeping.forget(ref.owner_id, ref.id)
        if (lease := self.lease_of(ref)) is not None:
            self.withdraw(lease)
            await trio.lowlevel.checkpoint()
            return
        with suppress(RpcError):  # it ends by itself
            await self._call(ref.owner_id, "release", [ref.id], timeout=_BEAT_TIME)

    async def give(self, ref: BufferRef, peer: PeerId | str) -> BufferRef:
        to = as_peer_id(peer)
        if (lease := self.lease_of(ref)) is not None:
            await trio.lowlevel.checkpoint()
            return self.serve_gift(ref.id, str(to), lease.peer)
        given: BufferRef = await self._call(ref.owner_id, "give", ref.id, str(to))
        # It is not for this node to keep alive: it goes to the peer.
        self._keeping.forget(given.owner_id, given.id)
        return given

    async def _call(self, owner: PeerId, method: str, *args: Any, **options: Any) -> Any:
        stub = NamedStub(self._client, self._client.peer(owner), SERVICE, DEFAULT.changed(options))
        return await stub.call_method(method, args, {})

    # --- references that have come ---

    def received(self, ref: BufferRef) -> None:
        """A reference was made here, by whatever thread: keep what it means alive as long as it is
        there.
        """
        owner = ref.owner_id
        if owner == self._host.peer_id:
            return
        self._soon(self._keep, owner, ref.id, ref.ttl)
        weakref.finalize(ref, self._soon, self._drop, owner, ref.id).atexit = False

    def _soon(self, function: Callable[..., None], *args: Any) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, *args)

    def _keep(self, owner: PeerId, lease_id: bytes, ttl: float) -> None:
        if self._keeping.add(owner, lease_id, ttl):
            self._tasks.start_soon(self._beat, owner)

    def _drop(self, owner: PeerId, lease_id: bytes) -> None:
        if self._keeping.drop(owner, lease_id) and self._is_connected(owner):
            waiting = self._dropped.setdefault(owner, [])
            if not waiting:
                self._tasks.start_soon(self._rest_dropped, owner)
            waiting.append(lease_id)

    def _is_connected(self, owner: PeerId) -> bool:
        """What a stranger names as owner is no reason to connect to it."""
        return self._host.path(owner) is not None

    async def _rest_dropped(self, owner: PeerId) -> None:
        """Say that no more heartbeats come for what has been dropped here."""
        await trio.lowlevel.checkpoint()
        ids = self._dropped.pop(owner, [])
        for start in range(0, len(ids), MOST_IN_BEAT):
            with suppress(RpcError):
                some = ids[start : start + MOST_IN_BEAT]
                await self._call(owner, "rest", some, timeout=_BEAT_TIME)

    async def _beat(self, owner: PeerId) -> None:
        """Heartbeats to an owner, as long as there is a reference of its."""
        while (pause := self._keeping.pause(owner)) is not None:
            await trio.sleep(pause)
            if not self._is_connected(owner):
                continue
            ids = self._keeping.beat(owner)
            for start in range(0, len(ids), MOST_IN_BEAT):
                some = ids[start : start + MOST_IN_BEAT]
                with suppress(RpcError):
                    alive = await self._call(owner, "renew", some, timeout=_BEAT_TIME)
                    for lease_id, lives in zip(some, alive, strict=False):
                        if not lives:
                            self._keeping.forget(owner, lease_id)


def _lendable(value: Any) -> tuple[Any, int]:
    """A value as it is kept, and its bytes. Raises TypeError."""
    numpy, torch = loaded("numpy"), loaded("torch")
    if numpy is not None and isinstance(value, numpy.ndarray):
        if value.dtype.hasobject:
            raise TypeError("an array of Python objects cannot be lent")
        return value, int(value.nbytes)
    if torch is not None and isinstance(value, torch.Tensor):
        return value, int(value.numel() * value.element_size())
    try:
        view = memoryview(value)
        return view.cast("B") if view.nbytes else memoryview(b""), view.nbytes
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"an array, a tensor or bytes can be lent, not {kind}") from None


def _copied(lease: Lease, index: Index, out: Any) -> Any:
    """A part of what this node itself has lent."""
    if lease.end is not None:
        raise NotFoundError(f"the lease has ended: {lease.end.value}")
    part = part_of(lease.loan.value, decode_index(encode_index(index)))
    if out is not None:
        out[...] = part
        return out
    if isinstance(part, memoryview):
        return memoryview(bytearray(part))
    return part.clone() if hasattr(part, "data_ptr") else part.copy()


def _sendable(part: Any) -> Any:
    """In one piece of memory, so that the bytes that are summed up are those that are sent."""
    if isinstance(part, memoryview):
        return part if part.c_contiguous else memoryview(part.tobytes())
    if hasattr(part, "data_ptr"):
        return part.detach().cpu().contiguous()
    numpy = loaded("numpy")
    return numpy.ascontiguousarray(part) if getattr(part, "ndim", 0) else numpy.asarray(part)


async def _checksum(part: Any) -> int:
    data = flat_bytes(part)
    if len(data) < _IN_THREAD:
        return zlib.crc32(data)
    return await trio.to_thread.run_sync(zlib.crc32, data)
