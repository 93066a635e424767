"""Quotas: who has room, and who yields where there is none."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.dht.store.deadlines import Deadlines
from lattica.nat.base.limits.quotas import Quotas, source_for

A, B = (source_for(name, f"192.0.{n}.0/24") for n, name in enumerate("ab"))


def test_a_peer_and_a_network_have_limits_of_their_own():
    quotas: Quotas[str] = Quotas(100, 5, 8)
    assert quotas.admit("one", A, 5) == []
    assert quotas.admit("two", A, 1) is None
    neighbour = source_for("neighbour", str(A.network))
    assert quotas.admit("three", neighbour, 4) is None
    assert quotas.admit("three", neighbour, 3) == []
    quotas.release("one")
    assert quotas.admit("two", A, 5) == []


def test_whoever_has_most_yields_to_one_that_has_less():
    quotas: Quotas[str] = Quotas(10, 10, 10)
    for number in range(9):
        assert quotas.admit(f"a{number}", A, 1) == []
    assert quotas.admit("b0", B, 1) == []
    assert quotas.admit("b1", B, 1) == ["a0"]
    assert quotas.admit("a9", A, 1) is None  # it has most itself
    for number in range(2, 5):
        assert quotas.admit(f"b{number}", B, 1) == [f"a{number - 1}"]
    # Now both have five, and nobody yields.
    assert quotas.admit("b5", B, 1) is None
    assert quotas.used == 10


def test_many_identities_of_one_network_displace_nobody_else():
    quotas: Quotas[str] = Quotas(10, 10, 10)
    assert quotas.admit("honest", B, 1) == []
    for number in range(50):
        quotas.admit(f"sybil{number}", source_for(f"peer{number}", str(A.network)), 1)
    assert quotas.source_of("honest") == B
    assert quotas.used == 10


def test_a_record_that_cannot_grow_stays_what_it_was():
    quotas: Quotas[str] = Quotas(10, 5, 10)
    quotas.admit("one", A, 3)
    assert quotas.admit("one", A, 6) is None
    assert quotas.used == 3
    assert quotas.admit("one", A, 5) == []
    assert quotas.used == 5


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, 2), st.integers(1, 6)),
        max_size=60,
    )
)
@settings(max_examples=80)
def test_limits_hold_whatever_comes(steps):
    quotas: Quotas[int] = Quotas(20, 8, 12)
    there: dict[int, tuple[object, int]] = {}
    for record, peer, network, weight in steps:
        source = source_for((peer, network), f"192.0.{network}.0/24")
        evicted = quotas.admit(record, source, weight)
        if evicted is not None:
            for other in evicted:
                del there[other]
            there[record] = source, weight
        assert quotas.used == sum(w for _, w in there.values()) <= 20
        for key in {s for s, _ in there.values()}:
            assert sum(w for s, w in there.values() if s == key) <= 8
        assert {r: quotas.source_of(r) for r in there} == {r: s for r, (s, _) in there.items()}


def test_deadlines_that_change_all_the_time_take_no_memory():
    deadlines: Deadlines[str] = Deadlines()
    for number in range(10_000):
        deadlines["one"] = 100.0 + number
    assert len(deadlines._heap) < 200
    assert list(deadlines.take_due(100.0)) == []
    assert list(deadlines.take_due(20_000.0)) == ["one"]
    assert list(deadlines.take_due(20_000.0)) == []
    deadlines["two"] = 1.0
    deadlines.discard("two")
    assert list(deadlines.take_due(2.0)) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.none() | st.floats(0, 5) | st.integers(0, 5).map(float)
        )
    ),
    st.lists(st.floats(0, 6), max_size=4).map(sorted),
)
def test_deadlines_are_as_of_a_dict(changes, looks):
    deadlines: Deadlines[str] = Deadlines()
    there: dict[str, float] = {}
    for key, until in changes:
        if until is None:
            deadlines.discard(key)
            there.pop(key, None)
        else:
            deadlines[key] = there[key] = until
    for now in looks:
        due = {key for key, until in there.items() if until <= now}
        assert set(deadlines.take_due(now)) == due
        for key in due:
            del there[key]
        assert len(deadlines) == len(there)
    assert {key: deadlines.get(key) for key in "abcd"} == {key: there.get(key) for key in "abcd"}
