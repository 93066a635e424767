"""What a relay keeps in its file, in step with what it does: tokens and bans are read as soon as
somebody has changed them, accounts and traffic are written every few seconds.

A file that cannot be read or written (a full disk) is told in the log once, and does not stop the
relay: it goes on with what it knows, and what was not written is written when it can be.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import trio

from lattica.daemon.access.database import BanRow, Database, DatabaseError, TokenRow
from lattica.daemon.access.policy import RelayAccess
from lattica.daemon.relay.accounts import Accounts
from lattica.nat.base.errors import AddressError
from lattica.nat.base.keys.identity import PeerId, parse_peer_id
from lattica.nat.config import AccessRules
from lattica.nat.traversal.relay.server.quotas import Ledger, Whose

logger = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
"""Seconds between two looks whether somebody has changed the file."""
_WRITE_EVERY = 5.0
"""Seconds of accounts and traffic that a process which is killed loses, at most."""
_FORGET_EVERY = 3600.0
_DAY = 86_400.0


def month_of(unix_time: float) -> str:
    """The month, by UTC, such as "2026-11"."""
    return datetime.fromtimestamp(unix_time, UTC).strftime("%Y-%m")


class Keeper:
    """Keeps `ledger` and `accounts` in the file, and what the file says in `access`.

    Args:
        rules: whom the configuration keeps from connecting, beside whoever is banned.
        set_rules: has the swarm follow them.
        keep_accounts: days; None: no accounts are kept, nor what single peers have used.
        clock: gives Unix time.
    """

    def __init__(
        self,
        database: Database,
        access: RelayAccess,
        ledger: Ledger,
        accounts: Accounts,
        *,
        rules: AccessRules,
        set_rules: Callable[[AccessRules], Awaitable[None]],
        keep_accounts: float | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.access = access
        self._database = database
        self._ledger = ledger
        self._accounts = accounts
        self._rules = rules
        self._set_rules = set_rules
        self._keep_accounts = keep_accounts
        self._clock = clock
        self._version: int | None = None
        self._tokens: list[TokenRow] = []
        self._bans: list[BanRow] = []
        self._banned: frozenset[str] = frozenset()
        self.last_error = ""
        """Why the file cannot be used now; empty while it can."""

    @property
    def bans(self) -> int:
        """How many hold."""
        return len(self._banned)

    async def start(self) -> None:
        """Read all there is. Raises DatabaseError."""
        self._ledger.begin(month_of(self._clock()))
        rows = await trio.to_thread.run_sync(self._database.traffic, self._ledger.period)
        known = {each.value for each in Whose}
        self._ledger.restore((Whose(w), name, used) for w, name, used in rows if w in known)
        await self._read()

    async def run(self) -> None:
        """Until cancelled; then :meth:`finish` is to be called."""
        written = forgot = -_FORGET_EVERY
        while True:
            now = trio.current_time()
            try:
                await self._look()
                if now - written >= _WRITE_EVERY:
                    written = now
                    await self._write()
                if now - forgot >= _FORGET_EVERY and self._keep_accounts is not None:
                    forgot = now
                    oldest = int(self._clock() - self._keep_accounts * _DAY)
                    await trio.to_thread.run_sync(self._database.forget_accounts, oldest)
                self._note("")
            except DatabaseError as error:
                self._note(str(error))
            await trio.sleep(_LOOK_EVERY)

    async def finish(self) -> None:
        """Write what is not written yet."""
        with trio.CancelScope(shield=True):
            try:
                await self._write()
            except DatabaseError as error:
                self._note(str(error))

    def _note(self, error: str) -> None:
        if error and not self.last_error:
            logger.error("%s; the relay goes on with what it knows", error)
        elif self.last_error and not error:
            logger.info("the relay's file can be used again")
        self.last_error = error

    async def _look(self) -> None:
        """What has changed in the file, and what time has."""
        version = await trio.to_thread.run_sync(lambda: self._database.version)
        if version != self._version:
            await self._read()
        else:
            await self._follow_bans()

    async def _read(self) -> None:
        database = self._database
        self._version = await trio.to_thread.run_sync(lambda: database.version)
        self._tokens = await trio.to_thread.run_sync(database.tokens)
        self._bans = await trio.to_thread.run_sync(database.bans)
        self.access.set_tokens(self._tokens)
        await self._follow_bans()

    def hand_over(self, access: RelayAccess) -> None:
        """From now on it is `access` that is told what the file says."""
        self.access = access
        access.set_tokens(self._tokens)
        access.set_bans(self._banned_peers())

    def _banned_peers(self) -> list[PeerId]:
        return [parse_peer_id(what) for what in self._banned if not is_network(what)]

    async def set_rules(self, rules: AccessRules) -> None:
        """What the configuration says of whom to connect has changed."""
        if rules != self._rules:
            self._rules = rules
            await self._apply_rules()

    async def _follow_bans(self) -> None:
        now = self._clock()
        banned = frozenset(b.what for b in self._bans if not b.not_after or now < b.not_after)
        if banned == self._banned:
            return
        self._banned = banned
        self.access.set_bans(self._banned_peers())
        await self._apply_rules()

    async def _apply_rules(self) -> None:
        rules, banned = self._rules, self._banned
        networks = [what for what in banned if is_network(what)]
        peers = [what for what in banned if not is_network(what)]
        await self._set_rules(
            replace(
                rules,
                deny_peers=(*rules.deny_peers, *peers),
                deny_networks=(*rules.deny_networks, *networks),
            )
        )

    async def _write(self) -> None:
        """What has changed. Raises DatabaseError; then nothing is lost."""
        is_new = self._ledger.begin(month_of(self._clock()))
        changed = self._ledger.take_changed()
        rows = self._accounts.take()
        if self._keep_accounts is None:
            changed, rows = [row for row in changed if row[0] is Whose.TOTAL], []
        traffic = [(whose.value, name, used) for whose, name, used in changed]
        try:
            if traffic or is_new:
                write = partial(self._database.set_traffic, self._ledger.period, traffic)
                await trio.to_thread.run_sync(write)
            if rows:
                await trio.to_thread.run_sync(self._database.add_accounts, rows)
        except DatabaseError:
            self._ledger.put_back(changed)
            self._accounts.put_back(rows)
            raise


def is_network(what: str) -> bool:
    """Whether a ban is of a network, and not of a peer."""
    return "." in what or ":" in what


def parse_ban(text: str) -> str:
    """A peer's ID, an IP address or a network, as bans name it.

    Raises:
        AddressError: it is none.
    """
    if not is_network(text):
        return str(parse_peer_id(text))
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise AddressError(
            f"neither a peer ID nor a network like 192.0.2.0/24: {text!r:.100}"
        ) from None
