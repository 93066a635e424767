"""What is to be sent to one peer: questions of ours, of which only the last state counts, and
answers, in order."""

from __future__ import annotations

from collections import deque
from itertools import islice

import trio

from lattica.content.bitswap.messages import MAX_WANTS, Message, Want

_MAX_ANSWERS = 64
"""That may wait; whoever has more to send waits for the peer to take some."""


class Outbox:
    """Filled by several tasks, and emptied by one."""

    def __init__(self) -> None:
        self._cancels: dict[bytes, Want] = {}
        self._wants: dict[bytes, Want] = {}
        self._answers: deque[Message] = deque()
        self._filled = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._closed = False

    def __bool__(self) -> bool:
        """Something waits to be sent."""
        return bool(self._cancels or self._wants or self._answers)

    def ask(self, message: Message) -> None:
        """Send wants; a later one for the same block takes the place of one that has not gone.

        One that is taken back and wanted anew goes in two messages: in a single one, whether the
        peer looks for it depends on the peer.
        """
        for want in message.wants:
            waiting = self._wants.pop(want.cid, None)
            if not want.cancel:
                self._wants[want.cid] = want
            elif waiting is None:
                self._cancels[want.cid] = want
        self._filled.set()

    async def answer(self, message: Message) -> None:
        """Send an answer. Waits while the peer takes none.

        Raises:
            trio.BrokenResourceError: the peer has gone.
        """
        while len(self._answers) >= _MAX_ANSWERS and not self._closed:
            await self._room.park()
        if self._closed:
            raise trio.BrokenResourceError
        self._answers.append(message)
        self._filled.set()

    async def take(self) -> Message:
        """Wait for the next message to the peer."""
        while not self:
            self._filled = trio.Event()
            await self._filled.wait()
        for waiting in (self._cancels, self._wants):
            if waiting:
                wants = tuple(islice(waiting.values(), MAX_WANTS))
                for want in wants:
                    del waiting[want.cid]
                return Message(wants=wants)
        message = self._answers.popleft()
        self._room.unpark()
        return message

    def close(self) -> None:
        """The peer has gone: whoever waits to answer it is told."""
        self._closed = True
        self._room.unpark_all()
