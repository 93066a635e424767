"""Target of the QUIC session: an authenticated peer that does what it likes on the streams."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.config import KIB, Limits, Timeouts
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.events import Event, EventKind
from lattica.nat.quic.qh3.core import Certificate, client_core, server_core
from lattica.nat.quic.session.credit import encode_credit
from lattica.nat.quic.session.noise import QuicNoise
from lattica.nat.quic.session.session import QuicSession
from tools.fuzz.target import Target, Violation
from tools.fuzz.targets.pieces import option, record, records

_CERTIFICATE = Certificate.generate()
_OURS = Identity(b"o" * 32)
_THEIRS = Identity(b"t" * 32)
_ADDRESSES = (("192.0.2.1", 4000), ("192.0.2.2", 4001))
_MAX_STREAMS = 8
_LIMITS = Limits(max_streams_per_connection=_MAX_STREAMS)
_BUDGET = 512 * KIB
_DATA, _FIN, _BULK, _RESET, _STOP, _CONTROL, _GARBAGE, _DAMAGE, _TIME, _DATAGRAM = range(10)


class _Table:
    """Two sessions side by side; `tested` is the one whose peer misbehaves."""

    def __init__(self, *, test_client: bool) -> None:
        self.now = 100.0
        client = client_core(timeouts=Timeouts())
        server = server_core(
            _CERTIFICATE,
            original_destination_cid=client.original_destination_connection_id,
            timeouts=Timeouts(),
        )
        self.budget = MemoryBudget(_BUDGET)

        def noise(
            identity: Identity, *, initiator: bool
        ) -> Callable[[bytes, PeerId | None], QuicNoise]:
            return lambda hash_, _: QuicNoise(identity, initiator=initiator, certificate_hash=hash_)

        def session(*, initiator: bool) -> QuicSession:
            tested = initiator is test_client
            return QuicSession(
                client if initiator else server,
                noise(_OURS if tested else _THEIRS, initiator=initiator),
                initiator=initiator,
                clock=lambda: self.now,
                limits=_LIMITS if tested else None,
                budget=self.budget if tested else None,
            )

        ends = (session(initiator=True), session(initiator=False))
        ends[0].connect(_ADDRESSES[1])
        self.tested, self.peer = ends if test_client else ends[::-1]
        self.at, self.from_ = _ADDRESSES if test_client else _ADDRESSES[::-1]

    def exchange(self, spoil: bytes = b"") -> None:
        """Carry datagrams both ways until there are none; only the peer's may be spoilt."""
        for _ in range(200):
            self.now += 0.001
            quiet = True
            for mine, other, address in (
                (self.peer, self.tested, self.from_),
                (self.tested, self.peer, self.at),
            ):
                timer = mine.next_timer()
                if timer is not None and timer <= self.now:
                    self.note(mine, mine.on_timer)
                for datagrams, _ in mine.transmit() if mine.wants_write else []:
                    quiet = False
                    if spoil and mine is self.peer:
                        datagrams[0], spoil = _spoilt(datagrams[0], spoil), b""
                    for datagram in datagrams:
                        self.note(other, partial(other.receive, datagram, len(datagram), address))
            if quiet:
                return

    def note(self, session: QuicSession, call: Callable[[], list[Event]]) -> None:
        try:
            events = call()
        except RemoteProtocolError:
            if session is self.tested:
                raise
            return  # the peer does not like what it gets; it has begun
        accepted = any(event.kind is EventKind.ACCEPTED for event in events)
        if session is self.tested and accepted and len(session.streams) > _MAX_STREAMS:
            raise Violation("more streams than allowed")


def _spoilt(datagram: bytes, changes: bytes) -> bytes:
    changed = bytearray(datagram)
    for place, value in zip(changes[::2], changes[1::2], strict=False):
        changed[place * len(changed) // 256] ^= value
    return bytes(changed)


def _quic_session(data: bytes) -> None:
    kind, rest = option(data)
    table = _Table(test_client=bool(kind & 1))
    if not kind & 2:
        table.exchange()
        if table.tested.remote is None:
            raise Violation("two honest sessions do not get to know each other")
    if kind & 4:
        table.tested.open().write(memoryview(b"ours"))
    try:
        for action, payload in records(rest):
            _act(table, action % 10, payload)
            if table.budget.used > _BUDGET:
                raise Violation("more memory than the budget allows")
    except RemoteProtocolError as error:
        table.tested.shut(1, str(error))
        raise
    finally:
        for stream in table.tested.close("over"):
            while stream.take():
                pass
    if table.budget.used:
        raise Violation(f"{table.budget.used} bytes are accounted for that nobody holds")


def _act(table: _Table, action: int, payload: bytes) -> None:
    peer = table.peer
    number, body = option(payload)
    stream_id = number >> 2 << 2 | (number & 3)
    if not peer._drive.started:
        table.exchange()
    native = peer._drive.native
    try:
        if action in (_DATA, _FIN):
            native.send_stream(stream_id, body, action == _FIN)
        elif action == _BULK:
            native.send_stream(stream_id, body * 300, False)
        elif action == _RESET:
            native.reset_stream(stream_id, len(body))
        elif action == _STOP:
            native.stop_sending(stream_id, len(body))
        elif action == _CONTROL:
            native.send_stream(0, payload, False)
        elif action == _DATAGRAM:
            native.send_datagram(payload)
    except (ValueError, RuntimeError):
        return  # not even qh3 does that
    if action == _GARBAGE:
        table.note(table.tested, lambda: table.tested.receive(payload, len(payload), table.from_))
    elif action == _TIME:
        table.now += number / 50
        table.tested.ping()
    peer._dirty = True
    table.exchange(payload if action == _DAMAGE else b"")


QUIC_SESSION = Target(
    "quic-session",
    _quic_session,
    (RemoteProtocolError,),
    seeds=[
        b"\x00" + record(_DATA, b"\x04hello") + record(_FIN, b"\x04") + record(_TIME, b"\x05"),
        b"\x01" + record(_DATA, b"\x01hello") + record(_RESET, b"\x01") + record(_STOP, b"\x01"),
        b"\x04" + record(_DATA, b"\x01answer") + record(_CONTROL, encode_credit(1, 5)),
        b"\x00" + record(_BULK, b"\x04" + bytes(250)) * 4,
        b"\x00" + b"".join(record(_DATA, bytes((n,)) + b"x") for n in range(4, 64, 4)),
        b"\x00" + record(_CONTROL, b"\x01\x04") + record(_CONTROL, b"\x05"),
        b"\x02" + record(_DAMAGE, b"\x40\x01") + record(_GARBAGE, b"\x40" * 60),
        b"\x00" + record(_DATAGRAM, b"message") + record(_DAMAGE, b"\x40\x01"),
    ],
    tokens=[b"\x01\x04\x01", b"\x40", encode_credit(4, 2**61)],
    max_size=512,
)
