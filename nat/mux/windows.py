"""How much wider a stream's window becomes when it is opened again. Pure.

A window doubles while half of it is used within four round trips: eight to sixteen times what the
path takes in its round trip, so that it is filled also where that is often longer than the
shortest. Other streams of the connection do not mind: what is under way is little beside it.

Through a relay it is what the windows allow that is under way, for the relay passes on one stream
of bytes, which nothing that is urgent can overtake. So there a window grows to what fills the path,
and no further.
"""

from __future__ import annotations

from typing import Final

from lattica.nat.config import KIB

_TURN: Final = 0.0005
"""Seconds until a busy process runs again; on loopback that is more than the round trip."""
_RELAYED_TURN: Final = 0.0025
"""The same where what is sent and its answer go through a third process, each way."""
_PRODUCTS: Final = 4
"""How often a window through a relay may hold what the path takes in its shortest round trip. TCP's
BBR has 2 of them under way; here is one more that waits for credit, and one for round trips that
vary."""
_BATCHES: Final = 2304 * KIB
"""That may be in it in any case: half of it, which is given at once, fills a batch of the writer,
which costs less than several."""
_LONGEST_WAIT: Final = 0.1
"""Seconds that it takes at most to carry what is there for the batches' sake."""


def growth(
    window: int, consumed: int, elapsed: float, rtt: float, *, most: int, relayed: bool
) -> int:
    """By how much a window grows, up to `most`, of which `consumed` took `elapsed` seconds."""
    if elapsed >= 4 * max(rtt, _TURN):
        return 0
    if relayed:
        rate = consumed / max(elapsed, _TURN)
        batches = min(_BATCHES, rate * _LONGEST_WAIT)
        most = min(most, int(max(_PRODUCTS * rate * max(rtt, _RELAYED_TURN), batches)))
    return max(0, min(window, most - window))
