"""The key file and the peer ID: whose format, who may read it, what is refused."""

from __future__ import annotations

import os
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.rsa import create_new_key_pair as new_rsa
from libp2p.crypto.secp256k1 import create_new_key_pair as new_secp256k1
from libp2p.identity_utils import save_identity

from lattica.errors import AddressError, IdentityError
from lattica.nat.base.identity import Identity, parse_peer_id

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
    assert loaded.key_pair.public_key.verify(b"words", loaded.sign(b"words"))
    assert identity.key_pair.public_key.verify(b"words", loaded.sign(b"words"))
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
    save_identity(other.key_pair, tmp_path / "py")  # the seed only
    assert Identity.load(tmp_path / "py").peer_id == other.peer_id
    redundant = b"\x08\x01\x12\x60" + SPEC_PRIVATE[4:] + SPEC_PRIVATE[-32:]
    assert str(Identity.load(write(tmp_path / "old", redundant)).peer_id) == SPEC_PEER_ID


def test_a_public_key_of_somebody_else_in_the_file_is_damage(tmp_path):
    data = SPEC_PRIVATE[:-32] + Identity.generate().key_pair.public_key.to_bytes()
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


@pytest.mark.parametrize("make", [new_secp256k1, lambda: new_rsa(2048)])
def test_keys_of_other_types_are_refused(tmp_path, make):
    path = write(tmp_path / "key", make().private_key.serialize())
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
        barrier.wait(timeout=10)
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
        thread.join(timeout=10)
    assert len(found) == racers
    assert {identity.peer_id for identity in found} == {Identity.load(path).peer_id}
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


# --- peer IDs ---


@pytest.mark.parametrize(
    "text",
    [
        SPEC_PEER_ID,
        f"  {SPEC_PEER_ID}\n",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "bafzaajaiaejcahwr5d5ofrfbis4l5d6uwr57hu5tjodrypfm6yaq6dsc2r2pzyt6",
        "k51qzi5uqu5dgy8qsq67hbz73jqkw87l3fgf4a91qb0d9b5173tir7n4vxk1oe",
    ],
)
def test_all_forms_of_a_peer_id_are_read(text):
    peer_id = parse_peer_id(text)
    assert parse_peer_id(str(peer_id)) == peer_id
    if not text.startswith("Qm"):
        assert str(peer_id) == SPEC_PEER_ID


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "12D3Koo",
        SPEC_PEER_ID[:-1],
        SPEC_PEER_ID + "x",
        SPEC_PEER_ID.replace("W", "0"),
        "Qm",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5",
        "1",
        "11",
        "bafzaajaiaejcahwr5d5ofrfbis4l5d6uwr57hu5tjodrypfm6yaq6",
        "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
        "/ip4/127.0.0.1/tcp/1",
        "localhost:4001",
        "ünïcode",
        "1" * 100_000,
    ],
)
def test_what_is_no_peer_id_is_an_address_error(text):
    with pytest.raises(AddressError, match="not a peer ID"):
        parse_peer_id(text)


@given(st.text(max_size=80) | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefmnopqQ", max_size=80))
def test_no_text_raises_anything_but_an_address_error(text):
    try:
        peer_id = parse_peer_id(text)
    except AddressError:
        return
    assert parse_peer_id(str(peer_id)) == peer_id
