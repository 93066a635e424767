"""The store: what it keeps, what it lets go, and what a kill leaves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from lattica.content import FetchOptions, Ticket, fetch
from lattica.content.manifest.cid import Cid
from lattica.content.publish.catalog import Publication, make_publication
from lattica.content.publish.service import serving
from lattica.content.store.store import ContentStore
from lattica.errors import ContentNotFoundError, StorageError
from tests.support.doubles.memory_host import memory_net

MIB = 1024 * 1024


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def store(tmp_path: Path):
    with ContentStore(tmp_path / "store", clock=Clock()) as made:
        yield made


async def published(directory: Path, seed: int = 0, shared: bytes = b"") -> Publication:
    directory.mkdir()
    (directory / "big").write_bytes(np.random.default_rng(seed).bytes(2 * MIB + 5))
    (directory / "shared").write_bytes(shared or bytes([seed]) * 1000)
    (directory / "empty").touch()
    return await make_publication(directory)


def files(store_directory: Path) -> set[str]:
    return {path.name for path in (store_directory / "blocks").rglob("*") if path.is_file()}


def remaining(store: ContentStore) -> set[Cid]:
    return {stored.cid for stored in store.publications()}


@pytest.mark.parametrize("copy", [True, False])
async def test_what_was_added_is_fetched_from_the_store(tmp_path, store, copy):
    publication = await published(tmp_path / "source")
    stored = store.add(publication, copy=copy)
    assert (stored.cid, stored.size, stored.by_reference) == (
        publication.cid, publication.manifest.size, not copy,
    )  # fmt: skip
    if copy:
        (tmp_path / "source" / "big").write_bytes(b"changed")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "source").iterdir()}
    async with memory_net() as net:
        server, client = net.host(), net.host()
        with store.reading(publication.cid) as served, serving(server, {served.cid: served}.get):
            ticket = Ticket(publication.cid, server.peer_id, ())
            await fetch(client, ticket, tmp_path / "out", options=FetchOptions(first_delay=0.01))
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    if copy:
        assert len(found.pop("big")) == 2 * MIB + 5
        del expected["big"]
    assert found == expected


async def test_a_collection_leaves_what_is_pinned_tagged_or_read(tmp_path, store):
    made = [await published(tmp_path / str(n), n, shared=b"the same") for n in range(5)]
    for publication in made:
        store.add(publication)
    pinned, tagged, expired, read, idle = (publication.cid for publication in made)
    store.pin(pinned)
    store.pin(tagged, 1000)
    store.pin(expired, 1)
    loose = store.put(b"nobody's")
    kept = store.put(b"somebody's")
    store.pin(kept)
    with store.reading(read):
        before = store.bytes_used()
        planned = store.collect(dry_run=True)
        assert remaining(store) == {publication.cid for publication in made}
        result = store.collect()
        assert result == planned
        assert {gone.cid for gone in result.publications} == {expired, idle}
        assert result.in_use == 1
        assert store.bytes_used() == before - result.bytes_freed
        assert remaining(store) == {pinned, tagged, read}
    assert store.get_block(loose) is None
    assert store.get_block(kept) == b"somebody's"
    for cid in (pinned, tagged, read):
        with store.reading(cid) as served:
            served.read_span(0, served.chunk_count)
    store.collect()
    assert remaining(store) == {pinned, tagged}
    store.unpin(pinned)
    store.collect()
    assert remaining(store) == {tagged}
    with pytest.raises(ContentNotFoundError), store.reading(pinned):
        pass
    with pytest.raises(ContentNotFoundError):
        store.unpin(pinned)
    with pytest.raises(ContentNotFoundError):
        store.pin(pinned)


async def test_a_reader_in_another_process_is_seen(tmp_path, store):
    publication = await published(tmp_path / "source")
    store.add(publication)
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from lattica.content.manifest.cid import Cid
        from lattica.content.store.store import ContentStore
        with ContentStore(Path({str(tmp_path / "store")!r})) as store:
            with store.reading(Cid.parse({str(publication.cid)!r})):
                print("reading", flush=True)
                sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        assert store.collect().in_use == 1
        process.kill()
        process.wait()
    assert [gone.cid for gone in store.collect().publications] == [publication.cid]


async def test_the_quota_lets_go_what_was_used_longest_ago(tmp_path):
    with ContentStore(tmp_path / "store", quota=5 * MIB, clock=Clock()) as store:
        first, second, third = [await published(tmp_path / str(n), n) for n in range(3)]
        store.add(first)
        store.add(second)
        with store.reading(first.cid):
            pass
        store.add(third)
        assert remaining(store) == {first.cid, third.cid}
        assert store.bytes_used() <= 5 * MIB
        store.pin(first.cid)
        store.pin(third.cid)
        with pytest.raises(StorageError, match="quota"):
            store.add(second)
        assert remaining(store) == {first.cid, third.cid}
        store.add(second, copy=False)
        assert second.cid in remaining(store)


async def test_lists_of_chunks_count_in_the_quota(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(8192 * MIB)
    publication = await make_publication(tmp_path / "large")
    with ContentStore(tmp_path / "store", quota=100 * 1024, clock=Clock()) as store:
        assert len(publication.encoded) < 100 * 1024
        with pytest.raises(StorageError, match="quota"):
            store.add(publication, copy=False)
        assert store.bytes_used() == 0
    with ContentStore(tmp_path / "store", quota=256 * 1024, clock=Clock()) as store:
        store.add(publication, copy=False)
        store.add(publication, copy=False)  # what is here already needs no room
        assert 100 * 1024 < store.bytes_used() <= 256 * 1024


async def test_nothing_goes_for_what_does_not_fit(tmp_path):
    """Everything was removed first, and then it was refused."""
    with ContentStore(tmp_path / "store", quota=5 * MIB, clock=Clock()) as store:
        kept, pinned = [await published(tmp_path / str(n), n) for n in range(2)]
        store.add(kept)
        large = tmp_path / "large"
        large.write_bytes(random.Random(5).randbytes(6 * MIB))
        with pytest.raises(StorageError, match=r"more than the store's quota of 5\.0 MiB"):
            store.add(await make_publication(large))
        assert remaining(store) == {kept.cid}
        store.add(pinned)
        store.pin(pinned.cid)
        large.write_bytes(random.Random(6).randbytes(4 * MIB))
        with pytest.raises(StorageError, match="do not fit the store's quota"):
            store.add(await make_publication(large))
        assert remaining(store) == {kept.cid, pinned.cid}


async def test_damage_is_found_and_never_served(tmp_path, store):
    whole, damaged = [await published(tmp_path / str(n), n) for n in range(2)]
    moved = await published(tmp_path / "2", 2)
    store.add(whole)
    store.add(damaged)
    store.add(moved, copy=False)
    assert store.verify().damaged == store.verify().publications == ()
    digest = damaged.manifest.chunk(1).digest
    path = tmp_path / "store" / "blocks" / digest.hex()[:2] / digest.hex()
    path.write_bytes(b"x" * path.stat().st_size)
    (tmp_path / "2" / "big").unlink()
    found = store.verify()
    assert found.damaged == (Cid(digest),)
    assert set(found.publications) == {damaged.cid, moved.cid}
    for cid in found.publications:
        with store.reading(cid) as served, pytest.raises(Exception, match="damaged, or gone"):
            served.read_span(0, served.chunk_count)
    store.verify(repair=True)
    assert remaining(store) == {whole.cid}
    assert store.verify().damaged == ()
    store.add(damaged)
    assert store.verify().publications == ()


def test_killed_at_any_moment_it_is_whole(tmp_path):
    """What is in the store when its process is killed is right, and nothing is left over."""
    directory = tmp_path / "store"
    script = textwrap.dedent(f"""
        import os
        from pathlib import Path
        import trio
        from lattica.content.publish.catalog import make_publication
        from lattica.content.store.store import ContentStore
        store = ContentStore(Path({str(directory)!r}))
        source = Path({str(tmp_path / "source")!r})
        source.mkdir(exist_ok=True)
        number = 0
        while True:
            (source / "file").write_bytes(os.urandom(200_000))
            publication = trio.run(make_publication, source)
            store.add(publication)
            if number % 3 == 0:
                store.pin(publication.cid, 3600)
            if number % 4 == 3:
                store.collect(600_000)
            number += 1
            print(number, flush=True)
    """)
    rng = np.random.default_rng(7)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(int(rng.integers(1, 9))):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        with ContentStore(directory) as store:
            found = store.verify()
            assert found.damaged == found.publications == ()
            kept = {stored.cid for stored in store.publications() if stored.expires}
            assert kept
            store.collect()
            assert remaining(store) == kept
            blocks = store._index.blocks()
            assert files(directory) == {digest.hex() for digest in blocks}


def test_a_store_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        ContentStore(tmp_path / "file")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "index.sqlite").write_bytes(os.urandom(5000))
    with pytest.raises(StorageError, match="cannot be used"):
        ContentStore(tmp_path / "store")
