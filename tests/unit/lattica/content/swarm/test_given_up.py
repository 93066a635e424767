"""A provider that is given up in the very moment in which something comes of it."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from lattica.content.download.obtaining import Obtaining
from lattica.content.download.options import FetchOptions
from lattica.content.download.plan import Span
from lattica.content.download.providers.contact import Contact
from lattica.content.download.providers.link import Arrived, Kept, Link
from lattica.content.errors import IntegrityError
from lattica.content.manifest.cid import Cid
from lattica.content.protocol import Body
from lattica.content.swarm.messages import Has
from lattica.content.swarm.schedule import Schedule
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.limits.pace import Pace

PEER, OTHER = (PeerId(b"\x12\x20" + bytes([number]) * 32) for number in (1, 2))
CHUNKS = 2


class Stream:
    peer_id = PEER
    is_relayed = is_superseded = False

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()


def link() -> Link:
    stream: Any = Stream()
    return Link(stream, Cid.of(b"x"), FetchOptions(), Kept(), Pace(1e9))


def schedule() -> Schedule[PeerId]:
    made = Schedule[PeerId](CHUNKS, random.Random(1), 1 << 20)
    made.want(Span(number, 1, 10) for number in range(CHUNKS))
    return made


async def changed() -> None:
    raise AssertionError("nothing is left to wait for")


async def test_while_its_stream_was_opened():
    """It was a KeyError that ended the whole fetch."""
    send, _ = trio.open_memory_channel[Arrived](1)
    await link().transfer(schedule(), send, changed)


def link_that_has_sent_all(monkeypatch: pytest.MonkeyPatch) -> Link:
    its = link()
    answers = [Body(memoryview(bytearray(10))) for _ in range(CHUNKS)]

    async def receive():
        await trio.lowlevel.checkpoint()
        return 20, answers

    monkeypatch.setattr(its._provider, "receive", receive)
    return its


async def test_while_what_it_has_sent_waits_for_room(monkeypatch):
    made = schedule()
    made.add(PEER, 0.0, complete=True)
    its = link_that_has_sent_all(monkeypatch)
    send, receive_end = trio.open_memory_channel[Arrived](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(its.transfer, made, send, changed)
        await trio.testing.wait_all_tasks_blocked()
        made.remove(PEER)  # by what was found wrong of it
        assert receive_end.receive_nowait().piece == 0


async def test_what_it_has_sent_is_had_of_another_when_there_was_no_room_for_it(monkeypatch):
    """Nobody was asked for it any more, and the fetch waited for it until it gave up."""
    made = schedule()
    made.add(PEER, 0.0, complete=True)
    its = link_that_has_sent_all(monkeypatch)
    send, _receive_end = trio.open_memory_channel[Arrived](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(its.transfer, made, send, changed)
        await trio.testing.wait_all_tasks_blocked()
        made.remove(PEER)
        nursery.cancel_scope.cancel()
    made.add(OTHER, 1.0, complete=True)
    assert {made.next(OTHER, 1.0), made.next(OTHER, 1.0)} == set(range(CHUNKS))


async def test_what_it_says_then_does_not_count():
    """As a source whom nobody asks it would be waited for, for ever, where nobody else has it."""
    options = FetchOptions()
    node: Any = SimpleNamespace(peer_id=OTHER)
    around: Any = SimpleNamespace(node=node, options=options)
    plan: Any = SimpleNamespace(manifest=SimpleNamespace(chunk_count=CHUNKS))
    none: Any = None
    obtaining = Obtaining(around, plan, none, none, none)
    contact, other = Contact(node, PEER, ()), Contact(node, OTHER, ())
    obtaining._contacts |= {PEER: contact, OTHER: other}
    obtaining._schedule.want(Span(number, 1, 10) for number in range(CHUNKS))
    obtaining._heard(contact, Has(CHUNKS, 1))
    assert PEER in obtaining._schedule
    obtaining._ban(PEER, IntegrityError("wrong"))
    obtaining._heard(contact, Has(CHUNKS, None))
    assert PEER not in obtaining._schedule
    assert obtaining._schedule.is_stuck
