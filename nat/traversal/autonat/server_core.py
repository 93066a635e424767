"""Core of the AutoNAT v2 server: who is served, which address is dialed, what it costs first.

Source: https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md. A server dials what it
is told to, so that it must not become a tool against others:

* It dials one address of each request, and only public ones: nothing private, loopback,
  link-local, multicast or reserved, nothing that only wraps an IPv4 address, none of its own, and
  no names, whose addresses would be somebody else's choice.
* Requests are limited for each peer, for each network and in total, dials for each network that
  is dialed, and the number of those under way.
* Another IP address than the asker's own costs the asker 30,000 to 100,000 bytes first, which is
  more than the dial costs the victim, and is dialed a little later, at random.

Pure: messages and a clock in, steps out; :mod:`lattica.nat.traversal.autonat.server` drives it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from lattica.nat.base.errors import AddressError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import direct_ip, ip_of, split_peer
from lattica.nat.base.net.interfaces import Interface
from lattica.nat.base.net.ip import IpAddress, is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.network_groups import network_of
from lattica.nat.base.net.targets import Claim, Vantage, may_reach
from lattica.nat.traversal.autonat.config import AutonatServerConfig
from lattica.nat.traversal.autonat.messages import (
    MAX_DIAL_DATA,
    MIN_DIAL_DATA,
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    DialStatus,
    Message,
    ResponseStatus,
)

MAX_LOOKED_AT = 16
"""Addresses of one request among which the one to dial is sought."""
MIN_CHUNK = 100
"""Bytes of dial data in each message but the last; less would only cost processor time."""
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """Send a message; it is the last one on the stream if `last`."""

    message: DialResponse | DialDataRequest
    last: bool


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial `addr` in `delay` seconds, deliver the nonce, and say what became of it."""

    addr: Multiaddr
    nonce: int
    delay: float


Step: TypeAlias = Reply | Dial | None
"""What to do next; None: wait for the next message."""


def may_dial(addr: Multiaddr, local: Sequence[Interface], *, allow_private: bool = False) -> bool:
    """Whether a server may dial an address for somebody else.

    `local` are the interfaces of this machine, by which it is known, too, whether there is IPv4
    or IPv6 at all.
    """
    ip = direct_ip(addr)
    if ip is None or ip.is_unspecified or ip.is_multicast:
        return False
    if allow_private:
        return any(interface.version == ip.version for interface in local)
    own = any(interface.ip == ip for interface in local)
    if own or not may_reach(Claim.OTHERS, ip, Vantage()):
        return False
    return any(_leads_outside(interface, ip.version) for interface in local)


def _leads_outside(interface: Interface, version: int) -> bool:
    """IPv4 may be translated on its way; an IPv6 address must be public itself."""
    if interface.version != version or interface.is_loopback:
        return False
    return version == 4 or is_public_host(interface.ip)


class Window:
    """Counts what happened within the last minute, by key. Bounded by the limits put on it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: deque[tuple[float, str]] = deque()
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        self._expire()
        return len(self._times)

    def count(self, key: str) -> int:
        self._expire()
        return self._counts[key]

    def add(self, key: str) -> None:
        self._times.append((self._clock(), key))
        self._counts[key] += 1

    def _expire(self) -> None:
        before = self._clock() - _MINUTE
        while self._times and self._times[0][0] <= before:
            _, key = self._times.popleft()
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


class AutonatServerCore:
    """Admits requests; each becomes an :class:`Exchange`.

    `clock` gives seconds, `rng` the amounts and pauses that nobody should foresee, `local` the
    interfaces of this machine.
    """

    def __init__(
        self,
        config: AutonatServerConfig,
        *,
        clock: Callable[[], float],
        rng: Random,
        local: Callable[[], Sequence[Interface]],
    ) -> None:
        self.config = config
        self.rng = rng
        self._local = local
        self._peers = Window(clock)
        self._networks = Window(clock)
        self._targets = Window(clock)
        self._elsewhere = Window(clock)
        self._under_way: Counter[PeerId] = Counter()

    @property
    def under_way(self) -> int:
        """Requests that have been admitted and not yet left."""
        return self._under_way.total()

    def enter(self, peer: PeerId, observed: IpAddress | None) -> Exchange | None:
        """Admit a request, or not. Whoever is admitted must :meth:`Exchange.leave`.

        `observed` is where the asker's connection comes from; None if it comes over a relay,
        in which case nobody can say whom a dial would hit, and it is refused.
        """
        config, key = self.config, str(peer)
        if observed is None:
            return None
        network = network_of(observed)
        if (
            self.under_way >= config.concurrent
            or self._under_way[peer] >= config.concurrent_per_peer
            or len(self._peers) >= config.per_minute
            or self._peers.count(key) >= config.per_minute_and_peer
            or self._networks.count(network) >= config.per_minute_and_network
        ):
            return None
        self._peers.add(key)
        self._networks.add(network)
        self._under_way[peer] += 1
        return Exchange(self, peer, observed)

    def leave(self, peer: PeerId) -> None:
        """A request of this peer is over."""
        self._under_way[peer] -= 1
        if not self._under_way[peer]:
            del self._under_way[peer]

    def choose(self, peer: PeerId, addrs: Sequence[Multiaddr | None]) -> int | None:
        """The number of the first address that may be dialed; None if there is none."""
        for index, addr in enumerate(addrs[:MAX_LOOKED_AT]):
            if addr is None or not self._is_of(peer, addr):
                continue
            if may_dial(addr, self._local(), allow_private=self.config.allow_private):
                return index
        return None

    def _is_of(self, peer: PeerId, addr: Multiaddr) -> bool:
        try:
            _, named = split_peer(addr)
        except AddressError:
            return False
        return named is None or named == peer

    def spend(self, target: IpAddress, *, elsewhere: bool) -> bool:
        """Count a dial against its limits; False if it is one too many."""
        network = network_of(target)
        if self._targets.count(network) >= self.config.per_minute_and_network:
            return False
        if elsewhere and len(self._elsewhere) >= self.config.per_minute_elsewhere:
            return False
        self._targets.add(network)
        if elsewhere:
            self._elsewhere.add("")
        return True


class Exchange:
    """One request: its messages in, steps out. Made by :meth:`AutonatServerCore.enter`."""

    def __init__(self, core: AutonatServerCore, peer: PeerId, observed: IpAddress) -> None:
        self.peer = peer
        self._core = core
        self._observed = observed
        self._index: int | None = None
        self._dial: Dial | None = None
        self._owed = 0
        self._left = False

    @property
    def owed(self) -> int:
        """Bytes of dial data that the asker has still to send."""
        return self._owed

    def receive(self, message: Message) -> Step:
        """What a message leads to.

        Raises:
            RemoteProtocolError: for one out of turn.
        """
        match message:
            case DialRequest() if self._dial is None:
                return self._receive_request(message)
            case DialDataResponse(data) if self._owed:
                return self._receive_data(len(data))
            case _:
                raise RemoteProtocolError(f"{type(message).__name__} out of turn")

    def _receive_request(self, request: DialRequest) -> Step:
        core = self._core
        index = core.choose(self.peer, request.addrs)
        addr = None if index is None else request.addrs[index]
        ip = None if addr is None else ip_of(addr)
        if index is None or addr is None or ip is None:
            return Reply(DialResponse(ResponseStatus.E_DIAL_REFUSED), last=True)
        elsewhere = ip != self._observed
        if not core.spend(ip, elsewhere=elsewhere):
            return Reply(DialResponse(ResponseStatus.E_REQUEST_REJECTED), last=True)
        self._index = index
        delay = core.rng.uniform(0.0, core.config.dial_data_delay) if elsewhere else 0.0
        self._dial = Dial(addr, request.nonce, delay)
        if not elsewhere:
            return self._dial
        self._owed = core.rng.randint(MIN_DIAL_DATA, MAX_DIAL_DATA)
        return Reply(DialDataRequest(index, self._owed), last=False)

    def _receive_data(self, size: int) -> Step:
        if size < MIN_CHUNK and size < self._owed:
            raise RemoteProtocolError(f"a message with {size} bytes of dial data")
        self._owed = max(0, self._owed - size)
        return None if self._owed else self._dial

    def refused(self) -> Reply:
        """The address cannot be dialed from here after all."""
        return Reply(DialResponse(ResponseStatus.E_DIAL_REFUSED), last=True)

    def dialed(self, status: DialStatus) -> Reply:
        """The answer, once the dial is over."""
        if self._index is None or self._owed:
            raise LocalProtocolError("nothing was to be dialed")
        return Reply(DialResponse(ResponseStatus.OK, self._index, status), last=True)

    def leave(self) -> None:
        """The request is over, however it went. Idempotent."""
        if not self._left:
            self._left = True
            self._core.leave(self.peer)
