"""Unfinished files of a fetch of something else that was broken off in the same directory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lattica.content import FetchOptions, FetchResult, Publisher, fetch
from lattica.content.download.local.leftovers import leftovers
from lattica.content.download.partial.partial_files import PartialFiles
from lattica.content.download.plan import Plan
from lattica.content.publish.catalog import make_publication
from tests.support.doubles.content_doubles import memory_node

MIB = 1024 * 1024
QUICK = FetchOptions(window=4 * MIB, first_delay=0.01)
DELETE = replace(QUICK, delete_former=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "weights.bin").write_bytes(np.random.default_rng(1).bytes(6 * MIB))
    return directory


async def break_off(source: Path, out: Path) -> PartialFiles:
    """Leave there what a fetch of this would when it is broken off near its end."""
    publication = await make_publication(source)
    plan = Plan(publication.cid, publication.manifest)
    with PartialFiles(plan, out) as files:
        for number in [*plan.chunks][:-1]:
            files.write(number, 1, publication.read_span(number, 1), "test")
    return files


async def fetched(source: Path, out: Path, options: FetchOptions) -> FetchResult:
    async with memory_node(1 << 20) as node, Publisher(node) as publisher:
        return await fetch(node, await publisher.publish(source), out, options=options)


@pytest.mark.parametrize("options", [QUICK, DELETE])
async def test_what_a_former_version_was_broken_off_with_is_used_and_told_of(
    source, tmp_path, options
):
    out = tmp_path / "out"
    await break_off(source, out)
    (unfinished,) = out.iterdir()
    (source / "more.bin").write_bytes(b"the next version")
    result = await fetched(source, out, options)
    assert result.bytes_fetched < 3 * MIB  # a chunk has 2 at most
    assert (out / "weights.bin").read_bytes() == (source / "weights.bin").read_bytes()
    if options.delete_former:
        assert result.removed_files == (unfinished,)
        assert not result.former_files
        assert not unfinished.exists()
    else:
        assert result.former_files == result.other_files == (unfinished,)
        assert unfinished.exists()


async def test_of_a_single_file_what_other_versions_have_left_goes(source, tmp_path):
    out, file = tmp_path / "out", source / "weights.bin"
    await break_off(file, out)
    (older,) = out.iterdir()
    await break_off(source, out)  # a directory, which has such a file
    other = tmp_path / "other.bin"
    other.write_bytes(np.random.default_rng(2).bytes(3 * MIB))
    await break_off(other, out)
    kept = {*out.iterdir()} - {older}
    file.write_bytes(file.read_bytes() + b"the next version")
    result = await fetched(file, out, QUICK)
    assert result.bytes_fetched < 4 * MIB
    assert (result.removed_files, result.other_files) == ((older,), ())
    assert {*out.iterdir()} == kept | {out / "weights.bin"}


async def test_where_a_fetch_is_at_work_nothing_is_left(source, tmp_path):
    out = tmp_path / "out"
    files = await break_off(source, out)
    (unfinished,) = out.iterdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "small.bin").write_bytes(b"something else")
    with files:  # it is taken up again
        result = await fetched(other, out, DELETE)
    assert not result.former_files
    assert not result.removed_files
    assert (unfinished / "0").exists()
    assert [path for path, _ in leftovers(out, "")] == [unfinished]


async def test_what_is_no_such_directory_stays(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "journal").touch()
    (out / ".lattica-link").symlink_to(tmp_path / "mine")
    (out / ".lattica-empty").mkdir()
    os.mkfifo(out / ".lattica-pipe")
    result = await fetched(source, out, DELETE)
    assert not result.removed_files
    assert (tmp_path / "mine" / "journal").exists()
    assert len([*out.iterdir()]) == 4
