"""Buffers that are lent, and memory that is shared."""

from __future__ import annotations

import os
import secrets
import socket
import struct
import threading
from array import array
from contextlib import suppress
from functools import partial
from itertools import count

import msgpack
import trio

from lattica.nat.config import MIB
from lattica.nat.mux.connection import Connection
from lattica.rpc.data_plane.shared.messages import (
    MOST_BYTES,
    NAME_BYTES,
    SECRET_BYTES,
    SHARED,
    Offer,
    decode_answer,
    encode_offer,
)
from lattica.rpc.leases.book import ID_BYTES
from lattica.rpc.leases.keeping import MOST_IN_BEAT
from lattica.rpc.protocol.frames import encode_request
from tools.attack.attack import Attack, Victim
from tools.attack.attacks.rpc.caller import as_many, make_calls, request, send, session

_LEASES = "lattica.Leases"
_OFFERS = 32
"""At a time, of each enemy."""
_MOST_LINGERING = 256
_SAME_MACHINE = "127.0.0.1"
"""Where shared memory is taken from: at the victim's own address."""


async def _borrow(victim: Victim) -> None:
    async def one(connection: Connection) -> None:
        stream = await session(connection)
        await make_calls(stream, (request(call, "lend") for call in count()))

    await as_many(victim, one)


def _beat(call: int) -> bytes:
    ids = [secrets.token_bytes(ID_BYTES) for _ in range(MOST_IN_BEAT)]
    return encode_request(call, msgpack.packb(f"{_LEASES}.renew"), msgpack.packb([ids]))


async def _beats(victim: Victim) -> None:
    async def one(connection: Connection) -> None:
        stream = await session(connection)
        await send(stream, request(0, "lend"))  # the service is there from then on
        await make_calls(stream, map(_beat, count(1)))

    await as_many(victim, one)


def _reference() -> bytes:
    """A reference to a buffer of somebody who is not there, as an argument."""
    owner = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
    fields = {
        "owner": owner,
        "id": secrets.token_bytes(ID_BYTES),
        "ttl": 20.0,
        "size": 8,
        "dtype": "",
        "shape": [msgpack.ExtType(1, b""), 8],
    }
    packed: bytes = msgpack.packb([[msgpack.ExtType(4, b""), "lattica.BufferRef", fields]])
    return packed


async def _references(victim: Victim) -> None:
    async def one(connection: Connection) -> None:
        stream = await session(connection)
        await make_calls(stream, (request(n, "echo", _reference()) for n in count()))

    await as_many(victim, one)


class _Lingering:
    """A socket whose last owner waits when he closes it (SO_LINGER)."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.sock = socket.create_connection(listener.getsockname())
            self._other = listener.accept()[0]  # takes nothing
        self.sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.sock.send(bytes(1 << 16))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))

    async def put_into(self, sock: trio.socket.SocketType, message: bytes) -> None:
        try:
            rights = array("i", [self.sock.fileno()])
            await sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        finally:  # in a thread, as this may be the last one after all
            close = partial(os.close, self.sock.detach())
            threading.Thread(target=close, daemon=True).start()


async def _offers(victim: Victim) -> None:
    """Offers of sockets where nobody is, where somebody says nothing, where he says enough for
    the victim to make memory of its own, and where he hands over a socket that lingers.
    """
    lingering: list[_Lingering] = []

    async def one(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(_OFFERS):
                nursery.start_soon(again_and_again, connection, number % 4)

    async def again_and_again(connection: Connection, talks: int) -> None:
        while True:
            await offer(connection, talks)
            await trio.sleep(0.01)

    async def offer(connection: Connection, talks: int) -> None:
        name = secrets.token_hex(NAME_BYTES // 2).encode()
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with listener:
            if talks:
                await listener.bind(b"\0lattica-" + name)
                listener.listen(8)
            async with await connection.open(SHARED) as stream:
                message = encode_offer(Offer(name, secrets.token_bytes(SECRET_BYTES)))
                await stream.send_message(message)
                shown = decode_answer(await stream.receive_message(MOST_BYTES))
                if shown is None or not talks:
                    return
                with trio.move_on_after(1):
                    accepted, _ = await listener.accept()
                    with accepted:
                        if talks == 2:
                            await accepted.send(shown.secret)
                        if talks == 3 and len(lingering) < _MOST_LINGERING:
                            lingering.append(_Lingering())
                            await lingering[-1].put_into(accepted, shown.secret)
                        await trio.sleep(0.5)

    await as_many(victim, one, source_ip=_SAME_MACHINE)


BORROWED = Attack(
    "rpc-leases",
    "has buffers lent to it without end",
    _borrow,
    seconds=10,
    calls=True,
    victim={"rpc.lease_memory": 64 * MIB, "rpc.lease_memory_per_network": 48 * MIB},
    witness="calling-methods",
)
BEATS = Attack(
    "rpc-heartbeats",
    "heartbeats for 1,024 buffers that were not lent, without end",
    _beats,
    seconds=10,
    calls=True,
    witness="calling-methods",
)
REFERENCES = Attack(
    "rpc-references",
    "sends references to buffers that nobody has",
    _references,
    seconds=10,
    calls=True,
    witness="calling-methods",
)
OFFERS = Attack(
    "rpc-shared-memory",
    "offers shared memory without end, and does not keep to it",
    _offers,
    seconds=10,
    calls=True,
    witness="calling-methods",
)
