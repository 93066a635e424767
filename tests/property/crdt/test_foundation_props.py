"""The rights that stand by others, beside the least set in the words of its definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lattica.crdt.access.foundation import unfounded


@dataclass(frozen=True)
class Link:
    id: int
    subject: int


@dataclass(frozen=True)
class Right:
    """Covers the places below a number, or all."""

    right: Link
    below: int | None


@dataclass(frozen=True)
class Place:
    id: int
    seq: int
    identity: int
    capability: Right
    is_settled: bool
    place: int | None


rights = st.builds(
    Right, st.builds(Link, st.integers(0, 8), st.integers(0, 3)), st.none() | st.integers(0, 4)
)
entries = st.builds(
    Place,
    st.just(0),
    st.integers(0, 2),
    st.integers(0, 3),
    rights,
    st.integers(0, 5).map(lambda number: number == 0),
    st.integers(0, 5).map(lambda number: None if number == 5 else number),
)


def admitted(all_entries: list[Place]) -> set[int]:
    found: set[int] = set()
    while True:
        more = {each.id for each in all_entries if is_admitted(each, all_entries, found)}
        if more == found:
            return found
        found = more


def is_admitted(entry: Place, all_entries: list[Place], found: set[int]) -> bool:
    shows = entry.seq == 0 and entry.capability.right.subject == entry.identity
    by = [each.capability for each in all_entries if each.id in found]
    return (
        entry.is_settled
        or entry.place is None
        or any(
            covers(each, entry.place)
            for each in (*by, *([entry.capability] if shows else ()))
            if each.right.subject == entry.identity
        )
    )


def covers(right: Any, place: int) -> bool:
    return right.below is None or place < right.below


@given(st.lists(entries, max_size=14))
def test_it_is_the_least_set(drawn):
    # What an ID names is one and the same right.
    named: dict[int, Right] = {}
    found = [
        Place(
            number,
            each.seq,
            each.identity,
            named.setdefault(each.capability.right.id, each.capability),
            each.is_settled,
            each.place,
        )
        for number, each in enumerate(drawn)
    ]
    left = unfounded(
        [(each, each.identity, each.capability) for each in found],  # type: ignore[misc]
        is_settled=lambda header, identity: header.is_settled,  # type: ignore[attr-defined]
        place_of=lambda header, identity: header.place,  # type: ignore[attr-defined]
        covers=covers,
        covers_all=lambda right: right.below is None,  # type: ignore[attr-defined]
    )
    assert {each.id for each in found} - {*left} == admitted(found)
    assert len(left) == len({*left})
