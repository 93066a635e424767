"""Stores that meet, part, write, give and take rights, contradict themselves, prune and begin anew,
over streams: whoever may have the document and talks to the others has what they have in the end.

`python -m tests.property.crdt.test_stories FIRST COUNT` goes through more of them, each of which is
made of its number.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lattica.crdt.access.capability import Level
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Mode, Recovery
from lattica.crdt.entries.header import Kind
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.types.payloads import RegisterWrite
from lattica.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.documents import sign_next
from tests.support.crdt.folders import memory_folder
from tests.unit.crdt.store.test_store import host_of, stores

STORES, MOST_STEPS, MOST_FORKS = 4, 40, 3
OFTEN = {"write": 5, "meet": 3, "part": 3, "wait": 3, "prune": 2}
SELDOM = ["grant", "revoke", "contradict", "appoint", "begin_again"]
KEY = Identity(bytes([9]) * 32)
"""Appoints owners."""
PATIENCE = 1800
"""Virtual seconds in which all have come to the same."""


def seen(document: SharedDocument) -> tuple[object, ...]:
    try:
        return document.root, document.heads(), dict(document.registers.items())
    except AccessDeniedError:  # it is sealed, and no key has come here
        return (document.heads(),)


class Story:
    """One of them, by its number."""

    def __init__(self, number: int) -> None:
        self.rng = random.Random(number)
        self.mode = self.rng.choice([Mode.OPEN, Mode.ALLOW_LIST, Mode.CAPABILITY])
        self.forks = 0

    async def tell(self, folder: Path) -> None:
        async with stores(folder) as self.net:
            await self.begin()
            often = [name for name, times in OFTEN.items() for _ in range(times)]
            for _ in range(self.rng.randrange(10, MOST_STEPS)):
                step: Callable[[int, int], object] = getattr(self, self.rng.choice(often + SELDOM))
                with suppress(AccessDeniedError, LocalProtocolError):
                    done = step(*self.rng.sample(range(STORES), 2))
                    if done is not None:
                        await done  # type: ignore[misc]
            await self.end()

    async def begin(self) -> None:
        self.stores = [self.net.store() for _ in range(STORES)]
        self.hosts = [host_of(store) for store in self.stores]
        if self.mode is Mode.OPEN:
            self.documents = [await store.open("story") for store in self.stores]
            return
        owned = await self.stores[0].create(
            "story",
            mode=self.mode,
            recovery=Recovery(1, (KEY.public_key.data,)),
            is_sealed=self.rng.random() < 0.3,
        )
        self.documents = [owned]
        for number in range(1, STORES):
            owned.grant(self.hosts[number].peer_id, self.level(), depth=1)
            await self.meet(0, number)
            self.documents.append(await self.stores[number].open(owned.id))
            if self.rng.random() < 0.5:
                self.part(0, number)

    def level(self) -> Level:
        return self.rng.choice([Level.WRITE, Level.MANAGE])

    # What happens; coroutines are awaited.

    def write(self, one: int, _: int) -> None:
        for _ in range(self.rng.choice([1, 1, 5])):
            self.documents[one].registers[self.rng.choice("ab")] = self.rng.randrange(1000)

    async def meet(self, one: int, other: int) -> None:
        await self.hosts[one].connect(self.hosts[other].peer_id)

    def part(self, one: int, other: int) -> None:
        if self.hosts[other].peer_id in self.hosts[one].connections:
            self.hosts[one].drop(self.hosts[other].peer_id)

    async def wait(self, *_: int) -> None:
        await trio.sleep(self.rng.choice([0.5, 5, 30]))

    async def prune(self, one: int, _: int) -> None:
        time.sleep(0.002)  # what has just been written is older than that, too
        await self.documents[one].prune_in_turns(0)

    def grant(self, one: int, other: int) -> None:
        self.documents[one].grant(self.hosts[other].peer_id, self.level(), depth=1)

    def revoke(self, one: int, other: int) -> None:
        self.documents[one].revoke(self.hosts[other].peer_id)

    def contradict(self, one: int, other: int) -> None:
        """Somebody is told something else than what is written then."""
        document = self.documents[one]
        payload = RegisterWrite("a", -self.forks - 1).encode()
        entry = sign_next(document, Kind.REGISTER, payload)
        if entry is None or self.forks == MOST_FORKS:
            return
        self.forks += 1
        with suppress(RemoteProtocolError):
            self.documents[other].receive(encode_chain([entry], with_prev=True), "peer")
        document.registers["b"] = -self.forks

    def appoint(self, one: int, other: int) -> None:
        """Somebody in the place of an owner that has contradicted itself, as far as one knows."""
        appointed = self.documents[one].appoint(self.hosts[other].peer_id, by=KEY)
        self.documents[other].present(appointed)

    async def begin_again(self, one: int, _: int) -> None:
        """The program ends, and is there again."""
        document = self.documents[one]
        await self.stores[one].aclose()
        self.net.made.remove(self.stores[one])
        self.stores[one] = self.net.store(host=self.hosts[one])
        reference = "story" if self.mode is Mode.OPEN else document.id
        self.documents[one] = await self.stores[one].open(reference)

    # How it ends.

    async def end(self) -> None:
        for one, other in combinations(range(STORES), 2):
            self.part(one, other)
        await trio.sleep(5)
        order = self.rng.sample(range(STORES), STORES)
        # In a line, where all pass on what others have.
        for one, other in pairwise(order) if self.mode is Mode.OPEN else combinations(order, 2):
            await self.meet(one, other)
        with trio.move_on_after(PATIENCE):
            while not self.is_same():
                await trio.sleep(30)
        assert self.is_same(), [seen(each) for each in self.having()]

    def is_same(self) -> bool:
        states = [seen(each) for each in self.having()]
        return all(state == states[0] for state in states)

    def having(self) -> list[SharedDocument]:
        """Those that may have the document, as an owner knows."""
        owned = next((each for each in self.documents if each.is_owner), self.documents[0])
        return [
            document
            for document, host in zip(self.documents, self.hosts, strict=True)
            if owned.may_pull(host.peer_id, b"")
        ]


def tell(number: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="lattica-crdt-", dir=memory_folder()))
    try:
        trio.run(Story(number).tell, folder, clock=MockClock(autojump_threshold=0))
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("number", range(12))
def test_whoever_talks_comes_to_the_same(number):
    tell(number)


if __name__ == "__main__":
    first, count = map(int, sys.argv[1:])
    for number in range(first, first + count):
        print(number, flush=True)
        tell(number)
