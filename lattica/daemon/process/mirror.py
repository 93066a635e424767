"""A connection of a node's process, as the program has it: a second one, between the two processes.

It has the peer, the addresses and the path of the first, and streams with yamux's backpressure over
a socket pair, in the clear. Whatever is opened at one end is opened at the other and
passed on, byte by byte, with its end, resets and their codes; also the negotiation of protocols,
so that the program and the peer negotiate with each other.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import trio

from lattica.nat.base.errors import LatticaError, StreamResetError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.keys.public_keys import decode_public_key
from lattica.nat.base.limits.places import source_of
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.turns import Turnstile
from lattica.nat.mux.yamux.session import Session
from lattica.nat.secure.ciphers import Cipher
from lattica.nat.secure.noise import TAG_SIZE, CipherState, TransportReader, TransportWriter
from lattica.nat.secure.noise_identity import RemoteIdentity
from lattica.nat.secure.upgrade import Upgraded
from lattica.nat.swarm.yamux_connection import YamuxConnection

_NEVER = 1e9
"""Seconds. Nobody asks whether the other process is alive: if it dies, the socket says so."""
_NEWS = 10.0
"""Seconds that the end of a pair waits for the reason of it."""
_READ = 512 * 1024


@dataclass(frozen=True, slots=True)
class Shown:
    """What a program is told of a connection."""

    peer_id: PeerId
    public_key: bytes
    instance: bytes
    local_addr: Multiaddr
    remote_addr: Multiaddr
    direction: Direction
    cipher: str
    agent: str
    protocol_version: str
    known_protocols: frozenset[str]
    rtt: float | None

    @classmethod
    def of(cls, connection: Connection) -> Shown:
        """A connection as it is now."""
        return cls(
            connection.peer_id,
            connection.public_key.encode(),
            connection.instance,
            connection.local_addr,
            connection.remote_addr,
            connection.direction,
            connection.cipher,
            connection.agent,
            connection.protocol_version,
            frozenset(connection.known_protocols),
            connection.rtt,
        )


class SocketPipe:
    """A :class:`~lattica.nat.transport.base.RawConn` over one end of a socket pair."""

    most_bytes: int | None = None

    def __init__(self, sock: socket.socket, local_addr: Multiaddr, remote_addr: Multiaddr) -> None:
        sock.setblocking(False)
        self._at_once = sock
        self._sock = trio.socket.from_stdlib_socket(sock)
        self.local_addr = local_addr
        self.remote_addr = remote_addr
        self._space = memoryview(bytearray(_READ))

    async def receive(self) -> memoryview:
        return self._space[: await self._sock.recv_into(self._space)]

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[await self._sock.send(rest) :]

    def send_nowait(self, data: bytes) -> int:
        try:
            return self._at_once.send(data)
        except OSError:  # it is full, or closed
            return 0

    def unanswered(self) -> float | None:
        return None

    def mark_authenticated(self) -> None:
        """Nobody else is at the other end."""

    def delivery(self) -> None:
        return None

    async def aclose(self) -> None:
        self._sock.close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        self._sock.close()


class _InTheClear:
    """A cipher that encrypts nothing, between two processes of one program."""

    def encrypt(self, plaintext: bytes | memoryview) -> bytes:
        return b"".join((plaintext, bytes(TAG_SIZE)))

    def encrypt_into(self, plaintext: memoryview, out: memoryview) -> None:
        out[: len(plaintext)] = plaintext

    def decrypt(self, sealed: bytes | memoryview) -> bytes:
        return bytes(sealed[:-TAG_SIZE])

    def decrypt_into(self, sealed: memoryview, out: memoryview) -> None:
        out[:] = sealed[:-TAG_SIZE]


class Mirror(YamuxConnection):
    """One end of such a connection; run it as any other."""

    __slots__ = ("number", "rtt_told", "shown", "told")

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        shown: Shown,
        config: SwarmConfig,
        *,
        is_program: bool,
        budget: MemoryBudget,
        turnstile: Turnstile,
        on_stream: Callable[[Stream], None],
    ) -> None:
        cipher = cast("CipherState", _InTheClear())
        remote = RemoteIdentity(
            shown.peer_id, decode_public_key(shown.public_key), instance=shown.instance
        )
        self.number = number
        self.shown = shown
        self.rtt_told = shown.rtt
        self.told = trio.Event()
        """The node's process has said why it ended."""
        if not is_program:
            self.told.set()
        timeouts = replace(
            config.timeouts, keep_alive_interval=_NEVER, keep_alive_timeout=2 * _NEVER
        )
        super().__init__(
            SocketPipe(sock, shown.local_addr, shown.remote_addr),
            Upgraded(
                remote,
                is_program,
                Cipher.CHACHA20_POLY1305,
                TransportReader(cipher),
                TransportWriter(cipher),
                (),
            ),
            Session(
                initiator=is_program,
                clock=trio.current_time,
                windows=config.windows,
                limits=config.limits,
                timeouts=timeouts,
                budget=budget,
                source=source_of(shown.remote_addr, shown.peer_id),
            ),
            turnstile=turnstile,
            direction=shown.direction,
            send_buffer=config.windows.send_buffer,
            on_stream=on_stream,
        )
        self.agent = shown.agent
        self.protocol_version = shown.protocol_version
        self.known_protocols = set(shown.known_protocols)

    @property
    def cipher(self) -> str:
        return self.shown.cipher

    @property
    def rtt(self) -> float | None:
        return self.rtt_told

    async def _serve(self) -> str:
        try:
            return await super()._serve()
        finally:
            if not self._closing:
                # If it is the end of the process, whoever reads the channel tells all who wait.
                with trio.move_on_after(_NEWS):
                    await self.told.wait()


async def pass_on(one: Stream, other: Stream) -> None:
    """Join two streams: until both directions have ended, or either is aborted, as is the other.

    If cancelled, both are reset.
    """
    ended = {one: trio.Event(), other: trio.Event()}
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pass, one, other, ended)
            nursery.start_soon(_pass, other, one, ended)
    except BaseException:
        one.reset()
        other.reset()
        raise
    one.close()
    other.close()


async def _pass(source: Stream, target: Stream, ended: dict[Stream, trio.Event]) -> None:
    try:
        while True:
            try:
                data = await source.receive_some()
            except LatticaError as error:
                target.reset(str(error), _code(error))
                return
            try:
                if not data:
                    await target.send_eof()
                    return
                await target.send_all(data)
            except LatticaError as error:
                if not target.is_dead:  # it reads no more, and may still have something to say
                    await ended[target].wait()
                source.reset(str(error), _code(error))
                return
    finally:
        ended[source].set()


def _code(error: Any) -> int:
    return error.code if isinstance(error, StreamResetError) else 0
