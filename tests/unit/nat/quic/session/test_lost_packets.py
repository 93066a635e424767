"""What lost packets may not do: keep a stream's end, or all that follows, from arriving."""

from __future__ import annotations

from itertools import combinations, count
from types import SimpleNamespace
from typing import Any

import pytest

from lattica.errors import ConnectionClosedError, RemoteProtocolError
from lattica.nat.quic.qh3.native import NativeDrive
from lattica.nat.quic.session.room import SendRoom
from lattica.nat.quic.session.stall import StallWatch
from tests.support.pairs.mux_streams import take_all, write
from tests.support.pairs.quic_pair import Pair


@pytest.mark.parametrize("more", [0, 8000], ids=["nothing follows", "other streams go on"])
@pytest.mark.parametrize("lost", [(), (1,), (2,), (1, 2)], ids=["none", "data", "end", "both"])
def test_the_end_of_a_stream_comes_whatever_is_lost(lost: tuple[int, ...], more: int) -> None:
    pair = Pair().establish()
    pair.settle(2)
    mine, theirs = pair.open()
    other, _ = pair.open()
    pair.settle(2)
    sent = 0

    def fate(side: int, datagram: bytes) -> list[tuple[float, bytes]]:
        nonlocal sent
        sent += side == 0
        return [] if side == 0 and sent in lost else [(0.01, datagram)]

    pair.link.fate = fate
    write(mine, bytes(100))  # in the first packet, and its end in the second
    pair.transmit(0)
    mine.finish()
    pair.transmit(0)
    write(other, bytes(more))
    pair.transmit(0)
    assert pair.run(lambda: theirs.received_fin, seconds=20)
    assert take_all(theirs) == b"hi" + bytes(100)
    theirs.finish()
    pair.settle(5)
    for end in pair.sides:
        # It has ended for both, and counts no more against the limit of streams.
        assert mine.id not in end.session.streams
        assert mine.id not in end.session._quic_streams._live


@pytest.mark.parametrize("who", [0, 1], ids=["who has opened it", "who has accepted it"])
def test_a_stream_that_is_reset_ends_whatever_two_packets_are_lost(who: int) -> None:
    """Where what was sent before the reset was found lost after that was acknowledged, it never
    did, and counted against the limit of streams for as long as the connection was.
    """
    for lost in combinations(range(10), 2):
        pair = Pair().establish()
        pair.settle(2)
        streams = pair.open()
        pair.settle(2)
        sent = count()
        pair.link.fate = lambda side, datagram, lost=lost, sent=sent: (
            [] if next(sent) in lost else [(0.01, datagram)]
        )
        write(streams[who], b"y")
        pair.settle(0.04)
        pair.sides[who].session.reset(streams[who])
        pair.settle(30)
        for end in pair.sides:
            assert not end.session.streams
            assert not end.session._quic_streams._live, lost


@pytest.mark.parametrize("data", [b"", b"x", bytes(5000)], ids=["empty", "one", "many"])
@pytest.mark.parametrize("at_once", [True, False])
def test_the_last_byte_is_no_data(data: bytes, at_once: bool) -> None:
    pair = Pair().establish()
    mine = pair.a.session.open()
    write(mine, data)
    if not at_once:
        pair.settle()
    mine.finish()
    pair.settle()
    (theirs,) = pair.b.accepted
    assert theirs.received_fin
    assert take_all(theirs) == data


def test_an_end_without_its_byte_is_a_breach() -> None:
    pair = Pair().establish()
    mine, _ = pair.open()
    pair.a.session._drive.native.send_stream(mine.id, b"", True)
    pair.a.session._dirty = True
    pair.settle()
    assert isinstance(pair.b.error, RemoteProtocolError)
    assert "ends without its last byte" in str(pair.b.error)


def room_of(window: int, in_flight: int, packet: int) -> tuple[SendRoom, Any]:
    native = SimpleNamespace(
        congestion_window=window,
        bytes_in_flight=in_flight,
        active_path=(0, 0, 0, 0, 0, packet),
        get_send_buffer_size=lambda stream_id: 0,
    )
    drive: Any = SimpleNamespace(native=native)
    room = SendRoom(drive, initiator=False)
    room.begin_burst()
    return room, native


@pytest.mark.parametrize(
    ("window", "in_flight", "has_room"),
    [
        (14_520, 0, True),
        (14_520, 14_520 - 2 * 1452, True),
        (14_520, 14_520 - 2 * 1452 + 1, False),
        (14_520, 14_520, False),
        # A window that shrank to two packets of 1,280 bytes before they grew.
        (2560, 0, True),
        (2560, 1, False),
    ],
)
def test_data_is_handed_over_while_two_packets_may_leave_or_all_of_a_small_window(
    window: int, in_flight: int, has_room: bool
) -> None:
    room, _ = room_of(window, in_flight, 1452)
    assert (room.bytes > 0) is has_room
    room.note_sent(1452)
    if window == 2560:
        assert room.bytes == 0


def test_a_stream_that_is_alone_hands_over_as_many_packets_as_have_left_in_the_burst() -> None:
    packet = 1264
    room, native = room_of(20 * packet, 0, packet)
    one = room.bytes
    assert room.bytes_alone == one
    for sent in range(1, 12):
        room.note_sent(packet)
        assert room.bytes == one
        assert room.bytes_alone == one * min(sent + 1, 8, 20 - sent - 1)
    # What qh3 still holds counts, and with a packet of that nothing more is handed over.
    native.get_send_buffer_size = lambda stream_id: 100
    room.note_handed(4, 100)
    assert room.bytes_alone == one * (20 - 11 - 1) - 100
    native.get_send_buffer_size = lambda stream_id: 2 * packet
    room.note_handed(4, 2 * packet)
    assert room.bytes_alone <= 0
    room.note_sent(packet)
    assert room.backlog == packet + 100
    # And the next burst begins with one packet again.
    native.get_send_buffer_size = lambda stream_id: 0
    room.begin_burst()
    assert room.bytes_alone == one


def test_what_an_aborted_stream_had_given_is_room_again() -> None:
    room, native = room_of(14_520, 0, 1452)
    room.note_handed(4, 1300)
    native.get_send_buffer_size = lambda stream_id: 0
    room.forget(4)
    assert room.backlog == 0


@pytest.mark.parametrize(("in_flight", "held"), [(9000, True), (10_000, True), (8000, False)])
def test_what_waits_for_room_for_a_whole_packet_holds_acknowledgements_back(
    in_flight: int, held: bool
) -> None:
    room, _ = room_of(10_000, in_flight, 1280)
    watch = StallWatch()
    for _ in range(2):
        watch.note_received()
    watch.note_transmitted(5.0, something=False, full=room.full)
    assert (watch.next_timer() is not None) is held


def test_a_library_that_cannot_go_on_ends_the_connection() -> None:
    def poll_transmit(now: float) -> None:
        raise ValueError("reserved stream is missing")

    closed: list[int] = []
    native = SimpleNamespace(poll_transmit=poll_transmit)
    core: Any = SimpleNamespace(_core=native, host_cid=b"12345678", close=closed.append)
    drive = NativeDrive(core)
    with pytest.raises(ConnectionClosedError, match="QUIC cannot go on: reserved stream is missi"):
        drive.transmit_one(0.0, [])
    assert closed == [1]
