"""Who may open the socket, and whose a client trusts."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattica.daemon.api import socket_file
from lattica.errors import ConfigError, DaemonError


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "node.sock"
    with socket_file.held(path) as bound, socket.socket(socket.AF_UNIX) as server:
        assert stat.S_IMODE(bound.parent.stat().st_mode) == 0o700
        server.bind(str(bound))
        server.listen(1)
        socket_file.publish(bound, path)
        yield path


def test_only_its_user_can_open_it_and_it_goes_with_its_daemon(tmp_path: Path) -> None:
    path = tmp_path / "made" / "node.sock"
    assert not socket_file.is_there(path)
    with socket_file.held(path) as bound, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bound))
        server.listen(1)
        socket_file.publish(bound, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert socket_file.is_there(path)
    assert not socket_file.is_there(path)
    assert [each.name for each in path.parent.iterdir()] == ["node.sock.lock"]


def test_two_daemons_do_not_share_one(listening: Path) -> None:
    with pytest.raises(DaemonError, match="another daemon"), socket_file.held(listening):
        pass
    assert socket_file.is_there(listening)


def test_what_a_killed_daemon_has_left_is_no_daemon_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    (tmp_path / ".sabcdefgh").mkdir()
    (tmp_path / "node.sock.lock").write_text(".sabcdefgh")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    path.chmod(0o600)
    assert not socket_file.is_there(path)
    with socket_file.held(path) as bound, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bound))
        server.listen(1)
        socket_file.publish(bound, path)
        assert socket_file.is_there(path)
    assert not (tmp_path / ".sabcdefgh").exists()


@pytest.mark.parametrize("written", ["", ".ssh", "../.ssh", ".s" + "x" * 62, "\xff"])
def test_what_lies_beside_a_socket_is_left_alone(tmp_path: Path, written: str) -> None:
    for name in (".ssh", ".steamapps", ".s2345678"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "id_ed25519").write_text("key")
    (tmp_path / "node.sock.lock").write_text(written)
    other = socket_file.held(tmp_path / "other.sock")
    with other as bound, socket_file.held(tmp_path / "node.sock"):
        assert bound.parent.is_dir()
    for name in (".ssh", ".steamapps", ".s2345678"):
        assert (tmp_path / name / "id_ed25519").exists()


def test_a_lock_that_another_has_put_there_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.sock"
    lock = tmp_path / "node.sock.lock"
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no socket can be made"), socket_file.held(path):
        pass
    assert not (tmp_path / "elsewhere").exists()
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(ConfigError, match="no file of this user's"), socket_file.held(path):
        pass
    lock.unlink()
    lock.write_text("")
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with pytest.raises(ConfigError, match="no file of this user's"), socket_file.held(path):
        pass


def test_a_socket_of_somebody_else_is_not_used(
    listening: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening.chmod(0o666)
    with pytest.raises(DaemonError, match="opened by others"):
        socket_file.is_there(listening)
    listening.chmod(0o600)
    listening.parent.chmod(0o777)
    with pytest.raises(DaemonError, match="others can put"):
        socket_file.is_there(listening)
    listening.parent.chmod(0o700)
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with pytest.raises(DaemonError, match="another user"):
        socket_file.is_there(listening)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "node.sock").write_text("")
    with pytest.raises(DaemonError, match="no socket"):
        socket_file.is_there(tmp_path / "node.sock")


def test_paths_that_are_too_long_or_cannot_be_made(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="at most 107 bytes"),
        socket_file.held(tmp_path / ("x" * 100)),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="UTF-8"),
        socket_file.held(tmp_path / "\udcff"),
    ):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="no socket can be made"),
        socket_file.held(tmp_path / "file" / "s"),
    ):
        pass
