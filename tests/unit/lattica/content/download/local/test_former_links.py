"""`--delete` and symbolic links: those that a former fetch has made go, and none is followed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from lattica.content import FetchOptions, Publisher, fetch
from lattica.content.download.local.former import LINKS, LinkNotes, other_file
from tests.support.doubles.memory_host import memory_net

DELETE = FetchOptions(delete_former=True, first_delay=0.01)


async def fetched(source: Path, out: Path, options: FetchOptions = DELETE):
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publisher.publish(source, "model")
            return await fetch(client, ticket, out, options=options)


def version(directory: Path, links: dict[str, str]) -> Path:
    (directory / "below").mkdir(parents=True)
    (directory / "model.bin").write_bytes(b"weights")
    (directory / "below" / "b.bin").write_bytes(b"more")
    for name, target in links.items():
        (directory / name).symlink_to(target)
    return directory


async def test_links_of_a_former_version_go_and_those_of_others_stay(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    both = {"latest": "model.bin", "folder": "below", "below/up": "../model.bin"}
    await fetched(version(tmp_path / "1", both), out)
    assert (out / "below" / "up").read_bytes() == b"weights"
    (out / "mine").symlink_to("model.bin")
    (out / "away").symlink_to(outside)
    (out / "folder").unlink()
    (out / "folder").symlink_to(outside)  # changed since: it is not the one that was fetched
    told = await fetched(version(tmp_path / "2", {}), out, FetchOptions(first_delay=0.01))
    assert {str(path.relative_to(out)) for path in told.former_files} == {"latest", "below/up"}
    result = await fetched(tmp_path / "2", out)
    assert {str(path.relative_to(out)) for path in result.removed_files} == {"latest", "below/up"}
    assert sorted(path.name for path in out.iterdir()) == [
        "away",
        "below",
        "folder",
        "mine",
        "model.bin",
    ]
    assert (outside / "kept").read_text() == "kept"
    assert (out / "below" / "b.bin").exists()


async def test_a_link_that_the_new_version_has_too_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    await fetched(version(tmp_path / "1", {"a": "model.bin", "b": "model.bin"}), out)
    result = await fetched(version(tmp_path / "2", {"b": "below/b.bin"}), out)
    assert [path.name for path in result.removed_files] == ["a"]
    assert (out / "b").read_bytes() == b"more"
    result = await fetched(version(tmp_path / "3", {}), out)
    assert [path.name for path in result.removed_files] == ["b"]


async def test_hundreds_of_links_come_and_go(tmp_path: Path) -> None:
    """More notes than an attribute takes: those of links that are gone are forgotten."""
    out = tmp_path / "out"
    for number in range(3):
        names = {f"{number}-{each:03}": "model.bin" for each in range(200)}
        await fetched(version(tmp_path / str(number), names), out)
        assert sum(path.is_symlink() for path in out.iterdir()) == 200


def test_where_no_more_can_be_noted_all_links_are_looked_at_once(tmp_path: Path, monkeypatch):
    """Each link beyond what an attribute takes was a look at all others."""
    root, most, looks, kept = b"r" * 16, 10, 0, {}

    def keep(directory: int, name: bytes, value: bytes) -> None:
        if len(value) > len(root) + 8 * most:
            raise OSError(errno.ENOSPC, "full")
        kept[name] = value

    def look(directory: int):
        nonlocal looks
        looks += 1
        return scandir(directory)

    scandir = os.scandir
    monkeypatch.setattr(os, "setxattr", keep, raising=False)
    monkeypatch.setattr(os, "getxattr", lambda directory, name: kept[name], raising=False)
    monkeypatch.setattr(os, "scandir", look)
    kept[LINKS] = root
    directory = os.open(tmp_path, os.O_RDONLY)

    def is_noted(name: str) -> bool:
        found = other_file(directory, name, name, root)
        return found is not None and found.is_link

    def make(notes: LinkNotes, name: str, target: str, before: str | None = None) -> None:
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(target)
        notes.add(directory, name, target, before)

    try:
        notes = LinkNotes(root)
        for number in range(30):
            make(notes, f"{number:02}", "a")
        assert looks == 1
        assert [n for n in range(30) if is_noted(f"{n:02}")] == [*range(most)]
        make(notes, "03", "b", "a")  # in the place of one that is noted
        assert is_noted("03")
        (tmp_path / "05").unlink()
        make(LinkNotes(root), "30", "a")  # by the next fetch
        assert looks == 2
        assert is_noted("30")
    finally:
        os.close(directory)
