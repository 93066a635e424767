"""Bitswap between nodes: blocks are found, refused peers are passed over, strangers are bounded."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from lattica.content.bitswap import exchange
from lattica.content.bitswap.exchange import Exchange, open_exchange
from lattica.content.bitswap.messages import PROTOCOL, Message, Want, encode
from lattica.content.errors import ContentNotFoundError
from lattica.content.manifest.cid import Cid
from lattica.errors import StreamResetError
from lattica.nat.mux.stream import Stream
from lattica.node import Node
from tests.support.nets.blocks import Blocks
from tests.support.nets.nets import node_config, settled


class Mesh:
    """Nodes with stores; the first is connected to all others."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.blocks: list[Blocks] = []
        self.exchanges: list[Exchange] = []

    async def add(self, stack: AsyncExitStack, *blocks: bytes) -> None:
        node = await stack.enter_async_context(Node(node_config()))
        self.blocks.append(Blocks(*blocks))
        self.exchanges.append(await stack.enter_async_context(open_exchange(node, self.blocks[-1])))
        if self.nodes:
            await self.nodes[0].connect(str(node.addrs[0]))
        self.nodes.append(node)


async def test_a_block_is_got_from_who_has_it() -> None:
    block = os.urandom(3_000_000)
    mesh = Mesh()
    async with AsyncExitStack() as stack:
        await mesh.add(stack)
        await mesh.add(stack, b"something else")
        await mesh.add(stack, block)
        sender, received = await mesh.exchanges[0].get(Cid.of(block), 30)
        assert (sender, received) == (mesh.nodes[2].peer_id, block)
        statistics = mesh.exchanges[0].statistics
        assert (statistics.requested, statistics.received) == (1, 1)
        assert statistics.bytes_received == len(block)
        await settled(lambda: mesh.exchanges[2].statistics.blocks_sent == 1)
        records = [mesh.exchanges[0].record_of(node.peer_id) for node in mesh.nodes]
        assert [(each.blocks, each.failures) for each in records] == [(0, 0), (0, 0), (1, 0)]


async def test_many_at_once_and_one_for_many() -> None:
    blocks = [os.urandom(10_000) for _ in range(100)]
    mesh = Mesh()
    async with AsyncExitStack() as stack:
        await mesh.add(stack)
        await mesh.add(stack, *blocks)
        got: list[bytes] = []

        async def get(block: bytes) -> None:
            got.append((await mesh.exchanges[0].get(Cid.of(block), 60))[1])

        async with trio.open_nursery() as nursery:
            for block in [*blocks, *[blocks[0]] * 10]:
                nursery.start_soon(get, block)
        assert sorted(got) == sorted([*blocks, *[blocks[0]] * 10])


async def test_a_block_that_comes_later() -> None:
    mesh = Mesh()
    async with AsyncExitStack() as stack:
        await mesh.add(stack)
        await mesh.add(stack)
        got: list[bytes] = []

        async def get(block: bytes) -> None:
            got.append((await mesh.exchanges[0].get(Cid.of(block), 60))[1])

        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(get, b"late")
        await settled(lambda: mesh.blocks[1].looked_up)
        await mesh.add(stack, b"late")  # a peer that has it
        await settled(lambda: got)
        before = mesh.blocks[1].looked_up
        nursery.start_soon(get, b"later")
        await settled(lambda: mesh.blocks[1].looked_up > before)
        mesh.exchanges[1].notify(mesh.blocks[1].add(b"later"))  # the peer gets it
        await settled(lambda: len(got) == 2)
        assert got == [b"late", b"later"]


async def test_a_peer_is_asked_again_whose_stream_failed_while_it_stayed(monkeypatch) -> None:
    """Its connection did not end: no event says that it has come."""
    monkeypatch.setattr(exchange, "PATIENCE", 0.05)
    mesh = Mesh()
    async with AsyncExitStack() as stack:
        await mesh.add(stack)
        await mesh.add(stack, b"block")
        open_stream = mesh.nodes[0].open_stream
        failures = iter((StreamResetError("reset"), trio.TooSlowError()))

        async def sometimes(*arguments: Any, **options: Any) -> Stream:
            for failure in failures:
                raise failure
            return await open_stream(*arguments, **options)

        monkeypatch.setattr(mesh.nodes[0], "open_stream", sometimes)
        sender, block = await mesh.exchanges[0].get(Cid.of(b"block"), 60)
        assert (sender, block) == (mesh.nodes[1].peer_id, b"block")


async def test_nobody_has_it() -> None:
    mesh = Mesh()
    async with AsyncExitStack() as stack:
        await mesh.add(stack)
        await mesh.add(stack)
        with pytest.raises(ContentNotFoundError, match=r"no peer has sent block bafkrei"):
            await mesh.exchanges[0].get(Cid.of(b"nowhere"), 0.2)
        assert mesh.exchanges[0].statistics.failed == 1


async def told(stream: Stream, message: bytes) -> None:
    """Send a message, and wait until the stream ends."""
    await stream.send_message(message)
    await stream.receive_some()


async def test_what_a_stranger_sends_costs_its_stream_only() -> None:
    mesh = Mesh()
    async with AsyncExitStack() as stack:
        await mesh.add(stack, b"block")
        stranger = await stack.enter_async_context(Node(node_config(listen=())))
        await stranger.connect(str(mesh.nodes[0].addrs[0]))
        unasked = encode(Message(blocks=(bytes(1_000_000),)))  # more than a request may have
        for bad in (unasked, b"\xff" * 100):
            stream = await stranger.open_stream(mesh.nodes[0].peer_id, PROTOCOL)
            with pytest.raises(StreamResetError):
                await told(stream, bad)
        await mesh.add(stack)
        sender, block = await mesh.exchanges[1].get(Cid.of(b"block"), 30)
        assert (sender, block) == (mesh.nodes[0].peer_id, b"block")


async def test_foreign_names_are_not_here() -> None:
    """Others ask for blocks of forms that are not kept here, and are told so."""
    mesh = Mesh()
    async with AsyncExitStack() as stack:
        await mesh.add(stack)
        other = await stack.enter_async_context(Node(node_config()))
        answers: list[bytes] = []

        async def hear(stream) -> None:
            answers.append(await stream.receive_message(1000))

        other.handle(PROTOCOL, hear)
        await other.connect(str(mesh.nodes[0].addrs[0]))
        stream = await other.open_stream(mesh.nodes[0].peer_id, PROTOCOL)
        name = b"\x12\x20" + bytes(32)  # CIDv0
        await stream.send_message(encode(Message(wants=(Want(name, send_dont_have=True),))))
        await settled(lambda: answers)
        assert answers == [encode(Message(dont_haves=(name,)))]
