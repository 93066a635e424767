"""Options that several commands share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lattica.nat.base.errors import ConfigError


def named_path(text: str) -> Path:
    """A path that was named: an empty text, as of an unset variable, is not taken as `.`."""
    if not text:
        raise typer.BadParameter("it is empty; name a file or directory; '.' is this one")
    return Path(text)


def json_or_text(text: str) -> Any:
    """A value: JSON, and what is none is a text, such as NaN. Raises ConfigError."""
    try:
        return json.loads(text, parse_constant=_no_json)
    except ValueError:
        return text
    except RecursionError:
        raise ConfigError("a value that is nested too deeply") from None


def _no_json(constant: str) -> NoReturn:
    raise ValueError(constant)


_IN_MEGABYTES = {"k": 1e-3, "": 1.0, "M": 1.0, "G": 1e3}


def parse_megabytes(text: str) -> float:
    """Megabytes, from text like 20, 1.5, 500k, 20M or 1G."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(?:([kMG])B?)?", text.strip())
    if match is None or not float(match[1]):
        raise typer.BadParameter("a number of megabytes like 20 or 1.5, or 500k, 20M, 1.5G")
    return float(match[1]) * _IN_MEGABYTES[match[2] or ""]


def bytes_a_second(megabytes: float | None) -> float:
    """What a :data:`MaxRateOption` says; infinite where it is not given."""
    return float("inf") if megabytes is None else megabytes * 1e6


ListenOption = Annotated[
    list[str] | None,
    typer.Option("--listen", metavar="ADDR", help="Multiaddr to listen on; may be repeated."),
]
EphemeralOption = Annotated[
    bool, typer.Option("--ephemeral", help="Use a new key for this run only.")
]
RelayOption = Annotated[
    list[str] | None,
    typer.Option(
        "--relay",
        metavar="ADDR",
        help="Relay by which peers reach this one behind a NAT, with /p2p/ID; may be repeated.",
    ),
]
MaxRateOption = Annotated[
    float | None,
    typer.Option(
        "--max-rate",
        metavar="MB",
        parser=parse_megabytes,
        help="At most so many megabytes a second; as 20, 500k or 1.5G.",
    ),
]
OwnKeyOption = Annotated[
    bool,
    typer.Option(
        "--own-key",
        help="Use this peer's own key, as relays with an allow-list need; not while it runs.",
    ),
]
EventsOption = Annotated[
    bool, typer.Option("--json", help="Print events as JSON objects, one a line.")
]
ConnectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--connect",
        metavar="ADDR",
        help="Peer to stay connected to, best with /p2p/ID; may be repeated.",
    ),
]
