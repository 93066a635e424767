"""An authenticated connection to a peer: what its users see, whatever carries it."""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from enum import Enum

import trio

from lattica.nat.base.concurrency.exception_groups import leaves
from lattica.nat.base.errors import (
    ConnectionClosedError,
    LatticaError,
    LocalProtocolError,
    PeerLimitError,
    RemoteProtocolError,
    ResourceLimitError,
    StreamResetError,
)
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.limits.places import Source
from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.delivery import Delivery, DeliveryWatch
from lattica.nat.mux.events import Event, EventKind, EventLine
from lattica.nat.mux.patience import NO_PATIENCE
from lattica.nat.mux.session import RESOURCE_LIMIT, MuxSession
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.turns import Turnstile
from lattica.nat.secure.multistream import Initiator
from lattica.nat.secure.noise_identity import RemoteIdentity

logger = logging.getLogger(__name__)

CLOSE_GRACE = 1.0
"""Seconds to wait for the peer's end of a connection that this side closes."""
_LASTING = 2.0
"""Seconds; a peer that drops connections sooner does not let us in."""
_PONG_GRACE = 2.0
"""Seconds after which a ping should have been answered: about one to send it, one for the way."""
_REFUSED_PAUSE = 1.0
"""Seconds after which a peer is asked again that had no place for a stream, unless one of ours ends
before."""
_BY_THIS_SIDE = "closed by this side"
_serial_numbers = itertools.count(1)


class Direction(Enum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Connection(InProcess, ABC):
    """An authenticated connection to a peer, carrying many streams.

    Made by the swarm, which also runs it; use :meth:`open` and :meth:`aclose`.
    """

    __slots__ = (
        "__weakref__",
        "_closing",
        "_delivery_watch",
        "_events",
        "_is_slowed",
        "_on_stream",
        "_places",
        "_scope",
        "_seen_in",
        "_turnstile",
        "agent",
        "closed",
        "closed_reason",
        "dialed",
        "direction",
        "established_at",
        "instance",
        "interrupted",
        "known_protocols",
        "last_stream_at",
        "local_addr",
        "patience",
        "peer_id",
        "peer_is_full",
        "protocol_version",
        "public_key",
        "remote_addr",
        "retired_at",
        "send_buffer",
        "serial",
        "session",
        "stalled",
        "told_addrs",
    )

    def __init__(
        self,
        session: MuxSession,
        remote: RemoteIdentity,
        *,
        local_addr: Multiaddr,
        remote_addr: Multiaddr,
        turnstile: Turnstile,
        direction: Direction,
        send_buffer: int,
        on_stream: Callable[[Stream], None],
    ) -> None:
        self._turnstile = turnstile
        self.serial = next(_serial_numbers)
        self.peer_id = remote.peer_id
        self.public_key = remote.public_key
        self.instance = remote.instance
        """Which of the programs that have the peer's key this is; empty if it does not say."""
        self.dialed: frozenset[Multiaddr] = frozenset()
        """The addresses by which this node knows to have reached that one, names as names."""
        self.told_addrs: frozenset[Multiaddr] = frozenset()
        """Where it says that it is."""
        self.direction = direction
        self.local_addr = local_addr
        self.remote_addr = remote_addr
        self.session = session
        self.send_buffer = send_buffer
        self.established_at = self.last_stream_at = trio.current_time()
        self.agent = ""
        """What the peer says it runs, once it has been identified."""
        self.protocol_version = ""
        """The family of networks that the peer says it belongs to, likewise."""
        self.peer_is_full = False
        """It has refused a stream for its limits, and has taken none since."""
        self.patience = NO_PATIENCE
        """For how long the peer asks to be waited for when it is silent."""
        self.known_protocols: set[str] = set()
        """Protocols the peer has named, or agreed to since, on this connection."""
        self.retired_at: float | None = None
        """Since when another connection to the peer is preferred; this one ends when idle."""
        self.closed_reason: str | None = None
        self.interrupted = False
        """It has ended though neither side wanted that, with streams on it, after a while."""
        self.stalled = False
        """It carried nothing at its end, though streams waited for that."""
        self.closed = trio.Event()
        self._on_stream = on_stream
        self._places = trio.lowlevel.ParkingLot()
        session.on_place = self._places.unpark
        self._closing = False
        self._is_slowed = False
        """The log has a line that says so."""
        self._seen_in: float | None = None
        """In which silence, by when the peer was heard before it, its machine was seen."""
        self._delivery_watch = DeliveryWatch(session.timeouts.delivery)
        self._scope = trio.CancelScope()
        self._events = EventLine()

    def __repr__(self) -> str:
        state = "" if self.closed_reason is None else f" ({self.closed_reason})"
        return (
            f"<Connection {self.serial} {self.direction.value}, {self.peer_id} at "
            f"{self.remote_addr}{state}>"
        )

    @property
    def source(self) -> Source:
        """Who the peer is where places are shared."""
        return self.session.source

    @property
    def path(self) -> str:
        """What carries it: "relayed", or "direct-" and tcp, quic, ws or wss."""
        kind = kind_of(self.remote_addr)
        return "relayed" if kind is Kind.CIRCUIT else f"direct-{kind.value}"

    @property
    def is_relayed(self) -> bool:
        """Whether it goes through a third peer."""
        return kind_of(self.remote_addr) is Kind.CIRCUIT

    @property
    @abstractmethod
    def cipher(self) -> str:
        """What encrypts it: "chacha20-poly1305", "aes-256-gcm", or "tls-1.3" of QUIC's choice."""

    @property
    def rtt(self) -> float | None:
        """Shortest round-trip time so far, seconds; None: not yet known."""
        return self.session.rtt

    @property
    def age(self) -> float:
        """Seconds since it was established."""
        return trio.current_time() - self.established_at

    @property
    def stream_count(self) -> int:
        return len(self.session.streams)

    async def open(
        self,
        protocols: str | Sequence[str],
        *,
        optimistic: bool | None = None,
        wait_for_place: float | None = None,
    ) -> Stream:
        """Open a stream, and agree with the peer on the first of `protocols` that it speaks.

        Args:
            optimistic: go on as though the peer had accepted, which costs no round trip; for
                one protocol only. What is sent at once leaves together with the proposal, and
                a refusal is raised by whatever uses the stream next. By default, where the
                peer has named the protocol on this connection, or agreed to it. What is sent
                later, before a refusal has arrived, may be read as a further proposal: not for
                a protocol whose data begins with what others choose, without such a sign.

            wait_for_place: seconds to wait for another stream to end where the budgets, of either
                side, allow no more; None: `Timeouts.negotiate`, and what a peer that has refused
                streams before says to this one is left to whoever uses it.

        It waits `Timeouts.negotiate` for the answer. When it fails or is cancelled, the stream is
        reset.

        Raises:
            UnsupportedProtocolError: the peer speaks none of them.
            ConnectionClosedError: the connection has ended.
            StreamResetError: the peer has reset the stream.
            ResourceLimitError: a budget is used up, and stays so; the message names it, and whose
                it is.
            RemoteProtocolError: the answer is none.
            TimeoutError: there was no answer in time.
        """
        names = (protocols,) if isinstance(protocols, str) else tuple(protocols)
        Initiator(names)  # they are names
        if optimistic and len(names) > 1:
            raise LocalProtocolError("several protocols cannot be assumed to be accepted")
        # Before the proposal, so that nothing comes between that and what is sent with it.
        await trio.lowlevel.checkpoint()
        waits = wait_for_place is not None
        limit = self.session.timeouts.negotiate if wait_for_place is None else wait_for_place
        deadline = trio.current_time() + limit
        while True:
            await self._wait_for_place(deadline)
            stream = self.open_stream()
            stream.begin_negotiation(Initiator(names))
            if optimistic or (
                optimistic is None
                and len(names) == 1
                and names[0] in self.known_protocols
                and not (self.peer_is_full and waits)
            ):
                stream.assume_protocol(names[0])
                return stream
            try:
                await self._negotiated(stream, names)
            except StreamResetError as error:
                if error.code != RESOURCE_LIMIT:
                    raise
                if trio.current_time() >= deadline:
                    self.peer_is_full = True
                    self.raise_if_full()
                with trio.move_on_at(min(deadline, trio.current_time() + _REFUSED_PAUSE)):
                    await self._places.park()
            else:
                self.peer_is_full = False
                return stream

    async def _negotiated(self, stream: Stream, names: Sequence[str]) -> None:
        """Wait until a protocol is agreed on; the stream is reset if none is."""
        limit = self.session.timeouts.negotiate
        try:
            with trio.move_on_after(limit):
                await stream.finish_negotiation()
            if not stream.protocol:
                raise TimeoutError(
                    f"{self.peer_id} did not answer within {limit:g} s when asked for "
                    f"{', '.join(names)}"
                )
        except BaseException:
            stream.reset()
            raise

    def raise_if_full(self) -> None:
        """Raise :class:`ResourceLimitError` if the limits of a side allow no more streams."""
        if not self.session.has_place:
            raise ResourceLimitError(self.session.full())
        if self.peer_is_full:
            raise PeerLimitError(
                f"the peer's limits allow no more streams: the connection has "
                f"{self.stream_count}, and this node's limits allow more",
                RESOURCE_LIMIT,
            )

    async def _wait_for_place(self, deadline: float) -> None:
        with trio.move_on_at(deadline):
            while not self.session.has_place and self.closed_reason is None:
                await self._places.park()

    def open_stream(self) -> Stream:
        """Open a stream without a protocol, for those who negotiate it themselves.

        Raises:
            ConnectionClosedError: the connection has ended.
            ResourceLimitError: a budget is used up.
        """
        self.raise_if_closed()
        if self._closing:
            raise ConnectionClosedError("the connection is being closed by this side")
        stream = Stream(self, self.session.open())
        self.last_stream_at = trio.current_time()
        return stream

    def raise_if_closed(self) -> None:
        """Raise :class:`ConnectionClosedError` if the connection has ended."""
        if self.closed_reason is not None:
            raise ConnectionClosedError(f"the connection is gone: {self.closed_reason}")

    # --- what carries it ---

    @abstractmethod
    def wake_writer(self) -> None:
        """There may be something to send."""

    def write(self, stream: MuxStream, data: memoryview) -> None:
        """Have a stream send `data` (format "B"), which must not change until it is framed."""
        stream.write(data)
        self.wake_writer()

    @abstractmethod
    def _machine_seen(self) -> bool | None:
        """Whether there are signs that the silent peer's machine is there; None: who knows."""

    @abstractmethod
    async def _serve(self) -> str:
        """Send and receive until the end; return who closed."""

    @abstractmethod
    def _let_go(self) -> None:
        """Give up what carries the connection, at once and without waiting. Idempotent."""

    def delivery(self) -> Delivery | None:
        """Whether what was sent arrives; None where nobody knows."""
        return None

    async def _release(self) -> None:
        """Let go of what only waiting can let go of; the time for it is bounded."""
        await trio.lowlevel.checkpoint()

    # --- silence ---

    @property
    def in_doubt(self) -> bool:
        """The peer is silent, and nobody can tell whether it is busy, or the path is dead."""
        return self.closed_reason is None and self.session.is_silent and not self._seen

    def note_machine_seen(self) -> None:
        """The machine of a peer that is silent has shown itself in another way."""
        self._seen_in = self.session.last_received

    @property
    def _seen(self) -> bool | None:
        return self._seen_in == self.session.last_received or self._machine_seen()

    def _silence_allowed(self) -> float:
        seen = self._seen
        if seen is None:
            return self.patience.blind
        return max(self.patience.known, self.patience.blind) if seen else 0.0

    # --- life ---

    async def run(self) -> None:
        """Serve the connection until it ends; the swarm's task."""
        reason = _BY_THIS_SIDE
        try:
            with self._scope:
                reason = await self._serve()
        except* LatticaError as group:
            reason = str(leaves(group)[0])
        except* (OSError, trio.ClosedResourceError, trio.BrokenResourceError) as group:
            reason = f"network error: {leaves(group)[0]}"
        except* Exception as group:
            # A defect of ours costs this connection, not the node.
            peer_log.log(
                logger,
                logging.ERROR,
                self.peer_id,
                "closing connection: internal error peer=%s",
                self.peer_id,
                exc_info=group,
            )
            reason = "internal error"
        finally:
            self._end(reason)
            with trio.CancelScope(shield=True):
                await self._finish_events()
            with trio.move_on_after(CLOSE_GRACE, shield=True):
                await self._release()

    def _handle(self, events: Iterable[Event]) -> None:
        """Act on what the session says has happened, as far as this turn allows."""
        self._events.add(events, self._act_on)

    def _handle_more(self) -> None:
        """Act on what is left of it, as far as another turn allows."""
        self._events.next_turn(self._act_on)

    def _act_on(self, event: Event) -> bool:
        """Tell whom it concerns; return whether a task goes on for that."""
        kind, core = event.kind, event.stream
        if core is not None:
            if kind is EventKind.ACCEPTED:
                self.last_stream_at = trio.current_time()
                self._on_stream(Stream(self, core))
                return True
            if isinstance(owner := core.owner, Stream):
                if kind is EventKind.RESET and core.error_code == RESOURCE_LIMIT:
                    self.peer_is_full = True
                if core.session is not self.session:  # it was aborted for its memory
                    owner.connection.wake_writer()
                return owner.wake()
        elif kind is EventKind.GO_AWAY and event.value:
            peer_log.log(
                logger,
                logging.INFO,
                self.peer_id,
                "peer ends the connection with code %d peer=%s",
                event.value,
                self.peer_id,
            )
        return False

    async def _finish_events(self) -> None:
        """Act on what is left of what has happened, beside others; until then read no more."""
        while self._events:
            await self._turnstile.wait(self.source.network)
            self._handle_more()

    def _wake_drained(self) -> None:
        for core in self.session.take_drained():
            if isinstance(owner := core.owner, Stream):
                owner.wake_sender()

    async def charge(self, what: str, cost: int) -> None:
        """The peer asks for work that costs as much as so many frames. A checkpoint.

        Others have their turn first, and those of the same network one by one. Whoever asks too
        often waits (:class:`~lattica.nat.mux.turns.Nuisance`).

        Raises:
            ConnectionClosedError: the connection has ended.
        """
        await self._turnstile.wait(self.session.source.network)
        self.session.nuisance.count(what, cost)
        await self._rest()
        self.raise_if_closed()

    async def _rest(self) -> bool:
        """Wait until what the peer has sent for nothing is paid; return whether it was not."""
        nuisance = self.session.nuisance
        rests = False
        while (until := nuisance.rests_until) is not None:
            rests = True
            with trio.move_on_at(until):
                await self.closed.wait()
                break
        return rests

    def _log_violation(self, error: RemoteProtocolError) -> None:
        peer_log.log(
            logger,
            logging.WARNING,
            self.peer_id,
            "closing connection: peer breaks the protocol: %s peer=%s addr=%s",
            error,
            self.peer_id,
            self.remote_addr,
        )

    def _log_rest(self) -> None:
        if self._is_slowed:
            return
        self._is_slowed = True
        peer_log.log(
            logger,
            logging.INFO,
            self.peer_id,
            "reading less of a connection: too many frames for nothing, %s at last peer=%s addr=%s",
            self.session.nuisance.last,
            self.peer_id,
            self.remote_addr,
        )

    def tick(self) -> None:
        """Keep-alive and clean-up; the swarm calls it about once a second."""
        try:
            self.session.tick(self._silence_allowed)
        except LatticaError as error:
            peer_log.log(
                logger,
                logging.INFO,
                self.peer_id,
                "closing connection: %s peer=%s addr=%s",
                error,
                self.peer_id,
                self.remote_addr,
            )
            self.abort(str(error))
            return
        if self.session.nuisance.rests_until is not None:
            self._log_rest()
        # A peer that is not heard may be busy: how long that may last is not for this to say.
        delivery = None if self.session.is_silent else self.delivery()
        if self._delivery_watch.look(delivery, trio.current_time()):
            self._give_up()
        elif self.session.wants_write:
            self.wake_writer()

    def _give_up(self) -> None:
        """The peer may be alive, but this is no path to it."""
        patience = self.session.timeouts.delivery
        reason = (
            f"nothing that was sent has arrived for {patience:g} s: the path loses large packets, "
            "or all in this direction"
        )
        peer_log.log(
            logger,
            logging.INFO,
            self.peer_id,
            "closing connection: %s peer=%s addr=%s",
            reason,
            self.peer_id,
            self.remote_addr,
        )
        self.stalled = True
        self.abort(reason)

    async def aclose(self) -> None:
        """Send what was accepted for sending and what the peer takes now, say goodbye, and close.

        Data that waits for a reader who does not read is not waited for; streams that are still
        open fail. The caller bounds the time.
        """
        if self.closed_reason is None and not self._closing:
            self._closing = True
            self.wake_writer()
        await self.closed.wait()

    def abort(self, reason: str) -> None:
        """Close at once; `reason` is what the streams' users are told. Idempotent."""
        self._end(reason)
        self._scope.cancel()

    def _end(self, reason: str) -> None:
        if self.closed_reason is not None:
            return
        self.closed_reason = reason
        wanted = self._closing or self.session.went_away or reason == _BY_THIS_SIDE
        lasted = self.age >= _LASTING
        self.interrupted = lasted and not wanted and bool(self.session.streams)
        silent = trio.current_time() - self.session.last_received
        if self.interrupted and silent >= self.session.timeouts.keep_alive_interval + _PONG_GRACE:
            self.stalled = True
        self._let_go()
        self._handle_more()
        self._handle(Event(EventKind.RESET, core) for core in self.session.close(reason))
        self._places.unpark_all()
        self.closed.set()
