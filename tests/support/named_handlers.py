"""Handlers that tests name, for any process to import."""

from __future__ import annotations

import os

from lattica.facades.streams.blocking import BlockingStream


def say_where(stream: BlockingStream) -> None:
    """Send the number of the process that runs it."""
    stream.send_all(str(os.getpid()).encode())
