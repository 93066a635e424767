"""From a name to what it leads to: the owner is asked, and the DHT; of own names, who has them."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from lattica.content.errors import NameNotFoundError
from lattica.content.names.messages import MAX_RECORD, NAMES, NameQuestion, encode_question
from lattica.content.names.record import (
    NameRecord,
    NameRef,
    name_key,
    open_name,
    read_target,
)
from lattica.content.names.service import names_of
from lattica.content.swarm.dht_finder import dht_finder
from lattica.dht.errors import DhtError
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import (
    LatticaError,
    RemoteProtocolError,
    UnsupportedProtocolError,
)
from lattica.nat.base.net.addresses import with_peer

if TYPE_CHECKING:
    from lattica.node import Node

logger = logging.getLogger(__name__)

ASK_TIMEOUT = 8.0
"""Seconds that the owner has to answer, and the DHT."""
_OWN_WORD = 2.0
"""Seconds that the owner has when the DHT has answered."""
_LOOK_EVERY = 60.0
"""Seconds between two looks at a name whose owner cannot be asked, at most."""


class NameResolver:
    """Asks for names on behalf of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def resolve(self, ref: NameRef, *, timeout: float = ASK_TIMEOUT) -> NameRecord:
        """What a name leads to: the owner's own word if it answers, else the newest of the DHT.

        Raises:
            NameNotFoundError: the owner has no such name, or has withdrawn it, or neither knows it.
        """
        found: NameRecord | None = None
        withdrawn: NameNotFoundError | None = None
        answered = False
        reason = f"nobody has answered within {timeout:g} s"
        with trio.move_on_after(timeout), single_error():
            async with trio.open_nursery() as nursery:

                async def ask_owner() -> None:
                    nonlocal found, answered, reason
                    try:
                        found = await self._ask(ref)
                    except UnsupportedProtocolError:
                        reason = "its owner publishes nothing by a name (`lattica publish --name`)"
                        return
                    except (LatticaError, TimeoutError) as error:
                        reason = f"its owner could not be asked: {error}"
                        return
                    answered = True
                    nursery.cancel_scope.cancel()

                nursery.start_soon(ask_owner)
                if self._uses_dht:
                    record = None
                    try:
                        record = await self._look_up(ref)
                    except NameNotFoundError as error:
                        withdrawn = error
                    if not answered and (record is not None or withdrawn is not None):
                        found = record
                        # Its own word may be newer, but may not be waited for long.
                        nursery.cancel_scope.deadline = trio.current_time() + _OWN_WORD
        if found is None:
            if withdrawn is not None:
                raise withdrawn
            if answered:
                reason = "its owner does not have it"
            raise NameNotFoundError(f"the name {ref} leads nowhere: {reason}", is_denied=answered)
        return found

    async def wait_newer(self, ref: NameRef, sequence: int) -> NameRecord:
        """Wait for a record of a name with a higher sequence, however long it takes; from the owner
        also for one with a lower: it has begun anew, by a clock that was ahead before.

        The owner says so at once as long as it can be reached; otherwise it is asked again, and
        the DHT looked at, after pauses of up to a minute.
        """
        failures = 0
        while True:
            record: NameRecord | None = None
            asked_at = trio.current_time()
            try:
                record = await self._ask(ref)
                if record is not None and record.sequence == sequence:
                    record = await self._ask(ref, sequence)
                if record is not None:
                    return record
            except (LatticaError, TimeoutError) as error:
                logger.info("the owner of %s cannot be asked: %s", ref, error)
            if self._uses_dht:
                with trio.move_on_after(ASK_TIMEOUT), suppress(NameNotFoundError):
                    record = await self._look_up(ref)
            if record is not None and record.sequence > sequence:
                return record
            # It has been there for a while, and may only be starting anew.
            failures = 1 if trio.current_time() - asked_at > _LOOK_EVERY else failures + 1
            await trio.sleep(min(_LOOK_EVERY, 2.0**failures))

    @property
    def _uses_dht(self) -> bool:
        return dht_finder(self._node) is not None

    async def _ask(self, ref: NameRef, sequence: int = 0) -> NameRecord | None:
        """The owner's word; None: it has no such name. Waits until it is newer than `sequence`."""
        node = self._node
        if ref.peer_id == node.peer_id:
            names = names_of(node)
            if names is None:
                raise NameNotFoundError("this very peer has no names open")
            return await names.newer(ref.name, sequence)
        addrs = [with_peer(address, ref.peer_id) for address in ref.addrs]
        peer = await node.connect(addrs or ref.peer_id)
        async with await node.open_stream(peer, NAMES) as stream:
            await stream.send_message(encode_question(NameQuestion(ref.name, sequence)))
            # Without a limit of its own: the connection notices a peer that is gone.
            data = await stream.receive_message(MAX_RECORD)
            if not data:
                return None
            record = open_name(data, ref.peer_id, ref.name)
            if record.sequence <= sequence:
                raise RemoteProtocolError("a peer calls an old record of a name a new one")
            return record

    async def _look_up(self, ref: NameRef) -> NameRecord | None:
        """What the DHT knows; None: nothing.

        Raises:
            NameNotFoundError: its owner has withdrawn it.
        """
        try:
            found = await self._node.dht.get(name_key(ref.peer_id, ref.name), owner=ref.peer_id)
        except DhtError as error:
            logger.info("the DHT does not tell where %s leads: %s", ref, error)
            return None
        if found is None or found.newest.subkey is not None:
            return None
        newest = found.newest
        try:
            target = read_target(newest.value)
        except RemoteProtocolError as error:
            logger.warning("the name %s leads to what is no content: %s", ref, error)
            return None
        if target is None:
            raise NameNotFoundError(
                f"the name {ref} leads nowhere: its owner has withdrawn it", is_denied=True
            )
        return NameRecord(ref.peer_id, ref.name, target, newest.sequence, newest.expires)
