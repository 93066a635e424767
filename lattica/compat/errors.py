"""Errors as the original's callers expect them: subclasses of `RuntimeError`."""

from __future__ import annotations

from lattica.nat.base.errors import LatticaError


class CompatError(LatticaError, RuntimeError):
    """A call failed; the text has the reason, the remote one too. `__cause__` is our own error."""


class OperationTimeout(CompatError, TimeoutError):
    """There was no result in time."""

    def __init__(self) -> None:
        super().__init__("operation timeout")
