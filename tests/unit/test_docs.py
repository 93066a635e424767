"""What the documents show works as it is written there."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from lattica.config import _schema
from lattica.errors import RemoteProtocolError
from lattica.nat.swarm.events import SwarmEvent
from lattica.nat.traversal.relay.server.events import RelayEvent
from tests.support.doubles.memory_host import memory_net
from tools import settings_reference

DOCS = Path(__file__).parents[2] / "docs"


def names_of(document: str) -> dict[str, Any]:
    """What the Python blocks of a document define."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / document).read_text(), re.M | re.S)
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    return names


def test_the_reference_of_settings_is_that_of_the_dataclasses() -> None:
    written = settings_reference.TARGET.read_text()
    assert written == settings_reference.reference(), "run: python -m tools.settings_reference"
    for name in _schema()[0]:
        assert f"`{name}`" in written
    # Each says what it is, or its group does.
    assert "see there |  |" not in written


def test_the_examples_of_configuration() -> None:
    names = names_of("operating/configuration.md")
    config, by_hand = names["config"], names["by_hand"]
    assert config.swarm == by_hand.swarm
    assert not config.nat.port_mapping.enabled
    assert names["changed"].log_level == "debug"


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
