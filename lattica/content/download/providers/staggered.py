"""Asking one provider, and each few seconds another one as well, until what is asked for is there.

For what a fetch begins with, before work is spread over all providers: whoever is asked first may
be down, slow, or hostile, and sends just enough not to count as lost. Nobody is waited for alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeVar

import trio

from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import LatticaError

P = TypeVar("P")

STAGGER: Final = 5.0
"""Seconds after which another provider is asked, too."""
MOST_ASKED: Final = 4
"""At a time; beyond that, who was asked first yields to the next one."""


async def ask_staggered(
    providers: AsyncGenerator[P, None],
    ask: Callable[[P], Awaitable[None]],
    failed: Callable[[P, Exception], object],
    is_enough: Callable[[], bool] = lambda: False,
) -> bool:
    """Ask providers until `ask` returns for one of them; the others are cancelled then.

    After each :data:`STAGGER` seconds another one is asked, unless `is_enough` says that what has
    come since the last time is enough.

    Whoever fails (LatticaError, TimeoutError) is told to `failed`, and the next one is asked at
    once. Returns False if all have failed. Other errors, and what `failed` raises, go through.
    """
    running: dict[int, trio.CancelScope] = {}
    ended = trio.Event()
    done = False

    async def one(number: int, scope: trio.CancelScope, provider: P) -> None:
        nonlocal done
        try:
            with scope:
                await ask(provider)
                done = True
                nursery.cancel_scope.cancel()
        except (LatticaError, TimeoutError) as error:
            failed(provider, error)
        finally:
            if running.pop(number, None) is not None:
                ended.set()

    with single_error():
        async with trio.open_nursery() as nursery, aclosing(providers):
            number = 0
            async for provider in providers:
                while len(running) >= MOST_ASKED:
                    running.pop(min(running)).cancel()
                number += 1
                running[number] = trio.CancelScope()
                ended = trio.Event()
                nursery.start_soon(one, number, running[number], provider)
                is_late = True
                while is_late and running:
                    with trio.move_on_after(STAGGER) as late:
                        await ended.wait()
                    is_late = late.cancelled_caught and is_enough()
    return done
