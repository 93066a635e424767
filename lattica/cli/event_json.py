"""Events as JSON objects, for `--json`."""

from __future__ import annotations

import dataclasses
import json
import re
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from lattica.nat.swarm.events import EventStream
    from lattica.node import Node


def event_object(event: DataclassInstance) -> dict[str, object]:
    """`{"event": "peer_connected", …}`: the class's name, and its fields as JSON values."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(event).__name__).lower()
    values = {f.name: _json_value(getattr(event, f.name)) for f in dataclasses.fields(event)}
    return {"event": name, **values}


def print_ready(node: Node) -> None:
    """Say, as the first event, who the node is and where it can be reached."""
    addrs = [str(addr) for addr in node.addrs]
    ready = {"event": "ready", "peer_id": str(node.peer_id), "addrs": addrs}
    print(json.dumps(ready), flush=True)


async def print_events(events: EventStream) -> None:
    """Write what happens from the node's start on, but what :func:`print_ready` has said."""
    from lattica.nat.swarm.events import ListeningOn

    async for event in events:
        if not isinstance(event, ListeningOn):
            print_event(event)


def print_event(event: DataclassInstance) -> None:
    """Write it to standard output, on a line of its own."""
    print(json.dumps(event_object(event)), flush=True)


def _json_value(value: object) -> object:
    if isinstance(value, IntEnum):  # the numbers are for wires
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Enum):
        return _json_value(value.value)
    if isinstance(value, tuple):
        return [_json_value(item) for item in value]
    return str(value)
