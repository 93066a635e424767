"""A provider has to send at a least rate, or it counts as lost."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from lattica.content.download.finding import FoundManifest
from lattica.content.download.options import FetchOptions
from lattica.content.download.providers.contact import Contact
from lattica.content.download.providers.link import Kept, Link, StalledError
from lattica.content.errors import ContentError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.manifest import ChunkTable, FileEntry, Manifest
from lattica.content.manifest.tensor_files.safetensors_header import Tensor
from lattica.content.protocol import (
    PROTOCOL,
    ContentServerCore,
    SpanRequest,
    encode_body_header,
)
from lattica.content.tensors.drawing import TensorDraw, drawn
from lattica.content.tensors.placing import Placed, Placing, fresh_memory
from lattica.nat.base.limits.pace import Pace
from lattica.nat.mux.stream import Stream
from tests.support.doubles.memory_host import memory_net

OPTIONS = FetchOptions(stalled_after=10.0, least_rate=100)
BODY = bytes(range(256)) * 20


@pytest.mark.parametrize(
    ("piece", "pause", "is_lost"),
    [
        (1, 1.0, True),  # a byte a second, for ever
        (99, 1.0, True),
        (101, 1.0, False),
        (2000, 9.0, False),  # bursts
        (0, 0.0, True),  # nothing at all
    ],
)
async def test_whoever_is_slower_than_the_least_rate_counts_as_lost(
    piece: int, pause: float, is_lost: bool, autojump_clock: MockClock
) -> None:
    async def drip(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(encode_body_header(len(BODY)))
        for start in range(0, len(BODY), piece or len(BODY)):
            await trio.sleep(pause if piece else 3600)
            await stream.send_all(BODY[start : start + piece])
        await trio.sleep_forever()

    async with memory_net() as net:
        provider, client = net.host(), net.host()
        provider.handle(PROTOCOL, drip, owner="test")
        await client.connect(provider.peer_id)
        async with await client.open_stream(provider.peer_id, PROTOCOL) as stream:
            link = Link(stream, Cid.of(BODY), OPTIONS, Kept(), Pace())
            began = trio.current_time()
            if is_lost:
                with pytest.raises(StalledError, match="has sent no"):
                    await link.manifest()
                assert trio.current_time() - began <= 2 * OPTIONS.stalled_after
            else:
                assert await link.manifest() == BODY
                assert trio.current_time() - began > OPTIONS.stalled_after


async def test_whoever_does_not_read_what_it_is_asked_for_counts_as_lost(
    autojump_clock: MockClock,
) -> None:
    """It was waited for without end."""

    async def ignore(stream: Stream) -> None:
        await trio.sleep_forever()

    async with memory_net() as net:
        provider, client = net.host(), net.host()
        provider.handle(PROTOCOL, ignore, owner="test")
        await client.connect(provider.peer_id)
        async with await client.open_stream(provider.peer_id, PROTOCOL) as stream:
            for size in (65536, 1024, 1):  # all that it may be sent
                with trio.move_on_after(1.0):
                    while True:
                        await stream.send_all(bytes(size))
            link = Link(stream, Cid.of(BODY), OPTIONS, Kept(), Pace())
            with trio.fail_after(2 * OPTIONS.stalled_after):
                with pytest.raises(StalledError, match="has not taken"):
                    await link.manifest()


async def test_who_streams_tensors_does_not_wait_for_one_that_trickles(
    autojump_clock: MockClock,
) -> None:
    async def drip(stream: Stream) -> None:
        [request] = ContentServerCore().feed(await stream.receive_some())
        assert isinstance(request, SpanRequest)
        await stream.send_all(encode_body_header(len(BODY) - request.offset))
        while True:
            await trio.sleep(1.0)
            await stream.send_all(b"x")

    async def find_more() -> list[Contact]:
        return []

    options = replace(OPTIONS, give_up_after=15.0)
    tensor = Tensor("w", "U8", (len(BODY),), 0)
    table = ChunkTable.from_chunks([len(BODY)], bytes(32))
    manifest = Manifest("m", (FileEntry("f", False, table),))
    placing = Placing(manifest, [Placed(0, tensor)], fresh_memory, options.window)
    async with memory_net() as net:
        provider, client = net.host(), net.host()
        provider.handle(PROTOCOL, drip, owner="test")
        contact = Contact(client, provider.peer_id, (), is_first=True)
        found = FoundManifest(manifest, b"", (contact,))
        draw = TensorDraw(client, Cid.of(BODY), found, options, None, find_more, placing)
        async with aclosing(drawn(draw)) as tensors:
            with trio.fail_after(10 * OPTIONS.stalled_after):
                with pytest.raises(ContentError, match="has sent no more than"):
                    await anext(tensors)
