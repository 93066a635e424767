"""UDP sockets with and without segmentation by the kernel, on the loopback interface."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from lattica.nat.transport import udp_socket
from lattica.nat.transport.udp_socket import Address, Received, UdpSocket
from tools.netlab.lab.netns import CLONE_NEWNET, Net, inside
from tools.netlab.lab.processes import Namespace

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
FAMILIES = list(LOOPBACK)
END = b"the end"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports this")


@contextlib.contextmanager
def sockets(
    family: socket.AddressFamily = socket.AF_INET, *offloads: bool
) -> Iterator[list[UdpSocket]]:
    """Two bound sockets, or as many as there are values for `offload`."""
    with contextlib.ExitStack() as stack:
        made = []
        for offload in offloads or (True, True):
            made.append(UdpSocket.bind(LOOPBACK[family], 0, family, offload=offload))
            stack.callback(made[-1].close)
        yield made


def split(batch: Sequence[Received]) -> list[bytes]:
    """The datagrams of a batch."""
    for received in batch:
        assert received.data
        assert 0 < received.segment_size <= len(received.data)
    return [
        received.data[start : start + received.segment_size]
        for received in batch
        for start in range(0, len(received.data), received.segment_size)
    ]


async def send_all(sock: UdpSocket, datagrams: Sequence[bytes], to: Address) -> None:
    while datagrams:
        datagrams = datagrams[sock.send(datagrams, to) :]
        if datagrams:
            await sock.wait_writable()


async def read_to_end(sock: UdpSocket, source: Address | None = None) -> list[bytes]:
    """All datagrams before END, which the sender sends last."""
    got: list[bytes] = []
    while END not in got:
        batch = await sock.receive()
        if source is not None:
            assert {received.source for received in batch} == {source}
        got += split(batch)
    assert got.pop() == END
    return got


def random_datagrams(*sizes: int) -> list[bytes]:
    return [os.urandom(size) for size in sizes]


def refused_port(family: socket.AddressFamily = socket.AF_INET) -> Address:
    """An address at which nobody listens."""
    with sockets(family, True) as (gone,):
        return gone.local


class Scripted(socket.socket):
    """A socket that refuses as told: `sends` before the buffer is full, `longest` datagram."""

    sends = 1 << 30
    longest = 1 << 30
    full = errno.EAGAIN
    segmentation: int | None = None
    lengths: list[int]

    def _admit(self, data: Sequence[bytes], segmented: bool) -> None:
        if segmented and self.segmentation is not None:
            raise OSError(self.segmentation, "refused as told")
        if max(map(len, data)) > self.longest:
            raise OSError(errno.EMSGSIZE, "refused as told")
        if self.sends == 0:
            raise OSError(self.full, "refused as told")
        self.sends -= 1
        self.lengths.append(len(data))

    def sendto(self, data, *rest):
        self._admit([data], False)
        return super().sendto(data, *rest)

    def sendmsg(self, data, control=(), flags=0, destination=None):
        self._admit(data, True)
        return super().sendmsg(data, control, flags, destination)


@contextlib.contextmanager
def scripted(*, offload: bool = True) -> Iterator[tuple[Scripted, UdpSocket, UdpSocket]]:
    """A scripted socket, its driver, and a socket to send to."""
    with sockets(socket.AF_INET, True) as (receiver,), Scripted(type=socket.SOCK_DGRAM) as raw:
        raw.lengths = []
        raw.bind(("127.0.0.1", 0))
        sender = UdpSocket.adopt(raw, offload=offload)
        yield raw, sender, receiver
        sender.close()


def needs_gso(sock: UdpSocket) -> None:
    if sock.max_datagrams_per_send == 1:
        pytest.skip("this kernel has no UDP_SEGMENT")


# --- sending and receiving ---


@pytest.mark.parametrize("receiver_offload", [True, False])
@pytest.mark.parametrize("sender_offload", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
async def test_mixed_sizes_arrive_in_order_with_their_source(
    family, sender_offload, receiver_offload
):
    with sockets(family, sender_offload, receiver_offload) as (a, b):
        sizes = [1200] * 56 + [1400] * 9 + [77] + [1] * 70 + [30_000, 2, 3, 3, 2]
        data = random_datagrams(*sizes)
        await send_all(a, [*data, END], b.local)
        assert await read_to_end(b, a.local) == data
        assert (a.lost, a.oversized) == (0, 0)


SIZES = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 1500), st.sampled_from([1, 1200, 1200, 32_500, 65_507])),
        st.integers(1, 70),
    ),
    max_size=8,
)


@given(SIZES, st.booleans(), st.booleans())
async def test_with_and_without_offload_the_same_arrives(runs, sender_offload, receiver_offload):
    with sockets(socket.AF_INET, sender_offload, receiver_offload) as (a, b):
        data: list[bytes] = []
        for size, count in runs:
            # What an unprivileged socket's receive buffer holds.
            room = max(0, 70_000 - sum(map(len, data))) // max(size, 1)
            data += random_datagrams(*[size] * min(count, room, 120 - len(data)))
        assert a.send([*data, END], b.local) == len(data) + 1
        assert await read_to_end(b, a.local) == [each for each in data if each]


async def test_a_run_is_one_call_and_arrives_as_one():
    with scripted() as (raw, sender, receiver):
        needs_gso(sender)
        data = random_datagrams(*[1200] * 80, 1200, 500, 1200, 1300)
        assert sender.send(data, receiver.local) == len(data)
        # 65,000 bytes at most; a shorter one ends a run, a longer one begins the next.
        assert raw.lengths == [54, 28, 1, 1]
        assert split(await receiver.receive()) == data


async def test_no_more_than_64_datagrams_a_call():
    with scripted() as (raw, sender, receiver):
        needs_gso(sender)
        sender.send(random_datagrams(*[10] * 150), receiver.local)
        assert raw.lengths == [64, 64, 22]


async def test_without_offload_each_datagram_has_a_call():
    with scripted(offload=False) as (raw, sender, receiver):
        assert sender.max_datagrams_per_send == 1
        sender.send(random_datagrams(*[10] * 5), receiver.local)
        assert raw.lengths == [1] * 5


async def test_nothing_to_send():
    with sockets() as (a, b):
        assert a.send([], b.local) == 0


async def test_empty_datagrams_wake_nobody():
    with sockets() as (a, b):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                assert split(await b.receive()) == [END]

            assert a.send([b"", b""], b.local) == 2
            await wait_all_tasks_blocked()
            a.send([END], b.local)


async def test_two_senders_are_told_apart():
    with sockets(socket.AF_INET, True, True, True) as (a, b, c):
        for _ in range(3):
            a.send([b"a"] * 4, c.local)
            b.send([b"b"] * 4, c.local)
        got = await c.receive()
        assert len(split(got)) == 24
        for received in got:
            assert set(received.data) == set(b"a" if received.source == a.local else b"b")


# --- batches ---


@pytest.mark.parametrize("receiver_offload", [True, False])
async def test_a_batch_has_bounded_calls(receiver_offload):
    with sockets(socket.AF_INET, False, receiver_offload) as (a, b):
        data = random_datagrams(*range(100, 300))
        a.send([*data, END], b.local)
        got: list[bytes] = []
        while END not in got:
            batch = await b.receive()
            assert 1 <= len(batch) <= 64
            got += split(batch)
        assert got[:-1] == data


async def test_a_batch_has_bounded_bytes(monkeypatch):
    monkeypatch.setattr(udp_socket, "_BATCH_BYTES", 10_000)
    with sockets() as (a, b):
        data = random_datagrams(*[1000] * 100)
        for start in range(0, 100, 4):
            a.send(data[start : start + 4], b.local)
        got: list[bytes] = []
        while len(got) < 100:
            batch = split(await b.receive())
            assert sum(map(len, batch)) < 10_000 + 4_000
            got += batch
        assert got == data


@on_linux
async def test_a_batch_has_a_bounded_number_of_datagrams():
    with sockets() as (a, b):
        if not b._gro:
            pytest.skip("the kernel does not segment")
        got: list[bytes] = []
        for _ in range(40):  # as many in a few calls of the system as their bytes would let pass
            a.send([b"x" * 25] * 64, b.local)
        while len(got) < 40 * 64:
            batch = split(await b.receive())
            assert len(batch) < 1024 + 64
            got += batch


async def test_receiving_always_lets_others_run():
    with sockets() as (a, b):
        a.send([b"x"], b.local)
        with assert_checkpoints():
            await b.receive()


async def test_a_cancelled_receive_loses_nothing():
    with sockets() as (a, b):
        a.send([b"x"], b.local)
        with trio.CancelScope() as scope:
            scope.cancel()
            await b.receive()
        assert scope.cancelled_caught
        assert split(await b.receive()) == [b"x"]


# --- a full buffer ---


@pytest.mark.parametrize("full", [errno.EAGAIN, errno.ENOBUFS])
@pytest.mark.parametrize("offload", [True, False])
async def test_a_full_buffer_takes_a_part_and_the_rest_later(offload, full):
    with scripted(offload=offload) as (raw, sender, receiver):
        raw.full = full
        rest = data = random_datagrams(*[1200] * 100, 7)
        partial = 0
        while rest:
            raw.sends = 1
            taken = sender.send(rest, receiver.local)
            rest = rest[taken:]
            if rest:
                partial += 1
                assert taken == raw.lengths[-1]
                await sender.wait_writable()
        assert partial == len(raw.lengths) - 1 > 0
        raw.sends = 1
        sender.send([END], receiver.local)
        assert await read_to_end(receiver) == data
        assert sender.lost == 0
        assert sender.take_unreachable() == []


async def test_nothing_taken_of_a_full_buffer():
    with scripted() as (raw, sender, receiver):
        raw.sends = 0
        assert sender.send([b"a", b"a"], receiver.local) == 0
        assert sender.send([b"a"], receiver.local) == 0


def new_namespace() -> Namespace:
    """A network namespace of its own. Skips the test where that is forbidden."""
    made: list[Namespace] = []

    def enter() -> None:  # a thread: it cannot leave again
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0:
            made.append(Namespace(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if not made:
        pytest.skip("needs root: network namespaces")
    return made[0]


@pytest.mark.root
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are of Linux")
@pytest.mark.parametrize("offload", [True, False])
async def test_the_buffer_of_a_real_link_fills_and_drains(offload):
    # The kernel holds what is for a neighbour whose hardware address it does not know yet.
    with contextlib.ExitStack() as stack:
        here, there = new_namespace(), new_namespace()
        stack.callback(here.close)
        stack.callback(there.close)
        near, far = stack.enter_context(Net(here)), stack.enter_context(Net(there))
        near.veth("near", there, "far")
        near.add_address("near", "10.77.0.1/24")
        far.add_address("far", "10.77.0.2/24")
        near.sysctl("net/ipv4/neigh/near/mcast_solicit", "250")
        far.sysctl("net/ipv4/conf/far/arp_ignore", "8")
        near.up("near")
        far.up("far")
        with inside(here):
            sender = UdpSocket.bind("10.77.0.1", 0, socket.AF_INET, offload=offload)
        stack.callback(sender.close)
        with inside(there):
            receiver = UdpSocket.bind("10.77.0.2", 0, socket.AF_INET)
        stack.callback(receiver.close)
        sender._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)

        data = random_datagrams(*[1200] * 150)
        taken = sender.send(data, receiver.local)
        assert 0 < taken < len(data)
        assert sender.send(data[taken:], receiver.local) == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, sender, [*data[taken:], END], receiver.local)
            await wait_all_tasks_blocked()  # it waits, and does not spin
            far.sysctl("net/ipv4/conf/far/arp_ignore", "0")
            assert await read_to_end(receiver, sender.local) == data
        assert (sender.lost, sender.oversized) == (0, 0)

        # Real too-large ones, of a link of 1,500 bytes: 1,472 are the most.
        segments = sender.max_datagrams_per_send
        data = random_datagrams(1473, 1473, 1473, 1472, 1472)
        await send_all(sender, [*data, END], receiver.local)
        assert await read_to_end(receiver) == data[3:]
        assert (sender.lost, sender.oversized) == (0, 3)
        assert sender.max_datagrams_per_send == segments
        assert sender.take_unreachable() == []


# --- what cannot be sent ---


@pytest.mark.parametrize("offload", [True, False])
async def test_too_large_datagrams_are_dropped_in_silence(offload):
    with sockets(socket.AF_INET, offload, True) as (a, b):
        data = random_datagrams(1000, 65_508, 80_000, 1000, 900)
        assert a.send([*data, END], b.local) == 6
        assert await read_to_end(b) == [data[0], *data[3:]]
        assert a.oversized == 2
        assert a.lost == 0
        assert a.take_unreachable() == []


@pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.EINVAL])
async def test_a_run_too_large_for_the_path_does_not_end_segmentation(number):
    with scripted() as (raw, sender, receiver):
        needs_gso(sender)
        raw.longest, raw.segmentation = 1000, number  # older kernels say EINVAL
        data = random_datagrams(*[1200] * 5, 800)
        assert sender.send(data, receiver.local) == 6
        assert sender.oversized == 5
        assert sender.max_datagrams_per_send == 64
        assert split(await receiver.receive()) == data[5:]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
async def test_segmentation_that_fails_is_given_up_without_loss(number):
    with scripted() as (raw, sender, receiver):
        needs_gso(sender)
        raw.segmentation = number
        data = random_datagrams(*[1200] * 80)
        assert sender.send([*data, END], receiver.local) == 81
        assert sender.max_datagrams_per_send == 1
        assert await read_to_end(receiver) == data
        assert (sender.lost, sender.oversized) == (0, 0)


async def test_giving_up_segmentation_with_a_full_buffer_duplicates_nothing():
    with scripted() as (raw, sender, receiver):
        needs_gso(sender)
        raw.segmentation = errno.EIO
        raw.sends = 3
        data = random_datagrams(*[1200] * 10)
        assert sender.send(data, receiver.local) == 3
        raw.sends = 20
        assert sender.send([*data[3:], END], receiver.local) == 8
        assert await read_to_end(receiver) == data


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
async def test_what_the_kernel_refuses_counts_as_lost(family, count):
    with sockets(family) as (a, b):
        before = a.max_datagrams_per_send
        nowhere = (LOOPBACK[family], 0)
        assert a.send([b"x"] * count, nowhere) == count
        assert a.lost == count
        [(destination, number)] = a.take_unreachable()
        assert destination[:2] == nowhere
        assert len(destination) == len(a.local)
        assert number
        assert a.take_unreachable() == []
        assert a.max_datagrams_per_send == before
        a.send([b"x"], b.local)
        assert split(await b.receive()) == [b"x"]


async def test_an_address_of_the_other_family_is_the_callers_mistake():
    with sockets() as (a, _), pytest.raises(socket.gaierror):
        a.send([b"x"], ("::1", 9))


# --- what the network refuses ---


@on_linux
@pytest.mark.parametrize("family", FAMILIES)
async def test_an_unreachable_port_is_reported_to_the_receiver(family):
    dead = refused_port(family)
    with sockets(family) as (a, b):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                assert await a.receive() == []

            await wait_all_tasks_blocked()
            assert a.send([b"x"], dead) == 1
        assert a.take_unreachable() == [(dead, errno.ECONNREFUSED)]
        assert a.take_unreachable() == []
        # It goes on as before.
        b.send([b"y"], a.local)
        assert split(await a.receive()) == [b"y"]


@on_linux
@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
async def test_one_unreachable_port_costs_others_nothing(family, offload):
    dead = refused_port(family)
    with sockets(family, offload, True) as (a, b):
        data = random_datagrams(*[100] * 60)
        for start in range(0, 60, 3):
            assert a.send([b"x", b"x", b"y"], dead) == 3
            assert a.send(data[start : start + 3], b.local) == 3
        a.send([END], b.local)
        assert await read_to_end(b, a.local) == data
        assert a.take_unreachable() == [(dead, errno.ECONNREFUSED)]


@on_linux
async def test_errors_that_only_their_queue_still_tells_of_are_reported():
    dead = refused_port()
    with sockets() as (a, _):
        a._sock.sendto(b"x", dead)
        with pytest.raises(ConnectionRefusedError):
            a._sock.sendto(b"x", dead)  # told once already
        assert await a.receive() == []
        assert a.take_unreachable() == [(dead, errno.ECONNREFUSED)]


@on_linux
async def test_errors_come_with_datagrams():
    dead = refused_port()
    with sockets() as (a, b):
        a.send([b"x"], dead)
        b.send([b"y"], a.local)
        got: list[bytes] = []
        while not got:
            got = split(await a.receive())
        assert got == [b"y"]
        assert a.take_unreachable() == [(dead, errno.ECONNREFUSED)]


async def test_what_is_kept_of_the_unreachable_is_bounded():
    with sockets() as (a, _):
        nowhere = [(f"127.0.{n // 200}.{n % 200}", 0) for n in range(1000)]
        for destination in nowhere:
            a.send([b"x"], destination)
            a.send([b"x"], nowhere[0])
        kept = [destination for destination, _ in a.take_unreachable()]
        assert len(kept) == 256
        assert kept[-2:] == [nowhere[-1], nowhere[0]]
        assert set(kept) == {nowhere[0], *nowhere[-255:]}
        assert a.lost == 2000


# --- binding and closing ---


async def test_ipv6_leaves_ipv4_its_port():
    with sockets(socket.AF_INET6, True) as (six,):
        with UdpSocket.bind("::", 0, socket.AF_INET6)._sock as wildcard:
            assert wildcard.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        four = UdpSocket.bind("127.0.0.1", six.local[1], socket.AF_INET)
        assert (four.family, six.family) == (socket.AF_INET, socket.AF_INET6)
        assert four.local == ("127.0.0.1", six.local[1])
        four.close()


async def test_a_port_in_use_raises_as_it_is():
    with sockets() as (a, _):
        with pytest.raises(OSError, match="in use") as caught:
            UdpSocket.bind(a.local[0], a.local[1], socket.AF_INET)
        assert caught.value.errno == errno.EADDRINUSE


@on_linux
async def test_fragments_are_forbidden_and_buffers_enlarged():
    with sockets(socket.AF_INET, True) as (four,), sockets(socket.AF_INET6, True) as (six,):
        assert four._sock.getsockopt(socket.IPPROTO_IP, 10) == 3
        assert six._sock.getsockopt(socket.IPPROTO_IPV6, 23) == 3
        with socket.socket(type=socket.SOCK_DGRAM) as plain:
            usual = plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        option = four._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert four.receive_buffer == option >= usual
        assert four.send_buffer > 0


async def test_an_adopted_socket_keeps_its_name_and_what_it_received():
    with sockets() as (a, _):
        punched = socket.socket(type=socket.SOCK_DGRAM)
        punched.bind(("127.0.0.1", 0))
        a.send([b"early"], punched.getsockname())
        adopted = UdpSocket.adopt(punched)
        assert adopted.local == punched.getsockname()
        assert split(await adopted.receive()) == [b"early"]
        adopted.send([b"x"] * 3, a.local)
        assert split(await a.receive()) == [b"x"] * 3
        adopted.close()
        assert punched.fileno() == -1


async def test_close_wakes_a_receiver():
    with sockets() as (a, _):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await a.receive()

            await wait_all_tasks_blocked()
            a.close()


async def test_close_wakes_a_sender_that_waits_for_room(mock_clock):
    with scripted() as (raw, sender, receiver):
        raw.sends, raw.full = 0, errno.ENOBUFS
        sender.send([b"x"], receiver.local)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await sender.wait_writable()

            await wait_all_tasks_blocked()
            sender.close()
            mock_clock.jump(1)


async def test_use_after_close():
    with sockets() as (a, b):
        a.close()
        a.close()
        with assert_checkpoints():
            await a.aclose()
        with pytest.raises(trio.ClosedResourceError):
            a.send([b"x"], b.local)
        with pytest.raises(trio.ClosedResourceError):
            a.send([], b.local)
        with pytest.raises(trio.ClosedResourceError):
            await a.receive()
        with pytest.raises(trio.ClosedResourceError):
            await a.wait_writable()
