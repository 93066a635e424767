"""Providers as they are found."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

import trio

from lattica.dht.records.found import FoundPeer
from lattica.nat.base.keys.peer_id import PeerId


class ProviderStream:
    """An async iterator of :class:`~lattica.dht.records.found.FoundPeer`, each peer once.

    What is found waits here until it is taken; a lookup finds no more than its questions have
    answers. `async with`, or :meth:`aclose`, ends the lookup; otherwise it ends by itself.
    """

    def __init__(self, count: int | None) -> None:
        self._left = count
        self.found = 0
        """Peers so far."""
        self._found: deque[FoundPeer] = deque()
        self._seen: set[PeerId] = set()
        self._changed = trio.Event()
        self._scope = trio.CancelScope()
        self._is_over = False
        self._error: Exception | None = None

    @property
    def scope(self) -> trio.CancelScope:
        """Ends the lookup."""
        return self._scope

    def put(self, peer: FoundPeer) -> bool:
        """One more, if it is not known yet; whether these are enough."""
        if self._left == 0:
            return True
        if peer.peer_id in self._seen:
            return False
        self._seen.add(peer.peer_id)
        self._found.append(peer)
        self.found += 1
        self._changed.set()
        if self._left is not None:
            self._left -= 1
        return self._left == 0

    def has(self, peer_id: PeerId) -> bool:
        """Whether a peer is not wanted any more: it was found, or there are enough."""
        return self._left == 0 or peer_id in self._seen

    def end(self, error: Exception | None = None) -> None:
        """There will be no more. The error is raised after what was found."""
        if not self._is_over:
            self._is_over = True
            self._error = error
            self._changed.set()

    def put_back(self, peer: FoundPeer) -> None:
        """It came to nobody: it is the next again."""
        self._found.appendleft(peer)
        self._changed.set()

    def close(self) -> None:
        """Give the lookup up; what was found and not taken is dropped."""
        self._scope.cancel()
        self._found.clear()
        self._is_over = True
        self._changed.set()

    async def aclose(self) -> None:
        """:meth:`close`, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FoundPeer:
        await trio.lowlevel.checkpoint()
        while not self._found:
            if self._is_over:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            if self._changed.is_set():  # several may wait
                self._changed = trio.Event()
            await self._changed.wait()
        return self._found.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
