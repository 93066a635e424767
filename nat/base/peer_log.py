"""Log lines that others cause, at a rate that they cannot raise.

What a peer does over and over again would write a line each time, and fill the disk. So each
source (a peer, a network) may cause a few lines at once and then one now and then, and all of them
together not many more; what is left out is counted, and said in the source's next line.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from lattica.nat.base.limits.token_bucket import TokenBucket, take

BURST = 20
"""Lines that one source may cause at once."""
INTERVAL = 10.0
"""Seconds in which it may cause one more."""
TOTAL_BURST = 1000
TOTAL_RATE = 20.0
"""Lines a second of all sources together, as identities cost nothing."""
MAX_SOURCES = 4096
"""Of more, whoever has been silent longest is forgotten."""


class PeerLog:
    """Decides which lines are written. For any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._sources: OrderedDict[str, tuple[TokenBucket, int]] = OrderedDict()
        """By source: its bucket, and how many lines of it were left out."""
        self._total = TokenBucket(TOTAL_BURST, TOTAL_RATE)

    def forget(self) -> None:
        """Begin anew, as at the start."""
        with self._lock:
            self._sources.clear()
            self._total = TokenBucket(TOTAL_BURST, TOTAL_RATE)

    def admit(self, source: object) -> int | None:
        """How many lines of the source were left out since the last one, if one may be written
        now; else None.
        """
        key, fresh = str(source), (TokenBucket(BURST, 1 / INTERVAL), 0)
        with self._lock:
            bucket, left_out = self._sources.pop(key, fresh)
            admitted = take((bucket, self._total), 1.0, self._clock())
            self._sources[key] = bucket, 0 if admitted else left_out + 1
            while len(self._sources) > MAX_SOURCES:
                self._sources.popitem(last=False)
        return left_out if admitted else None

    def log(
        self,
        logger: logging.Logger,
        level: int,
        source: object,
        message: str,
        *args: object,
        exc_info: BaseException | None = None,
    ) -> None:
        """`logger.log(level, message, *args)`, if the source has not caused too many lines.

        Errors among `args` are written down as text at once: a log handler may keep what it is
        given, and with an error's frames all that its peer had.
        """
        if not logger.isEnabledFor(level):
            return
        left_out = self.admit(source)
        if left_out is None:
            return
        if left_out:
            message, args = f"{message} (%d more lines of it were left out)", (*args, left_out)
        texts = (str(each) if isinstance(each, BaseException) else each for each in args)
        logger.log(level, message, *texts, exc_info=exc_info, stacklevel=2)


peer_log = PeerLog()
"""That of this process: a log is one, however many nodes write to it."""
