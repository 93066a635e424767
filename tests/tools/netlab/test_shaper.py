"""Shaper: delay, jitter, loss, reordering, duplication, rate and queue, on a clock set by hand."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest

from tools.netlab.spec.link import DEFAULT_QUEUE_MIN_BYTES, BurstLoss, LinkSpec
from tools.netlab.spec.strict import SpecError
from tools.netlab.wire.shaper import MAX_IN_FLIGHT_BYTES, NEVER, Shaper

SIZE = 1000


def shaper_of(**fields: object) -> Shaper[int]:
    return Shaper(LinkSpec(**fields), random.Random(1))  # type: ignore[arg-type]


def drain(shaper: Shaper[int]) -> list[tuple[float, int]]:
    """All that is on the link, each with the time at which it comes out."""
    out = []
    while (due := shaper.next_due()) != NEVER:
        out += [(round(due, 9), packet) for packet in shaper.dequeue(due)]
    return out


def offer(shaper: Shaper[int], count: int, every: float = 0.0, start: float = 0.0) -> None:
    for number in range(count):
        shaper.enqueue(start + number * every, number, SIZE)


def test_a_transparent_link_passes_at_once() -> None:
    shaper = shaper_of()
    assert shaper.next_due() == NEVER
    shaper.enqueue(5.0, 1, SIZE)
    assert shaper.next_due() == 5.0
    assert shaper.dequeue(5.0) == [1]
    assert shaper.next_due() == NEVER


def test_delay() -> None:
    shaper = shaper_of(delay_s=0.1)
    offer(shaper, 3, every=0.01)
    assert shaper.dequeue(0.099) == []
    assert drain(shaper) == [(0.1, 0), (0.11, 1), (0.12, 2)]


def test_what_is_due_comes_late_if_nobody_looks_but_in_order() -> None:
    shaper = shaper_of(delay_s=0.1)
    offer(shaper, 5, every=0.01)
    assert shaper.dequeue(10.0) == [0, 1, 2, 3, 4]


# --- rate and queue ---------------------------------------------------------------------------


def test_rate_spaces_packets_and_delay_comes_after() -> None:
    shaper = shaper_of(rate_bps=8e6, delay_s=0.5)  # 1 ms for each
    offer(shaper, 3)
    assert shaper.queued_bytes == 3 * SIZE
    assert drain(shaper) == [(0.501, 0), (0.502, 1), (0.503, 2)]


def test_an_idle_link_saves_nothing_up() -> None:
    shaper = shaper_of(rate_bps=8e6)
    offer(shaper, 2)
    offer(shaper, 2, start=1.0)
    assert drain(shaper) == [(0.001, 0), (0.002, 1), (1.001, 0), (1.002, 1)]


def test_rate_is_exact_however_seldom_one_looks() -> None:
    shaper = shaper_of(rate_bps=8e6, queue_s=100.0)
    offer(shaper, 1000)
    assert len(shaper.dequeue(0.5005)) == 500
    assert len(shaper.dequeue(0.9995)) == 499
    assert drain(shaper) == [(1.0, 999)]


@pytest.mark.parametrize(
    ("fields", "room"),
    [
        ({"queue_bytes": 10 * SIZE}, 10),
        ({"queue_bytes": 10 * SIZE - 1}, 9),
        ({"queue_s": 0.02}, 20),
        ({"queue_s": 0.02, "queue_bytes": 5 * SIZE}, 5),
        ({}, 100),
    ],
)
def test_queue_drops_its_tail(fields: dict[str, float], room: int) -> None:
    shaper = shaper_of(rate_bps=8e6, **fields)
    offer(shaper, 150)
    assert [packet for _, packet in drain(shaper)] == list(range(room))
    assert shaper.stats.overflowed == 150 - room
    # There is room again.
    offer(shaper, 1, start=10.0)
    assert len(drain(shaper)) == 1


def test_a_queue_that_nobody_specified_has_room_for_some_packets() -> None:
    assert LinkSpec(rate_bps=1000).queue_limit_bytes == DEFAULT_QUEUE_MIN_BYTES
    assert LinkSpec(rate_bps=80e6).queue_limit_bytes == 1e6


def test_an_idle_link_takes_a_packet_that_no_queue_could_hold() -> None:
    shaper = shaper_of(rate_bps=8e6, queue_bytes=10)
    offer(shaper, 2)
    assert drain(shaper) == [(0.001, 0)]


def test_memory_is_bounded_without_a_rate() -> None:
    shaper = shaper_of(delay_s=100)
    for number in range(3):
        shaper.enqueue(0.0, number, MAX_IN_FLIGHT_BYTES // 2)
    assert shaper.stats.overflowed == 1
    assert len(drain(shaper)) == 2
    shaper.enqueue(200.0, 9, MAX_IN_FLIGHT_BYTES)
    assert len(drain(shaper)) == 1


def test_memory_is_bounded_with_a_rate() -> None:
    size = MAX_IN_FLIGHT_BYTES // 8
    shaper = shaper_of(delay_s=3600, rate_bps=8.0 * size, queue_bytes=4 * size)
    for number in range(12):
        shaper.enqueue(float(number), number, size)
    assert shaper.stats.overflowed == 4
    assert [number for _, number in drain(shaper)] == list(range(8))


@pytest.mark.parametrize(
    ("fields", "train"),
    [
        ({}, None),
        ({"delay_s": 1.0}, None),
        ({"rate_bps": 80e6}, 5000),  # half a millisecond
        ({"rate_bps": 80e6, "queue_bytes": 4000}, 1000),
        ({"rate_bps": 1000}, 1),
        ({"loss": 0.1}, 1),
        ({"delay_s": 1.0, "jitter_s": 0.1}, 1),
        ({"delay_s": 1.0, "reorder": 0.1}, 1),
        ({"duplicate": 0.1}, 1),
        ({"burst": BurstLoss(0.1, 0.5)}, 1),
        ({"burst": BurstLoss(0.0, 0.5)}, None),
    ],
)
def test_trains(fields: dict[str, object], train: int | None) -> None:
    assert shaper_of(**fields).train_bytes == train


# --- chance -------------------------------------------------------------------------------------


def delays(shaper: Shaper[int], count: int, every: float) -> tuple[list[float], list[int]]:
    offer(shaper, count, every)
    out = drain(shaper)
    return [due - number * every for due, number in out], [number for _, number in out]


def test_uniform_jitter() -> None:
    shaper = shaper_of(delay_s=0.1, jitter_s=0.02, jitter_reorders=True)
    waits, order = delays(shaper, 4000, 0.001)
    assert order != sorted(order)
    assert sorted(order) == list(range(4000))
    assert 0.08 <= min(waits) < 0.081
    assert 0.119 < max(waits) <= 0.12
    assert statistics.mean(waits) == pytest.approx(0.1, abs=0.001)
    assert statistics.stdev(waits) == pytest.approx(0.04 / 12**0.5, rel=0.05)


def test_normal_jitter() -> None:
    shaper = shaper_of(delay_s=0.1, jitter_s=0.02, jitter_shape="normal", jitter_reorders=True)
    waits, _ = delays(shaper, 4000, 0.001)
    assert statistics.mean(waits) == pytest.approx(0.1, abs=0.001)
    assert statistics.stdev(waits) == pytest.approx(0.02, rel=0.05)
    assert min(waits) >= 0
    assert max(waits) <= 0.18 + 1e-9


def test_jitter_keeps_order_unless_told_otherwise() -> None:
    shaper = shaper_of(delay_s=0.1, jitter_s=0.1)
    waits, order = delays(shaper, 2000, 0.001)
    assert order == sorted(order)
    assert max(waits) <= 0.2 + 1e-9
    # Far apart, nobody waits for a predecessor.
    waits, _ = delays(shaper_of(delay_s=0.1, jitter_s=0.1), 2000, 1.0)
    assert statistics.mean(waits) == pytest.approx(0.1, abs=0.005)


def test_random_loss() -> None:
    shaper = shaper_of(loss=0.2)
    offer(shaper, 10000)
    assert shaper.stats.lost == pytest.approx(2000, abs=160)
    assert len(drain(shaper)) == 10000 - shaper.stats.lost


@pytest.mark.parametrize(("loss", "left"), [(0.0, 100), (1.0, 0)])
def test_no_and_full_loss(loss: float, left: int) -> None:
    shaper = shaper_of(loss=loss)
    offer(shaper, 100)
    assert len(drain(shaper)) == left


def test_burst_loss_comes_in_bursts() -> None:
    burst = BurstLoss(enter=0.01, leave=0.25)
    shaper = shaper_of(burst=burst)
    offer(shaper, 40000)
    kept = {number for _, number in drain(shaper)}
    assert burst.mean_loss == pytest.approx(1 / 26)
    assert shaper.stats.lost / 40000 == pytest.approx(burst.mean_loss, rel=0.15)
    runs = []
    run = 0
    for number in range(40000):
        if number in kept:
            if run:
                runs.append(run)
            run = 0
        else:
            run += 1
    assert statistics.mean(runs) == pytest.approx(4, rel=0.15)


def test_bad_times_may_lose_only_a_part() -> None:
    shaper = shaper_of(burst=BurstLoss(enter=0.5, leave=0.5, loss_bad=0.5, loss_good=0.1))
    offer(shaper, 10000)
    assert shaper.stats.lost == pytest.approx(3000, rel=0.1)


def test_reordered_packets_skip_the_delay() -> None:
    shaper = shaper_of(delay_s=0.1, reorder=0.25)
    waits, order = delays(shaper, 4000, 0.001)
    quick = sum(wait < 0.05 for wait in waits)
    assert quick == pytest.approx(1000, rel=0.1)
    assert all(min(abs(wait), abs(wait - 0.1)) < 1e-9 for wait in waits)
    # The others keep their order.
    slow = [number for wait, number in zip(waits, order, strict=True) if wait > 0.05]
    assert slow == sorted(slow)


def test_reordering_behind_a_rate() -> None:
    shaper = shaper_of(delay_s=0.1, reorder=0.25, rate_bps=8e6, queue_s=100.0)
    offer(shaper, 1000)
    for due, number in drain(shaper):
        sent = (number + 1) * 0.001
        assert min(abs(due - sent), abs(due - sent - 0.1)) < 1e-9


def test_a_delay_of_nothing_is_not_a_reordering() -> None:
    # A quarter of the delays are cut off at 0, and hardly any packet is reordered.
    shaper = shaper_of(delay_s=0.01, jitter_s=0.01, jitter_shape="normal", reorder=1e-9)
    offer(shaper, 2000, every=0.0005)
    order = [number for _, number in drain(shaper)]
    assert order == sorted(order)


def test_duplicates() -> None:
    shaper = shaper_of(duplicate=0.1, delay_s=0.01)
    offer(shaper, 10000, every=0.001)
    out = [number for _, number in drain(shaper)]
    assert shaper.stats.duplicated == pytest.approx(1000, rel=0.1)
    assert len(out) == 10000 + shaper.stats.duplicated
    assert out == sorted(out)


def test_chance_can_be_repeated() -> None:
    spec = LinkSpec(delay_s=0.1, jitter_s=0.1, loss=0.1, reorder=0.1, duplicate=0.1)
    runs = []
    for _ in range(2):
        shaper: Shaper[int] = Shaper(spec, random.Random("seed"))
        offer(shaper, 1000, every=0.001)
        runs.append(drain(shaper))
    assert runs[0] == runs[1]


# --- changes while running ----------------------------------------------------------------------


def test_a_new_delay_is_for_what_is_sent_from_then_on() -> None:
    shaper = shaper_of(delay_s=0.1)
    shaper.enqueue(0.0, 0, SIZE)
    shaper.change(0.01, LinkSpec(delay_s=0.02))
    shaper.enqueue(0.01, 1, SIZE)
    # The shorter path overtakes.
    assert drain(shaper) == [(0.03, 1), (0.1, 0)]


def test_jitter_keeps_order_on_the_new_path_too() -> None:
    shaper = shaper_of(delay_s=0.5)
    offer(shaper, 10, every=0.001)
    shaper.change(0.01, LinkSpec(delay_s=0.1, jitter_s=0.1))
    for number in range(100, 200):
        shaper.enqueue(0.01 + number * 0.001, number, SIZE)
    new = [number for _, number in drain(shaper) if number >= 100]
    assert new == list(range(100, 200))


def test_what_waits_is_sent_at_the_new_rate() -> None:
    shaper = shaper_of(rate_bps=8e6, queue_s=1.0)
    offer(shaper, 4)
    # Half of the second packet has been sent.
    shaper.change(0.0015, LinkSpec(rate_bps=8e5))
    assert drain(shaper) == [(0.001, 0), (0.0065, 1), (0.0165, 2), (0.0265, 3)]


def test_a_link_without_rate_sends_what_waits_at_once() -> None:
    shaper = shaper_of(rate_bps=8e3)
    offer(shaper, 3)
    shaper.change(0.5, LinkSpec(delay_s=0.1))
    assert drain(shaper) == [(0.6, 0), (0.6, 1), (0.6, 2)]
    assert shaper.queued_bytes == 0


def test_down_loses_everything_and_up_works_again() -> None:
    shaper = shaper_of(rate_bps=8e6, delay_s=0.1)
    offer(shaper, 5)
    shaper.set_up(0.003, False)
    assert shaper.next_due() == NEVER
    offer(shaper, 2, start=0.01)
    shaper.set_up(0.02, True)
    offer(shaper, 1, start=0.02)
    assert drain(shaper) == [(0.121, 0)]
    assert shaper.stats.cut == 7
    assert (shaper.stats.offered, shaper.stats.delivered) == (8, 1)


# --- specs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"delay_s": -0.1}, "delay_s"),
        ({"delay_s": float("nan")}, "delay_s"),
        ({"delay_s": 0.1, "jitter_s": 0.2}, "jitter_s"),
        ({"loss": 1.1}, "loss"),
        ({"reorder": 0.1}, "reorder"),
        ({"duplicate": -1}, "duplicate"),
        ({"rate_bps": 0}, "rate_bps"),
        ({"queue_bytes": 1000}, "queue_bytes"),
        ({"queue_s": 0.1}, "queue_s"),
        ({"rate_bps": 1e6, "queue_s": 0.0}, "queue_s"),
    ],
)
def test_impossible_links(fields: dict[str, float], key: str) -> None:
    with pytest.raises(SpecError) as caught:
        LinkSpec(**fields)  # type: ignore[arg-type]
    assert caught.value.key == key


def test_transparent() -> None:
    assert LinkSpec().is_transparent
    assert LinkSpec(burst=BurstLoss(0.0, 1.0)).is_transparent
    for field, value in (("delay_s", 0.1), ("loss", 0.1), ("rate_bps", 1e6), ("duplicate", 0.1)):
        assert not replace(LinkSpec(), **{field: value}).is_transparent  # type: ignore[arg-type]
