"""Reconciliation finds exactly what differs; messages come back as they were, and bytes raise
nothing but RemoteProtocolError.
"""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from lattica.crdt.sync.heads import Head, HeadIndex
from lattica.crdt.sync.messages import (
    Hello,
    Purpose,
    Ranges,
    Want,
    Wants,
    decode_message,
    encode_hello,
    encode_ranges,
    encode_wants,
)
from lattica.crdt.sync.ranges import answer_ranges, first_ranges
from lattica.errors import RemoteProtocolError

NONCE = b"n" * 16
# Few bytes that differ, so that authors stand close together.
AUTHORS = st.lists(st.sampled_from([0, 1, 255]), min_size=4, max_size=4).map(
    lambda tail: bytes(28) + bytes(tail)
) | st.binary(min_size=32, max_size=32)
HEADS = st.builds(
    lambda author, length, newest, fork: Head(
        author, length, newest * 16 if length else b"", fork if length else 0
    ),
    AUTHORS,
    st.integers(0, 3),
    st.sampled_from([b"a", b"b"]),
    st.none() | st.integers(0, 3),
)
SETS = st.lists(HEADS, max_size=120, unique_by=lambda head: head.author)


def _index(heads: list[Head]) -> HeadIndex:
    index = HeadIndex()
    for head in heads:
        index.set(head)
    return index


@given(SETS, SETS, st.randoms())
def test_exactly_what_differs_is_found(common, others, random):
    changed = [head for head in common if random.random() < 0.9]
    one, two = _index(common), _index([*changed, *others])
    mine = {head.author: head for head in one.heads(b"", None)}
    other = {head.author: head for head in two.heads(b"", None)}
    expected = {key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key)}
    found: set[bytes] = set()
    sides, ranges = [two, one], first_ranges(one, NONCE)
    for _ in range(12):
        for message in encode_ranges(ranges):
            decoded = decode_message(message)
            assert isinstance(decoded, Ranges)
        ranges, differences = answer_ranges(sides[0], NONCE, ranges)
        sides.reverse()
        for each in differences:
            assert each.author not in found
            found.add(each.author)
    assert not ranges
    assert found == expected


@given(SETS, st.data())
def test_the_index_is_that_of_the_same_heads_in_any_order(heads, data):
    shuffled = data.draw(st.permutations(heads))
    one, two = _index(heads), _index([*heads, *shuffled])
    low = data.draw(AUTHORS)
    assert one.heads(b"", None) == two.heads(b"", None)
    assert one.fingerprint(NONCE, low, None) == two.fingerprint(NONCE, low, None)
    pieces = one.split(b"", None, data.draw(st.integers(1, 20)))
    assert [head for each in pieces for head in one.heads(*each)] == one.heads(b"", None)


@given(SETS)
def test_ranges_come_back(heads):
    ranges = first_ranges(_index(heads), NONCE)
    decoded = [decode_message(message) for message in encode_ranges(ranges)]
    assert [each for part in decoded if isinstance(part, Ranges) for each in part.ranges] == ranges


@given(st.lists(st.builds(Want, AUTHORS, st.integers(0, 2**32 - 1), st.booleans()), max_size=9))
def test_wants_and_hellos_come_back(wants):
    decoded = [decode_message(message) for message in encode_wants(wants)]
    assert [each for part in decoded if isinstance(part, Wants) for each in part.wants] == wants
    hello = Hello(Purpose.PUSH, NONCE, bytes(32))
    assert decode_message(encode_hello(hello)) == hello


@given(st.binary(max_size=300), st.data())
def test_nothing_but_a_protocol_error_comes_from_bytes(data, source):
    with contextlib.suppress(RemoteProtocolError):
        decode_message(data)
    heads = [Head(bytes([number]) * 32, 1, bytes(16)) for number in range(3)]
    message = bytearray(next(encode_ranges(first_ranges(_index(heads), NONCE))))
    message[source.draw(st.integers(0, len(message) - 1))] ^= 1 << source.draw(st.integers(0, 7))
    with contextlib.suppress(RemoteProtocolError):
        decode_message(bytes(message))
