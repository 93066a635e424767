"""The lock of a key file: who has it, what the other is told, and how it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from lattica.errors import IdentityError, KeyInUseError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.key_lock import KeyLock

HOLDER = """
import pathlib, sys, time
from lattica.nat.base.keys.key_lock import KeyLock
with KeyLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "identity.key"
    Identity.generate().save(path)
    return path


def test_one_at_a_time_and_nothing_is_left(key):
    with KeyLock(key):
        assert os.listdir(key.parent) == [key.name]
        with pytest.raises(KeyInUseError, match="a node of this program"), KeyLock(key):
            pass
    with KeyLock(key):
        assert os.listdir(key.parent) == [key.name]


def test_other_names_of_the_file_are_the_same_key(key, tmp_path):
    os.link(key, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(key)
    with KeyLock(tmp_path / "soft"), pytest.raises(KeyInUseError), KeyLock(tmp_path / "hard"):
        pass


def test_another_program_is_named_and_a_killed_one_leaves_no_lock(key):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(key)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(KeyInUseError) as refusal, KeyLock(key):
            pass
        for said in (str(key), f"process {process.pid}", "--ephemeral", "--identity"):
            assert said in str(refusal.value)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
    with KeyLock(key):
        pass


def test_a_forked_child_does_not_keep_it(key):
    wait, go_on = os.pipe()
    with KeyLock(key):
        child = os.fork()
        if child == 0:
            os.close(go_on)
            os.read(wait, 1)
            os._exit(0)
    try:
        with KeyLock(key):
            pass
    finally:
        os.close(go_on)
        os.close(wait)
        os.waitpid(child, 0)


def test_a_child_does_not_give_it_away(key):
    with KeyLock(key):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(KeyInUseError), KeyLock(key):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_where_there_are_no_locks_it_is_said_and_goes_on(key, monkeypatch, caplog, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with KeyLock(key), KeyLock(key):
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
    with KeyLock(key), pytest.raises(KeyInUseError), KeyLock(key):
        pass


def test_no_such_file(tmp_path):
    with pytest.raises(IdentityError, match="cannot open"), KeyLock(tmp_path / "none"):
        pass
