"""Runs one attack: starts the three processes, and puts together what they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import trio

from tools.attack.attack import Attack, Victim
from tools.bench.children import Child, start
from tools.bench.programs.bench_child import percentile

_ROOT = Path(__file__).resolve().parents[2]
BEFORE = 2.0
"""Seconds of quiet before the attack."""
AFTER = 30.0
"""Seconds after the attack in which memory is to be back; it is looked at once a second."""
MEMORY_LIMIT = 20.0
"""MiB that may stay."""
_SAMPLES = 0.5
"""Seconds between two looks at the victim's memory during the attack."""
_START = 60.0
_LATEST = 30.0
"""Seconds that a process may be late with an answer."""
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Latency:
    """Echoes of the honest peer; milliseconds."""

    p50: float
    p99: float
    worst: float
    lost: int


@dataclass(frozen=True, slots=True)
class Result:
    """What an attack did. Memory in MiB, `cpu_s` is that of the victim while it lasted."""

    attack: str
    tcp: Latency
    quic: Latency
    quiet_p99: float
    """Of TCP, before the attack."""
    longest_pass: float
    """Milliseconds of processor time of the victim's event loop between two looks at the network.
    An echo takes about three passes, and whatever else the machine does."""
    cpu_s: float
    seconds: float
    sent_mib: float
    memory_before: float
    memory_peak: float
    memory_after: float
    connections: int
    """That the victim had at the end of the attack."""
    log_lines: Mapping[str, int]
    witness: Mapping[str, object] | None

    def as_json(self) -> dict[str, object]:
        return asdict(self)


async def _ask(child: Child, event: str, do: str = "measure") -> Mapping[str, Any]:
    with trio.fail_after(_LATEST):
        await child.send({"do": do})
        return await child.event(event)


async def _memory_back(victim: Child, before: int) -> Mapping[str, Any]:
    """Wait until the victim takes little more memory than before; what it says of itself then."""
    latest = trio.current_time() + AFTER
    while True:
        await trio.sleep(1)
        measured = await _ask(victim, "measured")
        is_back = measured["memory"] - before <= MEMORY_LIMIT * MIB / 2
        if is_back or trio.current_time() >= latest:
            return measured


def _latency(noticed: Mapping[str, Any]) -> Latency:
    samples = noticed["ms"]
    lost = int(noticed["lost"])
    if not samples:
        return Latency(float("inf"), float("inf"), float("inf"), max(1, lost))
    return Latency(percentile(samples, 0.5), percentile(samples, 0.99), max(samples), lost)


async def run(attack: Attack) -> Result:
    """Run it. Raises :class:`~tools.bench.children.BenchError` when a process fails."""
    python = (sys.executable, "-m")
    async with start("the victim", [*python, "tools.attack.victim", attack.name], _ROOT) as victim:
        with trio.fail_after(_START):
            ready = await victim.event("ready")
        where = Victim(**{name: str(value) for name, value in ready.items() if name != "event"})
        command = [*python, "tools.attack.honest", attack.name, json.dumps(asdict(where))]
        async with start("the honest peer", command, _ROOT) as honest:
            with trio.fail_after(_START):
                where = replace(where, target=str((await honest.event("ready"))["target"]))
            await trio.sleep(BEFORE)
            quiet = await _ask(honest, "noticed", "watch")
            before = await _ask(victim, "measured")
            command = [*python, "tools.attack.enemy", attack.name, json.dumps(asdict(where))]
            async with start("the enemy", command, _ROOT) as enemy:
                with trio.fail_after(_START):
                    await enemy.event("ready")
                began = trio.current_time()
                peaks = [cast(int, before["memory"])]
                passes = [0.0]
                connections = 0
                while trio.current_time() - began < attack.seconds:
                    await trio.sleep(_SAMPLES)
                    measured = await _ask(victim, "measured")
                    peaks.append(cast(int, measured["memory"]))
                    passes += measured["passes"]
                    connections = cast(int, measured["connections"])
                with trio.fail_after(_LATEST):
                    done = await enemy.event("done")
                end = await _ask(victim, "measured")
                seconds = trio.current_time() - began
                noticed = await _ask(honest, "noticed")
            after = await _memory_back(victim, cast(int, before["memory"]))
    return Result(
        attack.name,
        _latency(noticed["tcp"]),
        _latency(noticed["quic"]),
        _latency(quiet["tcp"]).p99,
        max(passes + end["passes"]),
        round(end["cpu"] - before["cpu"], 2),
        round(seconds, 1),
        round(cast(int, done["sent"]) / MIB, 2),
        round(before["memory"] / MIB, 1),
        round(max(peaks) / MIB, 1),
        round(after["memory"] / MIB, 1),
        connections,
        end["log"],
        noticed["witness"],
    )
