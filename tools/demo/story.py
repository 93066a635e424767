"""What the demo shows: publish behind one NAT, fetch behind another."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import trio

from tools.demo import checkpoint
from tools.demo.stage import Command, DemoError, Host, Stage, last_words
from tools.netlab.lab.programs import Event
from tools.netlab.spec.theory import Expected

MB = 1_000_000
START_TIMEOUT = 180.0
"""Seconds that a command has until it is ready."""
CLOSED_WITHIN = 5.0
"""Seconds after the fetch in which the relay may say that nobody uses it any more."""
POLL = 0.1
"""Seconds."""
RELAYED = "relayed"
NO_DIRECT: dict[Expected, str] = {
    "direct": "the fetch was over before there was a direct one",
    "birthday": "the fetch was over before there was a direct one, which can take half a minute "
    "between these NATs",
    "relayed": "between these NATs there is no other",
}
SHOWN = 24
"""Characters of what is long."""


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def environment(data: Path) -> dict[str, str]:
    """Of a command that keeps its data there."""
    return {"LATTICA_DATA_DIR": str(data), "LATTICA_LOG_LEVEL": "warning"}


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


async def make(source: Path, dimensions: checkpoint.Dimensions) -> int:
    """The checkpoint; its size in bytes."""
    began = time.monotonic()
    size = await trio.to_thread.run_sync(
        checkpoint.make_checkpoint, source, dimensions, trio.from_thread.check_cancelled
    )
    say(f"made a checkpoint of {size / MB:.0f} MB in {time.monotonic() - began:.1f} s")
    return size


class Story:
    """The commands of one run, on any stage. Methods raise :class:`DemoError`."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self._stage = stage
        self._directory = directory

    async def tell(self, source: Path, size: int) -> None:
        """Publish `source` on one host, fetch it on another, and compare."""
        publisher, _ = await self._key("publisher")
        fetcher, key_file = await self._key("fetcher")
        relay, relay_addrs = await self._relay([publisher, fetcher])
        ticket = await self._publish(source, relay_addrs)
        copy = self._directory / "fetched"
        result = await self._fetch(key_file, ticket, copy)
        files, tensors = await trio.to_thread.run_sync(_judge, source, copy)
        if result["bytes_fetched"] != size:
            raise DemoError(f"{result['bytes_fetched']} bytes were fetched of {size}")
        say(f"identical: {files} files, {tensors} tensors, {size} bytes")
        say(f"path: {path_summary(result['paths'], self._stage.expected)}")
        carried = await _carried(relay)
        if carried:
            say(f"the relay carried {carried / MB:.2f} MB, encrypted from end to end")
        say(
            f"throughput: {result['mb_per_s']} MB/s ({result['seconds']} s with verification and "
            "sync to disk)"
        )

    # --- the commands ---

    async def _start(self, host: Host, *arguments: str) -> Command:
        return await self._stage.start(host, arguments, environment(self._directory / host))

    def _listen(self, host: Host) -> list[str]:
        return options("--listen", self._stage.listen.get(host, ()))

    async def _key(self, host: Host) -> tuple[str, str]:
        """A peer's ID, which the relay has to know, and the file with its key."""
        command = await self._start(host, "id", "--json")
        made = await said(command, "peer_id", "lattica id")
        await command.wait()
        say(f"{host + ':':10} lattica id  ({made['peer_id']})")
        return str(made["peer_id"]), str(made["key_file"])

    async def _relay(self, allowed: list[str]) -> tuple[Command, list[str]]:
        """The relay, and its addresses."""
        allow = options("--allow", allowed)
        say(f"relay:     lattica relay {' '.join(map(shortened, allow))}")
        arguments = ["relay", *allow, "--json", *self._listen("relay")]
        command = await self._start("relay", *arguments)
        ready = await said(command, "peer_id", "lattica relay")
        addrs = [addr for addr in ready["addrs"] if self._stage.is_reachable(addr)]
        if not addrs:
            raise DemoError(f"the relay has no address: {ready['addrs']}")
        return command, addrs

    async def _publish(self, source: Path, relay_addrs: list[str]) -> str:
        shown = shortened(relay_addrs[0])
        say(f"publisher: lattica publish {source.name} --relay {shown}")
        relays = options("--relay", relay_addrs)
        arguments = ["publish", str(source), "--json", *relays, *self._listen("publisher")]
        command = await self._start("publisher", *arguments)
        published = await said(command, "ticket", "lattica publish")
        return str(published["ticket"])

    async def _fetch(self, key_file: str, ticket: str, copy: Path) -> Event:
        """The fetch's JSON summary; what it writes meanwhile is shown."""
        name = Path(key_file).name
        say(f"fetcher:   lattica --identity {name} fetch {shortened(ticket)} -o {copy.name}")
        arguments = ["--identity", key_file, "fetch", ticket, "-o", str(copy), "--json"]
        command = await self._start("fetcher", *arguments)
        tail = Tail(command.errors)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tail.follow)
            status = await command.wait()
            nursery.cancel_scope.cancel()
        tail.show()
        if status:
            raise DemoError(f"lattica fetch ended with status {status}")
        return await command.said("bytes_fetched")


class Tail:
    """Shows what is written to a file, line by line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            self.show()
            await trio.sleep(POLL)

    def show(self) -> None:
        """What is new, in whole lines."""
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(self._offset)
            lines, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(lines) + len(newline)
        for line in lines.decode(errors="replace").splitlines():
            print(f"           {line}", flush=True)


def path_summary(steps: list[dict[str, Any]], expected: Expected) -> str:
    """The paths that were used, from the `paths` of a fetch's summary, in a line.

    `expected` is what theory says of the NATs.
    """
    if not steps:
        return "unknown"
    used = ", then ".join(f"{step['path']} after {step['after_s']:.2f} s" for step in steps)
    direct = next((step for step in steps if step["path"] != RELAYED), None)
    if direct is None:
        return f"{used}; {NO_DIRECT[expected]}"
    if steps[0]["path"] != RELAYED:
        return f"{used}: direct from the start"
    return f"{used}: {direct['after_s'] - steps[0]['after_s']:.2f} s from relayed to direct"


def options(name: str, values: Iterable[str]) -> list[str]:
    """An option that is given once for each value."""
    return [part for value in values for part in (name, value)]


def _judge(source: Path, copy: Path) -> tuple[int, int]:
    """Numbers of files and tensors, if the trees are equal."""
    files = checkpoint.compare(source, copy, trio.from_thread.check_cancelled)
    return files, checkpoint.count_tensors(copy)


async def said(command: Command, key: str, name: str) -> Event:
    """What a command says when it is ready; DemoError if that takes too long."""
    with trio.move_on_after(START_TIMEOUT):
        return await command.said(key)
    raise DemoError(f"{name} was not ready after {START_TIMEOUT:g} s{last_words(command.errors)}")


async def _carried(relay: Command) -> int:
    """How many bytes the relay has carried, in both directions, as far as it says so in time."""
    with trio.move_on_after(CLOSED_WITHIN):
        # It tells nobody else.
        while _count(relay, "circuit_opened") > _count(relay, "circuit_closed"):  # noqa: ASYNC110
            await trio.sleep(POLL)
    closed = [event for event in relay.events if event.get("event") == "circuit_closed"]
    return sum(int(one["bytes_from_source"]) + int(one["bytes_from_target"]) for one in closed)


def _count(command: Command, event: str) -> int:
    return sum(one.get("event") == event for one in command.events)
