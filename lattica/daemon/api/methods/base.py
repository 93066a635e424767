"""What the methods stand on: a member, and where responses go."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from lattica.daemon.node.member import Member

M = TypeVar("M")

QUEUE = 64
"""Responses that wait for a client."""


class MemberMethods:
    """A part of the service."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.node = member.node


class Emit(Generic[M]):
    """Where a method with many responses puts them."""

    def __init__(self, channel: trio.MemorySendChannel[M]) -> None:
        self._channel = channel

    async def send(self, message: M) -> None:
        """Wait until there is room: what the client has to get."""
        await self._channel.send(message)

    def offer(self, message: M) -> None:
        """Drop it where there is no room: progress, of which more will come."""
        with suppress(trio.WouldBlock):
            self._channel.send_nowait(message)
