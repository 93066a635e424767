"""Errors of the system that are no answer: it has no descriptors, memory or threads left just now.

Whoever asks whether something is there must not take them for "no".
"""

from __future__ import annotations

import errno
from typing import Final

from lattica.nat.base.concurrency.exception_groups import leaves

_SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def is_shortage(error: OSError) -> bool:
    """Whether the system can do this only not now, for want of descriptors or memory."""
    return error.errno in _SHORTAGES


def raise_shortage(error: OSError) -> None:
    """Raise again what is no answer."""
    if is_shortage(error):
        raise error


def explain_shortage(error: OSError) -> str:
    """What the system says, and the limit that has been reached where that is known."""
    if error.errno != errno.EMFILE:
        return str(error)
    import resource  # not everywhere

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"{error}; the limit of {soft} open files a process is reached (`ulimit -n` raises it)"


def shortage_in(error: BaseException) -> str | None:
    """What to tell where the system has no memory, threads or descriptors left for this process;
    None if that is not why it failed."""
    for leaf in leaves(error):
        no_thread = isinstance(leaf, RuntimeError) and "can't start new thread" in str(leaf)
        if isinstance(leaf, MemoryError) or no_thread:
            return (
                "there is no memory left, or no more of it than this process may have (ulimit -v, "
                "MemoryMax= of systemd, the limit of a container)"
            )
        if isinstance(leaf, OSError) and is_shortage(leaf):
            return explain_shortage(leaf)
        if leaf.__cause__ is not None and (found := shortage_in(leaf.__cause__)) is not None:
            return found  # trio's internal errors have what went wrong as their cause
    return None
