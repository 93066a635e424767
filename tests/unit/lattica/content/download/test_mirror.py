"""A publication that is read before it is here: what is fetched, kept, shared and believed."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

from lattica.content import FetchOptions, Publisher
from lattica.content.download.finding import find_manifest
from lattica.content.download.local.files import LocalChunk
from lattica.content.download.mirror import Mirror
from lattica.content.download.providers.contact import Contact
from lattica.content.publish.catalog import Publication, make_publication
from lattica.content.publish.service import service_of
from lattica.content.swarm.messages import Member
from lattica.content.swarm.schedule import Schedule
from lattica.errors import ContentError, ContentNotFoundError, IntegrityError
from tests.support.doubles.memory_host import memory_net

MIB = 1024 * 1024
QUICK = FetchOptions(first_delay=0.01, give_up_after=1.0)


def make_tree(directory: Path, megabytes: int = 6) -> Path:
    directory.mkdir()
    data = np.random.default_rng(5).bytes(megabytes * MIB + 17)
    (directory / "big").write_bytes(data)
    (directory / "other").write_bytes(data[::-1])
    (directory / "small").write_bytes(b"hello")
    (directory / "empty").touch()
    return directory


@asynccontextmanager
async def served(tree: Path):
    """A host that publishes it, one that may have it, and its content id."""
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            yield server, client, (await publisher.publish(tree)).cid


async def open_mirror(host, cid, peers, directory, options=QUICK) -> Mirror:
    found = await find_manifest(host, cid, [Member(p, ()) for p in peers], options=options)
    return Mirror(
        host, cid, found.manifest, found.encoded, directory, found.contacts, options=options
    )


@asynccontextmanager
async def running(*mirrors: Mirror):
    async with trio.open_nursery() as nursery:
        for mirror in mirrors:
            nursery.start_soon(mirror.run)
        yield
        nursery.cancel_scope.cancel()


async def read(mirror: Mirror, path: str, start: int = 0, end: int = 1 << 40) -> bytes:
    data = bytearray()
    async with aclosing(mirror.read(path, start, end)) as parts:
        async for part in parts:
            data += part
    return bytes(data)


async def finished(path: Path) -> None:
    """Wait until a file has its name."""
    while not path.exists():
        await trio.sleep(0.01)


@pytest.fixture
def wanted(monkeypatch) -> list[list[int]]:
    """The sizes of the pieces that were asked for at once, each time."""
    found: list[list[int]] = []
    want = Schedule.want

    def note(self, spans):
        spans = list(spans)
        found.append([span.size for span in spans])
        want(self, spans)

    monkeypatch.setattr(Schedule, "want", note)
    return found


async def test_who_reads_at_once_has_more_fetched_ahead(tmp_path, wanted):
    """Before it was known what is here nothing was, and the first 64 MiB came one by one."""
    tree = make_tree(tmp_path / "tree")
    async with served(tree) as (server, client, cid):
        mirror = await open_mirror(client, cid, [server.peer_id], tmp_path / "kept")
        async with running(mirror):
            assert await read(mirror, "big") == (tree / "big").read_bytes()
    assert wanted[0] == []
    assert sum(wanted[1]) == 6 * MIB + 17


async def test_chunks_with_the_same_bytes_are_asked_for_once(tmp_path, wanted):
    tree = make_tree(tmp_path / "tree", megabytes=1)
    (tree / "zeros").write_bytes(bytes(6 * MIB))
    async with served(tree) as (server, client, cid):
        mirror = await open_mirror(client, cid, [server.peer_id], tmp_path / "kept")
        async with running(mirror):
            assert await read(mirror, "small") == b"hello"
            assert await read(mirror, "zeros") == bytes(6 * MIB)
    assert wanted == [[], [5], [2 * MIB]]


async def test_only_what_is_read_is_fetched(tmp_path):
    tree = make_tree(tmp_path / "tree")
    big = (tree / "big").read_bytes()
    table = (await make_publication(tree / "big")).manifest.files[0].table
    async with served(tree) as (server, client, cid):
        mirror = await open_mirror(client, cid, [server.peer_id], tmp_path / "kept")
        sent = service_of(server).bytes_sent
        async with running(mirror):
            assert (
                await read(mirror, "big", 2 * MIB - 3, 2 * MIB + 5)
                == (big[2 * MIB - 3 : 2 * MIB + 5])
            )
            some = {table.index_at(2 * MIB - 3), table.index_at(2 * MIB + 4)}
            assert sent[cid] == sum(table[index].length for index in some)
            assert await read(mirror, "small") == b"hello"
            assert await read(mirror, "empty") == b""
            assert await read(mirror, "big", 5, 5) == b""
            with pytest.raises(ContentNotFoundError):
                await read(mirror, "none")
            assert await read(mirror, "big") == big
            assert sent[cid] == len(big) + 5
            await finished(tmp_path / "kept" / "big")
    assert (tmp_path / "kept" / "big").read_bytes() == big
    assert not (tmp_path / "kept" / "other").exists()


async def test_what_was_read_is_there_the_next_time_without_anybody(tmp_path):
    tree, kept = make_tree(tmp_path / "tree"), tmp_path / "kept"
    big, other = (tree / "big").read_bytes(), (tree / "other").read_bytes()
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            cid = (await publisher.publish(tree)).cid
            found = await find_manifest(client, cid, [Member(server.peer_id, ())])
            mirror = Mirror(client, cid, found.manifest, found.encoded, kept, found.contacts)
            async with running(mirror):
                await read(mirror, "big")
                await read(mirror, "other", 0, MIB)
        contacts = [Contact(client, server.peer_id, ())]
        again = Mirror(client, cid, found.manifest, found.encoded, kept, contacts, QUICK)
        async with running(again):
            assert await read(again, "big") == big
            assert await read(again, "other", 0, MIB) == other[:MIB]


async def test_readers_help_each_other(tmp_path):
    """Of what several mirrors read at a time the origin sends little more than one of them."""
    tree = make_tree(tmp_path / "tree", 16)
    async with memory_net() as net:
        server = net.host()
        hosts = [net.host() for _ in range(4)]
        async with Publisher(server) as publisher:
            cid = (await publisher.publish(tree)).cid
            mirrors = [
                await open_mirror(host, cid, [server.peer_id], tmp_path / str(n))
                for n, host in enumerate(hosts)
            ]
            got: dict[int, bytes] = {}

            async def reader(n: int, mirror: Mirror) -> None:
                got[n] = await read(mirror, "big")

            async with running(*mirrors), trio.open_nursery() as nursery:
                for n, mirror in enumerate(mirrors):
                    nursery.start_soon(reader, n, mirror)
            assert service_of(server).bytes_sent[cid] < 2 * 16 * MIB
    assert set(got.values()) == {(tree / "big").read_bytes()}


async def test_wrong_bytes_are_never_passed_on(tmp_path, monkeypatch):
    tree = make_tree(tmp_path / "tree")
    honest = Publication.read_span

    def lie(self, first, count):
        data = honest(self, first, count)
        return data if first < 2 else bytes(len(data))

    monkeypatch.setattr(Publication, "read_span", lie)
    async with served(tree) as (server, client, cid):
        mirror = await open_mirror(client, cid, [server.peer_id], tmp_path / "kept")
        async with running(mirror):
            got = bytearray()

            async def take() -> None:
                async for part in mirror.read("big", 0, 1 << 40):
                    got.extend(part)

            with pytest.raises(IntegrityError, match=str(server.peer_id)):
                await take()
    assert (tree / "big").read_bytes().startswith(got)


async def test_a_kept_file_that_was_changed_is_not_passed_on(tmp_path):
    tree, kept = make_tree(tmp_path / "tree"), tmp_path / "kept"
    async with served(tree) as (server, client, cid):
        mirror = await open_mirror(client, cid, [server.peer_id], kept)
        async with running(mirror):
            await read(mirror, "big")
            await finished(kept / "big")
        with open(kept / "big", "r+b") as file:
            file.seek(3 * MIB)
            file.write(b"changed")
        mirror = await open_mirror(client, cid, [server.peer_id], kept)
        async with running(mirror):
            assert len(await read(mirror, "big", 0, MIB)) == MIB
            with pytest.raises(ContentError, match="not any more"):
                await read(mirror, "big")
        # Whoever opens it next gets it whole.
        mirror = await open_mirror(client, cid, [server.peer_id], kept)
        async with running(mirror):
            assert await read(mirror, "big") == (tree / "big").read_bytes()


async def test_a_provider_that_does_not_answer_in_time_ends_a_mirror_and_nothing_else(
    tmp_path, monkeypatch
):
    tree = make_tree(tmp_path / "tree")
    async with served(tree) as (server, client, cid):
        mirror = await open_mirror(client, cid, [server.peer_id], tmp_path / "kept")

        async def late(*_: object) -> None:
            raise TimeoutError("no stream within 10 s")

        monkeypatch.setattr(Contact, "open", late)
        async with running(mirror):
            with pytest.raises(ContentError, match="no stream"):
                await read(mirror, "big")


@pytest.mark.parametrize("spoilt", [False, True])
async def test_what_lies_elsewhere_is_copied(tmp_path, spoilt):
    """Unless it is not any more what it was."""
    tree = make_tree(tmp_path / "tree")
    data = (tree / "big").read_bytes()
    async with served(tree) as (server, client, cid):
        former = tmp_path / "former"
        former.write_bytes(bytes(len(data)) if spoilt else data)
        found = await find_manifest(client, cid, [Member(server.peer_id, ())])
        [file] = [file for file in found.manifest.files if file.path == "big"]
        elsewhere = {c.digest: LocalChunk(former, c.offset, c.length) for c in file.chunks}
        mirror = Mirror(
            client,
            cid,
            found.manifest,
            found.encoded,
            tmp_path / "kept",
            found.contacts,
            QUICK,
            elsewhere=elsewhere,
        )
        async with running(mirror):
            assert await read(mirror, "big") == data
            await finished(tmp_path / "kept" / "big")
            sent = service_of(server).bytes_sent[cid]
    assert sent == (len(data) if spoilt else 0)


async def test_a_reader_is_told_that_nobody_is_left(tmp_path):
    tree = make_tree(tmp_path / "tree")
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            cid = (await publisher.publish(tree)).cid
            mirror = await open_mirror(client, cid, [server.peer_id], tmp_path / "kept")
        async with running(mirror):
            with pytest.raises(ContentError):
                await read(mirror, "big")
        assert mirror.failure is not None
