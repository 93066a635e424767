"""LinkSpec: what one direction of a link does to packets.

The meaning of every field follows `tc netem` and `tc tbf`, so that a spec can be written out as
a script for a real router. Sizes are those of IP packets.

A packet passes these stages in this order: loss, duplication, queue and rate, then delay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tools.netlab.spec.strict import require, require_number

JitterShape: TypeAlias = Literal["uniform", "normal"]

# A queue that nobody specified: 100 ms at the link's rate, but room for some packets at least.
DEFAULT_QUEUE = 0.1
"""Seconds at the link's rate."""
DEFAULT_QUEUE_MIN_BYTES = 16 * 1514


@dataclass(frozen=True, slots=True)
class BurstLoss:
    """Loss in bursts: the Gilbert-Elliott model (netem: `loss gemodel p r 1-h 1-k`).

    The link is in a good or a bad state; the state may change before each packet. Probabilities
    are in [0, 1].

    enter: P(good -> bad), netem's p.
    leave: P(bad -> good), netem's r; 1/leave is the mean length of a bad state in packets.
    loss_bad: P(loss) in the bad state, netem's 1-h.
    loss_good: P(loss) in the good state, netem's 1-k.
    """

    enter: float
    leave: float
    loss_bad: float = 1.0
    loss_good: float = 0.0

    def __post_init__(self) -> None:
        require_number(self.enter, "enter", high=1)
        require_number(self.leave, "leave", high=1, above=True)
        require_number(self.loss_bad, "loss_bad", high=1)
        require_number(self.loss_good, "loss_good", high=1)

    @property
    def mean_loss(self) -> float:
        """The share of packets that is lost in the long run."""
        bad = self.enter / (self.enter + self.leave)
        return bad * self.loss_bad + (1 - bad) * self.loss_good


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """One direction of a link. The default is a perfect one.

    delay_s: seconds of propagation, added after the packet has left the queue.
    jitter_s: spread of the delay: uniform in delay_s ± jitter_s, or normal with this standard
        deviation (cut off at 0 and at delay_s + 4 jitter_s). Must not exceed delay_s.
    jitter_shape: "uniform" or "normal".
    jitter_reorders: False keeps packets in order (one that drew a short delay waits for its
        predecessor, as in a queue of a radio link, so that the mean delay of a dense stream is
        nearer to the longest than to delay_s); True lets each come out when it is due.
    loss: P(loss) of each packet, independent of the others.
    burst: loss in bursts, beside `loss`.
    reorder: P(a packet skips the delay and so overtakes those on their way), netem's `reorder`;
        only with delay_s > 0.
    duplicate: P(a packet is followed by a copy of itself).
    largest: bytes of the largest packet that gets through; larger ones are lost, and nobody says
        so (a path whose MTU has shrunk, behind a firewall that drops ICMP). None: all do.
    rate_bps: bits per second that enter the link; None is without limit (and without queue).
    queue_bytes, queue_s: what may wait for the link, in bytes and in seconds at its rate; the
        smaller one counts; a packet that does not fit is dropped (tail drop). Neither given:
        100 ms, and not less than 16 packets.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    jitter_shape: JitterShape = "uniform"
    jitter_reorders: bool = False
    loss: float = 0.0
    burst: BurstLoss | None = None
    reorder: float = 0.0
    duplicate: float = 0.0
    largest: int | None = None
    rate_bps: float | None = None
    queue_bytes: int | None = None
    queue_s: float | None = None

    def __post_init__(self) -> None:
        require_number(self.delay_s, "delay_s", high=3600)
        require_number(self.jitter_s, "jitter_s")
        require(
            self.jitter_s <= self.delay_s,
            "jitter_s",
            f"expected at most delay_s ({self.delay_s:g}): a packet cannot arrive before it is "
            f"sent; got {self.jitter_s:g}",
        )
        require_number(self.loss, "loss", high=1)
        require_number(self.reorder, "reorder", high=1)
        require_number(self.duplicate, "duplicate", high=1)
        if self.largest is not None:
            require_number(self.largest, "largest", low=68)
        require(
            self.reorder == 0 or self.delay_s > 0,
            "reorder",
            "needs delay_s > 0: packets that skip the delay overtake those that do not",
        )
        if self.rate_bps is not None:
            require_number(self.rate_bps, "rate_bps", low=100)
        for key in ("queue_bytes", "queue_s"):
            limit = getattr(self, key)
            if limit is not None:
                require(self.rate_bps is not None, key, "needs rate_bps: without it nothing waits")
                require_number(limit, key, above=True)

    @property
    def queue_limit_bytes(self) -> float:
        """How many bytes may wait for the link; infinite without `rate_bps`."""
        if self.rate_bps is None:
            return float("inf")
        bytes_per_s = self.rate_bps / 8
        if self.queue_bytes is None and self.queue_s is None:
            return max(DEFAULT_QUEUE_MIN_BYTES, DEFAULT_QUEUE * bytes_per_s)
        limit = float("inf")
        if self.queue_bytes is not None:
            limit = self.queue_bytes
        if self.queue_s is not None:
            limit = min(limit, self.queue_s * bytes_per_s)
        return limit

    @property
    def is_transparent(self) -> bool:
        """Whether packets pass at once and untouched."""
        return self.delay_s == 0 and self.rate_bps is None and not self.is_per_packet

    @property
    def is_per_packet(self) -> bool:
        """Whether each packet has a fate of its own, so that packets must not be aggregated."""
        return bool(
            self.loss
            or self.reorder
            or self.duplicate
            or self.largest is not None
            or self.jitter_s
            or (self.burst is not None and self.burst.mean_loss)
        )
