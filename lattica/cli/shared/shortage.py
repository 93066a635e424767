"""How a command ends where the system has no memory or threads left for it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from lattica.cli.shared.common import EXIT_FAILURE, fail
from lattica.nat.base.limits.shortages import shortage_in


def end_for_want(shortage: str) -> NoReturn:
    """Say so and end the process, without what Python does at its end: that wants memory and
    threads, and where there are none it may wait for ever (grpcio's does)."""
    with suppress(OSError, ValueError, MemoryError):
        fail(shortage)
    with suppress(Exception):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, MemoryError):
            stream.flush()
    os._exit(EXIT_FAILURE)


def end_with_threads() -> None:
    """From now on a thread that ends for want of memory or threads ends the process: what waits
    for it, one of a library's for instance, would wait for ever."""
    others = threading.excepthook

    def ended(args: threading.ExceptHookArgs) -> None:
        shortage = None if args.exc_value is None else shortage_in(args.exc_value)
        if shortage is not None:
            end_for_want(shortage)
        others(args)

    threading.excepthook = ended
