"""ICE candidates and their pairs: what is tried, in which order, and what never is. Pure.

Source: RFC 8445, sections 5.1 (candidates), 6.1.2 (pairs); component 1 over UDP is all there is.
Addresses of a peer are claims: which of them may be sent anything is for :class:`TargetPolicy`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from zlib import crc32

from lattica.nat.base.errors import AccessDeniedError
from lattica.nat.base.net.interfaces import Interface
from lattica.nat.base.net.ip import is_public_host
from lattica.nat.base.net.targets import Claim, Vantage, may_reach
from lattica.nat.secure.gater import Gater

MAX_REMOTE_CANDIDATES = 16
"""Of what a peer claims to have, so many are looked at."""
MAX_PUBLIC_HOSTS = 6
"""Different public IP addresses of one peer that are tried."""
MAX_PAIRS = 100
"""RFC 8445, section 6.1.2.5."""
COMPONENT = 1


class CandidateType(IntEnum):
    """Where a candidate comes from; the value is its type preference (section 5.1.2.2)."""

    HOST = 126
    """An address of an interface."""
    PEER_REFLEXIVE = 110
    """Where the other peer of a check saw its sender."""
    SERVER_REFLEXIVE = 100
    """Where a third party, such as a relay, sees the socket."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transport address that a peer may be reached at."""

    type: CandidateType
    host: str
    """An IP address in its canonical form."""
    port: int
    priority: int
    foundation: str
    base: int = 0
    """Of a local candidate, the number of the socket that it belongs to; a peer's have none, and 0
    there."""

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def version(self) -> int:
        return 6 if ":" in self.host else 4


def priority(type_: CandidateType, local_preference: int = 65535) -> int:
    """Section 5.1.2.1; `local_preference` is 0 to 65535, the best highest."""
    return type_ << 24 | local_preference << 8 | 256 - COMPONENT


def peer_reflexive_priority(candidate: Candidate) -> int:
    """What a local candidate would have if a peer found it by a check (section 7.1.1)."""
    return priority(CandidateType.PEER_REFLEXIVE, candidate.priority >> 8 & 0xFFFF)


def local_candidate(
    type_: CandidateType, host: str, port: int, *, base: int, rank: int
) -> Candidate:
    """A candidate of this node; `rank` counts from 0, the best, and is unique among them.

    Candidates have the same foundation if they have type and host of their base in common
    (section 5.1.1.3); the socket's number stands for the latter.
    """
    canonical = str(ipaddress.ip_address(host))
    key = f"{type_.name}|{canonical if type_ is CandidateType.HOST else base}"
    foundation = f"{crc32(key.encode()):08x}"
    return Candidate(type_, canonical, port, priority(type_, 65535 - rank), foundation, base)


# --- which addresses may be tried ---


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """Which addresses that a peer claims to have this node sends anything to."""

    interfaces: Sequence[Interface] = ()
    """Of this machine, with their networks."""
    public: frozenset[str] = frozenset()
    """Addresses at which others see this node."""
    allow_loopback: bool = False
    """This machine's loopback addresses are fine."""
    gater: Gater | None = None
    """The access rules; what they forbid gets nothing, either."""

    def may_answer(self, host: str) -> bool:
        """Whether somebody at `host`, who has proved to be the peer, may be written to."""
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:  # an IPv6 address with a zone is not one, either
            return False
        if self.gater is not None:
            try:
                self.gater.check_address(ip)
            except AccessDeniedError:
                return False
        return may_reach(Claim.PEER, ip, self._vantage(same_site=True))

    def _may_probe(self, host: str, *, same_site: bool) -> bool:
        if not self.may_answer(host):
            return False
        return may_reach(Claim.PEER, ipaddress.ip_address(host), self._vantage(same_site))

    def _vantage(self, same_site: bool) -> Vantage:
        return Vantage(self.interfaces, (), same_site, self.allow_loopback)

    def choose(
        self, remote: Iterable[Candidate], own: Collection[tuple[str, int]] = ()
    ) -> list[Candidate]:
        """Those of a peer's candidates that may be tried, without duplicates.

        Private addresses only if they are in a network of this machine, or if the peer is
        behind the same public address. Only the first 16 are looked at, and 6 public hosts
        tried; `own` are addresses of this node's sockets, which are not the peer's whatever
        it says.
        """
        looked_at = [one for one, _ in zip(remote, range(MAX_REMOTE_CANDIDATES), strict=False)]
        same_site = any(
            one.type is not CandidateType.HOST and one.host in self.public for one in looked_at
        )
        found: dict[tuple[str, int], Candidate] = {}
        public: set[str] = set()
        for one in looked_at:
            if one.address in own or not self._may_probe(one.host, same_site=same_site):
                continue
            if is_public_host(ipaddress.ip_address(one.host)):
                if one.host not in public and len(public) >= MAX_PUBLIC_HOSTS:
                    continue
                public.add(one.host)
            found.setdefault(one.address, one)
        return list(found.values())


# --- pairs ---


def pair_priority(local: int, remote: int, *, controlling: bool) -> int:
    """Section 6.1.2.3: the same number on both sides."""
    g, d = (local, remote) if controlling else (remote, local)
    return (min(g, d) << 32) + 2 * max(g, d) + (g > d)


def form_pairs(
    local: Iterable[Candidate],
    remote: Iterable[Candidate],
    *,
    controlling: bool,
) -> list[tuple[Candidate, Candidate]]:
    """Every (local, remote) that is worth checking, the best first, at most :data:`MAX_PAIRS`.

    What is sent from a server-reflexive candidate is sent from its base (section 6.1.2.4), so
    each socket is paired with each remote address once, as the best of its candidates.
    """
    best: dict[int, Candidate] = {}
    for candidate in sorted(local, key=lambda c: -c.priority):
        best.setdefault(candidate.base, candidate)
    found: dict[tuple[int, tuple[str, int]], tuple[Candidate, Candidate]] = {}
    for other in sorted(remote, key=lambda c: -c.priority):
        for base, candidate in best.items():
            if candidate.version == other.version:
                found.setdefault((base, other.address), (candidate, other))
    pairs = sorted(
        found.values(),
        key=lambda pair: (
            -pair_priority(pair[0].priority, pair[1].priority, controlling=controlling)
        ),
    )
    return pairs[:MAX_PAIRS]
