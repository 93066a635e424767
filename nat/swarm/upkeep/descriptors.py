"""How many connections the descriptors of this process allow."""

from __future__ import annotations

import logging
import os
import resource
from contextlib import suppress
from dataclasses import replace

from lattica.nat.config import Limits

logger = logging.getLogger(__name__)

_MOST = 1 << 20
"""More than this nobody needs, and some programs close every descriptor that there could be."""
_RESERVE = 64
_RESERVED_SHARE = 8
"""One in so many, and :data:`_RESERVE` at least, stays free for files and for dials."""
_FEW = 64
"""With fewer connections a node or relay is of little use, and its log warns."""
_PENDING_SHARE = 4
"""One in so many of the others may be a connection whose handshake is under way."""


def raise_limit() -> int:
    """Raise the process's soft limit of descriptors to the hard one; return what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # a container may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else soft


def in_use() -> int:
    """Descriptors that this process has open; 0 where that cannot be known."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def fitted_limits(limits: Limits, descriptors: int, used: int) -> Limits:
    """The limits, lowered to what a process with so many descriptors can keep.

    A reserve for files and dials is left, and what is `used` already is not counted upon.
    """
    free = descriptors - used - max(_RESERVE, descriptors // _RESERVED_SHARE)
    pending = max(1, free // _PENDING_SHARE)
    return replace(
        limits,
        max_connections=min(limits.max_connections, max(1, free - pending)),
        max_pending_inbound=min(limits.max_pending_inbound, pending),
    )


def fitting(limits: Limits, descriptors: int, used: int) -> Limits:
    """As :func:`fitted_limits`; the log says so if they were lowered."""
    fitted = fitted_limits(limits, descriptors, used)
    if fitted != limits:
        few = fitted.max_connections < _FEW
        logger.log(
            logging.WARNING if few else logging.INFO,
            "connections are limited to %d, and handshakes to %d: this process may have %d files "
            "open; raise that (ulimit -n, LimitNOFILE=) for more",
            fitted.max_connections,
            fitted.max_pending_inbound,
            descriptors,
        )
    return fitted
