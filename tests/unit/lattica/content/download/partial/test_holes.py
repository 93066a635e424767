"""Zeros become holes in what is fetched, and are right whatever the file system knows of holes."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from lattica.content.download.ledger import Ledger
from lattica.content.download.partial import holes
from lattica.content.download.partial.holes import Hole, digests_of_holes, is_zeros, joined
from lattica.content.download.partial.partial_files import PartialFiles
from lattica.content.download.plan import Placement, Plan
from lattica.content.publish.catalog import make_publication
from lattica.errors import StorageError

MIB = 1024 * 1024
SIZE = 16 * MIB
DATA = (3 * MIB, 9 * MIB + 12345)
"""Where there is something in :func:`sparse_file`."""
MOST = 2 * 2 * MIB + 64 * 1024
"""Bytes of the chunks in which that is: their other zeros are written."""


def sparse_file(path: Path) -> Path:
    with path.open("wb") as file:
        for offset in DATA:
            file.seek(offset)
            # The same each time: in others a chunk may end.
            file.write(random.Random(offset).randbytes(1000))
        file.truncate(SIZE)
    return path


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture
def source(tmp_path):
    path = sparse_file(tmp_path / "f")
    if on_disk(path) >= SIZE:
        pytest.skip("the file system of the tests knows of no holes")
    return path


async def planned(path: Path):
    publication = await make_publication(path)
    return publication, Plan(publication.cid, publication.manifest)


def fetch(publication, plan, files) -> None:
    ledger = Ledger(plan, frozenset())
    files.check_space()
    for number in plan.chunks:
        files.write(number, 1, publication.read_span(number, 1), "test")
        ledger.add([number], fetched=True)
    assert [files.finish(output) for output in ledger.take_ready()] == [None]


async def test_holes_stay_holes(source, tmp_path):
    publication, plan = await planned(source)
    out = tmp_path / "out"
    with PartialFiles(plan, out) as files:
        fetch(publication, plan, files)
        files.remove()
    assert (out / "f").read_bytes() == source.read_bytes()
    assert on_disk(out / "f") <= MOST


async def test_zeros_that_were_written_become_holes_too(tmp_path, source):
    written = tmp_path / "written"
    written.write_bytes(source.read_bytes())
    publication, plan = await planned(written)
    with PartialFiles(plan, tmp_path / "out") as files:
        fetch(publication, plan, files)
    assert on_disk(tmp_path / "out" / "written") <= MOST


async def test_a_hole_is_made_where_something_lies(source, tmp_path):
    """In the unfinished file, of an earlier run or by another program."""
    publication, plan = await planned(source)
    with PartialFiles(plan, tmp_path / "out") as files:
        (unfinished,) = (tmp_path / "out").iterdir()
        (unfinished / "0").write_bytes(b"x" * SIZE)
        fetch(publication, plan, files)
    assert (tmp_path / "out" / "f").read_bytes() == source.read_bytes()
    assert on_disk(tmp_path / "out" / "f") <= MOST


async def test_without_holes_zeros_are_written(source, tmp_path, monkeypatch):
    publication, plan = await planned(source)
    monkeypatch.setattr(holes, "punch", lambda descriptor, offset, size: False)
    monkeypatch.setattr(holes, "next_data", lambda descriptor, offset: offset)
    with PartialFiles(plan, tmp_path / "out") as files:
        (unfinished,) = (tmp_path / "out").iterdir()
        (unfinished / "0").write_bytes(b"x" * SIZE)
        fetch(publication, plan, files)
    assert (tmp_path / "out" / "f").read_bytes() == source.read_bytes()


async def test_what_is_written_into_a_hole_is_noticed(source, tmp_path):
    publication, plan = await planned(source)
    out = tmp_path / "out"
    with PartialFiles(plan, out) as files:
        for number in plan.chunks:
            files.write(number, 1, publication.read_span(number, 1), "test")
        everything = list(plan.chunks)
        assert files.verify(everything) == everything
        piece = [piece for piece in plan.pieces(0) if piece.digest in digests_of_holes()][-1]
        damaged = piece.number
        (unfinished,) = out.iterdir()
        with (unfinished / "0").open("r+b") as file:
            file.seek(piece.offset + piece.length - 6)
            file.write(b"damage")
        assert files.verify(everything) == [n for n in everything if n != damaged]
        assert files.finish(0) == [damaged]
        files.write(damaged, 1, publication.read_span(damaged, 1), "test")
        assert files.finish(0) is None
    assert (out / "f").read_bytes() == source.read_bytes()


async def test_holes_need_no_room(source, tmp_path, monkeypatch):
    _, plan = await planned(source)
    with PartialFiles(plan, tmp_path / "out") as files:
        usage = SimpleNamespace(free=10 * MIB)
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
        files.check_space()
        usage.free = 4 * MIB
        with pytest.raises(StorageError, match=r"and 8\.0 MiB are needed"):
            files.check_space()


def test_places_that_follow_on_each_other_are_one_hole():
    places = [
        Placement(1, 0, 0, 5),
        Placement(0, 10, 0, 5),
        Placement(0, 0, 0, 5),
        Placement(0, 5, 0, 5),
        Placement(0, 20, 0, 5),
    ]
    assert joined(places) == [Hole(0, 0, 15), Hole(0, 20, 5), Hole(1, 0, 5)]


@pytest.mark.parametrize("at", [0, 63, 64, MIB - 1, MIB, 2 * MIB - 65, 2 * MIB - 1])
def test_one_byte_makes_no_zeros(at):
    data = bytearray(2 * MIB)
    assert is_zeros(memoryview(data))
    assert not is_zeros(memoryview(data)[:1024])
    data[at] = 1
    assert not is_zeros(memoryview(data))
