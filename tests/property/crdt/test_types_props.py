"""The resolved state is a function of the set of entries, and what a plain model says of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lattica.crdt.base.canonical import encode
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.types.payloads import (
    KINDS,
    ClaimWrite,
    CounterWrite,
    RegisterWrite,
    SetWrite,
    Write,
    decode_write,
)
from lattica.crdt.types.state import State
from tests.support.crdt.chains import DOC, START, Writer

WRITERS = [Writer(b"%d" % number) for number in range(3)]
NAMES = st.sampled_from(["a", "b"])
ITEMS = st.integers(0, 1)
TIMES = [START + ms for ms in range(0, 60, 3)]


@dataclass
class Author:
    """One who writes with what he has seen, and so knows what he replaces."""

    writer: Writer
    state: State
    chain: list[Entry]
    seen: set[bytes]

    def see(self, entry: Entry) -> None:
        if entry.id not in self.seen:
            self.seen.add(entry.id)
            self.state.apply(entry)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["register", "counter", "set", "claim", "see"]),
        NAMES,
        ITEMS,
        st.integers(0, 3),
    ),
    max_size=30,
)


def play(steps: Sequence[tuple[int, str, str, int, int]]) -> list[Author]:
    """Authors that write, and see of each other as much as the steps say."""
    authors = [Author(writer, State(DOC), list(writer.chain(1)), set()) for writer in WRITERS]
    now = START
    for number, what, name, item, value in steps:
        author = authors[number]
        now += 1
        write: Write
        match what:
            case "see":
                for entry in authors[value % 3].chain:
                    author.see(entry)
                continue
            case "register":
                content = value or None
                write = RegisterWrite(name, content, author.state.replaced_at(name))
            case "counter":
                plus, minus = author.state.totals(name, author.writer.author)
                write = CounterWrite(name, plus + value, minus + item)
            case "set":
                replaced = author.state.replaced_in(name, item)
                write = SetWrite(name, item, value > 1, replaced)
            case _:
                write = ClaimWrite(name, item, value * 10)
        before = author.chain[-1]
        entry = sign_entry(
            author.writer.session,
            DOC.doc_id,
            len(author.chain),
            before.id,
            now << 16,
            KINDS[type(write)],
            write.encode(),
        )
        author.chain.append(entry)
        author.see(entry)
    return authors


def shuffled(chains: Sequence[Sequence[Entry]], seed: int) -> list[Entry]:
    """All entries, each author's in his order."""
    rng, left, order = random.Random(seed), [list(chain) for chain in chains], []
    while any(left):
        order.append(rng.choice([chain for chain in left if chain]).pop(0))
    return order


def shown(state: State) -> object:
    return (
        list(state.registers()),
        {name: state.conflicts(name) for name in "ab"},
        list(state.counters()),
        {name: state.members(name) for name in "ab"},
        {(name, now): list(state.claimed(name, now)) for name in "ab" for now in TIMES},
    )


def resolved(entries: Sequence[Entry]) -> State:
    state = State(DOC)
    for entry in entries:
        state.apply(entry)
    return state


@given(STEPS, st.integers(), st.integers())
def test_the_order_in_which_entries_come_does_not_matter(steps, first, second):
    chains = [author.chain for author in play(steps)]
    assert shown(resolved(shuffled(chains, first))) == shown(resolved(shuffled(chains, second)))
    again = resolved(shuffled(chains, first))
    again.rebuild(lambda: shuffled(chains, second))
    assert shown(again) == shown(resolved(shuffled(chains, first)))


@given(STEPS, st.integers())
def test_the_state_is_what_a_plain_model_says(steps, seed):
    chains = [author.chain for author in play(steps)]
    state = resolved(shuffled(chains, seed))
    writes = [
        (entry, decode_write(entry.header.kind, entry.payload or b""))
        for chain in chains
        for entry in chain
    ]
    for name in "ab":
        at = [(e, w) for e, w in writes if isinstance(w, RegisterWrite) and w.name == name]
        last = max(at, key=lambda each: (each[0].header.hlc, each[0].header.author), default=None)
        assert state.register(name) == (last[1].value if last else None)
        assert {each.entry_id for each in state.conflicts(name)} == standing(at)

        counted = 0
        for chain in chains:
            mine = [
                w
                for w in (decode_write(e.header.kind, e.payload or b"") for e in chain)
                if isinstance(w, CounterWrite) and w.name == name
            ]
            counted += mine[-1].increments - mine[-1].decrements if mine else 0
        assert state.counter(name) == counted

        for item in (0, 1):
            put = [
                (e, w)
                for e, w in writes
                if isinstance(w, SetWrite) and (w.name, w.element) == (name, item)
            ]
            left = standing(put)
            is_there = any(w.is_present for e, w in put if e.id in left)
            assert state.has_member(name, item) == is_there
            assert (item in state.members(name)) == is_there


def standing(writes: Sequence[tuple[Entry, RegisterWrite | SetWrite]]) -> set[bytes]:
    """Each author's newest write, unless somebody who knew it wrote."""
    newest = {entry.header.author: entry.id for entry, _ in writes}
    replaced = {each for _, write in writes for each in write.replaced}
    return {entry_id for entry_id in newest.values() if entry_id not in replaced}


@given(STEPS, st.integers(), st.integers(0, 60))
def test_an_item_has_one_holder_and_he_has_claimed_it(steps, seed, offset):
    chains = [author.chain for author in play(steps)]
    state, now = resolved(shuffled(chains, seed)), START + offset
    for name in "ab":
        for item, holder in state.claimed(name, now):
            (chain,) = (chain for chain in chains if chain[0].header.author == holder.author)
            claims = [
                (entry.header.hlc >> 16, write.term)
                for entry in chain
                if isinstance(
                    write := decode_write(entry.header.kind, entry.payload or b""), ClaimWrite
                )
                and (write.name, write.item) == (name, item)
            ]
            start, term = claims[-1]
            assert now < start + term == holder.until


@given(
    st.binary(max_size=60)
    | st.lists(st.integers() | st.text() | st.booleans()).map(repr).map(str.encode),
    st.sampled_from(Kind),
)
def test_a_payload_that_is_none_takes_no_effect(payload, kind):
    writer = WRITERS[0]
    (first,) = writer.chain(1)
    kind = Kind.REGISTER if kind is Kind.SESSION else kind
    entry = sign_entry(writer.session, DOC.doc_id, 1, first.id, (START + 1) << 16, kind, payload)
    state = State(DOC)
    if state.apply(entry) is None:
        assert shown(state) == shown(State(DOC))


def test_encodings_are_those_of_the_format():
    assert RegisterWrite("a", 1, (bytes(32),)).encode() == encode(["a", 1, [bytes(32)]])
    assert CounterWrite("a", 1, 2).encode() == encode(["a", 1, 2])
    assert SetWrite("a", "e", True).encode() == encode(["a", "e", True, []])
    assert ClaimWrite("a", "i", 5).encode() == encode(["a", "i", 5])
