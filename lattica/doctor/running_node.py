"""What the node that runs here says of itself, judged. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lattica.doctor.findings import Finding, State

TOPIC = "node that runs"
_FULL = 0.9
"""Part of a limit from which on it is as good as reached."""


def examine_running(status: Mapping[str, Any], version: str) -> tuple[Finding, ...]:
    """Findings about a node, from `NodeStatus` as JSON; `version` is that of the command."""
    peers = status["peers"]
    relayed = [peer for peer in peers if peer["path"] == "relayed"]
    whom = f"process {status['pid']}, version {status['version']}"
    found = []
    if status["bootstrap"] and not peers:
        found.append(
            Finding(
                TOPIC,
                State.BAD,
                f"A node runs here ({whom}) and is connected to nobody, not even to one of its "
                f"{len(status['bootstrap'])} bootstrap peers.",
                "Its log says why each cannot be reached; the network of this machine, or their "
                "addresses, may have changed.",
            )
        )
    else:
        count = "1 peer" if len(peers) == 1 else f"{len(peers)} peers"
        found.append(
            Finding(
                TOPIC,
                State.OK,
                f"A node runs here ({whom}) with {count}, {len(relayed)} of them through relays.",
                "`lattica paths` says why there is no direct path to those." if relayed else "",
            )
        )
    if status["version"] != version:
        found.append(
            Finding(
                TOPIC,
                State.WARN,
                f"It is of version {status['version']}, this command of {version}.",
                "Restart it.",
            )
        )
    if status["announcing"]:
        reasons = "; ".join(status["announcing"])
        found.append(Finding(TOPIC, State.WARN, f"It has not found out all addresses: {reasons}."))
    dht = status["dht"]
    if dht is not None and dht["storage"] not in ("disk", "memory"):
        found.append(
            Finding(
                TOPIC,
                State.BAD,
                f"Its records of the DHT are not written: {dht['storage']}.",
                "Make room, or let it write to its data directory.",
            )
        )
    relay = status["relay"]
    for name in ("reservations", "circuits") if relay is not None else ():
        used, most = relay[name], relay[f"max_{name}"]
        if most and used >= _FULL * most:
            found.append(
                Finding(
                    TOPIC,
                    State.WARN,
                    f"It relays {used} of at most {most} {name}: others are turned away soon.",
                    f"Raise `nat.relay_server.limits.max_{name}`, or run another relay.",
                )
            )
    return tuple(found)


def unusable(reason: str) -> Finding:
    """There is something where a node should listen, and it cannot be asked."""
    return Finding(
        TOPIC,
        State.BAD,
        f"The node that runs here cannot be asked: {reason}.",
        "Restart it; if another user has made its socket, remove that.",
    )
