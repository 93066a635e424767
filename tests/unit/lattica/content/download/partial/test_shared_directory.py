"""A download into a directory in which other users of the machine may write, too."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lattica.content import FetchOptions, Publisher, fetch
from lattica.content.download.partial.partial_files import PartialFiles
from lattica.content.download.partial.private_directory import PrivateDirectory
from lattica.content.download.plan import Plan
from lattica.content.manifest.paths import RESERVED_PREFIX
from lattica.content.publish.catalog import make_publication
from lattica.errors import StorageError
from tests.support.doubles.content_doubles import memory_node

SOMEBODY = 65534
MIB = 1024 * 1024
SECRET = b"what the victim has"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")


class Scene:
    """What is published, where it is fetched to, and a file of the victim's elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        (self.source / "sub").mkdir(parents=True)
        (self.source / "a").write_bytes(os.urandom(MIB + 5))
        (self.source / "sub" / "b").write_bytes(os.urandom(2 * MIB))
        self.out = folder / "out"
        self.out.mkdir(mode=0o777)
        self.home = folder / "home"
        self.home.mkdir()
        self.victim = self.home / "victim"
        self.victim.write_bytes(SECRET)

    async def directory(self) -> Path:
        """The directory of the unfinished files; it is not made."""
        publication = await make_publication(self.source)
        plan = Plan(publication.cid, publication.manifest, None)
        return self.out / f"{RESERVED_PREFIX}{plan.key}"

    async def fetch(self) -> None:
        async with memory_node() as node, Publisher(node) as publisher:
            ticket = await publisher.publish(self.source)
            await fetch(node, ticket, self.out, options=FetchOptions(first_delay=0.01))

    async def assert_refused(self, match: str) -> None:
        async with memory_node() as node, Publisher(node) as publisher:
            ticket = await publisher.publish(self.source)
            with pytest.raises(StorageError, match=match):
                await fetch(node, ticket, self.out)

    def assert_fetched(self) -> None:
        for path in ("a", "sub/b"):
            assert (self.out / path).read_bytes() == (self.source / path).read_bytes()
            assert (self.out / path).lstat().st_nlink == 1
            assert not (self.out / path).is_symlink()
        assert not list(self.out.glob(".lattica-*"))

    def assert_unharmed(self) -> None:
        assert self.victim.read_bytes() == SECRET
        assert os.listdir(self.home) == ["victim"]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def belongs_to_somebody(*paths: Path) -> None:
    for path in paths:
        os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)


@as_root
@pytest.mark.parametrize("name", ["0", "1", "journal"])
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
async def test_prepared_by_another_user(scene, name, mode):
    directory = await scene.directory()
    directory.mkdir()
    directory.chmod(mode)
    (directory / name).symlink_to(scene.victim)
    belongs_to_somebody(directory / name, directory)
    await scene.assert_refused(rf"belongs to another user \(number {SOMEBODY}\)")
    scene.assert_unharmed()
    assert os.listdir(directory) == [name]


@pytest.mark.parametrize("owner", [os.geteuid(), pytest.param(SOMEBODY, marks=as_root)])
async def test_the_directory_is_a_link(scene, owner):
    directory = await scene.directory()
    directory.symlink_to(scene.home)
    os.chown(directory, owner, -1, follow_symlinks=False)
    await scene.assert_refused("symbolic link")
    scene.assert_unharmed()


@pytest.mark.parametrize("name", ["0", "1", "journal"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "hard link"])
async def test_put_into_a_directory_of_ours_that_was_open(scene, name, kind):
    directory = await scene.directory()
    directory.mkdir()
    directory.chmod(0o777)
    match kind:
        case "link":
            (directory / name).symlink_to(scene.victim)
        case "dangling":
            (directory / name).symlink_to(scene.home / "made")
        case "pipe":
            os.mkfifo(directory / name)
        case "hard link":
            os.link(scene.victim, directory / name)
    await scene.fetch()
    scene.assert_fetched()
    scene.assert_unharmed()


@pytest.mark.parametrize("makes_anew", [False, True])
def test_another_thread_removes_a_name_that_was_put_there(scene, monkeypatch, makes_anew):
    """It leaves one name, elsewhere: by that the file was taken for ours, and overwritten."""
    directory = PrivateDirectory(scene.out / "unfinished")
    directory.make()
    os.link(scene.victim, directory.path / "1")
    os_open = os.open

    def opening(path, flags, *more, **options):
        descriptor = os_open(path, flags, *more, **options)
        if path == "1":
            monkeypatch.undo()
            with pytest.raises(FileNotFoundError):
                directory.open("1", os.O_RDWR)
            if makes_anew:
                os.close(directory.open("1", os.O_RDWR | os.O_CREAT))
        return descriptor

    descriptors = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(os, "open", opening)
    with pytest.raises(FileNotFoundError):
        directory.open("1", os.O_RDWR | os.O_CREAT)
    assert len(os.listdir("/dev/fd")) == descriptors
    os.close(directory.open("1", os.O_RDWR | os.O_CREAT))
    scene.assert_unharmed()


@as_root
async def test_a_file_of_another_user_counts_as_missing(scene):
    directory = await scene.directory()
    directory.mkdir()
    (directory / "0").touch()
    (directory / "0").chmod(0o666)
    belongs_to_somebody(directory / "0")
    await scene.fetch()
    scene.assert_fetched()
    assert (scene.out / "a").stat().st_uid == os.geteuid()


async def test_unfinished_files_are_closed_to_others(scene):
    publication = await make_publication(scene.source)
    plan = Plan(publication.cid, publication.manifest, None)
    umask = os.umask(0)
    try:
        with PartialFiles(plan, scene.out):
            mode = (await scene.directory()).stat().st_mode
    finally:
        os.umask(umask)
    assert stat.S_IMODE(mode) == 0o700


@as_root
async def test_the_link_of_another_user_on_the_way_to_the_name(scene):
    (scene.out / "sub").symlink_to(scene.home)
    belongs_to_somebody(scene.out / "sub")
    await scene.assert_refused(r"'sub'.*another user")
    scene.assert_unharmed()


async def test_a_link_of_ours_on_the_way_to_the_name(scene):
    elsewhere = scene.out / "elsewhere"
    elsewhere.mkdir()
    (scene.out / "sub").symlink_to("elsewhere")
    await scene.fetch()
    assert (elsewhere / "b").read_bytes() == (scene.source / "sub" / "b").read_bytes()
    assert (scene.out / "sub").is_symlink()


async def test_a_link_in_the_place_of_the_finished_file_is_replaced(scene):
    (scene.out / "a").symlink_to(scene.victim)
    await scene.fetch()
    scene.assert_fetched()
    scene.assert_unharmed()


async def test_a_published_file_that_becomes_a_pipe_is_waited_for_by_nobody(scene):
    publication = await make_publication(scene.source)
    (scene.source / "a").unlink()
    os.mkfifo(scene.source / "a")
    with pytest.raises(Exception, match="changed after it was published"):
        publication.read_span(0, 1)
