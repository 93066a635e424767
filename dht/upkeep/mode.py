"""Whether a node serves the DHT. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lattica.nat.base.net.addresses import direct_ip
from lattica.nat.base.net.ip import is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr


def serves(
    mode: str,
    *,
    reachable: bool | None,
    own: Iterable[Multiaddr],
    met_internet: bool,
) -> bool:
    """Whether others can be expected to reach this node.

    Args:
        mode: "client" and "server" are what they say; "auto" is found out.
        reachable: whether strangers have connected to it; None: nobody has tried.
        own: its addresses.
        met_internet: whether it was connected to a peer on the internet, not over a relay.

    Where nobody has tried, a node with an address of the internet is taken to be reachable, and one
    with others if all its peers are in local networks, too.
    """
    if mode != "auto":
        return mode == "server"
    if reachable is not None:
        return reachable
    direct = [ip for addr in own if (ip := direct_ip(addr)) is not None]
    return bool(direct) and (any(map(is_public_host, direct)) or not met_internet)


def is_on_internet(addr: Multiaddr) -> bool:
    """Whether somebody is connected there, over the internet and not over a relay."""
    ip = direct_ip(addr)
    return ip is not None and is_public_host(ip)
