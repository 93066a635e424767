"""What is published: a source distribution with everything in it, and a page without dead links."""

from __future__ import annotations

import email
import email.message
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import FLOORS, ROOT

NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", ".cache", "build", "dist", "*.egg-info", "__pycache__", ".*_cache",
    ".hypothesis",
)  # fmt: skip
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
CODE = "`f[0](x)`\n```python\nf[0](x)\n```\n"
LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
    command = [sys.executable, "-c", BUILD, str(folder)]
    result = subprocess.run(
        command, cwd=folder / "source", capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return folder / result.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return email.message_from_bytes(archive.read(name))


def files_below(*folders: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", ".cache"} & set(path.parts)
    }


def test_the_source_distribution_has_all_that_the_project_is(sdist: Path):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = files_below(*FLOORS, "tests", "tools", "docs", "examples")
    wanted |= {"README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "setup.py", "MANIFEST.in"}
    wanted |= {"LICENSE-APACHE", "LICENSE-MIT"}
    assert wanted <= names, sorted(wanted - names)[:20]
    assert "nat/pb/noise.proto" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".cache")]


@pytest.mark.slow
def test_a_wheel_can_be_made_of_it(sdist: Path, wheel: Path, tmp_path: Path):
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", tmp_path, sdist], check=True, timeout=300)
    (made,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(made) as ours, zipfile.ZipFile(wheel) as theirs:
        assert set(ours.namelist()) == set(theirs.namelist())


def test_the_page_has_no_link_that_leads_nowhere(metadata: email.message.Message):
    payload = metadata.get_payload(decode=True)
    assert isinstance(payload, bytes)
    page = payload.decode()
    assert metadata["Description-Content-Type"] == "text/markdown"
    targets = LINK.findall(page)
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    ours = [target for target in targets if target.startswith(source)]
    assert len(ours) >= 5
    for target in ours:
        path = re.sub(r"^/(blob|raw)/HEAD/|#.*", "", target.removeprefix(source))
        assert (ROOT / path).exists(), target
    # Nothing but links is different.
    readme = (ROOT / "README.md").read_text()
    assert LINK.sub("", page).strip() == LINK.sub("", readme).strip()


def test_the_page_says_where_the_project_is(metadata: email.message.Message):
    urls = dict(entry.split(", ", 1) for entry in metadata.get_all("Project-URL", []))
    assert {"Source", "Documentation", "Changelog", "Issues"} <= urls.keys()
    assert all(url.startswith("https://") for url in urls.values())


def test_links_of_all_kinds():
    names: dict[str, object] = {"__name__": "setup", "__file__": str(ROOT / "setup.py")}
    exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), names)
    absolute = names["absolute"]
    assert callable(absolute)
    for given, expected in {
        "[a](docs/x.md)": "[a](S/blob/HEAD/docs/x.md)",
        "[a](./x.md#part) [b](tools/)": "[a](S/blob/HEAD/x.md#part) [b](S/blob/HEAD/tools/)",
        "![a](docs/x.svg)": "![a](S/raw/HEAD/docs/x.svg)",
        "[a](https://e.org/x) [b](#part) [c](mailto:a@e.org)": None,
        f"{CODE}[a](b)": f"{CODE}[a](S/blob/HEAD/b)",
    }.items():
        assert absolute(given, "S") == (expected or given)
