"""Who has subscribed here, and whom of them the streams of peers wait for."""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio.lowlevel import ParkingLot

from lattica.dht.topics.service.subscription import Subscription
from lattica.dht.topics.signing import Message


class Subscribers:
    """The subscriptions of all topics.

    Args:
        lagging_after: seconds after which one whose queue is full holds up nobody any more.
        on_first, on_last: are told of topics that somebody subscribes to, and nobody any more.
    """

    def __init__(
        self,
        lagging_after: float,
        *,
        on_first: Callable[[str], object],
        on_last: Callable[[str], object],
    ) -> None:
        self._lagging_after = lagging_after
        self._on_first = on_first
        self._on_last = on_last
        self._lines: dict[str, list[Subscription]] = {}
        self._crowded: dict[Subscription, float] = {}
        """Those that hold up peers, and since when."""
        self._reading = ParkingLot()
        """Where streams of peers wait for them."""
        self._closed = False

    @property
    def topics(self) -> dict[str, int]:
        """The topics that somebody has subscribed to, and how many have."""
        return {name: len(line) for name, line in self._lines.items()}

    @property
    def hold_up(self) -> bool:
        """Whether peers have to wait for somebody."""
        return bool(self._crowded)

    def attach(self, subscription: Subscription) -> None:
        """A subscriber is there."""
        line = self._lines.setdefault(subscription.topic, [])
        line.append(subscription)
        if len(line) == 1:
            self._on_first(subscription.topic)

    def detach(self, subscription: Subscription) -> None:
        """A subscriber is gone."""
        line = self._lines.get(subscription.topic, [])
        if subscription in line:
            line.remove(subscription)
            self.emptied(subscription)
            if not line and not self._closed:
                del self._lines[subscription.topic]
                self._on_last(subscription.topic)

    def emptied(self, subscription: Subscription) -> None:
        """A subscriber holds up nobody any more."""
        if self._crowded.pop(subscription, None) is not None and not self._crowded:
            self._reading.unpark_all()

    def close(self) -> None:
        """No more messages come."""
        self._closed = True
        for line in self._lines.values():
            for subscription in line:
                subscription.close()

    def deliver(self, message: Message) -> None:
        """A message for all who have subscribed to its topic."""
        for subscription in self._lines.get(message.topic, ()):
            subscription.put(message)
            if subscription.is_full and not subscription.lagging:
                self._crowded.setdefault(subscription, trio.current_time())

    async def wait_for_room(self) -> None:
        """Until those whose queues are full have taken something, or lag behind."""
        while self._crowded:
            first = min(self._crowded.values())
            with trio.move_on_at(first + self._lagging_after):
                await self._reading.park()
            now = trio.current_time()
            late = [
                one for one, since in self._crowded.items() if now - since >= self._lagging_after
            ]
            for subscription in late:
                subscription.lagging = True
                self.emptied(subscription)
