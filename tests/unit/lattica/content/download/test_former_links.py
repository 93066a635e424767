"""`--delete` and symbolic links: those that a former fetch has made go, and none is followed."""

from __future__ import annotations

from pathlib import Path

from lattica.content import FetchOptions, Publisher, fetch
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
