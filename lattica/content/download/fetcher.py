"""Fetching: from a ticket to verified files on disk.

The order of events: the manifest is fetched and checked against its content id; what lies on
disk already is hashed; the rest is asked for on one stream with tens of MiB in flight; worker
threads compare each chunk with its hash and only then write it; complete files are read back,
synced and renamed. What others have removed or changed on disk meanwhile is fetched again. A
lost connection is made anew and the fetch goes on where it was.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

import trio

from lattica.content.download.former import check_deletion, chosen, tidy
from lattica.content.download.ledger import Ledger
from lattica.content.download.local_files import LocalChunk, find_elsewhere, find_local_files
from lattica.content.download.local_names import check_names, check_tensors_stay
from lattica.content.download.obstacles import check_obstacles
from lattica.content.download.partial import PartialFiles
from lattica.content.download.plan import Plan, Span
from lattica.content.errors import (
    ContentError,
    ContentNotFoundError,
    IntegrityError,
    TicketError,
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
    Throttle,
)
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import decode_manifest
from lattica.content.manifest.manifest import Manifest
from lattica.content.protocol import PROTOCOL, Begun, Body, ContentClientCore, Refusal, Refused
from lattica.content.ticket import Ticket
from lattica.nat.base.checks import require, require_seconds, require_texts, require_types
from lattica.nat.base.errors import (
    ConnectionClosedError,
    DialError,
    IncompleteReadError,
    NotConnectedError,
    StreamClosedError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.nat.base.exception_groups import single_error
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.base.net.addresses import with_peer
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_IN_FLIGHT = 1024
"""Requests. Their bytes must fit the stream's buffers, or both sides could wait to send."""
_VERIFY_UNIT = 32
"""Chunks hashed or copied in one visit to a thread, when a fetch is taken up again."""
_FINISH_THREADS = 2
_LONGEST_DELAY = 15.0


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How a fetch behaves. Bytes and seconds."""

    window: int = 32 * 1024 * 1024
    """Bytes asked for and not received. Costs no memory here; keeps long links busy."""
    verify_threads: int = 2
    queued_spans: int = 4
    """Received requests (of at most 1 MiB) that may wait for a thread."""
    stalled_after: float = 60.0
    """Time without a byte after which the connection counts as lost."""
    least_rate: int = 1024
    """Bytes a second that a provider has to send in that time; a slower one counts as lost."""
    give_up_after: float = 300.0
    """Time without a verified chunk after which a lost connection becomes an error."""
    first_delay: float = 0.5
    """Pause before a lost connection is made anew; doubles up to 15 s while nothing comes."""
    delete_former: bool = False
    """When all is there, remove the files in the directory that a former fetch into it has written,
    nobody has changed since, and that are not part of this; before, those of them that lie where a
    file of this, or its directory, belongs. For a whole published directory only."""
    delete_matching: tuple[str, ...] = ()
    """Remove others that are not part of this too: those whose name, or path within the directory,
    matches one of these globs (as in `fnmatch`, with case). Not in directories below that other
    fetches were into."""
    replace_tensors: bool = False
    """A file of a selection may replace one that has tensors which are not selected, for instance
    the whole file or another selection of it. Without it that is an error before anything is
    fetched."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("window", "verify_threads", "queued_spans"):
            value = getattr(self, name)
            require(isinstance(value, int) and value > 0, name, "a positive number", value)
        for name in ("stalled_after", "give_up_after", "first_delay"):
            require_seconds(name, getattr(self, name))
        require_texts("delete_matching", self.delete_matching)
        for pattern in self.delete_matching:
            inside = pattern and not pattern.startswith("/") and ".." not in pattern.split("/")
            what = "globs of names or of paths within the directory, without '..'"
            require(bool(inside), "delete_matching", what, pattern)


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A finished fetch."""

    cid: Cid
    name: str
    paths: tuple[Path, ...]
    """All files, in the manifest's order."""
    bytes_total: int
    """Bytes of these files."""
    bytes_fetched: int
    """Bytes that came over the network in this run."""
    seconds: float
    """From the start to the last file synced to disk."""
    other_files: tuple[Path, ...] = ()
    """Files in the directory that are not part of this, of former fetches or with an ending that
    files of this have. Empty unless a whole directory was published and fetched."""
    former_files: tuple[Path, ...] = ()
    """Those of them that `delete_former` would remove."""
    removed_files: tuple[Path, ...] = ()
    """Those that were removed."""
    directory_cut: bool = False
    """There are more files in the directory than are looked at, so that these are not all."""


class _StalledError(ContentError):
    """The provider has sent nothing for too long."""


class _JoinedWrongError(ContentError):
    """The beginning of an answer and its rest, from two streams, do not make what was asked for."""


class _BusyError(ContentError):
    """The provider serves too many others."""


_JOINED_WRONG = 2
"""Times that parts of two streams may be wrong together; then all is to come on one stream."""
_RELAYED_WINDOW = 4 * 1024 * 1024
"""Bytes under way at most through a relay: there may be a better path soon."""
_RETRIED = (
    ConnectionClosedError,
    DialError,
    IncompleteReadError,
    NotConnectedError,
    StreamClosedError,
    StreamResetError,
    _BusyError,
    _JoinedWrongError,
    _StalledError,
)


def _refused(answer: Refused, ticket: Ticket) -> NoReturn:
    # The message is a stranger's text: quoted, it cannot drive the terminal.
    detail = repr(answer.message[:200])
    peer = ticket.peer_id
    if answer.code is Refusal.NOT_FOUND:
        raise ContentNotFoundError(
            f"peer {peer} does not serve {ticket.cid}; is `lattica publish` still running "
            "there, and is this the ticket that it printed last?"
        )
    if answer.code is Refusal.CHANGED:
        raise ContentError(
            f"peer {peer} has changed a file since it made the ticket ({detail}); "
            "ask for a new ticket"
        )
    if answer.code is Refusal.BUSY:
        raise _BusyError(f"peer {peer} serves too many downloads ({detail})")
    raise ContentError(f"peer {peer} cannot serve this: {detail}")


@dataclass(slots=True)
class _Kept:
    """What came of an answer before its stream broke: the next one brings only the rest.

    A relay may cut a circuit after less than one answer, and that must not be for nothing.
    """

    manifest: Begun | None = None
    span: tuple[Span, Begun] | None = None
    wrong_manifests: int = 0
    """How often what two streams brought of it was wrong together."""
    wrong_chunks: Counter[int] = field(default_factory=Counter)
    """The same of chunks, by number."""

    def doubts(self, span: Span) -> bool:
        """Whether a span has to come on one stream, which shows whose fault it is."""
        numbers = range(span.first, span.first + span.count)
        return bool(self.wrong_chunks) and any(
            self.wrong_chunks[number] >= _JOINED_WRONG for number in numbers
        )

    def spans(self, plan: Plan, missing: list[int]) -> Iterator[Span]:
        """All that is to be asked for, what has begun first."""
        if self.span is not None:
            span, _ = self.span
            numbers = set(range(span.first, span.first + span.count))
            if numbers.issubset(missing):
                yield span
                missing = [number for number in missing if number not in numbers]
            else:
                self.span = None
        yield from plan.spans(missing)


class _Link:
    """One stream to the provider, and what is expected from it."""

    def __init__(self, stream: Stream, ticket: Ticket, options: FetchOptions, kept: _Kept) -> None:
        self._kept = kept
        self.continued: Span | None = None
        """What another stream had begun to bring."""
        self._waiting: deque[Span] = deque()
        self._stream = stream
        self._ticket = ticket
        self._options = options
        self._came, self._waited = 0, 0.0
        """Bytes that have come, and seconds that were waited for them."""
        self._core = ContentClientCore()

    async def _receive(self) -> list[memoryview]:
        """Wait for bytes; return the answers that they complete."""
        began = trio.current_time()
        with trio.move_on_after(self._options.stalled_after) as scope:
            count = await self._stream.receive_into(self._core.buffer())
            if not count:
                self._core.finish()
                raise IncompleteReadError("the provider ended the stream")
        if scope.cancelled_caught:
            reason = (
                f"peer {self._ticket.peer_id} has sent nothing for "
                f"{self._options.stalled_after:.0f} s"
            )
            self._stream.leave_path(reason)
            raise _StalledError(reason)
        self._check_rate(count, trio.current_time() - began)
        bodies = []
        for answer in self._core.received(count):
            if isinstance(answer, Body):
                bodies.append(answer.data)
            else:
                _refused(answer, self._ticket)
        return bodies

    def _check_rate(self, count: int, waited: float) -> None:
        """So many bytes have come after a wait; only waiting counts, and not what is done here.

        Raises :class:`_StalledError` for a provider that trickles.
        """
        self._came += count
        self._waited += waited
        patience = self._options.stalled_after
        if self._waited < patience:
            return
        if self._came < self._options.least_rate * self._waited:
            reason = (
                f"peer {self._ticket.peer_id} has sent no more than {self._came} bytes in "
                f"{self._waited:.0f} s"
            )
            self._stream.leave_path(reason)
            raise _StalledError(reason)
        self._came, self._waited = 0, 0.0

    def recycle(self, data: memoryview) -> None:
        """Take back the memory of an answer."""
        self._core.recycle(data)

    async def manifest(self) -> bytes:
        """Fetch the bytes of the ticket's manifest and check their hash."""
        request = self._core.request_manifest(self._ticket.cid, self._kept.manifest)
        try:
            await self._stream.send_all(request)
            while not (bodies := await self._receive()):
                pass
        except _RETRIED:
            if self._kept.wrong_manifests < _JOINED_WRONG:
                self._kept.manifest = self._core.begun or self._kept.manifest
            raise
        continued, self._kept.manifest = self._kept.manifest is not None, None
        data = bytes(bodies[0])
        if Cid.of(data) != self._ticket.cid:
            if continued:
                self._kept.wrong_manifests += 1
                raise _JoinedWrongError(
                    "what two streams brought of the manifest is wrong together"
                )
            raise IntegrityError(
                f"peer {self._ticket.peer_id} has sent a manifest that is not "
                f"{self._ticket.cid}; do not trust this provider"
            )
        self._kept.wrong_manifests = 0
        return data

    async def spans(
        self, spans: Iterator[Span], sink: trio.MemorySendChannel[tuple[Span, memoryview]]
    ) -> None:
        """Ask for all spans, keeping the window full, and pass on what comes.

        Asks for no more when there is a better path, and returns when what was asked for is here.
        """
        window = self._options.window
        if self._stream.is_relayed:
            window = min(window, _RELAYED_WINDOW)
        waiting = self._waiting
        in_flight = 0
        while True:
            # Refilled a quarter at a time: one small frame for many requests.
            if in_flight <= window - window // 4:
                requests = bytearray()
                while (
                    in_flight < window
                    and len(waiting) < _MAX_IN_FLIGHT
                    and not self._stream.is_superseded
                ):
                    span = next(spans, None)
                    if span is None:
                        break
                    begun = None
                    if self._kept.span is not None and self._kept.span[0] is span:
                        begun = self._kept.span[1]
                        self.continued = span
                    requests += self._core.request_span(
                        self._ticket.cid, span.first, span.count, span.size, begun
                    )
                    waiting.append(span)
                    in_flight += span.size
                if requests:
                    await self._stream.send_all(bytes(requests))
            if not waiting:
                return
            for data in await self._receive():
                span = waiting.popleft()
                in_flight -= span.size
                self._kept.span = None  # the first answer is whole
                await sink.send((span, data))

    def keep(self) -> bool:
        """The stream is broken: keep what came of an answer. Returns whether that is more.

        Nobody knows yet whether it is right, so that it is no progress.
        """
        begun = self._core.begun
        if begun is None or not self._waiting or self._kept.doubts(self._waiting[0]):
            return False
        before, self._kept.span = self._kept.span, (self._waiting[0], begun)
        return before is None or before[1].filled < begun.filled


class _Fetch:
    """One call of :func:`fetch`."""

    def __init__(
        self,
        node: Host,
        ticket: Ticket,
        out_dir: Path,
        progress: FetchCallback | None,
        options: FetchOptions,
    ) -> None:
        self._node = node
        self._ticket = ticket
        self._out_dir = out_dir
        self._callback = progress
        self._options = options
        self._throttle = Throttle()
        self._meter = RateMeter(trio.current_time())
        self._finish_limiter = trio.CapacityLimiter(_FINISH_THREADS)
        self._last_gain = trio.current_time()
        self._kept = _Kept()
        self._more_kept = False
        """The last connection has brought bytes that the next one need not bring."""
        self._connected = False
        """A connection has succeeded once."""
        self._serving = False
        """The provider has sent the manifest."""
        self._counting = False
        """There is a ledger."""
        self._plan: Plan
        self._ledger: Ledger
        self._files: PartialFiles

    def _emit(self, event: FetchEvent) -> None:
        if self._callback is not None:
            self._callback(event)

    def _emit_progress(self, *, at_once: bool = False) -> None:
        now = trio.current_time()
        if at_once or self._throttle.ready(now):
            rate = self._meter.update(now, self._ledger.bytes_fetched)
            ledger = self._ledger
            self._emit(
                FetchProgress(ledger.bytes_done, self._plan.size, ledger.bytes_fetched, rate)
            )

    def _emit_done(self, output: int, *, reused: bool) -> None:
        path, size = self._files.target(output), self._plan.outputs[output].size
        done = self._ledger.bytes_done
        self._emit(FileDone(path, size, reused, bytes_done=done, bytes_total=self._plan.size))

    # --- the whole ---

    async def run(self, tensors: str | None) -> FetchResult:
        began = trio.current_time()
        manifest = await self._get_manifest()
        self._plan = await trio.to_thread.run_sync(Plan, self._ticket.cid, manifest, tensors)
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
        self._files = PartialFiles(plan, self._out_dir, may_go)
        with self._files as files:
            local = await find_local_files(plan, self._out_dir, self._checked)
            files.verified = dict(local.complete)
            complete = frozenset(local.complete)
            self._ledger = await trio.to_thread.run_sync(Ledger, plan, complete)
            self._counting = True
            for output in sorted(local.complete):
                self._emit_done(output, reused=True)
            await self._take_up_again(local.chunks)
            self._meter = RateMeter(trio.current_time())
            self._emit_progress(at_once=True)
            with single_error():
                await self._obtain_all()
            self._emit_progress(at_once=True)
            await trio.to_thread.run_sync(files.remove)
        seconds = trio.current_time() - began
        beside = await trio.to_thread.run_sync(tidy, plan, self._out_dir, may_go, files.removed)
        return FetchResult(
            plan.cid,
            manifest.name,
            tuple(files.target(output) for output in range(len(plan.outputs))),
            plan.size,
            self._ledger.bytes_fetched,
            seconds,
            beside.others,
            beside.former,
            beside.removed,
            beside.cut,
        )

    def _checked(self, done: int, total: int) -> None:
        if done == total or self._throttle.ready(trio.current_time()):
            self._emit(Checking(done, total))

    async def _get_manifest(self) -> Manifest:
        attempt: Callable[[_Link], Awaitable[bytes]] = _Link.manifest
        data = await self._with_link(attempt)
        self._serving = True
        return await trio.to_thread.run_sync(decode_manifest, data)

    # --- what is there already ---

    async def _take_up_again(self, local: dict[int, LocalChunk]) -> None:
        """Count what an earlier run has written, and copy what other files have."""
        files, ledger = self._files, self._ledger
        named = await trio.to_thread.run_sync(files.journaled)
        missing = set(ledger.missing)
        named = [number for number in named if number in missing]
        total = sum(self._plan.manifest.chunk(number).length for number in named)
        done = 0
        for start in range(0, len(named), _VERIFY_UNIT):
            unit = named[start : start + _VERIFY_UNIT]
            good = await trio.to_thread.run_sync(files.verify, unit)
            ledger.add(good, fetched=False)
            done += sum(self._plan.manifest.chunk(number).length for number in unit)
            self._checked(done, total)
        await trio.to_thread.run_sync(files.check_space)
        wanted = [number for number in ledger.missing if number not in local]
        if wanted:
            complete = frozenset(files.verified)
            elsewhere = await find_elsewhere(
                self._plan, self._out_dir, wanted, complete, self._checked
            )
            local = {**elsewhere, **local}
        copied = [number for number in ledger.missing if number in local]
        for start in range(0, len(copied), _VERIFY_UNIT):
            unit = copied[start : start + _VERIFY_UNIT]
            good = await trio.to_thread.run_sync(self._copy, unit, local)
            ledger.add(good, fetched=False)
            self._emit_progress()

    def _copy(self, numbers: list[int], local: dict[int, LocalChunk]) -> list[int]:
        """Copy chunks out of existing files; blocking. Returns those that could be had."""
        copied = []
        for number in numbers:
            data = local[number].read()
            try:
                self._files.write(number, 1, data, "this disk")
            except IntegrityError:
                continue  # it was written to since it was hashed
            copied.append(number)
        return copied

    # --- what is not ---

    async def _obtain_all(self) -> None:
        self._last_gain = trio.current_time()  # hashing what is here may have taken hours
        while True:
            async with trio.open_nursery() as nursery:
                # Only now, since a finished file takes the place of one that was copied from.
                self._finish_ready(nursery)

                async def transfer(link: _Link, finishing: trio.Nursery = nursery) -> None:
                    await self._transfer(link, finishing)

                while not self._ledger.finished:
                    await self._with_link(transfer)
            # Finishing may have found that something is gone, and so may a last look at all.
            disturbed = await trio.to_thread.run_sync(self._files.disturbed)
            for output in disturbed:
                self._ledger.lose(output, ())
            if not disturbed and not self._ledger.missing:
                return

    async def _transfer(self, link: _Link, finishing: trio.Nursery) -> None:
        """Obtain all missing chunks over one stream. What came before an error is kept."""
        spans = self._kept.spans(self._plan, self._ledger.missing)
        send, receive = trio.open_memory_channel[tuple[Span, memoryview]](
            self._options.queued_spans
        )
        lost: Exception | None = None
        with single_error():
            async with trio.open_nursery() as nursery:
                for _ in range(self._options.verify_threads):
                    nursery.start_soon(self._verify, link, receive.clone(), finishing)
                receive.close()
                with send:
                    try:
                        await link.spans(spans, send)
                    except _RETRIED as error:
                        lost = error
                        self._more_kept = link.keep()
        if lost is not None:
            raise lost

    async def _verify(
        self,
        link: _Link,
        spans: trio.MemoryReceiveChannel[tuple[Span, memoryview]],
        finishing: trio.Nursery,
    ) -> None:
        source = f"peer {self._ticket.peer_id}"
        async with spans:
            async for span, data in spans:
                try:
                    await trio.to_thread.run_sync(
                        self._files.write, span.first, span.count, data, source
                    )
                except IntegrityError:
                    if span is not link.continued:
                        raise
                    # Of two streams: the first may have been broken, not the provider.
                    logger.info("what two streams brought is wrong together; asking again")
                    self._kept.wrong_chunks.update(range(span.first, span.first + span.count))
                    continue
                link.recycle(data)
                self._last_gain = trio.current_time()
                numbers = range(span.first, span.first + span.count)
                if self._kept.wrong_chunks:
                    for number in numbers:
                        del self._kept.wrong_chunks[number]
                self._ledger.add(numbers, fetched=True)
                self._finish_ready(finishing)
                self._emit_progress()

    def _finish_ready(self, nursery: trio.Nursery) -> None:
        for output in self._ledger.take_ready():
            nursery.start_soon(self._finish, output, nursery)

    async def _finish(self, output: int, nursery: trio.Nursery) -> None:
        lost = await trio.to_thread.run_sync(
            self._files.finish,
            output,
            trio.from_thread.check_cancelled,
            limiter=self._finish_limiter,
        )
        if lost is None:
            self._emit_done(output, reused=False)
        else:
            self._ledger.lose(output, lost)
            self._finish_ready(nursery)

    # --- connecting ---

    async def _with_link(self, use: Callable[[_Link], Awaitable[T]]) -> T:
        """Run `use` on a stream to the provider, again and again while connections get lost.

        The first connection is tried once: a wrong address should not be waited for.
        """
        failures = 0
        while True:
            gain, self._more_kept = self._last_gain, False
            try:
                async with await self._open() as stream:
                    return await use(_Link(stream, self._ticket, self._options, self._kept))
            except _RETRIED as error:
                if not self._connected:
                    raise
                lost: Exception = error
            except (ContentNotFoundError, UnsupportedProtocolError) as error:
                if not self._serving:
                    raise
                lost = error  # it served this before: it is being started again
            failures = 1 if self._more_kept or self._last_gain != gain else failures + 1
            idle = trio.current_time() - self._last_gain
            if idle > self._options.give_up_after:
                self._give_up(idle, lost)
            pause = pause_after(
                failures, self._options.first_delay, _LONGEST_DELAY, random.Random()
            )
            logger.info("lost the provider: %s; trying again in %.1f s", lost, pause)
            done, total = (self._ledger.bytes_done, self._plan.size) if self._counting else (0, 0)
            self._emit(Retrying(str(lost), pause, bytes_done=done, bytes_total=total))
            await trio.sleep(pause)

    def _give_up(self, idle: float, lost: Exception) -> NoReturn:
        peer, kept = self._ticket.peer_id, self._kept
        if kept.wrong_manifests or kept.wrong_chunks:
            raise IntegrityError(
                f"peer {peer} has sent bytes that are wrong together, and has broken off since: "
                f"{lost}; do not trust this provider"
            ) from lost
        raise ContentError(
            f"gave up after {idle:.0f} s without progress with peer {peer}: {lost}. What has "
            "arrived is kept; the same command goes on from there"
        ) from lost

    async def _open(self) -> Stream:
        # The addresses each time: the node forgets them after a while.
        peer_id = self._ticket.peer_id
        addrs = [with_peer(address, peer_id) for address in self._ticket.addrs]
        peer = await self._node.connect(addrs or peer_id)
        stream = await self._node.open_stream(peer, PROTOCOL)
        self._connected = True
        return stream


async def fetch(
    node: Host,
    ticket: Ticket | str,
    out_dir: Path | str,
    *,
    progress: FetchCallback | None = None,
    tensors: str | None = None,
    options: FetchOptions | None = None,
) -> FetchResult:
    """Fetch what a ticket names into `out_dir`, which is made if necessary.

    Every chunk is verified before it is written, every file appears under its name only when
    it is complete and synced, and replaces what had that name. If the call fails, is cancelled,
    or the process dies, the same call goes on from what was written; files that are complete
    and chunks that lie in any file of the directory are used instead of being fetched.

    `progress` is called with :class:`~lattica.content.Progress`, and with nothing else.

    `tensors` is a glob (as in `fnmatch`, with case; a backslash before `*`, `?`, a bracket or a
    backslash means that character): only safetensors files that have matching tensors are
    written, and only with these. One that lies there with other tensors is not replaced, unless the
    options say so (`replace_tensors`).

    Memory: some MiB, and about 200 bytes a chunk of usually 1 MiB. Disk and hashing happen in
    worker threads; a slow disk slows the provider down through the stream's backpressure.

    Raises:
        TicketError: it is no ticket.
        DialError: the provider cannot be reached at first.
        ContentNotFoundError: the provider does not have it.
        IntegrityError: bytes are wrong; names the peer that sent them.
        RemoteProtocolError: the provider breaks the protocol.
        StorageError: the disk is full and the like; with advice.
        ContentError: the rest.
    """
    parsed = Ticket.parse(ticket) if isinstance(ticket, str) else ticket
    if not isinstance(parsed, Ticket):
        raise TicketError(f"pass a Ticket or its text, not {ticket!r:.100}")
    if out_dir == "":  # which Path takes as the current directory
        raise ContentError("name a directory to fetch into; '.' is this one")
    work = _Fetch(node, parsed, Path(out_dir), progress, options or FetchOptions())
    return await work.run(tensors)
