"""The engine that needs nothing installed: examples, then seeded random mutations of them."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass
from pathlib import Path

from tools.fuzz.mutate import Mutator
from tools.fuzz.target import Crash, Target, try_input

CRASHES = Path(__file__).resolve().parents[2] / ".cache" / "fuzz"

MEASURE_EVERY = 64
"""One input in so many has its memory measured (and every seed)."""
MAX_CRASHES = 10
"""A run ends after so many different crashes: there is enough to mend."""
SHRINK_ATTEMPTS = 500


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did: inputs tried, and one crash for each different bug found."""

    target: str
    runs: int
    crashes: tuple[Crash, ...]


def fuzz(target: Target, *, seed: int, seconds: float, max_runs: int | None = None) -> Report:
    """Try all seeds, then mutations until `seconds` or `max_runs` are over.

    The same `seed` tries the same inputs in the same order, as far as it gets.
    """
    end = time.monotonic() + seconds
    inputs = Mutator(random.Random(seed), target.seeds, target.tokens, target.max_size)
    found: dict[tuple[str, str], Crash] = {}
    runs = 0
    for data in target.seeds:
        runs += 1
        crash = try_input(target, data, measure_memory=True)
        if crash is not None:
            found.setdefault(crash.signature, crash)
    while len(found) < MAX_CRASHES and (max_runs is None or runs < max_runs):
        runs += 1
        crash = try_input(target, inputs.next(), measure_memory=runs % MEASURE_EVERY == 0)
        if crash is not None and crash.signature not in found:
            found[crash.signature] = shrink(target, crash)
        if time.monotonic() >= end:
            break
    return Report(target.name, runs, tuple(found.values()))


def shrink(target: Target, crash: Crash) -> Crash:
    """A smaller input with the same signature, if one is found soon."""
    best = crash
    attempts = SHRINK_ATTEMPTS
    memory = crash.signature[0] == "Violation"
    size = len(best.data) // 2
    if crash.signature[0] == "Hang":
        return best  # every attempt would take as long as a hang
    while size and attempts:
        start, smaller = 0, False
        while start < len(best.data) and attempts:
            attempts -= 1
            data = best.data[:start] + best.data[start + size :]
            again = try_input(target, data, measure_memory=memory)
            if again is not None and again.signature == crash.signature:
                best, smaller = again, True
            else:
                start += size
        if not smaller or size > len(best.data):
            size //= 2
    return best


def save(crash: Crash, folder: Path = CRASHES) -> Path:
    """Write the input of a crash to a file and return its path."""
    name = hashlib.sha256(crash.data).hexdigest()[:16]
    path = folder / crash.target / f"crash-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(crash.data)
    return path


def reproduce_command(target: str, path: Path) -> str:
    """What to type to see one crash again."""
    try:
        shown = path.relative_to(Path.cwd())
    except ValueError:
        shown = path
    return f"python -m tools.fuzz {target} --input {shown}"


def describe(crash: Crash, path: Path) -> str:
    """A crash for a person: what came out, for which bytes, and how to see it again."""
    bytes_shown = repr(crash.data[:200]) + ("…" if len(crash.data) > 200 else "")
    return (
        f"{crash.report}\n"
        f"target {crash.target}, {len(crash.data)} bytes: {bytes_shown}\n"
        f"again: {reproduce_command(crash.target, path)}"
    )
