"""How the garbage collector runs in processes of ours that are a node and little else."""

from __future__ import annotations

import gc
from typing import Final

_LOOKS: Final = 100
"""Collections of the middle generation before all objects are looked through; Python has 10."""


def spare_collector() -> None:
    """Have the collector seldom look through all objects, in which time nobody has a turn.

    It takes 0.1 s with those of the thousands of calls that strangers may have under way, and finds
    next to nothing: what has ended is freed without it. For entry points, once all is loaded: that
    stays, and is not looked at again. A program that has a node in it decides for itself.
    """
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _LOOKS)
