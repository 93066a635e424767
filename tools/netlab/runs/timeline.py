"""The clock of a scenario's timeline, which waits for slow machines.

A timeline says "the relay dies at 12 s" and means: in a mesh that stands by then. Where programs
take longer to start than its author thought, the clock stands before the first fault until they
are up; and it stands while a fault is being made, so that the next one does not come too early.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from tools.netlab.spec.fault import Fault
from tools.netlab.spec.workload import CommandProgram, FetchProgram, Program


class Timeline:
    """Seconds on `clock`, less those in which this clock stood.

    stands_at: there it stands until :meth:`go_on` is called; infinity: nowhere.
    """

    def __init__(self, clock: Callable[[], float], stands_at: float = math.inf) -> None:
        self._clock = clock
        self._stands_at = stands_at
        self._behind = 0.0
        self._stood_since: float | None = None
        self._moving = trio.Event()
        self._going = trio.Event()
        if math.isinf(stands_at):
            self._going.set()

    def now(self) -> float:
        """Seconds on the timeline."""
        now = self._clock() if self._stood_since is None else self._stood_since
        now -= self._behind
        return now if self._going.is_set() else min(now, self._stands_at)

    def go_on(self) -> None:
        """Let it pass `stands_at`."""
        if not self._going.is_set():
            self._behind = max(0.0, self._clock() - self._stands_at)
            self._going.set()

    async def until(self, t: float) -> None:
        """Wait for a moment."""
        if t >= self._stands_at:
            await self._going.wait()
        # Again, if it stood meanwhile.
        while (left := t - self.now()) > 0:
            if self._stood_since is None:
                await trio.sleep(left)
            else:
                await self._moving.wait()

    @contextmanager
    def standing(self) -> Iterator[None]:
        """The clock stands while the block runs; of several at a time there must be none."""
        began = self._stood_since = self._clock()
        self._moving = trio.Event()
        try:
            yield
        finally:
            self._behind += self._clock() - began
            self._stood_since = None
            self._moving.set()


def first_fault(faults: Sequence[Fault]) -> float:
    """When it happens; infinity if there is none."""
    return min((fault.at_s for fault in faults), default=math.inf)


def due(programs: Sequence[Program], t: float) -> list[str]:
    """The programs that can be up at `t`: they start earlier, and do not wait for the end of
    another. `programs`: each after those it needs.
    """
    found: list[str] = []
    lasting: set[str] = set()
    for program in programs:
        if program.at_s < t and lasting.issuperset(program.needs):
            found.append(program.name)
            if not _ends(program):
                lasting.add(program.name)
    return found


def _ends(program: Program) -> bool:
    """Whether those that need it wait for its end."""
    if isinstance(program, CommandProgram):
        return program.exit_code is not None and program.ready is None
    return isinstance(program, FetchProgram)
