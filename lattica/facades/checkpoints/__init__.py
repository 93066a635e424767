"""Checkpoints of torch.distributed over the mesh; torch is imported with these names."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.facades.checkpoints.reader import LatticaReader
    from lattica.facades.checkpoints.writer import LatticaWriter

__all__ = ["LatticaReader", "LatticaWriter"]

_HOME = {"LatticaReader": "reader", "LatticaWriter": "writer"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
