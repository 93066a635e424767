"""What a replica has of each author, in order, so that ranges of it can be compared by one hash."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

DIGEST_BYTES: Final = 16
ID_PREFIX: Final = 16
"""Bytes of the newest entry's ID that are compared."""
MAX_LACKING: Final = 16
_ABSENT: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Head:
    """How far an author's chain is here."""

    author: bytes
    """The session key."""
    length: int
    """Entries."""
    newest: bytes
    """The first `ID_PREFIX` bytes of the newest entry's ID; empty if there is none."""
    fork: int | None = None
    """From where on the author is proved to contradict himself."""
    lacking: tuple[int, ...] = ()
    """Sequence numbers of entries whose payloads are missing, though nothing erases them any more;
    in order, the first `MAX_LACKING`."""

    @property
    def digest(self) -> bytes:
        """`DIGEST_BYTES` that stand for all of it."""
        fork = _ABSENT if self.fork is None else self.fork
        numbers = b"".join(each.to_bytes(8, "big") for each in (self.length, fork))
        lacking = b"".join(each.to_bytes(8, "big") for each in self.lacking)
        hashed = hashlib.sha256(self.author + numbers + self.newest + lacking)
        return hashed.digest()[:DIGEST_BYTES]

    def misses(self, other: Head | None) -> int | None:
        """The first entry here whose payload is missing, and is not missing there."""
        length, lacking = (other.length, other.lacking) if other is not None else (0, ())
        return next((seq for seq in self.lacking if seq < length and seq not in lacking), None)


class HeadIndex:
    """Heads by author. Setting one costs a search; the fingerprint of a range one hash of
    `DIGEST_BYTES` for each author in it.

    A range is from a key up to another one that is not in it; None is beyond all keys.
    """

    def __init__(self) -> None:
        self._authors: list[bytes] = []
        self._heads: dict[bytes, Head] = {}
        self._digests = bytearray()

    def __len__(self) -> int:
        return len(self._authors)

    def get(self, author: bytes) -> Head | None:
        """The head of an author."""
        return self._heads.get(author)

    def set(self, head: Head) -> None:
        """Note how far an author is; the one with neither entries nor a fork is taken out."""
        place = bisect_left(self._authors, head.author)
        is_known = head.author in self._heads
        span = slice(place * DIGEST_BYTES, (place + is_known) * DIGEST_BYTES)
        if not head.length and head.fork is None:
            if is_known:
                del self._authors[place], self._heads[head.author], self._digests[span]
            return
        if not is_known:
            self._authors.insert(place, head.author)
        self._heads[head.author] = head
        self._digests[span] = head.digest

    def fingerprint(self, nonce: bytes, low: bytes, high: bytes | None) -> bytes:
        """`DIGEST_BYTES` that are the same for equal ranges. With a nonce that the other side
        cannot foresee, nobody makes two ranges that have the same.
        """
        start, end = self._span(low, high)
        with memoryview(self._digests) as digests:
            piece = digests[start * DIGEST_BYTES : end * DIGEST_BYTES]
            hashed = hashlib.sha256(nonce)
            hashed.update(piece)
            piece.release()
        return hashed.digest()[:DIGEST_BYTES]

    def count(self, low: bytes, high: bytes | None) -> int:
        """How many authors are in a range."""
        start, end = self._span(low, high)
        return end - start

    def heads(self, low: bytes, high: bytes | None) -> list[Head]:
        """Those in a range, in order."""
        start, end = self._span(low, high)
        return [self._heads[author] for author in self._authors[start:end]]

    def split(
        self, low: bytes, high: bytes | None, pieces: int
    ) -> list[tuple[bytes, bytes | None]]:
        """A range as up to `pieces` with about as many authors in each."""
        start, end = self._span(low, high)
        step = max(1, -(-(end - start) // pieces))
        bounds = [self._bound(place) for place in range(start + step, end, step)]
        return list(zip([low, *bounds], [*bounds, high], strict=True))

    def _bound(self, place: int) -> bytes:
        """The shortest key that parts an author from the one before."""
        before, after = self._authors[place - 1], self._authors[place]
        length = next(n for n in range(len(after)) if before[: n + 1] != after[: n + 1])
        return after[: length + 1]

    def _span(self, low: bytes, high: bytes | None) -> tuple[int, int]:
        start = bisect_left(self._authors, low)
        end = len(self._authors) if high is None else bisect_left(self._authors, high)
        return start, max(start, end)
