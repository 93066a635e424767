"""Keeps this node reachable through relays: the driver of reservations and relay selection.

It stays connected to the relays that were configured, so that their round trips are known and
another is at hand at once; holds reservations at the nearest ones
(:mod:`lattica.nat.traversal.relay.client.selection`,
:mod:`lattica.nat.traversal.relay.client.reservations`); and tells the swarm under which relayed
addresses it is reached.

Relays are connected over TCP where they have it, from the listening port: so the NAT maps that
port, and the relay tells as which address (UDP mappings are found by STUN).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import trio

from lattica.nat.base.clocks import clocks_agree
from lattica.nat.base.concurrency.watched import Watched
from lattica.nat.base.errors import AddressError, LatticaError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.backoff import Backoff
from lattica.nat.base.net.addresses import Kind, kind_of, parse_multiaddr, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.printable import rough_duration
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.events import EventsLost, EventStream, NetworkChanged
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.relay.circuit_transport import (
    CircuitTransport,
    ask_relay,
    direct_connection,
)
from lattica.nat.traversal.relay.client.addresses import own_addrs_of, relayed_addrs
from lattica.nat.traversal.relay.client.config import MAX_RELAYS, RelayClientConfig
from lattica.nat.traversal.relay.client.dialing import RelayDialer
from lattica.nat.traversal.relay.client.known import KnownRelay
from lattica.nat.traversal.relay.client.reservations import Reserving, clock_offset, lifetime_of
from lattica.nat.traversal.relay.client.selection import Candidate, RelaySelection
from lattica.nat.traversal.relay.client.status import RelayStatus, Source
from lattica.nat.traversal.relay.leaving import LEAVING, SIZE, decode_leaving
from lattica.nat.traversal.relay.messages import HOP, Reservation, Reserve, Status
from lattica.nat.traversal.relay.refusal import reserve_refused

logger = logging.getLogger(__name__)

Discover = Callable[[], Awaitable[Sequence[Multiaddr]]]

_TAG = "relay-client"
"""Relays in use are protected from trimming under this name."""
_TICK = 1.0
"""Seconds after which things are looked at though nothing was heard: round trips change, and
bootstrap peers turn out to be relays."""
_LASTING = 30.0
"""Seconds after which a connection that is lost counts as one that worked."""
_SOON, _SOON_FOR = 8.0, 120.0
"""Longest pause between two attempts to reach a relay as long as no relay holds a place for us, and
in the time after one there was lost: one that is started again has its clients back soon."""
_TCP_FIRST, _TCP_LIMIT = 8.0, 600.0
"""Pauses between attempts to have TCP besides QUIC. The first exceeds the time in which two
connections count as made at once, after which the newer one is preferred."""
_DISCOVER_FIRST, _DISCOVER_LIMIT = 30.0, 600.0
_MAX_DISCOVERED = 16


class RelayClient:
    """Reservations of one node. :meth:`run` does everything.

    Args:
        transport: takes the circuits that the relays bring; to be registered with the swarm.
        config: raises :class:`AddressError` for a relay's address that is none, or is
            without `/p2p/ID`.
        bootstrap: peers that are used if they relay; asked about once a second.
        discover: finds more relays; called only while there are too few, with long pauses.
        wall_clock: gives Unix time.
    """

    def __init__(
        self,
        swarm: Swarm,
        transport: CircuitTransport,
        config: RelayClientConfig | None = None,
        *,
        bootstrap: Callable[[], Iterable[PeerId]] | None = None,
        discover: Discover | None = None,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._swarm = swarm
        self._transport = transport
        self._config = config or RelayClientConfig()
        self._bootstrap = bootstrap if self._config.use_bootstrap else None
        self._discover = discover
        self._wall_clock = wall_clock
        self._rng = rng or random.Random()
        self._dialer = RelayDialer(swarm)
        self._selection = RelaySelection(self._config.reservations, self._config.switch_after)
        self._relays: dict[PeerId, KnownRelay] = {}
        self._discovering = Backoff(_DISCOVER_FIRST, _DISCOVER_LIMIT, self._rng, 0.0)
        self._is_discovering = False
        self._addrs: Watched[tuple[Multiaddr, ...]] = Watched(())
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None
        for text in self._config.relays:
            self._configure(text)

    def _configure(self, text: str) -> None:
        addr, relay = split_peer(parse_multiaddr(text))
        if relay is None or kind_of(addr) is Kind.CIRCUIT or not addr.to_bytes():
            raise AddressError(f"a relay's address must end in its /p2p/ID, unlike {text!r}")
        self._add(relay, Source.CONFIGURED, [addr], 0.0)

    def _add(self, relay: PeerId, source: Source, addrs: Iterable[Multiaddr], now: float) -> None:
        if relay == self._swarm.identity.peer_id:
            return  # the same list is given to every node
        if (known := self._relays.get(relay)) is None:
            if len(self._relays) >= MAX_RELAYS:
                return
            known = self._relays[relay] = self._make(relay, source, now)
        known.addrs = list(dict.fromkeys([*known.addrs, *addrs]))[:MAX_RELAYS]

    def _make(self, relay: PeerId, source: Source, now: float) -> KnownRelay:
        config, rng = self._config, self._rng
        return KnownRelay(
            relay,
            source,
            Reserving(config, rng, now),
            Backoff(config.retry_first, config.retry_limit, rng, now),
            Backoff(_TCP_FIRST, _TCP_LIMIT, rng, now),
        )

    def _begin_anew(self) -> None:
        """Know which relays there are, and nothing of what has happened to them."""
        now = trio.current_time()
        before, self._relays = self._relays, {}
        for r in before.values():
            fresh = self._relays[r.relay] = self._make(r.relay, r.source, now)
            fresh.addrs = r.addrs
        self._selection = RelaySelection(self._config.reservations, self._config.switch_after)
        self._is_discovering = False

    # --- what others ask ---

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """The handlers to register, by protocol."""
        return {LEAVING: self._on_leaving}

    async def _on_leaving(self, stream: Stream) -> None:
        """A relay says that it is about to stop: another one is to be reserved at."""
        with trio.move_on_after(self._config.request_timeout):
            seconds = decode_leaving(await stream.receive_message(SIZE))
            r = self._relays.get(stream.peer_id)
            if r is not None and not stream.connection.is_relayed:
                logger.info("the relay is about to stop, within %d s relay=%s", seconds, r.relay)
                r.leaving = r.connection
                self._wake.set()
            return
        stream.reset()

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """Addresses at which relays bring circuits to this node, without `/p2p/` and its ID."""
        return self._addrs.value

    async def wait_ready(self, timeout: float) -> None:
        """Wait until there is a reservation.

        Raises:
            TimeoutError: there is none; with the reasons.
        """
        with trio.move_on_after(timeout):
            await self._addrs.wait_until(bool)
            return
        reasons = "; ".join(f"{s.relay}: {s.last_error or 'no answer'}" for s in self.status())
        raise TimeoutError(
            f"no reservation at a relay within {timeout:g} s: {reasons or 'no relay is known'}"
        )

    def status(self) -> tuple[RelayStatus, ...]:
        """All relays that are known, those in use first."""
        now = trio.current_time()
        relays = sorted(self._relays.values(), key=lambda r: not r.chosen)
        return tuple(
            RelayStatus(
                relay=r.relay,
                source=r.source,
                addrs=tuple(own_addrs_of(r.relay, r.advertised, self._dialer.used_addrs(r))),
                path="" if r.connection is None else r.connection.path,
                rtt=r.rtt,
                chosen=r.chosen,
                reserved_until=(
                    self._wall_clock() + r.reserving.until - now
                    if r.reserving.is_held(now)
                    else None
                ),
                limit=r.limit,
                last_error=r.reserving.last_error or r.dial_error,
                clock_offset=r.clock_offset,
            )
            for r in relays
        )

    # --- life ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep reservations until cancelled; then this node is announced no more.

        When it is run again after an error, nothing is left of the time before.
        """
        if not self._config.reservations:
            task_status.started()
            return
        self._begin_anew()
        hooks = self._swarm.on_connected, self._swarm.on_disconnected
        for each in hooks:
            each.append(self._on_change)
        try:
            with self._swarm.events.subscribe() as events:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._follow, events)
                    task_status.started()
                    while True:
                        self._wake = trio.Event()
                        now = trio.current_time()
                        self._step(now)
                        with trio.move_on_at(self._next_wake(now)):
                            await self._wake.wait()
        finally:
            self._nursery = None
            for each in hooks:
                each.remove(self._on_change)
            self._withdraw()

    def _withdraw(self) -> None:
        self._transport.accepts_from.difference_update(self._relays)
        for relay in self._relays:
            self._swarm.registry.tags.unprotect(relay, _TAG)
        self._addrs.set(())
        with suppress(trio.ClosedResourceError):  # the swarm has ended, and its events too
            self._swarm.own_addresses.set("relayed", ())

    async def _on_change(self, connection: Connection) -> None:
        await trio.lowlevel.checkpoint()
        if connection.peer_id in self._relays:
            self._wake.set()

    async def _follow(self, events: EventStream) -> None:
        async for event in events:
            if isinstance(event, NetworkChanged | EventsLost):
                now = trio.current_time()
                for r in self._relays.values():
                    r.dialing.again(now)
                    r.tcp.again(now)
                    if r.reserving.is_held(now):
                        r.reserving.renew(now)
                self._wake.set()

    def _next_wake(self, now: float) -> float:
        wakes = [now + _TICK, self._selection.next_wake()]
        for r in self._relays.values():
            wakes.append(r.reserving.next_wake(now) if r.connection else r.dialing.due)
        # What is due already, and yet was not begun, waits for something that will be heard of.
        return min(wake for wake in wakes if wake > now)

    # --- one look at everything ---

    def _step(self, now: float) -> None:
        self._find_bootstrap(now)
        for r in self._relays.values():
            self._observe(r, now)
        self._hurry(now)
        chosen = self._selection.choose(map(self._candidate, self._relays.values()), now)
        for r in self._relays.values():
            self._choose(r, r.relay in chosen)
            if r.connection is None:
                if r.addrs and (r.chosen or r.source is Source.CONFIGURED) and r.dialing.due <= now:
                    self._begin("dial", r, self._dialer.dial)
            else:
                is_due = r.reserving.is_due(now) and r.leaving is None
                if r.chosen and is_due and "reserve" not in r.jobs:
                    r.reserving.ask(now)
                    self._begin("reserve", r, self._reserve)
                if r.chosen and r.tcp.due <= now and self._dialer.lacks_tcp(r):
                    self._begin("tcp", r, self._dialer.add_tcp)
        self._discover_if_needed(now)
        self._publish(chosen, now)

    def _find_bootstrap(self, now: float) -> None:
        """Bootstrap peers that have said that they relay."""
        for peer in self._bootstrap() if self._bootstrap is not None else ():
            if peer in self._relays:
                continue
            connections = self._swarm.registry.by_peer.get(peer, ())
            if any(HOP in c.known_protocols for c in connections if not c.is_relayed):
                self._add(peer, Source.BOOTSTRAP, (), now)

    def _observe(self, r: KnownRelay, now: float) -> None:
        """Notice a connection that has come or gone."""
        old, new = r.connection, direct_connection(self._swarm, r.relay)
        if new is old:
            return
        r.connection = new
        if new is not r.leaving:
            r.leaving = None
        if new is None and old is not None:
            reason = f"the connection to the relay has ended: {old.closed_reason}"
            r.turns_away = now - old.established_at < _LASTING
            if r.turns_away:
                r.dialing.failed(now)
            else:
                r.dialing.again(now)
            if r.reserving.lost(now, reason):
                r.hurry_until = now + _SOON_FOR
                logger.info("relay lost: %s relay=%s", reason, r.relay)
        elif old is not None and old.closed_reason is not None:
            # The relay may have forgotten us between the two.
            r.reserving.renew(now)

    def _hurry(self, now: float) -> None:
        """Who is reached through no relay does not wait long for one to be there again."""
        is_reachable = any(r.reserving.is_held(now) for r in self._relays.values())
        for r in self._relays.values():
            is_wanted = r.source is Source.CONFIGURED and not (is_reachable or r.turns_away)
            if is_wanted or now < r.hurry_until:
                r.dialing.hurry(now, _SOON)

    def _candidate(self, r: KnownRelay) -> Candidate:
        now = trio.current_time()
        unreachable = r.connection is None and "dial" not in r.jobs and r.dialing.due > now
        return Candidate(
            relay=r.relay,
            rtt=r.rtt,
            connected=r.connection is not None,
            held=r.reserving.is_held(now),
            avoided=unreachable or r.reserving.is_avoided(now),
            leaving=r.leaving is not None,
        )

    def _choose(self, r: KnownRelay, chosen: bool) -> None:
        if r.chosen is not chosen:
            tags = self._swarm.registry.tags
            (tags.protect if chosen else tags.unprotect)(r.relay, _TAG)
            r.chosen = chosen

    def _publish(self, chosen: Sequence[PeerId], now: float) -> None:
        """Tell the swarm where this node is reached, and the transport by whom."""
        held = {r.relay for r in self._relays.values() if r.reserving.is_held(now)}
        accepts = self._transport.accepts_from
        accepts.difference_update(self._relays.keys() - held)
        accepts.update(held)
        announced = [self._relays[relay] for relay in chosen if relay in held]
        # One that is about to stop is a way to this node only as long as there is no other.
        announced = [r for r in announced if r.leaving is None] or announced
        addrs = tuple(
            addr
            for r in announced
            for addr in relayed_addrs(r.relay, r.advertised, self._dialer.used_addrs(r))
        )
        if addrs != self._addrs.value:
            self._addrs.set(addrs)
            self._swarm.own_addresses.set("relayed", addrs)

    # --- work that takes time ---

    def _begin(
        self, job: str, r: KnownRelay, work: Callable[[KnownRelay], Awaitable[None]]
    ) -> None:
        if self._nursery is not None and job not in r.jobs:
            r.jobs.add(job)
            self._nursery.start_soon(self._run_job, job, r, work)

    async def _run_job(
        self, job: str, r: KnownRelay, work: Callable[[KnownRelay], Awaitable[None]]
    ) -> None:
        try:
            await work(r)
        except Exception as error:
            # A defect of ours costs this attempt, not the node.
            logger.exception("relay client: internal error relay=%s", r.relay)
            now = trio.current_time()
            r.dialing.failed(now)
            r.reserving.failed(now, repr(error))
        finally:
            r.jobs.discard(job)
            self._wake.set()

    async def _reserve(self, r: KnownRelay) -> None:
        """Ask for a reservation, or for more time."""
        reason = ""
        reservation: Reservation | None = None
        lifetime, limit = 0.0, None
        try:
            with trio.fail_after(self._config.request_timeout):
                if r.connection is None:
                    raise RemoteProtocolError("the connection has ended")
                token = self._config.token_for(r.relay)
                stream, answer = await ask_relay(r.connection, Reserve(token))
                stream.close()
            wall = self._wall_clock()
            if answer.clock is not None:
                self._note_clock(r, answer.clock - wall)
            if answer.status is not Status.OK:
                raise reserve_refused(r.relay, answer, token, wall)
            if answer.reservation is None:
                raise RemoteProtocolError("the relay agrees, but gives no reservation")
            reservation, limit = answer.reservation, answer.limit
            lifetime = lifetime_of(
                reservation,
                relay=r.relay,
                ours=self._swarm.identity.peer_id,
                wall=wall,
                config=self._config,
            )
            self._note_clock(r, clock_offset(reservation, wall))
        except trio.TooSlowError:
            reason = f"the relay has not answered within {self._config.request_timeout:g} s"
        except (LatticaError, OSError) as error:
            reason = str(error)
        now = trio.current_time()
        if reason or reservation is None:
            if r.reserving.failed(now, reason):
                logger.info("no reservation: %s relay=%s", reason, r.relay)
            return
        r.advertised, r.limit = reservation.addrs, limit
        if r.reserving.granted(now, lifetime, is_certain=reservation.lifetime is not None):
            logger.info("reserved for %.0f s limit=%s relay=%s", lifetime, limit, r.relay)

    def _note_clock(self, r: KnownRelay, offset: float | None) -> None:
        was_right = r.clock_offset is None or clocks_agree(r.clock_offset)
        if offset is not None and not clocks_agree(offset) and was_right:
            logger.info(
                "the relay's clock and this machine's differ by %s; `lattica doctor` says "
                "whose is wrong relay=%s",
                rough_duration(abs(offset)),
                r.relay,
            )
        r.clock_offset = offset

    # --- more relays ---

    def _discover_if_needed(self, now: float) -> None:
        if self._discover is None or self._nursery is None or self._is_discovering:
            return
        enough = sum(r.chosen for r in self._relays.values()) >= self._config.reservations
        if enough or self._discovering.due > now:
            return
        self._is_discovering = True
        self._nursery.start_soon(self._find_more, self._discover)

    async def _find_more(self, discover: Discover) -> None:
        try:
            found = await discover()
        except Exception as error:  # it is somebody else's code
            logger.info("relays are not discovered: %s", error)
            found = ()
        finally:
            self._is_discovering = False
        now = trio.current_time()
        self._discovering.failed(now)
        for r in list(self._relays.values()):  # those that were of no use make room
            if r.source is Source.DISCOVERED and not r.jobs and self._candidate(r).avoided:
                self._choose(r, False)
                del self._relays[r.relay]
        count = sum(r.source is Source.DISCOVERED for r in self._relays.values())
        for addr in found[: _MAX_DISCOVERED - count]:
            with suppress(AddressError):
                base, relay = split_peer(addr)
                if relay is not None and kind_of(base) not in (Kind.CIRCUIT, Kind.OTHER):
                    self._add(relay, Source.DISCOVERED, [base], now)
        self._wake.set()
