"""What a store needs of others and does not know: how news is spread, and how peers are found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from lattica.nat.base.keys.identity import PeerId


class Topic(Protocol):
    """What is said on it reaches everyone who has subscribed, sooner or later or not at all."""

    async def publish(self, data: bytes, /) -> None:
        """Say something, at most 1 MiB. Waits while there is too much to send."""
        ...

    def subscribe(
        self, is_fit: Callable[[bytes], bool], /
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[PeerId, bytes]]]:
        """What others say from now on, and who has said it. What is not fit is not passed on."""
        ...

    def peers(self) -> Collection[PeerId]:
        """The connected peers that have subscribed."""
        ...


class Topics(Protocol):
    """Topics by name."""

    def __call__(self, name: str, /) -> Topic: ...


class Discovery(Protocol):
    """Peers who have something, by 32 bytes that stand for it."""

    async def advertise(self, key: bytes, /) -> None:
        """Say that this node has it. Said again now and then."""
        ...

    def find(self, key: bytes, /) -> AsyncIterator[PeerId]:
        """Peers who have said so; a host can connect to each by its ID."""
        ...
