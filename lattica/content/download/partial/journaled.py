"""What an earlier run has written to unfinished files."""

from __future__ import annotations

from collections.abc import Callable

import trio

from lattica.content.download.ledger import Ledger
from lattica.content.download.partial.partial_files import PartialFiles
from lattica.content.download.plan import Plan

_UNIT = 32
"""Chunks hashed in one visit to a thread."""


async def count_journaled(
    plan: Plan, files: PartialFiles, ledger: Ledger, on_bytes: Callable[[int, int], object]
) -> None:
    """Note in the ledger the chunks that the journal names and that have the right hash.

    `on_bytes` is called with (bytes hashed, of how many) as the work goes on. Raises
    :class:`~lattica.errors.StorageError`.
    """
    named = [n for n in await trio.to_thread.run_sync(files.journaled) if ledger.lacks(n)]
    total = sum(plan.manifest.chunk(number).length for number in named)
    done = 0
    for start in range(0, len(named), _UNIT):
        unit = named[start : start + _UNIT]
        ledger.add(await trio.to_thread.run_sync(files.verify, unit), fetched=False)
        done += sum(plan.manifest.chunk(number).length for number in unit)
        on_bytes(done, total)
