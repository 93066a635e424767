"""What systemd hears of a relay and of a node, at a socket like its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from lattica.daemon.service_manager import ServiceManager
from tests.loopback.commands.commands import LISTEN, running

WAIT = 120
"""Seconds for a message of a process, on a machine that has much else to do."""


@contextmanager
def manager_at(name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name)
        receiver.settimeout(WAIT)
        yield receiver


def lines(receiver: socket.socket) -> list[str]:
    """Of the next message."""
    return receiver.recv(4096).decode().splitlines()


def heard(receiver: socket.socket, first: str) -> list[str]:
    """The next message that begins so."""
    while (found := lines(receiver))[0] != first:
        pass
    return found


@pytest.mark.parametrize("abstract", [False, True])
async def test_a_loop_that_runs_is_told_twice_in_each_period(tmp_path, autojump_clock, abstract):
    name = f"lattica-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    environment = {
        "NOTIFY_SOCKET": ("@" if abstract else "") + name,
        "WATCHDOG_USEC": "60000000",
        "WATCHDOG_PID": str(os.getpid()),
        "LANG": "C",
    }
    with manager_at(("\0" if abstract else "") + name) as receiver:
        manager = ServiceManager.from_environment(environment)
        assert environment == {"LANG": "C"}
        with trio.move_on_after(100):
            await manager.run(lambda: "two\nlines")
        for _ in range(4):
            assert lines(receiver) == ["READY=1", "STATUS=two lines", "WATCHDOG=1"]
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(100)


async def test_nobody_is_told_where_nobody_asked_and_nothing_waits_for_who_does_not_listen(
    tmp_path, autojump_clock, caplog
):
    watched_other = {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    silent = ServiceManager.from_environment(watched_other)
    gone = ServiceManager(str(tmp_path / "gone"))
    for manager in (silent, gone):
        with trio.move_on_after(1000):
            await manager.run(lambda: "serving")
        manager.stopping()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "service manager" in caplog.text
    caplog.clear()
    with manager_at(str(tmp_path / "full")) as receiver:
        full = ServiceManager(str(tmp_path / "full"), 0.01)
        with trio.move_on_after(5):
            await full.run(lambda: "serving")  # more messages than a socket holds
        assert not caplog.records
        assert lines(receiver)[0] == "READY=1"


async def test_what_is_repeated_is_how_it_is_now(tmp_path, autojump_clock):
    with manager_at(str(tmp_path / "notify")) as receiver:
        manager = ServiceManager(str(tmp_path / "notify"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.run, lambda: "serving")
            await trio.sleep(1)
            assert lines(receiver)[0] == "READY=1"
            with manager.reloading():
                [state, since] = lines(receiver)
                assert state == "RELOADING=1"
                assert since.startswith("MONOTONIC_USEC=")
                await trio.sleep(30)
                assert lines(receiver)[0] == "RELOADING=1"
            assert lines(receiver) == ["READY=1"]
            with manager.reloading():
                manager.stopping(30)
            assert lines(receiver)[0] == "RELOADING=1"
            assert lines(receiver) == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000"]
            await trio.sleep(30)
            assert lines(receiver)[0] == "STOPPING=1"
            nursery.cancel_scope.cancel()


def test_a_relay_says_when_it_is_ready_reads_its_file_again_and_leaves(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with (
        manager_at(str(tmp_path / "notify")) as receiver,
        running(tmp_path, "relay", "--open", "--listen", LISTEN) as relay,
    ):
        ready = heard(receiver, "READY=1")
        assert ready[1] == "STATUS=serving: 0 reservations, 0 circuits"
        relay.process.send_signal(signal.SIGHUP)
        heard(receiver, "RELOADING=1")
        heard(receiver, "READY=1")
        relay.process.send_signal(signal.SIGTERM)
        assert heard(receiver, "STOPPING=1")[1:] == ["EXTEND_TIMEOUT_USEC=45000000"]
        assert relay.process.wait(WAIT) == 0


def test_a_node_says_when_it_is_ready_and_leaves(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with (
        manager_at(str(tmp_path / "notify")) as receiver,
        running(tmp_path, "node", "--ephemeral", "--listen", LISTEN) as node,
    ):
        assert heard(receiver, "READY=1")[1].startswith("STATUS=0 peers")
        node.process.send_signal(signal.SIGTERM)
        assert heard(receiver, "STOPPING=1") == ["STOPPING=1"]
        assert node.process.wait(WAIT) == 0


def test_who_is_ended_by_the_watchdog_says_what_held_its_loop(tmp_path: Path):
    program = """
import os, signal, time, trio
from lattica.daemon.service_manager import ServiceManager

def blocks_the_loop():
    os.kill(os.getpid(), signal.SIGABRT)
    time.sleep(600)

trio.run(ServiceManager.from_environment(os.environ).run, blocks_the_loop)
"""
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "9000000"}
    with manager_at(str(tmp_path / "n")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment, capture_output=True, text=True, timeout=WAIT, check=False,
        )  # fmt: skip
    assert done.returncode == -signal.SIGABRT
    assert "in blocks_the_loop" in done.stderr
