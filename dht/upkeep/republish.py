"""Stores anew what is to last: own values, values of others, and what this node provides."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

import trio

from lattica.dht.client.providing.providing import Providing
from lattica.dht.client.reading import Reader
from lattica.dht.client.writing import Writer
from lattica.dht.config import DhtConfig
from lattica.dht.records.signed_value import SignedValue
from lattica.dht.store.values import ValueStore
from lattica.dht.upkeep.own import OwnRecords

logger = logging.getLogger(__name__)

_TURN = 30.0
"""Seconds between two looks at what is due."""
_KEYS_IN_TURN = 64
"""Keys of others' values that are stored anew in a turn."""
_LATE = 2 * 3600.0
"""Seconds behind which it is said that provider records are announced too slowly."""


class Republisher:
    """Keeps alive what one node has stored or keeps for others.

    Args:
        clock: seconds since 1970.
    """

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        providing: Providing,
        own: OwnRecords,
        kept: ValueStore,
        config: DhtConfig,
        *,
        clock: Callable[[], float],
        rng: random.Random | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._providing = providing
        self._own = own
        self._kept = kept
        self._config = config
        self._clock = clock
        self._rng = rng or random.Random()
        self._warned = False

    @property
    def provides_due(self) -> int:
        """Keys that are to be announced again now."""
        now = self._clock()
        return self._own.count_due(now - self._config.reprovide_after, now)

    @property
    def lag(self) -> float:
        """Seconds for which the first of these has waited."""
        now = self._clock()
        oldest = self._own.oldest_provided()
        return max(0.0, now - self._config.reprovide_after - (now if oldest is None else oldest))

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            # Many keys take minutes, in which values would expire.
            nursery.start_soon(self._in_turns, self.store_again)
            nursery.start_soon(self._in_turns, self.provide_again)

    async def _in_turns(self, turn: Callable[[], Awaitable[object]]) -> None:
        while True:
            await trio.sleep(_TURN * self._rng.uniform(0.8, 1.2))
            await turn()

    async def store_again(self) -> None:
        """Store the values that are due now."""
        now = self._clock()
        every = self._config.republish_after
        for value in list(self._own.values_due(now - every, now)):
            await self._store([value])
            self._own.put(value, self._clock())
        self._kept.expire(now)
        # Who is first saves all the others the work: they hear of it, and wait again.
        late = now - every * self._rng.uniform(1.0, 1.3)
        due = self._kept.to_republish(late)
        for key in self._rng.sample(sorted(due), min(len(due), _KEYS_IN_TURN)):
            for values in _by_owner(due[key]):
                await self._store(values)
                for value in values:
                    self._kept.republished(value, self._clock())

    async def _store(self, values: list[SignedValue]) -> None:
        lookup = await self._reader.nearest(values[0].key)
        await self._writer.values(lookup.closest(), values)

    async def provide_again(self) -> None:
        """Announce the keys that are due now."""
        now = self._clock()
        due = self._own.provided_due(now - self._config.reprovide_after, now)
        if not due:
            return
        behind = self.lag
        if behind > _LATE and not self._warned:
            logger.warning(
                "provider records are announced %.1f h late, and may be forgotten: this node "
                "provides %d keys",
                behind / 3600,
                self._own.provided,
            )
        self._warned = behind > _LATE
        await self._providing.provide_many(due)


def _by_owner(values: list[SignedValue]) -> list[list[SignedValue]]:
    found: dict[object, list[SignedValue]] = {}
    for value in values:
        found.setdefault(value.owner, []).append(value)
    return list(found.values())
