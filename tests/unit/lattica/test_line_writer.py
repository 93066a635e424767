"""Lines to a reader that stalls: nobody waits, and what is dropped is counted."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lattica.line_writer import QUEUE_SIZE, LineWriter

_CAPACITY = 4096


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """The smallest pipe that there is."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _CAPACITY)
    ends = [reading, writing]
    try:
        yield reading, writing
    finally:
        for end in ends:
            os.close(end)


def read_lines(descriptor: int, until: str) -> list[str]:
    data = b""
    while not data.endswith(f"{until}\n".encode()):
        piece = os.read(descriptor, 65536)
        assert piece
        data += piece
    return data.decode().split("\n")[:-1]


def lost(count: int) -> str:
    return f"lost {count}"


def test_without_a_stall_a_line_is_there_when_it_was_written() -> None:
    with pipe() as (reading, writing):
        writer = LineWriter(writing, lost)
        for number in range(3):
            writer.write(f"line {number}\x1b[2J")
            assert os.read(reading, 100) == f"line {number}\\x1b[2J\n".encode()
        assert not _threads()


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lattica-lines"]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_stalled_reader_is_told_what_it_missed(blocking: bool) -> None:
    count = 3 * QUEUE_SIZE
    with pipe() as (reading, writing):
        os.set_blocking(writing, blocking)
        writer = LineWriter(writing, lost)
        for number in range(count):
            writer.write(f"line {number}")
        thread = _threads()
        assert len(thread) == 1
        done = threading.Thread(target=_write_end, args=(writer, thread[0]))
        done.start()
        lines = read_lines(reading, "end")
        done.join()
    assert lines.pop() == "end"
    # Lines may be dropped more than once; what is said of it stands in their place each time.
    number = 0
    for line in lines:
        kind, said = line.split()
        if kind == "lost":
            number += int(said)
        else:
            assert int(said) == number
            number += 1
    assert number == count
    assert QUEUE_SIZE <= len(lines) < count


def _write_end(writer: LineWriter, thread: threading.Thread) -> None:
    thread.join()
    writer.write("end")


def test_news_after_what_was_dropped_follow_it() -> None:
    count = 3 * QUEUE_SIZE
    with pipe() as (reading, writing):
        writer = LineWriter(writing, lost)
        for number in range(count):
            writer.write(f"line {number}")
        data = b""
        # Until then the queue may be full again, and the news would be among what is dropped.
        while _accounted(data) < count:
            data += os.read(reading, _CAPACITY)
        writer.write("news")
        lines = (data + "\n".join(read_lines(reading, "news")).encode()).decode().split("\n")
    assert lines[-1] == "news"
    assert _accounted(data) == count
    assert b"lost" in data


def _accounted(data: bytes) -> int:
    """Of how many lines is known that they have come, or are lost."""
    kinds = [line.split() for line in data.decode().split("\n")[:-1]]
    return sum(int(said) if kind == "lost" else 1 for kind, said in kinds)


def test_long_texts_do_not_wait_either_and_stay_in_order() -> None:
    with pipe() as (reading, writing):
        writer = LineWriter(writing, lost)
        writer.write("x" * 100_000)
        writer.write("short")
        writer.write("two\nlines")
        assert read_lines(reading, "lines") == ["x" * 100_000, "short", "two", "lines"]


def test_a_closed_reader_is_an_error_for_the_next() -> None:
    reading, writing = os.pipe()
    try:
        writer = LineWriter(writing, lost)
        writer.write("x" * 1_000_000)  # waits in the thread
        os.close(reading)
        for thread in _threads():
            thread.join()
        for _ in range(2):
            with pytest.raises(BrokenPipeError):
                writer.write("more")
    finally:
        os.close(writing)


class Disk:
    """Has room for so many bytes, and then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, error: int) -> None:
        self.room = room
        self.error = error
        self._write = os.write
        monkeypatch.setattr("lattica.line_writer.os.write", self.write)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if not self.room:
            raise OSError(self.error, os.strerror(self.error))
        count = self._write(descriptor, bytes(data)[: self.room])
        self.room -= count
        return count


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("long", [False, True])
def test_a_full_disk_is_told_once_and_tried_again_with_the_next_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: int, long: bool
) -> None:
    """Also in the middle of a line, which then has its end before the next one."""
    disk = Disk(monkeypatch, 20, error)
    told: list[int | None] = []
    first = "first " + ("x" * 100_000 if long else "and not whole at once")
    with open(tmp_path / "lines", "wb") as file:
        writer = LineWriter(file.fileno(), lost, refused=lambda refusal: told.append(refusal.errno))
        for line in (first, "two", "three\nlines"):
            writer.write(line)
            writer.close()
        assert told == [error]
        disk.room = 1_000_000
        writer.write("four")
        writer.close()
        disk.room = 0
        for line in ("five", "six"):
            writer.write(line)
        disk.room = 1_000_000
        writer.write("seven")
    assert told == [error, error]
    lines = (tmp_path / "lines").read_text().splitlines()
    assert lines == [first, "lost 2", "four", "lost 2", "seven"]


def test_closing_waits_for_what_is_queued_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe() as (reading, writing):
        writer = LineWriter(writing, lost)
        writer.write("x" * 100_000)
        reader = threading.Thread(target=read_lines, args=(reading, "x"))
        reader.start()
        writer.close()
        assert not _threads()
        reader.join()
        monkeypatch.setattr("lattica.line_writer.CLOSING_TIME", 0.01)
        writer.write("x" * 100_000)
        writer.close()
        assert _threads()
        read_lines(reading, "x")


def test_what_the_encoding_lacks_is_shown_by_its_code() -> None:
    with pipe() as (reading, writing):
        LineWriter(writing, lost, "ascii").write("模 \x7f")
        assert os.read(reading, 100) == b"\\u6a21 \\x7f\n"
