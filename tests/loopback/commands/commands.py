"""The real commands, for tests and for nothing else.

Those that run until they are ended are processes of their own; the others run in this process
(:func:`lattica`), which need not start an interpreter for each.
"""

from __future__ import annotations

import filecmp
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner, Result

from lattica.cli import app
from lattica.content.manifest.content_defined import cut_content

LATTICA = (sys.executable, "-c", "from lattica.cli import main; main()")
LISTEN = "/ip4/127.0.0.1/tcp/0"
TIMEOUT = 240
"""Seconds that a command may take, on a machine that has much else to do."""
WAIT = "120"
"""Seconds that it may wait for others: `--wait`."""


@dataclass
class Published:
    """A running `lattica publish`."""

    process: subprocess.Popen[str]
    info: dict[str, Any]

    @property
    def ticket(self) -> str:
        return self.info["ticket"]

    def memory(self, field: str) -> int:
        return memory(self.process.pid, field)


def memory(pid: int, field: str) -> int:
    """A memory figure of /proc/PID/status, such as VmHWM, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")


def environment(data_dir: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LATTICA_")}
    return {
        **kept,
        "LATTICA_DATA_DIR": str(data_dir),
        "LATTICA_NAT__PORT_MAPPING__ENABLED": "false",
    }


def lattica(data_dir: Path, *arguments: str) -> Result:
    """Run a command to its end in this process, from the folder in which `data_dir` is."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    with chdir(data_dir.parent):
        return CliRunner().invoke(app, arguments, env=environment(data_dir), catch_exceptions=False)


class Running:
    """A command with `--json`, as a process."""

    log = ""
    """What it has logged, after :meth:`stop`."""

    def __init__(self, data_dir: Path, *argv: str, by: Sequence[str] = LATTICA) -> None:
        self.process = subprocess.Popen(
            [*by, *argv, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(data_dir),
        )

    def next_event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended: {self.process.stderr and self.process.stderr.read()}"
        return json.loads(line)

    def said(self, name: str) -> dict[str, Any]:
        """The next event of that name."""
        while (event := self.next_event())["event"] != name:
            pass
        return event

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        _, self.log = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode


@contextmanager
def running(data_dir: Path, *argv: str, by: Sequence[str] = LATTICA) -> Iterator[Running]:
    """`by`: what runs it."""
    command = Running(data_dir, *argv, by=by)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.communicate()


def address_of(process: subprocess.Popen[bytes]) -> str:
    """Where a command without `--json` says that it listens, whatever it has logged before."""
    assert process.stderr is not None
    for line in process.stderr:
        words = line.decode().split()
        if words[:2] == ["listening", "on"]:
            return words[2]
    raise AssertionError("it has ended")


@contextmanager
def serving(data_dir: Path, *argv: str, stop_by: int = signal.SIGINT) -> Iterator[dict[str, Any]]:
    """A command that runs until a signal ends it, well, at the end of the block; its first
    event.
    """
    with running(data_dir, *argv) as command:
        yield command.next_event()
        assert command.stop(stop_by) == 0, command.log


@contextmanager
def published(
    path: Path, data_dir: Path, *options: str, listen: str = LISTEN
) -> Iterator[Published]:
    """Run `lattica publish --json` until the end of the block."""
    process = subprocess.Popen(
        [*LATTICA, "publish", str(path), "--listen", listen, "--json", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(data_dir),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"publish ended with {process.wait(TIMEOUT)}"
        yield Published(process, json.loads(line))
    finally:
        process.terminate()
        try:
            process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()


def start_fetch(ticket: str, out: Path, *options: str) -> subprocess.Popen[str]:
    """Start `lattica fetch --json` as a process."""
    return subprocess.Popen(
        [*LATTICA, "fetch", ticket, "-o", str(out), "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(out.parent / "fetcher"),
    )


def fetch(ticket: str, out: Path, *options: str) -> dict[str, Any]:
    """Run `lattica fetch --json` to its good end; returns what it printed."""
    done = lattica(out.parent / "fetcher", "fetch", ticket, "-o", str(out), "--json", *options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def failed_fetch(ticket: str, out: Path, *options: str, status: int = 1) -> str:
    """Run `lattica fetch` to its bad end; returns what it wrote to standard error."""
    done = lattica(out.parent / "fetcher", "fetch", ticket, "-o", str(out), "--json", *options)
    assert done.exit_code == status, done.output
    assert not done.stdout
    return done.stderr


MIB = 1024 * 1024


def make_file(path: Path, megabytes: int) -> Path:
    """A file of chunks that all differ, made quickly."""
    block = bytearray(np.random.default_rng(1).bytes(MIB))
    with open(path, "wb") as file:
        for number in range(megabytes):
            block[:8] = number.to_bytes(8, "little")
            file.write(block)
    return path


def same(first: Path, second: Path) -> bool:
    return filecmp.cmp(first, second, shallow=False)


def journaled(out: Path) -> int:
    """Chunks that an unfinished fetch has noted as written."""
    return sum(p.stat().st_size // 4 for p in out.glob(".lattica-*/journal"))


def journaled_bytes(out: Path, source: Path) -> int:
    """Bytes of these chunks of a single file that is cut by its content."""
    with source.open("rb") as file:
        ends = [cut.end for cut in cut_content(file.fileno(), 0, source.stat().st_size)]
    sizes = [end - start for start, end in pairwise([0, *ends])]
    (journal,) = out.glob(".lattica-*/journal")
    data = journal.read_bytes()
    return sum(sizes[number] for number in {*struct.unpack(f">{len(data) // 4}I", data)})


def wait_for_chunks(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a running fetch has written this many chunks."""
    deadline = time.monotonic() + TIMEOUT
    while journaled(out) < count:
        assert process.poll() is None, "the fetch has ended too soon"
        assert time.monotonic() < deadline, "the fetch does not get on"
        time.sleep(0.005)
