"""Errors of the system that are no answer: it has no descriptors or memory left just now.

Whoever asks whether something is there must not take them for "no".
"""

from __future__ import annotations

import errno
from typing import Final

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
