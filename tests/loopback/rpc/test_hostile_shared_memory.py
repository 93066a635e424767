"""Programs of the same machine that are to share memory with a node, and have something else in
mind. Whatever they do, the node serves others, and takes the bytes by the stream.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import pytest
import trio

from lattica import Node
from lattica.config import load_config
from lattica.rpc import RpcError
from lattica.rpc.data_plane.shared import memory
from lattica.rpc.data_plane.shared.closing import Closer, take_message
from lattica.rpc.data_plane.shared.messages import (
    MOST_BYTES,
    NAME_BYTES,
    SECRET_BYTES,
    SHARED,
    Answer,
    Offer,
    RecordKind,
    decode_answer,
    decode_offer,
    encode_answer,
    encode_offer,
    encode_record,
)
from lattica.rpc.data_plane.shared.slots import SLOT
from tests.support.rpc.services import Workshop

pytestmark = pytest.mark.skipif(not memory.IS_AVAILABLE, reason="there is no memfd_create(2) here")

LARGE = np.arange(100_000, dtype=np.uint8)
LINGER = 120
"""Seconds for which a close waits; longer than any test."""


class Lingering:
    """A socket whose last owner waits when he closes it, until :meth:`drain`."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.sock = socket.create_connection(listener.getsockname())
            self._other = listener.accept()[0]
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.sock.setblocking(False)
        try:
            while True:
                self.sock.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))

    def put_into(self, sock: socket.socket, message: bytes, *before: int) -> None:
        """Leave it to whoever takes the message."""
        with self.sock:
            descriptors = array("i", [*before, self.sock.fileno()])
            sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])

    def drain(self) -> None:
        """Let it be closed."""
        self._other.close()


@pytest.fixture
def lingering() -> Any:
    made = Lingering()
    try:
        yield made
    finally:
        made.drain()


async def closed(closer: Closer) -> None:
    with trio.fail_after(60):
        while closer._waits:
            await trio.sleep(0.01)


def pair_of_sockets() -> tuple[socket.socket, trio.socket.SocketType]:
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return theirs, trio.socket.from_stdlib_socket(ours)


async def test_a_message_with_descriptors_is_left_where_it_is(lingering: Lingering) -> None:
    theirs, ours = pair_of_sockets()
    closer = Closer()
    with theirs:
        theirs.send(b"one")
        lingering.put_into(theirs, b"two")
        assert await take_message(ours, 10) == b"one"
        for _ in range(2):
            with pytest.raises(Exception, match="descriptors where none belong"):
                await take_message(ours, 10)
        closer.close_socket(ours)
        closer.close_socket(ours)
        assert closer._waits == 1, "closed, so somebody has waited for it"
        lingering.drain()
        await closed(closer)


async def test_who_has_too_much_to_close_takes_nothing_more() -> None:
    held = [Lingering() for _ in range(16)]
    async with shared_with_enemy() as enemy:
        for each in held:
            assert not enemy.closer.is_full
            enemy.closer.close(each.sock.detach())
        assert enemy.closer.is_full
        assert await enemy.offer() is None
        for each in held:
            each.drain()
        await closed(enemy.closer)
        assert await enemy.offer() is not None


class Enemy:
    """A peer that has its own mind about memory; `victim` is the other node."""

    def __init__(self, node: Node, victim: Node) -> None:
        self.node, self.victim = node, victim
        self.closer = victim.rpc._shared._closer
        self.secret = b""
        """What the victim expects to be shown."""

    async def offer(self) -> socket.socket | None:
        """The victim's end of a socket, or None if it takes no part."""
        name, shown = secrets.token_hex(NAME_BYTES // 2).encode(), secrets.token_bytes(SECRET_BYTES)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(b"\0lattica-" + name)
            listener.listen()
            async with await self.node.open_stream(self.victim.peer_id, SHARED) as stream:
                await stream.send_message(encode_offer(Offer(name, shown)))
                answer = decode_answer(await stream.receive_message(MOST_BYTES))
            if answer is None:
                return None
            self.secret = answer.secret
            sock = listener.accept()[0]
        sock.settimeout(60)
        assert sock.recv(100) == shown
        return sock

    async def share(self) -> socket.socket:
        """The socket beside memory that the victim has adopted."""
        sock = await self.offer()
        assert sock is not None
        hand_over(sock, self.secret, sealed())
        await trio.to_thread.run_sync(sock.recv, 100)
        assert self.links == 1
        return sock

    @property
    def links(self) -> int:
        return self.victim.rpc.statistics().shared_memory.links

    async def is_let_go(self, sock: socket.socket) -> None:
        """The victim ends it, and serves on."""
        with trio.fail_after(60):
            with suppress(ConnectionResetError):
                while await trio.to_thread.run_sync(sock.recv, 1 << 16):
                    pass
        sock.close()
        assert self.links == 0
        assert await self.node.rpc.stub(self.victim.peer_id, Workshop).echo(1) == 1


@asynccontextmanager
async def shared_with_enemy() -> AsyncIterator[Enemy]:
    def node(**overrides: Any) -> Node:
        given = {"listen": ("/ip4/127.0.0.1/tcp/0",), "nat.port_mapping.enabled": False}
        return Node(load_config(overrides={**given, **overrides}))

    async with node() as victim, node(**{"rpc.shared_memory": 0}) as other:
        victim.rpc.serve(Workshop())
        await other.connect(victim.addrs[0])
        yield Enemy(other, victim)


def sealed(slots: int = 1) -> int:
    made, descriptor = memory.create(slots)
    made.close()
    return descriptor


def hand_over(sock: socket.socket, message: bytes, *descriptors: int) -> None:
    rights = array("i", descriptors)
    sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    for descriptor in descriptors:
        os.close(descriptor)


def unsealed() -> int:
    descriptor = os.memfd_create("enemy")
    os.ftruncate(descriptor, SLOT)
    return descriptor


WRONG: list[Callable[[socket.socket, bytes], object]] = [
    lambda sock, secret: sock.send(secret),
    lambda sock, secret: hand_over(sock, secret, unsealed()),
    lambda sock, secret: hand_over(sock, secret, sealed(), sealed()),
    lambda sock, secret: hand_over(sock, secret, *(sealed() for _ in range(253))),
    lambda sock, secret: hand_over(sock, secret, os.open("/dev/zero", os.O_RDWR)),
    lambda sock, secret: hand_over(sock, secret, sealed(65)),
    lambda sock, secret: hand_over(sock, secret[:-1], sealed()),
    lambda sock, secret: hand_over(sock, bytes(SECRET_BYTES), sealed()),
    lambda sock, secret: hand_over(sock, b"", sealed()),
]


async def test_what_is_handed_over_wrongly_is_not_taken_and_not_kept() -> None:
    async with shared_with_enemy() as enemy:
        before = len(os.listdir("/proc/self/fd"))
        for act in WRONG:
            sock = await enemy.offer()
            assert sock is not None
            act(sock, enemy.secret)
            await enemy.is_let_go(sock)
            await closed(enemy.closer)
        assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("beside", [0, 1])
async def test_a_socket_that_lingers_in_place_of_memory_holds_nobody_up(
    beside: int, lingering: Lingering
) -> None:
    async with shared_with_enemy() as enemy:
        sock = await enemy.offer()
        assert sock is not None
        memories = [sealed() for _ in range(beside)]
        lingering.put_into(sock, enemy.secret, *memories)
        await enemy.is_let_go(sock)
        assert enemy.closer._waits, "closed, so somebody has waited for it"
        lingering.drain()
        await closed(enemy.closer)
        for descriptor in memories:
            os.close(descriptor)


@pytest.mark.parametrize("is_record", [True, False])
async def test_a_socket_that_lingers_beside_records_holds_nobody_up(
    is_record: bool, lingering: Lingering
) -> None:
    async with shared_with_enemy() as enemy:
        sock = await enemy.share()
        record = encode_record(RecordKind.RECALL, 0, 1)
        lingering.put_into(sock, record if is_record else b"")
        await enemy.is_let_go(sock)
        assert enemy.closer._waits, "closed, so somebody has waited for it"


async def test_records_that_mean_nothing_end_it() -> None:
    async with shared_with_enemy() as enemy:
        for packet in (
            b"x",
            bytes(10),
            bytes([9]) + bytes(8),
            encode_record(RecordKind.RELEASE, 0, 1),
            encode_record(RecordKind.RELEASE, 2**32 - 1, 1),
            encode_record(RecordKind.RECALL, 1, 1),
            encode_record(RecordKind.RECALL, 2**32 - 1, 2**32 - 1),
        ):
            sock = await enemy.share()
            sock.send(packet)
            await enemy.is_let_go(sock)


async def test_they_end_it_where_the_node_has_offered_and_are_no_defect_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    there: list[socket.socket] = []
    is_ready = trio.Event()

    async def answer(stream: Any) -> None:
        offer = decode_offer(await stream.receive_message(MOST_BYTES))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(60)
        sock.connect(b"\0lattica-" + offer.name)
        shown = secrets.token_bytes(SECRET_BYTES)
        await stream.send_message(encode_answer(Answer(shown, 1)))
        sock.send(offer.secret)
        assert await trio.to_thread.run_sync(sock.recv, 100) == shown
        hand_over(sock, offer.secret, sealed())
        await trio.to_thread.run_sync(sock.recv, 100)  # it is ready
        there.append(sock)
        is_ready.set()

    async with shared_with_enemy() as enemy:
        enemy.node.rpc.serve(Workshop())
        enemy.node.handle(SHARED, answer)
        with suppress(RpcError):  # what refers to memory the enemy does not understand
            await enemy.victim.rpc.stub(enemy.node.peer_id, Workshop).echo(LARGE)
        with trio.fail_after(60):
            await is_ready.wait()
        assert enemy.links == 1
        there[0].send(b"x")
        await enemy.is_let_go(there[0])
        assert not [each for each in caplog.records if "internal error" in each.getMessage()]
