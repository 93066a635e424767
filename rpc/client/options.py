"""How calls are to be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from lattica.nat.base.checks import check_count
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc.encoding import compression

MAX_ATTEMPTS: Final = 5
"""Of a call, the first one counted."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a caller asks for besides the method and its arguments."""

    timeout: float | None = None
    """Seconds for all of it, retries included; None: what `rpc.call_timeout` says for unary calls,
    and no limit for streaming ones. `math.inf` is no limit."""
    attempt_timeout: float | None = None
    """Seconds for one attempt; None: all that is left. A call that may not be made again then ends
    with it."""
    adaptive_timeout: bool = False
    """Bound an attempt by what the method has taken so far: the median, and four times the median
    deviation from it."""
    metadata: Mapping[str, Any] | None = None
    """Plain values by name, for the handler's context; 8 KiB in all."""
    retries: int = MAX_ATTEMPTS - 1
    """How often a call is tried again at most, where that is allowed: its method is marked
    idempotent, or it has certainly not run."""
    hedge_after: float | None = None
    """Seconds after which an idempotent call is also made to another provider (or again to the same
    peer); the first answer counts."""
    compression: Literal["zstd", "lz4"] | None = None
    """Of arguments and results above 1 KiB, over the data plane."""
    out: Any = None
    """An array or tensor, or several, for the arrays of the result to be received into; None among
    several is for a part that is none."""

    def __post_init__(self) -> None:
        for name in ("timeout", "attempt_timeout", "hedge_after"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value >= 0):
                raise LocalProtocolError(f"{name} is a number of seconds, not {value!r}")
        if self.compression is not None:
            compression.check(self.compression)
        check_count("retries", self.retries, 0)
        if self.retries >= MAX_ATTEMPTS:
            raise LocalProtocolError(f"retries are 0 to {MAX_ATTEMPTS - 1}, not {self.retries!r}")

    @property
    def is_simple(self) -> bool:
        """Whether a call is sent once, as it is, and waited for."""
        return (
            self.hedge_after is None
            and self.attempt_timeout is None
            and not self.adaptive_timeout
            and self.compression is None
            and self.out is None
        )

    def changed(self, changes: Mapping[str, Any]) -> CallOptions:
        """With some of them otherwise. Raises TypeError for what is no option."""
        return replace(self, **changes) if changes else self


DEFAULT: Final = CallOptions()
