"""May anything be sent there? The one answer, for whatever dials, probes, resolves or replies.

An address is somebody's claim. What a claim may reach depends on who makes it: users name what they
like; a peer that has proved its key may say where it is itself, but must not have this node scan
networks, its own before all, or flood a third party. So addresses are judged by class
(:func:`may_reach`), and what is sent to places at which nobody has been met is counted by host
(:class:`TargetBudget`). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from lattica.nat.base.limits.token_bucket import TokenBucket, TokenBuckets, take
from lattica.nat.base.net.interfaces import Interface
from lattica.nat.base.net.ip import IpAddress, is_private_host, is_public_host
from lattica.nat.base.net.network_groups import host_of


class Claim(Enum):
    """Who says that somebody is at an address."""

    USER = "user"
    """Configuration, a call of the application, a ticket: whoever runs this node."""
    RELAY = "relay"
    """A relay in use, about itself."""
    PEER = "peer"
    """A peer whose key is proved, about itself."""
    OTHERS = "others"
    """A peer, about others: the relay in a relayed address, or whom to probe on its behalf."""


@dataclass(frozen=True, slots=True)
class Vantage:
    """Where this node stands, as far as it matters for one claim."""

    interfaces: Sequence[Interface] = ()
    """Of this machine, with their networks."""
    met_at: Collection[IpAddress] = ()
    """Where whoever is meant was connected, not over a relay."""
    same_site: bool = False
    """Whoever is meant has a public address of this node's: it is behind the same NAT."""
    allow_loopback: bool = False
    """This machine's loopback is fine, as in tests."""


def may_reach(claim: Claim, ip: IpAddress, vantage: Vantage) -> bool:
    """Whether something may be sent to an IP address.

    Anybody may name a single host on the internet. Where whoever is meant was met before is fine,
    and so is loopback if it was met there. Private hosts may be named by a peer about itself only,
    and only in a network of this machine or behind the same NAT. Link-local, multicast, reserved
    and unspecified addresses, and IPv6 addresses that stand for IPv4 ones, only by the user.
    """
    if claim is Claim.USER or ip in vantage.met_at:
        return True
    if ip.is_loopback:
        return vantage.allow_loopback or any(met.is_loopback for met in vantage.met_at)
    if is_public_host(ip):
        return True
    if claim is not Claim.PEER or not is_private_host(ip):
        return False
    if any(
        ip == interface.network.broadcast_address and interface.network.num_addresses > 2
        for interface in vantage.interfaces
        if ip.version == interface.version == 4
    ):
        return False
    return vantage.same_site or any(ip in interface.network for interface in vantage.interfaces)


class TargetBudget:
    """How often hosts are dialed at which nobody was met: a few times, then one now and then.

    Args:
        clock: seconds, never decreasing.
    """

    BURST = 8
    INTERVAL = 10.0
    """Seconds in which one host may be dialed once more."""
    TOTAL_BURST = 256
    TOTAL_RATE = 8.0
    """Dials a second to all of them."""
    MAX_HOSTS = 4096

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hosts = TokenBuckets[str](self.BURST, 1 / self.INTERVAL, self.MAX_HOSTS)
        self._total = TokenBucket(self.TOTAL_BURST, self.TOTAL_RATE)

    def take(self, ip: IpAddress) -> bool:
        """Whether a host may be dialed once more now; if so, it is counted.

        An IPv4 address is one host, and an IPv6 /64.
        """
        return take((self._hosts.of(host_of(ip)), self._total), 1.0, self._clock())
