"""`make demo`, run as a person runs it: across NATs, on loopback, interrupted, without rights."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import pytest

from tests.netlab.holders import PROJECT, require_root, require_tool
from tools.demo import checkpoint, homes
from tools.demo.homes import NoLabError, open_homes
from tools.demo.run import check_space, nat_types
from tools.demo.stage import DemoError, open_loopback
from tools.demo.story import Story, Tail, path_summary

SMALL = ("--megabytes", "1", "--crowd", "0")
"""The smallest checkpoint there is, and the first scene only."""
GONE_S = 60
ENDED_S = 240
NOBODY = 65534


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tools.demo", *SMALL, *arguments]


def run_demo(*arguments: str, around: Sequence[str] = ()) -> str:
    """What it says; it must succeed, and write nothing to stderr."""
    done = subprocess.run(
        [*around, *demo(*arguments)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert re.search(r"identical: 4 files, 12 tensors, \d{8,9} bytes", done.stdout), done.stdout
    assert re.search(r"throughput: [\d.]+ MB/s", done.stdout), done.stdout
    return done.stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may write to. In the end it must be as empty as it was."""
    made = Path(tempfile.mkdtemp(prefix="test-demo-"))
    made.chmod(0o777)
    try:
        yield made
        assert not list(made.iterdir())
        assert_no_process_knows(made)
    finally:
        shutil.rmtree(made)


def assert_no_process_knows(folder: Path) -> None:
    """All that the demo starts has its folder in the environment."""
    end = time.monotonic() + GONE_S
    while left := [
        str(file) for file in Path("/proc").glob("[0-9]*/environ") if _has(file, folder)
    ]:
        assert time.monotonic() < end, f"left: {left}"
        time.sleep(0.05)


def _has(file: Path, folder: Path) -> bool:
    try:
        return str(folder).encode() in file.read_bytes()
    except OSError:
        return False


def assert_crowd(said: str, count: int) -> None:
    assert f"identical: {count} copies of 16 MB" in said
    assert re.search(rf"c{count}: +killed at \d+%, and started again", said), said
    assert re.search(rf"caught by [1-9] of {count}, nothing of it was used", said), said
    assert re.search(r" c1 +\d+%  c2 +\d+%", said), said
    assert re.search(r"[\d.]+ times the file came from the publisher", said), said


# --- to the end ---


@pytest.mark.slow
def test_across_two_nats_relayed_first_and_then_direct(folder):
    require_root()
    # Large enough that the way through the relay is left in the middle.
    said = run_demo("--dir", str(folder), "--crowd", "2", "--megabytes", "150")
    assert "in network namespaces" in said
    assert re.search(r"path: relayed after [\d.]+ s, then direct-\w+ after [\d.]+ s: ", said), said
    assert re.search(r"^ +path: direct-\w+, after", said, re.MULTILINE), said
    assert "the relay carried" in said
    assert_crowd(said, 2)


@pytest.mark.slow
def test_between_symmetric_nats_it_stays_relayed_and_says_so(folder):
    require_root()
    said = run_demo("--dir", str(folder), "--nat", "symmetric-random")
    assert "between these NATs there is no other" in said
    carried = re.search(r"the relay carried ([\d.]+) MB", said)
    assert carried is not None
    assert float(carried[1]) > checkpoint.dimensions_for(1).size / 1e6


def test_on_loopback_when_asked_to(folder):
    said = run_demo("--dir", str(folder), "--loopback", "--crowd", "2")
    assert "on loopback, without NATs: as asked for" in said
    assert re.search(r"path: direct-\w+ after [\d.]+ s: direct from the start", said), said
    assert_crowd(said, 2)


def test_on_loopback_where_namespaces_cannot_be_had(folder):
    require_root()
    require_tool("setpriv", "util-linux")
    lesser = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    said = run_demo("--dir", str(folder), around=lesser)
    assert re.search(r"on loopback, without NATs: .* may not here \(.*not permitted", said), said


def open_to_others(aside: Path) -> list[str]:
    """What runs a program in a mount namespace where every user can reach this checkout.

    A folder that is closed to others, as root's home is, is replaced there by one that has
    nothing in it but the ways to the checkout and to Python. `aside` is an empty folder.
    """
    ways: dict[Path, set[Path]] = {}
    for needed in (PROJECT, Path(sys.prefix), Path(sys.base_prefix)):
        for parent in reversed(needed.parents):
            if not parent.stat().st_mode & stat.S_IXOTH:
                ways.setdefault(parent, set()).add(needed)
                break
    commands = ["set -e"]
    for number, (parent, inside) in enumerate(ways.items()):
        kept = aside / str(number)
        kept.mkdir()
        commands.append(f"mount --bind {quote(str(parent))} {quote(str(kept))}")
        commands.append(f"mount -t tmpfs -o mode=755 tmpfs {quote(str(parent))}")
        for needed in sorted(inside):
            commands.append(f"mkdir -p {quote(str(needed))}")
            source = kept / needed.relative_to(parent)
            commands.append(f"mount --bind {quote(str(source))} {quote(str(needed))}")
    commands += [f"cd {quote(str(PROJECT))}", 'exec "$@"']
    return ["unshare", "--mount", "sh", "-c", "\n".join(commands), "sh"]


def test_as_a_user_who_is_not_root(folder, monkeypatch, tmp_path):
    """In a user namespace or on loopback, as the machine allows."""
    require_root()
    require_tool("setpriv", "util-linux")
    lesser = open_to_others(tmp_path)
    lesser += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    own = ["unshare", "-rn"]
    if subprocess.run([*lesser, *own, "true"], capture_output=True, check=False).returncode:
        own = []
    trial = [*lesser, *own, str(Path(sys.executable).parent / "lattica"), "--help"]
    if subprocess.run(trial, cwd=PROJECT, capture_output=True, check=False).returncode:
        pytest.skip("the files of this checkout are not open to other users")
    monkeypatch.setenv("TMPDIR", str(folder))
    said = run_demo("--dir", str(folder), around=lesser)
    assert "in network namespaces" in said or "on loopback, without NATs: " in said


# --- before the end ---


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo, in a process group of its own, with default signals."""
    default = ["env", "--default-signal=INT,HUP,TERM"]
    with subprocess.Popen(
        [*default, *demo(*arguments)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    """Read what it says until there is `text`."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it never said {text!r}")


@pytest.mark.parametrize(
    ("stage", "number", "moment"),
    [
        ("lab", signal.SIGINT, "lattica --identity"),
        ("lab", signal.SIGHUP, "made a checkpoint"),
        ("loopback", signal.SIGTERM, "lattica publish"),
    ],
)
def test_a_signal_ends_it_and_nothing_is_left(folder, monkeypatch, stage, number, moment):
    if stage == "lab":
        require_root()
    monkeypatch.setenv("TMPDIR", str(folder))  # for the lab's own folder
    options = ["--loopback"] if stage == "loopback" else []
    with started("--dir", str(folder), *options) as process:
        wait_for_line(process, moment)
        if number == signal.SIGINT:  # to all of the group, as from a terminal
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=ENDED_S)
    assert process.returncode == 128 + number
    assert errors == ""


@pytest.mark.parametrize("place", ["/dev/null", "/none/such", "/proc"])
def test_a_place_where_it_cannot_work_is_named(place):
    with pytest.raises(DemoError, match=f"^{place}: .*; choose another --dir"):
        check_space(Path(place), 1)


def test_why_it_cannot_work_is_said_in_a_line():
    command = demo("--loopback", "--dir", "/none/such")
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("demo: FAILED: /none/such")
    assert done.stderr.count("\n") == 1


async def test_a_command_that_fails_is_named(folder):
    async with open_loopback(folder) as stage:
        stage.listen = {"relay": ["/ip4/192.0.2.1/tcp/0"]}  # of no interface
        with pytest.raises(DemoError, match=r"lattica relay ended\n.*192\.0\.2\.1"):
            await Story(stage, folder).tell(folder, 0)
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


# --- parts ---


async def test_a_missing_tool_is_an_obstacle(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(NoLabError, match="needs nft"):
        async with open_homes(("full-cone", "full-cone")):
            pytest.fail("it was built")


def test_without_unshare_there_is_no_user_namespace(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoLabError, match="needs unshare"):
        homes.restart_in_user_namespace([])


def test_a_user_namespace_that_is_forbidden_is_an_obstacle(monkeypatch, tmp_path):
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(NoLabError, match="may not make one: unshare: Operation not permitted"):
        homes.restart_in_user_namespace([])


def test_every_difference_is_found(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    for tree in (source, copy):
        (tree / "below").mkdir(parents=True)
        (tree / "below" / "file").write_bytes(bytes(1000))
    assert checkpoint.compare(source, copy, lambda: None) == 1
    (copy / "below" / "file").write_bytes(bytes(999) + b"\1")
    with pytest.raises(DemoError, match="below/file differs"):
        checkpoint.compare(source, copy, lambda: None)
    (copy / "more").touch()
    with pytest.raises(DemoError, match="the files differ"):
        checkpoint.compare(source, copy, lambda: None)


def test_the_paths_are_summed_up():
    relayed = {"path": "relayed", "after_s": 0.25}
    direct = {"path": "direct-quic", "after_s": 1.5}
    both = path_summary([relayed, direct], "direct")
    assert both == (
        "relayed after 0.25 s, then direct-quic after 1.50 s: 1.25 s from relayed to direct"
    )
    assert path_summary([direct], "direct").endswith("direct from the start")
    assert path_summary([relayed], "relayed").endswith("there is no other")
    assert path_summary([relayed], "birthday").endswith("half a minute between these NATs")
    assert path_summary([], "direct") == "unknown"


def test_nat_types_are_given_for_both_or_each():
    assert nat_types("cgnat") == ("cgnat", "cgnat")
    assert nat_types("cgnat,upnp") == ("cgnat", "upnp")
    for wrong in ("", "none-such", "cgnat,upnp,cgnat"):
        with pytest.raises(argparse.ArgumentTypeError):
            nat_types(wrong)


def test_whole_lines_are_shown_as_they_come(tmp_path, capsys):
    file = tmp_path / "log"
    tail = Tail(file)
    tail.show()
    file.write_bytes(b"one\ntwo\nthr")
    tail.show()
    assert capsys.readouterr().out.split() == ["one", "two"]
    file.write_bytes(b"one\ntwo\nthree\n")
    tail.show()
    assert capsys.readouterr().out.split() == ["three"]
