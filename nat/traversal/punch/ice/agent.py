"""An ICE agent (RFC 8445): finds a pair of addresses that datagrams go through. Pure.

One stream with one component over sockets that are there already; candidates are known when it
starts. It differs from the RFC where two nodes of ours can do better:

* checks are repeated faster (see :class:`IceConfig`), since both sides start at the same time;
* strangers are not answered, not even with an error;
* an answer from an address that was not asked is ignored instead of failing the pair: whoever
  sees an answer could repeat it from elsewhere;
* once a pair is chosen there is no consent to renew (RFC 7675): what comes over it, QUIC, has
  its own ways of noticing that nobody is there.

The caller feeds it datagrams and time, and takes datagrams and events from it; `next_timer`
changes with each of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.traversal.punch.ice.candidates import (
    Candidate,
    TargetPolicy,
    peer_reflexive_priority,
)
from lattica.nat.traversal.punch.ice.config import IceConfig
from lattica.nat.traversal.punch.ice.pairs import Checklist, Pair, PairState
from lattica.nat.traversal.punch.ice.stun import (
    ROLE_CONFLICT,
    TRANSACTION_ID,
    CheckRequest,
    CheckResponse,
    check,
    is_authentic,
    parse,
    role_conflict,
    success,
)

_TIE_BREAKER = 8


@dataclass(frozen=True, slots=True)
class Credentials:
    """Username fragment and password of one side (RFC 8445, section 5.3)."""

    ufrag: str
    password: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A datagram to be sent from socket number `base`."""

    base: int
    destination: tuple[str, int]
    data: bytes


@dataclass(frozen=True, slots=True)
class PairValid:
    """Datagrams go both ways between a socket and an address of the peer's."""

    base: int
    remote: tuple[str, int]
    mapped: tuple[str, int]
    """Where the peer sees the socket."""


@dataclass(frozen=True, slots=True)
class Nominated:
    """The pair that both sides use from now on. The agent only answers checks henceforth."""

    base: int
    remote: tuple[str, int]


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no pair; the agent does nothing more."""

    reason: str


IceEvent: TypeAlias = PairValid | Nominated | Failed


@dataclass(slots=True)
class _Transaction:
    pair: Pair
    request: bytes
    controlling: bool
    nominates: bool
    timeout: float
    due: float
    """When it is to be repeated, or is given up."""
    left: int


class IceAgent:
    """One attempt. `clock` is in seconds; `random_bytes` must not be guessable.

    Args:
        local: candidates of this node, with the numbers of their sockets.
        remote: candidates of the peer that may be tried (:meth:`TargetPolicy.choose`).
        own, peer: what checks are authenticated with.
        controlling: this side chooses the pair.
        may_send: whether one more datagram may go to a host; counts it. What may not is as lost.
    """

    def __init__(
        self,
        local: Sequence[Candidate],
        remote: Sequence[Candidate],
        *,
        own: Credentials,
        peer: Credentials,
        controlling: bool,
        policy: TargetPolicy,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        config: IceConfig,
        may_send: Callable[[str], bool] | None = None,
    ) -> None:
        self.controlling = controlling
        self._pairs = Checklist(local, remote, controlling=controlling)
        self._own = own
        self._peer = peer
        self._policy = policy
        self._clock = clock
        self._random = random_bytes
        self._config = config
        self._may_send = may_send
        self._tie_breaker = self._new_tie_breaker()
        self._transactions: dict[bytes, _Transaction] = {}
        self._nominating: _Transaction | None = None
        self._outgoing: list[Outgoing] = []
        self._events: list[IceEvent] = []
        self._sent = 0
        self._withheld = 0
        self._heard = 0
        self._started_at: float | None = None
        self._pace_at = 0.0
        self._valid_at: float | None = None
        self._nominated: Pair | None = None
        self._over = False

    def _new_tie_breaker(self) -> int:
        return int.from_bytes(self._random(_TIE_BREAKER), "big")

    # --- input ---

    def start(self) -> None:
        """Begin to send checks. Those of the peer are answered even before."""
        if self._started_at is None:
            self._started_at = self._pace_at = self._clock()
            self._advance()

    def receive(self, datagram: bytes, base: int, source: tuple[str, int]) -> None:
        """Take a datagram that came to socket `base`; what is not for this agent is ignored."""
        if self._over:
            return
        try:
            message = parse(datagram)
        except RemoteProtocolError:
            return
        if isinstance(message, CheckRequest):
            self._on_request(message, base, source)
        else:
            self._on_response(message, base, source)
        self._advance()

    def on_timer(self) -> None:
        """Do what is due."""
        self._advance()

    def owns(self, transaction: bytes) -> bool:
        """Whether an answer with this transaction ID would be to a check of this agent."""
        return transaction in self._transactions

    # --- output ---

    def datagrams_to_send(self) -> list[Outgoing]:
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def events(self) -> list[IceEvent]:
        events, self._events = self._events, []
        return events

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` is to be called; None if nothing will be due by itself."""
        if self._is_idle or self._started_at is None:
            return None
        config = self._config
        due = [self._started_at + config.timeout]
        waits = self._nominating is None and self._pairs.count(PairState.WAITING)
        sending = [transaction.due for transaction in self._transactions.values()]
        if waits:
            sending.append(self._pace_at)
        if sending:
            due.append(max(self._pace_at, min(sending)))
        can_choose = self._nominating is None and self._pairs.count(PairState.SUCCEEDED)
        if self.controlling and can_choose and self._valid_at is not None:
            due.append(self._valid_at + config.nomination_wait)
        if not self._is_hopeful:
            due.append(self._started_at + config.patience)
        return min(due)

    # --- time ---

    @property
    def _is_idle(self) -> bool:
        return self._over or self._nominated is not None

    @property
    def _is_hopeful(self) -> bool:
        """Some pair may yet work, or does."""
        return self._pairs.count(PairState.FAILED) < len(self._pairs)

    def _advance(self) -> None:
        if self._is_idle or self._started_at is None:
            return
        now = self._clock()
        self._give_up(now)
        self._consider_nomination(now)
        elapsed = now - self._started_at
        limit = self._config.timeout if self._is_hopeful else self._config.patience
        if elapsed >= min(limit, self._config.timeout):
            self._fail(self._why())
        elif now >= self._pace_at and self._send_check(now):
            self._pace_at = now + self._config.pacing

    def _give_up(self, now: float) -> None:
        """End the checks that were repeated often enough."""
        for key, transaction in list(self._transactions.items()):
            if transaction.due <= now and not transaction.left:
                del self._transactions[key]
                self._check_failed(transaction)

    def _check_failed(self, transaction: _Transaction) -> None:
        transaction.pair.state = PairState.FAILED
        if transaction is self._nominating:
            self._nominating = None

    def _why(self) -> str:
        if not len(self._pairs):
            return "the peer has no UDP address that may be tried from here"
        tried = f"{len(self._pairs)} address{'es' * (len(self._pairs) > 1)}"
        if self._valid_at is not None:
            return f"a way was found, but not agreed on ({tried} tried)"
        if self._heard:
            return f"the peer's packets arrive, ours do not ({tried} tried)"
        if self._withheld and not self._sent:
            return "the budget of datagrams to this address, or to all, is spent for now"
        return f"no answer over UDP ({tried} tried)"

    def _fail(self, reason: str) -> None:
        self._over = True
        self._transactions.clear()
        self._events.append(Failed(reason))

    # --- sending checks ---

    def _send_check(self, now: float) -> bool:
        """Send the check that is due first, one at most."""
        if self._sent >= self._config.max_datagrams:
            self._fail(f"gave up after {self._sent} packets")
            return False
        repeat = min(self._transactions.values(), key=lambda t: t.due, default=None)
        if repeat is not None and repeat.due > now:
            repeat = None
        pair = None
        if self._nominating is None:
            pair = self._pairs.next_triggered()
            if pair is None and repeat is None:
                pair = self._pairs.next_waiting()
        if pair is not None:
            self._begin(pair, now, nominates=False)
        elif repeat is not None:
            self._transmit(repeat, now)
        else:
            return False
        return True

    def _begin(self, pair: Pair, now: float, *, nominates: bool) -> _Transaction:
        config = self._config
        key = self._random(TRANSACTION_ID)
        busy = self._pairs.count(PairState.WAITING, PairState.IN_PROGRESS)
        transaction = self._transactions[key] = _Transaction(
            pair,
            check(
                key,
                username=f"{self._peer.ufrag}:{self._own.ufrag}",
                password=self._peer.password,
                priority=peer_reflexive_priority(pair.local),
                controlling=self.controlling,
                tie_breaker=self._tie_breaker,
                use_candidate=nominates,
            ),
            self.controlling,
            nominates,
            max(config.first_timeout, config.pacing * busy),
            now,
            config.transmissions,
        )
        pair.state = PairState.IN_PROGRESS
        self._transmit(transaction, now)
        return transaction

    def _transmit(self, transaction: _Transaction, now: float) -> None:
        transaction.left -= 1
        transaction.due = now + transaction.timeout
        longest = max(transaction.timeout, self._config.longest_timeout)
        transaction.timeout = min(2 * transaction.timeout, longest)
        pair = transaction.pair
        self._send(pair.base, pair.remote.address, transaction.request)

    def _send(self, base: int, destination: tuple[str, int], data: bytes) -> None:
        if self._may_send is not None and not self._may_send(destination[0]):
            self._withheld += 1
            return
        self._sent += 1
        self._outgoing.append(Outgoing(base, destination, data))

    # --- the peer's checks ---

    def _on_request(self, request: CheckRequest, base: int, source: tuple[str, int]) -> None:
        if request.username != f"{self._own.ufrag}:{self._peer.ufrag}":
            return
        if not is_authentic(request, self._own.password) or not self._policy.may_answer(source[0]):
            return
        if self._sent >= self._config.max_datagrams:
            return
        self._heard += 1
        if not self._settle_roles(request, base, source):
            return
        answer = success(request.transaction, seen=source, password=self._own.password)
        self._send(base, source, answer)
        if self._is_idle:
            return
        pair = self._pairs.learn(base, source, request.priority)
        if pair is None:
            return
        if request.use_candidate and not self.controlling:
            pair.chosen_by_peer = True
        if pair.state is PairState.SUCCEEDED:
            if pair.chosen_by_peer:
                self._nominate(pair)
        elif pair.state is PairState.IN_PROGRESS:
            self._repeat_now(pair)
        else:
            self._pairs.trigger(pair)

    def _settle_roles(self, request: CheckRequest, base: int, source: tuple[str, int]) -> bool:
        """Section 7.3.1.1; False if the peer has to change its role."""
        if request.controlling is not self.controlling:
            return True
        ours_is_larger = self._tie_breaker >= request.tie_breaker
        if ours_is_larger is self.controlling:  # the larger one controls
            refusal = role_conflict(request.transaction, password=self._own.password)
            self._send(base, source, refusal)
            return False
        self._switch_role()
        return True

    def _switch_role(self) -> None:
        self.controlling = not self.controlling
        self._nominating = None
        self._pairs.sort(controlling=self.controlling)

    def _repeat_now(self, pair: Pair) -> None:
        """The peer's packets arrive: its NAT lets ours in by now, if it has kept them out."""
        now = self._clock()
        for transaction in self._transactions.values():
            if transaction.pair is pair and transaction.left:
                transaction.due = min(transaction.due, now)

    # --- answers to ours ---

    def _on_response(self, response: CheckResponse, base: int, source: tuple[str, int]) -> None:
        transaction = self._transactions.get(response.transaction)
        if (
            transaction is None
            or transaction.pair.base != base
            or transaction.pair.remote.address != source
            or not is_authentic(response, self._peer.password)
        ):
            return
        del self._transactions[response.transaction]
        pair = transaction.pair
        if response.error == ROLE_CONFLICT:
            if transaction is self._nominating:
                self._nominating = None
            if transaction.controlling is self.controlling:
                self._switch_role()
                self._tie_breaker = self._new_tie_breaker()
            self._pairs.trigger(pair)
            return
        if response.mapped is None:
            self._check_failed(transaction)
            return
        pair.state = PairState.SUCCEEDED
        if self._valid_at is None:
            self._valid_at = self._clock()
        self._events.append(PairValid(pair.base, pair.remote.address, response.mapped))
        if pair.chosen_by_peer if not self.controlling else transaction is self._nominating:
            self._nominate(pair)

    # --- choosing a pair ---

    def _consider_nomination(self, now: float) -> None:
        """Regular nomination (section 8.1.1), of the best pair after a short wait."""
        if not self.controlling or self._nominating is not None or self._valid_at is None:
            return
        best: Pair | None = None
        better_may_come = False
        for pair in sorted(self._pairs, key=lambda pair: -pair.priority(True)):
            if pair.state is PairState.SUCCEEDED:
                best = pair
                break
            better_may_come = better_may_come or pair.state is not PairState.FAILED
        if best is None:
            return
        if better_may_come and now < self._valid_at + self._config.nomination_wait:
            return
        self._nominating = self._begin(best, now, nominates=True)
        self._pace_at = now + self._config.pacing

    def _nominate(self, pair: Pair) -> None:
        self._nominated = pair
        self._transactions.clear()
        self._events.append(Nominated(pair.base, pair.remote.address))
