"""Which of the addresses that peers tell about others may be dialed.

Source of the rules: :mod:`lattica.nat.base.net.targets`. What a peer on the internet says leads to
the internet only; one that is met in a local network may tell of others in the networks of this
machine, and one on this machine of others there. Names are kept as they are, to be looked up before
they are dialed (:mod:`lattica.nat.swarm.addresses.told_names`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from lattica.dht.kademlia.contact import Contact
from lattica.nat.base.net.addresses import direct_ip, ip_of, relay_of
from lattica.nat.base.net.interfaces import local_interfaces
from lattica.nat.base.net.ip import IpAddress, is_private_host, is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.names import needs_resolving
from lattica.nat.base.net.targets import Claim, TargetBudget, Vantage, may_reach


@lru_cache(maxsize=8192)
def host_of(addr: Multiaddr) -> IpAddress | None:
    """The IP address of the first hop; None where there is none, or no port."""
    return ip_of(addr) if relay_of(addr) is not None else direct_ip(addr)


class DialBudget(TargetBudget):
    """How often peers are dialed that only others have told of: by host, and in all."""

    BURST = 16
    TOTAL_BURST = 1024
    TOTAL_RATE = 64.0

    def allowed(self, addrs: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
        """Those that may be dialed now, which are counted; local ones always may."""
        found = []
        for addr in addrs:
            ip = host_of(addr)
            if ip is not None and (not is_public_host(ip) or self.take(ip)):
                found.append(addr)
        return tuple(found)


def judged(contact: Contact, teller: Multiaddr | None) -> Contact:
    """The contact with those of its addresses that may be dialed because somebody says so who is
    connected at `teller` (None: over a relay), and those that have names.
    """
    met = None if teller is None else host_of(teller)
    is_local = met is not None and is_private_host(met)
    on_loopback = met is not None and met.is_loopback
    claim = Claim.PEER if is_local or on_loopback else Claim.OTHERS
    allowed = []
    for addr in contact.addrs:
        host = host_of(addr)
        if host is None:
            if needs_resolving(addr):
                allowed.append(addr)
            continue
        # Which networks there are here matters for private hosts alone, and takes longest.
        interfaces = local_interfaces() if is_private_host(host) else ()
        if may_reach(claim, host, Vantage(interfaces, allow_loopback=on_loopback)):
            allowed.append(addr)
    if len(allowed) == len(contact.addrs):
        return contact
    return Contact(contact.key, contact.peer_id, tuple(allowed))
