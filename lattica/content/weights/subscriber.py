"""The side that follows a channel of weights: always the newest version, complete or not at all."""

from __future__ import annotations

import inspect
import logging
import mmap
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from lattica.content.disk import storage_error
from lattica.content.download.fetcher import fetch
from lattica.content.download.options import FetchOptions
from lattica.content.errors import IntegrityError
from lattica.content.events import FetchEvent, Retrying
from lattica.content.manifest.cid import Cid
from lattica.content.publish.catalog import Publication
from lattica.content.publish.service import ContentService, serving
from lattica.content.swarm.messages import Member
from lattica.content.tensors.mapped import MappedTensors
from lattica.content.ticket import Ticket
from lattica.content.weights.announcement import (
    Announcement,
    Channel,
    DeltaRef,
    open_announcement,
)
from lattica.content.weights.delta import apply_delta, can_delta
from lattica.content.weights.exchange import answering, ask_newest
from lattica.content.weights.options import WeightOptions, WeightVersion
from lattica.content.weights.shelf import (
    DELTA_NAME,
    Shelf,
    open_shelf,
    publication_of,
    remove,
    weights_of,
)
from lattica.dht.topics.core.actions import Subscribed
from lattica.dht.topics.core.router import Verdict
from lattica.dht.topics.service.topic import Topic
from lattica.dht.topics.signing import Message
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import LatticaError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.identity import PeerId

if TYPE_CHECKING:
    from lattica.node import Node

logger = logging.getLogger(__name__)

_STUCK_AFTER = 5.0
"""Seconds without progress after which a version is left for a newer one."""

_SHARED_BYTES = 1024 * 1024
"""What is smaller is had of its publisher: to wait until others have it takes longer."""

VersionCallback = Callable[[WeightVersion], Awaitable[object] | object]


class _Peers:
    """Who may have a version beside its publisher: whoever follows the channel."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic

    async def find_providers(self, cid: Cid) -> Sequence[Member]:
        await trio.lowlevel.checkpoint()
        return [Member(peer, ()) for peer in self._topic.peers()]

    async def provide(self, cid: Cid) -> None:
        """The topic says so already."""


class WeightSubscriber(InProcess):
    """Follows a channel: `async with WeightSubscriber(node, "PEER/policy") as weights: async for
    version in weights: version.load_into(model)`.

    The newest version is fetched as soon as it is announced, and shows when it is complete and
    verified. Whoever takes them slower than they come gets the newest each time. One that is being
    fetched while a newer one is announced is fetched to its end, unless nothing comes of it any
    more. Who joins late asks those who are there, and gets the newest. What is here is served to
    the others.

    Args:
        channel: whose and which, `PEER/NAME`. What that peer has not signed is not believed.
        on_version: called with each version that is complete, in the trio thread; async functions
            are awaited. What it raises ends the `async with` block. The next version is obtained
            meanwhile.
    """

    def __init__(
        self,
        node: Node,
        channel: Channel | str,
        options: WeightOptions | None = None,
        *,
        on_version: VersionCallback | None = None,
    ) -> None:
        self._node = node
        self._options = options or WeightOptions()
        self.channel = Channel.parse(channel) if isinstance(channel, str) else channel
        self._on_version = on_version
        self._stack = AsyncExitStack()
        self._shelf: Shelf
        self._topic: Topic
        self._service: ContentService
        self._announced: Announcement | None = None
        self._signed = b""
        """The newest announcement, for others."""
        self._heard = trio.Event()
        self._heard_at = 0.0
        self._changed = trio.Event()
        self._newest: WeightVersion | None = None
        self._given = -1
        """The version that the iterator has given out last."""
        self._gained = 0
        """Bytes of what is being fetched."""
        self._limited: trio.CancelScope | None = None
        """Of what is being obtained while there is a newer version."""
        self._state = "new"

    def __repr__(self) -> str:
        has = "nothing yet" if self._newest is None else f"version {self._newest.version}"
        return f"<WeightSubscriber of {self.channel}, {has}>"

    # --- for the application ---

    @property
    def newest(self) -> WeightVersion | None:
        """The newest version that is here."""
        return self._newest

    async def wait(self, after: int = -1) -> WeightVersion:
        """The newest version, once there is one that is newer than `after`.

        Raises:
            LocalProtocolError: the block has ended.
        """
        await trio.lowlevel.checkpoint()
        while self._newest is None or self._newest.version <= after:
            if self._state != "open":
                raise LocalProtocolError("a WeightSubscriber is used within `async with`")
            await self._changed.wait()
        return self._newest

    def __aiter__(self) -> WeightSubscriber:
        return self

    async def __anext__(self) -> WeightVersion:
        """The newest version that was not given out yet; several tasks share them."""
        while True:
            try:
                version = await self.wait(self._given)
            except LocalProtocolError:
                if self._state != "closed":
                    raise
                raise StopAsyncIteration from None
            if version.version > self._given:
                self._given = version.version
                return version

    async def __aenter__(self) -> WeightSubscriber:
        async with AsyncExitStack() as stack:
            self._shelf = await stack.enter_async_context(open_shelf(self._options.directory))
            self._service = stack.enter_context(serving(self._node, self._shelf.catalog.get))
            stack.enter_context(answering(self._node, self.channel, lambda: self._signed))
            self._topic = self._node.topic(self.channel.topic)
            stack.enter_context(self._topic.judging(self._judge))
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            await nursery.start(self._listen)
            nursery.start_soon(self._ask)
            nursery.start_soon(self._obtain_all)
            if self._on_version is not None:
                nursery.start_soon(self._call, self._on_version)
            self._state = "open"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state = "closed"
        self._tell()
        await self._stack.__aexit__(exc_type, exc, traceback)

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _call(self, on_version: VersionCallback) -> None:
        last = -1
        while True:
            try:
                version = await self.wait(last)
            except LocalProtocolError:
                return  # the block ends
            last = version.version
            result = on_version(version)
            if inspect.isawaitable(result):
                await result

    # --- what is announced ---

    @property
    def _sequence(self) -> int:
        """Of the newest announcement; -1: there is none."""
        return -1 if self._announced is None else self._announced.sequence

    def _judge(self, message: Message) -> Verdict:
        try:
            said = open_announcement(message.data, self.channel)
        except RemoteProtocolError as error:
            logger.debug("refused on %s: %s", self.channel, error)
            return Verdict.REJECT
        # An older one is out of date, and no lie.
        return Verdict.IGNORE if said.sequence < self._sequence else Verdict.ACCEPT

    def _hear(self, said: Announcement, signed: bytes) -> None:
        known = self._sequence
        if said.sequence < known:
            return
        self._announced, self._signed = said, signed
        if said.sequence > known:
            self._heard_at = trio.current_time()
            self._heard.set()

    async def _listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self._topic.subscribe() as messages:
            task_status.started()
            async for message in messages:
                try:
                    said = open_announcement(message.data, self.channel)
                except RemoteProtocolError:
                    continue  # it was judged before this subscriber was there
                self._hear(said, message.data)

    async def _ask(self) -> None:
        """Ask everybody who follows the channel, when he appears, for what was said before."""
        limiter = trio.CapacityLimiter(4)

        async def ask(peer: PeerId) -> None:
            async with limiter:
                try:
                    found = await ask_newest(self._node, peer, self.channel)
                except (LatticaError, TimeoutError) as error:
                    logger.debug("%s says nothing of %s: %s", peer, self.channel, error)
                else:
                    if found is not None:
                        self._hear(*found)

        async with trio.open_nursery() as nursery:
            # It may be known where it is, and not subscribe to its own channel.
            nursery.start_soon(ask, self.channel.publisher)
            with self._topic.neighbours() as events:
                async for event in events:
                    if isinstance(event, Subscribed):
                        nursery.start_soon(ask, event.peer_id)
            nursery.cancel_scope.cancel()

    # --- getting it ---

    async def _obtain_all(self) -> None:
        pause = self._options.retry_after
        done = -1
        while True:
            self._heard = trio.Event()
            said = self._announced
            if said is None or said.sequence <= done:
                await self._heard.wait()
                continue
            try:
                if not await self._obtain_unless_stuck(said):
                    continue  # there is a newer one
            except (LatticaError, TimeoutError) as error:
                logger.warning(
                    "version %d of %s cannot be had for now: %s; trying again in %.0f s",
                    said.version,
                    self.channel,
                    error,
                    pause,
                )
                with trio.move_on_after(pause):
                    await self._heard.wait()
                pause = min(2 * pause, self._options.retry_limit)
            else:
                done, pause = said.sequence, self._options.retry_after

    async def _obtain_unless_stuck(self, said: Announcement) -> bool:
        """Get a version, unless nothing comes of it any more and there is a newer one."""
        obtained = False
        with single_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._limit_when_newer, nursery.cancel_scope)
                await self._obtain(said)
                obtained = True
                nursery.cancel_scope.cancel()
        self._limited = None
        return obtained

    async def _limit_when_newer(self, scope: trio.CancelScope) -> None:
        await self._heard.wait()
        self._limited = scope
        scope.deadline = trio.current_time() + _STUCK_AFTER

    def _progress(self, event: FetchEvent) -> None:
        if self._limited is not None:
            if isinstance(event, Retrying):  # it may be served no more
                self._limited.cancel()
            elif event.bytes_done != self._gained:
                self._limited.deadline = trio.current_time() + _STUCK_AFTER
        self._gained = event.bytes_done

    async def _obtain(self, said: Announcement) -> None:
        shelf, began = self._shelf, self._heard_at
        held, fetched = shelf.catalog.get(said.ticket.cid), 0
        if held is not None:  # pushed again
            publication = held
        else:
            publication, fetched = await self._obtain_files(said)
        _, layout = weights_of(publication.manifest)
        path = publication.files[0].path
        tensors = await trio.to_thread.run_sync(MappedTensors, path)
        seconds = trio.current_time() - began
        if held is None:
            shelf.add(said.sequence, publication)
        self._newest = WeightVersion(
            said.version, publication.cid, path, said.size, fetched, seconds, layout, tensors
        )
        self._service.tell()
        self._tell()
        shelf.keep(self._options.keep, self._options.keep)
        await trio.to_thread.run_sync(lambda: remove(shelf.leftovers()))

    async def _obtain_files(self, said: Announcement) -> tuple[Publication, int]:
        """Get the file of a version by deltas, and what is missing then; how many bytes came."""
        shelf, held = self._shelf, self._shelf.held()
        way = said.way_from(held) if can_delta() else None
        fetched = 0 if way is None else await self._patch(said, held[way[0]], way[1])
        bases = [shelf.weights(sequence) for sequence in held.values()]
        here = shelf.directory(said.sequence)
        bases += [
            path
            for path in await trio.to_thread.run_sync(shelf.leftovers)
            if path != here and not path.suffix
        ]
        publication, size = await self._fetch(said.ticket, said.size, here, tuple(bases))
        return publication, fetched + size

    async def _fetch(
        self, ticket: Ticket, size: int, directory: Path, base: tuple[Path, ...] = ()
    ) -> tuple[Publication, int]:
        """Get a version or a delta of so many bytes; how many came for it."""
        options = FetchOptions(
            base=base,
            give_up_after=self._options.give_up_after,
            share=size >= _SHARED_BYTES,
            lingers=False,  # the catalog serves it on
        )
        result = await fetch(
            self._node,
            ticket,
            directory,
            options=options,
            finder=_Peers(self._topic),
            progress=self._progress,
        )
        assert result.manifest is not None
        publication = await trio.to_thread.run_sync(publication_of, result.manifest, directory)
        return publication, result.bytes_fetched

    async def _patch(self, said: Announcement, base: int, deltas: Sequence[DeltaRef]) -> int:
        """Make the new file from an old one by deltas, where it belongs; how many bytes came.

        What is wrong of it is fetched after that: chunks are compared with their hashes in any
        case.
        """
        shelf, fetched = self._shelf, 0
        try:
            files = []
            for delta in deltas:
                # The sequence only names the place.
                place = shelf.delta_directory(said.sequence) / str(delta.cid)
                ticket = Ticket(delta.cid, said.ticket.peer_id, said.ticket.addrs)
                publication, size = await self._fetch(ticket, delta.size, place)
                fetched += size
                if [file.path for file in publication.manifest.files] != [DELTA_NAME]:
                    raise IntegrityError("what was announced as a delta of weights is none")
                shelf.add_delta(said.sequence, publication)
                files.append(place / DELTA_NAME)
            await trio.to_thread.run_sync(
                _apply, shelf.weights(base), files, shelf.weights(said.sequence)
            )
        except (LatticaError, TimeoutError) as error:
            logger.info("no delta to version %d of %s: %s", said.version, self.channel, error)
        return fetched


def _apply(base: Path, deltas: Sequence[Path], made: Path) -> None:
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base, made)
        with made.open("r+b") as file:
            memory = memoryview(mmap.mmap(file.fileno(), 0))
            for delta in deltas:
                apply_delta(delta.read_bytes(), memory)
    except OSError as error:
        raise storage_error(error, made) from None
