"""What a relay keeps in its file, and what it does where that fails."""

from __future__ import annotations

import sqlite3
import stat
from types import SimpleNamespace

import pytest
import trio

from lattica.daemon.access.database import AccountRow, BanRow, Database, DatabaseError, TokenRow
from lattica.daemon.access.policy import RelayAccess
from lattica.daemon.relay.accounts import Accounts
from lattica.daemon.relay.keeper import Keeper, month_of, parse_ban
from lattica.errors import AddressError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.config import AccessRules
from lattica.nat.traversal.relay.messages import Status
from lattica.nat.traversal.relay.server.access import Denial, Lists, Standing
from lattica.nat.traversal.relay.server.events import (
    CircuitClosed,
    CircuitOpened,
    Refused,
    ReservationMade,
)
from lattica.nat.traversal.relay.server.quotas import Ledger, Quotas, Whose

RELAY, ALICE, BOB = (Identity.generate().peer_id for _ in range(3))
NOVEMBER, DECEMBER = 1_795_000_000.0, 1_796_500_000.0


class Relay:
    """What a keeper is told, and tells."""

    def __init__(self, path, now: float = NOVEMBER, keep_accounts: float | None = 1000.0) -> None:
        self.now = now
        self.database = Database(path)
        self.access = RelayAccess(
            RELAY, "token", Lists((), strangers=False), strangers=False, clock=lambda: self.now
        )
        self.ledger = Ledger(Quotas(month_total=1000))
        self.accounts = Accounts(lambda: self.now)
        self.rules: list[AccessRules] = []
        self.keeper = Keeper(
            self.database,
            self.access,
            self.ledger,
            self.accounts,
            rules=AccessRules(deny_networks=("10.0.0.0/8",)),
            set_rules=self.set_rules,
            keep_accounts=keep_accounts,
            clock=lambda: self.now,
        )

    async def set_rules(self, rules: AccessRules) -> None:
        await trio.lowlevel.checkpoint()
        self.rules.append(rules)


def token(peer=ALICE) -> TokenRow:
    return TokenRow("00" * 8, str(peer), "alice", 1, 0, 0, 0, 0)


def test_the_file_is_for_nobody_else(tmp_path):
    path = tmp_path / "new" / "relay.sqlite"
    Database(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_none_is_said_so(tmp_path):
    path = tmp_path / "relay.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(DatabaseError, match=f"{path}.* it is damaged; restore it from a backup"):
        Database(path)
    with pytest.raises(DatabaseError, match="directory"):
        Database(tmp_path)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    """SQLite says "disk I/O error", when it has no room for what it keeps beside the file."""
    database = Database(tmp_path / "relay.sqlite")
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    for free, words in ((0, "the disk is full"), (1 << 30, "disk I/O error$")):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(
            "lattica.daemon.access.database.shutil.disk_usage", lambda _, u=usage: u
        )
        with pytest.raises(DatabaseError, match=words), database._errors():
            raise error
    database.close()


async def test_what_others_write_is_followed(tmp_path):
    relay = Relay(tmp_path / "file")
    await relay.keeper.start()
    assert isinstance(relay.access.standing(ALICE), Denial)
    other = Database(tmp_path / "file")
    other.add_token(token())
    other.add_ban(BanRow(str(BOB), "", 1, 0))
    other.add_ban(BanRow("192.0.2.0/24", "", 1, int(NOVEMBER) + 60))
    await relay.keeper._look()
    assert isinstance(relay.access.standing(ALICE), Standing)
    assert relay.rules == [
        AccessRules(deny_networks=("10.0.0.0/8", "192.0.2.0/24"), deny_peers=(str(BOB),))
    ]
    relay.now += 60
    await relay.keeper._look()
    assert relay.rules[-1].deny_networks == ("10.0.0.0/8",)
    assert other.revoke(["00" * 8], 5) == 1
    assert other.revoke(["00" * 8], 6) == 0
    await relay.keeper._look()
    assert isinstance(relay.access.standing(ALICE), Denial)


async def test_a_restart_keeps_everything(tmp_path):
    relay = Relay(tmp_path / "file")
    await relay.keeper.start()
    relay.database.add_token(token())
    relay.database.add_ban(BanRow(str(BOB), "", 1, 0))
    relay.ledger.restore([(Whose.TOTAL, "", 77)])
    relay.ledger.total.changed = True
    for event in (
        ReservationMade(ALICE, 60.0, False),
        ReservationMade(ALICE, 60.0, True),
        CircuitOpened(BOB, ALICE),
        CircuitClosed(BOB, ALICE, 10, 20, 1.0, ""),
        Refused(BOB, None, Status.PERMISSION_DENIED, "", "access"),
    ):
        relay.accounts.on_event(event)
    await relay.keeper.finish()
    relay.database.close()

    again = Relay(tmp_path / "file")
    await again.keeper.start()
    assert again.ledger.total.used == 77
    assert isinstance(again.access.standing(ALICE), Standing)
    assert again.rules[-1].deny_peers == (str(BOB),)
    now = int(NOVEMBER)
    assert {row.peer: row for row in again.database.accounts()} == {
        str(ALICE): AccountRow(str(ALICE), now, now, 1, 1, 0, 20, 10),
        str(BOB): AccountRow(str(BOB), now, now, 0, 1, 1, 10, 20),
    }
    assert again.database.forget_accounts(now + 1) == 2


async def test_a_month_begins_anew(tmp_path):
    relay = Relay(tmp_path / "file")
    await relay.keeper.start()
    relay.ledger.total.used, relay.ledger.total.changed = 500, True
    await relay.keeper._write()
    assert relay.database.traffic("2026-11") == [("total", "", 500)]
    relay.now = DECEMBER
    await relay.keeper._write()
    assert relay.ledger.total.used == 0
    assert relay.database.traffic("2026-11") == []
    assert month_of(DECEMBER) == "2026-12"


async def test_a_full_disk_loses_nothing_of_what_is_counted(tmp_path, monkeypatch):
    relay = Relay(tmp_path / "file")
    await relay.keeper.start()
    relay.accounts.on_event(CircuitClosed(BOB, ALICE, 10, 20, 1.0, ""))
    relay.ledger.total.used, relay.ledger.total.changed = 30, True
    (pages,) = relay.database._connection.execute("PRAGMA page_count").fetchone()
    relay.database._connection.execute(f"PRAGMA max_page_count={pages}")
    big = AccountRow("x" * 100_000, 1, 1)
    with pytest.raises(DatabaseError, match="full"):
        relay.database.add_accounts([big])
    with monkeypatch.context() as patch:
        patch.setattr(Database, "set_traffic", _full)
        with pytest.raises(DatabaseError):
            await relay.keeper._write()
        await relay.keeper.finish()
        assert "full" in relay.keeper.last_error
    await relay.keeper._write()
    assert relay.database.traffic("2026-11") == [("total", "", 30)]
    assert sum(row.bytes_sent for row in relay.database.accounts()) == 30


def _full(*_):
    raise DatabaseError("the disk is full")


async def test_without_accounts_nothing_is_kept_of_single_peers(tmp_path):
    relay = Relay(tmp_path / "file", keep_accounts=None)
    await relay.keeper.start()
    relay.accounts.on_event(CircuitClosed(BOB, ALICE, 10, 20, 1.0, ""))
    relay.ledger.of_peer(str(ALICE)).changed = relay.ledger.total.changed = True
    await relay.keeper._write()
    assert relay.database.accounts() == []
    assert relay.database.traffic("2026-11") == [("total", "", 0)]


def test_bans_are_of_peers_and_networks():
    assert parse_ban(str(ALICE)) == str(ALICE)
    assert parse_ban("192.0.2.7/24") == "192.0.2.0/24"
    assert parse_ban("2001:db8::1") == "2001:db8::1/128"
    for wrong in ("", "alice", "192.0.2.0/33", "::/x"):
        with pytest.raises(AddressError):
            parse_ban(wrong)
