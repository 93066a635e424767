"""Whom a relay serves: lists, bans, tokens, and what the operator's own service says. No I/O but
the question to that service, which is handed in."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import trio

from lattica.daemon.access.database import TokenRow
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId, parse_peer_id
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.printable import utc_text
from lattica.nat.traversal.relay.server.access import ALLOWED, Denial, Lists, Standing
from lattica.nat.traversal.relay.token import Token, open_token

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_KNOWN = 20_000
"""Peers whose token, or about whom an answer, is remembered; others are asked again."""
STALE_FOR = 3600.0
"""Seconds that an answer which has run out still counts while the operator's service is silent."""
RETRY_AFTER = 5.0
"""Seconds in which a service that has failed is not asked again about the same peer."""

_REST = 60.0
"""Seconds between two warnings of a silent service."""

_NO_TOKEN = Denial("the peer has shown no token of this relay that holds")
_UNKNOWN = Denial("the operator's service has not said that the peer is to be served", "http")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the operator's service says of a peer."""

    verdict: Standing | Denial
    lifetime: float
    """Seconds in which it need not be asked again."""


class NoAnswerError(Exception):
    """The operator's service cannot be asked, or gives no answer that is one."""


Ask = Callable[[PeerId, IpAddress | None], Awaitable[Answer]]
"""Asks the operator's service; raises :class:`NoAnswerError`."""


@dataclass(frozen=True, slots=True)
class _Known:
    verdict: Standing | Denial
    fresh_until: float
    usable_until: float


class RelayAccess:
    """What a relay's books ask (:class:`lattica.nat.traversal.relay.server.access.Access`).

    Args:
        relay: this relay, whose tokens count.
        mode: one of `ACCESS_MODES`; see there.
        lists: the allow- and deny-lists, and what others are in modes that say no more of them.
        ask: for the mode `http`.
        clock: gives Unix time.
    """

    def __init__(
        self,
        relay: PeerId,
        mode: str,
        lists: Lists,
        *,
        strangers: bool,
        ask: Ask | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._relay = relay
        self._mode = mode
        self._lists = lists
        self._strangers = strangers
        self._ask = ask
        self._clock = clock
        self._banned: frozenset[PeerId] = frozenset()
        self._given: dict[PeerId, list[Token]] = {}
        self._revoked: frozenset[str] = frozenset()
        self._shown: OrderedDict[PeerId, Token] = OrderedDict()
        """Tokens of which there is no record."""
        self._known: OrderedDict[PeerId, _Known] = OrderedDict()
        self._asking: dict[PeerId, trio.Event] = {}
        self.trouble = ""
        """Why the service has not answered when it was asked last; empty: it has."""
        self._is_told = False
        self._told_at = -math.inf

    @property
    def takes_tokens(self) -> bool:
        """A token changes something: not with an allow-list, nor where a service is asked."""
        return self._mode in ("everyone", "deny", "token")

    def set_bans(self, banned: Iterable[PeerId]) -> None:
        self._banned = frozenset(banned)

    def set_tokens(self, rows: Iterable[TokenRow]) -> None:
        """Those that were given. Whoever has the key that one names is served though it cannot show
        it, as clients of other implementations cannot."""
        self._given = {}
        revoked = set()
        for row in rows:
            if row.revoked:
                revoked.add(row.id)
                continue
            peer = parse_peer_id(row.peer)
            token = Token(
                self._relay, peer, row.id, row.not_after, row.rate, row.month, row.circuits
            )
            self._given.setdefault(peer, []).append(token)
        self._revoked = frozenset(revoked)

    # --- what the books ask ---

    def standing(self, peer: PeerId) -> Standing | Denial:
        if peer in self._banned:
            return Denial("the peer is banned", "ban")
        listed = self._lists.standing(peer)
        if listed is ALLOWED or self._lists.denies(peer):
            return listed
        if self.takes_tokens and (token := self._token_of(peer)) is not None:
            return Standing(False, token.rate, token.month, token.circuits)
        if self._mode == "http":
            known = self._known.get(peer)
            if known is not None and self._clock() < known.usable_until:
                return known.verdict
            return listed if self._strangers else _UNKNOWN
        if self._mode == "token" and isinstance(listed, Denial):
            return self._no_token(peer)
        return listed

    def _no_token(self, peer: PeerId) -> Denial:
        """Why a peer has no token that holds: whoever reads the log sees when it ran out, and what
        clock says so."""
        shown = self._shown.get(peer)
        had = [*self._given.get(peer, ()), *([] if shown is None else [shown])]
        ends = max((token.not_after for token in had if token.id not in self._revoked), default=0)
        if not ends:
            return _NO_TOKEN
        when, now = utc_text(ends), utc_text(self._clock())
        return Denial(f"the peer's token ran out at {when}; this machine's clock says {now}")

    def _token_of(self, peer: PeerId) -> Token | None:
        """One that holds: what it has shown, or of several the one given last."""
        now = self._clock()
        shown = self._shown.get(peer)
        if shown is not None and self._holds(shown, now):
            return shown
        for token in reversed(self._given.get(peer, ())):
            if self._holds(token, now):
                return token
        return None

    def _holds(self, token: Token, now: float) -> bool:
        return token.id not in self._revoked and (not token.not_after or now < token.not_after)

    async def learn(self, peer: PeerId, token: bytes, ip: IpAddress | None) -> None:
        if token and self.takes_tokens:
            self._take(peer, token)
        is_settled = peer in self._banned or self._lists.denies(peer)
        if self._mode != "http" or is_settled or self._lists.standing(peer) is ALLOWED:
            await trio.lowlevel.checkpoint()
        else:
            await self._inquire(peer, ip)

    def _take(self, peer: PeerId, data: bytes) -> None:
        try:
            token = open_token(data)
        except RemoteProtocolError:
            return  # it is as good as none
        if token.relay != self._relay or token.peer != peer:
            return
        if peer not in self._shown or self._holds(token, self._clock()):
            _remember(self._shown, peer, token)

    async def _inquire(self, peer: PeerId, ip: IpAddress | None) -> None:
        """Ask the service, once for all who want to know the same at one time."""
        while (known := self._known.get(peer)) is None or self._clock() >= known.fresh_until:
            if (pending := self._asking.get(peer)) is not None:
                await pending.wait()
                continue
            assert self._ask is not None
            done = self._asking[peer] = trio.Event()
            try:
                answer = await self._ask(peer, ip)
                self._note_service("")
                until = self._clock() + answer.lifetime
                _remember(self._known, peer, _Known(answer.verdict, until, until + STALE_FOR))
            except NoAnswerError as error:
                self._note_service(str(error))
                now = self._clock()
                verdict: Standing | Denial = Denial(f"{error}", "http")
                usable = now + RETRY_AFTER
                if known is not None and now < known.usable_until:
                    verdict, usable = known.verdict, known.usable_until
                _remember(self._known, peer, _Known(verdict, now + RETRY_AFTER, usable))
            finally:
                del self._asking[peer]
                done.set()
        await trio.lowlevel.checkpoint()

    def _note_service(self, trouble: str) -> None:
        """Tell the operator when the service falls silent, and when it is back: not of each peer,
        nor more than once a minute of one that answers now and then."""
        now = self._clock()
        if trouble and not self._is_told and now >= self._told_at + _REST:
            self._is_told, self._told_at = True, now
            logger.warning(
                "nobody says who is to be served: %s; peers that were allowed are served for %g "
                "minutes more, and others not",
                trouble,
                STALE_FOR / 60,
            )
        elif self._is_told and not trouble:
            self._is_told = False
            logger.info("the operator's service says again who is to be served")
        self.trouble = trouble


def _remember(table: OrderedDict[PeerId, T], peer: PeerId, value: T) -> None:
    table[peer] = value
    table.move_to_end(peer)
    if len(table) > MAX_KNOWN:
        table.popitem(last=False)
