"""What is asked for peers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass

import trio

from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr


@dataclass(frozen=True, slots=True)
class FoundPeer:
    """A peer, and where it can be dialed."""

    peer_id: PeerId
    addrs: tuple[Multiaddr, ...]
    """With the peer's ID at their end, and only those that may be dialed because somebody else says
    so; empty where it is connected, or only its ID is known."""
    source: str
    """What has found it: "topic", "rendezvous", "mdns", "static" or "dht"."""


class Source(ABC):
    """One way to find peers."""

    name: str
    """As :attr:`FoundPeer.source`."""
    is_met: bool = False
    """Those that it finds are connected already, or will be anyway."""

    async def advertise(self, topic: str) -> float | None:
        """Be found under a topic; seconds after which to say so again, or None: nobody has to say
        anything here. Raises what connections do.
        """
        await trio.lowlevel.checkpoint()
        return None

    async def withdraw(self, topic: str) -> None:
        """Be found there no more. Raises what connections do."""
        await trio.lowlevel.checkpoint()

    @abstractmethod
    def find(self, topic: str) -> AsyncIterator[FoundPeer]:
        """Who is there, as they are found; ends. Raises what connections do."""

    async def aclose(self) -> None:
        """Stop whatever runs."""
        await trio.lowlevel.checkpoint()
