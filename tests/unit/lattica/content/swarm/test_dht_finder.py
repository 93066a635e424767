"""What the DHT is told of content that is here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio

from lattica.content.manifest.cid import Cid
from lattica.content.swarm.dht_finder import DhtFinder
from lattica.errors import NoDhtPeersError


async def test_it_is_told_when_there_is_one_and_of_what_is_still_here(autojump_clock):
    start = trio.current_time()
    told: list[bytes] = []

    async def provide(key: bytes) -> int:
        if trio.current_time() - start < 100:
            raise NoDhtPeersError("nobody is there")
        told.append(key)
        return 1

    node: Any = SimpleNamespace(dht=SimpleNamespace(provide=provide))
    finder, kept, gone = DhtFinder(node), Cid.of(b"kept"), Cid.of(b"gone")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(finder.provide, kept)
        await finder.provide(gone, is_here=lambda: trio.current_time() - start < 50)
    assert [key[2:] for key in told] == [kept.digest]
