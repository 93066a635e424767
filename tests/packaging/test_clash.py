"""Another project that is imported as `lattica`, in one environment with this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
REPAIR = "pip uninstall -y lattica && pip install --force-reinstall --no-deps lattica-stack"
# As in lattica 1.0.21.
OTHER = """
from .client import Lattica
from lattica_python_core import rpc_method
__version__ = "0.1.0"
__all__ = ["Lattica", "rpc_method"]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages with ours, laid as a wheel would lay it."""
    site = tmp_path / "site"
    (site / "lattica").mkdir(parents=True)
    # What the other one overwrites is copied.
    for path in (PROJECT / "lattica").glob("*.py"):
        shutil.copy(path, site / "lattica")
    rooms = [path for path in (PROJECT / "lattica").iterdir() if path.is_dir()]
    for room in [*rooms, *(PROJECT / floor for floor in ("nat", "crdt", "rpc", "dht"))]:
        if room.name != "__pycache__":
            (site / "lattica" / room.name).symlink_to(room)
    (site / "lattica_stack-0.1.0.dist-info").mkdir()
    return site


def install_the_other(site: Path, *, first: bool) -> None:
    (site / "lattica-1.0.21.dist-info").mkdir()
    (site / "lattica_python_core.py").write_text("rpc_method = None\n")
    (site / "lattica" / "client.py").write_text("class Lattica: pass\n")
    if not first:
        (site / "lattica" / "__init__.py").write_text(OTHER)


def run(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": str(site)},
    )


def test_alone_there_is_nothing_to_say(site):
    result = run(site, "import lattica; print(lattica.__file__); from lattica import Node")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip() == str(site / "lattica" / "__init__.py")


def test_a_distribution_that_begins_alike_is_no_clash(site):
    for name in (
        "lattica_stack-0.2.dist-info",
        "lattica_extra-1.0.dist-info",
        "latticast-1.egg-info",
    ):
        (site / name).mkdir()
    assert run(site, "import lattica").stderr == ""


def test_installed_over_the_other_one_it_works_and_warns(site):
    install_the_other(site, first=True)
    result = run(site, "from lattica import Node; print(Node.__module__)")
    assert (result.returncode, result.stdout) == (0, "lattica.node\n")
    assert "RuntimeWarning: the package lattica 1.0.21" in result.stderr
    assert REPAIR in result.stderr
    assert result.stderr.count(REPAIR) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import lattica.node",
        "from lattica.content import fetch",
        "import lattica.nat.config",
        "from lattica.cli import main; main()",
        "from lattica.facades.blocking import Lattica",
    ],
)
def test_overwritten_by_the_other_one_all_that_is_ours_says_so(site, code):
    install_the_other(site, first=False)
    assert run(site, "import lattica; lattica.Lattica").returncode == 0  # theirs
    result = run(site, code)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: the package lattica 1.0.21, another project"), last
    assert str(site / "lattica") in last
    assert REPAIR in last


def test_when_the_other_one_was_uninstalled_ours_has_no_beginning(site):
    (site / "lattica" / "__init__.py").unlink()
    result = run(site, "import lattica.node")
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "has lost its __init__.py" in last
    assert REPAIR in last


def test_a_stranger_of_that_name(site):
    (site / "lattica" / "__init__.py").write_text("")
    result = run(site, "import lattica.node")
    assert "is not of lattica-stack" in result.stderr
    assert REPAIR in result.stderr
