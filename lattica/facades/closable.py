"""What `with` closes."""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType
from typing import Self


class Closable:
    """Something that :meth:`close` ends without waiting; the end of a `with` block does, too."""

    @abstractmethod
    def close(self) -> None:
        """End it; any number of times."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
