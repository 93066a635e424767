"""Commands whose standard output is full, closed or of another locale, or is not read."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.commands.commands import (
    LATTICA,
    LISTEN,
    TIMEOUT,
    Published,
    environment,
    make_file,
    published,
    same,
)

NAME = "naïve"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_file(tmp_path_factory.mktemp("source") / NAME, 1)


@pytest.fixture(scope="module")
def provider(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """It serves `source`."""
    with published(source, tmp_path_factory.mktemp("publisher")) as running:
        yield running


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_that_nobody_reads(source, provider, tmp_path, unbuffered):
    for command in (
        ["publish", str(source), "--ephemeral", "--listen", LISTEN],
        ["fetch", provider.ticket, "-o", str(tmp_path / "out")],
        ["fetch", "--help"],
    ):
        read, write = os.pipe()
        os.close(read)
        env = {**environment(tmp_path / "data"), "PYTHONUNBUFFERED": unbuffered}
        with os.fdopen(write, "wb") as closed:
            done = subprocess.run(
                [*LATTICA, *command],
                stdout=closed,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
                timeout=TIMEOUT,
                check=False,
            )
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr
    assert same(source, tmp_path / "out" / NAME)


def redirected(redirection: str, *command: str, data_dir: Path) -> tuple[int, str, str]:
    """Exit status, standard output and error of `lattica COMMAND REDIRECTION`."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *LATTICA, *command],
        capture_output=True,
        text=True,
        env=environment(data_dir),
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


FULL = "lattica: error: cannot write to standard output: the disk is full\n"


@pytest.mark.parametrize(
    "command",
    [["id"], ["--help"], ["fetch", "-h"], ["--version"], ["config", "show"]],
    ids=" ".join,
)
def test_standard_output_that_is_full(tmp_path, command):
    code, _, stderr = redirected(">/dev/full", *command, data_dir=tmp_path / "data")
    assert code == 1, stderr
    assert stderr.endswith(FULL)
    assert "Traceback" not in stderr
    assert "Exception" not in stderr


def test_what_is_served_ends_where_standard_output_is_full(source, tmp_path):
    publish = ["publish", str(source), "--ephemeral", "--listen", LISTEN]
    code, _, stderr = redirected(">/dev/full", *publish, data_dir=tmp_path)
    assert code == 1
    assert stderr.endswith(FULL)
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("redirection", "options", "expected"),
    [
        (">/dev/full", [], 1),
        (">/dev/full", ["--json"], 1),
        (">&-", ["--json"], 0),
        ("2>&-", ["--json"], 0),
        ("2>/dev/full", ["--json"], 0),
        ("<&- >&- 2>&-", [], 0),
    ],
)
def test_what_was_fetched_stays_where_standard_output_is_full_or_closed(
    source, provider, tmp_path, redirection, options, expected
):
    out = tmp_path / "out"
    fetch_it = ["fetch", provider.ticket, "-o", str(out), *options]
    code, stdout, stderr = redirected(redirection, *fetch_it, data_dir=tmp_path / "data")
    assert code == expected, stderr
    assert same(source, out / NAME)
    assert {path.name for path in out.iterdir()} == {NAME}
    assert "Traceback" not in stderr
    if expected:
        assert stderr.endswith(FULL)
    if redirection.startswith("2"):
        assert json.loads(stdout)["files"] == 1


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_descriptors_that_are_closed(tmp_path, redirection):
    (tmp_path / "data").mkdir()
    code, stdout, stderr = redirected(redirection, "id", data_dir=tmp_path / "data")
    assert code == 0, stderr
    assert ("12D3KooW" in stdout) == (">&-" not in redirection.split())
    assert "Traceback" not in stderr
    # What is wrong costs the same status, whether there is a place to say it or not.
    missing = ["publish", str(tmp_path / "missing"), "--ephemeral"]
    assert redirected(redirection, *missing, data_dir=tmp_path / "data")[0] == 1


def test_locale_that_lacks_characters(source, provider, tmp_path):
    environ = {**environment(tmp_path / "data"), "PYTHONIOENCODING": "ascii:strict"}
    help_, fetched = (
        subprocess.run(
            [*LATTICA, *command],
            capture_output=True,
            env=environ,
            timeout=TIMEOUT,
            check=False,
        )
        for command in (
            ["fetch", "--help"],
            ["fetch", provider.ticket, "-o", str(tmp_path / "out")],
        )
    )
    assert help_.returncode == 0, help_.stderr
    assert b"blocks\\[0\\].*" in help_.stdout
    assert fetched.returncode == 0, fetched.stderr
    assert b"ve: 1.0 MiB, verified" in fetched.stdout
    assert b"na\\xefve: 1 file" in fetched.stderr
    assert same(source, tmp_path / "out" / NAME)
