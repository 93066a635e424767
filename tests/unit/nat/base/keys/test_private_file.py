"""Files with secrets are read only when nobody else can have read or made them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lattica.nat.base.keys.private_file import UnprotectedFileError, read_private_file

SOMEBODY = 65534


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_private(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    assert read_private_file(secret, 100) == b"secret"
    assert read_private_file(secret, 3) == b"sec"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o601, 0o644, 0o666])
def test_others_have_access(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    with pytest.raises(UnprotectedFileError, match=rf"mode {mode:04o}.*chmod 600 {secret}"):
        read_private_file(secret, 100)


def test_links_are_followed_to_what_they_lead_to(secret: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert read_private_file(link, 100) == b"secret"
    secret.chmod(0o644)
    with pytest.raises(UnprotectedFileError):
        read_private_file(link, 100)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UnprotectedFileError, match="not a regular file"):
        read_private_file(tmp_path / "pipe", 100)


def test_neither_device_nor_directory(tmp_path: Path) -> None:
    with pytest.raises(UnprotectedFileError, match="not a regular file"):
        read_private_file(Path("/dev/null"), 100)
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        read_private_file(tmp_path, 100)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")
def test_somebody_elses(secret: Path) -> None:
    os.chown(secret, SOMEBODY, SOMEBODY)
    with pytest.raises(UnprotectedFileError, match=rf"another user \(number {SOMEBODY}\)") as found:
        read_private_file(secret, 100)
    # To take it from a service would stop that.
    assert str(found.value).endswith("Run this as that user")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_private_file(tmp_path / "none", 100)
