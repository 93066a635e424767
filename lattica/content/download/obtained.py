"""Where what is obtained goes, as :class:`~.obtaining.Obtaining` sees it: files of a fetch, or the
memory of whoever reads tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol


class Progress(Protocol):
    """What is here, and what is not; see :class:`~.ledger.Ledger`."""

    @property
    def missing(self) -> list[int]: ...

    @property
    def finished(self) -> bool: ...

    def lacks(self, number: int) -> bool: ...

    def add(self, numbers: Iterable[int], *, fetched: bool) -> None: ...

    def lose(self, output: int, numbers: Iterable[int]) -> None: ...

    def take_ready(self) -> list[int]: ...


class Target(Protocol):
    """What verifies chunks and keeps them, in worker threads; see
    :class:`~.partial.PartialFiles`."""

    def write(self, first: int, count: int, data: memoryview, source: str) -> None: ...

    def finish(self, output: int, checkpoint: Callable[[], None]) -> Sequence[int] | None: ...

    def disturbed(self) -> Sequence[int]: ...


class Shown(Protocol):
    """Who is told of each chunk that is here, so that others get it; see
    :class:`~.shared.SharedFetch`."""

    def add(self, number: int) -> None: ...
