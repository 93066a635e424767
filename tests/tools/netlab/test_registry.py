"""Labs of other users are none: what their files say ends no process of ours."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tools.netlab.lab import registry
from tools.netlab.lab.registry import FILE, PREFIX, LabRecord, ProcessId

SOMEBODY = 65534


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a lab that says that a process of ours is its guardian."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"{PREFIX}prepared"
    folder.mkdir()
    return folder


def write(folder: Path, guardian: ProcessId) -> None:
    registry.write(LabRecord("prepared", "none", folder, ProcessId(1, -1), guardian))


@pytest.mark.parametrize("kind", ["somebody's", "link"])
def test_prepared_by_somebody(folder: Path, tmp_path: Path, kind: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        write(folder, registry.identify(process.pid))
        assert len(list(registry.labs())) == 1
        if kind == "link":
            folder.rename(tmp_path / "elsewhere")
            folder.symlink_to(tmp_path / "elsewhere")
        elif os.geteuid() == 0:
            os.chown(folder, SOMEBODY, SOMEBODY)
        else:
            pytest.skip("gives a folder to another user: needs root")
        assert list(registry.labs()) == []
        assert registry.clean(running=True) == []
        assert process.poll() is None
        assert (folder / FILE).exists()
        process.communicate(b"\n")
    assert process.returncode == 0
