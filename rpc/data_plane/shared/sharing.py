"""With whom this node shares memory, and how two nodes find out that they can.

The caller opens a Unix socket in the abstract namespace, and names it to the peer over the
connection, with a secret. Only who is in the same network namespace of the same kernel can connect
to it, whatever the machines' names and addresses are; and only who has read the encrypted stream
knows the secret. The peer shows it, the caller shows another one that the peer has told it, and
then each hands over a descriptor of its own memory (SCM_RIGHTS in unix(7)). What others on the
machine connect to the socket, or put in its place, is dropped.
"""

from __future__ import annotations

import hmac
import logging
import math
import os
import secrets
import socket
from array import array
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import trio

from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import LatticaError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import to_endpoint
from lattica.nat.base.net.own_sockets import own
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host
from lattica.rpc.config import RpcConfig
from lattica.rpc.data_plane.shared import memory
from lattica.rpc.data_plane.shared.closing import Closer, take_message
from lattica.rpc.data_plane.shared.link import SharedLink, SharedTraffic
from lattica.rpc.data_plane.shared.messages import (
    MOST_BYTES,
    NAME_BYTES,
    SECRET_BYTES,
    SHARED,
    Answer,
    Offer,
    Reference,
    decode_answer,
    decode_offer,
    encode_answer,
    encode_offer,
)
from lattica.rpc.data_plane.shared.slots import SLOT
from lattica.rpc.telemetry.statistics import SharedMemoryStatistics

logger = logging.getLogger(__name__)

_TIME = 5.0
"""Seconds to agree in."""
_PAUSE = 10.0
"""Seconds before it is tried again over the same connection, after it has failed or memory that
was shared has gone."""
_MOST_LINKS = 16
"""Of a node."""
_MOST_LINKS_OF_PEER = 4
_MOST_REMEMBERED = 1024
_OWNER = "rpc"
_Failures = (LatticaError, OSError, TimeoutError, trio.TooSlowError)


@dataclass(slots=True)
class _Attempt:
    """To agree on memory with a peer, over one connection."""

    serial: int
    is_possible: bool
    until: float = math.inf
    """Before this it is not tried again."""
    outcome: str = "not agreed on"


class SharedMemory:
    """The memory that a node shares with its peers. For the trio thread only."""

    def __init__(self, host: Host, tasks: Tasks, config: RpcConfig) -> None:
        self._host = host
        self._tasks = tasks
        self._slots = min(config.shared_memory // SLOT, memory.MOST_SLOTS)
        self._links: dict[PeerId, dict[int, SharedLink]] = {}
        self._attempts: dict[PeerId, _Attempt] = {}
        """The last one of this node to agree with a peer."""
        self._not_shared: Counter[str] = Counter()
        self._traffic = SharedTraffic()
        self._closer = Closer()
        self._is_served = False

    @property
    def is_offered(self) -> bool:
        """Whether this node would share memory with anybody."""
        return self._slots > 0 and memory.IS_AVAILABLE

    def statistics(self) -> SharedMemoryStatistics:
        """What was counted so far."""
        return SharedMemoryStatistics(
            self._count, self._traffic.sent, self._traffic.received, dict(self._not_shared)
        )

    @property
    def _count(self) -> int:
        return sum(map(len, self._links.values()))

    # --- for streams of the data plane ---

    def link_with(self, stream: Stream) -> SharedLink | None:
        """Memory shared with the stream's peer; None where the bytes have to take the stream."""
        for link in self._links.get(stream.peer_id, {}).values():
            if link.is_usable:
                return link
        self._not_shared[self._why_not(stream.connection)] += 1
        return None

    def prepare(self, stream: Stream) -> None:
        """A call is made on the stream: begin to agree on memory, if that may succeed."""
        if not self.is_offered:
            return
        connection = stream.connection
        peer, now = connection.peer_id, trio.current_time()
        attempt = self._attempts.get(peer)
        if attempt is not None and attempt.serial == connection.serial and now < attempt.until:
            return
        if len(self._attempts) >= _MOST_REMEMBERED:
            self._attempts.clear()
        is_possible = is_local(connection)
        self._attempts[peer] = _Attempt(connection.serial, is_possible)
        if is_possible and not self._links.get(peer):
            self._tasks.start_soon(self._offer, peer, self._attempts[peer])

    def find(self, peer: PeerId, reference: Reference) -> SharedLink:
        """The memory that a reference of a peer's is about. Raises RemoteProtocolError."""
        link = self._links.get(peer, {}).get(reference.link)
        if link is None:
            raise RemoteProtocolError("RPC: the memory that was shared is gone")
        return link

    def _why_not(self, connection: Connection) -> str:
        if not self._slots:
            return "switched off"
        if not memory.IS_AVAILABLE:
            return "not on this system"
        attempt = self._attempts.get(connection.peer_id)
        if attempt is None or attempt.serial != connection.serial:
            return "not agreed on"
        return attempt.outcome if attempt.is_possible else "another machine"

    # --- agreeing ---

    def serve(self) -> None:
        """Take offers of those who call here. Idempotent."""
        if self.is_offered and not self._is_served:
            self._is_served = True
            self._host.handle(SHARED, self._answer, owner=_OWNER, limit=_MOST_LINKS)

    def stop(self) -> None:
        """Take none any more."""
        if self._is_served:
            self._is_served = False
            self._host.unhandle(SHARED, owner=_OWNER)

    async def _offer(self, peer: PeerId, attempt: _Attempt) -> None:
        """The caller's part, and the link's life."""
        try:
            link = await self._agree(peer)
            if link is None:
                attempt.outcome = "declined by the peer"
                return
            await self._use(peer, link)
            attempt.until = trio.current_time() + _PAUSE
        except _Failures as error:
            attempt.outcome, attempt.until = "failed", trio.current_time() + _PAUSE
            logger.debug("no memory is shared with %s: %s", peer, error)

    async def _agree(self, peer: PeerId) -> SharedLink | None:
        """None: the peer shares no memory."""
        name, shown = secrets.token_bytes(NAME_BYTES // 2).hex().encode(), _new_secret()
        listener = own(trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        try:
            with trio.fail_after(_TIME):
                await listener.bind(b"\0lattica-" + name)
                listener.listen(8)
                async with await self._host.open_stream(peer, SHARED) as stream:
                    await stream.send_message(encode_offer(Offer(name, shown)))
                    ours = decode_answer(await stream.receive_message(MOST_BYTES))
                    if ours is None:
                        return None
                sock = await self._accept(listener, shown)
                slots = min(self._slots, ours.slots)
                return await self._exchange(sock, peer, shown, ours.secret, slots, is_caller=True)
        finally:
            self._closer.close_socket(listener)

    async def _answer(self, stream: Stream) -> None:
        """The peer's part."""
        peer = stream.peer_id
        offer = decode_offer(await stream.receive_message(MOST_BYTES))
        of_peer = len(self._links.get(peer, ()))
        full = self._count >= _MOST_LINKS or of_peer >= _MOST_LINKS_OF_PEER
        if full or self._closer.is_full or not is_local(stream.connection):
            await stream.send_message(encode_answer(None))
            return
        shown = _new_secret()
        sock = own(trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        try:
            with trio.fail_after(_TIME):
                try:
                    await sock.connect(b"\0lattica-" + offer.name)
                except OSError:  # it is on another machine, or in another network namespace
                    await stream.send_message(encode_answer(None))
                    return
                await stream.send_message(encode_answer(Answer(shown, self._slots)))
                await sock.send(offer.secret)
                link = await self._exchange(
                    sock, peer, offer.secret, shown, self._slots, is_caller=False
                )
            await self._use(peer, link)
        except (OSError, trio.TooSlowError) as error:
            logger.debug("no memory is shared with %s: %s", peer, error)
        finally:
            self._closer.close_socket(sock)

    async def _accept(
        self, listener: trio.socket.SocketType, expected: bytes
    ) -> trio.socket.SocketType:
        """The connection of whoever shows the secret; others on the machine may see the socket,
        too.
        """
        while not self._closer.is_full:
            sock = own((await listener.accept())[0])
            is_right = False
            try:
                with trio.move_on_after(_TIME / 5), suppress(OSError, RemoteProtocolError):
                    shown = await take_message(sock, SECRET_BYTES + 1)
                    is_right = hmac.compare_digest(shown, expected)
            finally:
                if not is_right:
                    self._closer.close_socket(sock)
            if is_right:
                return sock
        raise OSError("too much of what others have handed over is still to be closed")

    async def _exchange(
        self,
        sock: trio.socket.SocketType,
        peer: PeerId,
        of_offer: bytes,
        of_answer: bytes,
        slots: int,
        *,
        is_caller: bool,
    ) -> SharedLink:
        """Once the peer has shown the offer's secret: the caller shows the answer's, and hands over
        its memory with it; then the peer hands over its own, which is no larger. The socket is the
        link's, and closed if there is none.
        """
        theirs: memory.Memory | None = None
        with ExitStack() as after, ExitStack() as undo:
            undo.callback(self._closer.close_socket, sock)
            if not is_caller:
                theirs = await self._receive(sock, of_answer, slots)
                undo.callback(theirs.close)
                slots = theirs.slots
            ours, descriptor = memory.create(slots)
            after.callback(os.close, descriptor)
            undo.callback(ours.close)
            if theirs is None:
                await _send(sock, of_answer, descriptor)
                theirs = await self._receive(sock, of_offer, slots)
            number = int.from_bytes(hmac.digest(of_offer, of_answer, "sha256")[:8], "big")
            link = SharedLink(
                number, sock, ours, theirs, self._traffic, self._closer, is_caller=is_caller
            )
            undo.pop_all()
            undo.callback(self._forget, peer, link)
            # Before the caller has this memory, and can refer to its own.
            self._links.setdefault(peer, {})[number] = link
            if not is_caller:
                await _send(sock, of_offer, descriptor)
            undo.pop_all()
        return link

    async def _receive(
        self, sock: trio.socket.SocketType, expected: bytes, most_slots: int
    ) -> memory.Memory:
        """What the peer hands over, of so many slots at most. Raises RemoteProtocolError.

        It is taken when it has been looked at (:mod:`lattica.rpc.data_plane.shared.closing`).
        """
        found = array("i")
        room = socket.CMSG_LEN(found.itemsize)
        peek = socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC
        shown, ancillary, flags, _ = await sock.recvmsg(SECRET_BYTES + 1, room, peek)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found.frombytes(data)
        try:
            if not found or flags & socket.MSG_CTRUNC or not hmac.compare_digest(shown, expected):
                raise RemoteProtocolError("RPC: somebody else is at the socket for shared memory")
            theirs = memory.adopt(found[0], most_slots)
        except RemoteProtocolError:
            for descriptor in found:
                self._closer.close(descriptor)
            raise
        try:
            await sock.recv(SECRET_BYTES)
        except BaseException:
            theirs.close()
            raise
        return theirs

    async def _use(self, peer: PeerId, link: SharedLink) -> None:
        try:
            await link.run()
        finally:
            self._forget(peer, link)

    def _forget(self, peer: PeerId, link: SharedLink) -> None:
        link.close()
        links = self._links.get(peer, {})
        links.pop(link.number, None)
        if not links:
            self._links.pop(peer, None)


def is_local(connection: Connection) -> bool:
    """Whether the peer may be on this machine: it has the address that it sees this node at.

    A guess that saves others the offer; only the socket proves it.
    """
    if connection.is_relayed:
        return False
    with suppress(LatticaError):
        ours, theirs = to_endpoint(connection.local_addr), to_endpoint(connection.remote_addr)
        return ours.host == theirs.host
    return False


def _new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


async def _send(sock: trio.socket.SocketType, secret: bytes, descriptor: int) -> None:
    rights = array("i", [descriptor])
    await sock.sendmsg([secret], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
