"""`/dnsaddr/NAME`: addresses that a domain keeps in its TXT records.

Source: https://github.com/multiformats/multiaddr/blob/master/protocols/DNSADDR.md. The records of
`_dnsaddr.NAME` that begin with `dnsaddr=` are addresses, which may be of the same kind again. What
follows the name in the address that is resolved has to be the end of the record's:
`/dnsaddr/example.org/p2p/ID` stands for those of that peer only. The look-ups are dnspython's.

Whoever keeps the records, and whoever can answer in its place, says where to dial and no more: a
peer still proves its key.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lattica.nat.base.errors import AddressError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

logger = logging.getLogger(__name__)

MAX_LOOKUPS = 16
"""Names asked for, in all that is resolved together."""
MAX_DEPTH = 4
"""Records that lead to records."""
MAX_RESULTS = 64
"""Addresses taken, in all that is resolved together."""
MAX_RECORDS = 256
"""Of one name that are looked at: of a list for many peers, few are this one's."""
_MAX_TEXT = 1024
"""Characters of a record."""
_PREFIX = "dnsaddr="
_CIRCUIT = ("p2p-circuit", "")

LookUp = Callable[[str], Awaitable[Iterable[str]]]
"""The TXT records of a name. Raises :class:`OSError` if there is no answer."""


@dataclass(slots=True)
class Budget:
    """What resolving may still cost; shared by all that is resolved together."""

    lookups: int = MAX_LOOKUPS
    results: int = MAX_RESULTS


def is_dnsaddr(addr: Multiaddr) -> bool:
    """Whether it has to be expanded before it can be dialed."""
    return bool(addr.components) and addr.components[0][0] == "dnsaddr"


async def expand(
    addr: Multiaddr, peer_id: PeerId | None, budget: Budget, look_up: LookUp | None = None
) -> list[Multiaddr]:
    """The addresses that one stands for, none of which is a `/dnsaddr` any more.

    With `peer_id`, those of other peers are left out. Empty when there are none, with a line in
    the log. Takes as long as the look-ups do; the caller bounds that.
    """
    found: dict[Multiaddr, None] = {}
    asked: set[str] = set()
    look_up = look_up or _look_up

    async def walk(addr: Multiaddr, depth: int) -> None:
        (_, name), *rest = addr.components
        if name in asked:
            return  # records that lead to each other in a circle
        if depth >= MAX_DEPTH or budget.lookups <= 0:
            logger.info("not resolved: %s takes too many steps", addr)
            return
        asked.add(name)
        budget.lookups -= 1
        try:
            records = list(await look_up(f"_dnsaddr.{name}"))
        except OSError as error:
            logger.info("cannot resolve /dnsaddr/%s: %s", name, error)
            return
        deeper: list[Multiaddr] = []
        for entry in _matching(records[:MAX_RECORDS], tuple(rest), peer_id):
            if is_dnsaddr(entry):
                deeper.append(entry)
            elif entry not in found and budget.results > 0:
                found[entry] = None
                budget.results -= 1
        async with trio.open_nursery() as nursery:
            for entry in deeper:
                nursery.start_soon(walk, entry, depth + 1)

    await walk(addr, 0)
    return list(found)


def _matching(
    records: Iterable[str], rest: tuple[tuple[str, str], ...], peer_id: PeerId | None
) -> Iterable[Multiaddr]:
    """The addresses in records that end as the one that is resolved does."""
    # Behind a relay that is found by its name comes what leads on from there.
    cut = rest.index(_CIRCUIT) if _CIRCUIT in rest else len(rest)
    wanted, onward = rest[:cut], rest[cut:]
    tail = Multiaddr("".join(f"/{name}/{value}" if value else f"/{name}" for name, value in onward))
    for record in records:
        if not record.startswith(_PREFIX) or len(record) > _MAX_TEXT:
            continue
        try:
            entry = Multiaddr(record.removeprefix(_PREFIX).strip())
        except AddressError as error:
            logger.debug("not an address in a TXT record: %s", error)
            continue
        parts = entry.components
        if not parts or parts[len(parts) - len(wanted) :] != wanted:
            continue
        kind, value = parts[-1]
        if peer_id is not None and not onward and kind == "p2p" and value != peer_id:
            continue
        yield entry.encapsulate(tail)


def _resolver() -> Resolver:
    """As the system is configured now: another network has other name servers."""
    from dns.asyncresolver import Resolver  # takes a while, and few need it

    return Resolver()


async def _look_up(name: str) -> list[str]:
    from dns.exception import DNSException

    try:
        answer = await _resolver().resolve(name, "TXT", search=False)
    except DNSException as error:
        raise OSError(str(error)) from None
    # A record of more than 255 bytes comes in several strings.
    return [b"".join(record.strings).decode("ascii", "replace") for record in answer]
