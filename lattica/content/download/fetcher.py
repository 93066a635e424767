"""Fetching: from a ticket to verified files on disk.

The order of events: the manifest is fetched and checked against its content id; what lies on
disk already is hashed; the rest is drawn from all providers (:mod:`.obtaining`), each chunk
compared with its hash before it is written; complete files are read back, synced and renamed. What
others have removed or changed on disk meanwhile is fetched again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import trio

from lattica.content.download.finding import ManifestSource, named_by
from lattica.content.download.ledger import Ledger
from lattica.content.download.local.entries import make_entries
from lattica.content.download.local.files import LocalChunk, find_elsewhere, find_local_files
from lattica.content.download.local.former import check_deletion, chosen, tidy
from lattica.content.download.local.names import check_names, check_tensors_stay
from lattica.content.download.local.obstacles import check_obstacles
from lattica.content.download.obtaining import Obtaining, Surroundings
from lattica.content.download.options import FetchOptions, FetchResult
from lattica.content.download.partial.journaled import count_journaled
from lattica.content.download.partial.partial_files import PartialFiles
from lattica.content.download.plan import Plan
from lattica.content.download.providers.contact import Retries
from lattica.content.download.ranges import ByteRange
from lattica.content.download.shared import SharedFetch
from lattica.content.errors import (
    ContentError,
    IntegrityError,
)
from lattica.content.events import (
    Checking,
    FetchCallback,
    FetchEvent,
    FetchProgress,
    FetchStarted,
    FileDone,
    RateMeter,
    Retrying,
    Sharing,
    Throttle,
)
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.tensor_files.shards import check_index, is_index
from lattica.content.publish.service import ContentService
from lattica.content.swarm.messages import Member
from lattica.content.swarm.providers import ProviderFinder
from lattica.content.ticket import Ticket
from lattica.nat.base.limits.pace import Pace
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

_ReadChunk: TypeAlias = Callable[[int], bytes]
_COPY_UNIT = 32
"""Chunks copied in one visit to a thread, when a fetch is taken up again."""
_LINGERING = 0.5
"""As a share of the time that a fetch took, how long others are served on."""
_MOST_LINGERING = 10.0


class _Fetch:
    """One call of :func:`fetch`."""

    def __init__(
        self,
        node: Host,
        cid: Cid,
        named: Sequence[Member],
        out_dir: Path,
        progress: FetchCallback | None,
        options: FetchOptions,
        finder: ProviderFinder | None,
    ) -> None:
        self._node = node
        self._cid = cid
        self._not_here: ContentError | None = None
        """Why some of it could not be read."""
        self._out_dir = out_dir
        self._callback = progress
        self._options = options
        self._finder = finder
        self._pace = Pace(options.rate)
        self._retries = Retries(options)
        self._source = ManifestSource(
            node, cid, named, options, finder, pace=self._pace, retries=self._retries
        )
        self._throttle = Throttle()
        self._meter = RateMeter(trio.current_time())
        self._counting = False
        """There is a ledger."""
        self._plan: Plan
        self._ledger: Ledger
        self._files: PartialFiles
        self._obtaining: Obtaining | None = None

    def _emit(self, event: FetchEvent) -> None:
        if self._callback is not None:
            self._callback(event)

    def _emit_progress(self, *, at_once: bool = False) -> None:
        now = trio.current_time()
        if at_once or self._throttle.ready(now):
            ledger = self._ledger
            self._emit(
                FetchProgress(
                    ledger.bytes_done,
                    self._plan.size,
                    ledger.bytes_fetched,
                    self._meter.update(now, ledger.bytes_fetched),
                    self._obtaining.active_sources if self._obtaining else 0,
                )
            )

    def _emit_done(self, output: int, *, reused: bool) -> None:
        path, size = self._files.target(output), self._plan.outputs[output].size
        done = self._ledger.bytes_done
        self._emit(FileDone(path, size, reused, bytes_done=done, bytes_total=self._plan.size))

    # --- the whole ---

    async def run(self, tensors: str | None, ranges: Sequence[ByteRange]) -> FetchResult:
        began = trio.current_time()
        found = await self._source.find(
            lambda manifest: Plan(self._cid, manifest, tensors, ranges).lists(), self._emit_retry
        )
        manifest = found.manifest
        self._plan = await trio.to_thread.run_sync(Plan, self._cid, manifest, tensors, ranges)
        plan = self._plan
        may_go = None
        if self._options.delete_former or self._options.delete_matching:
            check_deletion(plan)
            may_go = chosen(self._options.delete_former, self._options.delete_matching)
        self._emit(
            FetchStarted(
                plan.cid,
                manifest.name,
                len(plan.outputs),
                plan.directories,
                bytes_total=plan.size,
            )
        )
        check_names(plan, self._out_dir)
        await trio.to_thread.run_sync(check_obstacles, plan, self._out_dir, may_go)
        if not self._options.replace_tensors:
            await trio.to_thread.run_sync(check_tensors_stay, plan, self._out_dir)
        self._files = files = PartialFiles(plan, self._out_dir, may_go)
        shared = SharedFetch(plan, files, found.encoded)
        with ExitStack() as stack:
            with files:
                await self._take_stock(shared)
                service = shared.serve(self._node, stack) if self._options.share else None
                around = self._surroundings(service)
                self._obtaining = obtaining = Obtaining(around, plan, self._ledger, files, shared)
                self._meter = RateMeter(trio.current_time())
                self._emit_progress(at_once=True)
                if self._not_here is not None and not found.contacts:
                    raise self._not_here
                try:
                    await obtaining.run(found.contacts)
                finally:
                    self._obtaining = None  # it has functions of this: freed at once, not by cycles
                self._emit_progress(at_once=True)
                await trio.to_thread.run_sync(make_entries, plan, self._out_dir)
                if plan.tensors is not None:
                    await trio.to_thread.run_sync(self._check_indexes)
                await trio.to_thread.run_sync(files.remove)
            seconds = trio.current_time() - began
            beside = await trio.to_thread.run_sync(tidy, plan, self._out_dir, may_go, files.removed)
            if service is not None:
                await self._serve_on(service, min(_LINGERING * seconds, _MOST_LINGERING))
        return FetchResult(
            plan.cid,
            manifest.name,
            tuple(files.target(output) for output in range(len(plan.outputs))),
            plan.size,
            self._ledger.bytes_fetched,
            seconds,
            obtaining.sources,
            0 if service is None else service.bytes_sent[plan.cid],
            beside.others,
            beside.former,
            beside.removed,
            beside.cut,
            manifest,
        )

    async def _serve_on(self, service: ContentService, lingering: float) -> None:
        """Serve others when all is there."""
        plan, options = self._plan, self._options
        if options.share_for > 0:
            self._emit(Sharing(plan.size, plan.size, options.share_for))
            await trio.sleep(options.share_for)
        elif options.lingers and service.is_watched(plan.cid):
            self._emit(Sharing(plan.size, plan.size, lingering))
            await service.linger(plan.cid, lingering)

    def _check_indexes(self) -> None:
        for number, output in enumerate(self._plan.outputs):
            if is_index(output.path):
                check_index(self._plan.manifest, output.path, self._files.target(number))

    async def _take_stock(self, shared: SharedFetch) -> None:
        """See what is here already; make the ledger."""
        files, plan = self._files, self._plan
        local = await find_local_files(plan, self._out_dir, self._checked)
        files.verified = dict(local.complete)
        complete = frozenset(local.complete)
        self._ledger = await trio.to_thread.run_sync(Ledger, plan, complete)
        self._counting = True
        for output in sorted(local.complete):
            self._emit_done(output, reused=True)
        await self._take_up_again(local.chunks)
        shared.add_counted(self._ledger)

    def _surroundings(self, service: ContentService | None) -> Surroundings:
        def on_chunks() -> None:
            self._emit_progress()
            if service is not None:
                service.tell()

        def on_retry(error: Exception, pause: float) -> None:
            self._emit_retry(error, pause)

        return Surroundings(
            self._node,
            self._options,
            self._retries,
            self._pace,
            self._finder,
            service is not None,
            on_chunks,
            lambda output: self._emit_done(output, reused=False),
            on_retry,
        )

    def _checked(self, done: int, total: int) -> None:
        if done == total or self._throttle.ready(trio.current_time()):
            self._emit(Checking(done, total))

    def _emit_retry(self, error: Exception, pause: float) -> None:
        done, total = (self._ledger.bytes_done, self._plan.size) if self._counting else (0, 0)
        self._emit(Retrying(str(error), pause, bytes_done=done, bytes_total=total))

    # --- what is there already ---

    async def _take_up_again(self, local: dict[int, LocalChunk]) -> None:
        """Count what an earlier run has written, and copy what other files have."""
        files, ledger = self._files, self._ledger
        await count_journaled(self._plan, files, ledger, self._checked)
        await trio.to_thread.run_sync(files.check_space)
        wanted = [number for number in ledger.missing if number not in local]
        if wanted:
            complete = frozenset(files.verified)
            elsewhere = await find_elsewhere(
                self._plan,
                self._out_dir,
                wanted,
                complete,
                self._checked,
                self._options.base,
            )
            local = {**elsewhere, **local}
        copied = [number for number in ledger.missing if number in local]
        await self._copy_all(copied, lambda number: local[number].read(), "this disk")
        here = self._source.here
        if here is not None:
            self._not_here = await self._copy_all(
                ledger.missing, lambda number: here.read_span(number, 1), "this node"
            )

    async def _copy_all(
        self, numbers: list[int], read: _ReadChunk, source: str
    ) -> ContentError | None:
        """Copy chunks that lie on this machine; returns why one could not be had."""
        failed: ContentError | None = None
        for start in range(0, len(numbers), _COPY_UNIT):
            unit = numbers[start : start + _COPY_UNIT]
            copied, error = await trio.to_thread.run_sync(self._copy, unit, read, source)
            self._ledger.add(copied, fetched=False)
            self._emit_progress()
            failed = error or failed
        return failed

    def _copy(
        self, numbers: list[int], read: _ReadChunk, source: str
    ) -> tuple[list[int], ContentError | None]:
        """Copy chunks, each of which is compared with its hash; blocking. Returns those that could
        be had, and why another could not."""
        copied = []
        failed: ContentError | None = None
        for number in numbers:
            try:
                data = read(number)
            except ContentError as error:
                failed = error
                continue
            except OSError as error:
                failed = ContentError(f"what is published here cannot be read: {error}")
                continue
            try:
                self._files.write(number, 1, data, source)
            except IntegrityError as error:
                failed = error  # it was written to since it was hashed
            else:
                copied.append(number)
        return copied, failed


async def fetch(
    node: Host,
    ref: Ticket | Cid | str,
    out_dir: Path | str,
    *,
    progress: FetchCallback | None = None,
    tensors: str | None = None,
    ranges: Sequence[ByteRange] = (),
    options: FetchOptions | None = None,
    finder: ProviderFinder | None = None,
) -> FetchResult:
    """Fetch what a ticket, or a content id, names into `out_dir`, which is made if necessary.

    It is drawn from all who have some of it: the peer of the ticket, peers that it names because
    they fetch the same, those that are connected, and those that `finder` knows. Rare pieces come
    first; a peer that is slow, silent or false loses its work to others. What this node publishes
    itself is read from there. What has come is served to
    others meanwhile, unless the options say otherwise.

    Every chunk is verified before it is written, every file appears under its name only when
    it is complete and synced, and replaces what had that name. If the call fails, is cancelled,
    or the process dies, the same call goes on from what was written; files that are complete
    and chunks that lie in any file of the directory are used instead of being fetched.

    `progress` is called with :class:`~lattica.content.Progress`, and with nothing else.

    `tensors` is a glob (as in `fnmatch`, with case; a backslash before `*`, `?`, a bracket or a
    backslash means that character): only safetensors and GGUF files that have matching tensors
    are written, and only with these, and the index of a sharded checkpoint as it was published,
    which has to agree with the shards. One that lies there with other tensors is not replaced,
    unless the options say so (`replace_tensors`).

    With `ranges` only these bytes are written, of each file one after the other, to a file that is
    named after them: `model.bin.0-1023,4096-8191`. Only chunks that have some of them are fetched.
    They cannot be combined with `tensors`.

    Memory: some MiB, and about 200 bytes a chunk of usually 1 MiB. Disk and hashing happen in
    worker threads; a slow disk slows the provider down through the stream's backpressure.

    Raises:
        TicketError: it is no ticket.
        DialError: the provider cannot be reached at first.
        ContentNotFoundError: the provider does not have it.
        SignatureError: it is not signed by whom the options name (`signed_by`).
        IntegrityError: bytes are wrong; names the peer that sent them.
        RemoteProtocolError: the provider breaks the protocol.
        StorageError: the disk is full and the like; with advice.
        ContentError: the rest.
    """
    if out_dir == "":  # which Path takes as the current directory
        raise ContentError("name a directory to fetch into; '.' is this one")
    if tensors is not None and ranges:
        raise ContentError("select tensors or ranges of bytes, not both")
    cid, named = named_by(ref)
    work = _Fetch(node, cid, named, Path(out_dir), progress, options or FetchOptions(), finder)
    return await work.run(tensors, tuple(ranges))
