"""Streams for coordinating a direct connection: over the relayed one, whatever else there is."""

from __future__ import annotations

import trio

from lattica.nat.base.errors import UnsupportedProtocolError
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.secure.multistream import Initiator
from lattica.nat.traversal.punch.not_applicable import NotApplicable


async def open_on(connection: Connection, protocol: str, timeout: float) -> Stream:
    """Open a stream on this very connection, and wait until its protocol is agreed on.

    The wait keeps the negotiation out of a round trip that is measured later.

    Raises :class:`NotApplicable` if the peer does not speak it,
    :class:`ConnectionClosedError`, and :class:`TimeoutError` after `timeout` seconds.
    """
    stream = connection.open_stream()
    try:
        stream.begin_negotiation(Initiator([protocol]))
        with trio.move_on_after(timeout):
            await stream.finish_negotiation()
        if not stream.protocol:
            raise TimeoutError(f"no answer within {timeout:g} s when asked for {protocol}")
    except UnsupportedProtocolError:
        raise does_not_speak(protocol) from None
    except BaseException:
        stream.reset()
        raise
    return stream


def does_not_speak(protocol: str) -> NotApplicable:
    """To ask again, as after other failures, would be in vain."""
    return NotApplicable(f"the peer does not speak {protocol}")
