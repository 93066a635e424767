"""Core of the AutoNAT v2 client: which address is checked when and by whom, and what to believe.

Source: https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md.

Each address is checked in rounds. In a round one server after another is asked for this one
address, until so many agree as the configuration wants, or all have been asked. "Reachable" needs
a proof, the nonce on a connection that is new, comes in by itself and fits the address; a server
that speaks of a dial-back which never came is not asked again for long. "Unreachable" cannot be
proved, which is why one server is not enough where there are several. The next round follows soon
after a change, and later and later while nothing changes; a network change starts all anew.

Pure: a clock and events in, checks and results out; the driver is
:mod:`lattica.nat.traversal.autonat.client`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.base.net.addresses import Kind, direct_ip, ip_of, kind_of, split_peer, to_endpoint
from lattica.nat.base.net.ip import IpAddress, is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.autonat.config import AutonatClientConfig
from lattica.nat.traversal.autonat.messages import DialResponse, DialStatus, ResponseStatus

_JITTER = 0.2
"""Pauses are this much shorter or longer, so that nodes do not ask in step."""


class Reachability(Enum):
    """Whether strangers can connect to an address."""

    UNKNOWN = "unknown"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class AddressReachability:
    """What is known of an address."""

    addr: Multiaddr
    reachability: Reachability
    agreeing: int
    """Servers that said so in the latest round, of which `asked` had an opinion."""
    asked: int
    since: float
    """Seconds on the client's clock at which `reachability` became what it is."""


@dataclass(frozen=True, slots=True)
class Check:
    """Ask `server` for `addr` with this nonce."""

    addr: Multiaddr
    server: PeerId
    nonce: int
    round: int
    """Which round of the address it belongs to."""


class Outcome(Enum):
    """What came of a check."""

    REACHABLE = "the nonce arrived as it should"
    UNREACHABLE = "the server could not connect"
    NO_VERDICT = "neither is shown"
    REFUSED = "the server does not dial this address"
    FAILED = "the server is busy or gone, or makes no sense"
    UNSUPPORTED = "the peer is no AutoNAT v2 server"
    LIED = "the server claims what did not happen"


@dataclass(frozen=True, slots=True)
class DialBack:
    """A nonce that has arrived, and on what connection."""

    local: Multiaddr
    """Our end of it."""
    is_fresh: bool
    """It came in after the check began, and not from where we have a connection to."""


def is_checkable(addr: Multiaddr, *, allow_private: bool = False) -> bool:
    """Whether it makes sense to have an address checked: direct, with a public IP address."""
    ip = direct_ip(addr)
    if ip is None or ip.is_unspecified or ip.is_multicast:
        return False
    return allow_private or is_public_host(ip)


def fits(addr: Multiaddr, dial_back: DialBack, own: Iterable[IpAddress]) -> bool:
    """Whether a dial-back may be one of `addr`.

    Behind a NAT, which changes address and port, only the kind of address can be compared. An
    address of our `own` must be met exactly.
    """
    if not dial_back.is_fresh or _carrier(dial_back.local) != _carrier(addr):
        return False
    ip, local_ip = ip_of(addr), ip_of(dial_back.local)
    if ip is None or local_ip is None or ip.version != local_ip.version:
        return False
    if ip not in own:
        return True
    same_host = local_ip.is_unspecified or local_ip == ip
    return same_host and to_endpoint(dial_back.local).port == to_endpoint(addr).port


def _carrier(addr: Multiaddr) -> Kind:
    """The kind, with both WebSockets as one: TLS may end before it reaches us."""
    kind = kind_of(addr)
    return Kind.WEBSOCKET if kind is Kind.SECURE_WEBSOCKET else kind


@dataclass(slots=True)
class _Server:
    is_connected: bool = False
    is_busy: bool = False
    paused_until: float = -math.inf
    failures: int = 0


@dataclass(slots=True)
class _Address:
    result: AddressReachability
    due: float
    pause: float
    round: int = 0
    votes: dict[PeerId, bool] = field(default_factory=dict)
    """Of this round: whether each server has reached the address."""
    asked: set[PeerId] = field(default_factory=set)
    """In this round, with whatever outcome but a failure."""
    refused: set[PeerId] = field(default_factory=set)
    """Servers that do not dial this address."""
    ever_asked: set[PeerId] = field(default_factory=set)
    under_way: int = 0

    def leading(self) -> int:
        """Votes for what most have voted for."""
        reached = sum(self.votes.values())
        return max(reached, len(self.votes) - reached)


class AutonatClientCore:
    """All addresses and all servers.

    `clock` gives seconds, `rng` nonces and jitter: for nonces one that cannot be foreseen.
    """

    def __init__(
        self, config: AutonatClientConfig, *, clock: Callable[[], float], rng: Random
    ) -> None:
        self.config = config
        self._clock = clock
        self._rng = rng
        self._addresses: dict[Multiaddr, _Address] = {}
        self._servers: dict[PeerId, _Server] = {}
        self._pending: dict[int, DialBack | None] = {}
        """By nonce: checks under way, and the dial-back where there was one."""
        self._rounds = 0

    @property
    def results(self) -> Mapping[Multiaddr, AddressReachability]:
        """What is known of each address, in the order in which they were given."""
        return {addr: state.result for addr, state in self._addresses.items()}

    def is_asking(self, server: PeerId) -> bool:
        """A check by this server is under way."""
        known = self._servers.get(server)
        return known is not None and known.is_busy

    @property
    def is_idle(self) -> bool:
        """No check is under way, and none can begin before time has passed."""
        now = self._clock()
        return not self._pending and not any(
            state.due <= now and self._candidates(state, now) for state in self._addresses.values()
        )

    # --- what there is ---

    def update(
        self, addrs: Iterable[Multiaddr], servers: Iterable[PeerId], connected: Iterable[PeerId]
    ) -> list[AddressReachability]:
        """Say which addresses there are, which servers, and which of these can be asked now.

        What is not named any more is forgotten (servers that are left alone, only after that).
        Addresses that make no sense to check, and what is too much, are left out. Returns the
        results that change by it: a round may have waited for a server that has gone.
        """
        self._update_addresses(addrs)
        now = self._clock()
        wanted = list(dict.fromkeys(servers))[: self.config.max_servers]
        paused = [peer for peer, server in self._servers.items() if server.paused_until > now]
        # Whoever goes and comes back is not forgiven by that.
        kept = dict.fromkeys((*wanted, *paused[: self.config.max_servers]))
        self._servers = {peer: self._servers.get(peer, _Server()) for peer in kept}
        can_be_asked = set(connected).intersection(wanted)
        for peer, server in self._servers.items():
            server.is_connected = peer in can_be_asked
        askable = {peer for peer in self._servers if self._is_available(peer, now)}
        for state in self._addresses.values():
            state.ever_asked &= self._servers.keys()
            if state.result.agreeing < self.config.agreement and askable - state.ever_asked:
                # Somebody new, who may know better.
                state.due = min(state.due, now)
        waiting = [state for state in self._addresses.values() if state.votes]
        return [result for state in waiting if (result := self._settle(state)) is not None]

    def _update_addresses(self, addrs: Iterable[Multiaddr]) -> None:
        found: dict[Multiaddr, _Address] = {}
        for given in addrs:
            if len(found) >= self.config.max_addresses:
                break
            if not is_checkable(given, allow_private=self.config.allow_private):
                continue
            addr, _ = split_peer(given)
            found[addr] = self._addresses.get(addr) or self._new_address(addr)
        self._addresses = found

    def _new_address(self, addr: Multiaddr) -> _Address:
        now = self._clock()
        self._rounds += 1
        unknown = AddressReachability(addr, Reachability.UNKNOWN, 0, 0, now)
        return _Address(unknown, now, self.config.recheck_min, self._rounds)

    def network_changed(self) -> list[AddressReachability]:
        """Nothing is known any more, and all is checked anew; what has changed by that."""
        before = self._addresses
        self._addresses = {addr: self._new_address(addr) for addr in before}
        return [
            self._addresses[addr].result
            for addr, state in before.items()
            if state.result.reachability is not Reachability.UNKNOWN
        ]

    # --- what to do ---

    def next_check(self) -> Check | None:
        """The next check to begin now, if there is one. Each needs its :meth:`finish`."""
        if len(self._pending) >= self.config.concurrent:
            return None
        now = self._clock()
        for addr, state in self._addresses.items():
            if state.due > now or state.under_way + state.leading() >= self._quorum(state, now):
                continue
            idle = [peer for peer in self._candidates(state, now) if not self.is_asking(peer)]
            if idle:
                return self._begin(addr, state, self._rng.choice(idle))
        return None

    def _begin(self, addr: Multiaddr, state: _Address, server: PeerId) -> Check:
        nonce = self._rng.getrandbits(64)
        while nonce in self._pending:
            nonce = self._rng.getrandbits(64)
        self._pending[nonce] = None
        self._servers[server].is_busy = True
        state.under_way += 1
        state.asked.add(server)
        state.ever_asked.add(server)
        return Check(addr, server, nonce, state.round)

    def next_due(self) -> float:
        """When :meth:`next_check` may have something without a further event; seconds."""
        now = self._clock()
        return min((self._due(state, now) for state in self._addresses.values()), default=math.inf)

    def _due(self, state: _Address, now: float) -> float:
        if state.due > now:
            return state.due
        if state.under_way or self._candidates(state, now):
            return math.inf  # whatever it waits for ends with a check
        pauses = (self._servers[peer].paused_until for peer in self._paused(state, now))
        return min(pauses, default=math.inf)

    def _is_available(self, peer: PeerId, now: float) -> bool:
        server = self._servers[peer]
        return server.is_connected and server.paused_until <= now

    def _unasked(self, state: _Address) -> list[PeerId]:
        return [
            peer
            for peer, server in self._servers.items()
            if server.is_connected and peer not in state.asked and peer not in state.refused
        ]

    def _candidates(self, state: _Address, now: float) -> list[PeerId]:
        """Servers that could still be asked in this round."""
        return [peer for peer in self._unasked(state) if self._is_available(peer, now)]

    def _paused(self, state: _Address, now: float) -> list[PeerId]:
        return [peer for peer in self._unasked(state) if not self._is_available(peer, now)]

    def _quorum(self, state: _Address, now: float) -> int:
        """Votes that decide the round: so many as are wanted, or as there can be."""
        possible = len(state.votes) + state.under_way + len(self._candidates(state, now))
        return max(1, min(self.config.agreement, possible))

    # --- what happens ---

    def take_dial_back(self, nonce: int, dial_back: DialBack) -> bool:
        """A nonce has arrived; whether it was asked for, and has not been here before."""
        if nonce not in self._pending or self._pending[nonce] is not None:
            return False
        self._pending[nonce] = dial_back
        return True

    def awaits_dial_back(self, check: Check, response: DialResponse) -> bool:
        """Whether the server speaks of a dial-back that is not here yet."""
        claims = response.status is ResponseStatus.OK and response.dial_status is DialStatus.OK
        return claims and self._pending.get(check.nonce) is None

    def judge(self, check: Check, response: DialResponse, own: Iterable[IpAddress]) -> Outcome:
        """What a server's answer is worth, once its dial-back is here or can be waited for no more.

        `own` are the IP addresses of this machine.
        """
        match response.status:
            case ResponseStatus.E_DIAL_REFUSED:
                return Outcome.REFUSED
            case ResponseStatus.OK if response.addr_idx != 0:
                return Outcome.LIED  # there was one address only
            case ResponseStatus.OK:
                pass
            case _:
                return Outcome.FAILED
        dial_back = self._pending.get(check.nonce)
        if dial_back is not None:
            # The nonce proves more than the server's words.
            return Outcome.REACHABLE if fits(check.addr, dial_back, own) else Outcome.NO_VERDICT
        match response.dial_status:
            case DialStatus.E_DIAL_ERROR:
                return Outcome.UNREACHABLE
            case DialStatus.OK:
                return Outcome.LIED
            case _:
                return Outcome.NO_VERDICT

    def finish(self, check: Check, outcome: Outcome) -> AddressReachability | None:
        """A check is over. Returns the result of the address if that has changed by it."""
        self._pending.pop(check.nonce, None)
        state = self._addresses.get(check.addr)
        if state is not None and state.round != check.round:
            state = None  # what it would say is of the past
        if state is None and outcome is Outcome.LIED:
            outcome = Outcome.FAILED  # the dial-back may have gone to where we were before
        self._note_server(check.server, outcome)
        if state is None:
            return None
        state.under_way -= 1
        match outcome:
            case Outcome.REACHABLE | Outcome.UNREACHABLE:
                state.votes[check.server] = outcome is Outcome.REACHABLE
            case Outcome.REFUSED:
                state.refused.add(check.server)
            case Outcome.FAILED | Outcome.UNSUPPORTED | Outcome.LIED:
                state.asked.discard(check.server)
        return self._settle(state)

    def abandon(self, check: Check) -> None:
        """A check was given up by this side, which says nothing about anybody."""
        self._pending.pop(check.nonce, None)
        if (server := self._servers.get(check.server)) is not None:
            server.is_busy = False
        state = self._addresses.get(check.addr)
        if state is not None and state.round == check.round:
            state.under_way -= 1
            state.asked.discard(check.server)

    def _note_server(self, peer: PeerId, outcome: Outcome) -> None:
        server = self._servers.get(peer)
        if server is None:
            return
        now, config = self._clock(), self.config
        server.is_busy = False
        match outcome:
            case Outcome.LIED:
                server.paused_until = now + config.distrust
                for state in self._addresses.values():
                    state.votes.pop(peer, None)
            case Outcome.UNSUPPORTED:
                server.paused_until = now + config.server_pause_max
            case Outcome.FAILED:
                server.failures += 1
                server.paused_until = now + pause_after(
                    server.failures, config.server_pause_min, config.server_pause_max, self._rng
                )
            case _:
                server.failures = 0

    def _settle(self, state: _Address) -> AddressReachability | None:
        """End the round if it is decided, or nobody is left to ask."""
        now = self._clock()
        quorum = self._quorum(state, now)
        reached = sum(state.votes.values())
        missed = len(state.votes) - reached
        if reached >= quorum and reached > missed:
            return self._conclude(state, Reachability.REACHABLE, reached)
        if missed >= quorum and missed > reached:
            return self._conclude(state, Reachability.UNREACHABLE, missed)
        if state.under_way or self._candidates(state, now):
            return None
        if not state.votes and self._paused(state, now):
            return None  # the round goes on when they can be asked again
        return self._conclude(state, Reachability.UNKNOWN, 0)

    def _conclude(
        self, state: _Address, reachability: Reachability, agreeing: int
    ) -> AddressReachability | None:
        now, config, before = self._clock(), self.config, state.result
        changed = reachability is not before.reachability
        since = now if changed else before.since
        state.result = AddressReachability(
            before.addr, reachability, agreeing, len(state.votes), since
        )
        state.due = now + self._jittered(state.pause)
        state.pause = min(2 * state.pause, config.recheck_max)
        if changed:
            state.due = now + self._jittered(config.recheck_min)
            state.pause = min(2 * config.recheck_min, config.recheck_max)
        self._rounds += 1
        state.round = self._rounds
        state.under_way = 0  # checks that go on belong to a round that is over
        if not state.votes:
            state.refused.clear()  # they may have learned to dial such addresses
        state.votes.clear()
        state.asked.clear()
        return state.result if changed else None

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
