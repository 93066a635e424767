"""The forwarder as a trio program sees it: started, told what to do, and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import trio

from tools.netlab.errors import LabError, plain_errors
from tools.netlab.spec.strict import to_table
from tools.netlab.spec.wire import OPERATIONS, Command, ListMappings, Stats

PROJECT = Path(__file__).resolve().parents[3]


# The kernel closes a process's pipes a moment before its exit status is there.
EXIT_TIMEOUT = 1.0
"""Seconds that the process has to end by itself."""


class ForwarderError(RuntimeError):
    """The forwarder refused a command (the message says why), or it has ended."""


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """A device was taken from the forwarder, as happens when its namespace is removed."""

    name: str
    device: str
    error: str


class ForwarderClient:
    """A running forwarder; see :func:`open_forwarder`. Commands may be given concurrently."""

    def __init__(self, process: trio.Process, on_lost: Callable[[DeviceLost], None] | None) -> None:
        self._process = process
        self._on_lost = on_lost
        self._sending = trio.Lock()
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, Mapping[str, Any]] = {}
        self._number = 0
        self._ended = False

    @property
    def pid(self) -> int:
        """The process id, for a guardian that cleans up after crashes."""
        return self._process.pid

    async def command(self, command: Command) -> Any:
        """Give a command and await that it has been done; the answer as plain JSON types.

        Raises :class:`ForwarderError`. If cancelled, the command may still be carried out. When
        the forwarder has ended it is cancelled, like all that is in the block.
        """
        self._number += 1
        number = self._number
        table = {"id": number, "op": OPERATIONS[type(command)], **to_table(command)}
        answered = self._waiting[number] = trio.Event()
        assert self._process.stdin is not None
        try:
            if self._ended:
                await self._give_up()
            try:
                # Half a line would spoil the next command, so this is not cancelled midway. A
                # command is shorter than a pipe's buffer: it cannot block for long.
                with trio.CancelScope(shield=True):
                    async with self._sending:
                        await self._process.stdin.send_all(json.dumps(table).encode() + b"\n")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it is ending: we hear of it there
            await answered.wait()
            answer = self._answers.pop(number, None)
        finally:
            del self._waiting[number]
        if answer is None:
            await self._give_up()
        if "error" in answer:
            raise ForwarderError(answer["error"])
        return answer["ok"]

    async def _give_up(self) -> NoReturn:
        await trio.lowlevel.checkpoint()  # where the block is cancelled, unless we are shielded
        raise ForwarderError("the forwarder has ended")

    async def stats(self) -> dict[str, dict[str, dict[str, int]]]:
        """By name of wire: {"ab": counters, "ba": counters, "nat": drops by reason}."""
        answer: dict[str, dict[str, dict[str, int]]] = await self.command(Stats())
        return answer

    async def mappings(self, name: str) -> list[dict[str, Any]]:
        """The live mappings of the NAT of a wire, as tables of `flows.MappingView`."""
        answer: list[dict[str, Any]] = await self.command(ListMappings(name))
        return answer

    async def _listen(self) -> None:
        """Hand out answers. Raises :class:`LabError` when the forwarder ends."""
        assert self._process.stdout is not None
        buffer = bytearray()
        try:
            async for data in self._process.stdout:
                buffer += data
                *lines, rest = buffer.split(b"\n")
                buffer = bytearray(rest)
                for line in lines:
                    self._take(json.loads(line))
            with trio.move_on_after(EXIT_TIMEOUT):
                await self._process.wait()
            raise LabError(
                f"the forwarder (process {self.pid}) has ended before the lab did, with exit "
                f"status {self._process.returncode}: all links and NATs of its are dead"
            )
        finally:
            self._ended = True
            for event in self._waiting.values():
                event.set()

    def _take(self, message: Mapping[str, Any]) -> None:
        if message.get("event") == "device-lost":
            if self._on_lost is not None:
                self._on_lost(DeviceLost(message["name"], message["device"], message["error"]))
            return
        event = self._waiting.get(message["id"])
        if event is not None:  # else whoever asked was cancelled
            self._answers[message["id"]] = message
            event.set()


@asynccontextmanager
async def open_forwarder(
    on_lost: Callable[[DeviceLost], None] | None = None,
) -> AsyncIterator[ForwarderClient]:
    """Start a forwarder; at the end it is stopped, and its devices are gone.

    `on_lost` is called when a device disappears. If the forwarder itself does, the block is
    cancelled and :class:`LabError` raised. What it writes to stderr (a bug) goes to ours.
    """
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tools.netlab.wire.forwarder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert process.stdin is not None
    client = ForwarderClient(process, on_lost)
    try:
        with plain_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client._listen)
                try:
                    yield client
                finally:
                    nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()  # which ends it
            with trio.move_on_after(5):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
