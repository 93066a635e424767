"""What each type shows where several write at once, and what counts for nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lattica.crdt.base.canonical import Plain, encode
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.types.payloads import ClaimWrite, CounterWrite, RegisterWrite, SetWrite
from lattica.crdt.types.state import Change, State
from tests.support.crdt.chains import DOC, START, Writer

A, B, C = Writer(b"a"), Writer(b"b"), Writer(b"c")


def entry(writer: Writer, seq: int, ms: int, kind: Kind, payload: bytes) -> Entry:
    return sign_entry(writer.session, DOC.doc_id, seq, bytes(32), (START + ms) << 16, kind, payload)


def register(
    writer: Writer, seq: int, ms: int, value: Plain, replaced: tuple[bytes, ...] = ()
) -> Entry:
    return entry(writer, seq, ms, Kind.REGISTER, RegisterWrite("r", value, replaced).encode())


def test_concurrent_values_are_shown_until_somebody_who_knows_both_writes():
    state = State(DOC)
    assert state.apply(register(A, 1, 1, "one")) == Change(Kind.REGISTER, "r")
    state.apply(register(B, 1, 2, "two"))
    assert state.register("r") == "two"
    assert [each.value for each in state.conflicts("r")] == ["two", "one"]
    both = state.replaced_at("r")
    assert len(both) == 2
    state.apply(register(C, 1, 3, "three", both))
    assert [each.value for each in state.conflicts("r")] == ["three"]
    assert list(state.registers()) == [("r", "three")]


def test_at_one_time_the_author_decides():
    one, two = register(A, 1, 1, "a"), register(B, 1, 1, "b")
    winner = "a" if A.author > B.author else "b"
    for order in ((one, two), (two, one)):
        state = State(DOC)
        for each in order:
            state.apply(each)
        assert state.register("r") == winner


def test_nobody_replaces_what_is_later_than_his_write():
    late, early = register(A, 1, 9, "late"), register(B, 1, 1, "early")
    backdated = register(B, 1, 1, "early", (late.id,))
    for order in ((late, backdated), (backdated, late)):
        state = State(DOC)
        for each in order:
            state.apply(each)
        assert state.register("r") == "late"
        assert early.id != backdated.id


def test_a_deleted_value_is_gone_and_a_concurrent_one_is_shown():
    state = State(DOC)
    state.apply(register(A, 1, 1, "one"))
    state.apply(register(B, 1, 2, None))
    assert state.register("r") is None
    assert list(state.registers()) == []
    assert [each.value for each in state.conflicts("r")] == [None, "one"]


def test_who_puts_in_wins_against_who_takes_out_without_knowing():
    state = State(DOC)
    state.apply(entry(A, 1, 1, Kind.SET, SetWrite("s", "x", True).encode()))
    seen = state.replaced_in("s", "x")
    state.apply(entry(C, 1, 2, Kind.SET, SetWrite("s", "x", True).encode()))
    state.apply(entry(B, 1, 3, Kind.SET, SetWrite("s", "x", False, seen).encode()))
    assert state.members("s") == ["x"]
    rest = state.replaced_in("s", "x")
    state.apply(entry(B, 2, 4, Kind.SET, SetWrite("s", "x", False, rest).encode()))
    assert not state.has_member("s", "x")
    assert state.sets() == ("s",)


def test_a_counter_counts_each_authors_totals_and_no_decrease():
    state = State(DOC)
    for seq, totals in enumerate([(5, 1), (3, 0), (7, 1)], 1):
        state.apply(entry(A, seq, seq, Kind.COUNTER, CounterWrite("n", *totals).encode()))
    state.apply(entry(B, 1, 1, Kind.COUNTER, CounterWrite("n", 0, 10).encode()))
    assert state.totals("n", A.author) == (7, 1)
    assert state.counter("n") == -4
    assert list(state.counters()) == [("n", -4)]


def claim(writer: Writer, seq: int, ms: int, term: int) -> Entry:
    return entry(writer, seq, ms, Kind.CLAIM, ClaimWrite("jobs", 1, term).encode())


def test_the_first_holds_until_his_term_ends_or_he_gives_it_back():
    state = State(DOC)
    state.apply(claim(B, 1, 5, 100))
    state.apply(claim(A, 1, 0, 10))

    def holder(ms: int) -> bytes | None:
        found = state.holder("jobs", 1, START + ms)
        return found.author if found else None

    assert [holder(ms) for ms in (9, 10, 104, 105)] == [A.author, B.author, B.author, None]
    state.apply(claim(A, 2, 9, 10))  # renewed in time
    assert [holder(ms) for ms in (18, 19)] == [A.author, B.author]
    state.apply(claim(A, 3, 19, 50))  # too late: his claim begins anew, after the other one
    assert [holder(ms) for ms in (20, 60)] == [B.author, B.author]
    state.apply(claim(B, 2, 21, 0))
    assert holder(22) == A.author
    assert [item for item, _ in state.claimed("jobs", START + 22)] == [1]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.REGISTER, ["r", 1]),
        (Kind.REGISTER, ["r", 1, [b"short"]]),
        (Kind.REGISTER, ["r", 1, [b"2" * 32, b"1" * 32]]),
        (Kind.REGISTER, ["r", 1, [bytes([n]) * 32 for n in range(65)]]),
        (Kind.REGISTER, ["r" * 1025, 1, []]),
        (Kind.REGISTER, [b"r", 1, []]),
        (Kind.COUNTER, ["n", True, 0]),
        (Kind.COUNTER, ["n", -1, 0]),
        (Kind.COUNTER, ["n", 1.0, 0]),
        (Kind.SET, ["s", 1, 1, []]),
        (Kind.CLAIM, ["jobs", 1, 24 * 3600 * 1000 + 1]),
        (Kind.CLAIM, ["jobs", 1, False]),
    ],
)
def test_a_payload_that_breaks_the_format_takes_no_effect(kind, payload):
    assert State(DOC).apply(entry(A, 1, 1, kind, encode(payload))) is None


def test_what_is_left_out_unknown_or_not_of_the_document_takes_no_effect():
    write = register(A, 1, 1, "one")
    state = State(DOC)
    assert state.apply(replace(write, payload=None)) is None
    assert state.apply(replace(write, header=replace(write.header, kind=200))) is None
    assert State(replace(DOC, kinds=(Kind.COUNTER,))).apply(write) is None
    assert state.apply(A.chain(1)[0]) is None
