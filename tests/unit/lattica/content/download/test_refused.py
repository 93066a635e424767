"""A fetch that comes to nothing leaves nothing behind, and one that came to something its part."""

from __future__ import annotations

import random

import pytest

from lattica.content import FetchOptions, Publisher, fetch
from lattica.content.publish.catalog import Publication
from lattica.errors import IntegrityError
from tests.support.doubles.memory_host import memory_net

QUICK = FetchOptions(first_delay=0.01, give_up_after=0.5)
MIB = 1024 * 1024


@pytest.mark.parametrize("honest", [0, 3])
async def test_an_unfinished_folder_stays_only_if_there_is_something_in_it(
    tmp_path, monkeypatch, honest
):
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_bytes(random.Random(1).randbytes(8 * MIB))
    read = Publication.read_span
    sent = 0

    def lie(self, first, count):
        nonlocal sent
        sent += 1
        data = read(self, first, count)
        return data if sent <= honest else bytes(len(data))

    monkeypatch.setattr(Publication, "read_span", lie)
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publisher.publish(source)
            with pytest.raises(IntegrityError):
                await fetch(client, ticket, out, options=QUICK)
    assert bool([*out.glob(".lattica-*")]) == bool(honest)
