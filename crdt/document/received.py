"""What a document says of something that has come."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.crdt.log.outcome import Refusal
from lattica.crdt.types.state import Change


@dataclass(frozen=True, slots=True)
class Received:
    """What came of something that a peer has sent."""

    changes: tuple[Change, ...] = ()
    is_rebuilt: bool = False
    """Whether more may have changed than is said: entries were withdrawn, or the state has not been
    read yet."""
    refusals: tuple[Refusal, ...] = ()
    waiting: int = 0
    """Entries that wait for others, or for their time."""
    is_news: bool = False
    """Whether anything was admitted, or withdrawn."""
    is_of_use: bool = False
    """Whether it is so, or it is known by it what is to come before something."""
