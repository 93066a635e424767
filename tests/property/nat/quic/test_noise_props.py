"""Noise on QUIC's stream 0: how the bytes are cut never matters; no change gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.quic.session.noise import QuicNoise

ALICE, BOB = Identity.generate(), Identity.generate()
HASH = bytes(range(32))
KEY = b"\x07" * 32

cut_lists = st.lists(st.integers(0, 2**16), max_size=12)
keys = st.sampled_from([None, KEY])


def pair(key: bytes | None) -> tuple[QuicNoise, QuicNoise]:
    def side(identity: Identity, initiator: bool) -> QuicNoise:
        return QuicNoise(
            identity, initiator=initiator, certificate_hash=HASH, private_network_key=key
        )

    return side(ALICE, True), side(BOB, False)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    # Nothing is left for the end, not even an empty piece: the exchange may be over by then.
    places = sorted({cut % max(1, len(data)) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def feed(noise: QuicNoise, data: bytes, cuts: list[int]) -> bytes:
    """Feed pieces while they are the exchange's; return all that follows it."""
    pieces = split(data, cuts)
    for index, piece in enumerate(pieces):
        noise.feed(piece)
        if noise.result is not None:
            return noise.rest + b"".join(pieces[index + 1 :])
    return b""


@given(keys, cut_lists, st.binary(max_size=50))
def test_any_split_gives_the_same(key: bytes | None, cuts: list[int], control: bytes) -> None:
    a, b = pair(key)
    assert feed(b, a.data_to_send(), cuts) == b""
    assert feed(a, b.data_to_send() + control, cuts) == control
    assert feed(b, a.data_to_send() + control, cuts) == control
    assert a.result is not None
    assert b.result is not None
    assert (a.result.peer_id, b.result.peer_id) == (BOB.peer_id, ALICE.peer_id)


@given(
    keys,
    st.integers(0, 2),
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 2**16), st.integers(1, 255)),
        st.tuples(st.just("cut"), st.integers(0, 2**16), st.integers(1, 2**16)),
        st.tuples(st.just("insert"), st.integers(0, 2**16), st.integers(0, 255)),
    ),
    cut_lists,
)
def test_any_change_is_refused(
    key: bytes | None, flight: int, change: tuple[str, int, int], cuts: list[int]
) -> None:
    a, b = pair(key)
    with pytest.raises(RemoteProtocolError):  # noqa: PT012
        for number, (sender, receiver) in enumerate(((a, b), (b, a), (a, b), (b, a))):
            data = sender.data_to_send()
            if number == flight:
                data = changed(data, change)
                # What is missing may still come; whatever does, it is refused.
                data += bytes(9000)
            for piece in split(data, cuts):
                receiver.feed(piece)
    assert a.result is None or b.result is None


def changed(data: bytes, change: tuple[str, int, int]) -> bytes:
    kind, place, value = change
    place %= len(data)
    match kind:
        case "flip":
            return data[:place] + bytes((data[place] ^ value,)) + data[place + 1 :]
        case "cut":
            # Other bytes follow: zeros alone could be what was cut off.
            return data[:place] + bytes((data[place] ^ 0xFF,))
        case _:
            # Before a byte that is different, or else nothing would change.
            value = value if value != data[place] else value ^ 1
            return data[:place] + bytes((value,)) + data[place:]


@given(st.booleans(), keys, st.binary(max_size=400), cut_lists)
def test_garbage_is_refused_or_incomplete(
    initiator: bool, key: bytes | None, data: bytes, cuts: list[int]
) -> None:
    noise = pair(key)[0 if initiator else 1]
    noise.data_to_send()
    try:
        for piece in split(data, cuts):
            noise.feed(piece)
    except RemoteProtocolError:
        assert noise.data_to_send() == b""
    assert noise.result is None
