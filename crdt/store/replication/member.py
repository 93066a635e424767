"""A peer of a document, as its replica knows it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import trio

from lattica.crdt.store.replication.outbox import Outbox
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.backoff import Backoff


@dataclass(slots=True, eq=False)
class Member:
    """A connected peer that has the document, or may have it."""

    peer: PeerId
    scope: trio.CancelScope
    backoff: Backoff
    outbox: Outbox = field(default_factory=Outbox)
    has_it: bool = False
    wanted: trio.Event = field(default_factory=trio.Event)
    """Set when an exchange is due."""
    news: trio.Event = field(default_factory=trio.Event)
    """Set when the outbox has something."""
    was_asked: bool = False
    """Whether an exchange that was opened here came to its end."""
    synced_at: int = -1
    """The number that the last exchange had which came to its end."""
    moved_at: float = -math.inf
    """When it last sent news in an exchange, or took some."""
