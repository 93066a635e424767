"""Forward error correction below QUIC, for paths that lose packets without being congested.

Between a QUIC implementation and its UDP socket: one :class:`FecSender` and one
:class:`FecReceiver` for each remote address (a path, not a connection: these datagrams carry no
connection ID). The sender alone decides when to use it (:mod:`lattica.nat.quic.fec.policy`);
every receiver of ours understands it. Pure: datagrams and a clock in, datagrams and a timer out.

Wire format. QUIC sets one of the two highest bits of every first byte and STUN begins with 0 to
3 (RFC 9443), so these are told apart by their first byte; any other datagram passes unchanged:

    source    0x20            sequence(3)  index(1)  hold(1)  QUIC datagram
    report    0x21            expected(4)  lost(4)  runs(4)  unrepaired(4)
    repair    0x28 + row      sequence(3)  count(1)  symbol

Integers are big-endian. Source packets are numbered modulo 2^24; a group is `count` consecutive
ones, its first has index 0, and the repair names that one's number. `hold` is for how many
milliseconds a gap may hold up what follows it. A symbol is a datagram, the byte 1 that marks its
end, and zeros up to the longest of the group; repairs are those of
:mod:`lattica.nat.quic.fec.gf256`. A protected datagram and the repairs of its group are `OVERHEAD`
larger than QUIC's, both alike, so that they go into the same GSO batch. QUIC's path MTU discovery
knows nothing of that: it should be off, or end `OVERHEAD` below what the path carries, for what is
larger goes unprotected.

QUIC takes a packet for lost when three later ones have been acknowledged, which happens before
a repair arrives. So the receiver holds back what follows a gap, until the gap is repaired, or
packets show that the group's repairs have gone by, or the hold is over; then in order.

Nothing here is authenticated. Whoever can forge the path's addresses can delay packets by
`MAX_HOLD` and make repairs useless, but not more: every datagram that arrives is delivered,
whatever a repair said about it; QUIC discards what was made up; and memory and work are bounded.
Memory, for each remote address: `MAX_HELD` datagrams behind gaps, for `MAX_HOLD`, and `MAX_KEPT`
bytes of groups that may still be repaired, for `GROUP_TIMEOUT` after the last one came. Work:
recovering is paid for by the bytes of source packets that came before (`WORK_PRICE`), so nobody
who sends a few small repairs keeps a receiver busy, and what cannot be paid for stays lost.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Sequence

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.quic.fec.gf256 import MAX_REPAIRS, encode, recover, recovery_work
from lattica.nat.quic.fec.policy import MAX_GROUP, FecPolicy, LossReport, PathState

OVERHEAD = 6
"""Bytes by which QUIC's largest datagram must stay below what the path carries."""
PATH_LIMIT = 1472
"""UDP payload that a path is taken to carry: Ethernet and IPv4."""
MAX_DATAGRAM = 2000
"""Larger ones are not protected."""
MAX_HOLD = 0.030
MAX_HELD = 512
"""Datagrams held back at most; then they are let go."""
MAX_GROUPS = 8
MAX_KEPT = 384 * 1024
"""Bytes of sources and repairs kept at most, over all groups: four full ones."""
GROUP_TIMEOUT = 0.1
"""Seconds without a new packet after which a group is given up; twice that at the most. Repairs
follow their sources at once, and after `MAX_HOLD` nobody waits for them."""
WORK_PRICE = 32
"""Bytes of source packets that pay for a unit of work. A sender that protects a path at `MAX_LOSS`
with packets of 366 bytes pays for all that its receiver does."""
MOST_CREDIT = 2 * recovery_work(MAX_REPAIRS, MAX_GROUP) * WORK_PRICE
"""Bytes that count at most: what two full groups take that have lost the most that they may."""
MAX_WORK = 16_384
"""Units of work, over all paths, in one go; about 15 ms."""
REPORT_INTERVAL = 0.1

_SOURCE, _REPORT, _REPAIR = 0x20, 0x21, 0x28
FEC_FIRST_BYTES = frozenset((_SOURCE, _REPORT, *range(_REPAIR, 0x40)))
"""By these its datagrams are told from others."""
_HEADER = 6
_MODULUS = 1 << 24
_REACH = 1024
"""Numbers further away than this belong to another sequence, or are forged."""
_SMALL = 400
"""A datagram below this (acknowledgements, small messages) does not begin a group."""
_FEW = 4
"""So many packets may be missing even where little else of their group has come."""
_PASSED_BY = 3
"""Packets after a group that show that its repairs are lost: QUIC's own tolerance of reordering."""
_COUNTERS = struct.Struct(">BIIII")


def is_fec(datagram: bytes) -> bool:
    """Whether a datagram is for this module, by its first byte."""
    return bool(datagram) and datagram[0] in FEC_FIRST_BYTES


def is_report(datagram: bytes) -> bool:
    """Whether it is for this side's :class:`FecSender`, not for its receiver."""
    return bool(datagram) and datagram[0] == _REPORT


def unprotected(datagram: bytes) -> bytes | None:
    """The QUIC datagram in a source packet, whatever its group; None for a repair.

    Raises:
        RemoteProtocolError: it is malformed, or a report.
    """
    kind, _, _ = _read_header(datagram)
    return datagram[_HEADER:] if kind == _SOURCE else None


def _read_header(datagram: bytes) -> tuple[int, int, int]:
    """First byte, sequence number, and index or count, of a source packet or a repair."""
    if not _HEADER < len(datagram) <= _HEADER + MAX_DATAGRAM:
        raise RemoteProtocolError(f"FEC datagram of {len(datagram)} bytes")
    kind, number, place = datagram[0], int.from_bytes(datagram[1:4], "big"), datagram[4]
    is_sound = place < MAX_GROUP if kind == _SOURCE else kind >= _REPAIR and 0 < place <= MAX_GROUP
    if not is_sound:
        raise RemoteProtocolError(f"FEC datagram 0x{kind:02x} with {place}")
    return kind, number, place


def _symbol(datagram: bytes) -> int:
    return int.from_bytes(datagram, "little") | 1 << 8 * len(datagram)


def _datagram(symbol: int) -> bytes | None:
    """What :func:`_symbol` was made of; None for what it cannot have returned."""
    length = (symbol.bit_length() - 1) // 8
    if length < 1 or symbol >> 8 * length != 1:
        return None
    return (symbol ^ 1 << 8 * length).to_bytes(length, "little")


class FecSender:
    """Protects what goes to one remote address.

    Args:
        clock: monotonic seconds.
        path_limit: bytes of UDP payload that the path carries; what would not fit together with
            `OVERHEAD` is sent unprotected.
        sequence: the first number, below 2^24; random by default.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        path_limit: int = PATH_LIMIT,
        sequence: int | None = None,
    ) -> None:
        self._clock = clock
        self._largest = min(MAX_DATAGRAM, path_limit - OVERHEAD)
        self._policy = FecPolicy()
        self._sequence = secrets.randbelow(_MODULUS) if sequence is None else sequence
        self._group: list[int] = []
        self._size = 0
        self._due = 0.0

    def observe(self, state: PathState) -> None:
        """Tell what QUIC knows of the path; to be called about once for each batch sent."""
        self._policy.observe(self._clock(), state)

    def receive_report(self, datagram: bytes) -> None:
        """Take a datagram of which :func:`is_report` says that it is for a sender.

        Raises:
            RemoteProtocolError: it is malformed.
        """
        if len(datagram) != _COUNTERS.size or datagram[0] != _REPORT:
            raise RemoteProtocolError(f"FEC report of {len(datagram)} bytes")
        self._policy.report(self._clock(), LossReport(*_COUNTERS.unpack(datagram)[1:]))

    def protect(self, datagrams: Sequence[bytes]) -> Sequence[bytes]:
        """What to send instead of these QUIC datagrams, in this order.

        The same object if they go as they are.
        """
        now = self._clock()
        if not self._policy.protecting(now):
            self._policy.sent(len(datagrams), 0)
            return [*self._close(), *datagrams] if self._group else datagrams
        out: list[bytes] = []
        before = self._sequence
        group = self._group
        span = self._policy.span
        hold = min(255, int(span * 2000) + 4)
        for datagram in datagrams:
            size = len(datagram)
            if size > self._largest or (size < _SMALL and not group):
                out.append(datagram)
                continue
            if not group:
                self._due = now + span
            header = _SOURCE << 40 | self._sequence << 16 | len(group) << 8 | hold
            out.append(header.to_bytes(_HEADER, "big") + datagram)
            self._sequence = (self._sequence + 1) % _MODULUS
            group.append(_symbol(datagram))
            self._size = max(self._size, size + 1)
            if len(group) == MAX_GROUP:
                out += self._close()
        if now >= self._due:
            out += self._close()
        self._policy.sent(len(datagrams), (self._sequence - before) % _MODULUS)
        return out

    def next_timer(self) -> float | None:
        """When to call :meth:`on_timer`; None while no group is open."""
        return self._due if self._group else None

    def on_timer(self) -> list[bytes]:
        """The repairs of a group that has waited long enough."""
        return self._close() if self._group and self._clock() >= self._due else []

    def _close(self) -> list[bytes]:
        group = self._group
        if not group:
            return []
        count = self._policy.repairs(len(group), MAX_REPAIRS)
        first = (self._sequence - len(group)) % _MODULUS
        rest = first << 8 | len(group)
        repairs = [
            ((_REPAIR + row) << 32 | rest).to_bytes(5, "big")
            + symbol.to_bytes(self._size, "little")
            for row, symbol in enumerate(encode(group, count, self._size))
        ]
        group.clear()
        self._size = 0
        return repairs


class WorkLimit:
    """What the receivers of several paths may still do together before others have their turn."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_WORK
        """Units of work, as :func:`~lattica.nat.quic.fec.gf256.recovery_work` counts them."""

    def renew(self) -> None:
        self.left = MAX_WORK


class _Group:
    """What has arrived of one group."""

    __slots__ = ("arrived", "count", "done", "kept", "repairs", "seen", "size", "sources")

    def __init__(self) -> None:
        self.count = 0
        """0 until a repair has told it."""
        self.size = 0
        self.sources: dict[int, bytes] = {}
        self.repairs: dict[int, int] = {}
        self.kept = 0
        """Bytes of those."""
        self.seen = 0
        """`arrived` when last looked whether anything still comes."""
        self.arrived = 0
        self.done = False

    def told(self, count: int, size: int) -> None:
        """A repair has told how many sources there are, and of what length."""
        self.count, self.size = count, size
        for index in [index for index in self.sources if index >= count]:
            self.kept -= len(self.sources.pop(index))  # forged, or the repair is


class _Held:
    """A datagram behind a gap."""

    __slots__ = ("deadline", "payload", "recovered")

    def __init__(self, payload: bytes, deadline: float, *, recovered: bool = False) -> None:
        self.payload = payload
        self.deadline = deadline
        self.recovered = recovered


class FecReceiver:
    """Takes what comes from one remote address.

    Args:
        clock: monotonic seconds.
        limit: shared by receivers that work in one go, whose owner renews it; None: no limit but
            what this path has paid for.
    """

    def __init__(self, clock: Callable[[], float], limit: WorkLimit | None = None) -> None:
        self._clock = clock
        self._limit = limit
        self._next: int | None = None
        """The number that is delivered next, counted on beyond 2^24; None before the first."""
        self._stray: int | None = None
        self._groups: dict[int, _Group] = {}
        """By the number of the first packet."""
        self._floor = -1
        """Groups that begin here or before are over, and do not come back."""
        self._kept = 0
        """Bytes, over all groups."""
        self._credit = MOST_CREDIT
        """Bytes that have come and paid for no work yet."""
        self._sweep_at: float | None = None
        """When to look for groups to which nothing comes any more."""
        self._held: dict[int, _Held] = {}
        self._plain: list[bytes] = []
        """Unprotected ones that came while others were held."""
        self._hold = 0.0
        self._passed = 0
        """A group that begins here has come: the repairs of those before it are through."""
        self._in_run = False
        self._expected = self._lost = self._runs = self._unrepaired = 0
        self._reported = 0
        self._report_at = 0.0

    def receive(self, datagram: bytes) -> list[bytes]:
        """The QUIC datagrams that can be delivered now; anything but a report is taken.

        Raises:
            RemoteProtocolError: it is malformed; drop it, nothing has changed.
        """
        if not is_fec(datagram):
            if not self._held:
                return [datagram]
            if len(datagram) > MAX_DATAGRAM or len(self._plain) + len(self._held) >= MAX_HELD:
                return [*self._release(), datagram]
            self._plain.append(datagram)
            return []
        kind, number, place = _read_header(datagram)
        if kind == _SOURCE:
            return self._receive_source(number, place, datagram[5], datagram[_HEADER:])
        return self._receive_repair(number, place, kind - _REPAIR, datagram[5:])

    @property
    def holds(self) -> bool:
        """Datagrams wait behind a gap."""
        return bool(self._held)

    def next_timer(self) -> float | None:
        """When to call :meth:`on_timer`; None while nothing is held back or kept."""
        held = self._held[min(self._held)].deadline if self._held else None
        if held is None or self._sweep_at is None:
            return self._sweep_at if held is None else held
        return min(held, self._sweep_at)

    def on_timer(self) -> list[bytes]:
        """What has been held back for long enough."""
        out: list[bytes] = []
        now = self._clock()
        if self._sweep_at is not None and now >= self._sweep_at:
            self._sweep(now)
        while self._held and self._held[min(self._held)].deadline <= now:
            self._skip()
            self._settle(out)
        return out

    def report(self) -> bytes | None:
        """A datagram for the sender, when there is news and the last one is old enough."""
        now = self._clock()
        if self._expected == self._reported or now < self._report_at:
            return None
        self._report_at = now + REPORT_INTERVAL
        self._reported = self._expected
        counters = (self._expected, self._lost, self._runs, self._unrepaired)
        return _COUNTERS.pack(_REPORT, *(value & 0xFFFFFFFF for value in counters))

    def _receive_source(self, number: int, index: int, hold: int, payload: bytes) -> list[bytes]:
        out: list[bytes] = []
        self._credit = min(MOST_CREDIT, self._credit + len(payload))
        at = self._locate(number)
        if at is None:
            if not self._begins(number):
                return [payload]
            out = self._release()
            at = self._begin(number)
        expected = self._expect()
        first = at - index
        self._hold = min(MAX_HOLD, hold / 1000)
        group = self._group(first)
        if group is not None:
            self._keep_source(group, index, payload)
        if at == expected:
            out.append(payload)
            self._next = at + 1
            self._expected += 1
            self._in_run = False
            if not self._held and (group is None or not group.count):
                return out
        elif at < expected or at in self._held:
            # Late, or what a repair gave already, or a second one. QUIC knows which is true.
            out.append(payload)
            return out
        else:
            self._held[at] = _Held(payload, self._clock() + self._hold)
            if index >= _PASSED_BY - 1:
                self._passed = max(self._passed, first)
        if group is not None:
            self._repair(first, group, out)
        self._settle(out)
        return out

    def _receive_repair(self, number: int, count: int, row: int, symbol: bytes) -> list[bytes]:
        first = self._locate(number)
        group = self._group(first) if first is not None else None
        if first is None or group is None or group.done:
            return []
        if not group.count:
            kept = group.kept
            group.told(count, len(symbol))
            self._kept += group.kept - kept
        elif (group.count, group.size) != (count, len(symbol)):
            return []  # of two that contradict each other one is forged, and nothing says which
        if row not in group.repairs:
            group.repairs[row] = int.from_bytes(symbol, "little")
            self._note_kept(group, len(symbol))
        out: list[bytes] = []
        self._repair(first, group, out)
        self._settle(out)
        return out

    def _expect(self) -> int:
        return self._next or 0

    def _locate(self, number: int) -> int | None:
        """The whole number behind one modulo 2^24; None if that is beyond reach."""
        if self._next is None:
            return None
        ahead = (number - self._next + _MODULUS // 2) % _MODULUS - _MODULUS // 2
        return self._next + ahead if abs(ahead) <= _REACH else None

    def _begins(self, number: int) -> bool:
        """Two far-off packets that follow each other are a new sequence; one may be forged."""
        stray, self._stray = self._stray, number
        return self._next is None or (
            stray is not None and 0 < (number - stray) % _MODULUS <= _PASSED_BY
        )

    def _begin(self, number: int) -> int:
        self._groups.clear()
        self._kept = 0
        self._sweep_at = None
        self._floor = -1
        self._stray = None
        self._passed = 0
        # So that no number is negative, however far back a group began.
        self._next = number + _MODULUS
        return self._next

    def _group(self, first: int) -> _Group | None:
        """The group that begins there; None for one that is over."""
        groups = self._groups
        group = groups.get(first)
        if group is not None:
            return group
        expected = self._expect()
        if first <= self._floor or first + MAX_GROUP <= expected:
            return None
        if first <= expected:  # those before it end before it, and all of them was delivered
            for begin, other in groups.items():
                if begin < first:
                    self._finish(other)
        if len(groups) >= MAX_GROUPS:
            lowest = min(groups)
            if first < lowest:
                return None
            self._finish(groups.pop(lowest))
            self._floor = lowest
        group = groups[first] = _Group()
        if self._sweep_at is None:
            self._sweep_at = self._clock() + GROUP_TIMEOUT
        return group

    def _keep_source(self, group: _Group, index: int, payload: bytes) -> None:
        if group.done or index in group.sources or (group.count and index >= group.count):
            return
        group.sources[index] = payload
        self._note_kept(group, len(payload))

    def _note_kept(self, group: _Group, size: int) -> None:
        group.arrived += 1
        group.kept += size
        self._kept += size
        while self._kept > MAX_KEPT:
            self._finish(self._groups[min(n for n, g in self._groups.items() if not g.done)])

    def _finish(self, group: _Group) -> None:
        """Nothing more is expected of it."""
        self._kept -= group.kept
        group.done, group.kept = True, 0
        group.sources.clear()
        group.repairs.clear()

    def _sweep(self, now: float) -> None:
        """Give up the groups to which nothing has come since the last time."""
        alive = [group for group in self._groups.values() if not group.done]
        for group in alive:
            if group.seen == group.arrived:
                self._finish(group)
            group.seen = group.arrived
        is_empty = all(group.done for group in alive)
        self._sweep_at = None if is_empty else now + GROUP_TIMEOUT

    def _repair(self, first: int, group: _Group, out: list[bytes]) -> None:
        """Recover what is missing if enough has come; it joins those that are held."""
        if group.done or not group.count:
            return
        count, size, sources = group.count, group.size, group.sources
        missing = count - len(sources)
        # No honest sender has a receiver make most of a group out of nothing.
        if missing > min(len(group.repairs), max(_FEW, count // 2)):
            return
        symbols = {i: _symbol(d) for i, d in sources.items() if missing and len(d) < size}
        repairs = dict(group.repairs)
        self._finish(group)
        if not missing or len(symbols) < count - missing or not self._pay(missing, count):
            return
        deadline = self._clock() + self._hold
        for index, symbol in recover(symbols, repairs, count, size).items():
            payload = _datagram(symbol)
            at = first + index
            if payload is None:
                continue  # something was forged
            if at < self._expect():
                out.append(payload)  # given up before
            elif at not in self._held:
                self._held[at] = _Held(payload, deadline, recovered=True)

    def _pay(self, missing: int, count: int) -> bool:
        """Whether this path, and all together, may still do the work of a recovery."""
        work = recovery_work(missing, count)
        if self._credit < work * WORK_PRICE or (self._limit and self._limit.left < work):
            return False
        self._credit -= work * WORK_PRICE
        if self._limit:
            self._limit.left -= work
        return True

    def _settle(self, out: list[bytes]) -> None:
        """Deliver what no gap holds up any more."""
        while self._held:
            at = self._expect()
            held = self._held.pop(at, None)
            if held is not None:
                out.append(held.payload)
                self._next = at + 1
                self._expected += 1
                self._count(int(held.recovered))
            elif at < self._passed or len(self._held) > MAX_HELD:
                self._skip()
            else:
                return
        out += self._plain
        self._plain.clear()

    def _skip(self) -> None:
        """Give up the gap before the first that is held."""
        first = min(self._held)
        gap = first - self._expect()
        self._next = first
        self._expected += gap
        self._unrepaired += gap
        self._count(gap)

    def _count(self, lost: int) -> None:
        self._lost += lost
        if lost and not self._in_run:
            self._runs += 1
        self._in_run = lost > 0

    def _release(self) -> list[bytes]:
        """Give up every gap."""
        out: list[bytes] = []
        while self._held:
            self._skip()
            self._settle(out)
        return out
