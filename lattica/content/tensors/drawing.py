"""Tensors from all who have some of them at once, verified, into memory: no directory between."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

import trio

from lattica.content.download.finding import FoundManifest
from lattica.content.download.obtaining import Changes, Obtaining, Surroundings
from lattica.content.download.options import FetchOptions
from lattica.content.download.plan import Plan, Span
from lattica.content.download.providers.contact import Contact, Retries
from lattica.content.errors import ContentError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.tensor_files.safetensors_header import Tensor
from lattica.content.protocol import MAX_SPAN_BYTES
from lattica.content.publish.served import Served
from lattica.content.swarm.providers import ProviderFinder
from lattica.content.tensors.placing import Placing
from lattica.nat.base.limits.pace import Pace
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

_HURRY_AFTER = 2.0
"""Seconds that the next tensor waits for a chunk before it is asked for ahead of others."""


class _InMemory:
    """What :class:`Obtaining` is told to keep: chunks in the memory of their tensors."""

    finished = False  # there may be more to ask for

    def __init__(self, placing: Placing) -> None:
        self._placing = placing
        self.lacks = placing.lacks
        self.write = placing.write

    @property
    def missing(self) -> list[int]:
        return self._placing.missing

    def add(self, numbers: Iterable[int], *, fetched: bool) -> None:
        self._placing.arrived(numbers)

    def lose(self, output: int, numbers: Iterable[int]) -> None:
        """Nobody else writes to this memory."""

    def take_ready(self) -> list[int]:
        return []  # there are no files

    def finish(self, output: int, checkpoint: Callable[[], None]) -> None:
        """There are no files."""

    def disturbed(self) -> Sequence[int]:
        return ()


class _NotShown:
    """What is in memory is not kept, so that nobody is told of it."""

    def add(self, number: int) -> None:
        pass


class TensorDraw:
    """Obtains the tensors of a :class:`Placing` while :meth:`run` runs, for one reader."""

    def __init__(
        self,
        node: Host,
        cid: Cid,
        found: FoundManifest,
        options: FetchOptions,
        finder: ProviderFinder | None,
        find_more: Callable[[], Awaitable[Sequence[Contact]]],
        placing: Placing,
    ) -> None:
        self._placing = placing
        self._plan = Plan(cid, found.manifest)
        self._contacts = found.contacts
        self._here = found.here
        self._find_more = find_more
        self._changes = Changes()
        self._needed = trio.Event()
        """Not all of it is had from this node itself."""
        if self._here is None:
            self._needed.set()
        self._failure: Exception | None = None
        around = Surroundings(
            node,
            options,
            Retries(options),
            Pace(options.rate),
            finder,
            shares=False,
            on_chunks=self._changes.tell,
            on_file=_ignore,
            on_retry=_ignore,
        )
        kept = _InMemory(placing)
        self._obtaining = Obtaining(around, self._plan, kept, kept, _NotShown(), on_demand=True)

    async def run(self) -> None:
        """Obtain until it is cancelled, or nobody is left to ask: :meth:`next` raises it then."""
        try:
            await self._needed.wait()
            await self._obtaining.run(self._contacts)
        except Exception as error:
            self._failure = error
        finally:
            self._failure = self._failure or ContentError("its tensors are obtained no more")
            self._changes.tell()

    async def next(self) -> tuple[Tensor, memoryview] | None:
        """The next tensor, as soon as it is whole; None: that was the last.

        Raises what :func:`~lattica.content.fetch` does.
        """
        placing = self._placing
        waiting_since = trio.current_time()
        while True:
            if self._here is not None:
                await self._read_here(self._here)
            else:
                self._obtaining.ask(placing.ask())
            one = placing.take()
            if one is not None or placing.is_finished:
                return one
            if self._here is not None:
                continue
            if self._failure is not None:
                raise self._failure
            awaited = placing.awaited
            if awaited is not None and trio.current_time() - waiting_since > _HURRY_AFTER:
                self._obtaining.hurry(awaited)
                waiting_since = trio.current_time()
            await self._changes.wait(_HURRY_AFTER)

    async def _read_here(self, here: Served) -> None:
        """A little more of what this node serves itself; the rest is obtained if that fails."""
        spans = list(self._plan.spans(self._placing.ask(MAX_SPAN_BYTES)))
        for index, span in enumerate(spans):
            try:
                await trio.to_thread.run_sync(self._copy, here, span)
            except (ContentError, OSError) as error:
                self._here = None
                self._contacts = self._contacts or tuple(await self._find_more())
                if not self._contacts:
                    raise ContentError(f"what is published here cannot be read: {error}") from error
                logger.warning("what is published here cannot be read: %s", error)
                self._needed.set()
                self._obtaining.ask(number for left in spans[index:] for number in left.numbers)
                return
            self._placing.arrived(span.numbers)

    def _copy(self, here: Served, span: Span) -> None:
        data = here.read_span(span.first, span.count)
        self._placing.write(span.first, span.count, data, "this node")


def _ignore(*_: object) -> None:
    """Nobody is told."""


async def drawn(draw: TensorDraw) -> AsyncGenerator[tuple[Tensor, memoryview], None]:
    """All tensors of a draw, which runs until the generator is closed.

    It runs beside the generator, since tasks and scopes that a generator has opened must not be
    open while it waits to be asked for more.
    """
    scope, ended = trio.CancelScope(), trio.Event()

    async def run() -> None:
        try:
            with scope:
                await draw.run()
        finally:
            ended.set()

    trio.lowlevel.spawn_system_task(run, name=draw.run)
    try:
        while (one := await draw.next()) is not None:
            yield one
    finally:
        scope.cancel()
        with trio.CancelScope(shield=True):
            await ended.wait()
