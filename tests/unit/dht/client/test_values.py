"""What a node puts."""

from __future__ import annotations

import trio

from tests.support.doubles.memory_dht import memory_dht_net


async def test_what_is_put_in_one_place_at_the_same_time_is_put_one_after_the_other(
    autojump_clock,
):
    """Peers had a later one already, and it was said that none has kept the earlier one."""
    async with memory_dht_net() as net:
        owner, *others = (net.add() for _ in range(3))
        for other in others:
            await owner._host.connect(other._host.peer_id)
        await owner.wait_ready()
        held = []

        async def put(number: int) -> None:
            held.append(await owner.put("key", number))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(put, number)
        assert held == [2] * 8
        await owner.put("key", "last")
        found = await others[0].get("key")
        assert found is not None
        assert found.value == "last"
        assert not owner._values._puts
