"""The side that trains: versions of weights go out on a channel."""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import trio

from lattica.content.disk import storage_error
from lattica.content.manifest.manifest import Manifest
from lattica.content.publish.catalog import Publication, make_publication
from lattica.content.publish.service import ContentService, serving
from lattica.content.tensors.elements import StateDict
from lattica.content.ticket import Ticket
from lattica.content.weights.announcement import Announcement, Channel, DeltaRef
from lattica.content.weights.delta import Region, can_delta, make_delta
from lattica.content.weights.exchange import answering
from lattica.content.weights.options import PushedVersion, WeightOptions
from lattica.content.weights.shelf import (
    DELTA_NAME,
    PUBLICATION,
    Shelf,
    open_shelf,
    remove,
    weights_of,
)
from lattica.content.weights.state import element_bytes, layouts_equal, write_state
from lattica.dht.topics.service.topic import Topic
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess

if TYPE_CHECKING:
    from lattica.node import Node


class WeightPublisher(InProcess):
    """Publishes versions of weights: `async with WeightPublisher(node, "policy") as publisher:
    await publisher.push(model.state_dict())`.

    Others follow the channel as `PEER/NAME`, by :class:`~lattica.content.WeightSubscriber`. They
    help each other, so that a version leaves here about once, however many there are. What
    travels is what has changed: tensors, the 1 MiB blocks of them that differ, or, where few
    elements do, these (which needs numpy and zstandard, the extra `weights`).
    """

    def __init__(self, node: Node, name: str, options: WeightOptions | None = None) -> None:
        self._node = node
        self._options = options or WeightOptions()
        self.channel = Channel(node.peer_id, name)
        self._lock = trio.Lock()
        self._stack = AsyncExitStack()
        self._shelf: Shelf | None = None
        self._service: ContentService
        self._topic: Topic
        self._newest: tuple[int, Publication] | None = None
        """By its sequence."""
        self._deltas: list[DeltaRef] = []
        self._announcement = b""
        self.version = 0
        """Of what was pushed last."""

    def __repr__(self) -> str:
        return f"<WeightPublisher of {self.channel}, version {self.version}>"

    @property
    def bytes_sent(self) -> int:
        """Bytes of versions and deltas that are served now which have been sent since it began."""
        shelf = self._open_shelf()
        return sum(self._service.bytes_sent[publication.cid] for publication in shelf.catalog)

    async def __aenter__(self) -> WeightPublisher:
        async with AsyncExitStack() as stack:
            shelf = await stack.enter_async_context(open_shelf(self._options.directory))
            await trio.to_thread.run_sync(_clear, shelf)
            self._service = stack.enter_context(serving(self._node, shelf.catalog.get))
            stack.enter_context(answering(self._node, self.channel, lambda: self._announcement))
            self._topic = self._node.topic(self.channel.topic)
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            # Whoever follows the channel sees by it that the publisher is there, and asks.
            stack.enter_context(self._topic.subscribe(only=lambda _: False))
            nursery.start_soon(self._announce_again)
            self._shelf = shelf
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shelf = None
        await self._stack.__aexit__(exc_type, exc, traceback)

    def _open_shelf(self) -> Shelf:
        if self._shelf is None:
            raise LocalProtocolError("a WeightPublisher is used with `async with`")
        return self._shelf

    async def push(
        self, state: StateDict | Mapping[str, Any], *, version: int | None = None
    ) -> PushedVersion:
        """Publish a version: it is written down, cut and hashed, compared with the one before,
        served and announced.

        `state` has arrays of numpy, tensors of torch or :class:`RawTensor` by name; until the call
        returns they must not change. `version` (a training step, say) defaults to the last one and
        1, and has to be more than it. Several calls at once wait for each other. If cancelled, the
        version has not been published, or has.

        Raises:
            LocalProtocolError: the version is not newer, or something in `state` is no tensor.
            StorageError: the disk refuses; with advice.
        """
        shelf = self._open_shelf()
        async with self._lock:
            number = self.version + 1 if version is None else version
            if number <= self.version:
                raise LocalProtocolError(
                    f"version {number} is not newer than {self.version}, which was pushed last"
                )
            # By the clock: it ascends also when the publisher is started anew.
            last = 0 if self._newest is None else self._newest[0]
            sequence = max(last + 1, time.time_ns())
            publication = await self._write(shelf, sequence, state)
            delta = await self._make_delta(shelf, sequence, publication)
            self.version = number
            shelf.add(sequence, publication)
            self._newest = (sequence, publication)
            gone = self._keep(shelf)
            self._service.tell()
            await self._announce(sequence, publication)
            await trio.to_thread.run_sync(remove, gone)
        return PushedVersion(
            number,
            publication.cid,
            publication.manifest.size,
            None if delta is None else delta.size,
        )

    def _keep(self, shelf: Shelf) -> list[Path]:
        recently = time.time_ns() - int(self._options.linger * 1e9)
        return shelf.keep(self._options.keep, self._options.deltas, recently)

    async def _write(self, shelf: Shelf, sequence: int, state: StateDict) -> Publication:
        path = shelf.weights(sequence)

        def write() -> None:
            try:
                path.parent.mkdir(parents=True)
                write_state(path, state)
            except OSError as error:
                raise storage_error(error, path) from None

        try:
            await trio.to_thread.run_sync(write)
            return await make_publication(path, PUBLICATION)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(remove, [path.parent])
            raise

    async def _make_delta(
        self, shelf: Shelf, sequence: int, publication: Publication
    ) -> DeltaRef | None:
        """Write down what leads from the version before to this one, and serve it."""
        if self._newest is None or not self._options.deltas or not can_delta():
            return None
        former, base = self._newest
        if base.cid == publication.cid:
            return None
        paths = shelf.weights(former), shelf.weights(sequence)
        place = shelf.delta_directory(sequence)
        if not await trio.to_thread.run_sync(
            _write_delta, base.manifest, publication.manifest, *paths, place
        ):
            return None
        made = await make_publication(place / DELTA_NAME, PUBLICATION)
        delta = DeltaRef(base.cid, publication.cid, made.cid, made.manifest.size)
        shelf.add_delta(sequence, made)
        self._deltas = [*self._deltas, delta][-self._options.deltas :]
        return delta

    async def _announce(self, sequence: int, publication: Publication) -> None:
        """Say that this is the newest version, to all and to who asks from now on."""
        node = self._node
        ticket = Ticket.make(publication.cid, node.peer_id, node.addrs)
        size, deltas = publication.manifest.size, tuple(self._deltas)
        said = Announcement(self.channel, sequence, self.version, ticket, size, deltas)
        self._announcement = said.seal(node.identity)
        await self._topic.publish(self._announcement)

    async def _announce_again(self) -> None:
        while True:
            await trio.sleep(self._options.announce_every)
            if self._newest is not None and self._shelf is not None:
                gone = self._keep(self._shelf)
                await trio.to_thread.run_sync(remove, gone)
                # Addresses may have changed.
                await self._announce(*self._newest)


def _clear(shelf: Shelf) -> None:
    try:
        remove(shelf.leftovers())
    except OSError as error:
        raise storage_error(error, shelf.top) from None


def _write_delta(old: Manifest, new: Manifest, old_path: Path, new_path: Path, place: Path) -> bool:
    """Write the delta from one file to the other, if there is one that gains something."""
    (was, was_layout), (entry, layout) = weights_of(old), weights_of(new)
    if not layouts_equal(was_layout, layout):
        return False
    changed = [
        chunk
        for index, chunk in enumerate(entry.chunks)
        if chunk.digest != was.chunks.digest(index)
    ]
    units = element_bytes(layout, (chunk.offset for chunk in changed))
    regions = [Region(c.offset, c.length, unit) for c, unit in zip(changed, units, strict=True)]
    with old_path.open("rb") as before, new_path.open("rb") as after:
        delta = make_delta(
            memoryview(mmap.mmap(before.fileno(), 0, access=mmap.ACCESS_READ)),
            memoryview(mmap.mmap(after.fileno(), 0, access=mmap.ACCESS_READ)),
            regions,
        )
    if delta is None:
        return False
    try:
        place.mkdir()
        (place / DELTA_NAME).write_bytes(delta)
    except OSError as error:
        raise storage_error(error, place) from None
    return True
