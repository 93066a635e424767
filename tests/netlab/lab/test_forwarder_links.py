"""Links between real namespaces are as specified, measured with the kernel's own time stamps.

What is measured wrongly because other work on the machine came between is measured again.
"""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any

import pytest

from tests.netlab.lab.forwarder_bench import (
    GAUGE,
    HOST,
    SERVER,
    Bench,
    bench,
    datagrams,
    in_thread,
    settled,
)
from tools.netlab.spec.link import BurstLoss, LinkSpec
from tools.netlab.spec.nat import NAMES

pytestmark = pytest.mark.root


# --- delay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.02, 0.3])
async def test_delay_is_accurate_to_a_millisecond(delay: float) -> None:
    async with bench(ab=LinkSpec(delay_s=delay), ba=LinkSpec(delay_s=0.05)) as at:

        async def measure() -> None:
            arrivals = await datagrams(at.host, at.server, SERVER, 300)
            waits = [wait for _, wait, _ in arrivals]
            assert len(waits) == 300
            assert min(waits) >= delay
            assert statistics.median(waits) < delay + 0.001

        await settled(measure)


async def test_each_direction_has_its_link() -> None:
    async with bench(ab=LinkSpec(delay_s=0.01), ba=LinkSpec(delay_s=0.04)) as at:

        async def measure() -> None:
            there = await datagrams(at.host, at.server, SERVER, 50)
            back = await datagrams(at.server, at.host, HOST, 50)
            assert 0.01 <= min(wait for _, wait, _ in there) < 0.03
            assert min(wait for _, wait, _ in back) >= 0.04

        await settled(measure)


@pytest.mark.parametrize("shape", ["uniform", "normal"])
async def test_jitter_spreads_the_delay(shape: Any) -> None:
    spec = LinkSpec(delay_s=0.05, jitter_s=0.02, jitter_shape=shape, jitter_reorders=True)
    async with bench(ab=spec) as at:

        async def measure() -> None:
            arrivals = await datagrams(at.host, at.server, SERVER, 1000)
            assert len(arrivals) == 1000
            waits = [wait for _, wait, _ in arrivals]
            lowest, *_, highest = statistics.quantiles(waits, n=10)
            # From the first to the last decile.
            expected = 0.8 * 2 * 0.02 if shape == "uniform" else 2 * 1.2816 * 0.02
            assert highest - lowest == pytest.approx(expected, rel=0.15)
            assert statistics.median(waits) == pytest.approx(0.05, abs=0.003)
            numbers = [number for number, _, _ in arrivals]
            assert numbers != sorted(numbers)

        await settled(measure)


async def test_jitter_without_reordering() -> None:
    async with bench(ab=LinkSpec(delay_s=0.05, jitter_s=0.03)) as at:

        async def measure() -> None:
            arrivals = await datagrams(at.host, at.server, SERVER, 500)
            assert [number for number, _, _ in arrivals] == list(range(500))

        await settled(measure)


async def test_a_link_changes_while_it_runs() -> None:
    async with bench(ab=LinkSpec(delay_s=0.001)) as at:
        assert await shortest_wait(at) < 0.03
        await at.link(ab=LinkSpec(delay_s=0.06))
        assert await shortest_wait(at) >= 0.06
        await at.link(both=LinkSpec())
        assert await shortest_wait(at) < 0.03


async def shortest_wait(at: Bench) -> float:
    return min(wait for _, wait, _ in await datagrams(at.host, at.server, SERVER, 20))


# --- loss, duplication, reordering --------------------------------------------------------------


async def test_random_loss() -> None:
    async with bench(ab=LinkSpec(loss=0.1)) as at:

        async def measure() -> None:
            arrivals = await datagrams(at.host, at.server, SERVER, 3000, pace=3000)
            assert len(arrivals) == pytest.approx(2700, abs=70)

        await settled(measure)
        stats = await at.counters("ab")
        assert stats["offered"] - stats["lost"] == stats["delivered"]


async def test_burst_loss() -> None:
    burst = BurstLoss(enter=0.01, leave=0.2)
    async with bench(ab=LinkSpec(burst=burst)) as at:

        async def measure() -> None:
            arrivals = await datagrams(at.host, at.server, SERVER, 6000, pace=5000)
            numbers = [number for number, _, _ in arrivals]
            gaps = [b - a - 1 for a, b in pairwise(numbers) if b - a > 1]
            assert sum(gaps) / 6000 == pytest.approx(burst.mean_loss, rel=0.3)
            assert statistics.mean(gaps) == pytest.approx(5, rel=0.3)

        await settled(measure)


async def test_duplicates() -> None:
    async with bench(ab=LinkSpec(duplicate=0.2)) as at:

        async def measure() -> None:
            arrivals = await datagrams(at.host, at.server, SERVER, 1000, expected=10_000)
            assert len(arrivals) == pytest.approx(1200, abs=50)
            assert {number for number, _, _ in arrivals} == set(range(1000))

        await settled(measure)


async def test_reordering() -> None:
    async with bench(ab=LinkSpec(delay_s=0.05, reorder=0.1)) as at:

        async def measure() -> None:
            arrivals = await datagrams(at.host, at.server, SERVER, 1000)
            quick = sum(wait < 0.045 for _, wait, _ in arrivals)
            assert quick == pytest.approx(100, abs=35)
            numbers = [number for number, _, _ in arrivals]
            assert numbers != sorted(numbers)
            assert sorted(numbers) == list(range(1000))

        await settled(measure)


# --- rate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mbit", [1, 20, 100])
async def test_rate_of_datagrams_is_within_five_percent(mbit: int) -> None:
    rate = mbit * 1e6
    async with bench(ab=LinkSpec(delay_s=0.005, rate_bps=rate, queue_s=0.5)) as at:

        async def measure() -> None:
            count = int(1.5 * rate / 8 / 1400)  # IP packets of 1,400 bytes, ten percent too fast
            pace, burst = 1.1 * rate / 8 / 1400, max(1, mbit // 10)
            ends = at.host, at.server, SERVER
            arrivals = await datagrams(*ends, count, size=1372, pace=pace, burst=burst)
            # The median of many stretches: where the sender was kept from its work, nothing waits
            # for the link.
            times = [arrived for _, _, arrived in arrivals]
            length = len(times) // 8
            stretches = zip(times, times[length:], strict=False)
            seconds = statistics.median(end - start for start, end in stretches)
            assert length * 1400 * 8 / seconds == pytest.approx(rate, rel=0.05)

        await settled(measure)


@pytest.mark.parametrize(
    ("mbit", "nat"), [(10, None), (100, None), (500, None), (500, "port-restricted")]
)
async def test_rate_of_tcp_is_within_five_percent(mbit: int, nat: str | None) -> None:
    rate = mbit * 1e6
    spec = None if nat is None else NAMES[nat]
    async with bench(spec, ab=LinkSpec(delay_s=0.005, rate_bps=rate)) as at:

        async def measure() -> None:
            payload = await bulk(at, 1.2, warm_up=0.8)
            with_headers = payload * 8 * 1500 / 1448
            assert with_headers == pytest.approx(rate, rel=0.05)

        await settled(measure)


async def bulk(at: Bench, seconds: float, *, warm_up: float) -> float:
    """Bytes of payload per second that TCP brings from the host to the server."""

    def run() -> float:
        numbers = str(seconds), str(warm_up)
        with at.server.start(GAUGE, "sink", SERVER, "9000", *numbers) as program:
            at.host.run(GAUGE, "pour", SERVER, "9000", "10")
            payload: float = program.line()
            return payload

    payload: float = await in_thread(run)
    return payload


async def test_a_full_queue_delays_and_then_drops() -> None:
    # 10 packets of 1,000 bytes may wait; each takes 10 ms.
    spec = LinkSpec(rate_bps=8e5, queue_bytes=10_000)
    async with bench(ab=spec) as at:

        async def measure() -> None:
            before = await at.counters("ab")
            arrivals = await datagrams(at.host, at.server, SERVER, 100, size=972, pace=200)
            # Most find the queue full.
            assert 0.08 < statistics.median(wait for _, wait, _ in arrivals) < 0.11
            after = await at.counters("ab")
            overflowed = after["overflowed"] - before["overflowed"]
            assert overflowed == pytest.approx(40, abs=8)
            assert len(arrivals) + overflowed == 100

        await settled(measure)


async def test_bulk_survives_a_lossy_link() -> None:
    # Trains are cut up, and each packet has its own fate.
    spec = LinkSpec(delay_s=0.002, jitter_s=0.001, jitter_reorders=True, loss=0.01, duplicate=0.01)
    async with bench(NAMES["symmetric-random"], ab=spec) as at:
        assert await bulk(at, 1, warm_up=0.2) > 1e5
        stats = await at.counters("ab")
        assert stats["lost"] > 0
        assert stats["duplicated"] > 0
