"""What the documents show works as it is written there."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from lattica.errors import RemoteProtocolError
from lattica.nat.swarm.events import SwarmEvent
from lattica.nat.traversal.relay.server.events import RelayEvent
from tests.support.doubles.memory_host import memory_net

DOCS = Path(__file__).parents[2] / "docs"


def names_of(document: str) -> dict[str, Any]:
    """What the Python blocks of a document define."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / document).read_text(), re.M | re.S)
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    return names


async def test_the_worked_example_of_a_protocol(tmp_path: Path) -> None:
    example = names_of("architecture.md")
    async with memory_net() as net:
        server, client = net.host(), net.host()
        example["RoomService"](server, tmp_path)
        free = await example["ask_room"](client, server.peer_id)
    assert 0 < free <= shutil.disk_usage(tmp_path).total
    with pytest.raises(RemoteProtocolError):
        example["decode_answer"](b"1234567")


def test_all_events_are_in_the_tables_with_their_fields() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)\(([^)]*)\)` \|", (DOCS / "nat.md").read_text(), re.M)
    documented = {name: fields.split(", ") for name, fields in rows}
    assert documented == {
        event.__name__: [field.name for field in dataclasses.fields(event)]
        for event in (*get_args(SwarmEvent), *get_args(RelayEvent))
    }
