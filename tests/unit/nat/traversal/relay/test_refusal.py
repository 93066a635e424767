"""What a relay's refusals say to who is refused."""

from __future__ import annotations

import pytest

from lattica.nat.base.keys.identity import Identity
from lattica.nat.traversal.relay.messages import Status
from lattica.nat.traversal.relay.refusal import connect_refused, reserve_refused


@pytest.mark.parametrize("refused", [connect_refused, reserve_refused])
def test_who_is_not_allowed_is_told_of_all_that_may_decide(refused) -> None:
    """A relay does not say which: it was called an allow-list where a service had refused."""
    error = refused(Identity.generate().peer_id, Status.PERMISSION_DENIED)
    assert all(word in str(error) for word in ("allow-list", "token", "service"))
    assert error.status is Status.PERMISSION_DENIED
