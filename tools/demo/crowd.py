"""The second scene: eight fetch the same from one whose uplink is thin, and help each other.

One of them is killed as it fetches, and takes it up again; one more says that it has everything,
and sends wrong bytes. Every byte of all copies is compared.
"""

from __future__ import annotations

import hashlib
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tools.demo import liar
from tools.demo.homes import NoLabError, open_stage
from tools.demo.stage import Command, DemoError, Loopback, Stage, last_words, open_loopback
from tools.demo.story import MB, environment, options, said, say, shortened
from tools.netlab.lab.programs import Event
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.topology import Host, Link

SIZE = 16 * MB
"""Bytes of the file."""
UPLINK = 2 * MB
"""Bytes a second that its publisher can send."""
TIMEOUT = 300.0
"""Seconds for all of it."""
_DELAY = 0.010
_KILLED_FROM = 10
"""Percent."""
_SHOWN_EVERY = 2.0
_POLL = 0.1


def scenario(names: Sequence[str]) -> Scenario:
    """A publisher with a thin line, and the others at the same internet."""
    line = LinkSpec(delay_s=_DELAY, rate_bps=8 * UPLINK)
    hosts = (Host("publisher", link=Link(line, line)), Host("liar"), *map(Host, names))
    return Scenario(name="crowd", hosts=hosts)


@asynccontextmanager
async def open_crowd(names: Sequence[str]) -> AsyncIterator[Stage]:
    """The stage in a lab. NoLabError if it cannot be had; DemoError if it breaks later."""
    addr = ("/ip4/0.0.0.0/tcp/4001",)
    listen = dict.fromkeys(("publisher", "liar", *names), addr)
    async with open_stage(scenario(names), "direct", listen) as stage:
        yield stage


@dataclass(slots=True)
class _Consumer:
    name: str
    command: Command
    result: Event | None = None

    @property
    def percent(self) -> int:
        """What it says itself, every two seconds."""
        if self.result is not None:
            return 100
        found = re.findall(r"\((\d+)%\)", written(self.command))
        return int(found[-1]) if found else 0


def written(command: Command) -> str:
    """What it has written to standard error."""
    return command.errors.read_text(errors="replace") if command.errors.exists() else ""


class Crowd:
    """The scene on any stage. Raises :class:`DemoError`."""

    def __init__(self, stage: Stage, directory: Path, names: Sequence[str]) -> None:
        self._stage = stage
        self._directory = directory
        self._names = names
        self._consumers: dict[str, _Consumer] = {}
        self._all_done = trio.Event()

    async def tell(self) -> None:
        """All of it."""
        source = self._directory / "shard.bin"
        data = random.Random(15).randbytes(SIZE)
        await trio.Path(source).write_bytes(data)
        digest = hashlib.sha256(data).digest()
        say(f"publisher: lattica publish {source.name}  ({UPLINK / MB:g} MB/s uplink)")
        publisher = await self._start("publisher", ["publish", str(source), "--json", *self._slow])
        published = await said(publisher, "ticket", "lattica publish")
        villain = await self._start(
            "liar", [str(source), published["ticket"]], program=(sys.executable, liar.__file__)
        )
        lying = (await said(villain, "peer_id", "the liar"))["peer_id"]
        say(f"liar:      says that it has everything  ({lying})")
        count = len(self._names)
        say(f"consumers: {count} times lattica fetch {shortened(published['ticket'])}")
        began = time.monotonic()
        with trio.move_on_after(TIMEOUT) as scope:
            async with trio.open_nursery() as nursery:
                for name in self._names:
                    nursery.start_soon(self._fetch, name, published["ticket"])
                while not self._all_done.is_set():
                    await self._show()
        if scope.cancelled_caught:
            raise DemoError(f"{count - len(self._done)} of {count} were not done in {TIMEOUT:g} s")
        took = time.monotonic() - began
        for name in self._names:
            copy = self._directory / name / "out" / source.name
            if hashlib.sha256(await trio.Path(copy).read_bytes()).digest() != digest:
                raise DemoError(f"the copy of {name} is not what was published")
        self._report(str(published["peer_id"]), str(lying), took)

    def _report(self, publisher: str, lying: str, took: float) -> None:
        sources = [source for one in self._done for source in one["sources"]]
        from_publisher = sum(one["bytes"] for one in sources if one["peer_id"] == publisher)
        if any(one["peer_id"] == lying for one in sources):
            raise DemoError("something that the liar has sent was used")
        caught = sum(
            f"asking {lying} for nothing more" in written(one.command)
            for one in self._consumers.values()
        )
        count = len(self._names)
        say(f"identical: {count} copies of {SIZE / MB:g} MB")
        say(f"liar:      caught by {caught} of {count}, nothing of it was used")
        helped = sum(one["bytes"] for one in sources) - from_publisher
        kept = count * SIZE - from_publisher - helped
        say(
            f"uplink:    {from_publisher / SIZE:.2f} times the file came from the publisher, "
            f"{helped / SIZE:.2f} times from other consumers; {kept / SIZE:.2f} times it was there "
            "when the killed one came back, from whom is not counted"
        )
        say(f"time:      {took:.1f} s; one alone needs {SIZE / UPLINK:.0f} s")

    @property
    def _done(self) -> list[Event]:
        return [one.result for one in self._consumers.values() if one.result is not None]

    @property
    def _slow(self) -> list[str]:
        """Where there is no line that is thin."""
        is_local = isinstance(self._stage, Loopback)
        return ["--max-rate", str(UPLINK / MB)] if is_local else []

    async def _start(
        self, name: str, arguments: Sequence[str], program: Sequence[str] = ()
    ) -> Command:
        env = environment(self._directory / name)
        listen = self._stage.listen.get(name, ("/ip4/127.0.0.1/tcp/0",))
        if program:
            return await self._stage.start(name, [*arguments, *listen], env, program)
        arguments = [*arguments, *options("--listen", listen)]
        return await self._stage.start(name, arguments, env)

    async def _fetch(self, name: str, ticket: str) -> None:
        arguments = ["fetch", ticket, "-o", str(self._directory / name / "out"), "--json"]
        consumer = _Consumer(name, await self._start(name, arguments))
        self._consumers[name] = consumer
        if name == self._names[-1]:
            while not consumer.percent >= _KILLED_FROM:
                if any("bytes_fetched" in event for event in consumer.command.events):
                    break
                await trio.sleep(_POLL)
            else:
                consumer.command.kill()
                await consumer.command.wait()
                say(f"{name}:        killed at {consumer.percent}%, and started again")
                consumer.command = await self._start(name, arguments)
        consumer.result = await consumer.command.said("bytes_fetched")
        if status := await consumer.command.wait():
            words = last_words(consumer.command.errors)
            raise DemoError(f"lattica fetch of {name} ended with status {status}{words}")
        if len(self._done) == len(self._names):
            self._all_done.set()

    async def _show(self) -> None:
        """What everyone has."""
        with trio.move_on_after(_SHOWN_EVERY):
            await self._all_done.wait()
        shown = (f"{name} {one.percent:3}%" for name, one in sorted(self._consumers.items()))
        print(f"           {'  '.join(shown)}", flush=True)


async def play_crowd(count: int, directory: Path, *, in_lab: bool) -> None:
    """The scene with so many, if any, on loopback if there is no lab."""
    if not count:
        return
    names = [f"c{number}" for number in range(1, count + 1)]
    folder = directory / "crowd"
    folder.mkdir()
    if in_lab:
        try:
            async with open_crowd(names) as stage:
                await Crowd(stage, folder, names).tell()
            return
        except NoLabError as error:
            say(f"on loopback, without lines: {error}")
    async with open_loopback(folder) as stage:
        await Crowd(stage, folder, names).tell()
