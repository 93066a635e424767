"""Network namespaces for tests that need no lab: each lives as long as a process of its own.

The process is `cat` on a pipe from here. It ends when the test does, however that ends (the pipe
breaks even with SIGKILL), and the namespace, which has no name, ends with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

# Runs a program until stdin ends, which it does with the test, too. The shell lets go of stdout,
# so that the program's end can be seen.
UNTIL_EOF = '"$@" & exec >/dev/null; cat; kill $! 2>/dev/null'

PROJECT = Path(__file__).resolve().parents[2]


def require_root() -> None:
    """Skip without root. As root what follows must work, or the test fails."""
    if os.geteuid() != 0:
        miss("needs root (or `unshare -rn`), to make network namespaces and TUN devices")


def require_tool(name: str, package: str) -> None:
    """Skip where a program is missing; `package` is Debian's name of what has it."""
    if shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is None:
        miss(f"needs {name} (Debian: {package})")


def miss(what: str) -> NoReturn:
    """Skip a test, or, in CI (where CI is set, as all CI systems do), fail: a test that is never
    run there proves nothing.
    """
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(f"{what}; this is CI, where nothing may be skipped for that")
    pytest.skip(what)


class Holder:
    """A namespace. `path` names it for setns, `run` and `start` run programs in it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.path = f"/proc/{process.pid}/ns/net"

    def command(self, *argv: str) -> list[str]:
        """What runs a program in it. It replaces itself by the program."""
        return ["nsenter", f"--net={self.path}", *argv]

    def ip(self, *lines: str) -> None:
        """Run lines of `ip`, as "addr add 10.0.0.1/24 dev eth0"."""
        command = self.command("ip", "-batch", "-")
        subprocess.run(command, input="\n".join(lines).encode(), check=True)

    def run(self, *arguments: str, timeout: float = 240) -> str:
        """Run Python with these arguments; what it wrote to stdout."""
        return subprocess.run(
            self.command(sys.executable, *arguments),
            cwd=PROJECT,
            check=True,
            timeout=timeout,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    @contextmanager
    def start(self, *arguments: str) -> Iterator[Program]:
        """Python with these arguments, until the end of the block. It must first write a line."""
        with subprocess.Popen(
            self.command("sh", "-c", UNTIL_EOF, "sh", sys.executable, *arguments),
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            program = Program(process)
            program.first = program.line()
            yield program
            # Leaving closes the pipe, which ends it.


class Program:
    """A running program that writes JSON lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.first: Any = None
        """What it wrote first."""

    def line(self) -> Any:
        """The next line; fails if there is none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the program has ended without a word"
        return json.loads(line)


@contextmanager
def namespaces(count: int) -> Iterator[list[Holder]]:
    """Fresh namespaces, with the loopback device up."""
    here = os.readlink("/proc/self/ns/net")
    processes = [
        subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) for _ in range(count)
    ]
    try:
        for process in processes:
            # `unshare` enters the namespace a moment after it was started.
            for _ in range(6000):
                if os.readlink(f"/proc/{process.pid}/ns/net") != here:
                    break
                time.sleep(0.01)
            else:
                pytest.fail("`unshare --net` makes no namespace here")
        holders = [Holder(process) for process in processes]
        for holder in holders:
            holder.ip("link set lo up")
        yield holders
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.kill()
            process.wait()


def run_in_namespace(setup: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run Python's `program` in a fresh namespace, by a shell script whose `$0 -c "$1"` it is."""
    require_root()
    return subprocess.run(
        ["unshare", "-n", "sh", "-euc", setup, sys.executable, program],
        capture_output=True,
        text=True,
        timeout=300,
    )
