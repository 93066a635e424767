"""The key file and the peer ID: whose format, who may read it, what is refused."""

from __future__ import annotations

import errno
import os
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.identity_utils import save_identity

from lattica.errors import IdentityError
from lattica.nat.base.keys.identity import Identity
from tests.support.keys.stranger_keys import encoded_key

# The test vector for Ed25519 keys of libp2p's specs/peer-ids.
SPEC_PRIVATE = bytes.fromhex(
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
SPEC_PUBLIC = bytes.fromhex(
    "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
SPEC_PEER_ID = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


def write(path, data, mode=0o600):
    path.write_bytes(data)
    path.chmod(mode)
    return path


# --- the file ---


def test_a_saved_identity_is_loaded_again(tmp_path):
    identity = Identity.generate()
    path = tmp_path / "deep" / "er" / "key"
    identity.save(path)
    loaded = Identity.load(str(path))
    assert loaded.peer_id == identity.peer_id
    assert loaded.public_key.verify(b"words", loaded.sign(b"words"))
    assert identity.public_key.verify(b"words", loaded.sign(b"words"))
    assert str(identity.peer_id) in repr(identity)


def test_the_file_is_for_its_owner_only_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        path = tmp_path / "folder" / "key"
        Identity.generate().save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o700 | 0o001])
def test_a_file_that_others_can_use_is_refused_with_the_cure(tmp_path, mode):
    path = tmp_path / "key"
    Identity.generate().save(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=rf"mode {mode:04o}.*chmod 600 {path}"):
        Identity.load(path)
    with pytest.raises(IdentityError, match="chmod 600"):
        Identity.load_or_create(path)
    path.chmod(0o400)
    Identity.load(path)


def test_the_format_is_that_of_the_libp2p_specification(tmp_path):
    identity = Identity.load(write(tmp_path / "go", SPEC_PRIVATE))
    assert str(identity.peer_id) == SPEC_PEER_ID
    assert identity.public_key_bytes == SPEC_PUBLIC
    identity.save(tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == SPEC_PRIVATE


def test_files_of_py_libp2p_and_of_the_oldest_go_libp2p_are_read(tmp_path):
    other = Identity.generate()
    save_identity(create_new_key_pair(other.seed), tmp_path / "py")  # the seed only
    assert Identity.load(tmp_path / "py").peer_id == other.peer_id
    redundant = b"\x08\x01\x12\x60" + SPEC_PRIVATE[4:] + SPEC_PRIVATE[-32:]
    assert str(Identity.load(write(tmp_path / "old", redundant)).peer_id) == SPEC_PEER_ID


def test_a_public_key_of_somebody_else_in_the_file_is_damage(tmp_path):
    data = SPEC_PRIVATE[:-32] + Identity.generate().public_key.data
    with pytest.raises(IdentityError, match="damaged"):
        Identity.load(write(tmp_path / "key", data))


@pytest.mark.parametrize("data", [b"", b"garbage", SPEC_PRIVATE[:20], b"\x08\x01\x12\x00", b"\xff"])
def test_a_damaged_file_is_refused_and_left_alone(tmp_path, data):
    path = write(tmp_path / "key", data)
    with pytest.raises(IdentityError, match=r"not a key file, or is damaged.*new identity"):
        Identity.load_or_create(path)
    assert path.read_bytes() == data


@given(st.binary(max_size=200))
def test_no_bytes_in_a_key_file_raise_anything_else(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("keys") / "key", data)
    try:
        Identity.load(path)
    except IdentityError:
        pass
    finally:
        path.unlink()


def test_a_file_too_large_for_a_key_is_not_even_parsed(tmp_path):
    path = write(tmp_path / "key", SPEC_PRIVATE + bytes(5000))
    with pytest.raises(IdentityError, match="too large"):
        Identity.load(path)


@pytest.mark.parametrize("key_type", [0, 2, 3, 9])
def test_keys_of_other_types_are_refused(tmp_path, key_type):
    path = write(tmp_path / "key", encoded_key(key_type, bytes(range(32))))
    with pytest.raises(IdentityError, match="not an Ed25519 key"):
        Identity.load(path)


def test_missing_file_and_places_that_cannot_be_used(tmp_path):
    with pytest.raises(IdentityError, match=r"cannot read .*nothing: No such file"):
        Identity.load(tmp_path / "nothing")
    with pytest.raises(IdentityError, match=r"cannot read .*directory"):
        Identity.load(tmp_path)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "key", tmp_path / "file" / "deeper" / "key"):
        for act in (Identity.generate().save, Identity.load_or_create):
            with pytest.raises(IdentityError, match=rf"cannot write .*: {tmp_path}/file"):
                act(place)


def test_a_key_is_never_overwritten(tmp_path):
    path = tmp_path / "key"
    first = Identity.load_or_create(path)
    with pytest.raises(IdentityError, match="exists already"):
        Identity.generate().save(path)
    assert Identity.load_or_create(path).peer_id == first.peer_id
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_creators_who_race_end_up_with_one_key(tmp_path, monkeypatch):
    """All of them find no file, then all make one; only one may win, and all must use it."""
    path, racers = tmp_path / "key", 8
    barrier = threading.Barrier(racers)
    save = Identity.save

    def save_together(self, where):
        barrier.wait(timeout=60)
        save(self, where)

    monkeypatch.setattr(Identity, "save", save_together)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(Identity.load_or_create(path)))
        for _ in range(racers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == racers
    assert {identity.peer_id for identity in found} == {Identity.load(path).peer_id}
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("path", [None, "/somewhere/.key.tmp"])
def test_a_key_that_cannot_be_written_says_why_and_nothing_more(tmp_path, monkeypatch, path):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr("lattica.nat.base.keys.identity.write_private_file", refuse)
    with pytest.raises(IdentityError) as refusal:
        Identity.generate().save(tmp_path / "key")
    where = "" if path is None else f": {path}"
    expected = f"cannot write the key file {tmp_path / 'key'}: No space left on device{where}"
    assert str(refusal.value) == expected
