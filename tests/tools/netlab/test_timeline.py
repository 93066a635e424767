"""A scenario's times mean the same on a slow machine."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import trio

from tools.netlab.errors import LabError
from tools.netlab.runs import faults
from tools.netlab.runs.timeline import Timeline, due, first_fault
from tools.netlab.spec.fault import Kill, LinkDown
from tools.netlab.spec.workload import CommandProgram, FetchProgram, NodeProgram, PublishProgram

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Log:
    """Who came to what moment when."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.came: dict[float, float] = {}

    async def wait(self, t: float) -> None:
        await self.timeline.until(t)
        self.came[t] = round(trio.current_time() - self.began, 6)

    async def all_of(self, nursery: trio.Nursery, *times: float) -> None:
        self.began = trio.current_time()
        for t in times:
            nursery.start_soon(self.wait, t)


def clock():
    began = trio.current_time()
    return lambda: trio.current_time() - began


async def test_without_a_stop_it_is_the_clock():
    log = Log(Timeline(clock()))
    async with trio.open_nursery() as nursery:
        await log.all_of(nursery, 0, 3, 5)
    assert log.came == {0: 0, 3: 3, 5: 5}


async def test_it_stands_until_it_may_go_on():
    timeline = Timeline(clock(), 4)
    log = Log(timeline)
    async with trio.open_nursery() as nursery:
        await log.all_of(nursery, 3, 4, 6)
        await trio.sleep(10)
        assert timeline.now() == 4
        timeline.go_on()
        timeline.go_on()
        assert timeline.now() == 4
    assert log.came == {3: 3, 4: 10, 6: 12}


async def test_who_may_go_on_before_does_not_stand():
    timeline = Timeline(clock(), 4)
    log = Log(timeline)
    async with trio.open_nursery() as nursery:
        await log.all_of(nursery, 4, 6)
        await trio.sleep(2)
        timeline.go_on()
        assert timeline.now() == 2
    assert log.came == {4: 4, 6: 6}


async def test_it_stands_while_a_fault_is_made():
    timeline = Timeline(clock())
    log = Log(timeline)
    async with trio.open_nursery() as nursery:
        await log.all_of(nursery, 1, 5)
        await timeline.until(2)
        with timeline.standing():
            await trio.sleep(2.5)
        await timeline.until(3)
        with timeline.standing():
            await trio.sleep(0.5)
    assert log.came == {1: 1, 5: 8}


async def test_nothing_happens_while_it_stands():
    """Nor does the scenario end in the middle of its last fault."""
    timeline = Timeline(clock())
    log = Log(timeline)
    async with trio.open_nursery() as nursery:
        await log.all_of(nursery, 3)
        await timeline.until(2)
        with timeline.standing():
            await trio.sleep(2.5)
            assert timeline.now() == 2
            assert log.came == {}
    assert log.came == {3: 5.5}


async def test_a_fault_that_cannot_be_done_does_not_keep_the_others():
    class Failing:
        """A lab in which links cannot be cut."""

        has_ended = False
        mended: ClassVar[list[str]] = []

        def now(self) -> float:
            return timeline.now()

        async def set_link_up(self, node: str, up: bool, reason: str) -> None:
            if not up:
                raise LabError("no scissors")
            self.mended.append(reason)

    timeline = Timeline(clock())
    lab: Any = Failing()
    told: list[tuple[float, str]] = []
    steps = faults.steps((LinkDown(1, "a", 1), LinkDown(2, "b")))

    def tell(t: float, text: str) -> None:
        told.append((t, text))

    failures: list[str] = []
    await faults.play(steps, timeline, lab, lab, tell, failures.append)
    assert failures == [
        "link of a down, at 1 s: could not be done: no scissors",
        "link of b down, at 2 s: could not be done: no scissors",
    ]
    assert lab.mended == ["0"]
    assert [t for t, _ in told] == [1, 1, 2, 2, 2]
    # A lab that has ended is another matter.
    lab.has_ended = True
    steps = faults.steps((LinkDown(3, "a"),))
    with pytest.raises(LabError, match="scissors"):
        await faults.play(steps, timeline, lab, lab, tell, failures.append)


def test_the_first_fault():
    assert first_fault(()) == math.inf
    assert first_fault((LinkDown(5, "a"), Kill(2, "b"), Kill(7, "c"))) == 2


def test_due_is_who_can_be_up_by_then():
    programs = (
        NodeProgram("relay", "h"),
        NodeProgram("node", "h", connect=("relay",)),
        PublishProgram("share", "h"),
        FetchProgram("get", "h", source="share"),
        CommandProgram("load", "h", argv=("x",)),
        CommandProgram("server", "h", argv=("x",), exit_code=None),
        CommandProgram("client", "h", argv=("x",), after=("server",)),
        # These wait for the end of another, which the faults may be meant for.
        CommandProgram("after-load", "h", argv=("x",), after=("load",)),
        CommandProgram("after-get", "h", argv=("x",), after=("get",)),
        CommandProgram("after-that", "h", argv=("x",), after=("after-get",)),
        # These start later, or need one that does.
        NodeProgram("late", "h", at_s=10),
        NodeProgram("friend", "h", connect=("late",)),
    )
    up = ["relay", "node", "share", "get", "load", "server", "client"]
    assert due(programs, 10) == up
    assert due(programs, 0) == []
    assert due(programs, 11) == [*up, "late", "friend"]
