"""One provider: how it is reached, and when it is tried again after it was lost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NoReturn

import trio

from lattica.content.download.options import FetchOptions
from lattica.content.download.providers.link import Kept
from lattica.content.errors import ContentError, IntegrityError
from lattica.content.protocol import PROTOCOL
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.base.net.addresses import with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host

_LONGEST_DELAY = 15.0


class Contact:
    """A provider, as one fetch knows it. `is_first`: the manifest came from it."""

    def __init__(
        self, node: Host, peer_id: PeerId, addrs: Sequence[Multiaddr], *, is_first: bool = False
    ) -> None:
        self._node = node
        self.peer_id = peer_id
        self._addrs = addrs
        self.is_first = is_first
        self.is_connected = False
        """A stream to it has been opened once."""
        self.kept = Kept()
        self.failures = 0
        """In a row."""
        self.bytes_fetched = 0
        self.scope = trio.CancelScope()
        """Of whatever is done with it."""

    async def open(self, protocol: str = PROTOCOL) -> Stream:
        """Open a stream, connecting first if need be. Raises what :class:`Host` does."""
        # The addresses each time: the node forgets them after a while.
        addrs = [with_peer(address, self.peer_id) for address in self._addrs]
        peer = await self._node.connect(addrs or self.peer_id)
        stream = await self._node.open_stream(peer, protocol)
        self.is_connected = True
        return stream


class Retries:
    """How long to wait for a lost provider, and when to give up."""

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        self.last_gain = trio.current_time()
        """When a verified chunk came."""

    def pause(self, contact: Contact, lost: Exception, *, gained: bool) -> float:
        """A provider was lost, perhaps after something came of it; seconds until the next attempt.

        Raises:
            ContentError: it was tried for long enough.
        """
        contact.failures = 1 if gained else contact.failures + 1
        idle = trio.current_time() - self.last_gain
        if idle > self._options.give_up_after:
            self.give_up(idle, lost, contact)
        return pause_after(
            contact.failures, self._options.first_delay, _LONGEST_DELAY, random.Random()
        )

    @staticmethod
    def give_up(idle: float, lost: Exception, contact: Contact) -> NoReturn:
        """Raise what a fetch ends with that has had no progress for so many seconds."""
        peer, kept = contact.peer_id, contact.kept
        if kept.wrong_manifests or kept.wrong_chunks:
            raise IntegrityError(
                f"peer {peer} has sent bytes that are wrong together, and has broken off since: "
                f"{lost}; do not trust this provider"
            ) from lost
        raise ContentError(
            f"gave up after {idle:.0f} s without progress with peer {peer}: {lost}. What has "
            "arrived is kept; the same command goes on from there"
        ) from lost
