"""Bitswap on a node: serves blocks of a store, and gets blocks from peers."""

from __future__ import annotations

import logging
import math
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import trio

from lattica.content.bitswap.asking import PATIENCE, Asking, Sent
from lattica.content.bitswap.messages import (
    MAX_BLOCK,
    MAX_MESSAGE,
    MAX_REQUEST,
    PROTOCOL,
    Message,
    Want,
    decode,
    encode,
    own_cid,
)
from lattica.content.bitswap.outbox import Outbox
from lattica.content.bitswap.record import PeerRecord
from lattica.content.bitswap.wanted import Wanted
from lattica.content.errors import ContentNotFoundError
from lattica.content.manifest.cid import Cid
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import LatticaError, UnsupportedProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.events import PeerConnected, PeerDisconnected
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

_MAX_STREAMS = 128
_SEND_TIMEOUT = 30.0
"""Seconds that a peer may take no byte; then it counts as gone."""
_IDLE = 60.0
"""Seconds after which an outgoing stream without messages is closed."""
_MAX_IDLE = 16
"""Peers to which a stream without messages is kept; of more, the longest idle one is closed."""
_LOOKED_UP = 256
"""Wants for which a thread looks at a time."""
_LOOKING = 4
"""Messages of which that is done at a time."""
_BATCH = 1024 * 1024
"""Bytes of blocks that go into one message, unless a single one is larger."""


class BlockSource(Protocol):
    """Where blocks are served from. Called in threads."""

    def get_block(self, cid: Cid) -> bytes | None:
        """The block, or None if it is not here."""
        ...

    def has_block(self, cid: Cid) -> bool:
        """Whether it is."""
        ...


@dataclass(slots=True)
class ExchangeStatistics:
    """Counted since the exchange began."""

    requested: int = 0
    """Blocks that were asked for here."""
    received: int = 0
    failed: int = 0
    """Not found in time."""
    bytes_received: int = 0
    blocks_sent: int = 0
    bytes_sent: int = 0


FindProviders = Callable[[Cid], Awaitable[Iterable[PeerId]]]


class Exchange:
    """Serves `source`, and finds blocks at connected peers and those that `find_providers` names.

    Used with :func:`open_exchange`; for the trio thread only.
    """

    def __init__(
        self,
        host: Host,
        source: BlockSource,
        nursery: trio.Nursery,
        find_providers: FindProviders | None = None,
    ) -> None:
        self.statistics = ExchangeStatistics()
        self._host = host
        self._source = source
        self._nursery = nursery
        self._find_providers = find_providers
        self._asking = Asking()
        self._wanted = Wanted()
        self._outboxes: dict[PeerId, Outbox] = {}
        self._idle: OrderedDict[Outbox, trio.CancelScope] = OrderedDict()
        """Those that wait for something to send, the longest idle one first."""
        self._sending: Counter[PeerId] = Counter()
        """Messages that are being received of a peer."""
        self._waiting: dict[Cid, list[_Waiter]] = {}
        self._wake = trio.Event()
        self._looking = trio.CapacityLimiter(_LOOKING)
        self.has_ended = False
        """Streams may still be read that have come before; nothing is sent on others."""

    # --- getting ---

    async def get(self, cid: Cid, timeout: float = math.inf) -> tuple[PeerId, bytes]:
        """Get a block from another peer, verified; and who sent it.

        Cancellation: at any time; peers that were asked are told.

        Raises:
            ContentNotFoundError: nobody has sent it within `timeout` seconds.
        """
        waiter = _Waiter()
        self._waiting.setdefault(cid, []).append(waiter)
        self.statistics.requested += 1
        try:
            with trio.move_on_after(timeout) as waiting:
                async with trio.open_nursery() as nursery:
                    peers = [status.peer_id for status in self._host.peers()]
                    self._send(self._asking.begin(cid, peers, trio.current_time()))
                    if self._find_providers is not None:
                        nursery.start_soon(self._ask_providers, cid, self._find_providers)
                    await waiter.ready.wait()
                    nursery.cancel_scope.cancel()
            if waiting.cancelled_caught:
                self._asking.gave_up(cid, trio.current_time())
        finally:
            left = self._waiting[cid]
            left.remove(waiter)
            if not left:
                del self._waiting[cid]
                self._send(self._asking.end(cid))
        if waiter.block is None:
            self.statistics.failed += 1
            raise ContentNotFoundError(f"no peer has sent block {cid} within {timeout:g} s")
        return waiter.block

    async def _ask_providers(self, cid: Cid, find_providers: FindProviders) -> None:
        try:
            found = await find_providers(cid)
        except LatticaError as error:
            logger.debug("providers of %s are not found: %s", cid, error)
            return
        others = [peer for peer in found if peer != self._host.peer_id]
        self._send(self._asking.ask(cid, others, trio.current_time()))

    def record_of(self, peer: PeerId) -> PeerRecord:
        """What a connected peer was good for."""
        return self._asking.records.get(peer) or PeerRecord()

    def notify(self, cid: Cid) -> None:
        """A block is in the source now: peers that wait for it get it."""
        for peer, have_only in self._wanted.take(cid):
            self._nursery.start_soon(self._serve, peer, [Want(bytes(cid), have_only=have_only)])

    # --- tasks ---

    async def run(self) -> None:
        """Look after searches, and notice who comes and goes."""
        self._nursery.start_soon(self._keep_time)
        with self._host.events() as events:
            async for event in events:
                if isinstance(event, PeerConnected):
                    self._ask_for_all(event.peer_id)
                elif isinstance(event, PeerDisconnected):
                    self._forget(event.peer_id)
                    self._asking.forget(event.peer_id)

    async def _keep_time(self) -> None:
        while True:
            self._wake = trio.Event()
            due = self._asking.next_wake
            with trio.move_on_at(math.inf if due is None else due):
                await self._wake.wait()
            self._send(self._asking.tick(trio.current_time(), self._sending))

    def _forget(self, peer: PeerId) -> None:
        self._wanted.forget(peer)
        self._send(self._asking.lost(peer, trio.current_time()))

    def _send(self, sent: Iterable[Sent]) -> None:
        for each in sent:
            self._outbox(each.peer).ask(each.message)
        self._wake.set()

    def _outbox(self, peer: PeerId) -> Outbox:
        outbox = self._outboxes.get(peer)
        if outbox is None:
            outbox = Outbox()
            if self.has_ended:
                outbox.close()
                return outbox
            self._outboxes[peer] = outbox
            self._nursery.start_soon(self._write, peer, outbox)
        return outbox

    async def _write(self, peer: PeerId, outbox: Outbox) -> None:
        """Send what is queued for a peer, on one stream, until there is nothing for a while."""
        stream: Stream | None = None
        failure: BaseException | None = None
        try:
            while True:
                with trio.move_on_after(_IDLE) as idle:
                    if not outbox:
                        self._is_idle(outbox, idle)
                    message = await outbox.take()
                self._idle.pop(outbox, None)
                if idle.cancelled_caught:
                    if outbox:
                        continue  # it came as the time was up
                    break
                with trio.fail_after(_SEND_TIMEOUT):
                    if stream is None:
                        stream = await self._host.open_stream(peer, PROTOCOL)
                    await stream.send_message(encode(message))
        except (LatticaError, OSError, trio.TooSlowError) as error:
            failure = error
        finally:
            outbox.close()
            self._idle.pop(outbox, None)
            if self._outboxes.get(peer) is outbox:
                del self._outboxes[peer]
            if stream is not None:
                stream.reset("bitswap is over") if failure else stream.close()
        if failure is not None:
            logger.debug("bitswap with a peer ended: %s peer=%s", failure, peer)
            self._forget(peer)
            if not isinstance(failure, UnsupportedProtocolError):
                await self._ask_again(peer)

    async def _ask_again(self, peer: PeerId) -> None:
        """Nobody says that a peer has come if it was only its stream that failed."""
        await trio.sleep(PATIENCE)
        if self._host.path(peer) is not None:
            self._ask_for_all(peer)

    def _ask_for_all(self, peer: PeerId) -> None:
        for cid in list(self._waiting):
            self._send(self._asking.ask(cid, [peer], trio.current_time()))

    def _is_idle(self, outbox: Outbox, scope: trio.CancelScope) -> None:
        self._idle[outbox] = scope
        while len(self._idle) > _MAX_IDLE:
            _, longest = self._idle.popitem(last=False)
            longest.cancel()

    # --- serving ---

    async def handle(self, stream: Stream) -> None:
        """Read a peer's messages: its wants, and what it has for us."""
        peer = stream.peer_id
        while True:
            first = await stream.receive_some(1)
            if not first:
                return
            stream.push_back(first)
            # Asked now: a block may have been asked for while nothing came.
            limit = MAX_MESSAGE if self._asking.expects_blocks_of(peer) else MAX_REQUEST
            self._sending[peer] += 1
            try:
                message = decode(await stream.receive_message(limit))
            finally:
                self._sending -= Counter([peer])  # keeps none that are 0
            for block in message.blocks:
                await self._take(peer, block)
            self._send(self._asking.on_message(peer, message, trio.current_time()))
            if message.full:
                self._wanted.forget(peer)
            await self._serve(peer, message.wants)

    async def _take(self, peer: PeerId, block: bytes) -> None:
        if not self._asking.expects_blocks_of(peer):
            return
        cid = await trio.to_thread.run_sync(Cid.of, block)
        waiting = self._waiting.get(cid)
        if not waiting:
            return
        self._asking.got(peer, cid, len(block), trio.current_time())
        self.statistics.received += 1
        self.statistics.bytes_received += len(block)
        for waiter in waiting:
            waiter.block = (peer, block)
            waiter.ready.set()

    async def _serve(self, peer: PeerId, wants: Iterable[Want]) -> None:
        """Answer wants, in order; waits while the peer takes no answers."""
        blocks: list[bytes] = []
        haves: list[bytes] = []
        dont_haves: list[bytes] = []

        async def flush() -> None:
            message = Message(
                blocks=tuple(blocks), haves=tuple(haves), dont_haves=tuple(dont_haves)
            )
            if message:
                self.statistics.blocks_sent += len(blocks)
                self.statistics.bytes_sent += sum(map(len, blocks))
                for each in (blocks, haves, dont_haves):
                    each.clear()
                await self._outbox(peer).answer(message)

        left = deque(wants)
        try:
            while left:
                if self._host.path(peer) is None:
                    return  # nothing that it wanted is to be kept
                async with self._looking:
                    batch = [(want, own_cid(want.cid)) for want in islice(left, _LOOKED_UP)]
                    for want, cid in batch:
                        if cid is None:
                            continue
                        self._wanted.forget(peer, cid)
                        if not want.cancel:  # before it is looked up: it may come meanwhile
                            self._wanted.note(peer, cid, want)
                    looked_up = await self._look_up(batch)
                for (want, cid), found in zip(batch, looked_up, strict=False):
                    left.popleft()
                    if want.cancel:
                        continue
                    if found is None or cid is None:
                        if want.send_dont_have:
                            dont_haves.append(want.cid)
                        continue
                    self._wanted.forget(peer, cid)
                    if want.have_only:
                        haves.append(want.cid)
                    else:
                        if blocks and sum(map(len, blocks)) + len(found) > _BATCH:
                            await flush()
                        blocks.append(found)
            await flush()
        except trio.BrokenResourceError:
            pass  # the peer has gone, or takes nothing

    async def _look_up(self, wants: Iterable[tuple[Want, Cid | None]]) -> list[bytes | None]:
        """The blocks that are here, and no bytes where only that is asked; in one visit to a
        thread, since most that strangers want are not. Of the first wants only, where their blocks
        are large.
        """
        source = self._source

        def look() -> list[bytes | None]:
            found: list[bytes | None] = []
            size = 0
            for want, cid in wants:
                block: bytes | None = None
                if cid is not None and want.have_only:
                    block = b"" if source.has_block(cid) else None
                elif cid is not None and not want.cancel:
                    block = source.get_block(cid)
                    block = None if block is not None and len(block) > MAX_BLOCK else block
                found.append(block)
                size += len(block or b"")
                if size >= _BATCH:
                    break
            return found

        return await trio.to_thread.run_sync(look)


class _Waiter:
    """One caller of :meth:`Exchange.get`."""

    def __init__(self) -> None:
        self.ready = trio.Event()
        self.block: tuple[PeerId, bytes] | None = None


@asynccontextmanager
async def open_exchange(
    host: Host, source: BlockSource, find_providers: FindProviders | None = None
) -> AsyncIterator[Exchange]:
    """Serve `source` by Bitswap, and get blocks, for as long as the block lasts."""
    with single_error():
        async with trio.open_nursery() as nursery:
            exchange = Exchange(host, source, nursery, find_providers)
            host.handle(PROTOCOL, exchange.handle, owner="Bitswap", limit=_MAX_STREAMS)
            nursery.start_soon(exchange.run)
            try:
                yield exchange
            finally:
                host.unhandle(PROTOCOL, owner="Bitswap")
                exchange.has_ended = True
                nursery.cancel_scope.cancel()
