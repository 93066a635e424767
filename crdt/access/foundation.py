"""Which rights do not only hold up each other. Pure.

An entry that gives a right is admitted if a right covers it, be it that it stands in an entry which
is admitted only by the first one. So it begins with what needs no right, and goes on from there:
the least set, which is the same wherever the same is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from lattica.crdt.access.capability import Capability
from lattica.crdt.entries.header import Header

P = TypeVar("P")


@dataclass(slots=True)
class _Entry(Generic[P]):
    """An entry that gives a right, and is not known to be admitted."""

    header: Header
    identity: bytes
    capability: Capability
    place: P | None = None
    """What is to be covered for it."""
    is_looked_at: bool = False


def unfounded(
    granted: Iterable[tuple[Header, bytes, Capability]],
    *,
    is_settled: Callable[[Header, bytes], bool],
    place_of: Callable[[Header, bytes], P | None],
    covers: Callable[[Capability, P], bool],
    covers_all: Callable[[Capability], bool],
) -> list[bytes]:
    """The IDs of those entries of which nothing says that they are admitted but each other.

    Args:
        granted: entries that give rights, whose they are, and these.
        is_settled: whether all that stands in an entry's chain needs no right; at little cost.
        place_of: what has to be covered for an entry of an identity to be admitted; None: nothing.
        covers: whether a right covers a place of whoever has it.
        covers_all: whether it covers all of these; at little cost.
    """
    wide: list[Capability] = []
    narrow: list[Capability] = []
    left: dict[bytes, list[_Entry[P]]] = {}
    done: set[bytes] = set()

    def found(capability: Capability) -> None:
        if capability.right.id not in done:
            done.add(capability.right.id)
            (wide if covers_all(capability) else narrow).append(capability)

    def is_admitted(entry: _Entry[P], by: Sequence[Capability]) -> bool:
        if not entry.is_looked_at:
            entry.is_looked_at = True
            entry.place = place_of(entry.header, entry.identity)
        if entry.place is None:
            return True
        if _is_shown(entry.header, entry.identity, entry.capability):
            by = (*by, entry.capability)
        return any(covers(each, entry.place) for each in by)

    def go_on(identity: bytes, by: Sequence[Capability]) -> None:
        waiting = []
        for entry in left.pop(identity, ()):
            if is_admitted(entry, by):
                found(entry.capability)
            else:
                waiting.append(entry)
        if waiting:
            left[identity] = waiting

    def spread() -> None:
        while wide or narrow:
            if wide:
                for entry in left.pop(wide.pop().right.subject, ()):
                    found(entry.capability)
                continue
            capability = narrow.pop()
            go_on(capability.right.subject, (capability,))

    for header, identity, capability in granted:
        is_wide = _is_shown(header, identity, capability) and covers_all(capability)
        if is_wide or is_settled(header, identity):
            found(capability)
        else:
            left.setdefault(identity, []).append(_Entry(header, identity, capability))
    spread()
    for identity in [*left]:
        go_on(identity, ())  # some need no right, or only what they show themselves
    spread()
    return [entry.header.id for entries in left.values() for entry in entries]


def _is_shown(header: Header, identity: bytes, capability: Capability) -> bool:
    """Whether it is the certificate of a session, which gives that a right."""
    return header.seq == 0 and capability.right.subject == identity
