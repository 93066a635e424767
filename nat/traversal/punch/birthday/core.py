"""The birthday method: a hole through a NAT that gives every destination another port.

Nobody can tell the easy side to which port of the hard side's NAT to send, and its own NAT (or
firewall) lets in only what comes from ports it has sent to. So the hard side sends to the easy
side from many sockets, each of which gets a port at the NAT, and the easy side sends to random
ports of that address until it has hit one. With 256 ports against 64,512 it takes 252 probes on
average, and 2,048 miss once in 3,000 runs; a single socket would take half an hour at the same
rate. Source: D. Anderson, "How NAT traversal works" (Tailscale, 2020), and RFC 5128, section 3.5,
for what is known of such NATs.

Probes and answers are datagrams of 18 bytes that are told from everything else on the same
sockets by their first byte: QUIC has bit 0x40 set, STUN begins with 0 to 3 (RFC 9443), moves of
QUIC peers with 0x10 to 0x14 (:mod:`lattica.nat.quic.path`), error correction with 0x20 to 0x3f
(:mod:`lattica.nat.quic.fec.codec`).

    probe    0x18   token(16)   0x00
    answer   0x18   token(16)   0x01

The token, agreed on over the relayed connection, tells a run's probes from forgeries. It is no
proof of identity: that is for the QUIC handshake on the hole. An answer goes only to the address
that the run is with, once for each probe and a few times at most, so that nothing is amplified.

Pure: a clock, random numbers and datagrams in; datagrams, destinations and the next timer out.
"""

from __future__ import annotations

import hmac
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice, zip_longest
from typing import Final

from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.targets import Claim, Vantage, may_reach
from lattica.nat.swarm.addresses.nat_report import Behaviour
from lattica.nat.transport.udp_socket import Address
from lattica.nat.traversal.punch.birthday.messages import TOKEN_SIZE, Hello
from lattica.nat.traversal.punch.not_applicable import NotApplicable

FIRST_BYTE: Final = 0x18
SIZE: Final = 1 + TOKEN_SIZE + 1
_LOWEST_PORT, _HIGHEST_PORT = 1024, 65535
"""What NATs give out (RFC 4787, REQ-3); lower ones only to who uses them inside."""
_WINDOW = 512
"""Ports after the latest known one where a NAT that counts has its next ones."""
_OPENING_RATE = 512.0
"""Mappings a second that the hard side makes; home routers are slow with new ones."""
_MOST_AT_ONCE = 32
"""Datagrams of one poll: who was away for long does not catch up with a flood."""
_MAX_ANSWERS = 16
_LINGER = 2.0
"""Seconds that the easy side waits for an answer after its last probe."""


class Role(Enum):
    """Of a side in a run."""

    HARD = "hard"
    EASY = "easy"


class Kind(Enum):
    """Of a datagram."""

    PROBE = 0
    ANSWER = 1


def encode(kind: Kind, token: bytes) -> bytes:
    """A probe, or the answer to one."""
    return bytes((FIRST_BYTE,)) + token + bytes((kind.value,))


def decode(datagram: bytes, token: bytes) -> Kind | None:
    """What a datagram is to the run with this token; None: nothing."""
    if len(datagram) != SIZE or datagram[0] != FIRST_BYTE or datagram[-1] > 1:
        return None
    return Kind(datagram[-1]) if hmac.compare_digest(datagram[1:-1], token) else None


def role_of(own: Hello, peer: Hello) -> Role:
    """Which part this side has in a run with that peer; the peer finds the other.

    Raises:
        NotApplicable: the method cannot work, or other strategies do.
    """
    if own.is_hard and peer.is_hard:
        raise NotApplicable(
            "both sides are behind endpoint-dependent NATs: only a relay works between them"
        )
    for side, who in ((own, "this node"), (peer, "the peer")):
        if not side.mapped:
            raise NotApplicable(f"{who} is not seen by any STUN responder over UDP and IPv4")
        if side.mapping is None:
            raise NotApplicable(f"how the NAT of {who} maps ports is not known")
    if not own.is_hard and not peer.is_hard:
        raise NotApplicable("neither side is behind an endpoint-dependent NAT: ICE does it")
    if own.hosts & peer.hosts:
        raise NotApplicable("both sides are behind the same NAT")
    easy = peer if own.is_hard else own
    if easy.filtering in (Behaviour.ENDPOINT_INDEPENDENT, Behaviour.ADDRESS_DEPENDENT):
        raise NotApplicable("the NAT of the easy side does not look at ports: ICE does it")
    return Role.HARD if own.is_hard else Role.EASY


def check_target(ip: IpAddress, own: frozenset[IpAddress]) -> None:
    """Whether a peer may be where it says it is.

    Raises:
        NotApplicable: it is no public address of a single host, or one of this node (`own`):
            nobody has this node look around in its own network, or at itself.
    """
    if not may_reach(Claim.OTHERS, ip, Vantage()) or ip in own:
        raise NotApplicable(f"{ip} is no public address of another node: nothing is sent there")


@dataclass(frozen=True, slots=True)
class Meeting:
    """The hole: which socket of the hard side, and where the other side's probe came from."""

    index: int
    source: Address


class BirthdayHard:
    """The side behind the endpoint-dependent NAT: many sockets that send to one address.

    Args:
        target: the easy side's address at its NAT.
        sockets: how many there are; they are known by their index.
        refresh: seconds after which each has sent again.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        token: bytes,
        target: tuple[str, int],
        *,
        sockets: int,
        refresh: float,
        clock: Callable[[], float],
    ) -> None:
        self.target = target
        self.meeting: Meeting | None = None
        """The first probe that came; later ones on other sockets are ignored."""
        self.probe = encode(Kind.PROBE, token)
        self._token = token
        self._sockets = sockets
        self._clock = clock
        self._sent = 0
        self._due = clock()
        self._refresh = refresh
        self._step = 1 / _OPENING_RATE
        self._answers = 0

    @property
    def is_open(self) -> bool:
        """Each socket has sent once."""
        return self._sent >= self._sockets

    def poll(self) -> list[int]:
        """The sockets that have to send :attr:`probe` to :attr:`target` now."""
        now = self._clock()
        due: list[int] = []
        while self._due <= now and self.meeting is None and len(due) < _MOST_AT_ONCE:
            due.append(self._sent % self._sockets)
            self._sent += 1
            self._due += self._step
            if self._sent == self._sockets:
                # From now on each socket's turn comes once in `refresh`.
                self._step = self._refresh / self._sockets
                self._due = now + self._refresh / 2
        if self._due <= now:
            self._due = now + self._step
        return due

    def next_timer(self) -> float | None:
        """When :meth:`poll` has something to send; None: never again."""
        return None if self.meeting is not None else self._due

    def receive(self, index: int, datagram: bytes, source: Address) -> bytes | None:
        """Take what came in at a socket; the answer to send from there to `source`, if any."""
        if source[0] != self.target[0] or decode(datagram, self._token) is not Kind.PROBE:
            return None
        if self.meeting is None:
            self.meeting = Meeting(index, source)
        if self.meeting != Meeting(index, source) or self._answers == _MAX_ANSWERS:
            return None
        self._answers += 1
        return encode(Kind.ANSWER, self._token)


class BirthdayEasy:
    """The side whose address is known: one socket that sends to many ports.

    Args:
        host: the hard side's address.
        hints: ports at its NAT that STUN responders saw, the latest last. A NAT that hands out
            ports in order is met at once by every second probe going to the ones that follow;
            at one that draws them, all ports are equally good.
        probes: how many ports are tried. rate: how many a second.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        token: bytes,
        host: str,
        *,
        hints: Sequence[int],
        probes: int,
        rate: float,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.meeting: Address | None = None
        """Where the hard side's answer came from."""
        self.sent = 0
        self.probe = encode(Kind.PROBE, token)
        self._token = token
        self._host = host
        self._ports = _ports(hints, probes, rng)
        self._tried: set[int] = set()
        self._step = 1 / rate
        self._clock = clock
        self._due = clock()
        self._exhausted = False

    def poll(self) -> list[tuple[str, int]]:
        """Where to send :attr:`probe` now."""
        now = self._clock()
        due: list[tuple[str, int]] = []
        while (
            self._due <= now
            and self.meeting is None
            and not self._exhausted
            and len(due) < _MOST_AT_ONCE
        ):
            port = next(self._ports, None)
            if port is None:
                self._exhausted = True
                self._due = now + _LINGER
                break
            due.append((self._host, port))
            self._tried.add(port)
            self.sent += 1
            self._due += self._step
        if self._due <= now and not self._exhausted:
            self._due = now + self._step
        return due

    @property
    def has_failed(self) -> bool:
        """All probes were sent, and nobody has answered for a while."""
        return self.meeting is None and self._exhausted and self._clock() >= self._due

    def next_timer(self) -> float | None:
        """When :meth:`poll` has something to send, or :attr:`has_failed` changes; None: never."""
        return None if self.meeting is not None or self.has_failed else self._due

    def receive(self, datagram: bytes, source: Address) -> bool:
        """Take a datagram; whether it is the answer to a probe."""
        if (
            source[0] != self._host
            or source[1] not in self._tried
            or decode(datagram, self._token) is not Kind.ANSWER
        ):
            return False
        if self.meeting is None:
            self.meeting = source
        return True


def _ports(hints: Sequence[int], probes: int, rng: random.Random) -> Iterator[int]:
    """Distinct ports to try, `probes` of them: by turns near to the latest hint, and anywhere."""
    span = _HIGHEST_PORT - _LOWEST_PORT + 1
    near: list[int] = []
    if hints:
        near = [_LOWEST_PORT + (hints[-1] + i - _LOWEST_PORT) % span for i in range(1, _WINDOW + 1)]
        rng.shuffle(near)
    anywhere = rng.sample(range(_LOWEST_PORT, _HIGHEST_PORT + 1), probes)
    mixed = chain.from_iterable(zip_longest(near, anywhere))
    return islice(dict.fromkeys(port for port in mixed if port is not None), probes)
