"""What the commands of a relay's operator share: its file and key, and quantities as people write
them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import start

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.daemon.access.database import Database

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

EachJsonOption = Annotated[
    bool, typer.Option("--json", help="Print a JSON object for each, one a line.")
]


@contextmanager
def opened(ctx: typer.Context) -> Iterator[tuple[NodeConfig, Database]]:
    """The configuration of the relay, and its file; the relay may run meanwhile.

    Raises:
        DatabaseError: the file cannot be opened.
    """
    config = start(ctx, quiet=True)
    from lattica.daemon.access.database import Database

    database = Database(config.relay.database_in(config.data_dir))
    try:
        yield config, database
    finally:
        database.close()


def parse_seconds(text: str) -> int:
    """Seconds, from text like 90s, 12h, 30d, 2w."""
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    if match is None or not int(match[1]):
        raise typer.BadParameter("a time like 90s, 45m, 12h, 30d or 2w")
    return int(match[1]) * _SECONDS[match[2]]


def parse_bytes(text: str) -> int:
    """Bytes, from text like 500k, 20M, 1.5G, 2T."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)([kMGT]?)B?", text.strip())
    if match is None or not float(match[1]):
        raise typer.BadParameter("a number of bytes like 500k, 20M, 1.5G or 2T")
    return int(float(match[1]) * _BYTES[match[2]])


def bytes_text(number: int) -> str:
    """As :func:`parse_bytes` takes it, rounded."""
    size = float(number)
    for unit in _BYTES:
        if size < 1000 or unit == "T":
            return f"{size:.4g}{unit}"
        size /= 1000
    raise AssertionError


def time_text(unix_time: int) -> str:
    """UTC, to the minute."""
    return datetime.fromtimestamp(unix_time, UTC).strftime("%Y-%m-%d %H:%M")


def limits_text(rate: int, month: int, circuits: int) -> str:
    """The limits that there are, in words."""
    parts = [
        f"{bytes_text(rate)}/s" if rate else "",
        f"{bytes_text(month)} a month" if month else "",
        f"{circuits} circuits" if circuits else "",
    ]
    return ", ".join(filter(None, parts)) or "no limits"
