"""Whether a decoder's time is bounded by its input's size: time per byte, and how that grows.

Mutated examples are too small to show what is quadratic. Here a part of an example, or a token, is
repeated until the input has some kilobytes, and eight times as many; a decoder that takes more than
`MOST_GROWTH` times as long for each byte of the longer one, and still longer for each of twice as
many, or more than `MOST_PER_BYTE` for a byte, has a bug. Time is that of the processor, of the
fastest of several runs, which go on while an input looks too slow; on a processor that is slower
than where the bounds were set, or has to share its core, more is allowed by as much.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator

from tools.fuzz.target import KIB, Crash, Target, Violation, run_input

SMALL, LARGE = 4 * KIB, 32 * KIB
MOST_GROWTH = 3.0
STILL_GROWS = 1.5
"""Of the time for a byte when a long input is twice as long. What is quadratic takes 2; a short one
that is refused where the longer ones are read says nothing of how that grows."""
MOST_PER_BYTE = 40e-6
"""Seconds: 40 for a megabyte."""
FIXED = 0.02
"""Seconds that any input may take: keys, signatures, what is loaded at first use."""
_WORTH_A_LOOK = 0.01
"""Seconds below which nothing is said of growth."""
_PACE = 0.004
"""Seconds that :func:`_work` takes where the bounds hold as they are."""
_ROUNDS = 3
_DOUBTS = 20
"""Rounds in which an input stays too slow before that is believed: a machine that is taken away
from its processors for a while counts that as theirs.
"""


def check(
    target: Target, *, seed: int, seconds: float, max_runs: int | None = None
) -> Crash | None:
    """The first input whose time grows faster than it does; None if none was found in time."""
    end = time.monotonic() + seconds
    for number, (head, unit, tail) in enumerate(_shapes(target, random.Random(seed))):
        if time.monotonic() >= end or number == max_runs:
            return None
        large = _repeated(head, unit, tail, LARGE)
        if _seconds(target, large) < _WORTH_A_LOOK:
            continue
        # Something: now with care.
        small = _repeated(head, unit, tail, SMALL)
        pace = short = long = math.inf
        text = None
        for rounds in range(1, _DOUBTS + 1):
            pace = min(pace, max(1.0, _processor(_work) / _PACE))
            short = min(short, _seconds(target, small))
            long = min(long, _seconds(target, large))
            text = _too_slow(len(small), short, len(large), long, pace)
            if text is None and rounds >= _ROUNDS:
                break
        if text is not None and (
            _costs_too_much(len(large), long, pace)
            or _still_grows(target, long / len(large), _repeated(head, unit, tail, 2 * LARGE))
        ):
            return Crash(target.name, large, (Violation.__name__, "growth"), text)
    return None


def _too_slow(small: int, short: float, large: int, long: float, pace: float) -> str | None:
    """What is wrong with the seconds that so many bytes take; None if nothing is."""
    growth = (long / large) / (max(short, 1e-5) / small)
    grows = growth > MOST_GROWTH and long / pace > FIXED
    if not grows and not _costs_too_much(large, long, pace):
        return None
    return (
        f"{small} bytes take {1000 * short:.1f} ms, and {large} bytes {1000 * long:.1f} ms: "
        f"{growth:.1f} times as much for each"
    )


def _costs_too_much(large: int, long: float, pace: float) -> bool:
    return (long / pace - FIXED) / large > MOST_PER_BYTE


def _still_grows(target: Target, for_each: float, larger: bytes) -> bool:
    """Whether each byte of an even longer input takes longer than the seconds `for_each`."""
    least = min(_seconds(target, larger) for _ in range(_ROUNDS))
    return least / len(larger) > STILL_GROWS * for_each


def _seconds(target: Target, data: bytes) -> float:
    return _processor(lambda: run_input(target, data))


def _processor(run: Callable[[], object]) -> float:
    """Seconds of the processor that something takes."""
    began = time.process_time()
    run()
    return time.process_time() - began


def _work() -> int:
    return sum(number * number for number in range(50_000))


def _repeated(head: bytes, unit: bytes, tail: bytes, size: int) -> bytes:
    return head + unit * max(1, (size - len(head) - len(tail)) // len(unit)) + tail


def _shapes(target: Target, rng: random.Random) -> Iterator[tuple[bytes, bytes, bytes]]:
    """What comes before, what is repeated, and what comes after; without end."""
    seeds = [seed for seed in target.seeds if seed] or [b"\0"]
    tokens = [token for token in target.tokens if token]
    for seed in seeds:
        yield b"", seed, b""
    while True:
        seed = rng.choice(seeds)
        start = rng.randrange(len(seed) + 1)
        end = min(len(seed), start + rng.choice((1, 2, 3, 6, 12, 24, 60)))
        unit = rng.choice(tokens) if tokens and rng.random() < 0.4 else seed[start:end]
        yield seed[:start], unit or b"\0", seed[rng.choice((start, end)) :]
