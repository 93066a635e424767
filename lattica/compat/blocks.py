"""The blocks of a node in a directory, one file each, named by their hash."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from lattica.content.bitswap.messages import MAX_BLOCK
from lattica.content.manifest.cid import Cid


class BlockDirectory:
    """A :class:`lattica.content.bitswap.exchange.BlockSource`. For any number of threads.

    A file has its name only when it is whole; what is read is verified, so that a file which was
    changed from outside is no block any more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, block: bytes) -> Cid:
        """Store a block.

        Raises:
            ValueError: it is too large to be sent.
            OSError: it cannot be written.
        """
        if len(block) > MAX_BLOCK:
            raise ValueError(f"a block of {len(block)} bytes; {MAX_BLOCK} can be sent")
        cid = Cid.of(block)
        if self.get_block(cid) is None:
            descriptor, temporary = tempfile.mkstemp(prefix=".", dir=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(block)
                os.replace(temporary, self._folder / str(cid))
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
        return cid

    def remove(self, cid: Cid) -> None:
        """Idempotent."""
        (self._folder / str(cid)).unlink(missing_ok=True)

    def get_block(self, cid: Cid) -> bytes | None:
        """The block, if it is here and whole."""
        try:
            block = (self._folder / str(cid)).read_bytes()
        except OSError:
            return None
        return block if Cid.of(block) == cid else None

    def has_block(self, cid: Cid) -> bool:
        """Whether there is such a file."""
        return (self._folder / str(cid)).is_file()
