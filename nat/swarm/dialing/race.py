"""A race of several attempts at one thing, each started a little after the one before.

After RFC 8305 ("Happy Eyeballs Version 2", section 5), for any kind of candidate: the caller brings
them in order of preference (:mod:`lattica.nat.base.net.addresses`) and says how one is dialed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

from lattica.nat.base.errors import DialAttempt, DialError, LatticaError

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)


async def race(
    candidates: Sequence[T],
    dial: Callable[[T], Awaitable[R]],
    *,
    stagger: float,
    timeout_each: float,
    timeout_total: float,
    discard: Callable[[R], object],
    target: object,
) -> R:
    """Return the result of the first `dial` that succeeds; cancel the others.

    Candidates start in order, `stagger` seconds apart, and at once when an attempt under way
    fails. One attempt may take `timeout_each` seconds, all of them `timeout_total`.

    `dial` has to release what it holds when it is cancelled. An attempt may succeed in the
    moment in which another has won, or the caller is cancelled: such a result is never lost,
    but given to `discard`, which must not block (for a connection: its `abort`).

    Cancellation: safe at any point. When this returns or raises, no attempt is running, and
    every result is either returned or discarded.

    Raises:
        DialError: none succeeded; `attempts` has one entry per candidate, in order, also for
            those that were not tried for lack of time. `target` is named in the message.
    """
    state: _Race[T, R] = _Race(dial, discard, timeout_each)
    try:
        with trio.move_on_after(timeout_total):
            await state.run(candidates, stagger)
        if state.won:
            return state.take_winner()
        late = f"gave up after {timeout_total:g} s in total"
        raise DialError(
            target,
            [
                DialAttempt(
                    str(candidate),
                    state.errors.get(
                        index, late if index < state.started else f"not tried: {late}"
                    ),
                    state.causes.get(index),
                )
                for index, candidate in enumerate(candidates)
            ],
        )
    except BaseException:
        state.discard_winner()
        raise
    finally:
        state.causes.clear()  # each has the frame of an attempt, which has the state


class _Race(Generic[T, R]):
    """The state that the attempts of one race share."""

    def __init__(
        self,
        dial: Callable[[T], Awaitable[R]],
        discard: Callable[[R], object],
        timeout_each: float,
    ) -> None:
        self.errors: dict[int, str] = {}
        self.causes: dict[int, Exception] = {}
        self.started = 0
        self._winners: list[R] = []  # one at most; a list, as None may be a result
        self._dial = dial
        self._discard = discard
        self._timeout_each = timeout_each
        self._failed = trio.Event()

    @property
    def won(self) -> bool:
        return bool(self._winners)

    async def run(self, candidates: Sequence[T], stagger: float) -> None:
        async with trio.open_nursery() as nursery:
            for index, candidate in enumerate(candidates):
                self._failed = trio.Event()
                self.started = index + 1
                nursery.start_soon(self._attempt, index, candidate, nursery.cancel_scope)
                if self.started < len(candidates):
                    with trio.move_on_after(stagger):
                        await self._failed.wait()
                    if self._winners:  # one failed and another won in the same moment
                        break

    async def _attempt(self, index: int, candidate: T, scope: trio.CancelScope) -> None:
        try:
            with trio.move_on_after(self._timeout_each) as limit:
                result = await self._dial(candidate)
                # No checkpoint from here on: a result in hand is either kept or discarded.
                if self._winners:
                    self._throw_away(result)
                else:
                    self._winners.append(result)
                    scope.cancel()
            if not limit.cancelled_caught:
                return
            self.errors[index] = f"timed out after {self._timeout_each:g} s"
        except (LatticaError, OSError) as error:
            self.errors[index] = _reason(error)
            self.causes[index] = error
        except trio.TooSlowError:
            self.errors[index] = "timed out"
        except Exception as error:
            # A bug in one transport must not take away the other ways to the peer.
            logger.exception("unexpected error while dialing %s", candidate)
            self.errors[index] = repr(error)
            self.causes[index] = error
        self._failed.set()

    def take_winner(self) -> R:
        return self._winners.pop()

    def discard_winner(self) -> None:
        if self._winners:
            self._throw_away(self._winners.pop())

    def _throw_away(self, result: R) -> None:
        try:
            self._discard(result)
        except Exception:
            logger.exception("unexpected error while discarding %r", result)


def _reason(error: LatticaError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
