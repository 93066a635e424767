"""Whatever happens to a lab, nothing of it is left: no process, namespace, device, rule, file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.netlab.holders import Holder, namespaces, require_root, require_tool
from tests.netlab.labs import PROJECT, namespace_cookie, namespaces_in_use, netlab_command
from tools.netlab.errors import LabError, MissingToolError, NoPrivilegesError
from tools.netlab.lab import registry
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Link, Router

# Programs of every sort: one that forks away from its parent, one that ignores signals; a NAT of
# the kernel, one of the lab's own, a shaped link.
SCENARIO = '''
duration_s = 300
[routers.kernel]
nat = "linux-masquerade"
[routers.own]
nat = "full-cone"
[hosts.a]
behind = "kernel"
link = { both = { delay_s = 0.01 } }
[hosts.b]
behind = "own"
[programs.daemon]
kind = "command"
host = "a"
argv = ["sh", "-c", "setsid setsid sleep 1000 & setsid sleep 1001 & sleep 1002"]
timeout_s = 300
[programs.stubborn]
kind = "command"
host = "b"
argv = ["sh", "-c", """trap '' TERM INT HUP; echo '{"event": "ready"}'; sleep 1003; sleep 4"""]
ready = "ready"
timeout_s = 300
'''
BUILT_S = 240
GONE_S = 120


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.fixture(autouse=True)
def _a_registry_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labs of others do not concern these tests, and what these leave does not concern others."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


@dataclass(frozen=True)
class Traces:
    """Of a running lab, to look for afterwards."""

    record: registry.LabRecord
    processes: set[registry.ProcessId]
    namespaces: set[int]
    """Their cookies."""

    def left(self) -> list[str]:
        """What is still there."""
        found = [f"process {process.pid}" for process in self.processes if process.is_alive]
        found += [f"namespace {cookie}" for cookie in self.namespaces & namespaces_in_use()]
        if self.record.folder.exists():
            found.append(str(self.record.folder))
        return found

    def assert_gone(self, but_folder: bool = False) -> None:
        end = time.monotonic() + GONE_S
        while True:
            left = [
                text for text in self.left() if not (but_folder and text == str(self.record.folder))
            ]
            if not left:
                return
            assert time.monotonic() < end, f"left: {left}"
            time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """All processes below one, in this PID namespace and those within."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.add(child)
            todo.append(child)
    return found


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Programs started meanwhile get signals, though ours ignores them.

    It ignores SIGINT if a script has started it with `&`, and SIGHUP under nohup.
    """
    ignored = [
        number
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
        if signal.getsignal(number) == signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def running_lab(
    folder: Path, around: Holder | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Traces]]:
    """A lab in a process of its own, once its programs run.

    around: a namespace that it is started in; None: this one.
    """
    file = folder / "all-sorts.toml"
    file.write_text(SCENARIO)
    log = (folder / "log").open("wb")
    command = netlab_command("run", str(file), "--out", str(folder / "out"))
    if around is not None:
        command = around.command(*command)
    with heeding_signals():
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
    try:
        yield process, wait_until_built(process, folder)
    finally:
        process.kill()
        process.wait()
        log.close()


def wait_until_built(process: subprocess.Popen[bytes], folder: Path) -> Traces:
    end = time.monotonic() + BUILT_S
    while time.monotonic() < end:
        assert process.poll() is None, (folder / "log").read_text()
        for record in registry.labs():
            if record.owner.pid != process.pid:
                continue
            pids = descendants(process.pid)
            names = [_command(pid) for pid in pids]
            wanted = [f"sleep {number}" for number in range(1000, 1004)]
            if all(name in names for name in wanted):
                assert any("forwarder" in name for name in names)
                spaces = {namespace_cookie(path) for path in record.namespaces.values()}
                assert len(spaces) == 5
                assert spaces <= namespaces_in_use()
                known = {registry.identify(pid) for pid in (process.pid, *pids)}
                return Traces(record, known, spaces)
        time.sleep(0.05)
    pytest.fail("the lab was not built: " + (folder / "log").read_text())


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def devices_and_rules(holder: Holder) -> list[bytes]:
    """Of a namespace."""
    commands = (["ip", "-brief", "link"], ["nft", "list", "ruleset"])
    return [
        subprocess.run(holder.command(*command), capture_output=True, check=True).stdout
        for command in commands
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_lab_that_is_killed_leaves_nothing(tmp_path, number):
    # In a namespace that nobody else changes.
    with namespaces(1) as (around,):
        before = devices_and_rules(around)
        with running_lab(tmp_path, around) as (process, traces):
            process.send_signal(number)
            process.wait(GONE_S)
            traces.assert_gone()
        assert devices_and_rules(around) == before


@pytest.mark.parametrize("who", ["janitor", "init"])
def test_a_lab_whose_guardian_is_killed_ends_and_leaves_at_most_a_folder(tmp_path, who):
    with running_lab(tmp_path) as (process, traces):
        guardian = traces.record.guardian.pid
        (init,) = [
            pid
            for pid in descendants(guardian)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(guardian)
        ]
        os.kill(guardian if who == "janitor" else init, signal.SIGKILL)
        process.wait(GONE_S)
        traces.assert_gone()


def test_clean_removes_what_was_left_when_all_were_killed(tmp_path):
    with running_lab(tmp_path) as (process, traces):
        os.kill(traces.record.guardian.pid, signal.SIGSTOP)
        process.kill()
        process.wait()
        os.kill(traces.record.guardian.pid, signal.SIGKILL)
        traces.assert_gone(but_folder=True)
        assert traces.record.folder.exists()
        assert traces.record.lab in {record.lab for record in registry.labs()}
        done = subprocess.run(
            netlab_command("clean"), cwd=PROJECT, capture_output=True, text=True, check=True
        )
        assert f"removed {traces.record.lab}" in done.stderr
        traces.assert_gone()


def test_clean_leaves_running_labs_alone_unless_told_otherwise(tmp_path):
    with running_lab(tmp_path) as (process, traces):
        subprocess.run(netlab_command("clean"), cwd=PROJECT, capture_output=True, check=True)
        assert process.poll() is None
        assert traces.record.folder.exists()
        assert registry.find(traces.record.lab) == traces.record
        inside = subprocess.run(
            netlab_command("exec", "--lab", traces.record.lab, "a", "cat", "/proc/net/route"),
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "eth0" in inside.stdout
        assert registry.clean(running=True, only=traces.record.lab) == [traces.record]
        process.wait(GONE_S)
        traces.assert_gone()


async def test_an_error_while_building_leaves_nothing(monkeypatch):
    spaces: set[int] = set()

    async def fail(self: Lab, node: str, ruleset: str) -> None:
        spaces.update(namespace_cookie(space.path) for space in self._namespaces.values())
        raise LabError("no rules today")

    made = Scenario(
        "test",
        hosts=(Host("a", behind="r", link=Link(LinkSpec(delay_s=0.1))),),
        routers=(Router("r", nat=NAMES["linux-masquerade"]),),
    )
    monkeypatch.setattr(Lab, "_nft", fail)
    with pytest.raises(LabError, match="no rules today"):
        async with open_lab(made):
            pytest.fail("it was built")
    assert len(spaces) == 3
    assert not list(Path(tempfile.gettempdir()).iterdir())
    with trio.fail_after(GONE_S):
        while spaces & namespaces_in_use():
            await trio.sleep(0.05)


async def break_in_a_lab() -> None:
    async with open_lab(Scenario("test", hosts=(Host("a"),))) as lab:
        await lab.start("a", ["sleep", "1000"], name="sleeper")
        _ = 1 / 0


async def test_an_error_of_the_user_comes_out_as_it_is():
    with pytest.raises(ZeroDivisionError):
        await break_in_a_lab()


async def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(MissingToolError, match="apt-get install nftables"):
        async with open_lab(Scenario("test", hosts=(Host("a"),))):
            pytest.fail("it was built")


def test_without_privileges_it_says_how_to_get_them():
    require_tool("setpriv", "util-linux")
    done = subprocess.run(
        [
            "setpriv",
            "--bounding-set=-sys_admin",
            "--inh-caps=-sys_admin",
            *netlab_command("probe", "full-cone"),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "unshare -rn" in done.stderr
    assert "Traceback" not in done.stderr
    assert NoPrivilegesError.__name__ not in done.stderr


def test_in_a_user_namespace():
    """As `unshare -rn` makes one for users who are not root."""
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    done = subprocess.run(
        ["unshare", "-rn", *netlab_command("probe", "full-cone", "linux-masquerade", "--json")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"ok": true') == 2


def test_the_guardian_needs_nothing_of_ours():
    """It must start at once, whatever is installed or broken."""
    guardian = PROJECT / "tools" / "netlab" / "lab" / "guardian.py"
    code = f"import runpy; runpy.run_path({str(guardian)!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, cwd="/")
