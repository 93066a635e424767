"""A store of blocks in memory, for tests."""

from __future__ import annotations

from lattica.content.manifest.cid import Cid


class Blocks:
    """What :class:`lattica.content.bitswap.exchange.BlockSource` asks for, and how often it was.

    What a peer asks first, for a block or whether it is there, is not known: both count.
    """

    def __init__(self, *blocks: bytes) -> None:
        self.held = {Cid.of(block): block for block in blocks}
        self.looked_up = 0

    def add(self, block: bytes) -> Cid:
        cid = Cid.of(block)
        self.held[cid] = block
        return cid

    def has_block(self, cid: Cid) -> bool:
        self.looked_up += 1
        return cid in self.held

    def get_block(self, cid: Cid) -> bytes | None:
        self.looked_up += 1
        return self.held.get(cid)
