"""Reading records: values at a quorum, plain records, providers as they are found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import trio

from lattica.dht.client.peers import Peers
from lattica.dht.kademlia.contact import Contact, key_of
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.kademlia.messages import MessageType, Request, Response
from lattica.dht.records.plain import PlainRecord, PlainRecords, check_plain
from lattica.dht.records.signed_value import (
    SignedValue,
    decode_envelopes,
    in_turns,
    open_values,
)
from lattica.nat.base.clocks import clocks_agree
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.printable import rough_duration

logger = logging.getLogger(__name__)

_MAX_PAGES = 64
"""Answers of one peer about one key, each with as many values as a record has room for."""


@dataclass(slots=True)
class Collected:
    """The values under a key, of all that have answered so far."""

    values: dict[bytes, SignedValue] = field(default_factory=dict)
    """By place."""
    holders: dict[Contact, frozenset[bytes]] = field(default_factory=dict)
    """The envelopes that each peer has sent."""
    lookup: Lookup | None = None

    @property
    def current(self) -> frozenset[bytes]:
        """The envelopes of :attr:`values`."""
        return frozenset(value.envelope for value in self.values.values())

    @property
    def agreeing(self) -> int:
        """Peers that have all of it, and nothing else."""
        current = self.current
        return sum(envelopes == current for envelopes in self.holders.values()) if current else 0

    def take(self, values: Sequence[SignedValue]) -> None:
        for value in values:
            known = self.values.get(value.place)
            if known is None or value.supersedes(known):
                self.values[value.place] = value


class Reader:
    """Finds records by lookups.

    Args:
        clock: seconds since 1970.
    """

    def __init__(
        self, peers: Peers, kinds: tuple[PlainRecords, ...], clock: Callable[[], float]
    ) -> None:
        self._peers = peers
        self._kinds = kinds
        self._clock = clock
        self._warned = False
        self._turns = trio.Lock()
        """Held while a few signatures are checked: of many answers at once, one after the other."""

    async def values(
        self, key: bytes, *, owner: PeerId | None = None, quorum: int | None = None
    ) -> Collected:
        """The values under a key of the wire; with `quorum` as soon as so many peers agree, else
        when the nearest have answered.
        """
        collected = Collected()
        known: dict[bytes, SignedValue] = {}
        told: dict[Contact, list[SignedValue]] = {}

        async def talk(contact: Contact) -> Sequence[Response] | None:
            answers = await self._peers.ask_on(contact, request, more)
            records = [a.record.value for a in answers or () if a.record is not None]
            told[contact] = await self._checked(contact, key, records, owner, known)
            return answers

        def on_answer(lookup: Lookup, contact: Contact, _: Sequence[Response]) -> None:
            found = told.pop(contact)
            if found:
                collected.holders[contact] = frozenset(value.envelope for value in found)
                collected.take(found)
                if quorum is not None and collected.agreeing >= quorum:
                    lookup.stop()

        def more(answers: Sequence[Response]) -> Request | None:
            last = answers[-1]
            if not last.after or last.record is None or len(answers) == _MAX_PAGES:
                return None
            return replace(request, after=last.after)

        request = Request(MessageType.GET_VALUE, key, owner=owner)
        collected.lookup = await self._peers.look_up(
            key_of(key), request, on_answer, talk=talk, at_once=self._at_once(quorum)
        )
        return collected

    async def _checked(
        self,
        contact: Contact,
        key: bytes,
        records: Iterable[bytes],
        owner: PeerId | None,
        known: dict[bytes, SignedValue],
    ) -> list[SignedValue]:
        """The values of a peer's answers, up to where the first are wrong, as an honest one has
        checked them. They are added to those that are `known`.
        """
        found: list[SignedValue] = []
        junk = 0
        for record in records:
            try:
                for some in in_turns(decode_envelopes(record)):
                    async with self._turns:
                        values, junk = open_values(some, key, known)
                    found += values
                    known.update((value.envelope, value) for value in values)
                    if junk:
                        break
            except RemoteProtocolError:
                junk = 1
            if junk:
                self._peers.blame(contact.peer_id, junk)
                break
        now = self._clock() * 1000
        self._note_expired([now - v.expires for v in found if v.expires <= now])
        return [v for v in found if v.expires > now and owner in (None, v.owner)]

    def _note_expired(self, ages: Sequence[float]) -> None:
        """Who keeps a value leaves it out when it has expired by its own clock: where the clock
        here says so long before, one of both is wrong. That is told once."""
        if ages and not clocks_agree(min(ages) / 1000) and not self._warned:
            self._warned = True
            logger.warning(
                "a peer keeps a value that has expired %s ago by this machine's clock, and is not "
                "believed: if `lattica doctor` says that this clock is ahead, set it",
                rough_duration(min(ages) / 1000),
            )

    async def plain(
        self, key: bytes, *, quorum: int | None = 1
    ) -> tuple[PlainRecord | None, Contact | None, Lookup]:
        """The newest plain record under a key, with `quorum` of so many that have one; and who has
        told it.
        """
        best: PlainRecord | None = None
        teller: Contact | None = None
        found = 0

        def on_answer(lookup: Lookup, contact: Contact, answers: Sequence[Response]) -> None:
            nonlocal best, found, teller
            record = answers[0].record
            if record is None:
                return
            try:
                checked = check_plain(self._kinds, key, record.value)
            except RemoteProtocolError:
                self._peers.blame(contact.peer_id)
                return
            found += 1
            if best is None or checked.sequence > best.sequence:
                best, teller = checked, contact
            if quorum is not None and found >= quorum:
                lookup.stop()

        request = Request(MessageType.GET_VALUE, key)
        lookup = await self._peers.look_up(
            key_of(key), request, on_answer, at_once=self._at_once(quorum)
        )
        return best, teller, lookup

    def _at_once(self, quorum: int | None) -> int | None:
        """How many to ask at a time where so many answers are enough: a few more, as some are gone
        or have come since.
        """
        return None if quorum is None else quorum + self._peers.config.lookup.spare

    async def nearest(self, key: bytes) -> Lookup:
        """The peers nearest to a key of the wire, for what nobody waits for."""
        request = Request(MessageType.FIND_NODE, key)
        return await self._peers.look_up(key_of(key), request, is_patient=True)

    async def providers(self, key: bytes, on_provider: Callable[[Contact], bool]) -> Lookup:
        """Call `on_provider` with providers as they are found, until it says True."""

        def on_answer(lookup: Lookup, contact: Contact, answers: Sequence[Response]) -> None:
            for provider in answers[0].providers:
                if on_provider(provider):
                    lookup.stop()
                    return

        request = Request(MessageType.GET_PROVIDERS, key)
        return await self._peers.look_up(key_of(key), request, on_answer)
