"""Runs `async def test_…` under trio, and gives tests a virtual clock.

Why our own forty lines: pytest-trio's last release (0.8.0, 2022) predates pytest 8 and 9, and
anyio's plugin drives trio as a guest of its own runner, where a clock that jumps cannot be
trusted. What tests may rely on:

* Every `async def test_…` runs in a `trio.run` of its own; no mark or decorator is needed.
  That holds for async tests under hypothesis' `@given` too (one `trio.run` per example).
* Fixture `mock_clock`: the test runs on a `trio.testing.MockClock` that stands still until
  the test calls `mock_clock.jump(seconds)`.
* Fixture `autojump_clock`: the same, but the clock jumps to the next deadline as soon as all
  tasks wait. For code without sockets, threads and processes only: trio cannot know that the
  kernel is about to deliver something.
* Fixtures are plain functions. What is asynchronous and needs tearing down is an async context
  manager that the test enters: its life is then visible where it is used.
* Hypothesis has no deadline for an example (no timing assertions); `--hypothesis-profile=thorough`
  tries many more.
* Tests of modules with `pytest.mark.usefixtures("swarm_transport")` run over every transport, but
  those with `@pytest.mark.only_over(NAME, why)`.
* A test in `tests/unit` or `tests/property` that opens an internet socket fails: what needs one is
  in `tests/loopback`.
* An exception group with a single leaf is raised as that leaf, so that `pytest.skip` and
  `pytest.fail` work inside nurseries and a failure reads like one.
"""

from __future__ import annotations

import functools
import gc
import inspect
import logging
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings
from trio.testing import MockClock

from lattica.nat.base.concurrency.exception_groups import unwrapped
from lattica.nat.base.peer_log import peer_log
from lattica.nat.swarm.upkeep import watchdog
from tests.support.nets import nets

# No command that a test starts may ask the real network's router to open ports.
os.environ["LATTICA_NAT__PORT_MAPPING__ENABLED"] = "false"
# Nor tell it of a node, and meet there what other tests do at the same time.
os.environ["LATTICA_DISCOVERY__MDNS"] = "false"


@pytest.fixture(autouse=True)
def _log_without_a_past() -> None:
    """How many lines may be written for peers does not depend on what other tests did."""
    peer_log.forget()


@pytest.fixture(autouse=True)
def _silent_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test's log says how long its machine has stood still."""
    monkeypatch.setattr(watchdog.logger, "disabled", True)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names of tests must be the same in all processes that share them, whatever keys they made."""
    if isinstance(val, bytes) or (isinstance(val, str) and "0a2600240801122" in val):
        return argname
    if isinstance(val, str) and "12D3Koo" in val:
        return re.sub(r"12D3Koo\w+", "PEER", val)
    return None


settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=5000)
settings.load_profile("default")

AsyncTest = Callable[..., Awaitable[object]]


@pytest.fixture
def mock_clock() -> MockClock:
    return MockClock()


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def _run_under_trio(test: AsyncTest, clock: MockClock | None) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        try:
            trio.run(functools.partial(test, **arguments), clock=clock)
        except BaseExceptionGroup as group:
            leaf = unwrapped(group)
            if leaf is group:
                raise
            raise leaf from None

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Wraps the test function; pytest (or hypothesis) then calls it as a plain one."""
    clocks = [value for value in pyfuncitem.funcargs.values() if isinstance(value, MockClock)]
    if len(clocks) > 1:
        pytest.fail("a test runs on one clock: ask for mock_clock or autojump_clock, not both")
    clock = clocks[0] if clocks else None
    test: Any = pyfuncitem.obj
    if getattr(test, "is_hypothesis_test", False):
        if inspect.iscoroutinefunction(test.hypothesis.inner_test):
            test.hypothesis.inner_test = _run_under_trio(test.hypothesis.inner_test, clock)
    elif inspect.iscoroutinefunction(test):
        pyfuncitem.obj = _run_under_trio(test, clock)


def pytest_configure(config: pytest.Config) -> None:
    """Processes that share the tests begin to read them at different places.

    Each then finds already compiled what another one has read, which takes most of the time.
    """
    worker: dict[str, Any] = getattr(config, "workerinput", {})
    if worker and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        rooms = Path(__file__).parent.glob("[a-z]*/[a-z]*")
        places = sorted(str(room) for room in rooms if room.is_dir() or "test_" in room.name)
        number = int(worker["workerid"].removeprefix("gw"))
        start = number * len(places) // worker["workercount"]
        config.args = places[start:] + places[:start]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What has been read stays, and what little garbage is in it: to look at all of it takes the
    garbage collector 0.3 s each time, and tests of what is freed have it do so."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


WAITING = ("netlab", "interop", "loopback")
"""Folders whose files mostly wait: for networks, time-outs, processes. Those with the longest come
first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait come among those that work, so that no processor is ever idle, and are begun
    in the first half, so that no process is left with a long one."""
    tests = Path(__file__).parent
    rank = {tests / name: number for number, name in enumerate(WAITING)}

    def order(file: Path) -> int:
        return next((n for folder, n in rank.items() if file.is_relative_to(folder)), len(rank))

    files = sorted({item.path for item in items}, key=lambda file: (order(file), file))
    waiting = [file for file in files if order(file) < len(rank)]
    working = files[len(waiting) :]
    place = {file: 0.5 * number / len(waiting) for number, file in enumerate(waiting)}
    place |= {file: number / len(working) for number, file in enumerate(working)}
    items.sort(key=lambda item: (place[item.path], item.path))  # the same in each process


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "swarm_transport" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only_over")
        names = [only.args[0]] if only else list(nets.LISTEN_ON)
        metafunc.parametrize("swarm_transport", names, indirect=True)


@pytest.fixture
def swarm_transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Swarms of :mod:`tests.support.nets.nets` listen on this transport unless told otherwise."""
    monkeypatch.setattr(nets, "LOOPBACK", nets.LISTEN_ON[request.param])
    return str(request.param)


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """After a test that sets up logging, as commands do, it is as it was."""
    root, ours = logging.getLogger(), logging.getLogger("lattica")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    last_resort = logging.lastResort
    # Taken off first, since `setup_logging` closes what it replaces.
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)
    logging.lastResort = last_resort


@pytest.fixture(autouse=True)
def _restored_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Garbage is looked for in all that a test leaves, also where a command ran in it."""
    monkeypatch.setattr(gc, "freeze", lambda: None)
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)


WITHOUT_SOCKETS = tuple(Path(__file__).parent / name for name in ("unit", "property"))

_sockets_opened = 0


def _count_sockets(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.__new__" and arguments[1] in (socket.AF_INET, socket.AF_INET6):
        global _sockets_opened
        _sockets_opened += 1


sys.addaudithook(_count_sockets)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    before = _sockets_opened
    result = yield
    if _sockets_opened > before and any(map(item.path.is_relative_to, WITHOUT_SOCKETS)):
        pytest.fail("it opens an internet socket, so its place is in tests/loopback", pytrace=False)
    return result
