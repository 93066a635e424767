"""Presence in a shared document, as its users see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from lattica.crdt.base.canonical import Plain
from lattica.crdt.keys.identities import peer_of
from lattica.crdt.sync.presence import PresenceTable, Statement, sign_presence
from lattica.nat.base.keys.identity import Identity, PeerId

INTERVALS: Final = 3
"""Of silence after which somebody is taken for gone."""


class Presence:
    """Who has the document open and says so: `document.presence.set({"load": 0.5})`.

    Nothing of it is kept on disk or in the document. For the trio thread only.
    """

    def __init__(
        self,
        identity: Identity,
        doc_id: bytes,
        interval: float,
        *,
        may_tell: Callable[[bytes], bool],
        tell: Callable[[bytes, bytes], None],
        on_change: Callable[[PeerId], None],
        seal: Callable[[Plain], Plain],
        unseal: Callable[[bytes, Plain], Plain],
    ) -> None:
        self._identity = identity
        self._doc_id = doc_id
        self._interval = interval
        self._table = PresenceTable(doc_id, may_tell)
        self._tell = tell
        self._on_change = on_change
        self._seal = seal
        self._unseal = unseal
        self._counter = 0
        self._value: Plain = None
        self._is_set = False

    def set(self, value: Plain = None) -> None:
        """Be there, and say something of oneself, until :meth:`clear` or the end of the document.

        Raises:
            LocalProtocolError: the value is no plain data, or of more than 1,024 bytes (in a sealed
                document, where readers alone read it, 950).
            AccessDeniedError: the document is sealed, and this peer has no read key.
        """
        self._say(value, int(self._interval * INTERVALS * 1000))
        self._value, self._is_set = value, True

    def clear(self) -> None:
        """Be gone, for everyone who hears of it."""
        if self._is_set:
            self._is_set = False
            self._say(None, 0)

    def peers(self) -> dict[PeerId, Plain]:
        """Who is there, and what each has said last, this node too."""
        return {
            peer_of(each.identity): self._unseal(each.identity, each.value)
            for each in self._table.here(trio.current_time())
        }

    def _say(self, value: Plain, holds: int) -> None:
        # Above what an earlier life of this node has said.
        counter = max(self._counter + 1, time.time_ns() // 1_000_000)
        said = self._seal(value)
        statement = sign_presence(self._identity, self._doc_id, counter, holds, said)
        self._counter = counter
        self._table.put(statement, trio.current_time())
        self._tell(statement.identity, statement.encoded)
        self._on_change(self._identity.peer_id)

    # For the document.

    def take(self, data: bytes) -> None:
        """A peer has sent a statement. Raises RemoteProtocolError."""
        taken = self._table.take(data, trio.current_time())
        if taken is None or taken[0].identity == self._identity.public_key.data:
            return
        statement, before = taken
        identity = statement.identity
        self._tell(identity, statement.encoded)
        is_there = statement.holds > 0
        if is_there != (before is not None) or (
            # What is sealed is another value each time.
            before is not None
            and self._unseal(identity, before.value) != self._unseal(identity, statement.value)
        ):
            self._on_change(peer_of(identity))

    def statements(self) -> list[Statement]:
        """What a peer that comes is to be told."""
        return self._table.here(trio.current_time())

    async def run(self) -> None:
        """Say it again and again, and notice who is silent; until cancelled."""
        said = trio.current_time()
        while True:
            await trio.sleep(self._interval / 5)
            now = trio.current_time()
            for identity in self._table.expire(now):
                self._on_change(peer_of(identity))
            if self._is_set and now - said >= self._interval * 0.9:
                said = now
                self._say(self._value, int(self._interval * INTERVALS * 1000))
