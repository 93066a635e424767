"""The hostile host: `python -m tools.attack.enemy NAME VICTIM` (a JSON object)."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys

import trio

from tools.attack.attack import Attack, Victim
from tools.attack.lines import Lines
from tools.attack.stranger import Attacker
from tools.attack.table import load


async def attack(plan: Attack, victim: Victim, lines: Lines) -> None:
    lines.emit("ready")
    with trio.move_on_after(plan.seconds):
        await plan.run(victim)
        await trio.sleep_forever()  # what it holds it keeps until the end
    lines.emit("done", sent=Attacker.sent)
    async for _ in lines.requests():
        pass


def yield_to_others() -> None:
    """Take the processor time that the victim and the honest peer leave: a hostile host has one of
    its own, and what they wait for is to be the victim's doing alone.
    """
    policy = os.sched_getscheduler(0)
    if policy in (os.SCHED_RR, os.SCHED_FIFO):
        priority = os.sched_getparam(0).sched_priority - 1
        os.sched_setscheduler(0, policy, os.sched_param(max(1, priority)))
    else:
        os.nice(5)


def main() -> None:
    yield_to_others()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.disable()
    trio.run(attack, load(sys.argv[1]), Victim(**json.loads(sys.argv[2])), Lines())


if __name__ == "__main__":
    main()
