"""How large datagrams may be on a path now, found by trying: DPLPMTUD (RFC 8899). Pure.

A path may begin to lose what is larger than some size without a word to anybody, at any time and in
one direction only. QUIC's packets then get lost as often as they are repeated, while
acknowledgements and pings get through. qh3 chooses the size of its packets once, and only a client
does. So sizes are tried by datagrams of their own, and where QUIC's packets do not fit any more
they go in pieces (:mod:`lattica.nat.quic.path.pieces`) until they fit again:

    probe     0x12   connection ID(8)   nonce(16)   zeros, up to the size that is tried
    answer    0x13   connection ID(8)   HMAC-SHA256(key, "size" || nonce)[:16]

The connection ID is the receiver's and the key comes from the Noise exchange, as in
:mod:`lattica.nat.quic.path.peer_path`. An answer is never larger than its probe.

When packets get lost all sizes are tried at once, three times (`_ROUNDS`; RFC 8899 has MAX_PROBES
of 3): the largest that is answered is what the path carries. Chance alone loses three probes of one
size at 10% loss once in 1,000 tests, and costs no more than some time in pieces. What is smaller
than all others is never a limit: a path that does not carry it is none, which :attr:`dead` says.
"""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE, MIN_DATAGRAM

PROBE, ANSWER = 0x12, 0x13
HEADER = 1 + CONNECTION_ID_SIZE + 16
"""Bytes of an answer, and of the smallest probe."""
SMALLEST = 540
"""UDP payload, bytes: what a packet of 576 (RFC 791) holds, with some room for a tunnel."""
_STEPS = (MIN_DATAGRAM, SMALLEST)
"""Sizes below the one in use that are tried, the largest first."""
_ROUNDS = 3
_ROUND = 0.25
"""Seconds between two rounds of one test, or two round trips where that is longer."""
_LONGEST_ROUND = 4.0
_MEMORY = 10.0
"""Seconds that a probe is remembered: an answer that is late says that the path is slow, or one of
its ends busy, and not dead."""
_FIRST_RAISE = 10.0
"""Seconds after which larger sizes are tried again; doubles up to `_LAST_RAISE`."""
_LAST_RAISE = 600.0
"""RFC 8899's PMTU_RAISE_TIMER."""
_LONGEST_REST = 60.0
"""Seconds between two tests at most, on a path that loses packets of all sizes alike."""


@dataclass(frozen=True, slots=True)
class _Probe:
    size: int
    test: int
    sent_at: float


class PacketSize:
    """The size of the datagrams to one authenticated peer.

    Args:
        sending_key, receiving_key: 32 bytes each; the peer has them the other way round.
        clock: monotonic seconds.
    """

    def __init__(
        self, *, sending_key: bytes, receiving_key: bytes, clock: Callable[[], float]
    ) -> None:
        self.limit: int | None = None
        """Bytes of UDP payload that get through; None: as many as QUIC's packets have."""
        self.dead = False
        """Nothing that was tried got through the last time."""
        self.answers = 0
        """Probes that were answered, ever."""
        self._sending_key = sending_key
        self._receiving_key = receiving_key
        self._clock = clock
        self._full = 0
        """Bytes of the largest datagrams that are sent whole."""
        self._probes: dict[bytes, _Probe] = {}
        """By nonce, those that are not answered, the latest last."""
        self._test = 0
        """The number of the latest test."""
        self._round = _ROUND
        """What a round takes at least: twice as long as answers have been under way."""
        self._answered: set[int] = set()
        self._rounds = 0
        """Of the test under way."""
        self._due = math.inf
        """When the next round of it is, or its end."""
        self._rest = _ROUND
        self._rest_until = -math.inf
        self._raise_after = _FIRST_RAISE
        self._raise_at = math.inf

    def suspect(self, full: int) -> None:
        """Packets get lost; QUIC's have up to `full` bytes. Begins a test, but not too often."""
        now = self._clock()
        if self._due == math.inf and now >= self._rest_until:
            self._begin(full, now)

    def moved(self) -> None:
        """The peer is at another address: this is another path."""
        self.limit = None
        self.dead = False
        self._probes.clear()
        self._round = _ROUND
        self._due = self._raise_at = math.inf
        self._rest, self._rest_until = _ROUND, -math.inf
        self._raise_after = _FIRST_RAISE

    def next_timer(self) -> float:
        """When :meth:`probes` has something to do; infinity: never."""
        return min(self._due, self._raise_at)

    def probes(self, peer_connection_id: bytes, rtt: float | None) -> list[bytes]:
        """The probes to send now."""
        now = self._clock()
        if self._due == math.inf and now >= self._raise_at:
            self._raise_after = min(2 * self._raise_after, _LAST_RAISE)
            self._begin(self._full, now)
        if now < self._due:
            return []
        if self._rounds == _ROUNDS:
            self._finish(now)
            return []
        self._rounds += 1
        self._due = now + max(self._round, 2 * (rtt or 0.0))
        return [self._probe(peer_connection_id, size, now) for size in self._sizes()]

    def answer(self, probe: bytes, peer_connection_id: bytes) -> bytes:
        """The answer to a probe of the peer's, which goes back to where that came from."""
        proof = _proof(self._sending_key, probe[1 + CONNECTION_ID_SIZE : HEADER])
        return bytes((ANSWER,)) + peer_connection_id + proof

    def receive_answer(self, answer: bytes) -> None:
        """Take an answer. Anything but one to a probe of the last seconds changes nothing."""
        proof = answer[1 + CONNECTION_ID_SIZE :]
        for nonce, probe in self._probes.items():
            if hmac.compare_digest(proof, _proof(self._receiving_key, nonce)):
                del self._probes[nonce]
                self._take(probe, self._clock())
                return

    def _take(self, probe: _Probe, now: float) -> None:
        """A probe was answered."""
        self.answers += 1
        self.dead = False
        self._round = max(self._round, min(2 * (now - probe.sent_at), _LONGEST_ROUND))
        if probe.test == self._test and self._due < math.inf:
            self._answered.add(probe.size)
            if probe.size == self._full:
                self._finish(now)

    def _begin(self, full: int, now: float) -> None:
        self._full = full
        self._answered.clear()
        self._test += 1
        while self._probes and now - next(iter(self._probes.values())).sent_at > _MEMORY:
            del self._probes[next(iter(self._probes))]
        self._rounds = 0
        self._due = now
        self._raise_at = math.inf

    def _sizes(self) -> Iterable[int]:
        return (self._full, *(size for size in _STEPS if size < self._full))

    def _probe(self, peer_connection_id: bytes, size: int, now: float) -> bytes:
        nonce = os.urandom(16)
        self._probes[nonce] = _Probe(size, self._test, now)
        return (bytes((PROBE,)) + peer_connection_id + nonce).ljust(size, b"\0")

    def _finish(self, now: float) -> None:
        """Judge the path by what was answered."""
        best = max(self._answered, default=0)
        self._due = math.inf
        self.dead = not best
        before = self.limit
        if best == self._full:
            self.limit = None
        elif best:
            self.limit = best
        changed = self.limit != before
        if changed or self.dead:
            self._rest = _ROUND
        else:
            self._rest = min(2 * self._rest, _LONGEST_REST)
        self._rest_until = now + self._rest
        if self.limit is None:
            self._raise_after = _FIRST_RAISE
            return
        self._raise_at = now + self._raise_after


def is_size_message(datagram: bytes) -> bool:
    """Whether a datagram is for this module, by its first byte and size."""
    size = len(datagram)
    return size == HEADER if datagram[0] == ANSWER else datagram[0] == PROBE and size >= HEADER


def _proof(key: bytes, nonce: bytes) -> bytes:
    return hmac.digest(key, b"size" + nonce, "sha256")[:16]
