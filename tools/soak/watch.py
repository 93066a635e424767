"""What the programs of a soak hold, from outside and by their own word; and the judgement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from tools.netlab.lab.programs import Event
from tools.netlab.runs.chaos import usage
from tools.netlab.runs.runner import Run
from tools.soak.trend import Bound, Trend, trend

LOOK_EVERY = 1.0
MIB = 1 << 20
LONG = 300.0
"""Seconds from which on all is expected to be flat without the first third."""
BOUNDS = {
    "MiB": Bound(8.0, 0.06),
    "files": Bound(6.0, 0.1),
    "threads": Bound(4.0, 0.1),
    "tasks": Bound(16.0, 0.1),
    "objects": Bound(30.0, 0.1),
    "heap": Bound(4.0, 0.15),
}
"""How much more there may be at the end of the time that is judged. In MiB are resident memory and
the heap that is in use, in thousands the objects (:mod:`tools.soak.in_use`)."""
EARLY = {
    "MiB": Bound(64.0, 0.6),
    "files": Bound(64.0, 0.6),
    "threads": Bound(16.0, 0.6),
    "tasks": Bound(200.0, 0.6),
    "objects": Bound(100.0, 0.6),
    "heap": Bound(32.0, 0.6),
}
"""In a short run: connections are made, pools and caches fill."""
SAID = ("tasks", "objects", "heap")
"""Figures that members tell themselves."""
WORK = ("call", "fetch", "publish", "speak", "hear", "write", "provide")
"""What every member must have done."""
FAILED_SHARE = 0.5
"""Of a kind of work; guests, lines and a relay are gone for a part of the time."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one figure of a program."""

    program: str
    figure: str
    trend: Trend


@dataclass(slots=True)
class Watcher:
    """Samples of the programs `names`, and what the members have said of their work."""

    names: tuple[str, ...]
    samples: dict[tuple[str, str], list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    last: dict[str, Event] = field(default_factory=dict)

    def hear(self, program: str, event: Event) -> None:
        """An event of a program's."""
        if event.get("event") == "sample" and program in self.names:
            for figure in SAID:
                if figure in event:
                    self.samples[program, figure].append((float(event["t"]), float(event[figure])))
            self.last[program] = event

    async def look(self, run: Run) -> None:
        """Look at the processes until cancelled."""
        while True:
            for name in self.names:
                running = run.jobs[name].running
                # From when all of them run: before, the first are idle.
                if running is None or not all(job.up.is_set() for job in run.jobs.values()):
                    continue
                pid, now = running.process.pid, run.lab.now()
                memory, files = usage(pid)
                for figure, value in (
                    ("MiB", memory / MIB), ("files", files), ("threads", threads_of(pid)),
                ):  # fmt: skip
                    if memory:
                        self.samples[name, figure].append((now, value))
            await trio.sleep(LOOK_EVERY)

    def judge(self) -> list[Judgement]:
        """Of all figures for which there are enough samples."""
        found = []
        for (program, figure), samples in sorted(self.samples.items()):
            bounds = BOUNDS if samples[-1][0] - samples[0][0] >= LONG else EARLY
            judged = trend(samples, bounds[figure])
            if judged is not None:
                found.append(Judgement(program, figure, judged))
        return found

    def grown(self) -> list[str]:
        """Figures that are not flat, and programs that cannot be judged."""
        judged = self.judge()
        found = [
            f"{each.program}: {each.figure} grew from {each.trend.start:.1f} to"
            f" {each.trend.end:.1f} in {each.trend.seconds:.0f} s,"
            f" more than {each.trend.bound:.1f}"
            for each in judged
            if not each.trend.is_flat
        ]
        known = {each.program for each in judged}
        return found + [
            f"{name}: too few samples to judge" for name in self.names if name not in known
        ]

    def undone(self, members: Iterable[str]) -> list[str]:
        """Kinds of work that a member has not done once, or that failed too often."""
        found = []
        for name in members:
            event = self.last.get(name, {"done": {}, "failed": {}})
            for kind in WORK:
                good, bad = event["done"].get(kind, 0), event["failed"].get(kind, 0)
                if not good:
                    found.append(f"{name}: did not {kind} once")
                elif bad > FAILED_SHARE * (good + bad):
                    found.append(f"{name}: {kind}: {bad} of {good + bad} failed")
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "figures": [
                {
                    "program": each.program,
                    "figure": each.figure,
                    "seconds": round(each.trend.seconds, 1),
                    "start": round(each.trend.start, 2),
                    "end": round(each.trend.end, 2),
                    "per_hour": round(each.trend.per_hour, 2),
                    "bound": round(each.trend.bound, 2),
                    "flat": each.trend.is_flat,
                }
                for each in self.judge()
            ],
            "work": {
                name: {"done": event["done"], "failed": event["failed"]}
                for name, event in sorted(self.last.items())
            },
        }


def threads_of(pid: int) -> int:
    """How many a process has; 0 if it has gone."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0
