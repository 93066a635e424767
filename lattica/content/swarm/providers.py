"""Where providers of a content id come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lattica.content.manifest.cid import Cid
from lattica.content.swarm.messages import Member


class ProviderFinder(Protocol):
    """Something that knows who provides a content id: a DHT, for instance."""

    async def find_providers(self, cid: Cid, /) -> Sequence[Member]:
        """Peers that say that they have it, some seconds of looking; empty if there are none."""
        ...

    async def provide(self, cid: Cid, /) -> None:
        """Say for some time that this node has it. What comes of it is the finder's."""
        ...
