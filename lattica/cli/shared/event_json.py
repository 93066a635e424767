"""Events as JSON objects, for `--json`: one a line, and nobody waits for who reads them."""

from __future__ import annotations

import dataclasses
import errno
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from lattica.cli.shared.terminal import output_errors
from lattica.line_writer import LineWriter
from lattica.nat.base.printable import json_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from lattica.daemon.api.pb import node_pb2 as pb
    from lattica.nat.swarm.events import EventStream
    from lattica.node import Node


logger = logging.getLogger(__name__)


def event_object(event: DataclassInstance) -> dict[str, object]:
    """`{"event": "peer_connected", …}`: the class's name, and its fields as JSON values."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(event).__name__).lower()
    values = {f.name: _json_value(getattr(event, f.name)) for f in dataclasses.fields(event)}
    return {"event": name, **values}


def ready_object(node: Node | pb.NodeStatus, **more: object) -> dict[str, object]:
    """The event that says who a node is and where it can be reached, and what else there is."""
    addrs = [str(addr) for addr in node.addrs]
    return {"event": "ready", "peer_id": str(node.peer_id), "addrs": addrs, **more}


class EventOutput:
    """Writes events to standard output; made by :func:`event_output`.

    A reader that stalls stops nothing: events wait in a bounded queue, then are dropped, and when
    it is back an `events_lost` in their place says how many. A full disk is taken the same way, and
    logged. Each method raises :class:`BrokenPipeError` when nobody can read any more.
    """

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def write(self, event: DataclassInstance) -> None:
        """Write one event."""
        self.write_object(event_object(event))

    def write_ready(self, node: Node | pb.NodeStatus, **more: object) -> None:
        """Say, as the first event, who the node is and where it can be reached, and what else
        there is to say."""
        self.write_object(ready_object(node, **more))

    def write_object(self, value: dict[str, object]) -> None:
        """Write an event that is an object already."""
        with output_errors():
            self._writer.write(json_text(value))

    async def write_all(self, events: EventStream) -> None:
        """Write what happens from the node's start on, but what :meth:`write_ready` has said."""
        from lattica.nat.swarm.events import ListeningOn

        async for event in events:
            if not isinstance(event, ListeningOn):
                self.write(event)


@contextmanager
def event_output(as_json: bool) -> Iterator[EventOutput | None]:
    """Write events to standard output, or none; at the end, what waits has a second to be read."""
    if not as_json:
        yield None
        return
    sys.stdout.flush()
    writer = LineWriter(sys.stdout.fileno(), _lost, refused=_refused)
    try:
        yield EventOutput(writer)
    finally:
        writer.close()


def _refused(error: OSError) -> None:
    logger.warning(
        "standard output takes no events: %s; they are dropped and counted until it does",
        "the disk is full" if error.errno == errno.ENOSPC else error.strerror,
    )


def _lost(count: int) -> str:
    from lattica.nat.swarm.events import EventsLost

    return json_text(event_object(EventsLost(count)))


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
