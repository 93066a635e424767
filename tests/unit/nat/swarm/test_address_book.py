"""Known addresses: for how long, of how many, and who is forgotten first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.addresses.address_book import (
    ADDRS_FOR_EACH,
    GIVEN_TTL,
    MAX_ADDRS_PER_PEER,
    AddressBook,
)

PEERS = [PeerId(b"\x12\x20" + bytes((number,)) * 32) for number in range(10)]
A, B, C = (Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in (1, 2, 3))


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def addrs_of(number: int, count: int) -> list[Multiaddr]:
    return [
        Multiaddr(f"/ip4/198.51.{number // 256}.{number % 256}/tcp/{port}")
        for port in range(1, count + 1)
    ]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_address_is_good_for_its_time():
    clock = Clock()
    book = AddressBook(10, clock)
    book.add(PEERS[0], [A], 10)
    book.add(PEERS[0], [B], 20)
    assert book.addrs(PEERS[0]) == [A, B]
    assert book.addrs(PEERS[1]) == []
    clock.now = 10
    assert book.addrs(PEERS[0]) == [B]
    clock.now = 20
    assert book.addrs(PEERS[0]) == []
    assert len(book) == 0


def test_what_was_said_for_longer_stays():
    clock = Clock()
    book = AddressBook(10, clock)
    book.add(PEERS[0], [A], 20)
    book.add(PEERS[0], [A, B], 10)
    clock.now = 15
    assert book.addrs(PEERS[0]) == [A]


def test_replacing_forgets_what_was_known():
    book = AddressBook(10, Clock())
    book.add(PEERS[0], [A, B], 10)
    book.replace(PEERS[0], [C], 10)
    assert book.addrs(PEERS[0]) == [C]
    book.replace(PEERS[0], [], 10)
    assert len(book) == 0


def test_the_peers_id_at_the_end_does_not_matter():
    book = AddressBook(10, Clock())
    book.add(PEERS[0], [Multiaddr(f"{A}/p2p/{PEERS[0]}"), A], 10)
    assert book.addrs(PEERS[0]) == [A]


def test_who_was_heard_of_last_is_forgotten_last():
    book = AddressBook(2, Clock())
    for peer_id in (PEERS[0], PEERS[1], PEERS[0], PEERS[2]):
        book.add(peer_id, [A], 10)
    assert [book.addrs(peer_id) for peer_id in PEERS[:3]] == [[A], [], [A]]


def test_of_a_connected_peer_nothing_is_forgotten():
    clock, connected = Clock(), {PEERS[0]}
    book = AddressBook(2, clock, is_connected=connected.__contains__)
    book.add(PEERS[0], [A], 10)
    clock.now = 12 * 3600
    assert book.addrs(PEERS[0]) == [A]
    for other in PEERS[1:5]:
        book.add(other, [B], 10)
    assert book.addrs(PEERS[0]) == [A]
    # From the end of the connection on, its time runs.
    book.used(PEERS[0])
    connected.clear()
    clock.now += 9
    assert book.addrs(PEERS[0]) == [A]
    clock.now += 1
    assert book.addrs(PEERS[0]) == []


def test_what_the_application_has_given_stays():
    clock = Clock()
    book = AddressBook(2, clock)
    book.add(PEERS[0], [A], GIVEN_TTL)
    book.replace(PEERS[0], [B], 10)
    assert book.addrs(PEERS[0]) == [A, B]
    for other in PEERS[1:5]:
        book.add(other, [B], 10)
    clock.now = 12 * 3600
    assert book.addrs(PEERS[0]) == [A]
    many = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in range(10, 300)]
    book.add(PEERS[0], many, 10)
    assert A in book.addrs(PEERS[0])
    assert len(book.addrs(PEERS[0])) == MAX_ADDRS_PER_PEER
    # There is room for two peers, given or not.
    book.add(PEERS[1], [A], GIVEN_TTL)
    book.add(PEERS[2], [A], GIVEN_TTL)
    assert [len(book.addrs(peer)) for peer in PEERS[:3]] == [0, 1, 1]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 300), st.booleans()), max_size=60))
def test_it_never_grows_over_its_bounds(calls):
    book = AddressBook(4, Clock())
    for peer, port, replace in calls:
        addrs = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port + more}") for more in range(port)]
        (book.replace if replace else book.add)(PEERS[peer], addrs, 10)
        assert len(book) <= 4
        assert len(book.addrs(PEERS[peer])) <= MAX_ADDRS_PER_PEER
        if addrs:
            assert addrs[-1] in book.addrs(PEERS[peer])


def test_many_addresses_of_strangers_are_bounded_together():
    """A host that came with a new key each time left 64 addresses behind with each."""
    connected = {peer(0)}
    book = AddressBook(1000, is_connected=connected.__contains__)
    book.add(peer(0), addrs_of(0, 64), 60.0)
    book.add(peer(1), addrs_of(1, 64), GIVEN_TTL)
    for number in range(2, 12):
        book.add(peer(number), addrs_of(number, 5), 60.0)
    for number in range(12, 900):
        book.add(peer(number), addrs_of(number, 64), 60.0)
    assert sum(len(book.addrs(peer(number))) for number in range(900)) <= 1000 * ADDRS_FOR_EACH
    assert len(book.addrs(peer(0))) == len(book.addrs(peer(1))) == 64
    assert len(book.addrs(peer(899))) == 64
    # Who has few is forgotten after those who have many.
    assert all(len(book.addrs(peer(number))) == 5 for number in range(2, 12))


def test_the_count_of_addresses_follows_all_that_happens():
    clock = Clock()
    book = AddressBook(100, clock)
    book.add(peer(1), addrs_of(1, 9), 10.0)
    book.add(peer(1), addrs_of(1, 12), 10.0)
    book.add(peer(2), addrs_of(2, 3), GIVEN_TTL)
    book.replace(peer(2), addrs_of(3, 4), 10.0)
    book.replace(peer(1), addrs_of(1, 2), 10.0)
    assert book._count == 2 + 3 + 4
    clock.now = 11.0
    assert [len(book.addrs(peer(number))) for number in (1, 2)] == [0, 3]
    assert book._count == 3
