"""What a DHT does at its end where that fails."""

from __future__ import annotations

import pytest

from tests.support.doubles.memory_dht import memory_dht_net
from tests.support.leaves import raises_leaf


async def test_who_closes_it_is_not_left_waiting_when_its_end_fails(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async def fail() -> None:
        raise RuntimeError("can't start new thread")

    closed = False
    with raises_leaf(RuntimeError, "can't start new thread"):
        async with memory_dht_net() as net:
            dht = net.add()
            await dht._loaded.wait()
            monkeypatch.setattr(dht._keeper, "aclose", fail)
            await dht.aclose()
            closed = True
    assert closed
