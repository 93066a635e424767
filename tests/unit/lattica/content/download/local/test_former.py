"""Fetching over a former version: what is used of it, what is said of it, and what is removed."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lattica.content import FetchOptions, FetchResult, Publisher, fetch
from lattica.content.download.local import files as local_files
from lattica.content.download.local import former, obstacles
from lattica.errors import ContentError, StorageError
from tests.support.doubles.content_doubles import memory_node

MIB = 1024 * 1024
QUICK = FetchOptions(window=4 * MIB, first_delay=0.01)
DELETE = replace(QUICK, delete_former=True)


def sharded(directory: Path, shards: int, tensors: int = 12) -> Path:
    """A checkpoint of tensors that do not depend on how many shards they are in."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(11)
    arrays = {f"t{n}": rng.standard_normal((512, 1024 + n), np.float32) for n in range(tensors)}
    for shard in range(shards):
        chosen = {n: a for i, (n, a) in enumerate(arrays.items()) if i % shards == shard}
        save_file(chosen, directory / f"model-{shard + 1:05}-of-{shards:05}.safetensors")
    (directory / "config.json").write_text("{}")
    return directory


async def fetched(
    source: Path, out: Path, options: FetchOptions = QUICK, tensors: str | None = None
) -> FetchResult:
    async with memory_node(1 << 20) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        result = await fetch(node, ticket, out, options=options, tensors=tensors)
    for path in result.paths if tensors is None else ():
        name = path.relative_to(out)
        original = source if source.is_file() else source / name
        assert path.read_bytes() == original.read_bytes()
    return result


def names(paths: tuple[Path, ...]) -> set[str]:
    return {path.name for path in paths}


def present(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize("by_a_fetch", [True, False])
async def test_other_shards_of_the_same_tensors_move_nothing_but_headers(
    tmp_path, before, after, by_a_fetch
):
    out = tmp_path / "out"
    old = sharded(tmp_path / "old", before)
    if by_a_fetch:
        await fetched(old, out)
    else:
        sharded(out, before)
    result = await fetched(sharded(tmp_path / "new", after), out)
    assert result.bytes_total > 20 * MIB
    assert result.bytes_fetched < 16 * 1024
    stale = {f"model-{n + 1:05}-of-{before:05}.safetensors" for n in range(before)}
    assert names(result.other_files) == stale
    assert names(result.former_files) == (stale if by_a_fetch else set())


async def test_files_under_other_names_and_in_folders_below(tmp_path):
    rng = np.random.default_rng(1)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights.bin").write_bytes(rng.bytes(5 * MIB + 7))
    out = tmp_path / "out"
    (out / "deep" / "er").mkdir(parents=True)
    (tmp_path / "source" / "weights.bin").rename(out / "deep" / "er" / "backup.old")
    (tmp_path / "source" / "weights.bin").write_bytes(
        (out / "deep" / "er" / "backup.old").read_bytes()
    )
    (out / "unrelated").write_bytes(rng.bytes(3 * MIB))
    result = await fetched(tmp_path / "source", out)
    assert result.bytes_fetched == 0
    assert result.other_files == ()  # of other kinds


async def test_an_old_version_of_the_same_size_with_its_tensors_elsewhere(tmp_path):
    rng = np.random.default_rng(2)
    one, two = (rng.standard_normal((300, 1024), np.float32) for _ in range(2))
    for folder, order in (("old", (one, two)), ("new", (two, one))):
        (tmp_path / folder).mkdir()
        save_file(dict(zip("ab", order, strict=True)), tmp_path / folder / "m.safetensors")
    out = tmp_path / "out"
    await fetched(tmp_path / "old", out)
    result = await fetched(tmp_path / "new", out)
    assert result.bytes_fetched < 1024


async def test_nothing_outside_is_read_and_links_are_left_alone(tmp_path, monkeypatch):
    source, outside, out = tmp_path / "source", tmp_path / "outside", tmp_path / "out"
    sharded(source, 1, tensors=2)
    sharded(outside, 1, tensors=2)
    out.mkdir()
    (out / "link.safetensors").symlink_to(outside / "model-00001-of-00001.safetensors")
    (out / "folder").symlink_to(outside)
    os.mkfifo(out / "pipe.safetensors")
    read: list[str] = []
    real = local_files._hash_some

    def noted(file, indices, flags):
        read.append(str(file.path))
        return real(file, indices, flags)

    monkeypatch.setattr(local_files, "_hash_some", noted)
    result = await fetched(source, out, replace(DELETE, delete_matching=("*",)))
    assert result.bytes_fetched == result.bytes_total
    assert read == []
    assert result.removed_files == ()
    assert (out / "link.safetensors").is_symlink()
    assert (out / "pipe.safetensors").exists()
    assert present(outside) == {"model-00001-of-00001.safetensors", "config.json"}


async def test_a_file_that_changes_while_it_is_used_is_not_believed(tmp_path, monkeypatch):
    source, out = sharded(tmp_path / "source", 1, tensors=3), tmp_path / "out"
    out.mkdir()
    backup = out / "backup.safetensors"
    backup.write_bytes((source / "model-00001-of-00001.safetensors").read_bytes())
    real = local_files.find_elsewhere

    async def disturbed(*args):
        found = await real(*args)
        assert found
        with open(backup, "r+b") as file:
            file.seek(2 * MIB)
            file.write(b"other bytes" * 1000)
        return found

    monkeypatch.setattr("lattica.content.download.fetcher.find_elsewhere", disturbed)
    result = await fetched(source, out)
    assert 0 < result.bytes_fetched < result.bytes_total


async def test_delete_removes_what_a_former_fetch_has_written_and_no_more(tmp_path):
    old = sharded(tmp_path / "old", 3)
    (old / "extra").mkdir()
    (old / "extra" / "vocab.txt").write_text("old words")
    (old / "edited.json").write_text("{}")
    out = tmp_path / "out"
    await fetched(old, out)
    (out / "edited.json").write_text('{"mine": true}')
    (out / "notes.txt").write_text("of the user")
    sharded(out / "mine", 2, tensors=2)
    new = sharded(tmp_path / "new", 2)
    listed = await fetched(new, out)
    former_names = {f"model-{n}-of-00003.safetensors" for n in ("00001", "00002", "00003")}
    assert names(listed.former_files) == former_names | {"vocab.txt"}
    assert names(listed.other_files) > names(listed.former_files)
    assert listed.removed_files == ()

    result = await fetched(new, out, DELETE)
    assert names(result.removed_files) == former_names | {"vocab.txt"}
    assert result.former_files == ()
    assert not (out / "extra").exists()  # empty by that
    kept = {"edited.json", "notes.txt"} | {f"mine/{name}" for name in present(out / "mine")}
    assert present(out) == present(new) | kept
    assert (out / "edited.json").read_text() == '{"mine": true}'


async def test_what_was_fetched_into_directories_below_is_of_another_fetch(tmp_path):
    """Neither removed, nor named, nor hashed, nor cleared out of the way."""
    models = tmp_path / "models"
    llama, qwen = sharded(tmp_path / "llama", 2, tensors=2), sharded(tmp_path / "qwen", 3, 3)
    await fetched(llama, models / "llama")
    await fetched(qwen, models / "deep" / "qwen")
    tiny = tree(tmp_path / "tiny", {"readme.txt": "hi", "w.safetensors": "1"})
    kept = {f"llama/{name}" for name in present(llama)}
    kept |= {f"deep/qwen/{name}" for name in present(qwen)}
    for options in (QUICK, DELETE, replace(DELETE, delete_matching=("*",))):
        result = await fetched(tiny, models, options)
        assert result.other_files == result.former_files == result.removed_files == ()
        assert present(models) == kept | present(tiny)
    for name in ("llama", "deep"):
        clash = tree(tmp_path / f"clash-{name}", {name: "a file", "x": "1"})
        said = await refusal(clash, models, replace(DELETE, delete_matching=("*",)))
        assert "it is a directory, where a file belongs; move it away" in said
        assert "--delete" not in said
    assert present(models) == kept | present(tiny)
    # What this fetch has written, and what these have, is still known of each.
    small = tree(tmp_path / "small", {"other.txt": "1"})
    for out, of in ((models, tiny), (models / "llama", llama), (models / "deep" / "qwen", qwen)):
        result = await fetched(small, out, DELETE)
        assert {str(path.relative_to(out)) for path in result.removed_files} == present(of)


async def test_a_fetch_into_a_directory_of_another_fetch_leaves_the_latter_its_files(tmp_path):
    whole = tree(tmp_path / "whole", {"vae/a.bin": "1", "vae/same": "2", "b.bin": "3"})
    part = tree(tmp_path / "part", {"c.bin": "4", "same": "2"})
    out = tmp_path / "out"
    await fetched(whole, out)
    result = await fetched(part, out / "vae", DELETE)
    assert result.removed_files == result.former_files == ()
    assert present(out) == present(whole) | {"vae/c.bin"}
    # What the second one has verified is not the first one's any more.
    result = await fetched(tree(tmp_path / "new", {"b.bin": "3"}), out, DELETE)
    assert result.removed_files == ()
    assert present(out) == present(whole) | {"vae/c.bin"}


async def test_a_selection_fetched_into_a_directory_below_is_of_another_fetch(tmp_path):
    out = tmp_path / "out"
    await fetched(sharded(tmp_path / "source", 1, tensors=2), out / "one", QUICK, "t1")
    new = tree(tmp_path / "new", {"w.safetensors": "1"})
    result = await fetched(new, out, replace(DELETE, delete_matching=("*",)))
    assert result.other_files == result.removed_files == ()


async def test_what_the_user_has_moved_is_not_of_a_fetch(tmp_path):
    out, old = tmp_path / "out", tree(tmp_path / "old", {"a.bin": "1", "b.bin": "2", "c.bin": "3"})
    await fetched(old, out / "below")
    (out / "below" / "a.bin").rename(out / "a.bin")  # the same path, below another root
    (out / "below" / "b.bin").rename(out / "below" / "kept.bin")
    new = tree(tmp_path / "new", {"x.bin": "4"})
    for directory, removed in ((out, set()), (out / "below", {"c.bin"})):
        result = await fetched(new, directory, DELETE)
        assert names(result.removed_files) == removed
    assert present(out) == {"a.bin", "below/kept.bin", "x.bin", "below/x.bin"}
    out.rename(tmp_path / "moved")
    result = await fetched(old, tmp_path / "moved" / "below", DELETE)
    assert names(result.removed_files) == {"x.bin"}


async def test_what_the_user_names_is_removed_too(tmp_path):
    out = sharded(tmp_path / "out", 3)
    (out / "notes.txt").write_text("of the user")
    (out / "deep").mkdir()
    (out / "deep" / "x.safetensors").write_text("x")
    new = sharded(tmp_path / "new", 2)
    options = replace(QUICK, delete_matching=("model-*-of-00003.safetensors", "deep/*"))
    result = await fetched(new, out, options)
    assert len(result.removed_files) == 4
    assert present(out) == present(new) | {"notes.txt"}


async def test_parts_of_the_publication_are_never_removed(tmp_path):
    new, out = sharded(tmp_path / "new", 2), tmp_path / "out"
    options = replace(DELETE, delete_matching=("*",))
    for _ in range(2):
        await fetched(new, out, options)
        assert present(out) == present(new)


async def test_where_the_disk_keeps_no_marks_nothing_is_removed_by_itself(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    out = tmp_path / "out"
    await fetched(sharded(tmp_path / "old", 3), out)
    result = await fetched(sharded(tmp_path / "new", 2), out, DELETE)
    assert result.removed_files == result.former_files == ()
    assert len(result.other_files) == 3


@pytest.mark.parametrize("tensors", [None, "t1"])
async def test_beside_a_single_file_or_a_selection_nothing_is_removed(tmp_path, tensors):
    source = sharded(tmp_path / "source", 1, tensors=2)
    if tensors is None:
        source /= "config.json"
    out = tmp_path / "out"
    await fetched(sharded(tmp_path / "old", 3, tensors=3), out)
    before = present(out)
    async with memory_node(1 << 20) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        with pytest.raises(ContentError, match="nothing is deleted"):
            await fetch(node, ticket, out, options=DELETE, tensors=tensors)
    assert present(out) == before
    result = await fetched(source, out, QUICK, tensors)
    assert result.other_files == result.former_files == ()


async def refused_selection(source: Path, out: Path, tensors: str) -> str:
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    async with memory_node(1 << 20) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        with pytest.raises(ContentError, match="would be lost") as refused:
            await fetch(node, ticket, out, options=QUICK, tensors=tensors)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not any(path.name.startswith(".lattica-") for path in out.iterdir())
    return str(refused.value)


async def test_a_selection_takes_no_tensors_away_unless_told(tmp_path):
    source, out = sharded(tmp_path / "source", 2, tensors=6), tmp_path / "out"
    await fetched(source, out)
    shard = out / "model-00001-of-00002.safetensors"  # has t0, t2 and t4
    said = await refused_selection(source, out, "t0")
    assert f"{shard} has 2 tensors that are not selected and would be lost (t2, t4)" in said
    assert "--replace" in said
    allowed = replace(QUICK, replace_tensors=True)
    await fetched(source, out, allowed, "t0")
    assert set(load_file(shard)) == {"t0"}
    # Of selections too; what has all that is there is fetched as it is.
    assert "has 1 tensor " in await refused_selection(source, out, "t2")
    before = shard.read_bytes()
    await fetched(source, out, QUICK, "t0")
    assert shard.read_bytes() == before
    await fetched(source, out, QUICK, "t[02]")
    assert set(load_file(shard)) == {"t0", "t2"}
    await fetched(source, out)
    assert shard.read_bytes() == (source / shard.name).read_bytes()


async def test_a_selection_replaces_what_has_no_tensors_and_makes_what_is_missing(tmp_path):
    source, out = sharded(tmp_path / "source", 1, tensors=2), tmp_path / "out"
    out.mkdir()
    shard = out / "model-00001-of-00001.safetensors"
    shard.write_bytes(b"torn")
    await fetched(source, out, QUICK, "t1")
    assert set(load_file(shard)) == {"t1"}


async def test_an_empty_text_is_no_directory(tmp_path, monkeypatch):
    source, empty = tree(tmp_path / "source", {"a": "1"}), tmp_path / "cwd"
    empty.mkdir()
    monkeypatch.chdir(empty)
    async with memory_node(1 << 20) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        with pytest.raises(ContentError, match="name a directory"):
            await fetch(node, ticket, "")
        monkeypatch.chdir(source)
        with pytest.raises(ContentError, match="name a file or directory"):
            await publisher.publish("")
        assert len(list(publisher.catalog)) == 1
    assert list(empty.iterdir()) == []


async def test_names_that_the_locale_lacks_are_refused_before_anything_is_made(
    tmp_path, monkeypatch
):
    source, out = tree(tmp_path / "source", {"a": "1", "ü.txt": "2"}), tmp_path / "out"
    async with memory_node(1 << 20) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        monkeypatch.setattr(os, "fsencode", lambda path: str(path).encode("ascii"))
        with pytest.raises(StorageError, match=r"cannot name 'ü.txt'; set PYTHONUTF8=1"):
            await fetch(node, ticket, out)
        monkeypatch.undo()
    assert not out.exists()


async def test_however_many_directories_lie_side_by_side_and_in_each_other(tmp_path):
    old, out = tmp_path / "old", tmp_path / "out"
    for number in range(150):
        folder = old / f"s{number:03}" / "x" / f"y{number % 2}"
        folder.mkdir(parents=True)
        (folder / "w.bin").write_bytes(b"%d" % number * 100)
    deep = old.joinpath(*["d"] * 63)
    deep.mkdir(parents=True)
    (deep / "w.bin").write_bytes(b"deep")
    await fetched(old, out)
    # All of it is found again under other names ...
    new = tmp_path / "new"
    new.mkdir()
    for number, path in enumerate(sorted(old.rglob("w.bin"))):
        (new / f"{number:03}.bin").write_bytes(path.read_bytes())
    result = await fetched(new, out, DELETE)
    assert result.bytes_fetched == 0
    # ... and all of it goes.
    assert len(result.removed_files) == 151
    assert result.former_files == ()
    assert not result.directory_cut
    assert present(out) == present(new)
    assert {path for path in out.iterdir() if path.is_dir()} == set()


async def test_more_files_than_are_looked_at_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(former, "MAX_ENTRIES", 10)
    old, new, out = tmp_path / "old", tmp_path / "new", tmp_path / "out"
    old.mkdir()
    for number in range(30):
        (old / f"f{number:02}").write_text("old")
    sharded(new, 1, tensors=1)
    await fetched(old, out)
    assert (await fetched(new, out)).directory_cut
    result = await fetched(new, out, DELETE)
    assert len(result.removed_files) == 30
    assert not result.directory_cut
    assert present(out) == present(new)


def test_the_walk_is_bounded(tmp_path):
    for number in range(30):
        (tmp_path / f"f{number:02}").touch()
    walk = former.Walk(tmp_path, 10)
    assert len(list(walk)) == 10
    assert walk.cut
    walk = former.Walk(tmp_path, 30)
    assert len(list(walk)) == 30
    assert not walk.cut


def tree(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return top


async def refusal(source: Path, out: Path, options: FetchOptions = QUICK) -> str:
    async with memory_node(1 << 20) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        with pytest.raises(StorageError) as refused:
            await fetch(node, ticket, out, options=options)
    return str(refused.value)


OLD = {"a": "1", "b/c": "2", "b/d/e": "3", "deep/f": "4", "same": "5"}
NEW = {"a/x": "6", "a/y": "6y", "b": "7", "deep/f/g/h": "8", "same": "5", "last/z": "2"}


async def test_a_name_that_becomes_a_directory_and_the_reverse(tmp_path):
    out = tmp_path / "out"
    old, new = tree(tmp_path / "old", OLD), tree(tmp_path / "new", NEW)
    for one, other in ((old, new), (new, old)):
        await fetched(one, out, DELETE)
        before = present(out)
        said = await refusal(other, out)
        assert f"{out / 'a'}: it is a " in said
        assert "or give --delete: a former fetch has written it (2 more names" in said
        # Nothing was fetched or touched.
        assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == before
        result = await fetched(other, out, DELETE)
        assert present(out) == present(other)
        gone = {str(path.relative_to(out)) for path in result.removed_files}
        assert gone == present(one) - present(other)
        assert {path.name for path in out.iterdir()} == {path.name for path in other.iterdir()}


async def test_what_has_just_got_its_name_is_not_removed_for_another_file(tmp_path, monkeypatch):
    """Files get their names in several threads, and a file was in the way of two of them."""
    out = tmp_path / "out"
    await fetched(tree(tmp_path / "old", {"b": "1"}), out)
    real, waiting, is_there = obstacles._removable, threading.Event(), threading.Event()

    def last(out_dir: Path, path: str):
        """Whoever looks first sees what comes of the other."""
        if not waiting.is_set():
            waiting.set()
            assert is_there.wait(60)
        return real(out_dir, path)

    def told(*args, **options):
        renamed(*args, **options)
        is_there.set()

    renamed = os.replace
    async with memory_node(1 << 20) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(tree(tmp_path / "new", {"b/c": "2", "b/d/e": "3"}))
        check = obstacles.check_obstacles

        def checked(*args) -> None:
            check(*args)
            monkeypatch.setattr(obstacles, "_removable", last)
            monkeypatch.setattr(os, "replace", told)

        monkeypatch.setattr("lattica.content.download.fetcher.check_obstacles", checked)
        result = await fetch(node, ticket, out, options=DELETE)
    assert waiting.is_set()
    assert names(result.removed_files) == {"b"}
    assert present(out) == {"b/c", "b/d/e"}


@pytest.mark.parametrize(
    ("mine", "named"),
    [
        ({"a": "mine"}, "a"),
        ({"b/c": "mine"}, "b"),
        ({"b/notes": "mine"}, "b"),
        ({"deep/f": "mine"}, "deep/f"),
        ({"deep/f/g/h/i": "mine"}, "deep/f/g/h"),
    ],
)
async def test_what_is_not_of_a_fetch_stays_in_the_way_and_is_named_at_once(tmp_path, mine, named):
    out = tmp_path / "out"
    if "b/notes" in mine:
        await fetched(tree(tmp_path / "old", {"b/c": "2"}), out)
    tree(out, mine)
    before = {path: path.read_text() for path in out.rglob("*") if path.is_file()}
    new = tree(tmp_path / "new", NEW)
    for options in (QUICK, DELETE):
        said = await refusal(new, out, options)
        assert f"{out / named}: it is a " in said
        assert "move it away" in said
        assert "--delete" not in said
        assert {path: path.read_text() for path in out.rglob("*") if path.is_file()} == before
    options = replace(QUICK, delete_matching=("*",))
    await fetched(new, out, options)
    assert present(out) == present(new)


async def test_links_in_the_way(tmp_path):
    out, new = tmp_path / "out", tree(tmp_path / "new", NEW)
    out.mkdir()
    (out / "a").symlink_to(tmp_path / "nowhere")
    said = await refusal(new, out, replace(DELETE, delete_matching=("*",)))
    assert "a: it is a symbolic link that leads to no directory" in said
    (out / "a").unlink()
    (tmp_path / "elsewhere").mkdir()
    (out / "a").symlink_to(tmp_path / "elsewhere")  # of this user
    (out / "b").symlink_to(tmp_path / "elsewhere")  # is replaced
    (out / "empty").mkdir()
    await fetched(new, out)
    assert present(tmp_path / "elsewhere") == {"x", "y"}
    assert not (out / "b").is_symlink()


@pytest.mark.parametrize("empty", ["b", "b/c"])
async def test_an_empty_directory_in_the_way_is_not_of_a_fetch(tmp_path, empty):
    out = tmp_path / "out"
    (out / empty).mkdir(parents=True)
    said = await refusal(tree(tmp_path / "new", NEW), out, DELETE)
    assert "b: it is a directory, where a file belongs; move" in said
    assert (out / empty).is_dir()


async def test_what_is_in_the_way_is_copied_from_before_it_goes(tmp_path):
    data = np.random.default_rng(5).bytes(3 * MIB)
    old, new, out = tmp_path / "old", tmp_path / "new", tmp_path / "out"
    old.mkdir()
    (old / "w").write_bytes(data)
    (new / "w").mkdir(parents=True)
    (new / "w" / "part.bin").write_bytes(data)
    await fetched(old, out)
    result = await fetched(new, out, DELETE)
    assert result.bytes_fetched == 0
    assert names(result.removed_files) == {"w"}
