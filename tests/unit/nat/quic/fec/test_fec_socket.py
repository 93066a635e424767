"""Error correction as a layer over a UDP socket: what goes down, what comes up, and when."""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Sequence

import pytest
import trio

from lattica.nat.quic.fec.codec import FecReceiver, FecSender, is_fec
from lattica.nat.quic.fec.policy import FecPolicy, PathState
from lattica.nat.quic.fec.socket import FecSocket
from lattica.nat.transport.udp_socket import Address, Received, Unreachable

PEER, STRANGER = ("192.0.2.1", 4001), ("192.0.2.2", 4001)
PROBE = b"\x00" * 20


@pytest.fixture(autouse=True)
def _always_protecting(monkeypatch):
    """Every datagram to a followed peer is protected, small ones too; one repair for a group."""
    monkeypatch.setattr(FecPolicy, "protecting", lambda self, now: True)
    monkeypatch.setattr(FecPolicy, "repairs", lambda self, sources, most: 1)
    monkeypatch.setattr(FecPolicy, "span", 0.01)
    monkeypatch.setattr("lattica.nat.quic.fec.codec._SMALL", 0)


def packet(number: int, size: int = 500) -> bytes:
    """What looks like a QUIC packet."""
    return b"\x40" + bytes((number,)) * (size - 1)


class Below:
    """A UDP socket with two ends in the test."""

    family = socket.AF_INET
    local = ("192.0.2.9", 4001)

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Address]] = []
        self.room = math.inf
        self.arrivals: deque[list[Received]] = deque()
        self._arrived = trio.Event()
        self.closed = False

    def arrive(self, *datagrams: bytes, source: Address = PEER) -> None:
        self.arrivals.append([Received(each, len(each), source) for each in datagrams])
        self._arrived.set()

    async def receive(self) -> list[Received]:
        while not self.arrivals:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self.arrivals.popleft()

    def send(self, datagrams: Sequence[bytes], destination: Address) -> int:
        count = int(min(len(datagrams), self.room))
        self.room -= count
        self.sent += [(each, destination) for each in datagrams[:count]]
        return count

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()

    def take_unreachable(self) -> list[Unreachable]:
        return [Unreachable(STRANGER, 111)]

    def close(self) -> None:
        self.closed = True


class Connection:
    def __init__(self, lost: int = 0) -> None:
        self.lost = lost

    def path_state(self) -> PathState:
        return PathState(self.lost, 0.05, 100.0)


def layered() -> tuple[FecSocket, Below, Connection]:
    below, connection = Below(), Connection()
    fec = FecSocket(below)  # type: ignore[arg-type]
    fec.follow(connection.path_state, PEER)
    return fec, below, connection


def protected(*datagrams: bytes) -> list[bytes]:
    sender = FecSender(trio.current_time, sequence=7)
    return list(sender.protect(datagrams))


async def test_what_goes_to_a_followed_peer_is_protected_and_nothing_else():
    fec, below, _ = layered()
    assert fec.send([packet(1), packet(2)], PEER) == 2
    assert all(is_fec(datagram) for datagram, _ in below.sent)
    below.sent.clear()
    assert fec.send([packet(1)], STRANGER) == 1
    assert fec.send([PROBE], PEER) == 1
    assert below.sent == [(packet(1), STRANGER), (PROBE, PEER)]


async def test_repairs_of_a_group_leave_when_it_is_over(autojump_clock):
    fec, below, _ = layered()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fec.receive)
        await trio.testing.wait_all_tasks_blocked()
        # The wait is under way already, without a timer.
        fec.send([packet(1), packet(2)], PEER)
        assert len(below.sent) == 2
    assert len(below.sent) == 3
    assert trio.current_time() == pytest.approx(0.01)


async def test_a_gap_is_repaired(autojump_clock):
    one, two, three = (packet(number) for number in (1, 2, 3))
    fec, below, _ = layered()
    theirs = FecSocket(far := Below())  # type: ignore[arg-type]
    theirs.follow(Connection().path_state, PEER)
    theirs.send([one, two, three], PEER)
    assert await theirs.receive() == []  # its timer
    first, _, third, repair = (datagram for datagram, _ in far.sent)
    below.arrive(first, third)
    assert await fec.receive() == [Received(one, 500, PEER)]
    below.arrive(PROBE)
    assert await fec.receive() == [Received(PROBE, 20, PEER)]  # nothing holds that up
    below.arrive(repair)
    assert await fec.receive() == [Received(two + three, 500, PEER)]
    assert is_fec(below.sent[-1][0])  # a report
    assert trio.current_time() == pytest.approx(0.01)


async def test_a_gap_that_nothing_fills_is_given_up(autojump_clock):
    fec, below, _ = layered()
    first, _, third = protected(*(packet(number) for number in (1, 2, 3)))
    below.arrive(first)
    below.arrive(third, packet(4, 100))
    assert await fec.receive() == [Received(packet(1), 500, PEER)]
    assert await fec.receive() == []
    assert await fec.receive() == [Received(packet(3) + packet(4, 100), 500, PEER)]
    assert 0 < trio.current_time() <= 0.03


async def test_restored_datagrams_come_together_while_they_are_of_one_size(autojump_clock):
    fec, below, _ = layered()
    sizes = [500, 500, 500, 500, 300, 300, 400, 400, 100]
    first, _, *rest = protected(*(packet(number, size) for number, size in enumerate(sizes)))
    below.arrive(first, *rest)
    assert len(await fec.receive()) == 1  # the others are behind a gap
    got = await fec.receive()
    assert [(each.segment_size, len(each.data)) for each in got] == [
        (500, 1300),
        (300, 300),
        (400, 900),
    ]


async def test_what_a_stranger_protects_is_unwrapped_and_nothing_is_remembered():
    fec, below, _ = layered()
    wrapped = protected(packet(1), packet(2))
    below.arrive(wrapped[1], b"\x28" + bytes(600), b"\x21" + bytes(16), b"\x20", source=STRANGER)
    below.arrive(protected(PROBE)[0], source=STRANGER)
    assert await fec.receive() == [Received(packet(2), 500, STRANGER)]
    assert await fec.receive() == []  # only QUIC is protected
    assert STRANGER not in fec._paths
    assert not below.sent


async def test_what_the_socket_does_not_take_is_kept_and_not_protected_twice(autojump_clock):
    fec, below, _ = layered()
    below.room = 1
    assert fec.send([packet(1), packet(2), packet(3)], PEER) == 3
    assert fec.send([packet(4)], PEER) == 0
    below.room = 3
    assert fec.send([packet(4)], PEER) == 1
    below.room = 1
    assert fec.send([packet(5), packet(6)], PEER) == 2
    below.room = math.inf
    with trio.move_on_after(1):
        while True:  # as long as somebody receives, the rest leaves by itself
            await fec.receive()
    receiver = FecReceiver(trio.current_time)
    got = [each for datagram, _ in below.sent for each in receiver.receive(datagram)]
    assert got == [packet(number) for number in range(1, 7)]


async def test_connections_to_one_address_share_a_path():
    fec, _, one = layered()
    seen: list[PathState] = []
    other = Connection(lost=3)
    fec.follow(other.path_state, PEER)
    (path,) = fec._paths.values()
    path._sender.observe = seen.append  # type: ignore[assignment,method-assign]
    one.lost = 2
    fec.send([packet(1)], PEER)
    assert seen == [PathState(5, 0.05, 200.0)]
    fec.follow(one.path_state, None)
    assert PEER in fec._paths
    fec.follow(other.path_state, STRANGER)  # it has moved
    assert list(fec._paths) == [STRANGER]
    fec.follow(other.path_state, None)
    assert not fec._paths
    assert not fec._followed


async def test_what_several_connections_know_is_not_asked_for_with_each_send(mock_clock):
    fec, _, _ = layered()
    asked: list[Connection] = []

    class Counted(Connection):
        def path_state(self) -> PathState:
            asked.append(self)
            return super().path_state()

    for _ in range(7):
        fec.follow(Counted().path_state, PEER)
    for number in range(100):
        fec.send([packet(number)], PEER)
    assert len(asked) == 7
    mock_clock.jump(0.02)
    fec.send([packet(1)], PEER)
    assert len(asked) == 14


async def test_to_an_address_with_very_many_connections_nothing_is_protected():
    fec, below, _ = layered()
    others = [Connection() for _ in range(100)]
    fec.send([packet(1)], PEER)
    for other in others:
        fec.follow(other.path_state, PEER)
    below.sent.clear()
    for other in others:  # nobody is asked
        other.path_state = None  # type: ignore[assignment,method-assign]
    fec.send([packet(1)], PEER)
    assert below.sent == [(packet(1), PEER)]


async def test_groups_to_which_nothing_comes_are_given_up(autojump_clock):
    fec, below, _ = layered()
    below.arrive(*protected(*(packet(number) for number in range(5))))
    await fec.receive()
    (path,) = fec._paths.values()
    assert path._receiver._kept
    with trio.move_on_after(1):
        while True:
            await fec.receive()
    assert path._receiver._kept == 0
    assert not fec._timers


async def test_the_rest_is_the_sockets():
    fec, below, _ = layered()
    assert (fec.local, fec.family) == (below.local, below.family)
    assert fec.take_unreachable() == [Unreachable(STRANGER, 111)]
    await fec.wait_writable()
    fec.close()
    assert below.closed
