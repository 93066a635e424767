"""What the uses need of a document: those of trio and of threads are like this."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import iscoroutinefunction
from typing import Any, Protocol, cast

from lattica.crdt.base.canonical import Plain
from lattica.crdt.types.cell import Sibling
from lattica.crdt.types.state import Holder
from lattica.nat.base.checks import check_type
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import PeerId


class RegistersLike(Protocol):
    """Names and values."""

    def __setitem__(self, name: str, value: Any, /) -> None: ...

    def get(self, name: str, /) -> Plain: ...

    def below(self, prefix: str) -> list[tuple[str, Plain]]: ...

    def conflicts(self, name: str) -> list[Sibling]: ...


class CounterLike(Protocol):
    """A number that all add to."""

    @property
    def value(self) -> int: ...

    def add(self, amount: int = 1) -> None: ...


class ClaimsLike(Protocol):
    """Items and their holders."""

    def claim(self, item: Plain, term: float) -> bool: ...

    def release(self, item: Plain) -> None: ...

    def is_held(self, item: Plain) -> bool: ...

    def holder(self, item: Plain) -> Holder | None: ...


class DocumentLike(Protocol):
    """A document."""

    @property
    def author(self) -> bytes: ...

    @property
    def registers(self) -> RegistersLike: ...

    def counter(self, name: str) -> CounterLike: ...

    def claims(self, name: str) -> ClaimsLike: ...

    def peer_of(self, author: bytes) -> PeerId | None: ...


def check_document(document: DocumentLike) -> None:
    """Raises TypeError for one of asyncio, whose methods are awaited."""
    if iscoroutinefunction(document.peer_of):
        raise TypeError(
            "a document of asyncio is used in its node's thread: "
            "await document.call(lambda each: ModelRegistry(each).models())"
        )


def checked_part(text: object, what: str) -> str:
    """A part of a register's name. Raises LocalProtocolError if it is none."""
    if not isinstance(text, str) or not text or "/" in text:
        raise LocalProtocolError(f"{what} is a text without slashes, and not empty: {text!r}")
    return text


def as_info(info: object) -> dict[str, Plain]:
    """What is told beside something. Raises LocalProtocolError if it is no mapping."""
    check_type("info", info or {}, Mapping, "a mapping")
    return dict(cast("Mapping[str, Plain]", info or {}))
