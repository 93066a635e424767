"""Forward error correction: whatever the network does, nothing is lost that could be repaired."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.quic.fec import gf256
from lattica.nat.quic.fec.codec import (
    GROUP_TIMEOUT,
    MAX_HOLD,
    FecReceiver,
    FecSender,
    is_fec,
    is_report,
)
from lattica.nat.quic.fec.policy import PathState

sizes = st.lists(st.integers(400, 1400), min_size=1, max_size=90)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def packets(lengths: list[int]) -> list[bytes]:
    return [b"\x40" + i.to_bytes(2, "big") + b"\xa5" * (n - 3) for i, n in enumerate(lengths)]


def protected(clock: Clock, sent: list[bytes], batch: int, sequence: int) -> list[bytes]:
    sender = FecSender(clock, sequence=sequence)
    sender.observe(PathState(0, 0.05, 500))
    wire: list[bytes] = []
    for start in range(0, len(sent), batch):
        wire += sender.protect(sent[start : start + batch])
        clock.now += 0.001
    clock.now += 1.0
    return wire + sender.on_timer()


def delivered(clock: Clock, wire: list[bytes]) -> list[bytes]:
    receiver = FecReceiver(clock)
    out = [d for datagram in wire for d in receiver.receive(datagram)]
    clock.now += MAX_HOLD
    out += receiver.on_timer()
    assert not receiver.holds
    give_up_groups(clock, receiver)
    return out


def give_up_groups(clock: Clock, receiver: FecReceiver) -> None:
    """Nothing comes any more, hence nothing is kept."""
    for _ in range(2):
        clock.now += GROUP_TIMEOUT
        assert receiver.on_timer() == []
    assert receiver.next_timer() is None
    assert receiver._kept == 0


@given(st.data())
def test_as_many_repairs_as_losses_are_enough(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 20))
    count = data.draw(st.integers(1, gf256.MAX_SYMBOLS))
    seed = data.draw(st.randoms(use_true_random=False))
    symbols = [seed.getrandbits(8 * size) for _ in range(count)]
    missing = set(seed.sample(range(count), min(count, data.draw(st.integers(0, 12)))))
    repairs = gf256.encode(symbols, gf256.MAX_REPAIRS, size)
    rows = seed.sample(range(gf256.MAX_REPAIRS), len(missing))
    present = {i: symbol for i, symbol in enumerate(symbols) if i not in missing}
    found = gf256.recover(present, {row: repairs[row] for row in rows}, count, size)
    assert found == {i: symbols[i] for i in missing}


@given(sizes, st.integers(1, 30), st.integers(0, (1 << 24) - 1))
def test_a_perfect_network_delivers_the_same_in_order(
    lengths: list[int], batch: int, sequence: int
) -> None:
    clock = Clock()
    sent = packets(lengths)
    assert delivered(clock, protected(clock, sent, batch, sequence)) == sent


@given(sizes, st.integers(0, (1 << 24) - 1), st.data())
def test_what_arrives_is_delivered_once_and_in_order_and_what_is_repaired_is_right(
    lengths: list[int], sequence: int, data: st.DataObject
) -> None:
    clock = Clock()
    sent = packets(lengths)
    wire = protected(clock, sent, 100, sequence)
    lost = data.draw(st.sets(st.integers(1, len(wire)), max_size=12))
    got = [d for i, d in enumerate(wire) if i not in lost]
    out = delivered(clock, got)
    assert len(out) == len(set(out))
    assert set(out) <= set(sent)
    arrived = {d[6:] for d in got if d[0] == 0x20}
    assert arrived <= set(out)
    assert out == sorted(out)
    if len(lost) == 1 and len(sent) <= 60:
        assert out == sent, "a single loss is always repaired"


@given(sizes, st.randoms(use_true_random=False))
def test_any_order_and_duplication_delivers_everything(lengths: list[int], rng) -> None:
    clock = Clock()
    sent = packets(lengths)
    wire = protected(clock, sent, 100, 7)
    shuffled = wire[:1] + rng.sample(wire[1:], len(wire) - 1) + rng.choices(wire, k=5)
    assert set(delivered(clock, shuffled)) == set(sent)


@settings(deadline=None)
@given(
    sizes,
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.builds(
                lambda kind, number, rest: bytes((kind,)) + number.to_bytes(3, "big") + rest,
                st.integers(0x20, 0x3F),
                st.integers(0, 100),
                st.binary(min_size=3, max_size=20),
            ),
        ),
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_forgery_displaces_nothing_that_arrives(
    lengths: list[int], forged: list[bytes], rng
) -> None:
    clock = Clock()
    sent = packets(lengths)
    wire = protected(clock, sent, 100, 7)
    for datagram in forged:
        wire.insert(rng.randint(0, len(wire)), datagram)
    receiver = FecReceiver(clock)
    out: list[bytes] = []
    for datagram in wire:
        if is_report(datagram):
            continue
        with contextlib.suppress(RemoteProtocolError):
            out += receiver.receive(datagram)
    clock.now += MAX_HOLD
    out += receiver.on_timer()
    assert set(sent) <= set(out)
    assert {d for d in forged if not is_fec(d)} <= set(out)
    give_up_groups(clock, receiver)
