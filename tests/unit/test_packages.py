"""What a wheel ships: pyproject.toml's list of packages is the tree's."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = SETTINGS["package-dir"]
"""The top packages and the folders they are in."""


def test_every_package_is_shipped_and_nothing_else():
    tree = {
        ".".join((package, *module.parent.relative_to(PROJECT / folder).parts))
        for package, folder in FOLDERS.items()
        for module in (PROJECT / folder).rglob("*.py")
    }
    assert SETTINGS["packages"] == sorted(tree)


def test_what_is_generated_from_protocol_buffers_is_all_there_and_typed():
    for room in ("nat/pb", "dht/pb", "lattica/daemon/api/pb"):
        generated = {file.stem for file in (PROJECT / room).glob("*_pb2.py")}
        assert generated
        assert generated == {file.stem for file in (PROJECT / room).glob("*_pb2.pyi")}
        assert generated == {f"{file.stem}_pb2" for file in (PROJECT / room).glob("*.proto")}
    assert (PROJECT / "lattica/py.typed").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "from lattica import PeerId"],
        ["-c", "from lattica.rpc import UnavailableError"],
        ["-m", "lattica", "--version"],
        ["-m", "tools.netlab.errors"],
    ],
)
def test_a_checkout_that_is_not_installed_says_what_to_do(arguments):
    result = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "pip install -e ." in result.stderr.splitlines()[-1]
    assert str(PROJECT / "lattica") in result.stderr.splitlines()[-1]
