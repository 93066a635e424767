"""An honest peer beside an attack: `python -m tools.attack.honest NAME VICTIM` (a JSON object).

It sends 8 bytes every 20 ms over TCP and over QUIC, whether the ones before have come back or not,
so that a victim that stands still for a second is late fifty times and not once.
"""

from __future__ import annotations

import json
import struct
import sys
from contextlib import AsyncExitStack

import trio

from lattica.nat.base.errors import LatticaError
from lattica.nat.mux.stream import Stream
from tools.attack.attack import Victim
from tools.attack.lines import Lines
from tools.attack.table import load
from tools.attack.victim import ECHO
from tools.attack.witnesses import WITNESSES, Witness, client

INTERVAL = 0.02
LOST_AFTER = 5.0
_NUMBER = struct.Struct(">Q")


class Echoes:
    """One stream of echoes, opened again when it is lost."""

    def __init__(self) -> None:
        self._sent: dict[int, float] = {}
        self._samples: list[float] = []
        self._lost = 0
        self._number = 0

    async def run(
        self, addr: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Echo at an address without end; started with the first echo."""
        self._task_status: trio.TaskStatus[None] | None = task_status
        while True:
            try:
                async with client() as swarm:
                    peer = await swarm.dial_text(addr)
                    async with await peer.open(ECHO) as stream, trio.open_nursery() as nursery:
                        nursery.start_soon(self._receive, stream)
                        await self._send(stream)
            except* (LatticaError, OSError):
                self._lost += 1 + len(self._sent)
                self._sent.clear()
                await trio.sleep(0.1)

    async def _send(self, stream: Stream) -> None:
        due = trio.current_time()
        while True:
            self._number += 1
            self._sent[self._number] = due
            await stream.send_all(_NUMBER.pack(self._number))
            due += INTERVAL
            await trio.sleep_until(due)

    async def _receive(self, stream: Stream) -> None:
        while True:
            (number,) = _NUMBER.unpack(await stream.receive_exactly(_NUMBER.size))
            if self._task_status is not None:
                self._task_status.started()
                self._task_status = None
            if (due := self._sent.pop(number, None)) is not None:  # else it counts as lost
                self._samples.append(trio.current_time() - due)

    def take(self) -> dict[str, object]:
        """Milliseconds of the echoes since the last call, and how many were lost."""
        now = trio.current_time()
        late = [number for number, due in self._sent.items() if now - due > LOST_AFTER]
        for number in late:
            del self._sent[number]
        samples, self._samples = self._samples, []
        lost, self._lost = self._lost + len(late), 0
        return {"ms": [round(1000 * sample, 3) for sample in samples], "lost": lost}


async def beside(victim: Victim, witness: Witness | None, lines: Lines) -> None:
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        tcp, quic = Echoes(), Echoes()
        await nursery.start(tcp.run, victim.tcp)
        await nursery.start(quic.run, victim.quic)
        if witness is not None:
            await nursery.start(witness.run, victim)
        lines.emit("ready", target="" if witness is None else witness.target)
        async for request in lines.requests():
            if request["do"] == "watch" and witness is not None:
                witness.watching = True
            seen = None if witness is None else await witness.take()
            lines.emit("noticed", tcp=tcp.take(), quic=quic.take(), witness=seen)
        nursery.cancel_scope.cancel()


def main() -> None:
    name = load(sys.argv[1]).witness
    victim = Victim(**json.loads(sys.argv[2]))
    trio.run(beside, victim, WITNESSES[name]() if name else None, Lines())


if __name__ == "__main__":
    main()
