"""For how long a peer may be silent because something else keeps its process from running.

A training step, a large `json.dumps` or an unpickling holds Python's interpreter lock for seconds,
and with it everything of ours in that process. Peers say beforehand for how long that may happen
(a field of identify), and are waited for while they may just be busy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """What a peer has asked for, in seconds from when it was last heard."""

    known: float = 0.0
    """While there is a sign that its machine is there."""
    blind: float = 0.0
    """Where only the peer itself could give one."""


NO_PATIENCE = Patience()
"""For those who have asked for none."""
