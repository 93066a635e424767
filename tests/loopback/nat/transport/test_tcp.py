"""The TCP transport, on real sockets of the loopback interface."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from contextlib import suppress
from unittest.mock import Mock

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.errors import AddressError, ListenError
from lattica.nat.base.net.addresses import to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.delivery import Delivery
from lattica.nat.transport.tcp import TcpConn, TcpListener, TcpTransport
from lattica.nat.transport.tcp_info import delivery, unanswered
from tests.support.pairs.raw_pipe import read, read_to_end

LOOPBACKS = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]
GONE = (OSError, trio.ClosedResourceError)


async def connected(addr: str = LOOPBACKS[0]) -> tuple[TcpConn, TcpConn, TcpListener]:
    """A dialed and an accepted connection."""
    transport = TcpTransport()
    listener = await transport.listen(Multiaddr(addr))
    dialed = await transport.dial(listener.addrs[0])
    return dialed, await listener.accept(), listener


def port_of(addr: Multiaddr) -> int:
    return to_endpoint(addr).port


async def test_what_is_closed_accepts_nothing_though_another_process_has_it():
    transport = TcpTransport()
    listener = await transport.listen(Multiaddr(LOOPBACKS[0]))
    kept = listener._sock.dup()  # as in a child that was forked
    addr = listener.addrs[0]
    await listener.aclose()
    try:
        with pytest.raises(ConnectionRefusedError):
            await transport.dial(addr)
        again = await transport.listen(addr)
        await again.aclose()
    finally:
        kept.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def reset_on_close(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def close_all(*things: TcpConn | TcpListener) -> None:
    for thing in things:
        if isinstance(thing, TcpConn):
            thing.abort()
        else:
            await thing.aclose()


# --- connecting ---


@pytest.mark.parametrize("addr", LOOPBACKS)
async def test_bytes_go_both_ways_and_addresses_are_right(addr):
    a, b, listener = await connected(addr)
    assert a.remote_addr == b.local_addr == listener.addrs[0]
    assert a.local_addr == b.remote_addr
    assert port_of(listener.addrs[0]) > 0
    data = os.urandom(3_000_000)
    for sender, receiver in ((a, b), (b, a)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, data)
            assert await read(receiver, len(data)) == data
    await close_all(a, b, listener)


async def test_both_families_may_listen_on_one_port_and_be_dialed_from_it():
    transport = TcpTransport()
    v4 = await transport.listen(Multiaddr("/ip4/0.0.0.0/tcp/0"))
    port = port_of(v4.addrs[0])
    v6 = await transport.listen(Multiaddr(f"/ip6/::/tcp/{port}"))
    for target, own in (("/ip4/127.0.0.1", v4), ("/ip6/::1", v6)):
        far = await transport.listen(Multiaddr(f"{target}/tcp/0"))
        conn = await transport.dial(far.addrs[0], source_port=port)
        assert conn.local_addr == Multiaddr(f"{target}/tcp/{port}")
        back = await transport.dial(Multiaddr(f"{target}/tcp/{port}"))
        inbound = await own.accept()
        assert inbound.remote_addr == back.local_addr
        await close_all(conn, back, inbound, far)
    await close_all(v4, v6)


@pytest.mark.parametrize("addr", LOOPBACKS)
async def test_dialing_from_the_listening_port(addr):
    transport = TcpTransport()
    ours, theirs = await transport.listen(Multiaddr(addr)), await transport.listen(Multiaddr(addr))
    port = port_of(ours.addrs[0])
    first = await transport.dial(theirs.addrs[0], source_port=port)
    assert first.local_addr == ours.addrs[0]
    accepted = await theirs.accept()
    assert accepted.remote_addr == ours.addrs[0]
    # The same two ends again is impossible, so it leaves from another port.
    second = await transport.dial(theirs.addrs[0], source_port=port)
    assert port_of(second.local_addr) != port
    # As for the other side, which would dial back over what is there already.
    third = await transport.dial(ours.addrs[0], source_port=port_of(theirs.addrs[0]))
    assert port_of(third.local_addr) != port_of(theirs.addrs[0])
    await close_all(first, accepted, second, third, ours, theirs)


async def test_a_source_port_that_another_program_holds_is_no_obstacle():
    transport = TcpTransport()
    listener = await transport.listen(Multiaddr(LOOPBACKS[0]))
    with socket.socket() as foreign:
        foreign.bind(("", 0))
        taken = foreign.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot dial from port {taken} now"):
            await transport.dial(listener.addrs[0], source_port=taken, or_any_port=False)
        conn = await transport.dial(listener.addrs[0], source_port=taken)
        assert port_of(conn.local_addr) != taken
    await close_all(conn, listener)


async def test_a_refused_dial_is_an_os_error_and_leaves_nothing_open():
    transport = TcpTransport()
    listener = await transport.listen(Multiaddr(LOOPBACKS[0]))
    await listener.aclose()
    before = open_files()
    for source in (None, port_of(listener.addrs[0]) - 1):
        with pytest.raises(OSError, match="ECONNREFUSED") as caught:
            await transport.dial(listener.addrs[0], source_port=source)
        assert caught.value.errno == errno.ECONNREFUSED
    assert open_files() == before


async def test_a_cancelled_dial_leaves_nothing_open():
    # A listener whose queue is full: further connections hang in their first packet.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        filling = [socket.socket() for _ in range(3)]
        for sock in filling:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        before = open_files()
        async with trio.open_nursery() as nursery:
            addr = Multiaddr(f"/ip4/127.0.0.1/tcp/{full.getsockname()[1]}")
            nursery.start_soon(TcpTransport().dial, addr)
            await wait_all_tasks_blocked()
            assert open_files() == before + 1
            nursery.cancel_scope.cancel()
        assert open_files() == before
        for sock in filling:
            sock.close()


@pytest.mark.parametrize("family", ["dns", "dns4", "dns6"])
async def test_a_name_that_was_not_resolved_is_not_looked_up_here(family):
    """A look-up in this place would stop every task of the thread."""
    with pytest.raises(AddressError, match=r"localhost.*not resolved"):
        await TcpTransport().dial(Multiaddr(f"/{family}/localhost/tcp/1"))


# --- listening ---


@pytest.mark.parametrize("addr", LOOPBACKS)
async def test_an_occupied_port(addr):
    transport = TcpTransport()
    first = await transport.listen(Multiaddr(addr))
    port = port_of(first.addrs[0])
    with pytest.raises(ListenError, match=rf"port {port} is in use.*use port 0"):
        await transport.listen(first.addrs[0])
    conn = await transport.dial(first.addrs[0])
    accepted = await first.accept()
    await first.aclose()
    # Free again at once, although a connection made on it lives on.
    again = await transport.listen(Multiaddr(f"{addr[:-1]}{port}"))
    await close_all(conn, accepted, again)


@pytest.mark.parametrize("addr", ["/ip4/192.0.2.1/tcp/0", "/ip6/2001:db8::1/tcp/0"])
async def test_an_address_of_another_machine(addr):
    with pytest.raises(ListenError, match=rf"cannot listen on {addr}: this machine has no such"):
        await TcpTransport().listen(Multiaddr(addr))


async def test_a_port_for_the_privileged(monkeypatch):
    def bind(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    before = open_files()
    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(ListenError, match=r"/tcp/80: ports below 1024 need privileges"):
        await TcpTransport().listen(Multiaddr("/ip4/127.0.0.1/tcp/80"))
    assert open_files() == before


async def test_a_machine_without_a_family(monkeypatch):
    def no_socket(*args, **kwargs):
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", no_socket)
    with pytest.raises(ListenError, match=r"cannot listen on /ip6/.*family not supported"):
        await TcpTransport().listen(Multiaddr(LOOPBACKS[1]))


async def test_connections_that_are_aborted_before_they_are_accepted():
    transport = TcpTransport()
    listener = await transport.listen(Multiaddr(LOOPBACKS[0]))
    endpoint = to_endpoint(listener.addrs[0])
    for _ in range(20):
        with socket.socket() as hasty:
            hasty.connect((endpoint.host, endpoint.port))
            reset_on_close(hasty)
    honest = await transport.dial(listener.addrs[0])
    before = open_files()
    accepted = await listener.accept()
    assert accepted.remote_addr == honest.local_addr
    assert open_files() == before + 1
    await close_all(honest, accepted, listener)


class FailingSocket:
    """A listening socket whose `accept` raises, time after time, what it is given."""

    def __init__(self, sock: socket.socket, errors: list[int]) -> None:
        self.sock = sock
        self.errors = errors

    def accept(self):
        if self.errors:
            raise OSError(self.errors.pop(0), "from a test")
        return self.sock.accept()

    def __getattr__(self, name):
        return getattr(self.sock, name)


async def test_errors_of_accept_that_pass_are_waited_out(autojump_clock):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        errors = [errno.ECONNABORTED, errno.EMFILE, errno.ENOBUFS, errno.EPERM, errno.ENETDOWN]
        failing = FailingSocket(sock, errors)
        listener = TcpListener(failing)  # type: ignore[arg-type]
        with socket.socket() as client:
            client.connect(sock.getsockname())
            sock.setblocking(False)
            accepted = await listener.accept()
        assert not errors
        accepted.abort()
        errors.append(errno.ENOTSOCK)
        with pytest.raises(OSError, match="from a test"):
            await listener.accept()


async def test_a_closed_listener_accepts_no_more():
    listener = await TcpTransport().listen(Multiaddr(LOOPBACKS[0]))
    async with trio.open_nursery() as nursery:

        async def accept():
            with pytest.raises(GONE):
                await listener.accept()

        nursery.start_soon(accept)
        await wait_all_tasks_blocked()
        await listener.aclose()
    await listener.aclose()
    with pytest.raises(GONE):
        await listener.accept()


# --- the end of a connection ---


async def test_the_other_ends_death_is_the_end_for_the_reader_and_an_error_for_the_writer():
    a, b, listener = await connected()
    reset_on_close(b._sock)
    b.abort()
    assert not await a.receive()
    with pytest.raises(OSError, match=r"pipe|reset"):
        await a.send(b"x" * 100_000)
    await close_all(a, listener)


async def test_abort_wakes_those_who_receive_and_send():
    a, b, listener = await connected()
    ended = []

    async def expect_end(function, *args):
        with pytest.raises(GONE):
            await function(*args)
        ended.append(function.__name__)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_end, a.receive)
        nursery.start_soon(expect_end, a.send, bytes(50_000_000))
        await wait_all_tasks_blocked(0.05)
        assert not ended
        a.abort()
    assert sorted(ended) == ["receive", "send"]
    await close_all(b, listener)


async def test_after_an_abort_everything_says_closed():
    a, b, listener = await connected()
    before = open_files()
    a.abort()
    a.abort()
    assert open_files() == before - 1
    for _ in range(2):
        with pytest.raises(GONE):
            await a.receive()
        with pytest.raises(GONE):
            await a.send(b"x")
        await a.aclose()
    await close_all(b, listener)


async def test_aclose_while_another_task_receives():
    a, b, listener = await connected()

    async def receive():
        with suppress(*GONE):
            assert not await a.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        b.abort()
        await a.aclose()
    await close_all(listener)


async def test_abort_while_another_task_closes():
    a, b, listener = await connected()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.aclose)
        await wait_all_tasks_blocked()
        a.abort()
    await close_all(b, listener)


async def test_what_was_sent_arrives_although_the_other_end_was_still_sending():
    """Closing a socket with unread data makes the kernel reset the connection, and the
    other end would lose what it has not read yet."""
    a, b, listener = await connected()
    words = os.urandom(20_000_000)
    await b.send(b"in flight" * 1000)
    async with trio.open_nursery() as nursery:

        async def send_and_close():
            await a.send(words)
            await a.aclose()
            assert a._sock.fileno() == -1

        nursery.start_soon(send_and_close)
        received = await read(b, len(words) // 2)
        await b.send(b"in flight" * 1000)
        received += await read_to_end(b)
        await b.send(b"in flight" * 1000)
        assert received == words
        b.abort()
    await close_all(listener)


async def test_a_cancelled_aclose_still_lets_go():
    a, b, listener = await connected()
    before = open_files()
    with trio.CancelScope() as scope:
        scope.cancel()
        await a.aclose()
    assert open_files() == before - 1
    await close_all(b, listener)


async def test_a_view_is_of_the_shared_buffer_so_idle_connections_hold_none():
    a, b, listener = await connected()
    c, d, other = await connected()
    await a.send(b"first")
    view = await b.receive()
    assert bytes(view) == b"first"
    await c.send(b"other")
    assert bytes(await d.receive()) == b"other"
    assert bytes(view) == b"other"
    await close_all(a, b, c, d, listener, other)


# --- whether the other machine is there ---


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells")
async def test_a_program_that_does_not_read_is_no_machine_that_is_gone():
    """Its system acknowledges what comes, and says that there is no room for more."""
    a, b, listener = await connected()
    assert a.unanswered() == 0
    with trio.move_on_after(1.5):  # longer than it takes until the closed window is probed
        while True:
            await a.send(bytes(1 << 20))
    assert a.unanswered() == 0
    await close_all(a, b, listener)
    assert a.unanswered() is None


def info(**fields: int) -> bytes:
    """The kernel's `struct tcp_info`."""
    values = [0] * 35
    places = {"retransmits": 2, "probes": 3, "unacked": 12, "last_ack": 20, "bytes_acked": 34}
    for name, value in fields.items():
        values[places[name]] = value
    return struct.pack("=8B24I3Q", *values)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells")
def test_what_is_on_its_way_in_vain():
    def told(data: bytes) -> Delivery | None:
        return delivery(Mock(getsockopt=lambda *_: data))

    assert told(info(bytes_acked=1 << 40)) == Delivery(False, 1 << 40)
    assert told(info(unacked=9, retransmits=1)) == Delivery(False, 0)
    assert told(info(unacked=9, retransmits=2, bytes_acked=7)) == Delivery(True, 7)
    # A machine whose program does not read answers all the same.
    assert told(info(unacked=9, retransmits=2, probes=1)) == Delivery(False, 0)
    assert told(b"short") is None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells")
def test_what_is_not_acknowledged_counts_from_the_last_acknowledgement():
    def told(data: bytes) -> float | None:
        return unanswered(Mock(getsockopt=lambda *_: data))

    assert told(info(last_ack=60_000)) == 0
    assert told(info(unacked=1, last_ack=6_500)) == 6.5
    assert told(info(probes=1, last_ack=12_000)) == 0  # it may be on its way
    assert told(info(probes=2, last_ack=25_000)) == 25
    assert told(b"short") is None
