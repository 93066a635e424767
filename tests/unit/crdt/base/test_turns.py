"""Long work in turns, in which the collector of cycles does not run."""

from __future__ import annotations

import gc

import pytest

from lattica.crdt.base.turns import Turns, finish
from lattica.crdt.store.turns import in_turns


def work(seen: list[bool], fails: bool = False) -> Turns[str]:
    for _ in range(3):
        seen.append(gc.isenabled())
        yield
    if fails:
        raise LookupError
    return "done"


async def test_the_collector_rests_in_a_turn_and_not_between_two():
    seen: list[bool] = []
    assert await in_turns(work(seen)) == "done"
    assert finish(work(seen)) == "done"
    assert seen == [False] * 6
    assert gc.isenabled()


async def test_the_collector_is_as_it_was_after_an_error():
    with pytest.raises(LookupError):
        finish(work([], fails=True))
    with pytest.raises(LookupError):
        await in_turns(work([], fails=True))
    assert gc.isenabled()
    gc.disable()
    try:
        finish(work([]))
        assert not gc.isenabled()
    finally:
        gc.enable()
