"""Repositories: their names, and how a revision is described and answered."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lattica.content.hub.answers import info_answer, tree_answer
from lattica.content.hub.publishing import describe_revision
from lattica.content.hub.repository import (
    Description,
    RepositoryFile,
    RevisionRef,
    decode_description,
    encode_description,
)
from lattica.content.manifest.cid import Cid
from lattica.content.publish.catalog import make_publication
from lattica.errors import ContentChangedError, ContentError, RemoteProtocolError, TicketError

CID = Cid.of(b"manifest")
PATHS = ("config.json", "a/b/c.bin", "a/d.bin", "model.safetensors")
DESCRIPTION = Description(
    CID, tuple(RepositoryFile(path, n * 10, bytes([n]) * 32) for n, path in enumerate(PATHS))
)


def test_names():
    ref = RevisionRef.parse(" org/model@refs/pr/1 ")
    assert (ref.repository, ref.revision, str(ref)) == (
        "org/model", "refs/pr/1", "org/model@refs/pr/1",
    )  # fmt: skip
    assert RevisionRef.parse("gpt2") == RevisionRef("gpt2", "main")
    assert RevisionRef.parse("datasets/org/data").name == "hf/datasets/org/data@main"


@pytest.mark.parametrize(
    "text",
    ["", "@v1", "a/b/c", "org/", "/model", "a b", "model@", "model@a b", "..", "m@" + "x" * 81],
)
def test_what_is_no_name(text):
    with pytest.raises(TicketError):
        RevisionRef.parse(text)


def test_a_commit_is_the_beginning_of_the_manifests_hash():
    assert DESCRIPTION.commit == CID.digest.hex()[:40]


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**6), st.integers(0, 2**50), st.binary(min_size=32, max_size=32)
        ),
        unique_by=lambda entry: entry[0],
        max_size=20,
    )
)
def test_descriptions(entries):
    files = tuple(RepositoryFile(f"d/{name}", size, digest) for name, size, digest in entries)
    description = Description(CID, files)
    assert decode_description(encode_description(description)) == description


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        [2, bytes(CID), []],
        [1, b"x", []],
        [1, "x", []],
        [1, bytes(CID), [["a", 1]]],
        [1, bytes(CID), [["a", -1, bytes(32)]]],
        [1, bytes(CID), [["a", 1, bytes(31)]]],
        [1, bytes(CID), [["../a", 1, bytes(32)]]],
        [1, bytes(CID), [["a", 1, bytes(32)], ["A", 1, bytes(32)]]],
        [1, bytes(CID), [[[[[]]], 1, bytes(32)]]],
    ],
)
def test_damaged_descriptions(fields):
    with pytest.raises(RemoteProtocolError):
        decode_description(msgpack.packb(fields))


@given(st.binary(max_size=80))
def test_any_bytes_are_a_description_or_refused(data):
    with pytest.raises(RemoteProtocolError):
        decode_description(data + b"\x00")


def test_what_a_revision_is():
    sized: Any
    info = info_answer(RevisionRef("org/model"), DESCRIPTION, with_sizes=False)
    assert info["sha"] == DESCRIPTION.commit
    assert info["id"] == "org/model"
    assert info["siblings"] == [{"rfilename": path} for path in PATHS]
    sized = info_answer(RevisionRef("datasets/org/d"), DESCRIPTION, with_sizes=True)
    assert sized["id"] == "org/d"
    [sibling] = [s for s in sized["siblings"] if s["rfilename"] == "a/d.bin"]
    assert (sibling["size"], sibling["lfs"]["oid"]) == (20, "02" * 32)


@pytest.mark.parametrize(
    ("path", "recursive", "found"),
    [
        ("", True, ["a", "a/b", *PATHS]),
        ("", False, ["a", "config.json", "model.safetensors"]),
        ("a", False, ["a/b", "a/d.bin"]),
        ("a", True, ["a/b", "a/b/c.bin", "a/d.bin"]),
        ("a/b", True, ["a/b/c.bin"]),
    ],
)
def test_trees(path, recursive, found):
    entries: Any = tree_answer(DESCRIPTION, path, recursive=recursive)
    assert sorted(entry["path"] for entry in entries) == sorted(found)
    files = [entry for entry in entries if entry["type"] == "file"]
    assert {f["path"]: f["lfs"]["oid"] for f in files} == {
        f.path: f.sha256.hex() for f in DESCRIPTION.files if f.path in found
    }


def test_a_directory_that_is_not_there_has_no_tree():
    assert tree_answer(DESCRIPTION, "b", recursive=True) is None
    assert tree_answer(DESCRIPTION, "config.json", recursive=True) is None


# --- publishing ---


async def test_files_are_described_by_their_own_hashes(tmp_path):
    (tmp_path / "large").write_bytes(bytes(3 * 1024 * 1024 + 5))
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "empty").touch()
    publication = await make_publication(tmp_path)
    revision = await describe_revision(RevisionRef("m"), publication)
    data = revision.description.read_span(0, revision.description.chunk_count)
    described = decode_description(data)
    assert described.cid == publication.cid
    assert {file.path: file.sha256 for file in described.files} == {
        path.name: hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.iterdir()
    }


async def test_a_file_that_changes_meanwhile_is_noticed(tmp_path):
    (tmp_path / "large").write_bytes(bytes(3 * 1024 * 1024))
    publication = await make_publication(tmp_path)
    (tmp_path / "large").write_bytes(b"x" + bytes(3 * 1024 * 1024 - 1))
    with pytest.raises(ContentChangedError):
        await describe_revision(RevisionRef("m"), publication)


def sharded(directory, weight_map) -> None:
    save_file({"a": np.zeros(4, np.float32)}, directory / "model-1.safetensors")
    save_file({"b": np.zeros(4, np.float32)}, directory / "model-2.safetensors")
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize(
    ("weight_map", "why"),
    [
        ({"a": "model-1.safetensors", "b": "model-2.safetensors"}, None),
        ({"a": "model-1.safetensors", "c": "model-3.safetensors"}, "names the shard 'model-3"),
        ({"b": "model-1.safetensors"}, "'b' is in 'model-1.safetensors', which does not"),
        ({"b": 1}, "no weight_map"),
        (None, "no weight_map"),
    ],
)
@pytest.mark.parametrize("below", ["", "sub"])
async def test_the_index_of_a_sharded_checkpoint(tmp_path, weight_map, why, below):
    directory = tmp_path / "model" / below
    directory.mkdir(parents=True)
    sharded(directory, weight_map)
    publication = await make_publication(tmp_path / "model")
    if why is None:
        await describe_revision(RevisionRef("m"), publication)
        return
    with pytest.raises(ContentError, match=why):
        await describe_revision(RevisionRef("m"), publication)
