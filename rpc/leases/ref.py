"""A reference to a buffer that another node has lent: it travels in any message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

import trio

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import PeerId, parse_peer_id
from lattica.rpc.leases.book import ID_BYTES, Lease, LeaseEnd
from lattica.rpc.leases.index import Index

P = ParamSpec("P")
T = TypeVar("T")

REF_NAME: Final = "lattica.BufferRef"
"""What the type is called on the wire."""
MAX_TTL: Final = 86_400.0
"""Seconds."""


def _in_trio(method: Callable[P, T]) -> Callable[P, T]:
    """A method that is used under trio: elsewhere nothing of it would run."""

    @wraps(method)
    def checked(*args: P.args, **keywords: P.kwargs) -> T:
        if not trio.lowlevel.in_trio_run():
            name = method.__name__
            raise LocalProtocolError(
                f"ref.{name}() is for the node's own thread, under trio; in other threads it is "
                f"`lattica.rpc.{name}(ref, …)`, which is awaited under asyncio"
            )
        return method(*args, **keywords)

    return checked


@dataclass(frozen=True, slots=True)
class BufferRef:
    """An array, a tensor or bytes, which lie where they are until they are read.

    Made by :meth:`CallContext.share` and :meth:`lattica.rpc.Rpc.share`, for one peer; nobody else
    can read it, whoever gets the reference. While its reader's program has it, the node sends
    heartbeats, which keep it alive; from then on it lives for its time, and may be sent again.
    `async with ref:` releases it at the end. Under trio only: :class:`lattica.Lattica` and
    :class:`lattica.AsyncLattica` have `rpc.read(ref, …)`, `rpc.release(ref)` and so on instead.
    """

    _leases: ClassVar[Any] = None
    """The :class:`~lattica.rpc.lending.lending.Lending` of the node that it is at: each has a class
    of its own. (What this is annotated with is resolved at run time.)"""

    owner: str
    """The peer that has the buffer."""
    id: bytes
    ttl: float
    """Seconds that it lives without a sign of life of its reader."""
    size: int
    """Bytes."""
    dtype: str
    """Of an array or tensor's elements; empty for bytes."""
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.id) != ID_BYTES or not 0 < self.ttl <= MAX_TTL or self.size < 0:
            raise ValueError("no reference to a buffer")
        parse_peer_id(self.owner)
        if self._leases is not None:
            self._leases.received(self)

    @property
    def owner_id(self) -> PeerId:
        return parse_peer_id(self.owner)

    @_in_trio
    async def read(
        self, index: Index = ..., *, out: Any = None, timeout: float | None = None
    ) -> Any:
        """Read the buffer, or a part of it, from its owner.

        Args:
            index: numbers, slices and `...`, as NumPy's basic indexing has them; for bytes one
                slice. What is not asked for does not travel.
            out: a writable array or tensor of the part's form, which it is received into.
            timeout: seconds; None: `rpc.call_timeout`.

        Returns:
            An array or tensor, or `out`; bytes as a writable memoryview.

        Raises:
            NotFoundError: it has ended, or is not for this peer.
            OutOfRangeError: there is no such part.
            DataLossError: it has changed on its way, or while it was read.
            TypeError: `index` or `out` is of the wrong form.
            RpcError: as any call.
        """
        return await self._bound.read(self, index, out, timeout)

    @_in_trio
    async def release(self) -> None:
        """It is needed no more; its owner hears of it if it can be reached. Idempotent."""
        await self._bound.release(self)

    @_in_trio
    async def give(self, peer: PeerId | str) -> BufferRef:
        """A reference to the same buffer for another peer, which may be sent to it.

        The owner lends it a second time, with an end of its own.

        Raises:
            NotFoundError: it has ended, or is not for this peer.
            ResourceExhaustedError: the owner lends no more.
            RpcError: as any call.
        """
        given: BufferRef = await self._bound.give(self, peer)
        return given

    async def __aenter__(self) -> BufferRef:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    # --- at its owner ---

    @property
    def end(self) -> LeaseEnd | None:
        """How it has ended; None while it lives. For its owner.

        Raises LocalProtocolError elsewhere.
        """
        return self._lease.end

    @_in_trio
    async def wait_ended(self) -> LeaseEnd:
        """Wait until it has ended, and how. For its owner. Raises LocalProtocolError elsewhere."""
        end: LeaseEnd = await self._bound.wait_ended(self._lease)
        return end

    def withdraw(self) -> None:
        """Lend it no more. For its owner; idempotent. Raises LocalProtocolError elsewhere."""
        self._bound.withdraw(self._lease)

    @property
    def _bound(self) -> Any:
        if self._leases is None:
            raise LocalProtocolError("a reference to a buffer comes from a node's RPC")
        return self._leases

    @property
    def _lease(self) -> Lease:
        lease: Lease | None = self._bound.lease_of(self)
        if lease is None:
            raise LocalProtocolError("only its owner knows how a lease ends")
        return lease
