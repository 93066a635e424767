"""What a relay's refusals say to who is refused."""

from __future__ import annotations

import pytest

from lattica.nat.base.keys.identity import Identity
from lattica.nat.traversal.relay.messages import HopStatus, Status
from lattica.nat.traversal.relay.refusal import connect_refused, reserve_refused
from lattica.nat.traversal.relay.token import Token, seal_token

RELAY, PEER = Identity.generate(), Identity.generate().peer_id
NOW = 1_800_000_000
"""2027-01-15 08:00:00 UTC."""


@pytest.fixture(params=[connect_refused, reserve_refused])
def refused(request):
    """What is said where something is not allowed, to who has shown a token that ends."""

    def say(*, clock: int | None, ends: int | None = None, wall: float = NOW):
        token = (
            b"" if ends is None else seal_token(RELAY, Token(RELAY.peer_id, PEER, "00" * 8, ends))
        )
        answer = HopStatus(Status.PERMISSION_DENIED, clock=clock)
        error = request.param(RELAY.peer_id, answer, token, wall)
        assert error.status is Status.PERMISSION_DENIED
        return str(error)

    return say


def test_who_is_not_allowed_is_told_of_all_that_may_decide(refused) -> None:
    """A relay does not say which: it was called an allow-list where a service had refused."""
    for clock in (None, NOW):
        assert all(word in refused(clock=clock) for word in ("allow-list", "token", "service"))
        assert "clock" not in refused(clock=clock)


def test_a_token_has_run_out_by_a_false_clock(refused) -> None:
    text = refused(clock=NOW + 7200, ends=NOW + 3600)
    assert "token ran out at 2027-01-15 09:00:00 UTC" in text
    assert "the relay's clock says it is 2027-01-15 10:00:00 UTC" in text
    assert "this machine's 2027-01-15 08:00:00 UTC: one of the two is wrong" in text


def test_a_token_has_run_out_by_both_clocks(refused) -> None:
    text = refused(clock=NOW, ends=NOW)
    assert "the relay's clock says it is 2027-01-15 08:00:00 UTC" in text
    assert "wrong" not in text


@pytest.mark.parametrize("ends", [None, 0, NOW + 9999])
def test_a_false_clock_is_told_where_the_token_is_the_relays_secret(refused, ends) -> None:
    """It serves who cannot show a token by its own list of them, and that runs out, too."""
    text = refused(clock=NOW + 7200, ends=ends)
    assert "by which tokens run out, says it is 2027-01-15 10:00:00 UTC" in text
    assert "one of the two is wrong" in text


def test_a_clock_beyond_all_dates(refused) -> None:
    assert f"{2**64 - 1} s after 1970" in refused(clock=2**64 - 1)
