"""Equal items have one root; a proof shows what is there and what is not, and no bit of it can be
another one.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.crdt.tree.search_tree import (
    SearchTree,
    encode_proof,
    layer_of,
    node_hash,
    verify_range,
)
from lattica.errors import RemoteProtocolError

KEYS = st.binary(max_size=3)
ITEMS = st.dictionaries(KEYS, st.binary(max_size=4), max_size=60)


@given(ITEMS, st.randoms())
def test_the_order_does_not_matter_and_the_content_does(items, rng):
    shuffled = list(items.items())
    rng.shuffle(shuffled)
    root = SearchTree(items).root
    assert SearchTree(dict(shuffled)).root == root
    for key in items:
        assert SearchTree({**items, key: items[key] + b"x"}).root != root
        assert SearchTree({other: items[other] for other in items if other != key}).root != root


@given(ITEMS, KEYS, KEYS)
def test_a_range_is_proved_with_what_is_in_it(items, one, other):
    tree = SearchTree(items)
    low, high = sorted((one, other))
    proof = tree.prove(low, high)
    expected = {key: value for key, value in items.items() if low <= key <= high}
    assert verify_range(tree.root, proof, low, high) == expected
    present = verify_range(tree.root, tree.prove(one, one), one, one)
    assert present == ({one: items[one]} if one in items else {})


@given(ITEMS, KEYS, st.data())
def test_no_bit_of_a_proof_can_be_another_one(items, key, data):
    tree = SearchTree(items)
    proof = tree.prove(key, key)
    bit = data.draw(st.integers(0, len(proof) * 8 - 1))
    flipped = (int.from_bytes(proof, "big") ^ 1 << bit).to_bytes(len(proof), "big")
    for wrong in (flipped, proof[:-1], proof + b"\0", proof + proof, b""):
        with pytest.raises(RemoteProtocolError):
            verify_range(tree.root, wrong, key, key)
    with pytest.raises(RemoteProtocolError):
        verify_range(bytes(32), proof, key, key)


@given(st.binary(max_size=100))
def test_nothing_but_a_protocol_error_comes_from_bytes(data):
    with pytest.raises(RemoteProtocolError):
        verify_range(bytes(32), data, b"", b"z")


def test_many_keys_of_one_layer_make_a_large_node_and_no_failure():
    items = {key: b"" for key in (b"%d" % number for number in range(8000)) if layer_of(key) == 0}
    tree = SearchTree(items)
    assert len(items) > 4096
    assert verify_range(tree.root, tree.prove(b"1", b"1"), b"1", b"1").keys() <= {b"1"}
    assert verify_range(tree.root, tree.prove(b"", b"z"), b"", b"z") == items


def test_a_key_twice_or_out_of_its_place_is_refused_whoever_made_the_root():
    key = next(b"%d" % number for number in range(99) if layer_of(b"%d" % number) == 0)
    high = next(b"%d" % number for number in range(99) if layer_of(b"%d" % number) == 1)
    item = b"\0\0\0" + bytes([len(key)]) + key + b"\0\0\0\0"
    twice = b"\0" + (item + b"\0") * 2
    inner = b"\0\0\0\0" + bytes([len(high)]) + high + b"\0\0\0\0\0"
    above = b"\1" + node_hash(inner) + item + b"\1" + node_hash(inner)
    for nodes in ([twice], [above, inner], [b"\0" + item + b"\2"]):
        with pytest.raises(RemoteProtocolError):
            verify_range(node_hash(nodes[0]), encode_proof(nodes), b"", b"z")


def test_proofs_grow_with_the_logarithm():
    rng = random.Random(1)
    items = {rng.randbytes(16): rng.randbytes(32) for _ in range(5000)}
    tree = SearchTree(items)
    sizes = sorted(len(tree.prove(key, key)) for key in list(items)[:200])
    assert sizes[100] < 3_000
    absent = rng.randbytes(16)
    assert verify_range(tree.root, tree.prove(absent, absent), absent, absent) == {}
    assert verify_range(tree.root, tree.prove(b"", b"\xff" * 17), b"", b"\xff" * 17) == items


def test_a_quarter_of_the_keys_is_above_each_layer():
    layers = [layer_of(b"%d" % number) for number in range(4000)]
    assert 900 < sum(layer >= 1 for layer in layers) < 1100
    assert 200 < sum(layer >= 2 for layer in layers) < 300
