"""The work on content that implementations share: a file of random bytes, and what was made of it.

Both children run in the same folder. Only the standard library, as in `bench_child`.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

SIZE = 1 << 30
PIECE = 1 << 24
FILE = Path("content.bin")
OUT = Path("out")
FETCH, PUBLISH = "content-file-1GiB", "content-publish-1GiB"
CASES = (FETCH, PUBLISH)


def make_file() -> None:
    """Write the file, which is in the page cache then."""
    rng = random.Random(os.urandom(16))
    with FILE.open("wb") as file:
        for _ in range(SIZE // PIECE):
            file.write(rng.randbytes(PIECE))
        file.flush()
        os.fsync(file.fileno())


class Stopwatch:
    """Measures a fetch."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def fetched(self) -> dict[str, float]:
        """All is there, as the implementation says: when it is on the disk, and the figure."""
        made = OUT / FILE.name
        with made.open("rb+") as file:
            os.fsync(file.fileno())
        seconds = time.perf_counter() - self._began
        with made.open("rb") as ours, FILE.open("rb") as theirs:
            while piece := theirs.read(PIECE):
                if ours.read(PIECE) != piece:
                    raise AssertionError("what has come is something else")
        return {"file-1GiB": SIZE / seconds / 1e6}

    def published(self) -> dict[str, float]:
        """The file can be served."""
        return {"publish-1GiB": SIZE / (time.perf_counter() - self._began) / 1e6}
