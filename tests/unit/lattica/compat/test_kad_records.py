"""Values and subkeys as nodes of the original keep them."""

from __future__ import annotations

from typing import Any, cast

import pytest

from lattica.compat.kad.records import OriginalRecords
from lattica.compat.kad.service import OriginalKad
from lattica.compat.kad.store import OriginalStore
from lattica.compat.kad.values import MAX_SUBKEYS, SubkeyIndex, encode_index, index_key
from lattica.compat.records import Records
from lattica.dht.dht import Dht
from lattica.nat.base.keys.identity import Identity

OWN = Identity.generate().peer_id
NOW = 1_800_000_000.0
END = NOW + 60


class Kad:
    """Without others, but for what these have said already."""

    def __init__(self, *others: bytes) -> None:
        self.store = OriginalStore()
        self.others = others

    async def put(self, key: bytes, value: bytes, expires: float) -> int:
        self.store.put(key, value, OWN, NOW)
        return 0

    async def get(self, key: bytes) -> list[bytes]:
        own = self.store.get(key, NOW)
        others = self.others if key == index_key("key") else ()
        return [*(() if own is None else (own,)), *others]


class SilentDht:
    async def put(self, key: str, value: object, **options: Any) -> None:
        pass


async def test_subkeys_of_many_nodes_are_as_many_as_an_index_has() -> None:
    names = [f"{number}" for number in range(2 * MAX_SUBKEYS)]
    halves = names[:MAX_SUBKEYS], names[MAX_SUBKEYS:]
    kad = Kad(*(encode_index(SubkeyIndex((*half,), END)) for half in halves))
    records = OriginalRecords(cast(OriginalKad, kad), lambda: NOW)
    await records.store("key", 1, END, "mine")
    assert await records.get("key") == {"mine": (1, END)}


@pytest.mark.parametrize("subkey", ["index", "long" * 200])
async def test_what_the_original_cannot_have_is_stored_in_our_dht_only(subkey: str) -> None:
    kad = cast(OriginalKad, Kad())
    records = Records(cast(Dht, SilentDht()), OWN, kad, lambda: NOW)
    assert await records.store("key", 1, END, subkey)
