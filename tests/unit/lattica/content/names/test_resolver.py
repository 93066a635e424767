"""Whose word counts when a name is asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from lattica.content.manifest.cid import Cid
from lattica.content.names.record import NameRecord, NameRef, NameTarget
from lattica.content.names.resolver import NameResolver
from lattica.errors import NameNotFoundError
from lattica.nat.base.keys.identity import Identity

PEER = Identity.generate().peer_id
CONFIG = SimpleNamespace(dht=SimpleNamespace(enabled=True), bootstrap=())
NODE: Any = SimpleNamespace(config=CONFIG)
REF = NameRef(PEER, "model")
OLD, NEW = (NameRecord(PEER, "model", NameTarget(Cid.of(b"x")), n, 2e9) for n in (1, 2))


async def set_when_all_wait(moment: trio.Event) -> None:
    await trio.testing.wait_all_tasks_blocked()
    moment.set()


async def test_an_owner_that_begins_anew_by_a_clock_that_was_set_back_is_heard(autojump_clock):
    """Its records had the higher numbers before: who waited for a higher one heard nothing."""
    config = SimpleNamespace(dht=SimpleNamespace(enabled=False), bootstrap=())
    node: Any = SimpleNamespace(config=config, in_use=frozenset())
    resolver: Any = NameResolver(node)
    words = iter([NEW, OLD])

    async def ask(_: NameRef, sequence: int = 0) -> NameRecord:
        if sequence:
            raise TimeoutError  # it has ended while it was waited for
        return next(words)

    resolver._ask = ask
    assert await resolver.wait_newer(REF, NEW.sequence) == OLD


@pytest.mark.parametrize("word", [None, NEW])
async def test_the_owners_word_counts_where_the_dht_answers_in_the_same_moment(word):
    """In whichever order their tasks run. That the owner has no such name was forgotten in one."""
    for _ in range(20):
        resolver: Any = NameResolver(NODE)
        moment = trio.Event()

        async def ask(_: NameRef, moment: trio.Event = moment) -> NameRecord | None:
            await moment.wait()
            return word

        async def look_up(_: NameRef, moment: trio.Event = moment) -> NameRecord:
            await moment.wait()
            return OLD

        resolver._ask, resolver._look_up = ask, look_up
        async with trio.open_nursery() as nursery:
            nursery.start_soon(set_when_all_wait, moment)
            if word is None:
                with pytest.raises(NameNotFoundError, match="does not have it") as caught:
                    await resolver.resolve(REF)
                assert caught.value.is_denied
            else:
                assert await resolver.resolve(REF) == word


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("word", [None, NEW])
async def test_a_withdrawal_counts_unless_the_owner_says_that_it_leads_somewhere(
    word, answers, autojump_clock
):
    resolver: Any = NameResolver(NODE)

    async def ask(_: NameRef) -> NameRecord | None:
        await trio.sleep(1.0 if answers else 60.0)
        return word

    async def look_up(_: NameRef) -> NameRecord:
        raise NameNotFoundError("withdrawn", is_denied=True)

    resolver._ask, resolver._look_up = ask, look_up
    if answers and word is not None:
        assert await resolver.resolve(REF) == word
        return
    with pytest.raises(NameNotFoundError, match="withdrawn") as caught:
        await resolver.resolve(REF)
    assert caught.value.is_denied
