"""Whether and when a failed call is made again. Pure; in words in `docs/rpc.md`."""

from __future__ import annotations

import random
from typing import Final

from lattica.nat.base.limits.backoff import pause_after
from lattica.rpc.client.options import MAX_ATTEMPTS
from lattica.rpc.errors import RpcError, StatusCode

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
_SHARE: Final = 0.1
_BURST: Final = 10.0
_TRANSIENT: Final = frozenset(
    {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.ABORTED}
)


class RetryBudget:
    """Retries are a tenth of the calls at most, after the first ten."""

    __slots__ = ("tokens",)

    def __init__(self) -> None:
        self.tokens = _BURST

    def called(self) -> None:
        """A call was made that is no retry."""
        if self.tokens < _BURST:
            self.tokens = min(_BURST, self.tokens + _SHARE)

    def take(self) -> bool:
        """Whether another attempt may be made; it then counts."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def pause_before(
    error: RpcError,
    attempt: int,
    *,
    idempotent: bool,
    elsewhere: bool,
    retries: int,
    budget: RetryBudget,
    rng: random.Random,
) -> float | None:
    """Seconds to wait before attempt number `attempt` + 1; None: the error stands.

    `elsewhere` says that the next attempt would be with another provider.
    """
    if attempt >= min(retries + 1, MAX_ATTEMPTS):
        return None
    pushed_back = error.retry_after is not None and not error.may_have_run
    if error.may_have_run:
        if not idempotent or error.code not in _TRANSIENT:
            return None
    elif not (pushed_back or (error.code is StatusCode.UNAVAILABLE and (idempotent or elsewhere))):
        return None
    if not budget.take():
        return None
    if elsewhere and not error.may_have_run:
        return 0.0
    pause = pause_after(attempt, FIRST_PAUSE, LONGEST_PAUSE, rng)
    return pause if error.retry_after is None else max(error.retry_after * rng.uniform(1, 1.2), 0.0)
