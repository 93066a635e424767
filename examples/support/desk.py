"""Where the peers of an example say that they are there."""

from __future__ import annotations

import trio

from lattica import PeerId
from lattica.rpc import CallContext


class Desk:
    """What the first process serves."""

    def __init__(self, expected: int) -> None:
        self.addresses: dict[PeerId, str] = {}
        self.is_full = trio.Event()
        self._expected = expected

    async def join(self, address: str, context: CallContext) -> None:
        self.addresses[context.peer] = address
        if len(self.addresses) == self._expected:
            self.is_full.set()
