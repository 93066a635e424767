"""What strangers wrote, on its way out: to a terminal, a log, or a program that reads JSON.

A peer's bytes must neither drive a terminal (escape sequences, C1 controls), nor show text other
than it is (bidirectional overrides, characters without width), nor forge lines. So whatever is not
printable, as :meth:`str.isprintable` has it (Unicode's categories "other" and "separator" but the
space), is shown by its code. This is done where text leaves the program, so that no source has to
remember it: in log lines (`lattica.logs`), by the commands (`lattica.cli.shared.terminal`), and in
the text of every error of ours. Pure, and imports nothing of ours.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime


def printable(text: str) -> str:
    r"""The text on one line: what is not printable by its code, such as `\x1b` or `\u202e`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    r"""The same, but the line feeds, which stay. For text whose lines are ours."""
    if text.isprintable():
        return text
    return "\n".join(map(printable, text.split("\n")))


def encodable(text: str) -> str:
    r"""The text as UTF-8 can have it: what it cannot, by its code, such as `\udce9`.

    Such lone surrogates are in the names of files that are not UTF-8 (PEP 383).
    """
    return text.encode("utf-8", "backslashreplace").decode()


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can have it."""
    return encodable(text) == text


def json_text(value: object, *, indent: int | None = None) -> str:
    """A JSON value in printable ASCII. What JSON does not have becomes its text."""
    try:
        text = json.dumps(value, indent=indent, default=str, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent, default=str)
    # json escapes all but this one.
    return text.replace("\x7f", "\\u007f")


def _finite(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {name: _finite(each) for name, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return value


def utc_text(unix_time: float, otherwise: str | None = None) -> str:
    """A time of somebody's clock, in UTC to the second; `otherwise`, or as a number, where there is
    no such date: whoever tells it says what he likes.
    """
    try:
        return f"{datetime.fromtimestamp(unix_time, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{round(unix_time)} s after 1970" if otherwise is None else otherwise


def rough_duration(seconds: float) -> str:
    """A difference of clocks, or an age, for a person, who wants one unit."""
    for least, unit, name, digits in (
        (172_800, 86_400, "days", 0),
        (3600, 3600, "h", 1),
        (60, 60, "min", 0),
    ):
        if seconds >= least:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds:.0f} s"
