"""A plain install: wheels only, nothing of py-libp2p's, and it publishes and fetches."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOT_INSTALLED = (
    "libp2p", "fastecdsa", "coincurve", "nacl", "gmpy2", "multiaddr", "netaddr", "psutil",
    "numpy", "torch", "safetensors",
)  # fmt: skip
HOST = """
import trio
from lattica import Node

async def main():
    try:
        Node().host
    except ImportError as error:
        print(error)

trio.run(main)
"""
PB = """
import importlib, pkgutil
import google.protobuf
import lattica.nat.pb as pb
for module in pkgutil.iter_modules(pb.__path__, pb.__name__ + "."):
    importlib.import_module(module.name)
print(google.protobuf.__version__)
"""


@dataclass(frozen=True)
class Install:
    folder: Path

    def run(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        program, *arguments = argv
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def pip_install(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """From wheels alone: no compiler is asked.

        By the pip that is here: to put one into each environment takes longer than what it does
        there. Nothing is compiled to bytecode but what a test imports.
        """
        pip = [sys.executable, "-m", "pip", "--python", str(self.folder), "install", "-q"]
        return subprocess.run(
            [*pip, "--no-compile", "--only-binary=:all:", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Without what would lead to this checkout, and without asking a router for a port."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LATTICA_", "PYTHON"))}
        return {
            **kept,
            "LATTICA_DATA_DIR": str(self.folder / "data"),
            "LATTICA_NAT__PORT_MAPPING__ENABLED": "false",
        }


@pytest.fixture(scope="module")
def install(wheel: Path, registry: None, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """The wheel in a virtual environment of its own."""
    made = Install(tmp_path_factory.mktemp("install"))
    venv.create(made.folder)
    result = made.pip_install(wheel)
    assert result.returncode == 0, result.stderr[-3000:]
    return made


def test_nothing_is_installed_that_a_plain_node_does_not_need(install: Install):
    program = (
        "import importlib.util, json; "
        f"print(json.dumps([m for m in {NOT_INSTALLED} if importlib.util.find_spec(m)]))"
    )
    result = install.run("python", "-c", program)
    assert json.loads(result.stdout) == [], result.stderr
    where = install.run("python", "-c", "import lattica; print(lattica.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(install.folder), where.stderr


def test_publish_and_fetch(install: Install, tmp_path: Path):
    content = random.Random(1).randbytes(3_000_000)
    (tmp_path / "weights.bin").write_bytes(content)
    publish = subprocess.Popen(
        [
            install.folder / "bin" / "lattica", "publish", tmp_path / "weights.bin",
            "--listen", "/ip4/127.0.0.1/tcp/0", "--json",
        ],
        env=install.environment,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert publish.stdout is not None
        line = publish.stdout.readline()
        assert line, "publish has ended"
        out = tmp_path / "out"
        fetched = install.run("lattica", "fetch", json.loads(line)["ticket"], "-o", out)
        assert fetched.returncode == 0, fetched.stderr
        assert (out / "weights.bin").read_bytes() == content
    finally:
        publish.terminate()
        publish.communicate(timeout=240)


def test_the_host_of_py_libp2p_is_an_extra(install: Install):
    result = install.run("python", "-c", HOST)
    assert "pip install 'lattica-stack[libp2p]'" in result.stdout, result.stderr


def test_the_oldest_protobuf_that_is_allowed_runs_our_messages(install: Install):
    """They are made by a compiler whose code refuses runtimes that are older than itself."""
    oldest = install.pip_install("protobuf==6.31.1")
    assert oldest.returncode == 0, oldest.stderr
    result = install.run("python", "-W", "error", "-c", PB)
    assert result.stdout.strip() == "6.31.1", result.stderr
