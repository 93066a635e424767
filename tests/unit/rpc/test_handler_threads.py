"""What networks have of the threads of handlers."""

from __future__ import annotations

from typing import cast

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from lattica.rpc.server.threads import HandlerThreads
from lattica.rpc.server.workers import Workers


def shares_of(limit: int) -> HandlerThreads:
    """Threads in which nothing is run."""
    return HandlerThreads(cast("Workers", None), limit)


async def test_one_network_leaves_some_to_others() -> None:
    threads = shares_of(64)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(threads.acquire, "greedy")
        await wait_all_tasks_blocked()
        assert threads.in_use == 56
        for _ in range(7):
            with trio.fail_after(0):
                await threads.acquire("modest")
        assert threads.in_use == 63
        nursery.cancel_scope.cancel()


async def test_whoever_has_least_is_served_first() -> None:
    threads = shares_of(2)
    for _ in range(2):
        await threads.acquire("greedy")
    served: list[str] = []

    async def take(network: str) -> None:
        await threads.acquire(network)
        served.append(network)

    async with trio.open_nursery() as nursery:
        for network in ("greedy", "greedy", "modest"):
            nursery.start_soon(take, network)
            await wait_all_tasks_blocked()
        assert not served
        for _ in range(2):
            threads.release("greedy")
            await wait_all_tasks_blocked()
        assert served == ["modest", "greedy"]
        threads.release("modest")


async def test_a_cancelled_wait_takes_nothing() -> None:
    threads = shares_of(1)
    await threads.acquire("a")
    async with trio.open_nursery() as nursery:
        for network in "abb":
            nursery.start_soon(threads.acquire, network)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        # Before those who were cancelled have run.
        threads.release("a")
    assert threads.in_use == 0
    await threads.acquire("b")


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("take", "release", "cancel")))),
)
def test_nobody_waits_beside_a_thread_that_is_theirs(
    limit: int, steps: list[tuple[str, str]]
) -> None:
    async def run() -> None:
        threads = shares_of(limit)
        held: dict[str, int] = dict.fromkeys("abc", 0)
        scopes: dict[str, list[trio.CancelScope]] = {network: [] for network in "abc"}

        async def take(network: str) -> None:
            with trio.CancelScope() as scope:
                scopes[network].append(scope)
                try:
                    await threads.acquire(network)
                    held[network] += 1
                finally:
                    scopes[network].remove(scope)

        async with trio.open_nursery() as nursery:
            for network, step in steps:
                if step == "take":
                    nursery.start_soon(take, network)
                elif step == "release" and held[network]:
                    held[network] -= 1
                    threads.release(network)
                elif step == "cancel" and scopes[network]:
                    scopes[network][0].cancel()
                await wait_all_tasks_blocked()
                assert threads.in_use == sum(held.values()) <= limit
                for waiting in "abc":
                    if scopes[waiting]:
                        assert held[waiting] >= 7 * (limit - threads.in_use)
            nursery.cancel_scope.cancel()

    trio.run(run)
