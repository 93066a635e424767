"""What kind of NAT it is, from what STUN responders have said (RFC 5780, section 4). Pure.

A responder is a relay that somebody has configured, and may still lie. Each has one voice,
however many addresses it has; where several say different things the majority is right, and
what cannot be true is not listened to at all. What remains possible for a liar is to make a NAT
look worse than it is, or, if there is nobody else to ask, to be believed until what it says is
tried.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from lattica.nat.base.net.ip import is_host, is_public_host
from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport
from lattica.nat.traversal.stun.codec import Endpoint

MAX_RESPONDERS: Final = 16
_EACH_VOICE: Final = 4

_Claim = TypeVar("_Claim", bound=Hashable)


class Responder(NamedTuple):
    """Where a STUN responder listens. `owner` tells whose it is: the relay's peer ID.

    Those without an owner are told apart by their host.
    """

    host: str
    port: int
    owner: Hashable = None

    @property
    def endpoint(self) -> Endpoint:
        return self.host, self.port

    @property
    def voice(self) -> Hashable:
        return self.host if self.owner is None else self.owner


@dataclass(frozen=True, slots=True)
class Observation:
    """A responder sees the main socket at `mapped`."""

    responder: Responder
    mapped: Endpoint


@dataclass(frozen=True, slots=True)
class Findings:
    """What one round of measurements has brought, for one address family."""

    local_port: int
    """What the main socket is bound to."""
    local_hosts: frozenset[str]
    """The addresses of this machine."""
    asked: tuple[Responder, ...] = ()
    """Responders that were asked."""
    observations: tuple[Observation, ...] = ()
    """In the order in which they were asked."""
    port_pairs: tuple[tuple[int, int], ...] = ()
    """Inside and outside port of further sockets."""
    other_address: bool | None = None
    """Whether something came in from an address that was not written to; None: unknown."""
    other_port: bool | None = None
    """Whether something came in from another port of one that it had; None: unknown."""
    hairpin: bool | None = None
    """Whether something came in from this machine by way of the outside; None: unknown."""


def judge(findings: Findings) -> NatReport:
    """The report of a round of measurements."""
    inside, local_hosts = findings.local_port, findings.local_hosts
    seen = believed(findings.observations, local_hosts)
    if not seen:
        if findings.observations:
            return NatReport(udp_works=True)
        asked = {responder.voice for responder in findings.asked}
        return NatReport(udp_works=False if len(asked) > 1 else None)
    translated = any(each.mapped[0] not in local_hosts for each in seen)
    pairs = [*findings.port_pairs, *((inside, each.mapped[1]) for each in seen)]
    return NatReport(
        mapping=mapping_behaviour(seen, inside, local_hosts),
        filtering=filtering_behaviour(findings.other_address, findings.other_port),
        is_translated=translated,
        preserves_port=all(inner == outer for inner, outer in pairs),
        hairpin=findings.hairpin if translated else None,
        udp_works=True,
        mapped=tuple(dict.fromkeys(each.mapped for each in seen)),
    )


# --- whom to ask ---


def choose(responders: Iterable[Responder], version: int) -> tuple[Responder, ...]:
    """Whom to ask of those that there are, for an IP version.

    A relay's addresses are what it says they are, among them those of its own private network.
    Responders on the internet are asked, or else those in private networks, or else those on
    this machine: of one class only, since between them there may be a NAT or none. At most four
    of each voice, and 16 together.
    """
    found: dict[Endpoint, tuple[int, Responder]] = {}
    for responder in islice(responders, 8 * MAX_RESPONDERS):
        try:
            host = ipaddress.ip_address(responder.host)
        except ValueError:
            continue  # a name
        if host.version != version or not 0 < responder.port < 65536:
            continue
        if not (is_host(host) or host.is_loopback):
            continue
        rank = 0 if is_public_host(host) else 2 if host.is_loopback else 1
        plain = responder._replace(host=str(host))
        found.setdefault(plain.endpoint, (rank, plain))
    best = min((rank for rank, _ in found.values()), default=0)
    chosen: list[Responder] = []
    voices: Counter[Hashable] = Counter()
    for rank, responder in found.values():
        if rank == best and voices[responder.voice] < _EACH_VOICE:
            voices[responder.voice] += 1
            chosen.append(responder)
    return tuple(chosen[:MAX_RESPONDERS])


# --- whom to believe ---


def is_credible(responder: Endpoint, mapped: Endpoint, local_hosts: Collection[str]) -> bool:
    """Whether a responder can have seen this node at `mapped`.

    Not if that is of another family, no address of a host, or the responder's own; nor if it is
    private, loopback or link-local while the responder is not.
    """
    there, here = ipaddress.ip_address(responder[0]), ipaddress.ip_address(mapped[0])
    if not mapped[1] or here.version != there.version:
        return False
    if not (is_host(here) or here.is_loopback or here.is_link_local):
        return False
    if is_public_host(there) and not is_public_host(here):
        return False
    if mapped[0] in local_hosts:
        return True
    return (
        here != there and not here.is_loopback and (not here.is_link_local or there.is_link_local)
    )


def believed(
    observations: Sequence[Observation], local_hosts: Collection[str]
) -> list[Observation]:
    """The observations that are neither absurd nor against what most responders say.

    The host outside must be the one that most voices name, and if most agree on the port too,
    others are wrong about it. Without a majority nobody is.
    """
    seen = [
        each
        for each in observations
        if is_credible(each.responder.endpoint, each.mapped, local_hosts)
    ]
    host = _majority([(each.responder, each.mapped[0]) for each in seen])
    if host is not None:
        seen = [each for each in seen if each.mapped[0] == host]
    mapped = _majority([(each.responder, each.mapped) for each in seen])
    agreeing = [each for each in seen if each.mapped == mapped]
    # At a single address they agree also where the mapping depends on the address.
    if len({each.responder.host for each in agreeing}) > 1:
        return agreeing
    return seen


def _majority(claims: Collection[tuple[Responder, _Claim]]) -> _Claim | None:
    """What more than half of the voices say; None if there is no such thing.

    One voice may say several things.
    """
    voices: dict[_Claim, set[Hashable]] = {}
    for responder, claim in claims:
        voices.setdefault(claim, set()).add(responder.voice)
    total = len({responder.voice for responder, _ in claims})
    for claim, agreeing in voices.items():
        if 2 * len(agreeing) > total:
            return claim
    return None


# --- what the NAT does ---


def mapping_behaviour(
    seen: Sequence[Observation], local_port: int, local_hosts: Collection[str]
) -> Behaviour | None:
    """How the mapping depends on who is written to (RFC 5780, section 4.3).

    That it does not takes responders at two addresses to tell; whether it depends on the port
    too, one at two ports. Where that is not known, the worse is assumed.
    """
    if not seen:
        return None
    claims = {each.mapped for each in seen}
    if all(host in local_hosts and port == local_port for host, port in claims):
        return Behaviour.ENDPOINT_INDEPENDENT  # nothing is mapped
    by_host: dict[str, dict[int, Endpoint]] = {}
    for each in seen:
        by_host.setdefault(each.responder.host, {})[each.responder.port] = each.mapped
    if any(len(set(by_port.values())) > 1 for by_port in by_host.values()):
        return Behaviour.ADDRESS_AND_PORT_DEPENDENT
    if len(claims) == 1:
        return Behaviour.ENDPOINT_INDEPENDENT if len(by_host) > 1 else None
    if any(len(by_port) > 1 for by_port in by_host.values()):
        return Behaviour.ADDRESS_DEPENDENT
    return Behaviour.ADDRESS_AND_PORT_DEPENDENT


def filtering_behaviour(other_address: bool | None, other_port: bool | None) -> Behaviour | None:
    """What came in: from an address never written to, and from another port of one that was
    (RFC 5780, section 4.4)."""
    if other_address:
        return Behaviour.ENDPOINT_INDEPENDENT
    if other_port is False:
        return Behaviour.ADDRESS_AND_PORT_DEPENDENT
    if other_address is False and other_port:
        return Behaviour.ADDRESS_DEPENDENT
    return None
