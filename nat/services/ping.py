"""libp2p ping: 32 bytes come, and go back.

Source: https://github.com/libp2p/specs/blob/master/ping/ping.md.
"""

from __future__ import annotations

import trio

from lattica.nat.mux.stream import Stream

PING = "/ipfs/ping/1.0.0"
_SIZE = 32
_IDLE = 60.0
"""Seconds that a stream is kept for the next ping."""


async def answer_pings(stream: Stream) -> None:
    """Serve a stream until the peer ends it, or is idle for a minute."""
    while True:
        with trio.move_on_after(_IDLE):
            payload = await stream.receive_some(_SIZE)
            if not payload:
                return
            if len(payload) < _SIZE:
                payload += await stream.receive_exactly(_SIZE - len(payload))
            await stream.send_all(payload)
            continue
        stream.reset()
        return
