"""Other CRDTs at the work that they have in common with ours. They neither sign nor keep anything:
what that costs is in our figures, and not in theirs.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from pycrdt import Doc, Map

from tools.bench.crdt.ours import timed

AUTOMERGE = ("automerge==0.1.2",)
_CHILD = Path(__file__).parent / "automerge_child.py"


def pycrdt_single(count: int) -> float:
    """Updates a second that come one by one, each a value of a map."""
    source: Doc[Map[str]] = Doc()
    values = source.get("map", type=Map)
    updates: list[bytes] = []
    subscription = source.observe(lambda event: updates.append(event.update))
    for number in range(count):
        values[f"key/{number % 50}"] = f"value {number}"
    source.unobserve(subscription)
    target: Doc[Map[str]] = Doc()

    def apply() -> None:
        for update in updates:
            target.apply_update(update)

    seconds, _ = timed(apply)
    assert len(target.get("map", type=Map)) == 50
    return count / seconds


def pycrdt_fresh(keys: int) -> tuple[float, float]:
    """Seconds to write so many keys, and in which a fresh document has them."""
    source: Doc[Map[str]] = Doc()
    values = source.get("map", type=Map)

    def write() -> None:
        for number in range(keys):
            values[f"key/{number}"] = f"value {number}"

    written, _ = timed(write)
    update = source.get_update()
    target: Doc[Map[str]] = Doc()
    joined, _ = timed(lambda: target.apply_update(update))
    assert len(target.get("map", type=Map)) == keys
    return written, joined


def automerge_write(python: Path, keys: int) -> float:
    """Seconds to write so many keys, in an environment of its own: the one on PyPI can do nothing
    else that others do. Raises OSError if it fails.
    """
    done = subprocess.run(
        [str(python), str(_CHILD), str(keys)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(f"automerge failed: {done.stderr.strip()[-200:]}")
    return float(done.stdout)
