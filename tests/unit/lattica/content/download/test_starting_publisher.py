"""A publisher that is started again serves what it did as soon as it has hashed it, and until then
nobody is told that it is not there."""

from __future__ import annotations

import pytest
import trio

from lattica.content import FetchOptions, Publisher, fetch
from lattica.content.publish import server
from lattica.content.publish.catalog import make_publication
from lattica.errors import ContentNotFoundError
from tests.support.doubles.memory_host import memory_net

QUICK = FetchOptions(first_delay=0.01, give_up_after=20.0)


async def test_a_fetch_waits_for_who_is_still_hashing(tmp_path, monkeypatch):
    source = tmp_path / "file"
    source.write_bytes(bytes(range(256)) * 1000)
    may_hash = trio.Event()

    async def slow(*arguments, **options):
        await may_hash.wait()
        return await make_publication(*arguments, **options)

    async with memory_net() as net:
        host, client = net.host(), net.host()
        async with Publisher(host) as publisher:
            ticket = await publisher.publish(source)
        monkeypatch.setattr(server, "make_publication", slow)
        async with Publisher(host) as publisher, trio.open_nursery() as nursery:
            nursery.start_soon(publisher.publish, source)
            nursery.start_soon(lambda: fetch(client, ticket, tmp_path / "out", options=QUICK))
            await trio.sleep(0.2)
            assert not (tmp_path / "out" / "file").exists()
            may_hash.set()
        assert (tmp_path / "out" / "file").read_bytes() == source.read_bytes()
        async with Publisher(host) as publisher:
            with pytest.raises(ContentNotFoundError):
                await fetch(client, ticket, tmp_path / "other", options=QUICK)
