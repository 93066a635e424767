"""What a peer of the DHT answers. Pure: requests and the clock go in, answers come out.

Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md, "DHT operations". Beyond it:
values of many owners under one key, and provider records in batches (`messages.py`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lattica.dht.kademlia.contact import Contact, key_of
from lattica.dht.kademlia.messages import (
    MAX_PROVIDER_KEY,
    MAX_PROVIDERS,
    MessageType,
    Record,
    Request,
    Response,
    encode_done,
)
from lattica.dht.kademlia.routing_table import RoutingTable
from lattica.dht.records.keys import VALUE
from lattica.dht.records.plain import check_plain
from lattica.dht.records.signed_value import decode_envelopes, encode_values, open_values
from lattica.dht.store.records import RecordStore
from lattica.dht.store.values import Put
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId

CLOSER = 20
"""Peers nearer to the key in an answer (k)."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks."""

    peer_id: PeerId
    network: str | None
    """Of the internet, at the address at which it is connected
    (:func:`~lattica.dht.kademlia.contact.network_group`)."""


class ServerCore:
    """Answers of one node.

    Args:
        table: whom it knows.
        store: what it keeps.
        find_peer: what it knows of a peer that is not in the table; None: nothing.
        rng: which of many providers are told.
    """

    def __init__(
        self,
        table: RoutingTable,
        store: RecordStore,
        *,
        find_peer: Callable[[PeerId], Contact | None] = lambda _: None,
        rng: random.Random | None = None,
    ) -> None:
        self._table = table
        self._store = store
        self._find_peer = find_peer
        self._rng = rng or random.Random()
        self.refused = Counter[str]()
        """What was not stored, and entries that were left out, by why."""

    def answer(self, request: Request, asker: Asker, now: float) -> Response | None:
        """The answer; None: the request has none. `now` is in seconds since 1970.

        Raises:
            RemoteProtocolError: a record that cannot be: whoever sends it has not checked it.
        """
        match request.type:
            case MessageType.FIND_NODE:
                return Response(request.type, request.key, closer=self._closer(request.key, asker))
            case MessageType.GET_VALUE:
                return self._get_value(request, asker, now)
            case MessageType.PUT_VALUE:
                return self._put_value(request, asker, now)
            case MessageType.GET_PROVIDERS:
                return self._get_providers(request, asker, now)
            case MessageType.ADD_PROVIDER:
                self._add_providers((request.key,), request, asker, now)
                return None
            case MessageType.ADD_PROVIDERS:
                done = self._add_providers(request.keys, request, asker, now)
                return Response(request.type, done=encode_done(done))
            case MessageType.REMOVE_PROVIDERS:
                gone = [self._store.providers.remove(key, asker.peer_id) for key in request.keys]
                return Response(request.type, done=encode_done(gone))
            case MessageType.PING:
                return Response(request.type)

    def _closer(self, key: bytes, asker: Asker) -> tuple[Contact, ...]:
        target = key_of(key)
        own_word: tuple[Contact, ...] = ()
        try:
            wanted = self._find_peer(PeerId(key))
        except ValueError:
            wanted = None
        if wanted is not None and wanted.addrs and wanted.peer_id != asker.peer_id:
            own_word = (wanted,)
        asker_key = key_of(asker.peer_id.to_bytes())
        near = self._table.closest(target, CLOSER, but=asker_key)
        return (*own_word, *(c for c in near if not own_word or c.key != own_word[0].key))[:CLOSER]

    def _get_value(self, request: Request, asker: Asker, now: float) -> Response:
        key = request.key
        record, after = None, b""
        if key.startswith(VALUE):
            values, after = self._store.values.get(
                key, now, owner=request.owner, after=request.after
            )
            if values:
                record = Record(key, encode_values(values))
        else:
            plain = self._store.plain.get(key, now)
            if plain is not None:
                record = Record(key, plain.value)
        # Whoever reads on has asked for them before.
        closer = () if request.after else self._closer(key, asker)
        return Response(request.type, key, record, closer, after=after)

    def _put_value(self, request: Request, asker: Asker, now: float) -> Response:
        """The answer has the record if all of it is here now."""
        record = request.record
        assert record is not None
        if record.key.startswith(VALUE):
            envelopes = decode_envelopes(record.value)
            is_held = self.put_values(record.key, envelopes, asker, now)
        else:
            try:
                plain = check_plain(self._store.plain.kinds, record.key, record.value)
            except RemoteProtocolError:
                self._refuse("junk")
                raise
            is_held = self._kept(self._store.plain.put(plain, asker.peer_id, asker.network, now))
        return Response(request.type, request.key, record if is_held else None)

    def put_values(self, key: bytes, envelopes: Iterable[bytes], asker: Asker, now: float) -> bool:
        """Store signed values of one key, some of a record's or all: whether they are here now.
        Raises what :meth:`answer` does.
        """
        values, junk = open_values(envelopes, key)
        if junk or not values:
            self._refuse("junk", max(junk, 1))
            raise RemoteProtocolError("a record with values that are wrong")
        held = [self._kept(self._store.values.put(v, asker.network, now)) for v in values]
        return all(held)

    def _kept(self, put: Put) -> bool:
        if not put.is_held:
            self._refuse(put.name.lower())
        return put.is_held

    def _get_providers(self, request: Request, asker: Asker, now: float) -> Response:
        providers = self._store.providers.get(request.key, now, MAX_PROVIDERS, self._rng)
        closer = self._closer(request.key, asker)
        return Response(request.type, request.key, None, closer, tuple(providers))

    def _add_providers(
        self, keys: tuple[bytes, ...], request: Request, asker: Asker, now: float
    ) -> list[bool]:
        """Of which keys the asker is a provider now. Nobody is one in another's words."""
        own = next((p for p in request.providers if p.peer_id == asker.peer_id), None)
        others = len(request.providers) - (own is not None)
        if others:
            self._refuse("provider of another ID", others)
        if own is None:
            return [False] * len(keys)
        done = []
        for key in keys:
            if len(key) > MAX_PROVIDER_KEY:
                self._refuse("key too long")
                done.append(False)
                continue
            done.append(self._kept(self._store.providers.add(key, own, asker.network, now)))
        return done

    def _refuse(self, why: str, times: int = 1) -> None:
        self.refused[why] += times
