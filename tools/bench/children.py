"""Child processes of a benchmark, and the JSON lines they speak (see `bench_child`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

import trio

Event = dict[str, object]
STOP_GRACE = 2.0
"""Seconds a child has to leave by itself once its stdin has ended."""
MAX_LINE = 1 << 20


class BenchError(Exception):
    """A child failed, or kept silent for too long; the message has its last words."""


class UnsupportedError(Exception):
    """The implementation says that it cannot do this work, and why."""


def _environment() -> dict[str, str]:
    """Ours, less what would change which code the child runs or how."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "LATTICA_")) and name != "VIRTUAL_ENV"
    }


def parse_event(line: bytes) -> Event | None:
    """An event, or None for a line that is not one (a library's own output)."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    if isinstance(message, dict) and isinstance(message.get("event"), str):
        return message
    return None


class Child:
    """A running child. Made by :func:`start`, which also ends it."""

    def __init__(self, what: str, process: trio.Process, errors: IO[bytes]) -> None:
        self._what = what
        self._process = process
        self._errors = errors
        self._buffer = bytearray()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _line(self) -> bytes | None:
        assert self._process.stdout is not None
        while (end := self._buffer.find(b"\n")) < 0:
            data = await self._process.stdout.receive_some(1 << 16)
            if not data or len(self._buffer) > MAX_LINE:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def event(self, *names: str) -> Event:
        """The next event, which must be one of `names`.

        Raises :class:`UnsupportedError` or :class:`BenchError` if the child says so, or ends.
        """
        while (line := await self._line()) is not None:
            message = parse_event(line)
            if message is None:
                continue
            if message["event"] in names:
                return message
            text = str(message.get("message", message))
            if message["event"] == "unsupported":
                raise UnsupportedError(text)
            raise BenchError(f"{self._what}: {text}{self.last_words()}")
        raise BenchError(f"{self._what} ended without a result{self.last_words()}")

    def last_words(self) -> str:
        """The end of what it wrote to stderr, indented, each line on one of its own."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 4096))
        lines = self._errors.read().decode(errors="replace").splitlines()
        return "".join(f"\n    {line}" for line in lines[-12:] if line.strip())

    async def send(self, message: Event) -> None:
        """One line to its stdin. Raises :class:`BenchError` if it has gone."""
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(json.dumps(message).encode() + b"\n")
        except trio.BrokenResourceError:
            raise BenchError(f"{self._what} ended early{self.last_words()}") from None

    async def stop(self) -> None:
        """End its stdin, which makes it leave; kill it if it does not. Shielded, bounded.

        Either way with all that it has started and that is still there.
        """
        assert self._process.stdin is not None
        with trio.CancelScope(shield=True):
            await self._process.stdin.aclose()
            with trio.move_on_after(STOP_GRACE):
                await self._process.wait()
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()


@asynccontextmanager
async def start(what: str, command: Sequence[str], folder: Path) -> AsyncIterator[Child]:
    """Run `command` in `folder`; on leaving, its stdin ends, and what does not stop is killed.

    `what` names it in messages.
    """
    # A file and not a pipe: nobody has to read along while it runs.
    with tempfile.TemporaryFile(dir=folder) as errors:
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=_environment(),
            start_new_session=True,  # what it starts is ended with it
        )
        child = Child(what, process, errors)
        try:
            yield child
        finally:
            await child.stop()
