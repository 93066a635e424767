"""Strict Ed25519 on the edge cases of "Taming the many EdDSAs", and on keys that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lattica.crdt.keys.session import SessionKey
from lattica.crdt.keys.strict_ed25519 import load_key, verifies
from lattica.errors import RemoteProtocolError

CASES = json.loads((Path(__file__).parents[3] / "vectors/ed25519_speccheck.json").read_text())[
    "cases"
]


def test_edge_cases_are_judged_as_dalek_strict_judges_them():
    # The table of ed25519-speccheck's README, "Dalek strict".
    verdicts = [
        verifies(*(bytes.fromhex(case[part]) for part in ("pub_key", "signature", "message")))
        for case in CASES
    ]
    assert verdicts == [number == 3 for number in range(12)]


def test_under_a_key_of_small_order_nothing_is_signed():
    one = (1).to_bytes(32, "little")
    # R = [S]B - [k]A with S = 0 and A of order 1 is the neutral element for every message.
    assert not verifies(one, one + bytes(32), b"whatever")
    with pytest.raises(RemoteProtocolError):
        load_key(one)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_another_length_is_none(size):
    assert not verifies(bytes(size), bytes(64), b"")
    with pytest.raises(RemoteProtocolError, match="32"):
        load_key(bytes(size))


def test_any_flipped_bit_of_a_signature_is_noticed():
    key = SessionKey(bytes(range(32)))
    signature = key.sign(b"data")
    assert verifies(key.author, signature, b"data")
    for bit in range(512):
        flipped = int.from_bytes(signature, "big") ^ 1 << bit
        assert not verifies(key.author, flipped.to_bytes(64, "big"), b"data")
    assert not verifies(key.author, signature[:-1], b"data")
    assert not verifies(key.author, signature + b"\0", b"data")
