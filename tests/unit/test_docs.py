"""What the documents show works as it is written there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lattica.errors import RemoteProtocolError
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
