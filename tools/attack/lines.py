"""JSON lines between a child of the attack tool and the runner; a child ends with its stdin."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator

import trio

Message = dict[str, object]


class Lines:
    """The runner's side of this process, seen from inside."""

    def __init__(self) -> None:
        # Libraries may print; only our own lines may reach the runner.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def emit(self, event: str, **fields: object) -> None:
        self._out.write(json.dumps({"event": event, **fields}) + "\n")
        self._out.flush()

    async def requests(self) -> AsyncIterator[Message]:
        """What the runner sends, until it ends our stdin."""
        rest = b""
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            while data := await stdin.receive_some():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    yield json.loads(line)
