"""How `publish` and `fetch` show their progress: a bar on a terminal, else a line at times.

All of it goes to standard error.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from lattica.cli.shared.path_watch import PathStep
from lattica.cli.shared.terminal import console
from lattica.content.disk import format_bytes
from lattica.content.events import (
    Checking,
    FetchEvent,
    FetchProgress,
    FetchStarted,
    HashProgress,
    Retrying,
    Sharing,
)
from lattica.nat.base.printable import printable

_LINE_INTERVAL = 2.0


class _Display:
    """One bar, or lines, with what is being done and bytes done of a total."""

    def __init__(self) -> None:
        self._console = console(stderr=True, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._next_line = time.monotonic() + _LINE_INTERVAL
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                # What others write has been guarded, and rich would take codes in it for its own.
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _say(self, text: str) -> None:
        self._console.print(printable(text))

    def _begin(self, what: str, total: int) -> None:
        """Start a new bar."""
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(printable(what), total=total)

    def _show(
        self, what: str, done: int, total: int, rate: float | None = None, detail: str = ""
    ) -> None:
        if self._bar is not None and self._task is not None:
            described = f"{what} {detail}" if detail else what
            self._bar.update(
                self._task, completed=done, total=total, description=printable(described)
            )
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_INTERVAL
            percent = 100 * done // total if total else 100
            speed = "" if rate is None else f", {rate / 1e6:.0f} MB/s"
            if detail:
                speed += f" {detail}"
            self._say(f"{what}: {format_bytes(done)} of {format_bytes(total)} ({percent}%){speed}")


class HashDisplay(_Display):
    """Shows the hashing of what is being published; is the callback."""

    def __call__(self, event: HashProgress) -> None:
        if self._task is None:
            self._begin("hashing", event.bytes_total)
        self._show("hashing", event.bytes_done, event.bytes_total)


class FetchDisplay(_Display):
    """Shows a fetch; is the callback."""

    def __init__(self) -> None:
        super().__init__()
        self._name = ""
        self._checking = False
        self._fetching = False

    def on_path(self, step: PathStep) -> None:
        """The provider is reached by another path."""
        self._say(f"path: {step.path}, after {step.after:.1f} s")

    def __call__(self, event: FetchEvent) -> None:
        match event:
            case FetchStarted():
                self._name = event.name
                self._checking = self._fetching = False
                files = "1 file" if event.files == 1 else f"{event.files} files"
                if event.directories:
                    folders = "directory" if event.directories == 1 else "directories"
                    files = f"{files} in {event.directories} {folders}"
                self._say(f"{event.name}: {files}, {format_bytes(event.bytes_total)}")
            case Checking():
                if not self._checking:
                    self._checking = True
                    self._begin("checking what is here", event.bytes_total)
                self._show("checking what is here", event.bytes_done, event.bytes_total)
            case FetchProgress():
                if not self._fetching:
                    self._fetching = True
                    self._begin(self._name, event.bytes_total)
                several = f"from {event.sources} peers" if event.sources > 1 else ""
                self._show(self._name, event.bytes_done, event.bytes_total, event.rate, several)
            case Sharing():
                self._say(f"all is there; serving it to others for {event.seconds:g} s")
            case Retrying():
                self._say(f"{event.error}; trying again in {event.delay:.1f} s")
            case _:
                pass  # single files are too many to show
