"""`python -m tools.attack NAME|all|short [--json]`."""

from __future__ import annotations

import argparse
import json
import sys

import trio

from tools.attack.runner import MEMORY_LIMIT, Result, run
from tools.attack.table import ATTACKS, SHORT, load

P99_LIMIT = 100.0
"""Milliseconds that an honest peer's echo may take at most, in 99 of 100 cases, where it takes less
than half of that when it is quiet."""
PASS_LIMIT = 50.0
"""Milliseconds of processor time that a pass of the victim's event loop may take."""


def complaints(result: Result) -> list[str]:
    """What is wrong with a result; empty if the victim has stood it."""
    found = []
    for name, latency in (("TCP", result.tcp), ("QUIC", result.quic)):
        if latency.lost:
            found.append(f"{latency.lost} echoes over {name} lost")
        if latency.p99 > P99_LIMIT and result.quiet_p99 < P99_LIMIT / 2:
            found.append(f"p99 over {name} {latency.p99:.0f} ms")
    if result.longest_pass > PASS_LIMIT:
        found.append(f"a pass of {result.longest_pass:.0f} ms")
    if result.memory_after - result.memory_before > MEMORY_LIMIT:
        found.append(f"{result.memory_after - result.memory_before:.0f} MiB stayed")
    witness = result.witness or {}
    for name in ("failed", "idle_dropped"):
        if witness.get(name):
            found.append(f"{name.replace('_', ' ')}: {witness[name]} ({witness.get('error')})")
    return found


def _show(result: Result, found: list[str]) -> str:
    tcp, quic = result.tcp, result.quic
    return (
        f"{result.attack:20} p50/p99 TCP {tcp.p50:.1f}/{tcp.p99:.0f} ms, QUIC "
        f"{quic.p50:.1f}/{quic.p99:.0f} ms, quiet {result.quiet_p99:.0f} ms, longest pass "
        f"{result.longest_pass:.1f} ms, CPU {result.cpu_s:.1f} of {result.seconds:.0f} s, "
        f"memory {result.memory_before:.0f}/{result.memory_peak:.0f}/{result.memory_after:.0f} "
        f"MiB, sent {result.sent_mib:.1f} MiB: {'; '.join(found) or 'stands'}"
    )


def main() -> int:
    """Exit status: 0 the victim stood everything, 1 it did not, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m tools.attack", description=__doc__)
    parser.add_argument("attack", nargs="?", help="a name, `all` or `short`; none lists them")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if options.attack is None:
        print("\n".join(f"{name:20} {load(name).summary}" for name in ATTACKS))
        return 0
    groups = {"all": tuple(ATTACKS), "short": SHORT}
    if options.attack not in groups and options.attack not in ATTACKS:
        parser.error(f"no attack {options.attack!r}; there are: all, short, {', '.join(ATTACKS)}")
    clean = True
    for name in groups.get(options.attack, (options.attack,)):
        result = trio.run(run, load(name))
        found = complaints(result)
        clean &= not found
        line = json.dumps({**result.as_json(), "complaints": found})
        print(line if options.json else _show(result, found), flush=True)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
