"""Plans, unfinished files and their journal, and what is on disk already."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lattica.content.disk import storage_error
from lattica.content.download.ledger import Ledger
from lattica.content.download.local.files import find_local_files
from lattica.content.download.partial.partial_files import PartialFiles
from lattica.content.download.plan import Plan
from lattica.content.publish.catalog import check_publishable, make_publication
from lattica.errors import (
    ContentChangedError,
    ContentError,
    IntegrityError,
    RemoteProtocolError,
    StorageError,
)

MIB = 1024 * 1024


def random_bytes(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def checkpoint(directory: Path, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    directory.mkdir(exist_ok=True)
    arrays: dict[str, np.ndarray] = {
        "embed.weight": rng.standard_normal((300, 1000), np.float32),
        "layers.0.norm": rng.standard_normal(64).astype(np.float16),
        "layers.0.q": rng.standard_normal((700, 700), np.float32),
        "layers.1.norm": rng.standard_normal(64).astype(np.float16),
        "layers.1.q": rng.standard_normal((700, 700), np.float32),
    }
    names = sorted(arrays)
    for shard, chosen in (("a.safetensors", names[:3]), ("b.safetensors", names[3:])):
        save_file({n: arrays[n] for n in chosen}, directory / shard, {"format": "pt"})
    (directory / "config.json").write_text("{}")
    return arrays


async def plan_for(path: Path, tensors: str | None = None):
    publication = await make_publication(path)
    return publication, Plan(publication.cid, publication.manifest, tensors)


def write_all(publication, plan, files, ledger) -> None:
    """Carry a plan out as the fetcher does, with the publication as the source."""
    for span in plan.spans(ledger.missing):
        publication.check_span(span.first, span.count)
        data = publication.read_span(span.first, span.count)
        assert len(data) == span.size
        files.write(span.first, span.count, data, "test")
        ledger.add(range(span.first, span.first + span.count), fetched=True)
    for output in ledger.take_ready():
        files.finish(output)
    assert not ledger.take_ready()


async def test_whole_tree(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    checkpoint(source)
    (source / "sub" / "deep").mkdir(parents=True)
    (source / "sub" / "deep" / "run.sh").write_text("#!/bin/sh\n")
    (source / "sub" / "deep" / "run.sh").chmod(0o755)
    (source / "empty").touch()
    (source / "big").write_bytes(random_bytes(3 * MIB + 1))
    shutil.copy(source / "big", source / "link")
    (source / ".lattica-old").mkdir()
    (source / ".lattica-old" / "journal").touch()
    publication, plan = await plan_for(source)
    ledger = Ledger(plan, frozenset())
    with PartialFiles(plan, out) as files:
        files.check_space()
        write_all(publication, plan, files, ledger)
        assert ledger.finished
        assert ledger.bytes_done == plan.size
        # `link` has the same bytes as `big`: they are fetched once.
        assert ledger.bytes_fetched == plan.size - 3 * MIB - 1
        files.remove()
    found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert found == {f.path for f in publication.manifest.files}
    for name in found:
        assert (out / name).read_bytes() == (source / name).read_bytes()
        assert os.access(out / name, os.X_OK) == name.endswith("run.sh")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("layers.1.*", ["layers.1.norm", "layers.1.q"]),
        ("*.norm", ["layers.0.norm", "layers.1.norm"]),
        ("embed.weight", ["embed.weight"]),
        ("*", ["embed.weight", "layers.0.norm", "layers.0.q", "layers.1.norm", "layers.1.q"]),
    ],
)
async def test_selected_tensors_make_valid_files(tmp_path, pattern, names):
    arrays = checkpoint(tmp_path / "source")
    out = tmp_path / "out"
    publication, plan = await plan_for(tmp_path / "source", pattern)
    ledger = Ledger(plan, frozenset())
    with PartialFiles(plan, out) as files:
        write_all(publication, plan, files, ledger)
        files.remove()
    assert ledger.bytes_done == plan.size == sum(p.stat().st_size for p in out.iterdir())
    assert ledger.bytes_fetched < sum(arrays[n].nbytes for n in names) + 1000
    loaded: dict[str, np.ndarray] = {}
    for path in out.iterdir():
        loaded |= load_file(path)
        assert b'"format":"pt"' in path.read_bytes()[:200]
    assert sorted(loaded) == names
    for name in names:
        assert np.array_equal(loaded[name], arrays[name])


async def test_selection_that_matches_nothing_names_some(tmp_path):
    checkpoint(tmp_path / "source")
    with pytest.raises(ContentError, match=r"none of the 5 tensors.*embed\.weight"):
        await plan_for(tmp_path / "source", "nothing.*")
    with pytest.raises(ContentError, match="no tensors to select"):
        await plan_for(tmp_path / "source" / "config.json", "*")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"a\[0\].*", ["a[0].w"]),
        ("a[[]0].*", ["a[0].w"]),
        ("a[01].*", ["a0.w"]),
        (r"a\*", ["a*"]),
        (r"a\\*", ["a\\b"]),
        (r"?\[0\].?", ["a[0].w"]),
    ],
)
async def test_brackets_in_names_of_tensors(tmp_path, pattern, names):
    there = ["a[0].w", "a0.w", "a*", "a\\b"]
    save_file({name: np.zeros(3, np.uint8) for name in there}, tmp_path / "x.safetensors")
    _, plan = await plan_for(tmp_path / "x.safetensors", pattern)
    (output,) = plan.outputs
    header = json.loads(output.prefix[8:])
    assert list(header) == names
    with pytest.raises(ContentError, match=r"brackets .* are written \\\["):
        await plan_for(tmp_path / "x.safetensors", "z[0].*")


async def test_file_whose_tensors_cannot_be_told_is_an_error_for_a_selection(tmp_path):
    checkpoint(tmp_path / "source")
    (tmp_path / "source" / "c.safetensors").write_bytes(b"damaged")
    with pytest.raises(ContentError, match=r"tensors of 'c\.safetensors' are not known"):
        await plan_for(tmp_path / "source", "*")
    await plan_for(tmp_path / "source")


async def test_wrong_bytes_are_never_written(tmp_path):
    (tmp_path / "f").write_bytes(random_bytes(2 * MIB))
    publication, plan = await plan_for(tmp_path / "f")
    with PartialFiles(plan, tmp_path / "out") as files:
        good = publication.read_span(0, 1)
        with pytest.raises(IntegrityError, match="peer X has sent wrong bytes for 'f'"):
            files.write(0, 1, b"!" + good[1:], "peer X")
        assert files.journaled() == []
        files.write(0, 1, good, "peer X")
        assert files.journaled() == [0]


async def test_journal_is_a_hint_and_hashes_decide(tmp_path):
    (tmp_path / "f").write_bytes(random_bytes(5 * MIB + 1))
    out = tmp_path / "out"
    publication, plan = await plan_for(tmp_path / "f")
    with PartialFiles(plan, out) as files:
        for number in (0, 1, 3):
            files.write(number, 1, publication.read_span(number, 1), "test")
    (directory,) = out.iterdir()
    with open(directory / "0", "r+b") as file:
        file.seek(plan.manifest.chunk(1).offset + 5)
        file.write(b"damage")
    with open(directory / "journal", "ab") as file:
        # A chunk that was never written, one that does not exist, half an entry.
        file.write(b"\0\0\0\4\xff\xff\xff\xff\0\0")
    with PartialFiles(plan, out) as files:
        assert files.journaled() == [0, 1, 3, 4]
        assert files.verify(files.journaled()) == [0, 3]
        ledger = Ledger(plan, frozenset())
        ledger.add([0, 3], fetched=False)
        write_all(publication, plan, files, ledger)
        assert files.journaled() == list(range(publication.chunk_count))
    assert (out / "f").read_bytes() == (tmp_path / "f").read_bytes()


async def test_partly_kept_chunks_are_not_taken_for_verified(tmp_path):
    checkpoint(tmp_path / "source")
    publication, plan = await plan_for(tmp_path / "source", "layers.1.norm")
    with PartialFiles(plan, tmp_path / "out") as files:
        (number,) = plan.chunks
        files.write(number, 1, publication.read_span(number, 1), "test")
        # `layers.1.norm` is alone in its chunk, so it can be verified...
        assert files.verify([number]) == [number]
    arrays = {"a": np.zeros(100, np.uint8), "b": np.ones(100, np.uint8)}
    save_file(arrays, tmp_path / "two.safetensors")
    publication, plan = await plan_for(tmp_path / "two.safetensors", "b")
    with PartialFiles(plan, tmp_path / "out") as files:
        (number,) = plan.chunks
        files.write(number, 1, publication.read_span(number, 1), "test")
        # ... and half of a shared chunk can't.
        assert files.verify([number]) == []


async def test_two_fetches_into_one_place_are_refused(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    _, plan = await plan_for(tmp_path / "f")
    with (
        PartialFiles(plan, tmp_path / "out"),
        pytest.raises(StorageError, match="another fetch"),
        PartialFiles(plan, tmp_path / "out"),
    ):
        pass
    with PartialFiles(plan, tmp_path / "out"):
        pass


async def test_missing_space_is_noticed_before_it_is_needed(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"x" * 100)
    _, plan = await plan_for(tmp_path / "f")
    usage = type("Usage", (), {"free": 50})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with (
        PartialFiles(plan, tmp_path / "out") as files,
        pytest.raises(StorageError, match=r"has 50 B free, and 4\.0 MiB are needed"),
    ):
        files.check_space()


async def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    publication, plan = await plan_for(tmp_path / "f")
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match="file, not a directory"),
        PartialFiles(plan, tmp_path / "file" / "out"),
    ):
        pass
    out = tmp_path / "out"
    (out / "f").mkdir(parents=True)
    local = await find_local_files(plan, out, lambda done, total: None)
    assert not local.complete
    with PartialFiles(plan, out) as files:
        files.write(0, 1, publication.read_span(0, 1), "test")
        with pytest.raises(StorageError, match="a directory is where a file belongs"):
            files.finish(0)


def test_advice_for_disk_errors():
    error = OSError(28, "No space left on device", "/x/y")
    assert "disk is full" in str(storage_error(error, Path("/z")))
    assert "/x/y" in str(storage_error(error, Path("/z")))
    assert str(storage_error(OSError(9999, "odd"), Path("/z"))) == "cannot write /z: odd"


async def test_complete_files_and_old_versions_are_used(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    arrays = checkpoint(source)
    out.mkdir()
    # The directory holds one file as it is, and of another one an older version, in which a
    # tensor was different and the order of the rest too.
    (out / "b.safetensors").write_bytes((source / "b.safetensors").read_bytes())
    old = {"embed.weight": arrays["embed.weight"] + 1, "layers.0.q": arrays["layers.0.q"]}
    save_file(old, out / "a.safetensors")
    publication, plan = await plan_for(source)
    seen = []
    local = await find_local_files(plan, out, lambda done, total: seen.append((done, total)))
    assert {plan.outputs[i].path for i in local.complete} == {"b.safetensors"}
    assert seen[-1][0] == seen[-1][1]
    names = {(c.path.name, c.length) for c in local.chunks.values()}
    assert ("a.safetensors", MIB) in names
    ledger = Ledger(plan, frozenset(local.complete))
    for number in set(ledger.missing) & local.chunks.keys():
        data = local.chunks[number].read()
        assert len(data) == publication.manifest.chunk(number).length
        ledger.add([number], fetched=False)
    wanted = sum(publication.manifest.chunk(n).length for n in ledger.missing)
    assert wanted < arrays["embed.weight"].nbytes + arrays["layers.0.norm"].nbytes + 1000


async def test_execute_permission_of_a_complete_file_is_mended(tmp_path):
    (tmp_path / "run").write_bytes(b"x")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run").write_bytes(b"x")
    _, plan = await plan_for(tmp_path / "run")
    local = await find_local_files(plan, tmp_path / "out", lambda done, total: None)
    assert set(local.complete) == {0}
    assert os.access(tmp_path / "out" / "run", os.X_OK)


# --- publications ---


@pytest.mark.parametrize("change", ["append", "rewrite", "remove", "truncate"])
async def test_changed_file_is_not_served(tmp_path, change):
    path = tmp_path / "f"
    path.write_bytes(random_bytes(2 * MIB))
    publication = await make_publication(path)
    if change == "append":
        path.write_bytes(path.read_bytes() + b"x")
    elif change == "rewrite":
        status = path.stat()
        path.write_bytes(random_bytes(2 * MIB, seed=9))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "remove":
        path.unlink()
    else:
        os.truncate(path, MIB)
    with pytest.raises(ContentChangedError, match="changed after it was published"):
        publication.read_span(1, 1)


async def test_same_content_has_the_same_id_wherever_it_lies(tmp_path):
    for name in ("1", "2"):
        checkpoint(tmp_path / name)
    first = await make_publication(tmp_path / "1", "model")
    second = await make_publication(tmp_path / "2", "model")
    assert first.cid == second.cid
    assert (await make_publication(tmp_path / "2", "other")).cid != first.cid


async def test_spans_beyond_what_there_is(tmp_path):
    (tmp_path / "f").write_bytes(bytes(5 * MIB))
    publication = await make_publication(tmp_path / "f")
    publication.check_span(0, 1)
    publication.check_span(2, 1)
    for first, count in ((0, 2), (3, 1), (2, 2)):
        with pytest.raises(RemoteProtocolError, match="asked for"):
            publication.check_span(first, count)


async def test_what_is_left_out_is_said_once(tmp_path, caplog):
    (tmp_path / "f").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    await check_publishable(tmp_path)
    publication = await make_publication(tmp_path)
    assert [file.path for file in publication.manifest.files] == ["f"]
    assert caplog.messages == [f"{tmp_path / 'pipe'} is neither a file nor a directory; left out"]


async def test_what_cannot_be_published(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "case").mkdir()
    for name in ("A", "a"):
        (tmp_path / "case" / name).touch()
    for name, says in (
        ("missing", "does not exist; check"),
        ("empty", "no files to publish"),
        ("loop", "contains it"),
        ("dangling", "symbolic link to nothing"),
        ("fifo", "neither a file nor a directory"),
        ("case", "collide"),
    ):
        with pytest.raises(ContentError, match=says):
            await make_publication(tmp_path / name)
    with pytest.raises(ContentError):
        await make_publication(tmp_path / "self")


@pytest.mark.parametrize("how", ["touch", "copy", "same bytes"])
async def test_file_of_the_same_content_goes_on_being_served(tmp_path, how):
    path = tmp_path / "f"
    data = random_bytes(3 * MIB + 5)
    path.write_bytes(data)
    publication = await make_publication(path)
    if how == "touch":
        os.utime(path, (1, 1))
    elif how == "copy":
        (tmp_path / "g").write_bytes(data)
        (tmp_path / "g").rename(path)
    else:
        path.write_bytes(data)
        os.utime(path, (1, 1))
    chunks = publication.chunk_count
    assert b"".join(publication.read_span(n, 1) for n in range(chunks)) == data
    # As soon as one chunk is another, that one is refused.
    with open(path, "r+b") as file:
        file.seek(publication.manifest.chunk(1).offset)
        file.write(b"damage")
    os.utime(path, (2, 2))
    assert publication.read_span(0, 1) == data[: publication.manifest.chunk(1).offset]
    with pytest.raises(ContentChangedError):
        publication.read_span(0, 2)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (b"a\xe2\x80\x8fb", r"U\+200F RIGHT-TO-LEFT MARK"),
        (b"Icon\r", r"control character U\+000D"),
        (b"caf\xe9", r"not UTF-8 \(byte 0xe9\)"),
        (b"a\xe2\x80\xa8b", r"line break U\+2028 LINE SEPARATOR"),
        (b"x" * 200 + b"/" + b"y" * 254 + b"/z" * 65, "more than 64 directories"),
    ],
)
async def test_names_are_refused_before_anything_is_hashed(tmp_path, monkeypatch, name, says):
    path = os.path.join(os.fsencode(tmp_path / "tree"), name)
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(b"x")

    def never(*_):
        raise AssertionError("opened")

    monkeypatch.setattr("lattica.content.publish.catalog.cut_file", never)
    for check in (check_publishable, make_publication):
        with pytest.raises(ContentError, match=says):
            await check(tmp_path / "tree")


async def test_numbers_are_refused_before_anything_is_hashed(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 100)

    def never(*_):
        raise AssertionError("hashed")

    monkeypatch.setattr("lattica.content.publish.catalog.hash_files", never)
    with monkeypatch.context() as patch:
        patch.setattr("lattica.content.publish.catalog.MAX_FILES", 2)
        with pytest.raises(ContentError, match="more than 2 files"):
            await check_publishable(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("lattica.content.manifest.codec.MAX_MANIFEST_BYTES", 100)
        with pytest.raises(ContentError, match="where 100 are allowed"):
            await make_publication(tmp_path)
    with pytest.raises(ContentError, match="does not exist"):
        await check_publishable(tmp_path / "nope")
    with pytest.raises(ContentError, match=r"the name 'a\\n' contains"):
        await check_publishable(tmp_path, "a\n")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"1", "out/.lattica-k/1"),
        ("1", "out/.lattica-k/1"),
        ("out", "out"),
        ("out/.lattica-k", "out/.lattica-k"),
        ("/else/where", "/else/where"),
        ("other", "out/.lattica-k/1"),
        (None, "out/.lattica-k/1"),
        (3, "out/.lattica-k/1"),
    ],
)
def test_an_error_names_the_whole_path(name, shown):
    """Also where the system was given a name within a directory's descriptor."""
    error = OSError(errno.EROFS, "read-only", name)
    said = str(storage_error(error, Path("out/.lattica-k/1")))
    assert said.startswith(f"cannot write {shown}: the disk is read-only")
    renamed = OSError(errno.EROFS, "read-only", "7", None, name)
    if name is not None:
        said = str(storage_error(renamed, Path("out/.lattica-k/1")))
        assert said.startswith(f"cannot write {shown}: ")


def test_of_a_name_that_is_twice_in_a_path_all_is_shown():
    said = str(storage_error(OSError(errno.EISDIR, "", "a"), Path("out/a/a")))
    assert said.startswith("cannot write out/a/a: ")


@pytest.mark.parametrize(
    ("files", "files_left", "blocks_left", "advice"),
    [
        (12, 0, 100, "no room for more files, however small"),
        (12, 5, 0, "the disk is full"),
        (12, 0, 0, "the disk is full"),
        (0, 0, 100, "the disk is full"),  # it makes entries as they are needed
    ],
)
def test_a_disk_without_entries_is_not_called_full(
    tmp_path, monkeypatch, files, files_left, blocks_left, advice
):
    class Disk:
        f_files, f_favail, f_bavail = files, files_left, blocks_left

    asked = []

    def statvfs(path):
        asked.append(path)
        if not os.path.exists(path):
            raise FileNotFoundError
        return Disk

    monkeypatch.setattr(os, "statvfs", statvfs)
    path = tmp_path / "not" / "yet"
    assert advice in str(storage_error(OSError(errno.ENOSPC, "full", str(path)), path))
    assert asked[-1] == tmp_path


@pytest.mark.parametrize("left", [0, 8, 16])
async def test_missing_entries_are_counted_with_those_of_the_fetch_itself(
    tmp_path, monkeypatch, left
):
    (tmp_path / "f").write_bytes(b"x")
    _, plan = await plan_for(tmp_path / "f")

    class Disk:
        f_files, f_favail = 100, left

    with PartialFiles(plan, tmp_path / "out") as files:
        monkeypatch.setattr(os, "statvfs", lambda _: Disk)
        with pytest.raises(StorageError, match=f"room for {left} more .*, and 17 are needed"):
            files.check_space()


def test_a_directory_that_is_a_link_to_nothing_is_called_so(tmp_path):
    (tmp_path / "models").symlink_to(tmp_path / "unmounted")
    with pytest.raises(OSError, match="exists") as caught:
        os.makedirs(tmp_path / "models", exist_ok=True)
    said = str(storage_error(caught.value, tmp_path / "models" / ".lattica-k"))
    assert f"{tmp_path / 'models'}: it is a symbolic link to nothing" in said
