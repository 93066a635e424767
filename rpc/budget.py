"""The memory that large bodies may take, which is asked before any of it is taken."""

from __future__ import annotations

from collections import Counter

from lattica.nat.base.keys.identity import PeerId
from lattica.rpc.errors import ResourceExhaustedError


class ReceiveBudget:
    """Bytes of the bodies that are being received and worked on, in all and for each peer."""

    def __init__(self, total: int, per_peer: int) -> None:
        self._total = total
        self._per_peer = per_peer
        self.used = 0
        self._used_by: Counter[PeerId] = Counter()

    def check(self, peer: PeerId, size: int) -> None:
        """Whether there is room for `size` bytes more, which are not taken: what somebody says will
        come costs nothing. Raises ResourceExhaustedError, which names the budget.
        """
        for used, limit, name in (
            (self.used, self._total, "receive_memory"),
            (self._used_by[peer], self._per_peer, "receive_memory_per_peer"),
        ):
            if used + size > limit:
                raise ResourceExhaustedError(
                    f"a body of {size} bytes exceeds the receiver's budget: rpc.{name} is {limit} "
                    f"bytes, of which {used} are in use",
                    may_have_run=False,
                    retry_after=None if size > limit else 0.5,
                )

    def reserve(self, peer: PeerId, size: int) -> None:
        """Take `size` bytes. Raises as :meth:`check` does."""
        self.check(peer, size)
        self.used += size
        self._used_by[peer] += size

    def release(self, peer: PeerId, size: int) -> None:
        """Give back what was taken."""
        self.used -= size
        self._used_by[peer] -= size
        if not self._used_by[peer]:
            del self._used_by[peer]
