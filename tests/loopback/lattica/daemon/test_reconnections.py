"""One client that comes back to a relay over and over: `tools.soak.reconnections`, short."""

from __future__ import annotations

from tools.soak.reconnections import run

COUNT = 24


async def test_a_client_that_comes_back_over_and_over_is_one_reservation():
    report = await run(COUNT)
    assert report.complaints == []
    assert report.reconnections == COUNT
    assert report.calls
    assert report.most_reservations == 1
    assert report.left == 0
