"""Targets of forward error correction below QUIC: what it receives is authenticated by nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from unittest import mock

from lattica.errors import RemoteProtocolError
from lattica.nat.quic.fec import codec
from lattica.nat.quic.fec.codec import (
    MAX_HOLD,
    MOST_CREDIT,
    WORK_PRICE,
    FecReceiver,
    FecSender,
    is_fec,
    is_report,
)
from lattica.nat.quic.fec.gf256 import recover
from lattica.nat.quic.fec.policy import PathState
from tools.fuzz.target import Target, Violation
from tools.fuzz.targets.pieces import option, record, records


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _sender(clock: _Clock) -> FecSender:
    sender = FecSender(clock, sequence=0)
    sender.observe(PathState(0, 0.05, 500))
    return sender


def _honest() -> tuple[list[bytes], list[bytes]]:
    """The datagrams of two groups, and what they carry."""
    clock = _Clock()
    sender = _sender(clock)
    sent = [b"\x40" + bytes((i,)) * (400 + i) for i in range(70)]
    wire = sender.protect(sent)
    clock.now = 1.0
    return [*wire, *sender.on_timer()], sent


_WIRE, _SENT = _honest()


def _receiver(data: bytes) -> None:
    """Honest datagrams, some missing, among the fuzzer's; an oracle counts what comes out."""
    clock = _Clock()
    receiver = FecReceiver(clock)
    out: list[bytes] = []
    expected: set[bytes] = set()
    at = 0
    for kind, payload in records(data):
        datagram = payload
        match kind % 4:
            case 0:  # an honest one arrives
                datagram = _WIRE[at % len(_WIRE)]
                at += 1
                if datagram[0] == 0x20:
                    expected.add(datagram[6:])
            case 1:  # some are lost
                at += len(payload) or 1
                continue
            case 2:  # time passes
                clock.now += len(payload) / 1000
                out += receiver.on_timer()
                continue
        if is_report(datagram):
            continue
        if not is_fec(datagram):
            expected.add(datagram)
        with contextlib.suppress(RemoteProtocolError):
            out += receiver.receive(datagram)
        due = receiver.next_timer()
        if receiver.holds and (due is None or due > clock.now + MAX_HOLD):
            raise Violation("a datagram is held for too long")
    clock.now += MAX_HOLD
    out += receiver.on_timer()
    if not expected <= set(out):
        raise Violation("a datagram that arrived was not delivered")
    if receiver.holds:
        raise Violation("a datagram is still held")
    receiver.report()


def _work(data: bytes) -> None:
    """Groups of the fuzzer's, many at a time; what recovering them takes is counted."""
    receiver = FecReceiver(_Clock())
    received = products = number = 0

    def counted(
        present: Mapping[int, int], repairs: Mapping[int, int], count: int, size: int
    ) -> dict[int, int]:
        nonlocal products
        products += (count - len(present)) * count
        return recover(present, repairs, count, size)

    with mock.patch.object(codec, "recover", counted):
        for kind, payload in records(data):
            place, step = (*payload, 0, 0)[:2]
            number += step
            position = number.to_bytes(3, "big") + bytes((place,))
            first = (b"\x20",) if kind % 2 == 0 else (bytes((0x28 + row,)) for row in range(24))
            for byte in first:
                datagram = byte + position + (b"\x10" if byte == b"\x20" else b"") + b"\x01\x01"
                received += len(datagram)
                with contextlib.suppress(RemoteProtocolError):
                    receiver.receive(datagram)
    if products > (MOST_CREDIT + received) / WORK_PRICE:
        raise Violation(f"{products} products for {received} bytes")


def _report(data: bytes) -> None:
    """Reports of the fuzzer's; the repairs stay within their budget."""
    step, rest = option(data)
    clock = _Clock()
    sender = _sender(clock)
    lost = sources = repairs = 0
    for _, payload in records(rest):
        clock.now += step / 100
        with contextlib.suppress(RemoteProtocolError):
            sender.receive_report(payload)
        lost += len(payload) % 3
        sender.observe(PathState(lost, 0.05 + len(payload) / 2000, step))
        wire = [*sender.on_timer(), *sender.protect(_SENT[:9])]
        sources += sum(datagram[0] == 0x20 for datagram in wire)
        repairs += sum(0x28 <= datagram[0] < 0x40 for datagram in wire)
    if repairs > 0.3 * sources + 24:
        raise Violation(f"{repairs} repairs for {sources} datagrams")
    sender.receive_report(rest)


_HONEST = record(0) * 75
QUIC_FEC_RECEIVER = Target(
    "quic-fec-receiver",
    _receiver,
    (),
    seeds=[
        _HONEST,
        record(0) * 5 + record(1) + _HONEST,
        record(0) + record(1, b"xyz") + record(2, bytes(20)) + record(0) * 3 + record(2, bytes(40)),
        record(0) + record(3, b"\x20\x00\x00\x05\x02\x10forged") + record(0) * 20,
        record(0) + record(3, b"\x28\x00\x00\x00\x40forged") + record(1) + record(0) * 70,
        record(3, b"\x20\x80\x00\x00\x00\xffa") + record(3, b"\x20\x80\x00\x01\x01\xffb") + _HONEST,
    ],
    tokens=[b"\x20\x00\x00", b"\x28\x00\x00", b"\x3f\x00\x00", b"\xff\xff\xff"],
)
QUIC_FEC_WORK = Target(
    "quic-fec-work",
    _work,
    (),
    seeds=[
        record(0, b"\x00\x01") + b"".join(record(1, b"\x18\x03") for _ in range(40)),
        record(0, b"\x00\x01")
        + b"".join(record(0, bytes((i, 1))) for i in range(12)) * 4
        + record(1, b"\x18\x00"),
    ],
    tokens=[record(1, b"\x18\x03"), record(1, b"\x01\x01"), record(0, b"\x00\x01")],
)
QUIC_FEC_REPORT = Target(
    "quic-fec-report",
    _report,
    (RemoteProtocolError,),
    seeds=[
        b"\x0a" + record(0, b"\x21" + b"\x00\x00\x03\xe8" + b"\x00\x00\x00\x0a" * 3) * 3,
        b"\x0a" + record(0, b"\x21" + b"\xff" * 16) + record(0, b"\x21" + bytes(16)),
        b"\x21" + bytes(16),
    ],
    tokens=[b"\x21\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01"],
)
