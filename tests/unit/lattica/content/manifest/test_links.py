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
        [["l", "d/../a"]],
        [["l", "./d/./../a"]],
        [["m", "d"], ["l", "m/../a"]],
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


async def test_a_link_that_goes_down_and_up_is_published_as_the_shortest_one(tmp_path):
    (tmp_path / "in" / "d").mkdir(parents=True)
    (tmp_path / "in" / "d" / "b").write_bytes(b"b")
    (tmp_path / "in" / "l").symlink_to("d/../d/b")
    publication = await make_publication(tmp_path / "in")
    assert [link.target for link in publication.manifest.links] == ["d/b"]


async def test_links_of_which_each_part_costs_a_look(tmp_path):
    made = await fields(tmp_path)
    links = [[f"l{n}", "/".join([".", *["."] * 500, "a"])] for n in range(2100)]
    with pytest.raises(RemoteProtocolError, match="lead through more than"):
        decode_manifest(msgpack.packb([*made, links, []]))


def publish_as(top: Path, files: dict[str, str], links: dict[str, str]) -> Path:
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(content)
    for name, target in links.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).symlink_to(target)
    return top


async def test_several_publications_in_one_directory_lead_out_no_more_than_one(tmp_path):
    """The first turns a directory of the second into one that is less deep, so that what the second
    has two directories further up would be outside; the third has a file there."""
    out = tmp_path / "home" / "out"
    first = publish_as(tmp_path / "1", {"r/x": "x"}, {"p/q": "../r"})
    second = publish_as(
        tmp_path / "2", {"p/q/z": "z", "s/x": "x"}, {"l": "p/q/../../s", "p/q/m": "../../s"}
    )
    third = publish_as(tmp_path / "3", {"l/key": "mine", "r/m/key": "mine"}, {})
    (tmp_path / "home" / "s").mkdir(parents=True)
    (tmp_path / "s").mkdir()
    async with memory_net() as net, Publisher(net.host()) as publisher:
        await fetch(net.host(), await publisher.publish(first), out, options=QUICK)
        with pytest.raises(StorageError, match="symbolic link"):
            await fetch(net.host(), await publisher.publish(second), out, options=QUICK)
        await fetch(net.host(), await publisher.publish(third), out, options=QUICK)
    assert not list((tmp_path / "home" / "s").iterdir())
    assert not list((tmp_path / "s").iterdir())


async def test_a_link_that_another_version_leads_elsewhere(tmp_path):
    out = tmp_path / "home" / "out"
    (tmp_path / "home" / "s").mkdir(parents=True)
    first = publish_as(tmp_path / "1", {"p/q/z": "", "s/x": ""}, {"m": "p/q", "l": "m/../../s"})
    second = publish_as(tmp_path / "2", {"r/x": ""}, {"m": "r"})
    third = publish_as(tmp_path / "3", {"l/key": "mine"}, {})
    async with memory_net() as net, Publisher(net.host()) as publisher:
        for source in (first, second, third):
            ticket = await publisher.publish(source, "x")
            await fetch(net.host(), ticket, out, options=QUICK)
    assert (out / "s" / "key").read_text() == "mine"
    assert not list((tmp_path / "home" / "s").iterdir())


async def test_a_link_below_one_of_the_users(tmp_path):
    source = publish_as(tmp_path / "in", {"d/a": "a", "b": "b"}, {"d/up": "../b", "d/here": "a"})
    out, disk = tmp_path / "out", tmp_path / "elsewhere" / "disk"
    for folder in (out, disk):
        folder.mkdir(parents=True)
    (out / "d").symlink_to(disk)
    async with memory_net() as net, Publisher(net.host()) as publisher:
        ticket = await publisher.publish(source)
        with pytest.raises(StorageError, match=r"'d' in .* is a symbolic link"):
            await fetch(net.host(), ticket, out, options=QUICK)
        assert (disk / "a").read_text() == "a"
        (source / "d" / "up").unlink()
        ticket = await publisher.publish(source)
        await fetch(net.host(), ticket, out, options=QUICK)
        assert (disk / "here").read_text() == "a"


async def test_permissions_of_a_directory_that_the_user_has_linked_stay(tmp_path):
    source = publish_as(tmp_path / "in", {"d/a": "a"}, {})
    (source / "d").chmod(0o757)
    out, private = tmp_path / "out", tmp_path / "private"
    out.mkdir()
    private.mkdir(mode=0o700)
    (out / "d").symlink_to(private)
    async with memory_net() as net, Publisher(net.host()) as publisher:
        await fetch(net.host(), await publisher.publish(source), out, options=QUICK)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert (private / "a").read_text() == "a"
