"""A process that makes many connections to one node: `python -m tests.loopback.commands.dialers …`.

`after ADDR COUNT WORKERS` makes COUNT connections, WORKERS at a time: each is set up, is
served on a stream, and ends. `at-once ADDR COUNT` holds COUNT of them until a line arrives
on standard input. Both print a line when all have been served. Each has a key of its own.
"""

from __future__ import annotations

import sys
from typing import Any

import trio

from lattica.nat.base.net.multiaddr import Multiaddr
from tests.support.attacker import Attacker, attacking, propose, syn
from tests.support.nets.nets import ECHO

_WORDS = b"am I served?"


async def be_served(peer: Attacker) -> None:
    """Have a few words echoed."""
    agreement = propose(ECHO)
    await peer.set_up()
    await peer.send_frames(syn(1, agreement + _WORDS))
    assert await peer.answer(1, len(agreement + _WORDS)) == agreement + _WORDS


async def after_one_another(addr: Multiaddr, count: int, workers: int) -> None:
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            async with attacking(addr) as peer:
                await be_served(peer)

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(work)
    print("served", flush=True)


async def at_once(addr: Multiaddr, count: int) -> None:
    connected, served, release = 0, 0, trio.Event()

    async def work() -> None:
        nonlocal connected, served
        async with attacking(addr) as peer:
            connected += 1
            while connected < count:  # all of them begin together
                await trio.sleep(0.01)
            await be_served(peer)
            served += 1
            if served == count:
                print("served", flush=True)
            await release.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(work)
        await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        release.set()


if __name__ == "__main__":
    mode, target, *numbers = sys.argv[1:]
    function: Any = after_one_another if mode == "after" else at_once
    trio.run(function, Multiaddr(target), *map(int, numbers))
