"""Writing records: to the peers nearest to a key, and reading them back from each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from lattica.dht.client.peers import Peers
from lattica.dht.config import PROTOCOL
from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.messages import (
    MAX_KEYS,
    MAX_PROVIDERS,
    MessageType,
    Record,
    Request,
    Response,
)
from lattica.dht.records.signed_value import (
    SignedValue,
    decode_envelopes,
    encode_values,
    take_fitting,
)
from lattica.nat.base.errors import RemoteProtocolError

_AT_ONCE = 64
"""Keys of provider records that a peer is told before its answers are read."""


class Writer:
    """Stores at peers. Every method says at how many, or for what, it was read back."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._is_ours = peers.config.protocol == PROTOCOL

    async def values(
        self, contacts: Iterable[Contact], values: Sequence[SignedValue]
    ) -> list[Contact]:
        """Store values of one key and one owner: the peers that have them all now."""
        key, owner = values[0].key, values[0].owner
        record = Record(key, encode_values(take_fitting(values)))
        envelopes = {value.envelope for value in values}

        async def store(contact: Contact) -> bool:
            answers = await self._peers.ask(
                contact,
                Request(MessageType.PUT_VALUE, key, record),
                Request(MessageType.GET_VALUE, key, owner=owner),
            )
            if answers is None or (got := answers[1]) is None or got.record is None:
                return False
            try:
                held = decode_envelopes(got.record.value)
            except RemoteProtocolError:
                self._peers.blame(contact.peer_id)
                return False
            if envelopes <= set(held):
                return True
            # Of many values of this owner these need not be in the first part.
            put = answers[0]
            return bool(got.after) and put is not None and put.record == record

        return await _that_hold(contacts, store)

    async def plain(self, contacts: Iterable[Contact], key: bytes, value: bytes) -> list[Contact]:
        """Store a plain record: the peers that have it now."""

        async def store(contact: Contact) -> bool:
            answers = await self._peers.ask(
                contact,
                Request(MessageType.PUT_VALUE, key, Record(key, value)),
                Request(MessageType.GET_VALUE, key),
            )
            got = None if answers is None else answers[1]
            return got is not None and got.record is not None and got.record.value == value

        return await _that_hold(contacts, store)

    async def provider(
        self, contacts: Iterable[Contact], key: bytes, own: Contact
    ) -> list[Contact]:
        """Have peers say that this node provides a key: those that do now."""

        async def store(contact: Contact) -> bool:
            answer = await self.provider_at(contact, key, own)
            return self.is_held(answer, own)

        return await _that_hold(contacts, store)

    async def provider_at(self, contact: Contact, key: bytes, own: Contact) -> Response | None:
        """Have one peer say that this node provides a key: whom it tells of then, and who is
        nearer; None: it has not answered.
        """
        answers = await self._peers.ask(contact, *_provider_requests(key, own))
        return None if answers is None else answers[1]

    def is_held(self, got: Response | None, own: Contact) -> bool:
        """Whether it is said who provides a key: this node, or so many that not all are told. And
        rust-libp2p tells nobody of itself.
        """
        if got is None:
            return False
        is_told = any(p.peer_id == own.peer_id for p in got.providers)
        return is_told or len(got.providers) >= MAX_PROVIDERS or not self._is_ours

    async def providers(self, contact: Contact, keys: Sequence[bytes], own: Contact) -> set[bytes]:
        """The same for many keys at one peer: those of which it says now that this node provides
        them.
        """
        if await self._peers.knows_ours(contact):
            return await self._batch(contact, keys, MessageType.ADD_PROVIDERS, (own,))
        done: set[bytes] = set()
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            requests = [r for key in some for r in _provider_requests(key, own)]
            answers = await self._peers.ask(contact, *requests)
            if answers is None:
                break
            done.update(key for n, key in enumerate(some) if self.is_held(answers[2 * n + 1], own))
        return done

    async def withdraw(self, contact: Contact, keys: Sequence[bytes]) -> set[bytes]:
        """Have one peer forget that this node provides keys: those that it knew. libp2p has no
        message for that.
        """
        if not await self._peers.knows_ours(contact):
            return set()
        return await self._batch(contact, keys, MessageType.REMOVE_PROVIDERS, ())

    async def _batch(
        self,
        contact: Contact,
        keys: Sequence[bytes],
        kind: MessageType,
        providers: tuple[Contact, ...],
    ) -> set[bytes]:
        done: set[bytes] = set()
        for start in range(0, len(keys), MAX_KEYS):
            some = tuple(keys[start : start + MAX_KEYS])
            request = Request(kind, providers=providers, keys=some)
            answers = await self._peers.ask(contact, request)
            if answers is None or (answer := answers[0]) is None:
                break
            done.update(key for n, key in enumerate(some) if answer.is_done(n))
        return done


def _provider_requests(key: bytes, own: Contact) -> tuple[Request, Request]:
    """Announce a key, and read it back."""
    return (
        Request(MessageType.ADD_PROVIDER, key, None, (own,)),
        Request(MessageType.GET_PROVIDERS, key),
    )


async def _that_hold(
    contacts: Iterable[Contact], store: Callable[[Contact], Awaitable[bool]]
) -> list[Contact]:
    """Ask all at once; those of which it is true, the first of `contacts` first."""
    asked = list(contacts)
    held: set[int] = set()

    async def one(contact: Contact) -> None:
        if await store(contact):
            held.add(contact.key)

    async with trio.open_nursery() as nursery:
        for contact in asked:
            nursery.start_soon(one, contact)
    return [contact for contact in asked if contact.key in held]
