"""Which labs run on this machine, and removing what a dead one left.

A lab has a folder, `lattica-netlab-ID-…` in the system's temporary directory, with a file
`lab.json` that says whose it is. Namespaces, devices, rules and programs go with the lab (see
`guardian`), and its guardian removes the folder. If that was killed as well, a folder is left.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

PREFIX = "lattica-netlab-"
FILE = "lab.json"
GRACE = 3.0
"""Seconds that a lab's processes have to end by themselves."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told from a later one with the same number by when it started."""

    pid: int
    started: int
    """In clock ticks since the machine's start; -1 if it had ended already."""

    @property
    def is_alive(self) -> bool:
        return self.started >= 0 and _start_time(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class LabRecord:
    """What `lab.json` says."""

    lab: str
    scenario: str
    folder: Path
    owner: ProcessId
    guardian: ProcessId
    namespaces: dict[str, str] = field(default_factory=dict)
    """Node -> path of its network namespace, while the lab runs."""

    @property
    def is_alive(self) -> bool:
        return self.owner.is_alive


def new_name() -> str:
    """A name that no other lab has."""
    return f"ll{secrets.token_hex(3)}"


def new_folder(lab: str) -> Path:
    """The folder of a new lab."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{lab}-"))


def identify(pid: int) -> ProcessId:
    """The process that has this number now."""
    return ProcessId(pid, _start_time(pid))


def write(record: LabRecord) -> None:
    """Say whose the lab is. Whole or not at all."""
    table = asdict(record) | {"folder": str(record.folder)}
    draft = record.folder / f"{FILE}.new"
    draft.write_text(json.dumps(table))
    draft.rename(record.folder / FILE)


def labs() -> Iterator[LabRecord]:
    """All labs of this user that have a folder, also dead ones."""
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        try:
            # Anybody can make a folder there, and a file that names our processes for its own.
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            table = json.loads((folder / FILE).read_text())
            yield LabRecord(
                lab=str(table["lab"]),
                scenario=str(table["scenario"]),
                folder=folder,
                owner=ProcessId(int(table["owner"]["pid"]), int(table["owner"]["started"])),
                guardian=ProcessId(
                    int(table["guardian"]["pid"]), int(table["guardian"]["started"])
                ),
                namespaces={str(k): str(v) for k, v in table["namespaces"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError):
            # A lab that is being made or removed this moment.
            continue


def find(name: str) -> LabRecord | None:
    """The running lab with this name, or the only one if the name is empty."""
    running = [record for record in labs() if record.is_alive]
    if not name and len(running) == 1:
        return running[0]
    return next((record for record in running if record.lab == name), None)


def clean(*, running: bool = False, only: str | None = None) -> list[LabRecord]:
    """Remove all dead labs, or `only` one; with `running` also those that run. What was removed."""
    removed = []
    for record in list(labs()):
        if only not in (None, record.lab) or (record.is_alive and not running):
            continue
        # First the guardian, with which all else goes; the lab then finds itself without one.
        for process, number in (
            (record.guardian, signal.SIGTERM),
            (record.owner, signal.SIGTERM),
            (record.owner, signal.SIGKILL),
            (record.guardian, signal.SIGKILL),
        ):
            _end(process, number)
        shutil.rmtree(record.folder, ignore_errors=True)
        removed.append(record)
    return removed


def _end(process: ProcessId, number: signal.Signals) -> None:
    """Signal a process, if it is still that one, and wait a little for its end."""
    if not process.is_alive:
        return
    with suppress(ProcessLookupError, PermissionError):
        handle = os.pidfd_open(process.pid)
        try:
            if process.is_alive:
                signal.pidfd_send_signal(handle, number)
                select.select([handle], [], [], GRACE)
        finally:
            os.close(handle)


def _start_time(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    # The name, in parentheses, may contain anything; after it the state is field 3.
    fields = stat.rpartition(")")[2].split()
    return -1 if fields[0] in ("Z", "X") else int(fields[19])
