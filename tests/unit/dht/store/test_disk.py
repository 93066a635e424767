"""The file of records: what is written stays, whatever happens to the process or the disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import trio

from lattica.dht.store import keeper as keeper_module
from lattica.dht.store.disk import RecordFile
from lattica.dht.store.keeper import Keeper
from lattica.dht.store.rows import Kind, Row, RowId

ONE, TWO = RowId(Kind.VALUE, b"one"), RowId(Kind.PROVIDER, b"two")


def test_rows_are_there_again_and_gone_ones_are_not(tmp_path):
    path = tmp_path / "sub" / "records.sqlite"
    file = RecordFile(path)
    file.write([Row(ONE, b"1"), Row(TWO, b"2")], [])
    file.write([Row(ONE, b"3")], [TWO])
    file.close()
    file = RecordFile(path)
    assert list(file.read()) == [Row(ONE, b"3")]
    file.close()


def test_a_damaged_file_is_put_aside_and_said(tmp_path, caplog):
    path = tmp_path / "records.sqlite"
    path.write_bytes(b"nothing that SQLite has written" * 100)
    file = RecordFile(path)
    assert list(file.read()) == []
    file.close()
    assert "damaged" in caplog.text
    assert (tmp_path / "records.sqlite.damaged").exists()


def test_what_is_written_half_is_not_written(tmp_path):
    file = RecordFile(tmp_path / "records.sqlite")
    with pytest.raises(sqlite3.Error):
        file.write([Row(ONE, b"1"), Row(TWO, object())], [])  # type: ignore[arg-type]
    assert list(file.read()) == []
    file.write([Row(ONE, b"1")], [])
    file.close()


_WRITER = """
import sys
from unittest.mock import Mock
from pathlib import Path
from lattica.dht.store.disk import RecordFile
from lattica.dht.store.rows import Kind, Row, RowId

file = RecordFile(Path(sys.argv[1]))
for number in range(10_000):
    file.write([Row(RowId(Kind.VALUE, b"%d" % number), b"x" * 1000)], [])
    print(number, flush=True)
"""


def test_a_killed_process_has_lost_nothing_that_was_written(tmp_path):
    path = tmp_path / "records.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 50:
                os.kill(process.pid, signal.SIGKILL)
                break
    file = RecordFile(path)
    numbers = {int(row.row_id.id) for row in file.read()}
    file.close()
    assert numbers >= set(range(51))


class Rows(dict[RowId, bytes]):
    """What a node has, by row."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def row(self, row_id: RowId) -> Row | None:
        return Row(row_id, self[row_id]) if row_id in self else None

    def row_ids(self) -> Iterator[RowId]:
        return iter(tuple(self))


async def _kept(path, rows, nursery):
    keeper = Keeper(path)
    keeper.serve(tuple(Kind), rows)
    assert await keeper.load() == []
    nursery.start_soon(keeper.run)
    return keeper


async def test_what_has_changed_is_written_in_the_background(tmp_path):
    rows = Rows({ONE: b"1", TWO: b"2"})
    async with trio.open_nursery() as nursery:
        keeper = await _kept(tmp_path / "r", rows, nursery)
        keeper.changed(ONE)
        keeper.changed(TWO)
        await keeper.wait_written()
        del rows[TWO]
        keeper.changed(TWO)
        await keeper.wait_written()
        nursery.cancel_scope.cancel()
    rows[ONE] = b"last"
    keeper.changed(ONE)
    await keeper.aclose()
    again = Keeper(tmp_path / "r")
    assert await again.load() == [Row(ONE, b"last")]
    await again.aclose()


def _full(*args):
    raise sqlite3.OperationalError("database or disk is full")


async def test_a_full_disk_costs_nothing_but_the_file_and_is_said_once(
    tmp_path, caplog, autojump_clock, monkeypatch
):
    rows = Rows({ONE: b"1"})
    async with trio.open_nursery() as nursery:
        keeper = await _kept(tmp_path / "r", rows, nursery)
        write = RecordFile.write
        monkeypatch.setattr(RecordFile, "write", _full)
        keeper.changed(ONE)
        await keeper.wait_written()
        assert not keeper.is_on_disk
        assert "full" in keeper.problem
        await trio.sleep(100)
        assert caplog.text.count("kept in memory") == 1
        monkeypatch.setattr(RecordFile, "write", write)
        while not keeper.is_on_disk:
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    await keeper.aclose()
    again = Keeper(tmp_path / "r")
    assert await again.load() == [Row(ONE, b"1")]
    await again.aclose()


async def test_what_changes_while_the_disk_is_full_takes_no_more_memory_than_what_there_is(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr(keeper_module, "_MOST_NOTED", 100)
    ids = [RowId(Kind.PROVIDER, b"%d" % number) for number in range(3000)]
    rows = Rows(dict.fromkeys(ids[:50], b"old"))
    async with trio.open_nursery() as nursery:
        keeper = await _kept(tmp_path / "r", rows, nursery)
        for row_id in tuple(rows):
            keeper.changed(row_id)
        await keeper.wait_written()
        with monkeypatch.context() as patch:
            patch.setattr(RecordFile, "write", _full)
            keeper.changed(ids[0])
            await keeper.wait_written()
            for row_id in ids:  # each is there for a moment
                rows[row_id] = b"new"
                keeper.changed(row_id)
                if int(row_id.id) % 100 != 7:
                    del rows[row_id]
                    keeper.changed(row_id)
            assert len(keeper._dirty) <= 100
            await trio.sleep(100)
        while not keeper.is_on_disk:
            await trio.sleep(1)
        await keeper.wait_written()
        nursery.cancel_scope.cancel()
    await keeper.aclose()
    assert len(rows) == 30
    again = Keeper(tmp_path / "r")
    assert {row.row_id: row.data for row in await again.load()} == rows
    await again.aclose()


async def test_what_could_not_be_read_at_first_is_taken_as_soon_as_it_can(
    tmp_path, autojump_clock, monkeypatch
):
    path = tmp_path / "r"
    three = RowId(Kind.VALUE, b"three")
    file = RecordFile(path)
    file.write([Row(ONE, b"1"), Row(TWO, b"2"), Row(three, b"3")], [])
    file.close()
    rows, late = Rows(), trio.Event()

    async def take(found):
        rows.update({row.row_id: row.data for row in found})
        await keeper.drop_missing(found)
        late.set()

    keeper = Keeper(path, take)
    keeper.serve(tuple(Kind), rows)
    with monkeypatch.context() as patch:
        patch.setattr(keeper_module, "RecordFile", Mock(side_effect=OSError("locked")))
        patch.setattr(keeper_module, "read_without_room", lambda path: [])
        assert await keeper.load() == []
    rows[ONE] = b"newer"
    keeper.changed(ONE)
    keeper.changed(TWO)  # it was there, and went
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await late.wait()
        while not keeper.is_on_disk:
            await trio.sleep(1)
        await keeper.wait_written()
        nursery.cancel_scope.cancel()
    await keeper.aclose()
    assert rows == {ONE: b"newer", three: b"3"}
    file = RecordFile(path)
    assert {row.row_id: row.data for row in file.read()} == rows
    file.close()


async def test_what_nobody_takes_leaves_the_file(tmp_path):
    path = tmp_path / "r"
    file = RecordFile(path)
    file.write([Row(ONE, b"1"), Row(TWO, b"expired")], [])
    file.close()
    keeper = Keeper(path)
    keeper.serve(tuple(Kind), Rows({ONE: b"1"}))
    await keeper.drop_missing(await keeper.load())
    await keeper.aclose()
    file = RecordFile(path)
    assert list(file.read()) == [Row(ONE, b"1")]
    file.close()


async def test_a_path_that_cannot_be_costs_the_file_and_not_the_node(tmp_path, caplog):
    (tmp_path / "file").write_text("no directory")
    keeper = Keeper(tmp_path / "file" / "records.sqlite")
    assert await keeper.load() == []
    assert not keeper.is_on_disk
    assert "kept in memory" in caplog.text
    await keeper.wait_written()
    await keeper.aclose()


async def test_without_a_path_nothing_is_kept():
    keeper = Keeper(None)
    assert await keeper.load() == []
    keeper.changed(ONE)
    await keeper.wait_written()
    await keeper.aclose()


async def test_what_is_in_the_file_is_read_where_there_is_no_room_to_open_it(tmp_path, caplog):
    path, copy = tmp_path / "records.sqlite", tmp_path / "full" / "records.sqlite"
    file = RecordFile(path)
    file.write([Row(ONE, b"1")], [])
    copy.parent.mkdir()
    for suffix in ("", "-wal"):  # as a killed process leaves it: the row is in the log
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    file.close()
    shared = copy.with_name(f"{copy.name}-shm")
    shared.mkdir()  # SQLite cannot make it, as where the disk is full
    keeper = Keeper(copy)
    assert await keeper.load() == [Row(ONE, b"1")]
    assert not keeper.is_on_disk
    assert keeper.problem
    assert "kept in memory" in caplog.text
    await keeper.aclose()
    shared.rmdir()
    file = RecordFile(copy)
    assert list(file.read()) == [Row(ONE, b"1")]
    file.close()


async def test_of_a_file_that_can_only_be_read_what_is_in_it_counts(tmp_path):
    path = tmp_path / "records.sqlite"
    file = RecordFile(path)
    file.write([Row(ONE, b"1")], [])
    file.close()
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordFile, "_open", Mock(side_effect=sqlite3.OperationalError("readonly")))
        keeper = Keeper(path)
        assert await keeper.load() == [Row(ONE, b"1")]
        await keeper.aclose()
        assert await Keeper(tmp_path / "none.sqlite").load() == []
    assert path.read_bytes() == before
    assert not (tmp_path / "none.sqlite").exists()
