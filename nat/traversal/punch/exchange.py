"""Streams for coordinating a direct connection: over the relayed one, whatever else there is."""

from __future__ import annotations

from lattica.nat.base.errors import UnsupportedProtocolError
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.traversal.punch.not_applicable import NotApplicable


async def open_on(connection: Connection, protocol: str) -> Stream:
    """Open a stream on this very connection, and wait until its protocol is agreed on.

    The wait keeps the negotiation out of a round trip that is measured later.

    Raises :class:`NotApplicable` if the peer does not speak it, and what else
    :meth:`Connection.open` does.
    """
    try:
        return await connection.open(protocol, optimistic=False)
    except UnsupportedProtocolError:
        raise does_not_speak(protocol) from None


def does_not_speak(protocol: str) -> NotApplicable:
    """To ask again, as after other failures, would be in vain."""
    return NotApplicable(f"the peer does not speak {protocol}")
