"""Other programs at work in a download's directory: what is called done is right all the same."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import trio
from safetensors.numpy import save_file

from lattica.content import FetchOptions, Publisher, fetch
from lattica.content.disk import make_directory
from lattica.content.download.partial import read_back
from lattica.content.download.partial.partial_files import PartialFiles
from lattica.content.download.partial.read_back import Written
from lattica.content.events import FetchEvent, FetchProgress
from lattica.errors import StorageError
from tests.support.doubles.content_doubles import memory_node

MIB = 1024 * 1024
QUICK = FetchOptions(first_delay=0.01)


def make_tree(directory: Path) -> Path:
    rng = np.random.default_rng(7)
    (directory / "sub").mkdir(parents=True)
    arrays = {
        "head": rng.standard_normal((600, 600), np.float32),
        "norm": rng.standard_normal(100).astype(np.float32),
        "other": rng.standard_normal(100).astype(np.float32),
    }
    save_file(arrays, directory / "a.safetensors")
    (directory / "b").write_bytes(rng.bytes(MIB + 17))
    (directory / "sub" / "big").write_bytes(rng.bytes(4 * MIB))
    (directory / "sub" / "twice").write_bytes((directory / "b").read_bytes())
    (directory / "z").touch()
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def unfinished(out: Path) -> list[Path]:
    return [p for p in out.glob(".lattica-*/*") if p.name != "journal"]


def unlink_unfinished(out: Path) -> None:
    for path in unfinished(out):
        path.unlink(missing_ok=True)


def remove_directory(out: Path) -> None:
    for path in out.glob(".lattica-*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_everything(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)


def remove_done(out: Path) -> None:
    for path in list(out.rglob("*")):
        if path.is_file() and not path.parent.name.startswith(".lattica-"):
            path.unlink()


def truncate(out: Path) -> None:
    for path in unfinished(out):
        os.truncate(path, 100)


def empty(out: Path) -> None:
    for path in unfinished(out):
        os.truncate(path, 0)


def lengthen(out: Path) -> None:
    for path in unfinished(out):
        os.truncate(path, path.stat().st_size + 100)


def overwrite(out: Path) -> None:
    for path in out.rglob("*"):
        if path.is_file():
            with open(path, "r+b") as file:
                file.write(b"overwritten by another"[: path.stat().st_size])


def replace(out: Path) -> None:
    """By other files of the same size."""
    for path in unfinished(out):
        other = path.with_name("other")
        other.write_bytes(bytes(path.stat().st_size))
        other.rename(path)


def touch(out: Path) -> None:
    for path in out.rglob("*"):
        path.touch()


ACTIONS: list[Callable[[Path], None]] = [
    unlink_unfinished,
    remove_directory,
    remove_everything,
    remove_done,
    truncate,
    empty,
    lengthen,
    overwrite,
    replace,
    touch,
]


class Disturber:
    """Does something at the n-th point of a fetch: before and after writes, syncs, renames.

    The actions take turns with the points, a fifth each; which threads reach them first varies.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
        self.points = 0
        self.at: int | None = None
        self.act = act
        for owner, name in (
            (PartialFiles, "write"),
            (Written, "_compare"),
            (PartialFiles, "disturbed"),
            (os, "fsync"),
            (os, "replace"),
        ):
            monkeypatch.setattr(owner, name, self.around(getattr(owner, name)))

    def around(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            self.point()
            result = real(*arguments, **options)
            self.point()
            return result

        return call

    def point(self) -> None:
        self.points += 1
        if self.points == self.at:
            with suppress(FileNotFoundError):  # the fetch has just renamed it
                self.act()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("tensors", [None, "norm"])
async def test_disturbed_at_every_point(tmp_path, monkeypatch, action, tensors):
    source = make_tree(tmp_path / "source")
    out = tmp_path / "out"
    monkeypatch.setattr(read_back, "WRITTEN_OUT_FROM", 2 * MIB)
    disturber = Disturber(monkeypatch, lambda: action(out))
    async with memory_node(4 * MIB) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        await fetch(node, ticket, out, tensors=tensors, options=QUICK)
        right = contents(out)
        points = disturber.points
        assert points > 10
        if tensors is None:
            assert right == contents(source)
        # The last point comes after the last look, when the fetch is over in all but name.
        for at in range(1 + ACTIONS.index(action) % 5, points, 5):
            shutil.rmtree(out, ignore_errors=True)
            disturber.points, disturber.at = 0, at
            events: list[FetchEvent] = []
            result = await fetch(
                node, ticket, out, tensors=tensors, options=QUICK, progress=events.append
            )
            assert contents(out) == right, f"point {at}"
            last = events[-1]
            assert isinstance(last, FetchProgress)
            assert last.bytes_done == last.bytes_total == result.bytes_total


async def test_disturbed_without_end_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    source = make_tree(tmp_path / "source")
    out = tmp_path / "out"
    real = PartialFiles.write

    def write(self, *arguments):
        real(self, *arguments)
        unlink_unfinished(out)

    async with memory_node(4 * MIB) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        with monkeypatch.context() as patch:
            patch.setattr(PartialFiles, "write", write)
            with pytest.raises(StorageError, match=r"(?s)cannot write .*out/.*stop that program"):
                await fetch(node, ticket, out, options=QUICK)
        await fetch(node, ticket, out, options=QUICK)
    assert contents(out) == contents(source)


async def test_file_that_was_there_and_goes_in_mid_fetch(tmp_path):
    source = make_tree(tmp_path / "source")
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy2(source / "b", out / "b")

    async with memory_node(4 * MIB) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        removed: list[FetchEvent] = []

        def once(event: FetchEvent) -> None:
            if not removed and isinstance(event, FetchProgress):
                (out / "b").unlink()
                removed.append(event)

        await fetch(node, ticket, out, options=QUICK, progress=once)
    assert removed
    assert contents(out) == contents(source)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("seed", range(4))
async def test_two_at_once_without_locks(tmp_path, monkeypatch, number, seed):
    source = make_tree(tmp_path / "source")
    out = tmp_path / "out"
    monkeypatch.setattr(read_back, "WRITTEN_OUT_FROM", 2 * MIB)

    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    async with memory_node(MIB) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)

        async def one(delay_bytes: int) -> None:
            # The second begins when the first has so many bytes.
            while delay_bytes and sum(s.incoming.passed for s in node.streams) < delay_bytes:
                await trio.sleep(0.001)
            await fetch(node, ticket, out, options=QUICK)
            # By name: the other one may be about to remove what it had not finished.
            for path, data in contents(source).items():
                assert (out / path).read_bytes() == data

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, 0)
            nursery.start_soon(one, seed * 2 * MIB)
    assert contents(out) == contents(source)


async def test_lock_errors_that_mean_something_else_are_errors(tmp_path, monkeypatch):
    source = make_tree(tmp_path / "source")

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        with pytest.raises(StorageError, match="the disk fails"):
            await fetch(node, ticket, tmp_path / "out", options=QUICK)


@pytest.mark.parametrize("error", [FileExistsError, FileNotFoundError])
def test_a_directory_that_is_removed_while_it_is_made_is_made_again(error, tmp_path, monkeypatch):
    real, tries = Path.mkdir, []

    def mkdir(path, *args, **kwargs):
        tries.append(path)
        if len(tries) == 1:
            raise error(str(path))
        real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_directory(tmp_path / "file")
