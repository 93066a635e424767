"""The peers of the DHT as one node knows them: whom it asks, and what comes of it for the table."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from heapq import nsmallest

import trio

from lattica.dht.client.questions import Questions
from lattica.dht.client.region import Region
from lattica.dht.client.ties import Ties
from lattica.dht.client.told import host_of, judged
from lattica.dht.config import PROTOCOL, DhtConfig
from lattica.dht.kademlia.contact import Contact, network_group
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.kademlia.messages import MAX_SENT_ADDRS, MessageType, Request, Response
from lattica.dht.kademlia.network_size import SizeEstimator
from lattica.dht.kademlia.routing_table import RoutingTable
from lattica.nat.base.errors import (
    IncompleteReadError,
    LatticaError,
    RemoteProtocolError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import order_addresses
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.addresses.told_names import ToldNames
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

_MOST_AT_ONCE = 128
"""Questions of all lookups that wait for an answer at a time."""
_REMEMBERED = 1024
"""Peers of which is remembered which messages they know."""
_NOT_KNOWN = (RemoteProtocolError, StreamResetError, IncompleteReadError)
"""How peers answer a message that they do not know: go and rust end the stream, js answers the next
message only."""

OnAnswer = Callable[[Lookup, Contact, Sequence[Response]], object]
Talk = Callable[[Contact], Awaitable[Sequence[Response] | None]]
"""Asks a peer something: what it answers, at least once; None: it has not answered."""
Question = Callable[[Contact], Awaitable[Sequence[Contact] | None]]
"""Asks a peer for those that are nearer; None: it has not answered."""


class Peers:
    """Asks peers, and keeps the table by what they answer."""

    def __init__(
        self, host: Host, ties: Ties, config: DhtConfig, names: ToldNames | None = None
    ) -> None:
        self.host = host
        self.own = Contact.of(host.peer_id)
        self.config = config
        self.table = RoutingTable(self.own.key, config.table, trio.current_time())
        self._names = names or ToldNames(trio.current_time)
        self.questions = Questions(ties, config.protocol, self._names)
        self.ties = ties
        self._limit = trio.CapacityLimiter(_MOST_AT_ONCE)
        self._knows_ours: OrderedDict[PeerId, bool] = OrderedDict()
        self.sizes = SizeEstimator(config.lookup.count)
        self.crowded = 0
        """Lookups next to whose keys peers were nearer than chance has it."""
        self.junk = Counter[PeerId]()
        """Answers and entries that no honest peer sends, by who sent them; of the last 1,024."""

    # --- one question ---

    async def ask(
        self, contact: Contact, *requests: Request, dial: bool = True
    ) -> list[Response | None] | None:
        """Answers in the order of the questions, with the addresses in them judged; None: the
        peer has not answered, or not as the protocol says; or it is not connected, without `dial`.
        """
        timeout = self.config.lookup.timeout
        try:
            async with self._limit:
                answers = await self.questions.ask(contact, requests, timeout, dial=dial)
        except UnsupportedProtocolError:
            self.table.remove(contact.key)
            return None
        except (LatticaError, OSError, TimeoutError) as error:
            logger.debug("dht: no answer: %s peer=%s", error, contact.peer_id)
            if isinstance(error, RemoteProtocolError):
                self.blame(contact.peer_id, 1)
            # Whoever refuses a record (go ends the stream of one that it does not know) is there.
            writes = any(request.type is MessageType.PUT_VALUE for request in requests)
            if not (writes and isinstance(error, StreamResetError)):
                self.table.failed(contact.key)
            return None
        self._heard(contact)
        return [None if answer is None else self._judged(contact, answer) for answer in answers]

    async def located(self, contact: Contact) -> Contact:
        """A contact that was told of, at IP addresses that may be dialed: where there are names
        only, those that they lead to.
        """
        plain = tuple(addr for addr in contact.addrs if host_of(addr) is not None)
        if not plain and contact.addrs:
            plain = await self._names.resolved(contact.addrs)
        return Contact(contact.key, contact.peer_id, plain)

    async def knows_ours(self, contact: Contact) -> bool:
        """Whether a peer knows the messages that we have beyond libp2p's: in our own network all
        do; in another each is asked once.
        """
        if self.config.protocol == PROTOCOL:
            return True
        known = self._knows_ours.get(contact.peer_id)
        if known is not None:
            return known
        nothing = Request(MessageType.REMOVE_PROVIDERS, keys=(self.own.peer_id.to_bytes(),))
        requests = (nothing, Request(MessageType.PING))
        try:
            async with self._limit:
                await self.questions.ask(contact, requests, self.config.lookup.timeout)
        except _NOT_KNOWN:
            known = False
        except (LatticaError, OSError, TimeoutError):
            return False  # it may be asked again
        else:
            known = True
        self._knows_ours[contact.peer_id] = known
        while len(self._knows_ours) > _REMEMBERED:
            self._knows_ours.popitem(last=False)
        return known

    def _judged(self, teller: Contact, answer: Response) -> Response:
        if answer.junk:
            self.blame(teller.peer_id, answer.junk)
        if not (answer.closer or answer.providers):
            return answer
        at = self.ties.met_at(teller.peer_id)
        return Response(
            answer.type,
            answer.key,
            answer.record,
            tuple(judged(contact, at) for contact in answer.closer),
            tuple(judged(contact, at) for contact in answer.providers),
            answer.after,
            answer.done,
            answer.junk,
        )

    def blame(self, peer_id: PeerId, times: int = 1) -> None:
        """A peer has sent what no honest one does."""
        self.junk[peer_id] += times
        while len(self.junk) > 1024:
            del self.junk[next(iter(self.junk))]

    def _heard(self, contact: Contact) -> None:
        """A peer has answered: it may enter the table, if others can reach it."""
        at = self.ties.met_at(contact.peer_id)
        if at is None or host_of(at) is None:
            return
        known = self.addresses_of(contact.peer_id)
        addrs = known or contact.addrs
        if not addrs:
            return
        entry = Contact(contact.key, contact.peer_id, tuple(addrs))
        self.table.answered(entry, network_group(at), trio.current_time())

    def addresses_of(self, peer_id: PeerId) -> tuple[Multiaddr, ...]:
        """The best addresses of a peer, as it says, to be told to others."""
        known = list(self.ties.addresses_of(peer_id))
        return tuple(order_addresses(known, limit=MAX_SENT_ADDRS)) if known else ()

    def is_wanted(self, peer_id: PeerId) -> bool:
        """Whether a connected peer is worth a question, as it would enter the table."""
        at = self.ties.met_at(peer_id)
        if at is None or host_of(at) is None:
            return False
        contact = Contact.of(peer_id)
        return self.table.is_wanted(contact.key, network_group(at))

    # --- lookups ---

    async def look_up(
        self,
        target: int,
        request: Request,
        on_answer: OnAnswer | None = None,
        *,
        seeds: Iterable[Contact] = (),
        more: Callable[[Sequence[Response]], Request | None] | None = None,
        talk: Talk | None = None,
        is_drawn: bool = False,
        is_patient: bool = False,
        at_once: int | None = None,
    ) -> Lookup:
        """Ask ever nearer peers for `request` until the nearest have answered; and where these are
        nearer than chance has it, those of the region around the target, too.

        Args:
            on_answer: called with each answer; may stop the lookup.
            seeds: whom to ask besides those of the table.
            more: what to ask the same peer after its answers so far, if anything.
            talk: asks one peer, instead of `request`; its first answer has those nearer.
            is_drawn: this node has drawn the target at random, and nobody waits for it.
            is_patient: nobody waits for it (:meth:`LookupConfig.patient`).
            at_once: about so many peers are asked at a time.

        Cancellation: at any time; questions under way are given up.
        """
        ask = talk or partial(self.ask_on, request=request, more=more)

        def heard(lookup: Lookup, contact: Contact, answers: Sequence[Response]) -> None:
            if on_answer is not None and not lookup.is_stopped:
                on_answer(lookup, contact, answers)

        async def question(contact: Contact) -> Sequence[Contact] | None:
            if contact.key in region.asked:
                return await self.nearer(contact, request.key)
            region.asked.add(contact.key)
            answers = await ask(contact)
            if answers is None:
                region.asked.discard(contact.key)
                return None
            heard(lookup, contact, answers)
            return answers[0].closer

        lookup = self._new_lookup(target, seeds, is_patient=is_drawn or is_patient, at_once=at_once)
        is_only_near = request.type is MessageType.FIND_NODE and talk is None
        async with trio.open_nursery() as nursery:
            region = Region(self, lookup, ask, None if is_only_near else heard, nursery)
            await self._run(lookup, question, region.look)
            if lookup.is_stopped:
                nursery.cancel_scope.cancel()
            else:
                nearest = [contact.key for contact in lookup.nearest()]
                self.sizes.learned(target, nearest, is_drawn=is_drawn)
        if region.is_crowded:
            self.crowded += 1
            logger.debug("dht: peers are nearer to %x than chance has it", target >> 192)
            region.add_heard()
        return lookup

    async def walk(
        self,
        target: int,
        question: Question,
        *,
        seeds: Iterable[Contact] = (),
        group_limit: int | None = None,
    ) -> Lookup:
        """A lookup that asks each peer by `question`, and of one network no more peers than
        `group_limit` while there are others. It waits for slow ones (`LookupConfig.patient`).
        """
        lookup = self._new_lookup(target, seeds, is_patient=True, group_limit=group_limit)
        await self._run(lookup, question)
        return lookup

    def _new_lookup(
        self,
        target: int,
        seeds: Iterable[Contact],
        *,
        is_patient: bool = False,
        group_limit: int | None = None,
        at_once: int | None = None,
    ) -> Lookup:
        config = self.config.lookup.patient() if is_patient else self.config.lookup
        known = {c.key: c for c in (*seeds, *self.table.closest(target, config.count))}
        if not known:  # all have failed once, as when this machine was cut off: they may be there
            near = nsmallest(config.count, self.table, key=lambda contact: contact.key ^ target)
            known = {contact.key: contact for contact in near}
        return Lookup(
            target,
            known.values(),
            config,
            own=self.own.key,
            reach=self.sizes.reach,
            group_limit=group_limit,
            at_once=at_once,
        )

    async def _run(
        self, lookup: Lookup, question: Question, answered: Callable[[], object] = lambda: None
    ) -> None:
        wake = trio.Event()

        async def one(contact: Contact) -> None:
            closer = await question(contact)
            if closer is None:
                lookup.failed(contact.key)
            else:
                lookup.answered(contact.key, closer, trio.current_time())
                answered()
            wake.set()

        async with trio.open_nursery() as nursery:
            while True:
                for contact in lookup.next_queries(trio.current_time()):
                    nursery.start_soon(one, contact)
                if lookup.is_done:
                    break
                with trio.move_on_at(lookup.deadline):
                    await wake.wait()
                wake = trio.Event()
            nursery.cancel_scope.cancel()
        for key, times in lookup.junk.items():
            self._blame_key(lookup, key, times)
        self.table.looked_up(lookup.target, trio.current_time())

    def _blame_key(self, lookup: Lookup, key: int, times: int) -> None:
        contact = lookup.contact(key)
        if contact is not None:
            self.blame(contact.peer_id, times)

    async def nearer(self, contact: Contact, raw: bytes) -> Sequence[Contact] | None:
        """Whom a peer knows that are nearer to a key; None: it has not answered."""
        answers = await self.ask(contact, Request(MessageType.FIND_NODE, raw))
        return None if answers is None or answers[0] is None else answers[0].closer

    async def ask_on(
        self,
        contact: Contact,
        request: Request,
        more: Callable[[Sequence[Response]], Request | None] | None = None,
    ) -> list[Response] | None:
        """The answer to a question, and to those that it leads to; None: there is none."""
        found: list[Response] = []
        following: Request | None = request
        while following is not None:
            answers = await self.ask(contact, following)
            if answers is None or answers[0] is None:
                return found or None
            found.append(answers[0])
            following = more(found) if more is not None else None
        return found
