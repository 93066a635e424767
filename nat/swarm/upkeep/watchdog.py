"""Says when this process was kept from running, for how long and by what.

A call into C that holds Python's interpreter lock (a large `json.dumps`, an unpickling) stops every
thread of the process; blocking code in trio's thread stops what runs under trio. Either way no
peer gets an answer, and nothing else would tell. One daemon thread a process notices: it wakes
late itself, or a trio loop does not run what it is given. :class:`Vigil` decides, without threads
and clocks.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import trio

logger = logging.getLogger(__name__)

STALL = 3.0
"""Seconds from which on a person is told."""
PERIOD = 0.5
"""Seconds between two looks."""
REST = 60.0
"""Seconds in which at most one stall is told of."""
_IDLE_PROCESSOR = 0.2
"""A process that had a smaller share of a processor was not busy itself."""
_MAX_FRAMES = 6
_MAX_THREADS = 8
_WAITING = (
    "/threading.py",
    "/queue.py",
    "/selectors.py",
    "/_io_epoll.py",
    "/_thread_cache.py",
    "/server/workers.py",
    "/api/call_threads.py",
)
"""Files in whose functions threads wait: what pools are given they run in others."""


@dataclass(frozen=True, slots=True)
class Stall:
    """What is to be told."""

    seconds: float
    busy: bool
    """Something in this process was at work; otherwise it was stopped, or had no processor."""
    untold: int
    """Others since the last one that was told of."""


class Vigil:
    """Looks at the clock every :data:`PERIOD`, and finds that it was kept from that.

    `now` is monotonic time, `processor` the process's time on a processor; seconds.
    """

    def __init__(self, now: float, processor: float) -> None:
        self._now = now
        self._processor = processor
        self._told_at: float | None = None
        self._untold = 0

    def look(self, now: float, processor: float) -> Stall | None:
        """Called as often as possible up to once in a period; what is to be told, if anything."""
        late = now - self._now - PERIOD
        worked = processor - self._processor
        self._now, self._processor = now, processor
        if late < STALL:
            return None
        # It began somewhere in the period.
        return self.tell(now, late + PERIOD / 2, busy=worked >= _IDLE_PROCESSOR * late)

    def tell(self, now: float, seconds: float, *, busy: bool = True) -> Stall | None:
        """A stall was found; None if enough has been told lately."""
        if self._told_at is not None and now - self._told_at < REST:
            self._untold += 1
            return None
        untold, self._untold = self._untold, 0
        self._told_at = now
        return Stall(seconds, busy, untold)


def where(frame: FrameType | None) -> str:
    """A stack in one line, the innermost call first."""
    calls: list[str] = []
    while frame is not None and len(calls) < _MAX_FRAMES:
        code = frame.f_code
        folder, name = os.path.split(code.co_filename)
        place = os.path.join(os.path.basename(folder), name)
        calls.append(f"{code.co_name} ({place}:{frame.f_lineno})")
        frame = frame.f_back
    return " < ".join(calls)


def stacks(frames: Mapping[int, FrameType], names: Mapping[int, str]) -> str:
    """The stacks of the threads that do not wait, in one line; as many as help."""
    shown = [
        f"{names.get(ident, ident)}: {where(frame)}"
        for ident, frame in frames.items()
        if not frame.f_code.co_filename.endswith(_WAITING)
    ]
    return "; ".join(shown[:_MAX_THREADS]) or "all threads wait again"


class _Loop:
    """A trio loop that is to run what it is given within a period."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self.users = 0
        self.thread = threading.get_ident()
        self._token = token
        self._asked_at: float | None = None
        self._answered_at: float | None = None
        self._stack = ""
        self._told = False

    def excuse(self) -> None:
        """Nothing could run, so it could not either."""
        if self._asked_at is not None:
            self._asked_at = time.monotonic()

    def look(self, vigil: Vigil) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._ask(now)
            return
        answered = self._answered_at
        seconds = (now if answered is None else answered) - self._asked_at
        if answered is None and seconds >= PERIOD:
            self._stack = where(sys._current_frames().get(self.thread)) or self._stack
        if seconds >= STALL and (answered is not None or not self._told):
            self._tell(vigil, now, seconds, over=answered is not None)
        if answered is not None:
            self._told = False
            self._ask(now)

    def _ask(self, now: float) -> None:
        self._asked_at, self._answered_at, self._stack = now, None, ""
        try:
            self._token.run_sync_soon(self._answer)
        except trio.RunFinishedError:
            self._asked_at = None

    def _answer(self) -> None:
        self._answered_at = time.monotonic()

    def _tell(self, vigil: Vigil, now: float, seconds: float, *, over: bool) -> None:
        if self._told:
            untold = 0  # its beginning was told: so is its end
        elif stall := vigil.tell(now, seconds):
            untold = stall.untold
        else:
            return
        self._told = True
        logger.warning(
            "trio %s kept from running for %.1f s%s: something blocks its thread, and no peer gets "
            "an answer; run it in another thread (docs/guides/trainer.md) untold=%d at=%s",
            "was" if over else "is",
            seconds,
            "" if over else " so far",
            untold,
            self._stack or "unknown",
        )


class _Watchdog:
    """The thread, and the loops that it watches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: dict[trio.lowlevel.TrioToken, _Loop] = {}
        self._stop: threading.Event | None = None

    def add(self, token: trio.lowlevel.TrioToken) -> None:
        with self._lock:
            self._loops.setdefault(token, _Loop(token)).users += 1
            if self._stop is None:
                self._stop = threading.Event()
                threading.Thread(
                    target=self._run, args=(self._stop,), name="lattica watchdog", daemon=True
                ).start()

    def remove(self, token: trio.lowlevel.TrioToken) -> None:
        with self._lock:
            loop = self._loops[token]
            loop.users -= 1
            if not loop.users:
                del self._loops[token]
            if not self._loops and self._stop is not None:
                self._stop.set()
                self._stop = None

    def _run(self, stop: threading.Event) -> None:
        vigil = Vigil(time.monotonic(), time.process_time())
        while not stop.wait(PERIOD):
            stall = vigil.look(time.monotonic(), time.process_time())
            with self._lock:
                loops = list(self._loops.values())
            if stall is not None:
                self._tell(stall)
            for loop in loops:
                if stall is not None:
                    loop.excuse()
                loop.look(vigil)

    def _tell(self, stall: Stall) -> None:
        names = {thread.ident: thread.name for thread in threading.enumerate() if thread.ident}
        frames = sys._current_frames()
        frames.pop(threading.get_ident(), None)
        logger.warning(
            "this process was kept from running for %.1f s: %s, and no peer got an answer "
            "(docs/guides/trainer.md) untold=%d threads=%s",
            stall.seconds,
            "something held Python's interpreter lock"
            if stall.busy
            else "it was stopped or had no processor, or something that holds Python's lock waited",
            stall.untold,
            stacks(frames, names),
        )


_watchdog = _Watchdog()


def _forget() -> None:
    """A forked child has neither the thread nor the loops."""
    global _watchdog
    _watchdog = _Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def watching(token: trio.lowlevel.TrioToken) -> Iterator[None]:
    """Watch this process, and a trio loop, in whose thread this is called."""
    watchdog = _watchdog
    watchdog.add(token)
    try:
        yield
    finally:
        watchdog.remove(token)
