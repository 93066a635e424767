"""How much data qh3 holds, of one connection, and in how many pieces, as something before them is
missing.

Its limits are of bytes, but a piece of one byte takes it 70, and time to let go of: a stream of
16 MiB could make it hold 560. It does not say how many there are. So of 64 KiB that bring nothing
to read, about one datagram is opened here as well, and a part of a stream in it that waits for what
is missing stands for as many as there may be in all of them, until that has come. Which datagram,
only chance says, so nobody can keep the others out of sight. Bytes are seen likewise, and count
together with those of other connections (:class:`~lattica.nat.mux.budget.MemoryBudget`).
"""

from __future__ import annotations

import heapq
import math
import random

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.limits.places import NOBODY, Source
from lattica.nat.config import KIB
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.turns import Nuisance
from lattica.nat.quic.qh3.frames import CRYPTO, Part, parts_of
from lattica.nat.quic.qh3.native import NativeDrive
from lattica.nat.quic.qh3.packet_reader import PacketReader
from lattica.nat.quic.session.streams import QuicStreams

_EVERY = 64 * KIB
"""Bytes without news, on average, of which one datagram is looked at."""
_ORDINARY = 32768
"""Pieces that an honest peer may leave: all that may be in flight, when the first is lost."""
_MOST = 2 * _ORDINARY
_SMALLEST_FRAME = 20
"""Bytes of a part of one byte, and of what says where it belongs."""
_OF_FRAME = 8
"""Pieces beyond the ordinary that count as a frame that carries nothing."""
_BYTES_OF_TLS = 8
"""qh3 holds each of those by itself, eight in the place of a piece."""
_NEVER = 2**62


def _distance() -> float:
    """Bytes from one look to the next."""
    return random.expovariate(1 / _EVERY)


class Reassembly:
    """Counts for one connection."""

    __slots__ = (
        "_budget", "_drive", "_held", "_left", "_new", "_nuisance", "_read", "_reader", "_source",
        "_streams", "pieces", "size",
    )  # fmt: skip

    def __init__(
        self, drive: NativeDrive, streams: QuicStreams, nuisance: Nuisance, budget: MemoryBudget
    ) -> None:
        self._drive = drive
        self._budget = budget
        self._source = NOBODY
        self._streams = streams
        self._nuisance = nuisance
        self._reader = PacketReader(drive.core)
        self._left = _distance()
        """Bytes without news until the next look."""
        self._new = 0
        """Bytes of streams that have come with what was received last."""
        self._read: dict[int, float] = {}
        """Bytes that have come in order, by the ID of the stream."""
        self._held: dict[int, list[tuple[int, int, int]]] = {}
        """By the ID of the stream, as heaps: where a part is, and for how many it stands, and how
        many bytes."""
        self.pieces = 0
        """Those that are held, as far as was seen."""
        self.size = 0
        """Bytes of them."""

    # --- what comes ---

    def choose(self, size: int, datagram_size: int) -> int | None:
        """Which datagram of those that have come is to be looked at, as an offset; mostly none."""
        if self._left > 0 or not self._drive.core.handshake_complete:
            return None
        return random.randrange(-(-size // datagram_size)) * datagram_size

    def note_received(self, size: int, datagrams: int) -> None:
        """So much has come, and what it brought was noted."""
        # What is overdue is made up for, but not all of a flood that others have sent.
        self._left = max(self._left - max(0, size - self._new), -2 * _EVERY)
        self._new = 0
        self._reader.passed += datagrams

    def note_message(self, size: int) -> None:
        """A DATAGRAM frame of so many bytes has come."""
        self._new += size

    def note_data(self, stream_id: int, size: int) -> None:
        """The next bytes of a stream have come."""
        self._new += size
        self._read[stream_id] = read = self._read.get(stream_id, 0) + size
        if stream_id in self._held:
            self._release(stream_id, read)

    def note_reset(self, stream_id: int) -> None:
        """The peer's direction of a stream was aborted."""
        self._read[stream_id] = math.inf
        self._release(stream_id, math.inf)

    def note_end(self, stream_id: int) -> None:
        """Both directions of a stream have ended."""
        self._read.pop(stream_id, None)
        self._release(stream_id, math.inf)

    # --- what is held ---

    def look(self, datagram: bytes, source: Source) -> None:
        """See what is held of one that the peer itself has sent; all that came with it was noted.

        Raises:
            RemoteProtocolError: too much waits for what the peer does not send.
        """
        self._left += _distance()
        if not self.size:
            self._source = source
        self._release(CRYPTO, self._drive.core.crypto_received)
        stands_for = max(1, _EVERY // len(datagram))
        pieces, size = self.pieces, self.size
        frames = self._reader.open(datagram)
        if frames is None:  # as honest packets never are
            all_of_it = stands_for * len(datagram)
            self._hold(CRYPTO, _NEVER, all_of_it // _SMALLEST_FRAME, all_of_it)
        else:
            for part in parts_of(frames):
                if self._is_held(part):
                    count = -(-part.size // _BYTES_OF_TLS) if part.stream == CRYPTO else 1
                    self._hold(part.stream, part.offset, count * stands_for, part.size * stands_for)
        if self.pieces > _MOST:
            raise RemoteProtocolError("QUIC: too many pieces of data with gaps that nobody fills")
        if self.size > size and self._budget.is_too_much_waiting(self._source):
            raise RemoteProtocolError(
                "QUIC: the memory for data with gaps is used up, and this peer has most of it"
            )
        beyond = self.pieces - max(pieces, _ORDINARY)
        if beyond > 0:
            self._nuisance.count("pieces of data with gaps between them", beyond // _OF_FRAME)

    def _is_held(self, part: Part) -> bool:
        stream_id = part.stream
        if stream_id == CRYPTO:
            return part.offset > self._drive.core.crypto_received
        if not part.size or part.offset <= self._read.get(stream_id, 0):
            return False
        return not stream_id or not self._streams.has_ended(stream_id)

    def _hold(self, stream_id: int, offset: int, pieces: int, size: int) -> None:
        heapq.heappush(self._held.setdefault(stream_id, []), (offset, pieces, size))
        self._note(pieces, size)

    def _release(self, stream_id: int, read: float) -> None:
        """Those before this offset have been handed over."""
        held = self._held.get(stream_id)
        while held and held[0][0] < read:
            _, pieces, size = heapq.heappop(held)
            self._note(-pieces, -size)
        if held is not None and not held:
            del self._held[stream_id]

    def _note(self, pieces: int, size: int) -> None:
        self.pieces += pieces
        self.size += size
        if size:
            self._budget.note_waiting(self._source, size)

    def let_go(self) -> None:
        """The connection is over. Idempotent."""
        self._left = math.inf
        self._held.clear()
        self._note(-self.pieces, -self.size)
