"""Nothing that a stranger wrote drives the terminal, whichever way it takes out of a command."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lattica.cli
from lattica.cli import app, doctor
from lattica.cli.content import progress
from lattica.cli.content.progress import FetchDisplay, HashDisplay
from lattica.cli.shared.common import reported_errors
from lattica.cli.shared.event_json import event_object
from lattica.cli.shared.path_watch import PathStep
from lattica.cli.shared.terminal import (
    console,
    guarded_output,
    say,
    say_json,
    saying_without_waiting,
)
from lattica.content.events import Checking, FetchProgress, FetchStarted, HashProgress, Retrying
from lattica.content.manifest.cid import Cid
from lattica.doctor.findings import Finding, State
from lattica.errors import RemoteProtocolError
from lattica.nat.swarm.events import NetworkChanged

CID = Cid(bytes(32))
HOSTILE = (
    "[red]x[/red] :bomb: \x1b]0;owned\x07\x1b[2J\x9b31m\x90\x7f\x00\b\r\u202e\u2066\u200f\u2028"
    "\nlattica: error: forged"
)
NOT_PRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""And what rich moves its bars by."""
BARS = re.compile(r"\x1b\[(\?25[lh]|[0-9]*[AK]|2K)|\r")


def assert_harmless(shown: str) -> None:
    rest = BARS.sub("", COLOURS.sub("", shown))
    assert not NOT_PRINTABLE.findall(rest)
    assert not any(line.startswith("lattica: error: forged") for line in rest.splitlines())
    assert r"\x1b]0;owned\x07\x1b[2J\x9b31m" in rest
    assert "\x1b]" not in shown


class Terminal(io.StringIO):
    is_terminal = True

    def isatty(self) -> bool:
        return self.is_terminal

    @contextmanager
    def shown(self) -> Iterator[None]:
        with redirect_stdout(self), redirect_stderr(self):
            yield


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What takes the place of standard output and error between `with` and its end, 2,000 wide."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "2000")
    return Terminal()


def test_say(terminal: Terminal) -> None:
    with terminal.shown():
        say(HOSTILE)
        say(HOSTILE, err=True)
    assert terminal.getvalue().count("\n") == 2
    assert_harmless(terminal.getvalue())


def test_what_others_print_is_guarded(terminal: Terminal) -> None:
    with terminal.shown(), guarded_output():
        print(HOSTILE)
        sys.stderr.writelines([HOSTILE])
        console().print(HOSTILE)
    assert COLOURS.search(terminal.getvalue()) is None
    assert not NOT_PRINTABLE.findall(terminal.getvalue())


def test_json(terminal: Terminal) -> None:
    with terminal.shown():
        say_json({HOSTILE: [HOSTILE]}, indent=2)
    assert not NOT_PRINTABLE.findall(terminal.getvalue())
    assert json.loads(terminal.getvalue()) == {HOSTILE: [HOSTILE]}
    assert event_object(NetworkChanged(HOSTILE))["reason"] == HOSTILE


def test_errors(terminal: Terminal) -> None:
    class Raw(RemoteProtocolError):
        def __str__(self) -> str:
            return HOSTILE

    with terminal.shown(), pytest.raises(SystemExit), reported_errors():
        raise Raw
    assert terminal.getvalue().count("\n") == 1
    assert_harmless(terminal.getvalue())


def test_what_rich_shows_has_its_colours_and_nobody_elses(terminal: Terminal) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, "bold"))
    with terminal.shown():
        console().print(table)
    assert "\x1b[1m" in terminal.getvalue()
    assert "[red]x[/red] :bomb:" in terminal.getvalue()
    assert_harmless(terminal.getvalue())


@pytest.mark.parametrize("is_terminal", [True, False])
def test_displays(terminal, monkeypatch, is_terminal):
    monkeypatch.setattr(progress, "_LINE_INTERVAL", 0.0)
    terminal.is_terminal = is_terminal
    with terminal.shown(), FetchDisplay() as display:
        display(FetchStarted(CID, HOSTILE, files=1, bytes_total=10))
        display(Checking(1, 10))
        display.on_path(PathStep(HOSTILE, 1.0))
        display(Retrying(HOSTILE, 1.0))
        display(FetchProgress(1, 10, 1, 1.0))
    with terminal.shown(), HashDisplay() as display:
        display(HashProgress(1, 2))
    shown = terminal.getvalue()
    assert "[red]x[/red] :bomb:" in shown
    assert_harmless(shown)
    assert ("\x1b[?25l" in shown) is is_terminal


def test_doctor(terminal: Terminal) -> None:
    findings = [Finding(HOSTILE, state, HOSTILE, HOSTILE) for state in State]
    with terminal.shown():
        doctor._print_tables(findings, [])
        doctor._print_progress(HOSTILE)
    assert_harmless(terminal.getvalue())


@pytest.mark.parametrize(
    "arguments",
    [
        ["fetch", HOSTILE],
        [f"--{HOSTILE}"],
        [HOSTILE],
        ["fetch", "x", HOSTILE],
        ["doctor", "--wait", HOSTILE],
        ["--config", "/" + HOSTILE.replace("\0", ""), "id"],
        ["node", "--listen", HOSTILE],
        ["node", "--connect", HOSTILE],
        ["relay", "--allow", HOSTILE],
        ["doctor", "--relay", HOSTILE],
        ["publish", "/" + HOSTILE.replace("\0", "")],
        ["--log-level", HOSTILE, "id"],
    ],
)
def test_pasted_arguments(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--data-dir", str(tmp_path), *arguments])
    assert result.exit_code in (1, 2)
    assert not NOT_PRINTABLE.findall(result.output)


def test_the_traceback_of_a_bug(tmp_path: Path) -> None:
    code = f"""
import lattica.cli.node
from lattica.cli import main
def broken(*_):
    try:
        raise OSError(HOSTILE)
    except OSError as cause:
        raise ExceptionGroup(HOSTILE, [ValueError(HOSTILE)]) from cause
HOSTILE = {HOSTILE!r}
lattica.cli.node.start = broken
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "id"], capture_output=True, check=False, timeout=60
    )
    shown = done.stderr.decode()
    assert done.returncode == 1
    assert "ValueError: [red]x" in shown
    assert_harmless(shown)
    first, *others = shown.rstrip("\n").split("\n")
    assert first.endswith("Traceback (most recent call last):")
    assert all(line.startswith("  ") for line in others)


def test_no_command_writes_past_it() -> None:
    """A person who adds a command is told here to take `lattica.cli.shared.terminal`."""
    folder = Path(lattica.cli.__file__).parent
    for path in folder.glob("*.py"):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("print", "typer.echo", "typer.secho", "Console"), path
                assert not name.endswith(("stdout.write", "stderr.write")), path


def test_lines_that_peers_cause_wait_for_no_reader(monkeypatch):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stderr, os.fdopen(reading, "rb") as reader:
        monkeypatch.setattr(sys, "stderr", stderr)
        with saying_without_waiting() as say_line:
            for number in range(10_000):  # more than a pipe holds
                say_line(f"line {number} \x1b[2J")
            read = []
            thread = threading.Thread(target=lambda: read.append(reader.read()))
            thread.start()
        stderr.close()
        thread.join()
    assert read[0].startswith(b"line 0 \\x1b[2J\n")
    assert b" lines were left out here\n" in read[0]


def test_nobody_is_told_that_standard_error_is_gone(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with saying_without_waiting() as say_line:
            say_line("a")
            say_line("b")
