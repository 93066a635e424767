"""What is measured of the CRDT store, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from tools.bench import venvs
from tools.bench.cases import OURS, Case
from tools.bench.crdt import ours, peers
from tools.bench.figures.stats import Measurement, summarize

_Figures = dict[tuple[str, str], list[float]]
Better = Literal["higher", "lower"]
_CASES: dict[str, tuple[str, Better, str]] = {
    "entries-single": ("1/s", "higher", "received one by one: verified, merged, on disk"),
    "entries-chain": ("1/s", "higher", "the same, in chains of 1,000"),
    "entry-overhead": ("B", "lower", "on the wire beside the payload, of a single entry"),
    "write": ("1/s", "higher", "keys written, a thousand at once"),
    "fresh-log": ("s", "lower", "until a fresh replica has all keys, by log"),
    "fresh-snapshot": ("s", "lower", "the same, by snapshot, verified"),
    "snapshot-keys": ("1/s", "higher", "the same, in keys"),
    "reconcile-turns": ("", "lower", "of both, until replicas agree that differ in ten authors"),
    "reconcile-bytes": ("B", "lower", "both ways, for the same"),
}


def run_all(
    keys: int, authors: int, repeats: int, say: Callable[[str], None]
) -> Iterator[Measurement]:
    """Ours, pycrdt alone, and automerge where it can be installed; in turns, the median counts."""
    figures: _Figures = {}
    python = None
    try:
        python = venvs.ensure("automerge", peers.AUTOMERGE, say)
    except venvs.SetupError as error:
        say(f"automerge cannot take part: {error}")
    entries = max(1000, keys // 5)

    def note(impl: str, **values: float) -> None:
        for name, value in values.items():
            figures.setdefault((name.replace("_", "-"), impl), []).append(value)

    for _ in range(repeats):
        rate, overhead = ours.single_entries(entries)
        note(OURS, entries_single=rate, entry_overhead=overhead)
        note("pycrdt", entries_single=peers.pycrdt_single(entries))
        note(OURS, entries_chain=ours.chained_entries(entries))
        written, logged, joined = ours.fresh_replica(keys)
        note(OURS, write=keys / written, fresh_log=logged, fresh_snapshot=joined)
        note(OURS, snapshot_keys=keys / joined)
        written, joined = peers.pycrdt_fresh(keys)
        note("pycrdt", write=keys / written, fresh_snapshot=joined, snapshot_keys=keys / joined)
        if python is not None:
            note("automerge", write=keys / peers.automerge_write(python, keys))
    turns, size = ours.reconciled(authors, 10)
    note(OURS, reconcile_turns=turns, reconcile_bytes=size)
    for name, (unit, better, what) in _CASES.items():
        case = Case("crdt", name, unit, better, what)
        for (of, impl), samples in figures.items():
            if of == name:
                signed = "verified and on disk" if impl == OURS else "in memory, nothing signed"
                text = f"{keys} keys, {entries} entries, {authors} authors; {signed}"
                yield summarize(case, impl, samples, text)
