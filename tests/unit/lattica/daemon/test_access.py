"""Who is served in each mode of access; bans, tokens, and the operator's own service."""

from __future__ import annotations

import json

import pytest
import trio

from lattica.daemon.access import policy
from lattica.daemon.access.database import TokenRow
from lattica.daemon.access.http import read_answer
from lattica.daemon.access.policy import Answer, NoAnswerError, RelayAccess
from lattica.daemon.access.secrets import read_secret
from lattica.errors import ConfigError
from lattica.nat.base.checks import FieldError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.traversal.relay.server.access import ALLOWED, STRANGER, Denial, Standing, lists_of
from lattica.nat.traversal.relay.server.limits import RelayLimits, RelayServerConfig
from lattica.nat.traversal.relay.token import Token, seal_token

RELAY = Identity.generate()
ALICE, BOB, CAROL = (Identity.generate().peer_id for _ in range(3))


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Service:
    """The operator's; counts how often it is asked."""

    def __init__(self, answer: Answer | NoAnswerError) -> None:
        self.answer = answer
        self.asked = 0

    async def __call__(self, peer, ip):
        self.asked += 1
        await trio.sleep(0.1)
        if isinstance(self.answer, NoAnswerError):
            raise self.answer
        return self.answer


def access(mode: str, *, ask=None, clock=None, strangers=False, allow=(), deny=()) -> RelayAccess:
    config = RelayServerConfig(
        access=mode,
        allow_peers=tuple(map(str, allow)),
        deny_peers=tuple(map(str, deny)),
        limits=RelayLimits(open_to_strangers=strangers),
    )
    return RelayAccess(
        RELAY.peer_id, mode, lists_of(config), strangers=strangers, ask=ask, clock=clock or Clock()
    )


def row(peer=ALICE, token_id="00" * 8, **fields) -> TokenRow:
    defaults = {"not_after": 0, "rate": 1, "month": 2, "circuits": 3, "revoked": 0}
    return TokenRow(token_id, str(peer), "", 1, **{**defaults, **fields})


def served(rules: RelayAccess, peer) -> bool:
    return isinstance(rules.standing(peer), Standing)


@pytest.mark.parametrize(
    ("mode", "listed", "denied", "other"),
    [
        ("everyone", ALLOWED, None, STRANGER),
        ("allow", ALLOWED, None, None),
        ("deny", ALLOWED, None, STRANGER),
        ("token", ALLOWED, None, None),
        ("http", ALLOWED, None, None),
    ],
)
def test_modes(mode, listed, denied, other):
    rules = access(mode, allow=[ALICE], deny=[BOB])
    for peer, expected in ((ALICE, listed), (BOB, denied), (CAROL, other)):
        found = rules.standing(peer)
        assert isinstance(found, Denial) if expected is None else found == expected
    rules.set_bans([ALICE])
    banned = rules.standing(ALICE)
    assert isinstance(banned, Denial)
    assert banned.limit == "ban"


def test_modes_that_contradict_are_refused():
    with pytest.raises(FieldError, match="access"):
        RelayServerConfig(access="allow", limits=RelayLimits(open_to_strangers=True))
    with pytest.raises(FieldError, match="everyone, allow, deny, token, http"):
        RelayServerConfig(access="anybody")
    with pytest.raises(FieldError, match="deny_peers"):
        RelayServerConfig(allow_peers=(str(ALICE),), deny_peers=(str(ALICE),))


async def test_a_token_is_of_use_to_its_peer_while_it_holds():
    clock = Clock()
    rules = access("token", clock=clock)
    token = Token(RELAY.peer_id, ALICE, "11" * 8, int(clock.now) + 10, 5, 6, 7)
    data = seal_token(RELAY, token)
    await rules.learn(BOB, data, None)
    assert not served(rules, BOB)
    await rules.learn(ALICE, data, None)
    assert rules.standing(ALICE) == Standing(False, 5, 6, 7)
    clock.now += 10
    assert not served(rules, ALICE)
    await rules.learn(ALICE, data, None)
    assert not served(rules, ALICE)


@pytest.mark.parametrize("is_shown", [True, False])
async def test_why_a_token_holds_no_more_names_the_clock_that_says_so(is_shown):
    clock = Clock()
    rules = access("token", clock=clock)
    ends = int(clock.now) - 3600
    if is_shown:
        token = Token(RELAY.peer_id, ALICE, "11" * 8, ends)
        await rules.learn(ALICE, seal_token(RELAY, token), None)
    else:
        rules.set_tokens([row(ALICE, not_after=ends)])
    found = rules.standing(ALICE)
    assert isinstance(found, Denial)
    assert "ran out at 2027-01-15 07:00:00 UTC" in found.reason
    assert "this machine's clock says 2027-01-15 08:00:00 UTC" in found.reason
    unknown = rules.standing(BOB)
    assert isinstance(unknown, Denial)
    assert "clock" not in unknown.reason


async def test_a_token_that_has_run_out_takes_no_other_ones_place():
    clock = Clock()
    rules = access("token", clock=clock)
    for name, ends in (("11", -1), ("22", 60), ("33", -1)):
        token = Token(RELAY.peer_id, ALICE, name * 8, int(clock.now) + ends)
        await rules.learn(ALICE, seal_token(RELAY, token), None)
        assert served(rules, ALICE) is (name != "11")


async def test_a_token_of_another_relay_or_damaged_or_revoked_is_none():
    other = Identity.generate()
    rules = access("token")
    mine = seal_token(RELAY, Token(RELAY.peer_id, ALICE, "11" * 8))
    rules.set_tokens([row(token_id="11" * 8, revoked=5)])
    for data in (seal_token(other, Token(other.peer_id, ALICE, "22" * 8)), b"x", mine[:-1], mine):
        await rules.learn(ALICE, data, None)
        assert not served(rules, ALICE)


async def test_a_token_that_was_shown_ends_when_it_is_revoked():
    rules = access("token")
    await rules.learn(ALICE, seal_token(RELAY, Token(RELAY.peer_id, ALICE, "11" * 8)), None)
    assert served(rules, ALICE)
    rules.set_tokens([row(token_id="11" * 8, revoked=5)])
    assert not served(rules, ALICE)


def test_who_has_the_key_of_a_token_need_not_show_it():
    rules = access("token")
    rules.set_tokens([row(ALICE)])
    assert rules.standing(ALICE) == Standing(False, 1, 2, 3)
    assert not served(rules, BOB)


def test_tokens_count_for_nothing_beside_an_allow_list():
    rules = access("allow", allow=[BOB])
    rules.set_tokens([row(ALICE)])
    assert not served(rules, ALICE)


async def test_the_service_is_asked_once_and_again_when_its_answer_has_run_out(autojump_clock):
    clock = Clock()
    service = Service(Answer(Standing(False, 9), 60.0))
    rules = access("http", ask=service, clock=clock)
    assert not served(rules, ALICE)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(rules.learn, ALICE, b"", None)
    assert service.asked == 1
    assert rules.standing(ALICE) == Standing(False, 9)
    clock.now += 59
    await rules.learn(ALICE, b"", None)
    assert service.asked == 1
    clock.now += 2
    await rules.learn(ALICE, b"", None)
    assert service.asked == 2


async def test_a_silent_service_lets_in_whom_it_knew_and_nobody_else(autojump_clock, caplog):
    clock = Clock()
    service = Service(Answer(Standing(False), 60.0))
    rules = access("http", ask=service, clock=clock)
    await rules.learn(ALICE, b"", None)
    service.answer = NoAnswerError("it is down")
    clock.now += 61
    for peer in (ALICE, BOB, BOB):
        await rules.learn(peer, b"", None)
    assert service.asked == 3  # not twice about Bob
    assert served(rules, ALICE)
    denial = rules.standing(BOB)
    assert isinstance(denial, Denial)
    assert denial.reason == "it is down"
    clock.now += policy.STALE_FOR
    await rules.learn(ALICE, b"", None)
    assert not served(rules, ALICE)
    [told] = [record.getMessage() for record in caplog.records]  # and not of each question
    assert "it is down" in told
    assert rules.trouble == "it is down"
    service.answer = Answer(Standing(False), 60.0)
    clock.now += policy.RETRY_AFTER
    await rules.learn(ALICE, b"", None)
    assert not rules.trouble


async def test_the_service_is_not_asked_about_the_lists():
    service = Service(NoAnswerError(""))
    rules = access("http", ask=service, allow=[ALICE], deny=[BOB])
    rules.set_bans([CAROL])
    for peer in (ALICE, BOB, CAROL):
        await rules.learn(peer, b"", None)
    assert service.asked == 0


def test_answers():
    assert read_answer(b'{"allow": true}', 7.0) == Answer(Standing(False), 7.0)
    full = {"allow": True, "ttl": 60, "stranger": True, "rate": 1, "month": 2, "circuits": 3}
    assert read_answer(json.dumps(full).encode(), 7.0) == Answer(Standing(True, 1, 2, 3), 60)
    no = read_answer(b'{"allow": false, "reason": "unpaid", "ttl": 1e9}', 7.0)
    assert no == Answer(Denial("unpaid", "http"), 86_400.0)


@pytest.mark.parametrize(
    "data",
    [b"", b"yes", b"[]", b'{"allow": 1}', b'{"allow": true, "rate": -1}',
     b'{"allow": true, "ttl": "x"}',
     b'{"allow": true, "circuits": true}', b'{"allow": true, "month": 1.5}', b"[" * 9000,
     b" " * 20_000,
     b'{"allow": true, "ttl": NaN}', b'{"allow": true, "stranger": 0}', b"\xff"],
)  # fmt: skip
def test_what_is_no_answer(data):
    with pytest.raises(NoAnswerError):
        read_answer(data, 7.0)


def test_secrets(tmp_path):
    file = tmp_path / "secret"
    file.write_text("from a file\n")
    file.chmod(0o600)
    environment = {"TOKEN": "from the environment", "PATH": "/usr/bin:/bin"}

    def read(text: str) -> str:
        return read_secret("relay.service.secret", text, environment, tmp_path)

    assert read("itself") == "itself"
    assert read("") == ""
    assert read("env:TOKEN") == "from the environment"
    assert read("file:secret") == "from a file"
    assert read("command:printf 'from a %s' command") == "from a command"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("env:NONE", "no such variable"), ("file:none", "No such file"), ("file:open", "mode 0644"),
     ("command:false", "status 1"), ("command:no-such-program", "No such file"),
     ("command:true", "empty"), ("command:printf 'a\\nb'", "not one line"),
     ("command:head -c 5000 /dev/zero", "more than")],
)  # fmt: skip
def test_secrets_that_cannot_be_read(tmp_path, text, reason):
    file = tmp_path / "open"
    file.write_text("hush")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"relay\.service\.secret") as caught:
        read_secret("relay.service.secret", text, {"PATH": "/usr/bin:/bin"}, tmp_path)
    assert reason in str(caught.value)
    assert "hush" not in str(caught.value)
