"""A value that one task sets and others wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio
from trio.lowlevel import ParkingLot

T = TypeVar("T")


class Watched(Generic[T]):
    """The latest of a value, in :attr:`value`; whoever waits is woken when it changes.

    Only the latest is kept: :meth:`set` never waits, and whoever is slow misses what was in
    between. Values are compared by `==`, and are not to be changed in place.
    """

    __slots__ = ("_value", "_waiting")

    def __init__(self, value: T) -> None:
        self._value = value
        self._waiting = ParkingLot()

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        """Replace the value."""
        if value != self._value:
            self._value = value
            self._waiting.unpark_all()

    async def wait_until(self, accept: Callable[[T], bool]) -> T:
        """Wait until the value is one that `accept` is true of, and return it.

        At once if it is already. A value that is replaced again before this task runs does not
        count. A checkpoint, and may be cancelled at any time.
        """
        await trio.lowlevel.checkpoint()
        while not accept(self._value):
            await self._waiting.park()
        return self._value

    async def wait_changed(self, seen: T) -> T:
        """Wait until the value is not `seen`, the last that the caller knows, and return it."""
        return await self.wait_until(lambda value: value != seen)
