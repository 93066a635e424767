"""The lock of a key file: who has it, what the other is told, and how it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from lattica.errors import IdentityError, KeyInUseError
from lattica.nat.base.keys import key_lock
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.key_lock import KeyLock

HOLDER = """
import pathlib, sys, time
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.key_lock import KeyLock
path = pathlib.Path(sys.argv[1])
with KeyLock(path, Identity.load(path)):
    print("held", flush=True)
    time.sleep(600)
"""


def lock(path):
    return KeyLock(path, Identity.load(path))


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "identity.key"
    Identity.generate().save(path)
    return path


def test_one_at_a_time_and_nothing_is_left(key):
    with lock(key):
        assert os.listdir(key.parent) == [key.name]
        with pytest.raises(KeyInUseError, match="a node of this program"), lock(key):
            pass
    with lock(key):
        assert os.listdir(key.parent) == [key.name]


def test_other_names_of_the_file_are_the_same_key(key, tmp_path):
    os.link(key, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(key)
    with lock(tmp_path / "soft"), pytest.raises(KeyInUseError), lock(tmp_path / "hard"):
        pass


def test_another_program_is_named_and_a_killed_one_leaves_no_lock(key):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(key)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(KeyInUseError) as refusal, lock(key):
            pass
        for said in (str(key), f"process {process.pid}", "--ephemeral", "--identity"):
            assert said in str(refusal.value)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    with lock(key):
        pass


def test_a_forked_child_does_not_keep_it(key):
    wait, go_on = os.pipe()
    with lock(key):
        child = os.fork()
        if child == 0:
            os.close(go_on)
            os.read(wait, 1)
            os._exit(0)
    try:
        with lock(key):
            pass
    finally:
        os.close(go_on)
        os.close(wait)
        os.waitpid(child, 0)


def test_a_child_does_not_give_it_away(key):
    with lock(key):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(KeyInUseError), lock(key):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_where_there_are_no_locks_it_is_said_and_goes_on(key, monkeypatch, caplog, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock(key):
        pass
    assert "cannot be locked" in caplog.text
    assert str(key) in caplog.text


def test_a_key_that_may_only_be_read(key, monkeypatch):
    real = os.open

    def read_only(path, flags, *rest):
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    with lock(key), pytest.raises(KeyInUseError), lock(key):
        pass


def test_no_such_file(tmp_path):
    with (
        pytest.raises(IdentityError, match="cannot open"),
        KeyLock(tmp_path / "none", Identity.generate()),
    ):
        pass


linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract names of sockets are Linux's")


@linux
def test_a_copy_of_the_file_is_the_same_key(key, tmp_path):
    copy = tmp_path / "copy.key"
    shutil.copy(key, copy)
    with lock(key):
        with pytest.raises(KeyInUseError, match="a node of this program"), lock(copy):
            pass
        with pytest.raises(KeyInUseError), lock(key):  # and the refused one has let go of nothing
            pass
    with lock(copy):
        pass


@linux
def test_a_name_that_nobody_answers_at_is_free(key):
    """A child that was forked while a node ran may have its socket for a moment after it."""
    with lock(key) as held:
        assert held._name is not None
        kept = held._name.dup()
    with kept:
        for _ in range(2):
            with lock(key):
                pass


@linux
def test_a_file_that_took_the_name_meanwhile_is_the_same_key(key):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(key)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        shutil.copy(key, key.with_suffix(".new"))
        os.replace(key.with_suffix(".new"), key)
        with pytest.raises(KeyInUseError) as refusal, lock(key):
            pass
        assert f"process {process.pid}" in str(refusal.value)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    with lock(key):
        pass


@linux
def test_another_key_under_the_same_name_is_another_one(key):
    with lock(key):
        os.unlink(key)
        Identity.generate().save(key)
        with lock(key):
            pass


@linux
def test_a_name_that_another_user_has_taken_stops_nobody(key, monkeypatch, caplog):
    monkeypatch.setattr(key_lock, "_owner_of_name", lambda _: (1, 12345))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taken:
        taken.bind(key_lock._abstract_name(Identity.load(key)))
        with lock(key):
            pass
    assert "of another user" in caplog.text


@linux
def test_the_name_tells_nothing_of_the_peer(key):
    identity = Identity.load(key)
    name = key_lock._abstract_name(identity)
    assert str(identity.peer_id).encode() not in name
    assert name == key_lock._abstract_name(Identity.load(key))
    assert name != key_lock._abstract_name(Identity.generate())
    assert len(name) < 108


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_who_has_it_is_named_as_people_write_it():
    words = ["sh", "-c", "echo; read x", "模型 ünï", "\udcff", "\x1b[31m"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        said = key_lock._described(process.pid)
    assert said == f"process {process.pid} (sh -c echo; read x 模型 ünï \\xff ?[31m)"
