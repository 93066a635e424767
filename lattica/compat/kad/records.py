"""Values and subkeys of the original's users, by its Kademlia."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lattica.compat.kad.service import OriginalKad
from lattica.compat.kad.values import (
    SubkeyIndex,
    TimedValue,
    decode_index,
    decode_value,
    encode_index,
    encode_value,
    index_key,
    merged,
    subkey_key,
)
from lattica.compat.pickles.reader import read_pickle
from lattica.compat.pickles.writer import write_pickle
from lattica.nat.base.errors import RemoteProtocolError


class OriginalRecords:
    """Stores and finds values as nodes of the original do. For the trio thread only."""

    def __init__(self, kad: OriginalKad, clock: Callable[[], float] = time.time) -> None:
        self._kad = kad
        self._clock = clock

    async def store(self, key: str, value: object, expires: float, subkey: str | None) -> None:
        """Store a value; it is found here in any case.

        Raises:
            TypeError: it is no plain data.
            RemoteProtocolError: the original has no such subkey.
        """
        record = encode_value(TimedValue(write_pickle(value), expires))
        if subkey is None:
            await self._kad.put(key.encode(), record, expires)
            return
        await self._kad.put(subkey_key(key, subkey), record, expires)
        whole = merged((await self._index(key), SubkeyIndex((subkey,), expires)))
        await self._kad.put(index_key(key), encode_index(whole), whole.expires)

    async def _index(self, key: str) -> SubkeyIndex:
        """What all nodes together know of a key's subkeys."""
        found: list[SubkeyIndex] = []
        for data in await self._kad.get(index_key(key)):
            with suppress(RemoteProtocolError):
                found.append(decode_index(data))
        return merged(found)

    async def get(self, key: str) -> dict[str | None, tuple[Any, float]]:
        """Values and their ends by subkey; None: the key's own."""
        found: dict[str | None, tuple[Any, float]] = {}
        index = await self._index(key)
        places: dict[str | None, bytes] = {name: subkey_key(key, name) for name in index.subkeys}
        for name, place in {None: key.encode(), **places}.items():
            for data in await self._kad.get(place):
                try:
                    record = decode_value(data)
                    value = read_pickle(record.value)
                except RemoteProtocolError:
                    continue
                known = found.get(name)
                if record.expires > self._clock() and (known is None or record.expires > known[1]):
                    found[name] = value, record.expires
        return found
