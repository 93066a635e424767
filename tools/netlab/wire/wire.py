"""Wire: the data plane between two TUN devices. What happens to each packet is here.

This is the forwarder's hot path: one call to the kernel per packet (or train) each way, no
object per packet unless it has to wait. A packet that waits is copied out of the read buffer
once.
"""

from __future__ import annotations

import heapq
import os
import random
from time import monotonic
from typing import Final

from tools.netlab.packets.nat_table import DROP, FORWARD, NatTable
from tools.netlab.packets.trains import (
    HEADER_BYTES,
    MAX_FRAME,
    NEEDS_CHECKSUM,
    PLAIN,
    split,
    wire_bytes,
)
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.strict import SpecError
from tools.netlab.spec.wire import Direction, EndSpec, WireSpec
from tools.netlab.wire.shaper import NEVER, Shaper
from tools.netlab.wire.tun import TimerFd, open_tun

# Packets read from one device before others get their turn.
READ_BATCH: Final = 32
# The timer fires no more often than this. A packet that comes alone is on time; a dense stream
# is delivered in batches, each packet at most this late, and costs half as much.
GRAIN: Final = 0.0002
"""Seconds."""


class Scheduler:
    """When which lane has packets that are due."""

    def __init__(self) -> None:
        self.timer = TimerFd()
        self._heap: list[tuple[float, int, Lane]] = []
        self._set = NEVER
        self._ran = 0.0
        self._lanes = 0

    def number(self) -> int:
        """A number that orders lanes with equal times."""
        self._lanes += 1
        return self._lanes

    def plan(self, lane: Lane) -> None:
        """`lane.shaper` has changed: see that it is looked at in time."""
        due = lane.shaper.next_due()
        if due < lane.planned:
            lane.planned = due
            heapq.heappush(self._heap, (due, lane.number, lane))

    def run(self) -> None:
        """Deliver all that is due."""
        heap = self._heap
        if not heap or heap[0][0] > (now := monotonic()):
            return
        self._ran = now
        while heap and heap[0][0] <= now:
            due, _, lane = heapq.heappop(heap)
            if due == lane.planned:  # else it was planned anew, or is gone
                lane.planned = NEVER
                for frame in lane.shaper.dequeue(now):
                    lane.deliver(frame)
                self.plan(lane)

    def arm(self) -> None:
        """Set the timer for what is due next."""
        due = max(self._heap[0][0], self._ran + GRAIN) if self._heap else NEVER
        if due != self._set:
            self._set = due
            if due != NEVER:
                self.timer.set(due)

    def fired(self) -> None:
        """The timer has fired."""
        self.timer.clear()
        self._set = NEVER


class Lane:
    """One direction of a wire: a link, and at its end the device `fd`.

    With `nat`, its packets come in from the outside: the NAT looks at them after the link, and
    what it answers goes out by the lane `back`.
    """

    __slots__ = (
        "_scheduler",
        "_transparent",
        "back",
        "fd",
        "nat",
        "number",
        "planned",
        "shaper",
        "write_errors",
    )

    def __init__(
        self,
        spec: LinkSpec,
        rng: random.Random,
        fd: int,
        nat: NatTable | None,
        scheduler: Scheduler,
    ) -> None:
        self.shaper: Shaper[bytearray] = Shaper(spec, rng)
        self.fd = fd
        self.nat = nat
        self.back: Lane | None = None
        self.planned = NEVER
        self.number = scheduler.number()
        self.write_errors = 0
        self._scheduler = scheduler
        self._transparent = spec.is_transparent

    def change(self, spec: LinkSpec) -> None:
        """Make the link another one."""
        self.shaper.change(monotonic(), spec)
        self._transparent = spec.is_transparent
        self._scheduler.plan(self)

    def set_up(self, up: bool) -> None:
        """Cut or mend the link."""
        self.shaper.set_up(monotonic(), up)

    def offer(self, frame: memoryview) -> None:
        """Put a frame on the link. Its memory is the caller's again afterwards."""
        shaper = self.shaper
        size = wire_bytes(frame) if frame[1] else len(frame) - HEADER_BYTES
        if self._transparent and shaper.up:
            stats = shaper.stats
            stats.offered += 1
            stats.offered_bytes += size
            stats.delivered += 1
            stats.delivered_bytes += size
            self.deliver(frame)
            return
        now = monotonic()
        limit = shaper.train_bytes
        if frame[1] and limit is not None and size > limit:
            for train, train_size in split(frame, limit):
                shaper.enqueue(now, train, train_size)
        else:
            shaper.enqueue(now, bytearray(frame), size)
        self._scheduler.plan(self)

    def deliver(self, frame: bytearray | memoryview) -> None:
        """A frame has come out of the link."""
        nat = self.nat
        if nat is not None:
            verdict = nat.inbound(memoryview(frame)[HEADER_BYTES:], frame[0] == NEEDS_CHECKSUM)
            if verdict != DROP:
                self.write(frame)
            if nat.replies:
                self._send_replies(nat)
            if nat.released:
                self.send_released(nat)
            return
        self.write(frame)

    def write(self, frame: bytearray | memoryview) -> None:
        """Hand a frame to the kernel; what it does not take (device down) is lost."""
        try:
            os.write(self.fd, frame)
        except OSError:
            self.write_errors += 1

    def _send_replies(self, nat: NatTable) -> None:
        assert self.back is not None
        replies, nat.replies = nat.replies, []
        for packet in replies:
            self.back.offer(memoryview(PLAIN + packet))

    def send_released(self, nat: NatTable) -> None:
        """Send what had to wait in the NAT for the packet before; for the lane from outside."""
        assert self.back is not None
        released, nat.released = nat.released, []
        for to_inside, packet in released:
            frame = memoryview(PLAIN + packet)
            if to_inside:
                self.write(frame)
            else:
                self.back.offer(frame)

    def stats(self) -> dict[str, int]:
        """Counters by name."""
        shaper, stats = self.shaper, self.shaper.stats
        return {
            "offered": stats.offered,
            "offered_bytes": stats.offered_bytes,
            "delivered": stats.delivered,
            "delivered_bytes": stats.delivered_bytes,
            "lost": stats.lost,
            "duplicated": stats.duplicated,
            "overflowed": stats.overflowed,
            "cut": stats.cut,
            "queued_bytes": shaper.queued_bytes,
            "write_errors": self.write_errors,
        }


class Wire:
    """Two devices, the links between them, and perhaps a NAT at the a side.

    Raises OSError if a device cannot be made, SpecError if the NAT's addresses do not fit.
    """

    def __init__(self, spec: WireSpec, scheduler: Scheduler) -> None:
        self.spec = spec
        self.nat: NatTable | None = None
        if spec.nat is not None:
            rng = _rng(spec, "nat")
            self.nat = NatTable(spec.nat, spec.external, monotonic, rng, spec.internal)
        elif spec.external or spec.internal:
            raise SpecError("external", "needs a nat")
        self.fd_a = _open(spec.a)
        try:
            self.fd_b = _open(spec.b)
        except BaseException:
            os.close(self.fd_a)
            raise
        self.ab = Lane(spec.ab, _rng(spec, "ab"), self.fd_b, None, scheduler)
        self.ba = Lane(spec.ba, _rng(spec, "ba"), self.fd_a, self.nat, scheduler)
        self.ba.back = self.ab
        self._buffer = bytearray(MAX_FRAME)
        self._buffers = (self._buffer,)
        self._view = memoryview(self._buffer)

    def lanes(self, direction: Direction) -> tuple[Lane, ...]:
        """The lanes that a direction means."""
        return {"ab": (self.ab,), "ba": (self.ba,), "both": (self.ab, self.ba)}[direction]

    def read_a(self) -> None:
        """Take what waits at device a. Raises OSError if the device is gone."""
        nat, lane, view, buffer = self.nat, self.ab, self._view, self._buffer
        for _ in range(READ_BATCH):
            try:
                size = os.readv(self.fd_a, self._buffers)
            except BlockingIOError:
                return
            buffer[0] &= NEEDS_CHECKSUM  # "checksum seen to be valid" is not for passing on
            if nat is not None:
                partial = buffer[0] == NEEDS_CHECKSUM
                verdict = nat.outbound(view[HEADER_BYTES:size], partial)
                if verdict == FORWARD:
                    lane.offer(view[:size])
                elif verdict != DROP:
                    self.ba.write(view[:size])
                if nat.released:
                    self.ba.send_released(nat)
                continue
            lane.offer(view[:size])

    def read_b(self) -> None:
        """Take what waits at device b. Raises OSError if the device is gone."""
        lane, view, buffer = self.ba, self._view, self._buffer
        for _ in range(READ_BATCH):
            try:
                size = os.readv(self.fd_b, self._buffers)
            except BlockingIOError:
                return
            buffer[0] &= NEEDS_CHECKSUM
            lane.offer(view[:size])

    def close(self) -> None:
        """Remove the devices."""
        for lane in (self.ab, self.ba):
            lane.set_up(False)
            lane.planned = NEVER
        os.close(self.fd_a)
        os.close(self.fd_b)


def _open(end: EndSpec) -> int:
    return open_tun(end.device, end.netns, end.mtu)


def _rng(spec: WireSpec, part: str) -> random.Random:
    """Chance for one part of a wire: the same whenever seed, name and part are."""
    return random.Random(f"{spec.seed}/{spec.name}/{part}")
