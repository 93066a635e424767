"""Changes of the network are noticed, once they have settled; and so is sleep."""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import socket
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lattica.errors import ConfigError
from lattica.nat.swarm.events import EventBus, EventStream, NetworkChanged
from lattica.nat.traversal.network.monitor import (
    ChangeDetector,
    NetworkMonitor,
    NetworkMonitorConfig,
    difference,
)
from lattica.nat.traversal.network.state import (
    Clocks,
    NetworkState,
    local_hosts,
    read_clocks,
    read_network,
)
from tests.support.nets.nets import advance

CONFIG = NetworkMonitorConfig()
HOME = NetworkState(frozenset({"eth0 192.168.1.5/24"}), frozenset({"via 192.168.1.1"}))
OFF = NetworkState()
PHONE = NetworkState(frozenset({"wwan0 10.1.2.3/30"}), frozenset({"via 10.1.2.2"}))


def detector(state: NetworkState = HOME) -> ChangeDetector:
    return ChangeDetector(state, Clocks(0.0, 0.0), CONFIG)


def test_nothing_happens():
    found = detector()
    assert found.on_state(1.0, HOME) is None
    assert found.next_timer() is None
    assert found.on_clocks(Clocks(5.0, 5.1)) is None


def test_a_change_is_reported_when_it_has_settled():
    found = detector()
    assert found.on_state(10.0, OFF) is None
    assert found.next_timer() == 10.5
    assert found.on_state(10.4, PHONE) is None
    assert found.next_timer() == pytest.approx(10.9)
    assert found.on_state(10.5, PHONE) is None
    reason = found.on_state(10.9, PHONE)
    assert reason == "address gone: eth0 192.168.1.5/24, new address: wwan0 10.1.2.3/30"
    assert found.next_timer() is None
    assert found.on_state(20.0, PHONE) is None


def test_what_never_settles_is_reported_all_the_same():
    found = detector()
    reports = []
    now = 10.0
    for number in range(100):
        now += 0.1
        state = NetworkState(frozenset({f"eth0 192.168.1.{number}/24"}))
        reports.append(found.on_state(now, state))
    assert sum(report is not None for report in reports) == 3


def test_what_is_as_before_when_it_settles_was_nothing():
    found = detector()
    assert found.on_state(10.0, OFF) is None
    assert found.on_state(10.2, HOME) is None
    assert found.next_timer() is None
    # The next change has its own time to settle.
    assert found.on_state(60.0, OFF) is None
    assert found.next_timer() == 60.5


def test_reasons():
    assert difference(HOME, replace(HOME, routes=frozenset())) == "the default route has changed"
    many = NetworkState(frozenset(f"eth{n} 10.0.{n}.1/24" for n in range(9)))
    assert difference(OFF, many).endswith("eth3 10.0.3.1/24, and 5 more")


def test_sleep():
    found = detector()
    assert found.on_clocks(Clocks(5.0, 605.0)) == "this machine has slept for 600 s"
    assert found.on_clocks(Clocks(10.0, 610.0)) is None
    assert found.on_clocks(Clocks(70.0, 670.0)) == "this process was stopped for 60 s"
    # The clock on the wall was set back.
    assert found.on_clocks(Clocks(75.0, 0.0)) is None


@pytest.mark.parametrize("name", ["poll", "full_poll", "settle", "settle_at_most", "sleep"])
def test_times_are_checked(name):
    with pytest.raises(ConfigError):
        NetworkMonitorConfig(**{name: 0.0})


# --- the driver ---


class Machine:
    """A machine whose network is as the test says."""

    def __init__(self) -> None:
        self.events = EventBus()
        self.state = HOME
        self.asleep = 0.0

    def network(self) -> NetworkState:
        return self.state

    def clocks(self) -> Clocks:
        return Clocks(trio.current_time(), trio.current_time() + self.asleep)


async def next_reason(events: EventStream) -> str:
    event = await events.__anext__()
    assert isinstance(event, NetworkChanged)
    return event.reason


async def test_the_driver_publishes(mock_clock: MockClock):
    machine = Machine()
    monitor = NetworkMonitor(machine.events, network=machine.network, clocks=machine.clocks)
    with machine.events.subscribe() as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(monitor.run)
            await wait_all_tasks_blocked()
            machine.state = PHONE
            await advance(mock_clock, 40.0)
            assert "wwan0" in await next_reason(events)
            machine.asleep = 3600.0
            machine.state = HOME
            await advance(mock_clock, 10.0)
            assert await next_reason(events) == "this machine has slept for 3600 s"
            # Addresses are looked at at once after that.
            assert "eth0" in await next_reason(events)
            nursery.cancel_scope.cancel()


async def test_a_look_that_fails_is_left_out(mock_clock: MockClock, caplog):
    machine = Machine()
    shortage: list[OSError] = [OSError(errno.EMFILE, "Too many open files")]

    def network() -> NetworkState:
        if shortage:
            raise shortage[0]
        return machine.state

    monitor = NetworkMonitor(machine.events, network=network, clocks=machine.clocks)
    with machine.events.subscribe() as events, caplog.at_level(logging.INFO):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(monitor.run)
            await advance(mock_clock, 60.0)
            full = shortage.copy()
            shortage.clear()
            await advance(mock_clock, 10.0)
            shortage += full
            machine.state = PHONE
            machine.asleep = 100.0
            await advance(mock_clock, 100.0)
            assert "has slept" in await next_reason(events)
            shortage.clear()
            await advance(mock_clock, 40.0)
            assert "wwan0" in await next_reason(events)
            nursery.cancel_scope.cancel()
    assert caplog.text.count("cannot look at the network") == 2


# --- the system ---


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EPERM])
def test_a_shortage_does_not_look_like_a_change(monkeypatch, number):
    """What could not be read is not gone, but where nobody may read there is nothing to know."""

    def refuse() -> list[Any]:
        raise OSError(number, "refused")

    monkeypatch.setattr("ifaddr.get_adapters", refuse)
    if number == errno.EPERM:
        assert read_network().addresses == frozenset()
    else:
        with pytest.raises(OSError, match="refused"):
            read_network()
    assert local_hosts() >= {"127.0.0.1", "::1"}


def test_without_file_descriptors_nobody_can_look():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[socket.socket] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 512), limits[1]))
    try:
        with contextlib.suppress(OSError):
            while len(held) < 1000:
                held.append(socket.socket())
        with pytest.raises(OSError, match="open files"):
            read_network()
        assert "127.0.0.1" in local_hosts()
    finally:
        for sock in held:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    read_network()


def test_this_machine_says_what_it_has():
    state = read_network()
    assert not any(" 127." in address or " fe80" in address for address in state.addresses)
    assert {"127.0.0.1", "::1"} <= local_hosts()
    clocks = read_clocks()
    assert clocks.all_along >= clocks.awake
