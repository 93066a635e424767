"""Blocks to and from the original lattica 1.0.21 (beetswap on rust-libp2p) by Bitswap 1.2."""

from __future__ import annotations

import hashlib
import random

import pytest

from lattica.content.bitswap.exchange import open_exchange
from lattica.content.manifest.cid import Cid
from tests.interop.foreign import original_peer
from tests.interop.ours import our_node
from tests.support.nets.blocks import Blocks

pytestmark = pytest.mark.foreign

SIZES = (5, 300_000, 4 << 20)


async def test_blocks_both_ways(original_installed, tmp_path):
    blocks = Blocks()
    async with (
        original_peer(original_installed, tmp_path) as original,
        our_node() as node,
        open_exchange(node, blocks) as exchange,
    ):
        await node.connect(original.addrs[0])
        for size in SIZES:
            cid = Cid.parse(await original.put_block(size, size))
            sender, block = await exchange.get(cid, 120)
            assert str(sender) == original.peer_id
            assert block == random.Random(size).randbytes(size)

            ours = random.Random(size + 1).randbytes(size)
            peer, digest = await original.get_block(str(blocks.add(ours)), 100)
            assert peer == str(node.peer_id)
            assert digest == hashlib.sha256(ours).hexdigest()
