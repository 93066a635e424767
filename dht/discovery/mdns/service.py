"""Multicast DNS on a node: it answers who asks, asks now and then, and remembers who has answered.

Where multicast is broken or forbidden it says so once, and tries again now and then.
"""

from __future__ import annotations

import logging
import random
import secrets
import string
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial

import trio

from lattica.dht.discovery.mdns.messages import (
    MAX_PACKET,
    TTL,
    Answer,
    Question,
    decode,
    encode_answer,
    encode_question,
    is_of_service,
)
from lattica.dht.discovery.mdns.sockets import GROUPS, MulticastSocket, is_on_link
from lattica.dht.discovery.mdns.told import ToldPeers
from lattica.dht.discovery.source import FoundPeer, Source
from lattica.nat.base.concurrency.tasks import Tasks, keep
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.limits.token_bucket import TokenBucket, TokenBuckets, take
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.addresses.believed import judged

logger = logging.getLogger(__name__)

_ASK_EVERY = 120.0
_RETRY = 60.0
"""Seconds until a socket that failed is opened again."""
_WAIT = 2.0
"""Seconds that answers to a question are waited for."""
_TOGETHER = 0.05
"""Seconds in which answers are looked at together: there may be many, and that is work."""
_READ_PER_SECOND, _READ_AT_ONCE = 32 * 1024.0, 256 * 1024.0
"""Bytes that are read of packets about the service, which takes a millisecond for each KiB or two;
the rest of a flood is thrown away."""
_SHARE = 0.25
"""Of these, for one sender."""
_MAX_SENDERS = 256
_ANSWERS_PER_SECOND, _ANSWERS_AT_ONCE = 1.0, 3.0


class MdnsSource(Source):
    """Peers on the local network.

    Peers answer without regard to topics: they are told for every one.

    Args:
        addrs: this node's addresses as they are now, each with its ID.
        interfaces: addresses of the interfaces to use, as they are now; those of IPv6 have the
            interface's name behind a `%`.
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
        self._peers = ToldPeers()
        self._changed = trio.Event()
        self._sockets: dict[int, MulticastSocket] = {}
        """By version of IP."""
        self._failed: dict[int, OSError] = {}
        self._told = False
        self._rng = random.Random()
        self._read = TokenBucket(_READ_AT_ONCE, _READ_PER_SECOND)
        self._read_of = TokenBuckets[IpAddress](
            _SHARE * _READ_AT_ONCE, _SHARE * _READ_PER_SECOND, _MAX_SENDERS
        )
        """By sender."""
        self._answers = TokenBucket(_ANSWERS_AT_ONCE, _ANSWERS_PER_SECOND)
        self._tasks = Tasks(nursery)
        for version in GROUPS:
            self._tasks.start_soon(keep, partial(self._run, version), self._rng)

    async def aclose(self) -> None:
        """Stop."""
        self._tasks.cancel()
        await self._tasks.wait_ended()

    # --- as a source ---

    async def find(self, topic: str) -> AsyncIterator[FoundPeer]:
        """Those that have answered lately, and those that answer now, within two seconds; again
        when somebody names another address of one.
        """
        told: dict[PeerId, set[Multiaddr]] = {}
        for sock in tuple(self._sockets.values()):
            await sock.send(encode_question())
        deadline = trio.current_time() + _WAIT
        while True:
            now = trio.current_time()
            for peer_id, addrs in self._peers.peers(now):
                known = told.setdefault(peer_id, set())
                if not known.issuperset(addrs):
                    known.update(addrs)
                    yield FoundPeer(peer_id, addrs, self.name)
            self._changed = trio.Event() if self._changed.is_set() else self._changed
            with trio.move_on_at(deadline) as scope:
                await self._changed.wait()
                await trio.sleep(_TOGETHER)
            if scope.cancelled_caught:
                return

    # --- the sockets ---

    async def _run(self, version: int) -> None:
        """Over one version of IP, until cancelled."""
        while True:
            try:
                with MulticastSocket(version, self._port, self._interfaces) as sock:
                    self._sockets[version] = sock
                    self._failed.pop(version, None)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._ask, sock)
                        await self._listen(sock)
            except* OSError as group:
                error = group.exceptions[0]
                assert isinstance(error, OSError)
                self._note_failed(version, error)
            finally:
                self._sockets.pop(version, None)
            await trio.sleep(_RETRY)

    def _note_failed(self, version: int, error: OSError) -> None:
        self._failed[version] = error
        # Many networks have only one of the two.
        is_news = len(self._failed) == len(GROUPS) and not self._told
        self._told |= is_news
        level = logging.WARNING if is_news else logging.DEBUG
        logger.log(level, "no multicast DNS here: %s", "; ".join(map(str, self._failed.values())))

    async def _listen(self, sock: MulticastSocket) -> None:
        while True:
            data, sender = await sock.receive(MAX_PACKET)
            now = trio.current_time()
            if not is_of_service(data) or not is_on_link(sender):
                continue
            if not self._may_read(sender, len(data), now):
                continue
            try:
                message = decode(data)
            except RemoteProtocolError as error:
                logger.debug("%s", error)
                continue
            if isinstance(message, Question):
                if take((self._answers,), 1.0, now):
                    # Those who are asked at the same time do not answer at the same time.
                    await trio.sleep(self._rng.uniform(0.0, 0.1))
                    await sock.send(encode_answer(self._name, self._addrs()))
            elif isinstance(message, Answer):
                self._take(message, sender, now)

    def _may_read(self, sender: IpAddress, size: int, now: float) -> bool:
        """Whether there is time for so many bytes of a sender's; if so, they are counted."""
        return take((self._read_of.of(sender), self._read), size, now)

    def _take(self, answer: Answer, sender: IpAddress, now: float) -> None:
        for peer_id, told in answer.peers.items():
            plain = (split_peer(addr)[0] for addr in told)
            addrs = judged(sender, peer_id, plain)
            if peer_id != self._own_id and addrs:
                self._peers.add(sender, peer_id, addrs, now, TTL)
                self._changed.set()

    async def _ask(self, sock: MulticastSocket) -> None:
        while True:
            sock.join()  # there may be others than at first
            await sock.send(encode_question())
            await trio.sleep(_ASK_EVERY * self._rng.uniform(0.8, 1.2))
