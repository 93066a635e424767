"""Commands end after a signal, whatever they wait for."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
import trio, trio.testing
from lattica.cli.shared import stopping

async def main(does, name):
    number = getattr(signal, name)
    ends = does == "ends"
    stopping.GRACE = 100.0 if ends else 0.2
    async with stopping.stopped_by_signals() as stop:
        with trio.CancelScope(shield=True):
            if does == "waits for itself":
                stop.nursery.cancel_scope.cancel()  # and whoever reads the signals with it
                await trio.testing.wait_all_tasks_blocked()
            os.kill(os.getpid(), number)
            while stop.signal is None or not ends:
                await trio.sleep(0.01)
    print(stop.signal, signal.getitimer(signal.ITIMER_REAL))

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may be run by nohup
trio.run(main, *sys.argv[1:])
"""

NOHUP = """
import os, signal
import trio, trio.testing
from lattica.cli.shared import stopping

async def main():
    async with stopping.stopped_by_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        await trio.testing.wait_all_tasks_blocked(0.1)
    print(stop.signal)

trio.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("does", "code", "says"),
    [
        ("ends", 0, "{number} (0.0, 0.0)"),
        ("waits", -signal.SIGALRM, ""),
        ("waits for itself", -signal.SIGALRM, ""),
    ],
)
def test_a_command_ends_by_itself_or_by_force(
    does: str, code: int, says: str, number: signal.Signals
) -> None:
    """One waited for a thread that had died for want of memory, and ended by SIGKILL alone."""
    command = [sys.executable, "-c", PROGRAM, does, number.name]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout.strip()) == (code, says.format(number=number.value))


def test_what_nohup_has_begun_goes_on_when_its_terminal_is_gone() -> None:
    command = ["nohup", sys.executable, "-c", NOHUP]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout.strip()) == (0, "None")


RELAY = """
import os, signal
import trio
from lattica.cli.relay.serve import _serve
from lattica.cli.shared import stopping
from lattica.config import load_config
from lattica.daemon.relay.server import RelayServer

async def waits(self, *, task_status):
    task_status.started()
    os.kill(os.getpid(), signal.SIGINT)
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

stopping.GRACE = 0.2
RelayServer.run = waits
config = load_config(overrides={
    "listen": ["/ip4/127.0.0.1/tcp/0"],
    "nat.relay_server.enabled": True,
    "nat.relay_server.access": "everyone",
    "relay.drain": 0.2,
})
trio.run(_serve, config, lambda: config, None)
"""


def test_a_relay_that_does_not_end_is_ended() -> None:
    run = subprocess.run([sys.executable, "-c", RELAY], capture_output=True, text=True, timeout=60)
    assert run.returncode == -signal.SIGALRM, run.stderr
    assert run.stdout.startswith("relay 12D3KooW")
