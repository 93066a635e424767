"""`python -m tools.fuzz TARGET|all [--seconds N] [--seed N] [--input FILE]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.fuzz import coverage_guided, engine, growth
from tools.fuzz.table import TARGETS, load
from tools.fuzz.target import try_input


def main() -> int:
    """Exit status: 0 nothing found, 1 something found, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", help="a target's name, or `all`; none lists them")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--engine",
        choices=("auto", "atheris", "random"),
        default="auto",
        help="auto takes atheris where it is installed (pip install 'lattica-stack[fuzz]')",
    )
    parser.add_argument("--input", type=Path, help="try the bytes of one file, and nothing else")
    options = parser.parse_args()

    if options.target is None:
        print("\n".join(TARGETS))
        return 0
    if options.target != "all" and options.target not in TARGETS:
        parser.error(f"no target {options.target!r}; there are: all, {', '.join(TARGETS)}")
    if options.input is not None:
        return _try_file(options.target, options.input)
    if options.engine == "atheris" and not coverage_guided.available():
        parser.error("atheris is not installed; pip install 'lattica-stack[fuzz]'")
    guided = options.engine != "random" and coverage_guided.available()
    names = list(TARGETS) if options.target == "all" else [options.target]
    clean = True
    for name in names:
        clean &= _check_growth(name, seed=options.seed, seconds=options.seconds / 4)
        if guided:
            clean &= coverage_guided.fuzz_in_child(name, seed=options.seed, seconds=options.seconds)
        else:
            clean &= _fuzz_here(name, seed=options.seed, seconds=options.seconds)
    return 0 if clean else 1


def _check_growth(name: str, *, seed: int, seconds: float) -> bool:
    crash = growth.check(load(name), seed=seed, seconds=seconds)
    if crash is not None:
        print(f"{name}: its time is not bounded by its input's size", flush=True)
        print(engine.describe(crash, engine.save(crash)), flush=True)
    return crash is None


def _fuzz_here(name: str, *, seed: int, seconds: float) -> bool:
    report = engine.fuzz(load(name), seed=seed, seconds=seconds)
    print(f"{name}: {report.runs} inputs, {len(report.crashes)} crashes", flush=True)
    for crash in report.crashes:
        print(engine.describe(crash, engine.save(crash)), flush=True)
    return not report.crashes


def _try_file(name: str, path: Path) -> int:
    crash = try_input(load(name), path.read_bytes(), measure_memory=True)
    if crash is None:
        print(f"{name}: behaves")
        return 0
    print(engine.describe(crash, path))
    return 1


if __name__ == "__main__":
    sys.exit(main())
