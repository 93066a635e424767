"""Faults on a timeline: what happens when, and doing it to a lab."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from tools.netlab.errors import LabError
from tools.netlab.lab.lab import Lab
from tools.netlab.runs.timeline import Timeline
from tools.netlab.spec.fault import (
    AddressChange,
    ClockSkew,
    Fault,
    Handover,
    Kill,
    LinkChange,
    LinkDown,
    NatReboot,
    Partition,
    Pause,
    lasts,
)


class Stage(Protocol):
    """Where the programs are, which some faults are done to; see `runner`."""

    def signal(self, program: str, number: int) -> None:
        """Send a signal to a program."""

    def kill(self, program: str, *, comes_again: bool) -> None:
        """End a program with SIGKILL, to `restart` it later or not."""

    async def restart(self, program: str) -> None:
        """Start a program anew that has been killed."""

    def skew(self, program: str, offset_s: float) -> None:
        """Set a program's wall clock."""


@dataclass(frozen=True, slots=True)
class Step:
    """A fault's beginning, or its end (`undo`), at `t` seconds. number: tells it from others."""

    t: float
    fault: Fault
    undo: bool
    number: int = 0

    @property
    def text(self) -> str:
        return describe(self.fault, undo=self.undo)


def steps(faults: Iterable[Fault]) -> list[Step]:
    """All beginnings and ends in the order of time; at the same time, ends first."""
    found = []
    for number, fault in enumerate(faults):
        found.append(Step(fault.at_s, fault, False, number))
        for_s = lasts(fault)
        if for_s is not None:
            found.append(Step(fault.at_s + for_s, fault, True, number))
    return sorted(found, key=lambda step: (step.t, not step.undo))


def describe(fault: Fault, *, undo: bool = False) -> str:
    """A fault in words."""
    match fault:
        case LinkDown(node=node):
            return f"link of {node} {'up again' if undo else 'down'}"
        case LinkChange(node=node):
            return f"link of {node} {'as before' if undo else 'changed'}"
        case NatReboot(router=router, for_s=for_s):
            if undo:
                return f"{router} is back, without mappings"
            return f"{router} reboots" if for_s else f"{router} loses its mappings"
        case AddressChange(node=node):
            return f"{node} gets another public address"
        case Handover(host=host):
            return f"{host} moves to its other network"
        case Kill(program=program):
            return f"{program} {'started again' if undo else 'killed'}"
        case Pause(program=program):
            return f"{program} {'goes on' if undo else 'stopped'}"
        case Partition(groups=groups):
            sides = " | ".join(", ".join(group) for group in groups)
            return "partition healed" if undo else f"partition: {sides}"
        case ClockSkew(program=program, offset_s=offset_s):
            return f"clock of {program} off by {offset_s:g} s"


async def apply(step: Step, lab: Lab, stage: Stage) -> None:
    """Do it. Raises :class:`LabError`."""
    undo, reason = step.undo, str(step.number)
    match step.fault:
        case LinkDown(node=node):
            await lab.set_link_up(node, undo, reason)
        case LinkChange(node=node, link=link):
            if undo:
                await lab.restore_link(node, reason)
            else:
                await lab.set_link(node, link, reason)
        case NatReboot(router=router, for_s=for_s):
            if undo or for_s is None:
                await lab.reboot_nat(router)
            if for_s is not None:
                await lab.set_link_up(router, undo, reason)
        case AddressChange(node=node):
            await lab.change_address(node)
        case Handover(host=host):
            await lab.handover(host)
        case Kill(program=program, for_s=for_s):
            if undo:
                await stage.restart(program)
            else:
                stage.kill(program, comes_again=for_s is not None)
        case Pause(program=program):
            stage.signal(program, signal.SIGCONT if undo else signal.SIGSTOP)
        case Partition(groups=groups):
            if undo:
                await lab.heal(reason)
            else:
                await lab.partition(groups, reason)
        case ClockSkew(program=program, offset_s=offset_s):
            stage.skew(program, offset_s)


async def play(
    plan: Iterable[Step],
    timeline: Timeline,
    lab: Lab,
    stage: Stage,
    tell: Callable[[float, str], None],
    fail: Callable[[str], None],
) -> None:
    """Apply the steps of a timeline, each when its time has come, and `tell` of it.

    `fail` is told what could not be done, and why; the others are done all the same. Raises
    :class:`LabError` when nothing can be done any more.
    """
    for step in plan:
        await timeline.until(step.t)
        with timeline.standing():
            tell(round(lab.now(), 3), step.text)
            try:
                await apply(step, lab, stage)
            except LabError as error:
                if lab.has_ended:
                    raise
                tell(round(lab.now(), 3), f"that could not be done: {error}")
                fail(f"{step.text}, at {step.t:g} s: could not be done: {error}")
