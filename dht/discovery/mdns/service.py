"""Multicast DNS on a node: it answers who asks, asks now and then, and remembers who has answered.

Where multicast is broken or forbidden it says so once, and tries again now and then.
"""

from __future__ import annotations

import logging
import random
import secrets
import socket
import string
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress

import trio

from lattica.dht.discovery.mdns.messages import (
    MAX_PACKET,
    TTL,
    Answer,
    Question,
    decode,
    encode_answer,
    encode_question,
)
from lattica.dht.discovery.source import FoundPeer, Source
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.limits.token_bucket import TokenBucket, take
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.ip import parse_ip
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.tasks import Tasks
from lattica.nat.swarm.addresses.believed import judged

logger = logging.getLogger(__name__)

GROUP = "224.0.0.251"
_ASK_EVERY = 120.0
_RETRY = 60.0
"""Seconds until a socket that failed is opened again."""
_WAIT = 2.0
"""Seconds that answers to a question are waited for."""
_MAX_PEERS = 1024
"""Of more, whoever has been silent longest is forgotten."""
_RECEIVED_PER_SECOND, _RECEIVED_AT_ONCE = 200.0, 400.0
"""Packets that are read; the rest of a flood is thrown away."""
_ANSWERS_PER_SECOND, _ANSWERS_AT_ONCE = 1.0, 3.0


class MdnsSource(Source):
    """Peers on the local network.

    Peers answer without regard to topics: they are told for every one.

    Args:
        addrs: this node's addresses as they are now, each with its ID.
        interfaces: IPv4 addresses of the interfaces to use, as they are now.
    """

    name = "mdns"

    def __init__(
        self,
        own_id: PeerId,
        nursery: trio.Nursery,
        addrs: Callable[[], Iterable[Multiaddr]],
        interfaces: Callable[[], Iterable[str]],
        *,
        port: int = 5353,
    ) -> None:
        self._own_id = own_id
        self._addrs = addrs
        self._interfaces = interfaces
        self._port = port
        self._name = "".join(
            secrets.choice(string.ascii_lowercase + string.digits) for _ in range(40)
        )
        self._peers: dict[PeerId, tuple[float, tuple[Multiaddr, ...]]] = {}
        """Until when an answer holds, and the addresses; the latest at the end."""
        self._changed = trio.Event()
        self._sock: trio.socket.SocketType | None = None
        self._told = False
        self._received = TokenBucket(_RECEIVED_AT_ONCE, _RECEIVED_PER_SECOND)
        self._answers = TokenBucket(_ANSWERS_AT_ONCE, _ANSWERS_PER_SECOND)
        self._tasks = Tasks(nursery)
        self._tasks.start_soon(self._run)

    async def aclose(self) -> None:
        """Stop."""
        self._tasks.cancel()
        await self._tasks.wait_ended()

    # --- as a source ---

    async def find(self, topic: str) -> AsyncIterator[FoundPeer]:
        """Those that have answered lately, and those that answer now, within two seconds."""
        told: set[PeerId] = set()
        await self._send(encode_question())
        deadline = trio.current_time() + _WAIT
        while True:
            now = trio.current_time()
            for peer_id, (until, addrs) in list(self._peers.items()):
                if peer_id not in told and until > now:
                    told.add(peer_id)
                    yield FoundPeer(peer_id, addrs, self.name)
            self._changed = trio.Event() if self._changed.is_set() else self._changed
            with trio.move_on_at(deadline) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                return

    # --- the socket ---

    async def _run(self) -> None:
        while True:
            try:
                with await self._open() as self._sock:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._ask)
                        await self._listen(self._sock)
            except* OSError as group:
                level = logging.DEBUG if self._told else logging.WARNING
                self._told = True
                logger.log(level, "no multicast DNS here: %s", group.exceptions[0])
            finally:
                self._sock = None
            await trio.sleep(_RETRY)

    async def _open(self) -> trio.socket.SocketType:
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            await sock.bind(("", self._port))
            joined = 0
            for interface in self._interfaces():
                member = struct.pack("=4s4s", socket.inet_aton(GROUP), socket.inet_aton(interface))
                with suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
                    joined += 1
            if not joined:
                raise OSError("no interface takes part in multicast")
        except BaseException:
            sock.close()
            raise
        return sock

    async def _listen(self, sock: trio.socket.SocketType) -> None:
        while True:
            data, sender = await sock.recvfrom(MAX_PACKET)
            now = trio.current_time()
            if not take((self._received,), 1.0, now):
                continue
            try:
                message = decode(data)
            except RemoteProtocolError as error:
                logger.debug("%s", error)
                continue
            if isinstance(message, Question):
                if take((self._answers,), 1.0, now):
                    # Those who are asked at the same time do not answer at the same time.
                    await trio.sleep(random.uniform(0.0, 0.1))
                    await self._send(encode_answer(self._name, self._addrs()))
            elif isinstance(message, Answer):
                self._take(message, sender[0], now)

    def _take(self, answer: Answer, sender: str, now: float) -> None:
        for peer_id, told in answer.peers.items():
            plain = (split_peer(addr)[0] for addr in told)
            addrs = judged(parse_ip(sender), peer_id, plain)
            if peer_id != self._own_id and addrs:
                self._peers.pop(peer_id, None)
                self._peers[peer_id] = (now + TTL, addrs)
                if len(self._peers) > _MAX_PEERS:
                    del self._peers[next(iter(self._peers))]
                self._changed.set()

    async def _ask(self) -> None:
        while True:
            await self._send(encode_question())
            await trio.sleep(_ASK_EVERY * random.uniform(0.8, 1.2))

    async def _send(self, packet: bytes) -> None:
        sock = self._sock
        if sock is None:
            return
        for interface in self._interfaces():
            # An interface may be down, and a firewall may forbid it.
            with suppress(OSError):
                sock.setsockopt(
                    socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface)
                )
                await sock.sendto(packet, (GROUP, self._port))
