"""Packets that qh3 has made, opened without it."""

from __future__ import annotations

from typing import Any

import pytest
from qh3 import tls

from lattica.nat.quic.qh3 import core as core_module
from lattica.nat.quic.qh3.frames import Part, parts_of
from lattica.nat.quic.qh3.packet_reader import PacketReader
from tests.support.pairs.mux_streams import write
from tests.support.pairs.quic_pair import Pair
from tools.attack.attacks.quic_packets import Sealer

SUITES = [tls.CipherSuite.AES_128_GCM_SHA256, tls.CipherSuite.CHACHA20_POLY1305_SHA256]


class Tapped:
    """A pair, and what one side sends."""

    def __init__(self, side: int = 0) -> None:
        self.pair = Pair()
        self.datagrams: list[bytes] = []
        self.side = side
        self.pair.link.fate = self._note
        self.pair.establish()
        self.pair.settle()
        self.datagrams.clear()
        self.reader = PacketReader(self.pair.sides[1 - side].session._drive.core)

    def _note(self, side: int, datagram: bytes) -> list[tuple[float, bytes]]:
        if side == self.side:
            self.datagrams.append(datagram)
        return [(0.01, datagram)]

    def say(self, size: int) -> list[bytes]:
        """The packets with so many bytes of a stream."""
        write(self.pair.sides[self.side].session.open(), bytes(size))
        self.pair.settle()
        datagrams, self.datagrams = self.datagrams, []
        return datagrams

    def parts(self, datagrams: list[bytes]) -> list[Part]:
        parts = []
        for datagram in datagrams:
            frames = self.reader.open(datagram)
            assert frames is not None
            parts += parts_of(frames)
        return parts


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("side", [0, 1])
def test_each_cipher_and_direction(monkeypatch: Any, suite: tls.CipherSuite, side: int) -> None:
    monkeypatch.setattr(core_module, "_CIPHERS", [suite])
    tapped = Tapped(side)
    parts = [part for part in tapped.parts(tapped.say(20_000)) if part.stream]
    assert {part.stream for part in parts} == {4 if side == 0 else 1}
    assert sum(part.size for part in parts) == 20_000
    assert [part.offset for part in parts] == sorted(part.offset for part in parts)


def test_after_updates_of_the_keys() -> None:
    tapped = Tapped()
    for _ in range(3):
        tapped.pair.a.session._drive.native.request_key_update()
        assert sum(part.size for part in tapped.parts(tapped.say(5000)) if part.stream) == 5000


def test_numbers_that_are_far_from_those_before() -> None:
    tapped = Tapped()
    tapped.say(100)
    for _ in range(70):
        tapped.say(200)  # and none of them opened
    assert tapped.parts(tapped.say(300))
    sealer = _sealer(tapped)
    for number in (1 << 20, 1 << 29, 1 << 31):
        sealer.number = number
        assert tapped.reader.open(sealer.packet(b"\x01" + bytes(30))) == b"\x01" + bytes(30)


def test_what_cannot_be_opened() -> None:
    tapped = Tapped()
    [packet, *_] = tapped.say(100)
    assert tapped.reader.open(packet[:-1] + bytes((packet[-1] ^ 1,))) is None
    assert tapped.reader.open(b"\xc0" + packet[1:]) is None
    assert tapped.reader.open(packet[:28]) is None
    sealer = _sealer(tapped)
    sealer.number = 1 << 40
    assert tapped.reader.open(sealer.packet(bytes(40))) is None
    assert tapped.reader.open(packet) is not None


def _sealer(tapped: Tapped) -> Sealer:
    sender, receiver = tapped.pair.a.session, tapped.pair.b.session
    return Sealer(sender._drive.core, receiver.connection_ids[0])
