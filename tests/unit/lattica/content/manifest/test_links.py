"""Links, permissions and empty directories: kept, made again, and never a way out."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgpack
import pytest

from lattica.content import FetchOptions, Publisher, fetch
from lattica.content.manifest.codec import decode_manifest
from lattica.content.publish.catalog import make_publication
from lattica.errors import ContentError, RemoteProtocolError, StorageError
from tests.support.doubles.memory_host import memory_net

QUICK = FetchOptions(first_delay=0.01)


def make_tree(top: Path) -> Path:
    (top / "d" / "e").mkdir(parents=True)
    (top / "empty" / "inner").mkdir(parents=True)
    for name, mode in (("a", 0o644), ("d/run", 0o755), ("d/secret", 0o600), ("d/e/read", 0o444)):
        (top / name).write_bytes(name.encode())
        (top / name).chmod(mode)
    (top / "d" / "e").chmod(0o750)
    (top / "link").symlink_to("d/run")
    (top / "d" / "up").symlink_to("../a")
    (top / "d" / "to-link").symlink_to("./up")
    (top / "dir").symlink_to("d/e")
    (top / "d" / "through").symlink_to("../dir/read")
    (top / "whole").symlink_to(top / "a")
    return top


def seen(top: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(top))
        if stat.S_ISLNK(status.st_mode):
            found[name] = os.readlink(path)
        else:
            content = path.read_bytes() if path.is_file() else None
            found[name] = stat.S_IMODE(status.st_mode), content
    return found


async def test_what_was_there_is_there_again(tmp_path):
    source = make_tree(tmp_path / "in")
    out = tmp_path / "out"
    async with memory_net() as net, Publisher(net.host()) as publisher:
        ticket = await publisher.publish(source, "x")
        expected = {**seen(source), "whole": "a"}
        for again in range(2):
            result = await fetch(net.host(), ticket, out, options=QUICK)
            assert seen(out) == expected
            assert (result.bytes_fetched == 0) == bool(again)
        # What somebody has changed of it is mended.
        (out / "link").unlink()
        (out / "link").write_bytes(b"mine")
        (out / "d" / "secret").chmod(0o644)
        (out / "dir").unlink()
        (out / "dir").symlink_to("/etc")
        await fetch(net.host(), ticket, out, options=QUICK)
        assert seen(out) == expected
    # Whoever publishes what he has fetched publishes the same.
    assert (await make_publication(out, "x")).cid == ticket.cid


async def test_a_directory_in_the_way_of_a_link(tmp_path):
    source = make_tree(tmp_path / "in")
    (tmp_path / "out" / "link").mkdir(parents=True)
    async with memory_net() as net, Publisher(net.host()) as publisher:
        ticket = await publisher.publish(source)
        with pytest.raises(StorageError, match="link"):
            await fetch(net.host(), ticket, tmp_path / "out", options=QUICK)


@pytest.mark.parametrize(
    ("name", "target", "says"),
    [
        ("l", "../in/a", "l.*"),
        ("l", "..", "leads out"),
        ("l", "/etc/passwd", "leads out"),
        ("d/l", "../../other", "leads out"),
        ("l", "nothing", "symbolic link to nothing"),
        ("l", "l", "leads to itself|circle|Symlink loop"),
        ("l", ".", "contains it"),
        ("d/l", "..", "contains it"),
        ("d/l", "../d", "contains it"),
    ],
)
async def test_links_that_are_not_published(tmp_path, name, target, says):
    (tmp_path / "other").write_bytes(b"x")
    (tmp_path / "in" / "d").mkdir(parents=True)
    (tmp_path / "in" / "a").write_bytes(b"a")
    (tmp_path / "in" / "d" / "b").write_bytes(b"b")
    (tmp_path / "in" / name).symlink_to(target)
    with pytest.raises(ContentError, match=says):
        await make_publication(tmp_path / "in")


async def test_links_are_followed_on_request_and_in_the_cache_of_a_hub(tmp_path):
    (tmp_path / "other").write_bytes(b"x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "l").symlink_to("../other")
    publication = await make_publication(tmp_path / "in", follow_links=True)
    assert [file.path for file in publication.manifest.files] == ["l"]
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (blobs / "123").write_bytes(b"blob")
    (snapshot / "config.json").symlink_to("../../blobs/123")
    publication = await make_publication(snapshot)
    assert [file.path for file in publication.manifest.files] == ["config.json"]
    assert publication.manifest.links == ()


async def fields(tmp_path: Path) -> list:
    (tmp_path / "in" / "d").mkdir(parents=True)
    (tmp_path / "in" / "a").write_bytes(b"a")
    (tmp_path / "in" / "d" / "b").write_bytes(b"b")
    return msgpack.unpackb((await make_publication(tmp_path / "in")).encoded)


@pytest.mark.parametrize(
    "links",
    [
        [["l", "../x"]],
        [["l", "/a"]],
        [["l", ""]],
        [["l", "a\0"]],
        [["l", "d/../../a"]],
        [["l", "a/../a"]],
        [["l", "none"]],
        [["l", "d/b/c"]],
        [["l", "x" * 5000]],
        [["l", "l"]],
        [["l", "m"], ["m", "l"]],
        [["l", "d/m"], ["d/m", "../l/b"]],
        [["l", "."]],
        [["d/l", "."]],
        [["d/l", ".."]],
        [["a", "d"]],
        [["A", "d"]],
        [["d", "a"]],
        [["d/b/l", "../../a"]],
        [["l", "a"], ["l", "d"]],
        [["../l", "a"]],
        [["l", "a"], ["l/x", "a"]],
        [["l", "d"], ["x", "l/../../a"]],
        [[f"l{n}", f"l{n + 1}"] for n in range(60)] + [["l60", "a"]],
        [["l", "\ud800"]],
    ],
)
async def test_manifests_whose_links_lead_astray(tmp_path, links):
    made = await fields(tmp_path)
    data = msgpack.packb([*made, links, []], unicode_errors="surrogatepass")
    with pytest.raises(RemoteProtocolError, match="damaged manifest"):
        decode_manifest(data)


@pytest.mark.parametrize(
    "directories",
    [
        [["a", 0o700]],
        [["../x", 0o700]],
        [["x", 0o1777]],
        [["x", 0o700], ["x", 0o700]],
        [["D", 0o700]],
        [["x", 0o700, 1]],
    ],
)
async def test_manifests_with_directories_that_cannot_be(tmp_path, directories):
    made = await fields(tmp_path)
    decode_manifest(msgpack.packb([*made, [], [["x", 0o700]]]))
    with pytest.raises(RemoteProtocolError, match="damaged manifest"):
        decode_manifest(msgpack.packb([*made, [], directories]))


async def test_no_more_entries_than_are_needed(tmp_path):
    made = await fields(tmp_path)
    for count in (1, 2):
        with pytest.raises(RemoteProtocolError, match="damaged manifest"):
            decode_manifest(msgpack.packb([*made, *([[]] * count)]))
