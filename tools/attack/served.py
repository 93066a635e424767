"""What a victim serves by RPC: one method of each kind that strangers can make something of."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import trio

from lattica.rpc.leases.ref import BufferRef
from lattica.rpc.services.context import CallContext

_ITEM = bytes(256 * 1024)
BLOCKS = 0.1
"""Seconds that :meth:`Served.block` takes."""
LENT = 64 * 1024
"""Bytes of what is lent to whoever asks."""


class Served:
    """A service."""

    async def echo(self, value: Any) -> Any:
        """The value."""
        return value

    def block(self) -> None:
        """Be busy for a while, in a thread."""
        time.sleep(BLOCKS)

    async def wait(self) -> None:
        """Do not return."""
        await trio.sleep_forever()

    async def items(self) -> AsyncIterator[bytes]:
        """Items without end."""
        while True:
            yield _ITEM

    async def count(self, items: AsyncIterator[bytes]) -> int:
        """How many items have come."""
        return sum([1 async for _ in items])

    async def lend(self, ctx: CallContext) -> BufferRef:
        """A buffer of the caller's own."""
        return ctx.share(bytearray(LENT), ttl=20)
