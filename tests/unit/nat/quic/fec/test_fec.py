"""Forward error correction below QUIC: the shim by itself, and qh3 over a simulated link."""

from __future__ import annotations

import datetime
import heapq
import itertools
import random
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from qh3._hazmat import pull_quic_header
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.quic.fec import codec, gf256
from lattica.nat.quic.fec.codec import (
    GROUP_TIMEOUT,
    MAX_HELD,
    MAX_HOLD,
    MAX_KEPT,
    MOST_CREDIT,
    OVERHEAD,
    WORK_PRICE,
    FecReceiver,
    FecSender,
    WorkLimit,
    is_fec,
    is_report,
)
from lattica.nat.quic.fec.policy import (
    PROVING,
    PROVING_AGAIN,
    FecPolicy,
    LossReport,
    PathState,
    repairs_needed,
)

RTT = 0.05


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def packet(number: int, size: int = 1200) -> bytes:
    """What stands for a QUIC datagram."""
    return b"\x40" + number.to_bytes(4, "big") + bytes(size - 5)


def ready(clock: Clock, sequence: int = 0) -> FecSender:
    """A sender that knows its path and so protects it, as at the start of a connection."""
    sender = FecSender(clock, sequence=sequence)
    sender.observe(PathState(0, RTT, 500))
    return sender


def group(count: int, clock: Clock | None = None, sequence: int = 0, first: int = 0):
    """The source and the repair datagrams of one group, and what they were made of."""
    clock = clock or Clock()
    sender = ready(clock, sequence)
    sent = [packet(first + i, 500 + 7 * i % 900) for i in range(count)]
    sources = sender.protect(sent)
    if (due := sender.next_timer()) is not None:
        clock.now = max(clock.now, due)
    wire = [*sources, *sender.on_timer()]
    return wire[:count], wire[count:], sent


# --- the code


@pytest.mark.parametrize("missing", [(0,), (4,), (1, 3), (0, 1, 2), (0, 1, 2, 3, 4)])
def test_any_repairs_find_as_many_missing_symbols(missing):
    symbols = [0x0102, 0xFF, 0, 0xABCDEF, 0x112233]
    repairs = gf256.encode(symbols, 6, 3)
    present = {i: symbol for i, symbol in enumerate(symbols) if i not in missing}
    for rows in itertools.combinations(range(6), len(missing)):
        found = gf256.recover(present, {row: repairs[row] for row in rows}, 5, 3)
        assert found == {i: symbols[i] for i in missing}


def test_first_repair_is_the_parity():
    assert gf256.encode([0b01, 0b11, 0b100], 1, 1) == [0b110]


def test_every_element_has_an_inverse():
    for element in range(1, 256):
        assert gf256.multiply(element, gf256.inverse(element)) == 1


def test_code_refuses_what_it_cannot_do():
    with pytest.raises(LocalProtocolError):
        gf256.encode([1] * (gf256.MAX_SYMBOLS + 1), 1, 1)
    with pytest.raises(LocalProtocolError):
        gf256.encode([1], gf256.MAX_REPAIRS + 1, 1)
    with pytest.raises(LocalProtocolError):
        gf256.recover({0: 1}, {0: 1}, 3, 1)


# --- the wire


def test_kinds_are_told_by_the_first_byte():
    sources, repairs, _ = group(8)
    assert repairs
    for datagram in sources + repairs:
        assert is_fec(datagram)
        assert not is_report(datagram)
        assert datagram[0] & 0xC0 == 0, "QUIC sets one of these bits"
        assert datagram[0] > 3, "STUN's"
    for first in [*range(0x20), *range(0x40, 256)]:
        assert not is_fec(bytes((first,)) + bytes(20))
    assert not is_fec(b"")


def test_overhead_is_the_same_for_sources_and_repairs():
    clock = Clock()
    sender = ready(clock)
    wire = sender.protect([packet(i) for i in range(10)])
    clock.now = sender.next_timer() or 0.0
    wire = [*wire, *sender.on_timer()]
    assert len(wire) > 10
    assert {len(d) for d in wire} == {1200 + OVERHEAD}


def test_unprotected_datagrams_pass_unchanged():
    clock = Clock()
    sender, receiver = FecSender(clock), FecReceiver(clock)
    unknown = "nothing is known of the path"
    assert sender.protect([packet(1), b"\x45small"]) == [packet(1), b"\x45small"], unknown
    assert receiver.receive(packet(1)) == [packet(1)]
    assert sender.next_timer() is receiver.next_timer() is None
    assert receiver.report() is None


def test_a_small_datagram_does_not_begin_a_group_and_a_huge_one_is_left_alone():
    sender = ready(Clock())
    huge = packet(2, 5000)
    assert sender.protect([b"\x45ack", huge]) == [b"\x45ack", huge]
    protected = sender.protect([packet(1), b"\x45ack", huge])
    assert [is_fec(d) for d in protected] == [True, True, False]


def test_what_would_not_fit_the_path_is_not_protected():
    sender = FecSender(Clock(), path_limit=1300)
    sender.observe(PathState(0, RTT, 500))
    fits, does_not = packet(1, 1300 - OVERHEAD), packet(2, 1301 - OVERHEAD)
    protected = sender.protect([fits, does_not])
    assert [is_fec(d) for d in protected] == [True, False]
    assert len(protected[0]) == 1300


@pytest.mark.parametrize("short", [0.001, 0.004])
def test_short_paths_are_not_protected(short):
    sender = FecSender(Clock())
    sender.observe(PathState(0, short, 500))
    assert sender.protect([packet(1)]) == [packet(1)]


# --- the receiver


@pytest.mark.parametrize("sequence", [0, 5, (1 << 24) - 3])
@pytest.mark.parametrize("lost", [(), (0,), (3,), (9,), (4, 5), (1, 8)])
def test_losses_are_repaired_in_order(lost, sequence):
    """A group, of which some are lost, after one that arrived whole."""
    clock = Clock()
    before, _, sent_before = group(4, clock, sequence)
    sources, repairs, sent = group(10, clock, (sequence + 4) % (1 << 24), first=100)
    receiver = FecReceiver(clock)
    out = [d for datagram in before for d in receiver.receive(datagram)]
    for i, datagram in enumerate(sources):
        if i not in lost:
            out += receiver.receive(datagram)
    for datagram in repairs:
        out += receiver.receive(datagram)
    assert out == sent_before + sent
    assert not receiver.holds


def test_a_repair_that_overtakes_the_end_of_its_group_is_kept_for_it():
    clock = Clock()
    sources, repairs, sent = group(8, clock)
    receiver = FecReceiver(clock)
    for datagram in sources[:6]:
        receiver.receive(datagram)
    assert receiver.receive(repairs[0]) == []
    assert receiver.receive(sources[6]) == sent[6:], "the last one never came"


def test_what_follows_a_gap_waits_and_then_goes():
    clock = Clock()
    sources, _, sent = group(10, clock)
    receiver = FecReceiver(clock)
    receiver.receive(sources[0])
    assert receiver.receive(sources[2]) == []
    assert receiver.receive(packet(77)) == [], "an unprotected one does not overtake"
    due = receiver.next_timer()
    assert due is not None
    assert clock.now < due <= clock.now + MAX_HOLD
    assert receiver.on_timer() == []
    clock.now = due
    assert receiver.on_timer() == [sent[2], packet(77)]
    assert receiver.receive(sources[1]) == [sent[1]], "late, and delivered nevertheless"


def test_a_reordered_packet_is_no_loss():
    clock = Clock()
    sources, _, sent = group(6, clock)
    receiver = FecReceiver(clock)
    out = [d for i in (0, 2, 1, 3, 5, 4) for d in receiver.receive(sources[i])]
    assert out == sent
    report = receiver.report()
    assert report is not None
    assert LossReport(*(int.from_bytes(report[i : i + 4], "big") for i in (1, 5, 9, 13))) == (
        LossReport(expected=6, lost=0, runs=0, unrepaired=0)
    )


def test_a_gap_is_given_up_when_a_later_group_shows_that_its_repairs_are_lost():
    clock = Clock()
    first, _, sent_first = group(5, clock, 0)
    second, _, sent_second = group(5, clock, 5, first=50)
    receiver = FecReceiver(clock)
    out = [d for i in (0, 1, 3, 4) for d in receiver.receive(first[i])]
    assert out == sent_first[:2]
    assert receiver.receive(second[0]) == receiver.receive(second[1]) == []
    assert receiver.receive(second[2]) == sent_first[3:] + sent_second[:3]


def test_reports_count_losses_runs_and_what_could_not_be_repaired():
    clock = Clock()
    sources, repairs, _ = group(12, clock)
    receiver = FecReceiver(clock)
    for i in (0, 3, 4, 6, 7, 8, 9, 10, 11):
        receiver.receive(sources[i])
    for datagram in repairs:
        receiver.receive(datagram)
    clock.now += MAX_HOLD
    receiver.on_timer()
    report = receiver.report()
    assert report is not None
    assert is_report(report)
    counters = [int.from_bytes(report[i : i + 4], "big") for i in (1, 5, 9, 13)]
    assert counters == [12, 3, 2, 0 if len(repairs) >= 3 else 3]
    assert receiver.report() is None, "nothing new"


# --- what is made up


@pytest.mark.parametrize(
    "datagram",
    [
        b"\x20",
        b"\x20" + bytes(5),
        b"\x20" + bytes(5 + 3000),
        b"\x20\x00\x00\x00\xff\x00payload",
        b"\x28\x00\x00\x00\x00symbol",
        b"\x28\x00\x00\x00\xffsymbol",
        b"\x21" + bytes(16),
    ],
)
def test_malformed_datagrams_are_refused(datagram):
    with pytest.raises(RemoteProtocolError):
        FecReceiver(Clock()).receive(datagram)


@pytest.mark.parametrize("report", [b"\x21", b"\x21" + bytes(15), b"\x21" + bytes(17), b"\x20"])
def test_malformed_reports_are_refused(report):
    with pytest.raises(RemoteProtocolError):
        ready(Clock()).receive_report(report)


def test_a_forged_repair_displaces_nothing():
    clock = Clock()
    sources, repairs, sent = group(8, clock)
    forged = repairs[0][:5] + bytes(len(repairs[0]) - 6) + b"\x01"
    receiver = FecReceiver(clock)
    out = receiver.receive(sources[0])
    for datagram in (forged, *sources[2:]):
        out += receiver.receive(datagram)
    clock.now += MAX_HOLD
    out += receiver.on_timer()
    out += receiver.receive(sources[1])
    assert [d for d in out if d in sent] == [sent[0], *sent[2:], sent[1]]


def test_one_forged_number_far_away_changes_nothing_but_a_new_sequence_is_followed():
    clock = Clock()
    sources, _, sent = group(6, clock, 100)
    other, _, sent_other = group(6, clock, 9_000_000, first=50)
    receiver = FecReceiver(clock)
    assert receiver.receive(sources[0]) == [sent[0]]
    assert receiver.receive(other[0]) == [sent_other[0]]
    assert receiver.receive(sources[2]) == []
    assert receiver.receive(sources[1]) == sent[1:3], "the sequence is still the first"
    assert receiver.receive(other[1]) == [sent_other[1]]
    assert receiver.receive(other[3]) == []
    assert receiver.receive(other[2]) == sent_other[2:4]


def test_a_flood_of_gaps_is_held_within_bounds():
    clock = Clock()
    receiver = FecReceiver(clock)
    delivered = 0
    for i in range(3000):
        number = (i * 2) % (1 << 24)
        delivered += len(receiver.receive(b"\x20" + number.to_bytes(3, "big") + b"\x05\xffgarbage"))
        delivered += len(receiver.receive(packet(i)))
    assert delivered >= 6000 - 2 * MAX_HELD - 2
    clock.now += MAX_HOLD
    delivered += len(receiver.on_timer())
    assert delivered == 6000


def test_a_flood_behind_one_gap_is_held_within_bounds():
    receiver = FecReceiver(Clock())
    header = b"\x20%s\x00\xff"  # each the first of its group, so none shows that repairs went by
    receiver.receive(header % (0).to_bytes(3, "big") + b"garbage")
    for i in range(2, 2 + MAX_HELD):
        assert receiver.receive(header % i.to_bytes(3, "big") + b"garbage") == []
    released = receiver.receive(header % (2 + MAX_HELD).to_bytes(3, "big") + b"garbage")
    assert len(released) == MAX_HELD + 1


# --- what is made up to cost work and memory


def source(number: int, index: int, payload: bytes = b"\x40abcdef", hold: int = 1) -> bytes:
    number %= 1 << 24
    return b"\x20" + number.to_bytes(3, "big") + bytes((index, hold)) + payload


def repair(first: int, count: int, row: int, symbol: bytes = b"\x01\x01") -> bytes:
    return bytes((0x28 + row,)) + (first % (1 << 24)).to_bytes(3, "big") + bytes((count,)) + symbol


@pytest.fixture
def work(monkeypatch) -> list[int]:
    """The products of every recovery."""
    done: list[int] = []

    def counted(present, repairs, count, size):
        done.append((count - len(present)) * count)
        return gf256.recover(present, repairs, count, size)

    monkeypatch.setattr(codec, "recover", counted)
    return done


def test_repairs_of_nothing_cost_no_work(work):
    receiver = FecReceiver(Clock())
    receiver.receive(source(1000, 0))
    for n in range(600):
        for row in range(24):
            receiver.receive(repair(1001 + n * 3 % 900, 24, row))
    assert not work


def test_work_is_paid_for_by_the_sources_that_came(work):
    """Half of each small group has come, and nothing is ever wrong but the sum of it."""
    receiver, arrived = FecReceiver(Clock()), 0
    for first in range(0, 24 * 500, 24):
        for index in range(0, 24, 2):
            datagram = source(first + index, index)
            arrived += len(datagram)
            receiver.receive(datagram)
        for row in range(12):
            receiver.receive(repair(first, 24, row, bytes(8) + b"\x01"))
    assert work, "some are done"
    assert sum(work) <= (MOST_CREDIT + arrived) / WORK_PRICE


def test_a_sender_that_loses_the_most_that_is_protected_against_pays_for_all(work):
    clock = Clock()
    receiver = FecReceiver(clock)
    symbols = [packet(i, 500) for i in range(64)]
    encoded = gf256.encode([codec._symbol(each) for each in symbols], 8, 501)
    for first in range(0, 64 * 200, 64):
        for index in range(64):
            if index % 8 or index == 0:
                receiver.receive(source(first + index, index, symbols[index]))
        for row, symbol in enumerate(encoded):
            receiver.receive(repair(first, 64, row, symbol.to_bytes(501, "little")))
    assert len(work) == 200


def test_paths_share_a_limit_of_work(work):
    clock, limit = Clock(), WorkLimit()
    limit.left = gf256.recovery_work(1, 3)
    sources, repairs, sent = group(3, clock)
    for expected in ([sent[1], sent[2]], [], []):
        receiver = FecReceiver(clock, limit)
        receiver.receive(sources[0])
        receiver.receive(sources[2])
        assert receiver.receive(repairs[0]) == expected
    limit.renew()
    assert limit.left > 1000


@pytest.mark.parametrize("begin", [1000, (1 << 24) - 40])
def test_a_group_that_made_way_for_others_does_not_come_back(begin, work):
    receiver = FecReceiver(Clock())
    receiver.receive(source(begin, 0))

    def lose_one(first: int) -> None:
        """A group of two whose first is lost."""
        receiver.receive(source(first + 1, 1))
        receiver.receive(repair(first, 2, 0, bytes(8) + b"\x01"))

    starts = [begin + 10 + 2 * n for n in range(20)]
    for first in starts:
        lose_one(first)
    assert len(work) == 20
    for first in starts:
        lose_one(first)
    assert len(work) == 20


def test_a_group_whose_sources_all_got_lost_is_given_back_if_it_is_small():
    clock = Clock()
    before, _, _ = group(1, clock, 10)
    _, repairs, sent = group(1, clock, 11, first=3)
    receiver = FecReceiver(clock)
    receiver.receive(before[0])
    assert receiver.receive(repairs[0]) == sent


def test_what_is_kept_of_groups_is_little_and_goes_when_nothing_follows():
    clock = Clock()
    receiver = FecReceiver(clock)
    for number in range(64 * 8):
        receiver.receive(source(number, number % 64, bytes(2000)))
        assert receiver._kept <= 64 * 2000, "what was delivered whole needs no repair"
    peak = 0
    for first in range(64 * 9, 64 * 17, 64):
        for index in (0, 1):
            receiver.receive(source(first + index, index, bytes(2000), hold=255))
        for row in range(24):
            receiver.receive(repair(first, 64, row, bytes(2000)))
            peak = max(peak, receiver._kept)
    assert MAX_KEPT - 2000 < peak <= MAX_KEPT
    for _ in range(2):
        clock.now += GROUP_TIMEOUT
        receiver.on_timer()
    assert receiver._kept == 0
    assert receiver.next_timer() is None


def test_a_group_that_arrives_slowly_is_not_given_up():
    clock = Clock()
    sources, repairs, sent = group(20, clock)
    receiver = FecReceiver(clock)
    out = []
    for datagram in [*sources[:18], *sources[19:], repairs[0]]:
        clock.now += 0.9 * GROUP_TIMEOUT
        out += receiver.on_timer()
        out += receiver.receive(datagram)
    assert set(out) == set(sent)


# --- the policy


def lossy(policy: FecPolicy, clock: Clock, packets: int, every: int, rtt: float = RTT) -> None:
    """`packets` packets go by, of which the receiver misses one in `every`; 0 for none."""
    counted = policy._last or LossReport(0, 0, 0, 0)
    for _ in range(packets // 1000):
        clock.now += 0.1
        policy.observe(clock.now, PathState(0, rtt, 500))
        policy.sent(1000, 1000 if policy.protecting(clock.now) else 0)
        lost = 1000 // every if every else 0
        counted = LossReport(counted.expected + 1000, counted.lost + lost, counted.runs + lost, 0)
        policy.report(clock.now, counted)


def test_more_loss_longer_bursts_and_higher_aims_need_more_repairs():
    assert repairs_needed(64, 0.0, 1.0, 1e-5, 24) == 0
    few = repairs_needed(64, 0.001, 1.0, 1e-5, 24)
    some = repairs_needed(64, 0.01, 1.0, 1e-5, 24)
    assert 0 < few < some < repairs_needed(64, 0.03, 1.0, 1e-5, 24)
    assert some < repairs_needed(64, 0.01, 3.0, 1e-5, 24) <= 24
    assert some <= repairs_needed(64, 0.01, 1.0, 1e-7, 24)
    assert repairs_needed(64, 0.5, 3.0, 1e-9, 7) == 7


@pytest.mark.parametrize("burst", [1.0, 3.0])
def test_the_predicted_failures_are_those_of_a_simulation(burst):
    rng = random.Random(5)
    share, sources, failures = 0.02, 40, 0.02 / 40
    repairs = repairs_needed(sources, share, burst, failures, 24)
    assert repairs < 24

    def failed(size: int, bound: int) -> bool:
        lost, left = 0, 0
        for _ in range(size):
            if not left and rng.random() < share / burst:
                left = 1
                while rng.random() < 1 - 1 / burst:
                    left += 1
            if left:
                left -= 1
                lost += 1
        return lost > bound

    rates = [
        sum(failed(sources + bound, bound) for _ in range(4000)) / 4000
        for bound in (repairs, repairs - 2)
    ]
    assert rates[0] < 0.03
    assert rates[1] > 0.02


def test_protection_ends_where_nothing_is_lost_and_returns_with_losses():
    policy, clock = FecPolicy(), Clock()
    lossy(policy, clock, PROVING + 2000, 0)
    assert not policy.protecting(clock.now)
    for lost in (1, 2, 3):
        clock.now += 0.1
        policy.sent(500, 0)
        policy.observe(clock.now, PathState(lost, RTT, 50))
    assert policy.protecting(clock.now)


def test_protection_stays_where_packets_are_lost_and_ends_later_when_that_is_over():
    policy, clock = FecPolicy(), Clock()
    lossy(policy, clock, 5 * PROVING, 100)
    assert policy.protecting(clock.now)
    assert policy.repairs(64, 24) > 2
    lossy(policy, clock, PROVING, 0)
    assert policy.protecting(clock.now)
    lossy(policy, clock, PROVING_AGAIN, 0)
    assert not policy.protecting(clock.now)


def test_protection_ends_when_nobody_reports():
    policy, clock = FecPolicy(), Clock()
    policy.observe(0.0, PathState(0, RTT, 500))
    policy.sent(2 * PROVING + 1, 2 * PROVING + 1)
    assert not policy.protecting(clock.now)


def test_losses_in_a_queue_do_not_speak_for_protection():
    policy, clock = FecPolicy(), Clock()
    lossy(policy, clock, PROVING + 2000, 0)
    for lost in range(1, 50):
        clock.now += 0.1
        policy.sent(500, 0)
        policy.observe(clock.now, PathState(lost, 2 * RTT, 50))
    clock.now += 0.1
    policy.observe(clock.now, PathState(49, RTT, 50))
    assert not policy.protecting(clock.now)


def test_a_queue_suspends_protection_until_a_loss_has_been_felt():
    policy, clock = FecPolicy(), Clock()
    lossy(policy, clock, 3000, 100)
    assert policy.protecting(clock.now)
    for _ in range(5):
        clock.now += 0.02
        policy.observe(clock.now, PathState(0, 1.5 * RTT, 500))
    assert policy.queued
    assert not policy.protecting(clock.now)
    policy.observe(clock.now, PathState(1, 1.5 * RTT, 350))
    assert policy.protecting(clock.now), "CUBIC has slowed down"
    clock.now += 4 * RTT
    policy.observe(clock.now, PathState(1, 1.5 * RTT, 350))
    assert not policy.protecting(clock.now), "and the queue still stands"
    policy.observe(clock.now, PathState(1, RTT, 350))
    assert policy.protecting(clock.now)


@pytest.mark.parametrize(("rtt", "every"), [(2 * RTT, 20), (RTT, 2)])
def test_reports_of_an_overflowing_queue_do_not_count(rtt, every):
    policy, clock = FecPolicy(), Clock()
    policy.observe(0.0, PathState(0, RTT, 500))
    before = policy._estimate.share
    lossy(policy, clock, 4000, every, rtt)
    assert policy._estimate.share == before


@pytest.mark.parametrize(
    "report", [(0, 5, 5, 0), (10, 11, 1, 0), (10, 1, 2, 0), (1 << 31, 1, 1, 0)]
)
def test_senseless_reports_are_ignored(report):
    policy = FecPolicy()
    policy.observe(0.0, PathState(0, RTT, 500))
    before = policy._estimate.share
    policy.report(0.0, LossReport(*report))
    assert policy._estimate.share == before


def test_repairs_stay_within_their_budget():
    policy = FecPolicy()
    policy.observe(0.0, PathState(0, RTT, 500))
    policy.report(0.0, LossReport(10_000, 1_100, 300, 0))
    sent = sum(policy.repairs(2, 24) for _ in range(1000))
    assert sent <= 0.3 * 2000 + 24


# --- qh3 over a simulated link


class Loss:
    """Losses in runs of mean length `burst` (Gilbert and Elliott); independent for 1."""

    def __init__(self, rng: random.Random, share: float, burst: float) -> None:
        self._rng = rng
        self._stay = 1 - 1 / burst
        self._enter = share / (1 - share) / burst
        self._bad = False

    def __call__(self) -> bool:
        limit = self._stay if self._bad and self._stay else self._enter
        self._bad = self._rng.random() < limit
        return self._bad


class Link:
    """One direction: a queue that drops its tail, then losses. Rates are bytes a second."""

    def __init__(self, rate: float, delay: float, queue: float, loss: Callable[[], bool]) -> None:
        self._rate = rate
        self._delay = delay
        self._queue = queue
        self._loss = loss
        self._free = 0.0

    def arrival(self, now: float, size: int) -> float | None:
        """When a datagram of `size` bytes gets there; None if it does not."""
        start = max(now, self._free)
        if start - now > self._queue:
            return None
        self._free = start + (size + 28) / self._rate
        return None if self._loss() else self._free + self._delay


def _credentials() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lattica")])
    start = datetime.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class End:
    """One end of a flow: qh3, and the shim if it is to be used for sending."""

    peer: End

    def __init__(self, clock: Clock, sends: bool, fec: bool, config: QuicConfiguration) -> None:
        self.sends = sends
        self.config = config
        self.quic: Any = QuicConnection(configuration=config) if sends else None
        self.sender = FecSender(clock, sequence=0xFFFF00) if fec else None
        self.receiver = FecReceiver(clock)
        self.received = 0
        self.repairs = 0
        self.ready = False
        self.timer: float | None = None

    @property
    def address(self) -> tuple[str, int]:
        return ("192.0.2.1" if self.sends else "192.0.2.2", 4001)


class Simulation:
    """Flows that send as fast as they may through one link, each protected or not."""

    def __init__(
        self,
        *protected: bool,
        rate: float = 12.5e6,
        rtt: float = RTT,
        queue: float = 0.1,
        loss: float = 0.0,
        burst: float = 1.0,
    ) -> None:
        self.clock = Clock()
        self._links = [
            Link(rate, rtt / 2, queue, Loss(random.Random(seed), loss, burst)) for seed in (1, 2)
        ]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.flows: list[tuple[End, End]] = []
        limits: dict[str, Any] = {
            "alpn_protocols": ["test"],
            "max_data": 64 << 20,
            "max_stream_data": 64 << 20,
            "idle_timeout": 600.0,
            "max_datagram_size": 1400 - OVERHEAD,
        }
        certificate, key = _credentials()
        for fec in protected:
            client = QuicConfiguration(
                is_client=True, verify_mode=ssl.CERT_NONE, server_name="x", **limits
            )
            server = QuicConfiguration(is_client=False, **limits)
            server.load_cert_chain(certificate, key)
            a, b = End(self.clock, True, fec, client), End(self.clock, False, fec, server)
            a.peer, b.peer = b, a
            self.flows.append((a, b))
            a.quic.connect(b.address, 0.0)
            self._pump(a)

    def run(self, until: float) -> list[float]:
        """Go on until then; the goodput of each flow so far, bytes per second."""
        while self._events and self._events[0][0] <= until:
            at, _, event = heapq.heappop(self._events)
            self.clock.now = max(self.clock.now, at)
            event()
        self.clock.now = until
        return [b.received / until for _, b in self.flows]

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._count), event))

    def _arrive(self, end: End, datagram: bytes) -> None:
        if is_report(datagram):
            if end.sender is not None:
                end.sender.receive_report(datagram)
        else:
            end.repairs += is_fec(datagram) and datagram[0] != 0x20
            self._take(end, end.receiver.receive(datagram))
        self._pump(end)

    def _take(self, end: End, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            if end.quic is None:
                header = pull_quic_header(datagram, 0, 8)
                end.quic = QuicConnection(
                    configuration=end.config, original_destination_connection_id=header[3]
                )
            end.quic.receive_datagram(datagram, end.peer.address, self.clock.now)

    def _wake(self, end: End, time: float) -> None:
        if end.timer == time:
            end.timer = None
            self._take(end, end.receiver.on_timer())
            self._pump(end)

    def _pump(self, end: End) -> None:
        quic, now = end.quic, self.clock.now
        if quic is None:
            return
        while (event := quic.next_event()) is not None:
            assert type(event).__name__ != "ConnectionTerminated", event
            end.ready |= type(event).__name__ == "HandshakeCompleted"
            end.received += len(getattr(event, "data", b""))
        if end.sends and end.ready and quic.get_send_buffer_size() < 2 << 20:
            quic.send_stream_data(0, bytes(1 << 18))
        if (due := quic.get_timer()) is not None and due <= now:
            quic.handle_timer(now)
        wire = [datagram for datagram, _ in quic.datagrams_to_send(now)]
        if end.sender is not None:
            core = quic._core
            window = core.congestion_window / (1400 - OVERHEAD)
            end.sender.observe(PathState(core.loss_total, core.latest_rtt, window))
            wire = [*end.sender.protect(wire), *end.sender.on_timer()]
        if (report := end.receiver.report()) is not None:
            wire.append(report)
        link = self._links[0 if end.sends else 1]
        for datagram in wire:
            if (at := link.arrival(now, len(datagram))) is not None:
                self._at(at, lambda d=datagram: self._arrive(end.peer, d))  # type: ignore[misc]
        timers = [quic.get_timer(), end.receiver.next_timer()]
        timers += [end.sender.next_timer()] if end.sender is not None else []
        if (due := min((t for t in timers if t is not None), default=None)) is not None:
            due = max(due + 1e-6, now + 5e-5)
            if end.timer is None or end.timer <= now or due < end.timer:
                end.timer = due
                self._at(due, lambda: self._wake(end, due))


@pytest.mark.parametrize(
    ("loss", "burst", "times"),
    [(0.001, 1.0, 1.5), (0.01, 1.0, 5.0), (0.03, 1.0, 5.0), (0.01, 3.0, 5.0)],
)
def test_a_lossy_path_carries_several_times_more(loss, burst, times):
    (plain,) = Simulation(False, loss=loss, burst=burst).run(2.0)
    (protected,) = Simulation(True, loss=loss, burst=burst).run(2.0)
    assert protected > times * plain
    assert protected > 4e6


def test_a_clean_path_is_left_alone():
    simulation = Simulation(True, rate=4e6)
    (goodput,) = simulation.run(6.0)
    sending, receiving = simulation.flows[0]
    assert sending.sender is not None
    assert sending.sender.protect([packet(1)]) == [packet(1)]
    assert receiving.repairs < 500
    assert goodput > 0.7 * 4e6


@pytest.mark.parametrize("queue", [0.1, 0.01])
def test_a_protected_flow_takes_no_more_than_its_share_of_a_bottleneck(queue):
    protected, plain = Simulation(True, False, rate=2.5e6, queue=queue).run(10.0)
    assert protected < 2 * plain
    assert protected + plain > 0.7 * 2.5e6
