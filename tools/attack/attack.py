"""What an attack is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

ENEMY_HOST = "127.66.0.1"
"""Where the enemy comes from: a network of its own, as far as a node can tell."""


@dataclass(frozen=True, slots=True)
class Victim:
    """Where the victim can be reached, as the enemy is told."""

    tcp: str
    """A multiaddr, as the others, with the victim's ID at its end."""
    quic: str
    websocket: str
    peer_id: str
    cid: str = ""
    """Of what it publishes, if it does."""
    target: str = ""
    """The ID of the peer that has reserved at it, if it is a relay."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One way of harming a node.

    Args:
        name: what the command line calls it.
        summary: one line, in the indicative.
        run: the enemy's program. It is stopped after `seconds`, and what it holds until then it
            lets go.
        seconds: how long it goes on.
        victim: settings of the victim by dotted name, as in its configuration.
        files: RLIMIT_NOFILE of the victim; 0: as it is.
        publishes: the victim publishes something with a large manifest.
        relays: the victim is a relay, and a peer has reserved there.
        topics: the victim has subscribed to a topic, and says again what it hears there.
        calls: the victim serves calls (:mod:`tools.attack.served`).
        stores: the victim keeps records of the DHT, a document, and blocks.
        ports: the victim exposes a service to anybody, and forwards one of the enemy's.
        witness: what the honest peer does beside its echoes (:mod:`tools.attack.witnesses`).
    """

    name: str
    summary: str
    run: Callable[[Victim], Awaitable[None]]
    seconds: float = 5.0
    victim: dict[str, object] = field(default_factory=dict)
    files: int = 0
    publishes: bool = False
    relays: bool = False
    topics: bool = False
    calls: bool = False
    stores: bool = False
    ports: bool = False
    witness: str = ""
