"""What a node publishes itself: it fetches and streams it without asking anybody."""

from __future__ import annotations

import errno
import shutil
from functools import partial

import numpy as np
import pytest
import trio
from safetensors.numpy import save_file

from lattica.content import FetchOptions, Publisher, fetch, fetch_manifest
from lattica.content.manifest.cid import Cid
from lattica.content.tensors.streaming import stream_tensors
from lattica.content.ticket import Ticket
from lattica.errors import ContentError, StorageError
from tests.support.doubles.memory_host import memory_net

QUICK = FetchOptions(first_delay=0.01, give_up_after=5.0)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "model.safetensors"
    rng = np.random.default_rng(1)
    save_file({f"t{n}": rng.random((200, 900), np.float32) for n in range(5)}, path)
    return path


async def test_it_is_fetched_listed_and_streamed(tmp_path, source):
    async with memory_net() as net:
        host = net.host()
        async with Publisher(host) as publisher:
            ticket = await publisher.publish(source)
            refs: list[Ticket | Cid | str] = [ticket, str(ticket), ticket.cid]
            for number, ref in enumerate(refs):
                out = tmp_path / str(number)
                result = await fetch(host, ref, out, options=QUICK)
                assert (out / source.name).read_bytes() == source.read_bytes()
                assert (result.bytes_fetched, result.sources) == (0, ())
            assert (await fetch_manifest(host, ticket)).size == source.stat().st_size
            found = [tensor.name async for tensor, _ in stream_tensors(host, ticket, "t[12]")]
            assert found == ["t1", "t2"]


@pytest.mark.parametrize("is_mirrored", [False, True])
async def test_what_has_changed_since_comes_from_another_or_is_an_error(
    tmp_path, source, is_mirrored
):
    async with memory_net() as net:
        host, mirror = net.host(), net.host()
        copy = tmp_path / "copy" / source.name
        copy.parent.mkdir()
        shutil.copy(source, copy)
        async with Publisher(host) as publisher, Publisher(mirror) as other:
            ticket = await publisher.publish(source)
            theirs = await other.publish(copy)
            assert theirs.cid == ticket.cid
            source.write_bytes(bytes(len(copy.read_bytes())))
            if not is_mirrored:
                with pytest.raises(ContentError, match="changed"):
                    await fetch(host, ticket, tmp_path / "out", options=QUICK)
                with pytest.raises(ContentError, match="cannot be read"):
                    async for _ in stream_tensors(host, ticket, options=QUICK):
                        pass
                return
            await host.connect(mirror.peer_id)
            await fetch(host, theirs, tmp_path / "out", options=QUICK)
            assert (tmp_path / "out" / source.name).read_bytes() == copy.read_bytes()
            tensors = [tensor.name async for tensor, _ in stream_tensors(host, theirs)]
            assert len(tensors) == 5


async def test_a_full_disk_is_no_fault_of_what_is_read(tmp_path, source, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    async with memory_net() as net:
        host = net.host()
        async with Publisher(host) as publisher:
            ticket = await publisher.publish(source)
            monkeypatch.setattr("lattica.content.download.partial.partial_files.write_all", refuse)
            with pytest.raises(StorageError, match="the disk is full"):
                await fetch(host, ticket, tmp_path / "out", options=QUICK)


async def test_two_fetches_of_one_thing_at_once_in_one_node(tmp_path, source):
    """Each into its own directory: neither takes the other's for its own, nor waits for it."""
    async with memory_net() as net:
        origin, client = net.host(), net.host()
        async with Publisher(origin) as publisher:
            ticket = await publisher.publish(source)
            async with trio.open_nursery() as nursery:
                for name in ("a", "b"):
                    get = partial(fetch, options=QUICK)
                    nursery.start_soon(get, client, ticket, tmp_path / name)
    for name in ("a", "b"):
        assert (tmp_path / name / source.name).read_bytes() == source.read_bytes()
