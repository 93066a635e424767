"""What a node answers to those whom it has lent buffers to: a service like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lattica.rpc.errors import InvalidArgumentError
from lattica.rpc.leases.book import ID_BYTES
from lattica.rpc.leases.keeping import MOST_IN_BEAT
from lattica.rpc.services.context import CallContext

if TYPE_CHECKING:
    from lattica.rpc.lending.lending import Lending

SERVICE: Final = "lattica.Leases"
"""Its name on the wire."""


class LeaseService:
    """Reads, heartbeats and releases of leases; each for the peer that calls."""

    def __init__(self, lending: Lending) -> None:
        self._lending = lending

    async def read(self, lease: bytes, index: list[Any], ctx: CallContext) -> tuple[Any, int]:
        """A part of the buffer, and the CRC-32 of its bytes."""
        return await self._lending.serve_read(lease, index, ctx.peer)

    async def renew(self, leases: list[bytes], ctx: CallContext) -> list[bool]:
        """A heartbeat; whether each is alive."""
        return self._lending.serve_renewal(_checked(leases), ctx.peer)

    async def rest(self, leases: list[bytes], ctx: CallContext) -> None:
        """There will be no more heartbeats: the caller has dropped its references."""
        self._lending.serve_rest(_checked(leases), ctx.peer)

    async def release(self, leases: list[bytes], ctx: CallContext) -> None:
        """They are needed no more."""
        self._lending.serve_release(_checked(leases), ctx.peer)

    async def give(self, lease: bytes, peer: str, ctx: CallContext) -> Any:
        """A reference for another peer."""
        return self._lending.serve_gift(lease, peer, ctx.peer)


def _checked(leases: list[bytes]) -> list[bytes]:
    if len(leases) > MOST_IN_BEAT or any(len(each) != ID_BYTES for each in leases):
        raise InvalidArgumentError("no list of leases", may_have_run=False)
    return leases
