"""Whoever is asked first keeps no fetch from beginning, be it silent, slow or hostile."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lattica.content import FetchOptions, Publisher, fetch_manifest
from lattica.content.download.providers.staggered import MOST_ASKED, STAGGER, ask_staggered
from lattica.content.manifest.codec import decode_manifest
from lattica.content.manifest.lists import lists_in
from lattica.content.protocol import PROTOCOL, encode_body_header
from lattica.content.publish.catalog import Publication
from lattica.content.ticket import Ticket
from lattica.errors import ContentError
from lattica.nat.mux.stream import Stream
from tests.support.doubles.memory_host import memory_net


async def _asked(answers: list[float | Exception]) -> tuple[bool, list[int], list[str], float]:
    """Ask providers that answer after so many seconds, or fail at once; whether one did, who was
    asked, what failed, and when it was over.
    """
    asked: list[int] = []
    failures: list[str] = []

    async def providers() -> AsyncGenerator[int, None]:
        for number in range(len(answers)):
            yield number

    async def ask(number: int) -> None:
        asked.append(number)
        answer = answers[number]
        if isinstance(answer, Exception):
            raise answer
        await trio.sleep(answer)

    began = trio.current_time()
    done = await ask_staggered(providers(), ask, lambda _, error: failures.append(str(error)))
    return done, asked, failures, trio.current_time() - began


FAILED = ContentError("no")


@pytest.mark.parametrize(
    ("answers", "asked", "failures", "seconds"),
    [
        ([1.0, 1.0], [0], [], 1.0),
        ([math.inf, 1.0], [0, 1], [], STAGGER + 1.0),
        ([FAILED, 1.0], [0, 1], ["no"], 1.0),
        ([FAILED, TimeoutError("late"), 2.0], [0, 1, 2], ["no", "late"], 2.0),
        ([STAGGER + 2.0, math.inf, 1.0], [0, 1], [], STAGGER + 2.0),
        # The slowest of many yields to those who were not asked yet.
        ([math.inf] * 9 + [1.0], [*range(10)], [], 9 * STAGGER + 1.0),
        # Who is asked last is waited for.
        ([FAILED, 9 * STAGGER], [0, 1], ["no"], 9 * STAGGER),
    ],
)
async def test_another_is_asked_while_one_does_not_answer(
    answers: list[float | Exception],
    asked: list[int],
    failures: list[str],
    seconds: float,
    autojump_clock: MockClock,
) -> None:
    done, *others, took = await _asked(answers)
    assert (done, others) == (True, [asked, failures])
    assert took == pytest.approx(seconds)


@pytest.mark.parametrize("answers", [[], [FAILED], [FAILED] * 9])
async def test_all_fail(answers: list[float | Exception], autojump_clock: MockClock) -> None:
    done, asked, failures, seconds = await _asked(answers)
    assert (done, len(asked), failures, seconds) == (False, len(answers), ["no"] * len(answers), 0)


async def test_no_more_are_asked_at_a_time_than_it_says(autojump_clock: MockClock) -> None:
    now = most = 0

    async def providers() -> AsyncGenerator[int, None]:
        for number in range(3 * MOST_ASKED):
            yield number

    async def ask(number: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            await trio.sleep(math.inf if number < 3 * MOST_ASKED - 1 else 1.0)
        finally:
            now -= 1

    assert await ask_staggered(providers(), ask, lambda *_: None)
    assert now == 0
    assert most <= MOST_ASKED + 1  # one that yields may still be ending


async def test_who_is_found_late_does_not_hold_up_an_answer(autojump_clock: MockClock) -> None:
    async def providers() -> AsyncGenerator[int, None]:
        yield 0
        await trio.sleep_forever()

    async def ask(number: int) -> None:
        await trio.sleep(STAGGER + 1.0)

    assert await ask_staggered(providers(), ask, lambda *_: None)


async def test_nobody_else_is_asked_while_enough_comes(autojump_clock: MockClock) -> None:
    asked: list[int] = []
    looks = iter([True, True, False])

    async def providers() -> AsyncGenerator[int, None]:
        yield 0
        yield 1

    async def ask(number: int) -> None:
        asked.append(number)
        await trio.sleep(math.inf if number == 0 else 1.0)

    assert await ask_staggered(providers(), ask, lambda *_: None, lambda: next(looks))
    assert asked == [0, 1]
    assert trio.current_time() == pytest.approx(3 * STAGGER + 1.0)


async def test_a_defect_goes_through(autojump_clock: MockClock) -> None:
    with pytest.raises(ValueError, match="bug"):
        await _asked([1.0 + STAGGER, ValueError("bug")])


# --- with real providers ---

OPTIONS = FetchOptions(first_delay=0.01, stalled_after=600.0)


async def _drips(stream: Stream) -> None:
    """Send two bytes each millisecond: more than counts as lost, and for ever."""
    await stream.receive_some()
    await stream.send_all(encode_body_header(1 << 16))
    while True:
        await trio.sleep(0.001)
        await stream.send_all(b"xx")


@pytest.mark.parametrize("hostile", [_drips, lambda stream: trio.sleep_forever()])
async def test_a_manifest_and_its_lists_come_from_who_sends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: Callable[[Stream], Awaitable[object]]
) -> None:
    monkeypatch.setattr("lattica.content.download.providers.staggered.STAGGER", 0.05)
    for module in ("lists", "manifest", "codec"):
        monkeypatch.setattr(f"lattica.content.manifest.{module}.LIST_CHUNKS", 4)
    monkeypatch.setattr("lattica.content.manifest.manifest.INLINE_CHUNKS", 8)
    monkeypatch.setattr("lattica.content.manifest.manifest.SHORT_CHUNKS", 4)
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 64 << 20)
    async with memory_net() as net:
        enemy, honest, client = net.host(), net.host(), net.host()
        enemy.handle(PROTOCOL, hostile, owner="test")
        async with Publisher(honest) as publisher:
            ticket = await publisher.publish(large)
            [publication] = publisher.catalog
            assert [*lists_in(decode_manifest(publication.encoded))]
            await client.connect(honest.peer_id)
            first = Ticket.make(ticket.cid, enemy.peer_id, enemy.addrs)
            with trio.fail_after(60):
                found = await fetch_manifest(client, first, options=OPTIONS)
    assert isinstance(publication, Publication)
    assert found == publication.manifest
