"""Work on values of very many parts: one at a time for each network."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lattica.rpc.data_plane.heavy import MANY_ITEMS, HeavyWork, is_heavy


@pytest.mark.parametrize(
    ("value", "heavy"),
    [
        ("x" * 10**6, False),
        (bytes(10**6), False),
        ([0] * MANY_ITEMS, False),
        ([0] * (MANY_ITEMS + 1), True),
        (tuple(range(MANY_ITEMS + 1)), True),
        ({n: n for n in range(MANY_ITEMS + 1)}, True),
        ([[[0] * 100] * 10] * 10, True),
        ([{"a": {1, 2, 3}}] * 100, False),
    ],
)
def test_what_is_heavy(value: Any, heavy: bool) -> None:
    assert is_heavy(value) is heavy


async def test_a_network_has_one_turn_at_a_time_and_others_have_theirs(
    autojump_clock: MockClock,
) -> None:
    work = HeavyWork()
    order: list[str] = []

    async def message(network: str, name: str) -> None:
        async with work.message(network):
            order.append(f"{name} begins")
            await trio.sleep(1)
            order.append(f"{name} ends")

    async with trio.open_nursery() as nursery:
        for network, name in (("a", "1"), ("a", "2"), ("a", "3"), ("b", "4")):
            nursery.start_soon(message, network, name)
            await wait_all_tasks_blocked()
        assert order == ["1 begins", "4 begins"]
        # An answer goes before messages that have not begun, but for the one that is next.
        await work.answer("a", lambda: order.append("answer"))
    of_a = [each for each in order if "4" not in each]
    assert of_a.index("answer") < of_a.index("3 begins")
    for name in "123":
        assert of_a.index(f"{name} ends") == of_a.index(f"{name} begins") + 1
    assert not work._lines


async def test_who_is_cancelled_or_fails_gives_its_turn_up() -> None:
    work = HeavyWork()
    async with work.message("a"):
        with trio.move_on_after(0):
            async with work.message("a"):
                pass
    with pytest.raises(ZeroDivisionError):
        await work.answer("a", lambda: 1 // 0)
    assert not work._lines
