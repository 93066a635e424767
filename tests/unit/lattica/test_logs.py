"""Log lines: both forms show the extra fields, and a peer cannot forge a line."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest

from lattica.logs import setup_logging

log = logging.getLogger("lattica.test")


def test_text_form() -> None:
    out = io.StringIO()
    setup_logging("info", to=out)
    log.info("peer %s", "connected", extra={"peer": "12D3", "why": 'a "b" c', "n": 3})
    time, rest = out.getvalue().split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'INFO lattica.test: peer connected peer=12D3 why="a \\"b\\" c" n=3\n'


def test_a_peer_cannot_forge_a_line_or_drive_the_terminal() -> None:
    out = io.StringIO()
    setup_logging("info", to=out)
    log.info("agent %s", "x\n2026 INFO forged\x1b[2J", extra={"agent": "a\nb\x1b\x7f\u202e"})
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().rstrip("\n").isprintable()


def test_json_form() -> None:
    out = io.StringIO()
    setup_logging("debug", as_json=True, to=out)
    log.debug("hello", extra={"peer": object})
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("failed")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first["message"] == "hello"
    assert first["level"] == "debug"
    assert "object" in first["peer"]
    assert "ValueError: bad" in second["traceback"]


def test_levels_are_ours_alone() -> None:
    out = io.StringIO()
    setup_logging("debug", to=out)
    logging.getLogger("websockets").info("chatter")
    logging.getLogger("websockets").warning("heard")
    log.debug("ours")
    assert "chatter" not in out.getvalue()
    assert "heard" in out.getvalue()
    assert "ours" in out.getvalue()


@pytest.mark.parametrize("first", ["import libp2p", "setup_logging(level)"])
@pytest.mark.parametrize("level", ["info", "debug"])
def test_libp2p_is_heard_at_debug_only(first: str, level: str) -> None:
    code = f"""
from lattica.logs import setup_logging
import logging
level = {level!r}
{first}
import libp2p
setup_logging(level) if {first!r} == "import libp2p" else None
logging.getLogger("libp2p.host").error("one\\ntwo")
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    if level == "info":
        assert result.stderr == ""
    else:
        assert result.stderr.endswith(" ERROR libp2p.host: one\\ntwo\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_whatever_is_logged_is_printable(as_json: bool) -> None:
    hostile = "\x1b]0;x\x07\x9b2J\x7f\x00\u202e\u2028\r\n2026 ERROR forged"
    out = io.StringIO()
    setup_logging("info", as_json=as_json, to=out)
    log.info("%s", hostile, extra={"peer": hostile, "n": [hostile], "o": {hostile: b"\x7f\x1b"}})
    log.warning(hostile)
    try:
        raise ExceptionGroup(hostile, [OSError(hostile)]) from ValueError(hostile)
    except ExceptionGroup:
        log.exception("failed: %s", hostile)
    logging.getLogger("some.library").error(hostile)
    shown = out.getvalue()
    assert shown.replace("\n", "").isprintable()
    assert not any(line.startswith("2026 ERROR") for line in shown.split("\n"))
    if as_json:
        for line in shown.splitlines():
            assert json.loads(line)["message"].endswith(hostile)


def test_log_lines_of_a_stalled_standard_error_are_dropped_and_counted() -> None:
    code = """
import fcntl, logging, sys
from lattica.logs import setup_logging
fcntl.fcntl(2, fcntl.F_SETPIPE_SZ, 4096)
setup_logging()
for number in range(3000):
    logging.getLogger("lattica.test").info("line %d", number)
print("done", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"  # though nobody has read anything
        _, logged = process.communicate()
    number = 0
    for line in logged.splitlines():
        if "were dropped here" in line:
            assert " WARNING lattica.logs: " in line
            number += int(line.split(": ")[1].split()[0])
        else:
            assert line.endswith(f"lattica.test: line {number}")
            number += 1
    assert number == 3000
    assert "were dropped here" in logged
