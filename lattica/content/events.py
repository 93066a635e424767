"""What publishing and fetching tell whoever watches: plain values, given to a callback.

Callbacks run in the trio thread between two steps of the work; they must be quick and must not
raise. Progress comes at most about ten times a second, and once at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lattica.content.manifest.cid import Cid

_PROGRESS_INTERVAL = 0.1
_RATE_WINDOW = 3.0


@dataclass(frozen=True, slots=True)
class HashProgress:
    """Publishing: bytes of the files that have been hashed."""

    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class FetchStarted:
    """The manifest has arrived and matches its content id."""

    cid: Cid
    name: str
    files: int
    bytes_total: int
    """Bytes of the files that will lie on disk."""


@dataclass(frozen=True, slots=True)
class Checking:
    """Bytes of files and parts that lie on disk already which have been hashed again."""

    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """Bytes that are verified and written."""

    bytes_done: int
    bytes_total: int
    bytes_fetched: int
    """Of `bytes_done`, what came over the network in this run; the rest was there already."""
    rate: float
    """Fetched bytes per second, over the last seconds."""


@dataclass(frozen=True, slots=True)
class FileDone:
    """A file is complete, synced to disk, and has its final name."""

    path: Path
    size: int
    reused: bool
    """It was there already and has been verified."""


@dataclass(frozen=True, slots=True)
class Retrying:
    """The connection was lost; the fetch goes on by itself after `delay` seconds."""

    error: str
    delay: float


FetchEvent: TypeAlias = FetchStarted | Checking | FetchProgress | FileDone | Retrying
FetchCallback: TypeAlias = Callable[[FetchEvent], None]
HashCallback: TypeAlias = Callable[[HashProgress], None]


class RateMeter:
    """Bytes per second over the last three seconds. The clock is a parameter (seconds)."""

    def __init__(self, now: float) -> None:
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def update(self, now: float, total: int) -> float:
        """Note that `total` bytes have come by `now`; return the rate."""
        samples = self._samples
        samples.append((now, total))
        while len(samples) > 2 and samples[1][0] <= now - _RATE_WINDOW:
            samples.popleft()
        then, before = samples[0]
        return (total - before) / (now - then) if now > then else 0.0


class Throttle:
    """Lets one event in a tenth of a second through. The clock is a parameter (seconds)."""

    def __init__(self) -> None:
        self._next = float("-inf")

    def ready(self, now: float) -> bool:
        """Whether an event may be given now; if so, the next one must wait."""
        if now < self._next:
            return False
        self._next = now + _PROGRESS_INTERVAL
        return True
