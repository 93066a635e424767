"""What `with` closes, and what says which of `with` and `async with` it is used with."""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType
from typing import NoReturn, Self


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


class OnlyWith:
    """Base of what blocks, or does not wait: under `async with` it says what is for that."""

    def __aenter__(self) -> NoReturn:
        raise _wrong(self, "with", "async with")

    def __aexit__(self, *_: object) -> NoReturn:
        raise _wrong(self, "with", "async with")


class OnlyAsyncWith:
    """Base of what is awaited: under `with` it says what is for that."""

    def __enter__(self) -> NoReturn:
        raise _wrong(self, "async with", "with")

    def __exit__(self, *_: object) -> NoReturn:
        raise _wrong(self, "async with", "with")


def _wrong(used: object, right: str, wrong: str) -> TypeError:
    name = type(used).__name__
    other = other_facade(name)
    has_both = right == "with" and name.startswith("Async")  # `with` is what asyncio has, too
    instead = "" if has_both else f"; `{wrong}` is for {other}"
    return TypeError(f"use `{right}` for {name}{instead} (docs/guides/programs.md)")


def other_facade(name: str) -> str:
    """What the class of a facade is called in the other one."""
    if name.startswith("Blocking"):
        return name.replace("Blocking", "Async", 1)
    if name == "AsyncLattica":
        return "Lattica"
    if name.startswith("Async"):
        return name.replace("Async", "Blocking", 1)
    return "AsyncLattica"
