"""What publishing and fetching tell whoever watches: :class:`Progress`, given to a callback.

Callbacks run in the trio thread between two steps of the work (those of the facades in the
caller's thread or loop); they must be quick. What they raise ends the work. Progress comes at most
about ten times a second, and once at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeAlias

from lattica.content.manifest.cid import Cid

_PROGRESS_INTERVAL = 0.1
_RATE_WINDOW = 3.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work is. Whatever `progress=` is called with is one of these, and its kind says
    what else there is to know."""

    bytes_done: int = field(default=0, kw_only=True)
    bytes_total: int = field(default=0, kw_only=True)
    """0 as long as it is not known."""
    phase: ClassVar[str] = ""
    """"hashing", "starting", "checking", "fetching", "waiting" or "sharing"."""

    @property
    def fraction(self) -> float:
        """From 0 to 1, of this phase."""
        return self.bytes_done / self.bytes_total if self.bytes_total else 0.0


@dataclass(frozen=True, slots=True)
class HashProgress(Progress):
    """Publishing: bytes of the files that have been hashed."""

    bytes_done: int
    bytes_total: int
    phase: ClassVar[str] = "hashing"


@dataclass(frozen=True, slots=True)
class FetchStarted(Progress):
    """The manifest has arrived and matches its content id."""

    cid: Cid
    name: str
    files: int
    directories: int = 0
    """That they are in, below the one that is fetched to."""
    phase: ClassVar[str] = "starting"


@dataclass(frozen=True, slots=True)
class Checking(Progress):
    """Bytes of files and parts that lie on disk already which have been hashed again."""

    bytes_done: int
    bytes_total: int
    phase: ClassVar[str] = "checking"


@dataclass(frozen=True, slots=True)
class FetchProgress(Progress):
    """Bytes that are verified and written."""

    bytes_done: int
    bytes_total: int
    bytes_fetched: int
    """Of `bytes_done`, what came over the network in this run; the rest was there already."""
    rate: float
    """Fetched bytes per second, over the last seconds."""
    sources: int = 0
    """Peers that are sending something now."""
    phase: ClassVar[str] = "fetching"

    @property
    def eta(self) -> float | None:
        """Seconds until all is there at this rate; None while nothing comes."""
        return (self.bytes_total - self.bytes_done) / self.rate if self.rate else None


@dataclass(frozen=True, slots=True)
class FileDone(Progress):
    """A file is complete, synced to disk, and has its final name."""

    path: Path
    size: int
    reused: bool
    """It was there already and has been verified."""
    phase: ClassVar[str] = "fetching"


@dataclass(frozen=True, slots=True)
class Retrying(Progress):
    """The connection was lost; the fetch goes on by itself after `delay` seconds."""

    error: str
    delay: float
    phase: ClassVar[str] = "waiting"


@dataclass(frozen=True, slots=True)
class Sharing(Progress):
    """All is there, and is served to others for so many seconds more."""

    bytes_done: int
    bytes_total: int
    seconds: float
    phase: ClassVar[str] = "sharing"


FetchEvent: TypeAlias = FetchStarted | Checking | FetchProgress | FileDone | Retrying | Sharing
FetchCallback: TypeAlias = Callable[[FetchEvent], object]
HashCallback: TypeAlias = Callable[[HashProgress], object]


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
