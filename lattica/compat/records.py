"""Values in the DHT as the original has them: kept by a lone node, and handed over when it has
peers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from lattica.compat.kad.records import OriginalRecords
from lattica.dht.errors import DhtError
from lattica.dht.records.keys import key_text
from lattica.nat.base.errors import LatticaError, LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from lattica.compat.kad.service import OriginalKad
    from lattica.dht.dht import Dht
    from lattica.dht.records.found import Found
    from lattica.nat.base.keys.peer_id import PeerId

logger = logging.getLogger(__name__)

DEFAULT_TTL: Final = 600.0
"""Seconds that a value is valid unless it is said."""

_TIMEOUT: Final = 5.0
"""Seconds that a caller waits at most."""

_RETRY: Final = 2.0
"""Seconds between attempts to hand over what nobody has taken yet."""

_LOOK: Final = 0.05
"""Seconds between looks whether somebody has come who might."""

_MAX_TTL: Final = 365 * 24 * 3600.0


class ValueWithExpiration(NamedTuple):
    """A value, and when it ends (wall clock, seconds since 1970)."""

    value: Any
    """Under a key with subkeys a dict of such pairs, by subkey."""
    expiration_time: float


@dataclass(frozen=True, slots=True)
class _Kept:
    value: Any
    expires: float


class Records:
    """Used in the trio thread."""

    def __init__(
        self,
        dht: Dht,
        own: PeerId,
        kad: OriginalKad,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._dht = dht
        self._own = own
        self._kad = kad
        self._original = OriginalRecords(kad, clock)
        self._clock = clock
        self._kept: dict[tuple[str, str | None], _Kept] = {}
        """What this node has said and no other peer has taken yet."""
        self._provided: dict[str, bool] = {}
        """Keys that this node provides, and whether others know."""
        self._new = trio.Event()

    async def store(
        self, key: str, value: object, expiration_time: float | None, subkey: str | None
    ) -> bool:
        """Store a value; True if it will be found, by this node at least.

        A node without peers keeps it, and hands it over when some have come. False: it is nothing
        that can be stored, for the reason in the log.
        """
        now = self._clock()
        expires = now + DEFAULT_TTL if expiration_time is None else float(expiration_time)
        expires = min(expires, now + _MAX_TTL)
        if expires <= now:
            return True
        place = (key, subkey)
        kept = _Kept(value, expires)
        try:
            with trio.move_on_after(_TIMEOUT):
                await self._put(place, kept)
                self._kept.pop(place, None)
                await self._store_at_original(place, kept)
                return True
        except DhtError as error:
            logger.debug("kept until there are peers: %s", error)
        except (LocalProtocolError, TypeError, ValueError) as error:
            logger.warning("Failed to store value: %s", error)
            return False
        self._kept[place] = kept
        self._new.set()
        await self._store_at_original(place, kept)
        return True

    async def _store_at_original(self, place: tuple[str, str | None], kept: _Kept) -> None:
        """Have nodes of the original find it, too, those that come later included."""
        key, subkey = place
        with trio.move_on_after(_TIMEOUT):
            try:
                await self._original.store(key, kept.value, kept.expires, subkey)
            except (TypeError, LocalProtocolError, RemoteProtocolError) as error:
                logger.debug("not for nodes of the original: %s", error)

    async def _put(self, place: tuple[str, str | None], kept: _Kept) -> None:
        key, subkey = place
        await self._dht.put(key, kept.value, subkey=subkey, ttl=kept.expires - self._clock())

    async def get(self, key: str) -> ValueWithExpiration | None:
        """The newest value, or those of all subkeys; None if there is none. Takes 5 s at most."""
        found: Found | None = None
        others: dict[str | None, tuple[Any, float]] = {}

        async def look_at_original() -> None:
            others.update(await self._original.get(key))

        with trio.move_on_after(_TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look_at_original)
                try:
                    found = await self._dht.get(key)
                except LatticaError as error:
                    logger.debug("nothing is found under %s: %s", key_text(key), error)
        newest: dict[str | None, ValueWithExpiration] = {}
        for each in reversed(found.values if found is not None else ()):
            newest[each.subkey] = ValueWithExpiration(each.value, each.expires)
        for name, (value, expires) in others.items():
            # What nodes of ours store is at both; signed, it has whole milliseconds.
            if name not in newest or expires > newest[name].expiration_time + 0.001:
                newest[name] = ValueWithExpiration(value, expires)
        plain = newest.pop(None, None)
        named = {name: pair for name, pair in newest.items() if name is not None}
        now = self._clock()
        for (kept_key, subkey), kept in self._kept.items():
            if kept_key == key and kept.expires > now:
                pair = ValueWithExpiration(kept.value, kept.expires)
                if subkey is None:
                    plain = pair
                else:
                    named[subkey] = pair
        if named:
            return ValueWithExpiration(named, max(each.expiration_time for each in named.values()))
        return plain

    async def provide(self, key: str) -> None:
        """Let others find this node by a key: they can when this returns, if there are any."""
        self._provided[key] = False
        await self._try_to_provide(key)
        self._new.set()

    async def _try_to_provide(self, key: str) -> None:
        with trio.move_on_after(_TIMEOUT):
            await self._kad.provide(key.encode())
            try:
                await self._dht.provide(key)
            except LatticaError as error:
                logger.debug("not provided yet: %s", error)
            else:
                if key in self._provided:
                    self._provided[key] = True

    async def withdraw(self, key: str) -> None:
        """Provide a key no more."""
        self._kad.store.withdraw(key.encode(), self._own)
        if self._provided.pop(key, False):
            with trio.move_on_after(_TIMEOUT):
                try:
                    await self._dht.withdraw(key)
                except LatticaError as error:
                    logger.debug("not withdrawn everywhere: %s", error)

    async def providers(self, key: str) -> list[str]:
        """Who provides a key, as far as is known within 5 s."""
        found = {str(self._own): None} if key in self._provided else {}

        async def ask_original() -> None:
            for peer in await self._kad.providers(key.encode()):
                found[str(peer)] = None

        with trio.move_on_after(_TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_original)
                try:
                    async with self._dht.find_providers(key) as stream:
                        async for peer in stream:
                            found[str(peer.peer_id)] = None
                except LatticaError as error:
                    logger.debug("providers are not found: %s", error)
        return [*found]

    async def run(self) -> None:
        """Hand over what is kept, for as long as there is something."""
        while True:
            while not self._kept and all(self._provided.values()):
                self._new = trio.Event()
                await self._new.wait()
            for key in [key for key, known in self._provided.items() if not known]:
                await self._try_to_provide(key)
            for place, kept in list(self._kept.items()):
                if kept.expires <= self._clock():
                    self._drop(place, kept)
                    continue
                try:
                    with trio.fail_after(_TIMEOUT):
                        await self._put(place, kept)
                except (LatticaError, trio.TooSlowError) as error:
                    logger.debug("kept on: %s", error)
                else:
                    self._drop(place, kept)
            await self._until_peers_change()

    async def _until_peers_change(self) -> None:
        """Wait until it is worth another attempt: for a new peer, or the time between two."""
        known = {each.peer_id for each in self._dht.peers()}
        with trio.move_on_after(_RETRY):
            while True:
                await trio.sleep(_LOOK)
                if not known.issuperset(each.peer_id for each in self._dht.peers()):
                    return

    def _drop(self, place: tuple[str, str | None], kept: _Kept) -> None:
        if self._kept.get(place) is kept:
            del self._kept[place]
