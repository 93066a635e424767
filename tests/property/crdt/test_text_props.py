"""Texts and lists: all orders come to the same, which is what a plain model says."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.crdt.base.canonical import encode
from lattica.crdt.entries.header import Kind
from lattica.crdt.text.update_v1 import (
    MAX_CLIENT,
    Block,
    Item,
    Range,
    Update,
    decode_update,
    encode_update,
)
from lattica.crdt.types.state import State
from lattica.errors import RemoteProtocolError
from tests.support.crdt.chains import DOC
from tests.support.crdt.editors import Editor, PlainSequence, in_causal_order

STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["insert", "insert", "delete", "hear", "lie"]),
        st.integers(0, 2**16),
    ),
    min_size=3,
    max_size=30,
)
CONTENT = ["a", "bc", "😀", "d😀e", "é"]


def play(kind: Kind, steps: list[tuple[int, str, int]]) -> list[Editor]:
    clock = itertools.count(1)
    editors = [Editor(bytes([number]), clock) for number in range(3)]
    for who, what, number in steps:
        editor, rng = editors[who], random.Random(number)
        target = editor.text if kind == Kind.TEXT else editor.list
        start = rng.randint(0, len(target))
        content = rng.choice(CONTENT)
        match what:
            case "insert":
                stop = min(len(target), start + rng.choice([0, 0, 2]))
                replace(editor, kind, start, stop, content)
            case "delete":
                replace(editor, kind, start, rng.randint(start, len(target)), "")
            case "hear":
                other = editors[rng.randrange(3)]
                editor.hear(other, rng.randint(0, len(other.chain)))
            case "lie":
                lie(kind, editor, editors, rng)
    return editors


def replace(editor: Editor, kind: Kind, start: int, stop: int, content: str) -> None:
    if kind == Kind.TEXT:
        editor.text.replace(start, stop, content)
    else:
        editor.list.replace(start, stop, list(content))


def lie(kind: Kind, editor: Editor, editors: list[Editor], rng: random.Random) -> None:
    """An entry with places as no honest editor has them."""
    seen = [e.id for each in editors for e in each.chain if e.id in editor.seen]
    deps = tuple(sorted(set(rng.choices(seen, k=rng.randint(0, 3)))))

    def place() -> list[int] | None:
        return rng.choice([None, [rng.randint(-4, 3), rng.randint(0, 3)]])

    edits: list[object] = []
    for _ in range(rng.randint(1, 3)):
        content: object = rng.choice(CONTENT)
        content = content if kind == Kind.TEXT else list(content)  # type: ignore[call-overload]
        edits.append(
            rng.choice([[place(), place(), content], [place() or [-2, 0], rng.randint(1, 3)]])
        )
    editor.sign(kind, encode(["t", edits]), deps)  # type: ignore[list-item]


def shown(kind: Kind, state: State) -> object:
    return state.text("t") if kind == Kind.TEXT else state.elements("t")


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.LIST])
@settings(max_examples=30, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 2**32))
def test_all_orders_come_to_what_a_plain_model_says(kind, steps, seed):
    editors = play(kind, steps)
    chains = [editor.chain for editor in editors]
    rng = random.Random(seed)
    first = in_causal_order(chains, rng)
    model = PlainSequence(kind)
    for entry in first:
        model.apply(entry)
    expected: object = model.content
    if kind == Kind.TEXT:
        expected = "".join(model.content)  # type: ignore[arg-type]
    for order in (first, in_causal_order(chains, rng), in_causal_order(chains, rng)):
        state = State(DOC)
        for entry in order:
            state.apply(entry)
            if rng.random() < 0.2:
                shown(kind, state)
        assert shown(kind, state) == expected
    # And those who edited it, with what Yjs did while they did.
    for editor in editors:
        for _ in editors:
            for other in editors:
                editor.hear(other)
        assert shown(kind, editor.state) == expected


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_by_time_is_an_order_in_which_all_can_be_read_again(steps):
    editors = play(Kind.TEXT, steps)
    entries = sorted(
        (entry for editor in editors for entry in editor.chain),
        key=lambda entry: (entry.header.hlc, entry.header.author),
    )
    again = State(DOC)
    again.rebuild(lambda: entries)
    state = State(DOC)
    for entry in in_causal_order([editor.chain for editor in editors], random.Random(1)):
        state.apply(entry)
    assert again.text("t") == state.text("t")
    assert dict(again.items()) == dict(state.items())


IDS = st.tuples(st.integers(0, MAX_CLIENT), st.integers(0, 1000))
ITEMS = st.builds(
    Item,
    st.none() | IDS,
    st.none() | IDS,
    st.text(st.characters(codec="utf-8"), min_size=1)
    | st.lists(st.binary(max_size=20), min_size=1).map(tuple)
    | st.integers(1, 1000),
)
BLOCKS = st.lists(
    st.builds(
        Block,
        st.integers(0, MAX_CLIENT),
        st.integers(0, 1000),
        st.lists(ITEMS, min_size=1, max_size=4).map(tuple),
    ),
    max_size=3,
    unique_by=lambda block: block.client,
)


@given(BLOCKS, st.lists(st.builds(Range, st.just(7), st.integers(0, 99), st.integers(1, 99))))
def test_an_update_is_read_as_it_was_written(blocks, deleted):
    assert decode_update(encode_update(blocks, deleted)) == Update(tuple(blocks), tuple(deleted))


@given(BLOCKS, st.data())
def test_a_spoiled_update_is_an_update_or_refused(blocks, data):
    spoiled = bytearray(encode_update(blocks, ()))
    spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    for piece in (bytes(spoiled), bytes(spoiled[: data.draw(st.integers(0, len(spoiled)))])):
        try:
            decode_update(piece)
        except RemoteProtocolError:
            continue


@settings(max_examples=10, deadline=None)
@given(st.integers(400, 900), st.lists(st.integers(0, 10**6), min_size=1, max_size=6))
def test_what_is_long_goes_in_many_entries(limit, numbers):
    clock = itertools.count(1)
    one, two = Editor(b"1", clock), Editor(b"2", clock)
    one.genesis = type(DOC)("small", limits=type(DOC.limits)(entry_bytes=limit))
    for number in numbers:
        rng = random.Random(number)
        text = "".join(rng.choices("ab😀é", k=rng.randint(1, 2000)))
        one.text.insert(rng.randint(0, len(one.text)), text)
        one.list.insert(rng.randint(0, len(one.list)), *text[:100])
    two.hear(one)
    one.text.replace(1, len(one.text), "x")
    two.text.insert(1, "y")
    one.hear(two)
    two.hear(one)
    assert all(len(entry.payload or b"") <= limit for entry in one.chain)
    assert str(one.text) == str(two.text)
    assert {*str(one.text)} >= {"x", "y"}
    assert list(one.list) == list(two.list)
