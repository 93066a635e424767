"""From names to addresses that can be dialed.

The look-ups are the system's resolver's, and for `/dnsaddr` those of
:mod:`lattica.nat.base.net.dnsaddr`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Iterable

import trio

from lattica.nat.base.errors import AddressError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net import dnsaddr
from lattica.nat.base.net.addresses import (
    NAME_FAMILIES,
    is_link_local_ip,
    join_parts,
    to_endpoint,
    zone_of,
)
from lattica.nat.base.net.multiaddr import Multiaddr

logger = logging.getLogger(__name__)

MAX_NAMES = 16
"""Names looked up for one peer."""
MAX_IPS_PER_NAME = 8


def needs_resolving(addr: Multiaddr) -> bool:
    """Whether the first hop is a name (`/dns`, `/dns4`, `/dns6`, `/dnsaddr`)."""
    (name, _), *_ = addr.components or [("", "")]
    return name in NAME_FAMILIES or name == "dnsaddr"


async def resolve(
    addrs: Iterable[Multiaddr], *, peer_id: PeerId | None = None, timeout: float = 5.0
) -> list[Multiaddr]:
    """Put IP addresses in the place of names, all at once, within `timeout` seconds.

    An address whose name cannot be resolved in time stays as it is, with a line in the log,
    so that the dialer can say that it failed. For WebSocket the name lives on as `/sni`:
    `/dns4/example.org/tcp/443/wss` becomes `/ip4/…/tcp/443/tls/sni/example.org/ws`, and
    `/dns4/example.org/tcp/80/ws` what only we would write, `/ip4/…/tcp/80/sni/example.org/ws`.
    At most 16 names are looked up and 8 addresses taken for each. `/dnsaddr` is expanded as
    :mod:`lattica.nat.base.net.dnsaddr` says; with `peer_id`, to addresses of that peer.

    Cancellation: at any time; look-ups under way are abandoned in their threads.
    """
    return list(await resolve_origins(addrs, peer_id=peer_id, timeout=timeout))


async def resolve_origins(
    addrs: Iterable[Multiaddr], *, peer_id: PeerId | None = None, timeout: float = 5.0
) -> dict[Multiaddr, Multiaddr]:
    """As :func:`resolve`, with the address of `addrs` that each came from."""
    unique = list(dict.fromkeys(addrs))
    expanded: dict[Multiaddr, list[Multiaddr]] = {}
    found: dict[Multiaddr, list[Multiaddr]] = {}
    budget = dnsaddr.Budget()

    async def expand(addr: Multiaddr) -> None:
        expanded[addr] = await dnsaddr.expand(addr, peer_id, budget)

    async def look_up(addr: Multiaddr) -> None:
        found[addr] = await _look_up(addr) or [addr]

    async def all_of(work: Callable[[Multiaddr], Awaitable[None]], names: list[Multiaddr]) -> None:
        async with trio.open_nursery() as nursery:
            for addr in names[:MAX_NAMES]:
                nursery.start_soon(work, addr)

    def merged() -> dict[Multiaddr, Multiaddr]:
        steps = {addr: expanded.get(addr) or [addr] for addr in unique}
        origins: dict[Multiaddr, Multiaddr] = {}
        for addr, step in steps.items():
            for between in step:
                for new in found.get(between, [between]):
                    origins.setdefault(new, addr)
        return origins

    if not any(map(needs_resolving, unique)):
        await trio.lowlevel.checkpoint()
        return merged()
    with trio.move_on_after(timeout) as scope:
        await all_of(expand, list(filter(dnsaddr.is_dnsaddr, unique)))
        await all_of(
            look_up,
            [a for a in merged() if needs_resolving(a) and not dnsaddr.is_dnsaddr(a)],
        )
    if scope.cancelled_caught:
        late = (a for a in merged() if needs_resolving(a) and a not in found)
        missing = ", ".join(str(a) for a in late if expanded.get(a) != [])
        logger.info("cannot resolve within %g s: %s", timeout, missing)
    return merged()


async def _look_up(addr: Multiaddr) -> list[Multiaddr]:
    """An address with IP addresses in the place of its name; empty if there are none."""
    try:
        endpoint = to_endpoint(addr)
        answers = await trio.socket.getaddrinfo(
            endpoint.host, endpoint.port, endpoint.family, socket.SOCK_STREAM
        )
    except (AddressError, OSError, UnicodeError) as error:
        logger.info("cannot resolve %s: %s", addr.components[0][1], error)
        return []
    hosts: dict[tuple[str, str], None] = {}
    for answer in answers:
        name = answer[4]
        ip, _, zone = str(name[0]).partition("%")
        scope = name[3] if len(name) == 4 else 0
        if is_link_local_ip(ip) and ":" in ip:
            if not (zone or scope):
                continue
            zone = zone or zone_of(scope)
        else:
            zone = ""
        hosts[ip, zone] = None
    return [_with_ip(addr, ip, zone) for ip, zone in list(hosts)[:MAX_IPS_PER_NAME]]


def _with_ip(addr: Multiaddr, ip: str, zone: str = "") -> Multiaddr:
    (_, name), *rest = addr.components
    protocols = [protocol for protocol, _ in rest]
    if protocols[1:2] == ["wss"]:
        rest[1:2] = [("tls", ""), ("sni", name), ("ws", "")]
    elif protocols[1:3] == ["tls", "ws"]:
        rest[1:3] = [("tls", ""), ("sni", name), ("ws", "")]
    elif protocols[1:2] == ["ws"]:
        rest[1:2] = [("sni", name), ("ws", "")]
    host = [("ip6zone", zone)] if zone else []
    return join_parts([*host, ("ip6" if ":" in ip else "ip4", ip), *rest])
