"""Getting what is missing from all who have some of it at once, verified, and written.

One task for each provider asks for what the schedule has for it, on a stream that is made anew
when it breaks; a second one hears on another stream what the provider has. What comes is verified
by a few threads, whoever sent it. A provider of wrong bytes is asked no more; the fetch fails by
that only when nobody else is left.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from lattica.content.download.obtained import Progress, Shown, Target
from lattica.content.download.options import FetchOptions, FetchSource
from lattica.content.download.plan import Plan
from lattica.content.download.providers.contact import Contact, Retries
from lattica.content.download.providers.link import RETRIED, Arrived, Link
from lattica.content.errors import ContentError, ContentNotFoundError, IntegrityError
from lattica.content.swarm.candidates import Candidates
from lattica.content.swarm.messages import (
    HOLDINGS,
    MAX_MESSAGE,
    Has,
    HasMore,
    Hello,
    Member,
    Members,
    Message,
    Sending,
    decode_message,
    encode_hello,
)
from lattica.content.swarm.providers import ProviderFinder
from lattica.content.swarm.schedule import Schedule
from lattica.content.ticket import Ticket
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import (
    IncompleteReadError,
    LatticaError,
    RemoteProtocolError,
    UnsupportedProtocolError,
    renewed,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.pace import Pace
from lattica.nat.base.peer_log import peer_log
from lattica.nat.swarm.addresses.believed import believed
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

_FINISH_THREADS = 2
_FINISH_SMALL_THREADS = 8
"""For files of at most :data:`_SMALL` bytes: the disk syncs several in the time of one."""
_SMALL = 1024 * 1024
_LOOK = 0.5
"""Seconds between two looks at who does nothing."""
_WAIT = 0.25
"""Seconds after which a provider that has nothing to do looks again, whatever happens."""
_INTRODUCTION = 1.0
"""Seconds that a provider has to say what it has, before it is asked for something."""
_MAX_FAILURES = 3
"""In a row, of a provider that others have named."""
_CONNECTED_ASKED = 8
"""Peers that are connected anyway, and are asked whether they have it."""
_FIND_EVERY = 60.0
"""Seconds between two searches for providers."""
_STUCK_AFTER = 15.0
"""Seconds in which nobody has what is missing, after which a fetch whose provider was at fault
fails."""


class Changes:
    """Something that several tasks wait for, again and again."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def tell(self) -> None:
        """It has happened: wake all."""
        event, self._event = self._event, trio.Event()
        event.set()

    async def wait(self, timeout: float = _WAIT) -> None:
        """Until it happens next, or for so many seconds."""
        with trio.move_on_after(timeout):
            await self._event.wait()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a fetch works with, and whom it tells."""

    node: Host
    options: FetchOptions
    retries: Retries
    pace: Pace
    finder: ProviderFinder | None
    shares: bool
    on_chunks: Callable[[], object]
    """More is verified and written."""
    on_file: Callable[[int], object]
    """An output is complete."""
    on_retry: Callable[[Exception, float], object]
    """The last provider was lost, and is tried again after so many seconds."""


class Obtaining:
    """Everything between knowing what is missing and having it."""

    def __init__(
        self,
        surroundings: Surroundings,
        plan: Plan,
        ledger: Progress,
        files: Target,
        shared: Shown,
        *,
        on_demand: bool = False,
    ) -> None:
        """With `on_demand` nothing is obtained but what :meth:`ask` is called for, and :meth:`run`
        does not end."""
        self._asked: set[int] | None = set() if on_demand else None
        """Chunks that are to be had; None: all."""
        self._around = surroundings
        self._options = surroundings.options
        self._plan = plan
        self._ledger = ledger
        self._files = files
        self._shared = shared
        rng = random.Random()
        self._schedule = Schedule[PeerId](plan.manifest.chunk_count, rng, self._options.window)
        self._candidates = Candidates()
        self._contacts: dict[PeerId, Contact] = {}
        self._fetched: dict[PeerId, int] = {}
        self._last_error: LatticaError | None = None
        """What the last provider that was given up had done."""
        self._changes = Changes()
        self._finishing = 0
        self._finish_limiter = trio.CapacityLimiter(_FINISH_THREADS)
        self._finish_small_limiter = trio.CapacityLimiter(_FINISH_SMALL_THREADS)
        self._nursery: trio.Nursery

    @property
    def sources(self) -> tuple[FetchSource, ...]:
        """Who has sent something that was used."""
        found = [FetchSource(peer, count) for peer, count in self._fetched.items() if count]
        return tuple(sorted(found, key=lambda source: -source.bytes_fetched))

    @property
    def active_sources(self) -> int:
        """How many send something now."""
        return sum(bool(s.in_flight) for s in self._schedule.sources().values())

    # --- the whole ---

    async def run(self, first: Iterable[Contact]) -> None:
        """Obtain all that is missing, from these providers and whom else there is.

        Raises:
            ContentError: nobody is left who would send it; of the last one's kind of fault.
            StorageError: the disk refuses.
        """
        self._around.retries.last_gain = trio.current_time()  # hashing may have taken hours
        send, receive = trio.open_memory_channel[Arrived](self._options.queued_spans)
        self._sink = send
        with single_error():
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                # Only now, since a finished file takes the place of one that was copied from.
                self._want()
                for _ in range(self._options.verify_threads):
                    nursery.start_soon(self._verify, receive)
                for contact in first:
                    self._schedule.add(
                        contact.peer_id, trio.current_time(), complete=contact.is_first
                    )
                    self._start(contact)
                nursery.start_soon(self._look_after)
                nursery.start_soon(self._discover)
                await self._until_done()
                nursery.cancel_scope.cancel()

    def ask(self, numbers: Iterable[int]) -> None:
        """Have these chunks of the plan obtained too. Those that are here cost nothing."""
        if self._asked is None:
            return
        new = {n for n in numbers if self._ledger.lacks(n)} - self._asked
        if not new:
            return
        if self._schedule.is_finished:
            # Until now nobody was to send anything.
            self._around.retries.last_gain = trio.current_time()
        self._asked.update(new)
        self._schedule.want(self._plan.spans(sorted(new)))
        self._changes.tell()

    def copied(self, numbers: Sequence[int]) -> None:
        """Chunks of the plan that were not asked for have been written: they lay elsewhere."""
        self._ledger.add(numbers, fetched=False)
        for number in numbers:
            self._shared.add(number)
        self._finish_ready()
        self._changes.tell()

    def hurry(self, number: int) -> None:
        """Somebody waits for a chunk that was asked for."""
        self._schedule.hurry(number)
        self._changes.tell()

    def _want(self) -> None:
        missing = [
            n
            for n in self._ledger.missing
            if (self._asked is None or n in self._asked) and not self._schedule.wants(n)
        ]
        self._schedule.want(self._plan.spans(missing))
        self._finish_ready()
        self._changes.tell()

    async def _until_done(self) -> None:
        if self._asked is not None:
            await trio.sleep_forever()
        while True:
            while not self._ledger.finished or self._finishing:
                await self._changes.wait(60.0)
            # Finishing may have found that something is gone, and so may a last look at all.
            disturbed = await trio.to_thread.run_sync(self._files.disturbed)
            for output in disturbed:
                self._ledger.lose(output, ())
            if not disturbed and not self._ledger.missing:
                return
            self._want()

    # --- verifying and finishing ---

    async def _verify(self, arrivals: trio.MemoryReceiveChannel[Arrived]) -> None:
        schedule = self._schedule
        async for arrived in arrivals:
            span = schedule.span(arrived.piece)
            peer = arrived.link.peer_id
            numbers = span.numbers
            contact = self._contacts.get(peer)
            try:
                await trio.to_thread.run_sync(
                    self._files.write, span.first, span.count, arrived.data, f"peer {peer}"
                )
            except IntegrityError as error:
                schedule.failed(arrived.piece)
                if not arrived.continued:
                    self._ban(peer, error)
                elif contact is not None:
                    # Of two streams: the first may have been broken, not the provider.
                    logger.info("what two streams brought is wrong together; asking again")
                    contact.kept.wrong_chunks.update(numbers)
                self._changes.tell()
                continue
            arrived.link.recycle(arrived.data)
            if contact is not None and contact.kept.wrong_chunks:
                for number in numbers:
                    del contact.kept.wrong_chunks[number]
            self._around.retries.last_gain = trio.current_time()
            if contact is not None:
                contact.failures = 0
            self._fetched[peer] = self._fetched.get(peer, 0) + span.size
            schedule.done(arrived.piece)
            self._ledger.add(numbers, fetched=True)
            for number in numbers:
                self._shared.add(number)
            self._finish_ready()
            self._changes.tell()
            self._around.on_chunks()

    def _finish_ready(self) -> None:
        for output in self._ledger.take_ready():
            self._finishing += 1
            self._nursery.start_soon(self._finish, output)

    async def _finish(self, output: int) -> None:
        is_small = self._plan.outputs[output].size <= _SMALL
        lost = await trio.to_thread.run_sync(
            self._files.finish,
            output,
            trio.from_thread.check_cancelled,
            limiter=self._finish_small_limiter if is_small else self._finish_limiter,
        )
        self._finishing -= 1
        if lost is None:
            self._around.on_file(output)
            self._changes.tell()
        else:
            self._ledger.lose(output, lost)
            self._want()

    # --- providers ---

    def _start(self, contact: Contact) -> None:
        self._contacts[contact.peer_id] = contact
        self._nursery.start_soon(self._draw, contact)

    async def _draw(self, contact: Contact) -> None:
        """Get from one provider what it has, as long as it is of use."""
        introduced = trio.Event()
        with contact.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, contact, introduced)
                with trio.move_on_after(_INTRODUCTION):
                    await introduced.wait()
                await self._transfer_all(contact)
                nursery.cancel_scope.cancel()

    async def _transfer_all(self, contact: Contact) -> None:
        around, schedule, peer = self._around, self._schedule, contact.peer_id
        while True:
            while schedule.is_finished or not schedule.is_of_use(peer):
                await self._changes.wait(60.0)
            gain, more = self._fetched.get(peer, 0), False
            link: Link | None = None
            try:
                async with await contact.open() as stream:
                    link = Link(stream, self._plan.cid, self._options, contact.kept, around.pace)
                    await link.transfer(schedule, self._sink, self._changes.wait)
                    continue
            except RETRIED as error:
                lost: Exception = error
                more = link is not None and link.keep(schedule)
            except (ContentNotFoundError, UnsupportedProtocolError) as error:
                lost = error  # it served this before: it is being started again
            except (ContentError, RemoteProtocolError) as error:
                self._ban(peer, error)
                return
            except (LatticaError, TimeoutError) as error:
                if contact.is_first:
                    raise
                lost = error
            finally:
                if peer in schedule:
                    schedule.broken(peer, trio.current_time())
                self._changes.tell()
            gained = more or self._fetched.get(peer, 0) != gain
            if not contact.is_first and not gained and contact.failures + 1 >= _MAX_FAILURES:
                self._drop(contact, lost)
                return
            pause = around.retries.pause(contact, lost, gained=gained)
            logger.info("lost %s: %s; trying again in %.1f s", peer, lost, pause)
            if not any(s.in_flight for s in schedule.sources().values()):
                around.on_retry(lost, pause)
            del lost  # it has this frame
            await trio.sleep(pause)

    def _drop(self, contact: Contact, error: Exception) -> None:
        """Ask a provider no more for now."""
        peer = contact.peer_id
        peer_log.log(logger, logging.DEBUG, peer, "%s is asked no more: %s", peer, error)
        state = self._schedule.sources().get(peer)
        self._end(contact)
        self._candidates.ended(
            peer, trio.current_time(), rate=state.rate if state else None, failed=True
        )
        self._fail_if_alone(error)

    def _ban(self, peer: PeerId, error: LatticaError) -> None:
        """Never ask a provider again, which has broken the rules or cannot serve.

        Raises the error if nobody else is left.
        """
        contact = self._contacts.get(peer)
        self._candidates.ban(peer)
        if contact is None:
            return
        peer_log.log(logger, logging.WARNING, peer, "asking %s for nothing more: %s", peer, error)
        self._last_error = renewed(error)  # without the frames, which have this
        self._end(contact)
        self._fail_if_alone(error)

    def _end(self, contact: Contact) -> None:
        self._contacts.pop(contact.peer_id, None)
        self._schedule.remove(contact.peer_id)
        contact.scope.cancel()
        self._changes.tell()

    def _fail_if_alone(self, error: Exception) -> None:
        if not self._contacts and not self._candidates.is_waiting:
            raise self._last_error or error

    # --- what providers have ---

    async def _watch(self, contact: Contact, introduced: trio.Event) -> None:
        """Hear what a provider has; what it does not say, of a first one is taken as all."""
        peer = contact.peer_id
        hello = Hello(self._plan.cid, shares=False)
        if self._around.shares:
            node = self._around.node
            ticket = Ticket.make(self._plan.cid, node.peer_id, node.addrs)
            hello = Hello(self._plan.cid, shares=True, addrs=ticket.addrs)
        failures = 0
        lost: Exception
        while True:
            heard = False
            lost = IncompleteReadError("the stream has ended")
            try:
                async with await contact.open(HOLDINGS) as stream:
                    await stream.send_message(encode_hello(hello))
                    while True:
                        data = await stream.receive_message(MAX_MESSAGE)
                        self._heard(contact, decode_message(data))
                        heard = True
                        introduced.set()
            except UnsupportedProtocolError as error:
                introduced.set()
                if not contact.is_first:
                    self._drop(contact, error)
                return
            except RemoteProtocolError as error:
                if not isinstance(error, RETRIED):
                    self._ban(peer, error)
                    return
                lost = error
            except (LatticaError, TimeoutError) as error:
                lost = error
            introduced.set()  # it says nothing
            if heard:
                self._schedule.left(peer)
                self._changes.tell()
            failures = 1 if heard else failures + 1
            if failures >= _MAX_FAILURES and not contact.is_first:
                self._drop(contact, lost)
                return
            del lost  # it has this frame
            await trio.sleep(min(15.0, self._options.first_delay * 2.0**failures))

    def _heard(self, contact: Contact, message: Message) -> None:
        schedule, peer = self._schedule, contact.peer_id
        if self._contacts.get(peer) is not contact:
            return  # given up as this came: in the schedule again, it would be waited for forever
        now = trio.current_time()
        if peer not in schedule:
            schedule.add(peer, now)
        chunks = self._plan.manifest.chunk_count
        match message:
            case Has():
                if message.chunks != chunks:
                    raise RemoteProtocolError(f"holdings of {message.chunks} chunks, not {chunks}")
                schedule.set_holdings(peer, message.bits)
            case HasMore():
                if max(message.numbers) >= chunks:
                    raise RemoteProtocolError("holdings of chunks that there are not")
                schedule.add_holdings(peer, message.numbers, now)
            case Sending():
                schedule.scatter()
                schedule.hold_back(peer, message.numbers, now, message.peer_id)
            case Members():
                schedule.scatter()
                for member in message.members:
                    addrs = believed(self._around.node, peer, member.peer_id, member.addrs)
                    self._hear_of(Member(member.peer_id, addrs))
        self._changes.tell()

    def _hear_of(self, member: Member) -> None:
        if member.peer_id == self._around.node.peer_id or member.peer_id in self._contacts:
            return
        self._candidates.hear(member)
        self._start_candidates()

    def _start_candidates(self) -> None:
        while len(self._contacts) < self._options.max_providers:
            member = self._candidates.take(trio.current_time())
            if member is None:
                return
            if member.peer_id not in self._contacts:
                self._start(Contact(self._around.node, member.peer_id, member.addrs))

    async def _discover(self) -> None:
        """Look for providers among those that are connected, and where it is known who has it."""
        if self._options.share:
            for status in self._around.node.peers()[:_CONNECTED_ASKED]:
                self._hear_of(Member(status.peer_id, ()))
        finder = self._around.finder
        while finder is not None:
            try:
                for member in await finder.find_providers(self._plan.cid):
                    self._hear_of(member)
            except LatticaError as error:
                logger.info("no providers were found: %s", error)
            await trio.sleep(_FIND_EVERY)

    async def _look_after(self) -> None:
        """Take work away from those who do nothing, and notice when nobody has what is missing."""
        stuck_since: float | None = None
        while True:
            await trio.sleep(_LOOK)
            now = trio.current_time()
            for peer in self._schedule.silence(now):
                logger.info("%s sends nothing; others are asked for what it was", peer)
                self._changes.tell()
            self._start_candidates()
            if not self._schedule.is_stuck:
                stuck_since = None
                continue
            stuck_since = stuck_since or now
            if self._last_error is not None and now - stuck_since > _STUCK_AFTER:
                raise self._last_error
            if now - stuck_since > self._options.give_up_after:
                raise ContentError(
                    f"gave up after {now - stuck_since:.0f} s: nobody has what is missing. What "
                    "has arrived is kept; the same command goes on from there"
                )
