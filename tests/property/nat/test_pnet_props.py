"""Private networks: any split of the bytes gives the same plaintext; the stream is NaCl's."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_secretbox

from lattica.errors import ConfigError
from lattica.nat.base.keys.swarm_key import parse_swarm_key
from lattica.nat.transport.pnet import PnetCipher, xsalsa20

keys = st.binary(min_size=32, max_size=32)
cut_lists = st.lists(st.integers(0, 1000), max_size=10)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(keys, st.binary(max_size=400), cut_lists, cut_lists)
def test_any_split_gives_the_same_bytes(
    key: bytes, data: bytes, sent: list[int], received: list[int]
) -> None:
    sender, receiver = PnetCipher(key), PnetCipher(key)
    wire = sender.data_to_send() + b"".join(map(sender.encrypt, split(data, sent)))
    assert b"".join(map(receiver.receive, split(wire, received))) == data


@given(keys, st.binary(min_size=24, max_size=24), st.binary(max_size=200))
def test_the_stream_is_nacls(key: bytes, nonce: bytes, data: bytes) -> None:
    assert (
        xsalsa20(key, nonce).encrypt(bytes(32) + data)[32:]
        == (crypto_secretbox(data, nonce, key)[16:])
    )


@given(keys)
def test_key_file_round_trip(key: bytes) -> None:
    assert parse_swarm_key(f"/key/swarm/psk/1.0.0/\n/base16/\n{key.hex()}\n".encode()) == key


@given(st.binary(max_size=100), st.sampled_from(["16", "64", ""]))
def test_any_other_file_is_refused_with_words(rest: bytes, base: str) -> None:
    start = f"/key/swarm/psk/1.0.0/\n/base{base}/\n" if base else ""
    with contextlib.suppress(ConfigError):
        assert len(parse_swarm_key(start.encode() + rest)) == 32
