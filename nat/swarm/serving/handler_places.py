"""So many handlers at once, and whose streams they get: the places of `handle(..., limit=)`.

Streams that find no place wait, unread. A place that becomes free goes to the peer that has fewest
(:mod:`lattica.nat.base.limits.places`). Whoever has waited some seconds gets the place of a stream
of another peer that has more, or that has sent nothing or has been idle for some seconds: that
stream is reset. Only a handler that waits for its peer loses its place so; one at work keeps it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from lattica.nat.base.limits.places import Places, Source
from lattica.nat.mux.stream import Stream

_PATIENCE = 3.0
"""Seconds that a stream waits before it is given another's place."""
_UNPROVEN_AFTER, _IDLE_AFTER = 3.0, 5.0
"""Seconds after which a stream that nothing came on, or that is idle, yields to any other peer."""
_TICK = 0.5
"""Seconds between two looks at who has to yield, while somebody waits."""
_AT_ONCE = 8
"""Streams that get another's place in one look."""


@dataclass(slots=True, eq=False)
class _Holder:
    stream: Stream
    source: Source
    came: float
    progress: tuple[float, int]
    admitted: bool = False
    wakened: trio.Event = field(default_factory=trio.Event)


class HandlerPlaces:
    """Bounds the handlers that run at once, with places that peers share.

    Args:
        limit: how many run at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._places = Places[_Holder](
            limit, idle_after=_IDLE_AFTER, unproven_after=_UNPROVEN_AFTER
        )
        self._running = 0
        """Handlers that have not returned, those that have lost their place among them."""
        self._waiting: dict[_Holder, None] = {}
        """Without a place, the first first."""
        self._entitled: deque[_Holder] = deque()
        """With the place of a handler that has not returned yet."""
        self._looked_at = 0.0

    @asynccontextmanager
    async def of(self, stream: Stream) -> AsyncIterator[None]:
        """Hold a place; waits for one. If cancelled meanwhile, nobody is harmed."""
        holder = _Holder(stream, stream.source, trio.current_time(), stream.progress)
        self._waiting[holder] = None
        self._admit()
        try:
            while not holder.admitted:
                with trio.move_on_after(_TICK):
                    await holder.wakened.wait()
                if not holder.admitted:
                    self._look(trio.current_time())
            yield
        finally:
            self._leave(holder)

    def _leave(self, holder: _Holder) -> None:
        self._places.leave(holder)
        if holder.admitted:
            self._running -= 1
        elif holder in self._entitled:
            self._entitled.remove(holder)
        else:
            del self._waiting[holder]
        self._admit()

    def _admit(self) -> None:
        """Give away what is free."""
        while self._running < self.limit and (self._entitled or self._waiting):
            if self._entitled:
                holder = self._entitled.popleft()
            else:
                holder = min(self._waiting, key=self._rank)
                del self._waiting[holder]
                self._places.enter(holder, holder.source, trio.current_time())
            holder.admitted = True
            holder.wakened.set()
            self._running += 1

    def _rank(self, holder: _Holder) -> tuple[int, int, float]:
        """Those of a network that has few places come before many keys of one that has most."""
        places, source = self._places, holder.source
        return places.share_of_network(source), places.share_of(source), holder.came

    def _look(self, now: float) -> None:
        """Who has waited long gets the place of whoever has to yield."""
        if now < self._looked_at + _TICK:
            return
        self._looked_at = now
        for holder in self._places:
            progress = holder.stream.progress
            if progress != holder.progress or not holder.stream.is_awaited:
                holder.progress = progress
                self._places.progress(holder, now)
        late = [holder for holder in self._waiting if now - holder.came >= _PATIENCE]
        for holder in sorted(late, key=self._rank)[:_AT_ONCE]:
            dropped = self._places.enter(holder, holder.source, now)
            if dropped is None:
                continue
            if not all(self._yields(victim, holder) for victim in dropped):
                self._places.leave(holder)
                for victim in dropped:
                    self._places.enter(victim, victim.source, now, proven=True)
                continue
            del self._waiting[holder]
            self._entitled.append(holder)
            for victim in dropped:
                victim.stream.reset("its place was needed by somebody who had none")
        self._admit()

    @staticmethod
    def _yields(victim: _Holder, holder: _Holder) -> bool:
        """Others' streams only, whose handlers wait for what their peer does not do."""
        return (
            victim.admitted
            and victim.source.peer != holder.source.peer
            and victim.stream.is_awaited
        )
