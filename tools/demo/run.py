"""The demo from the command line to its exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trio

import tools.demo
from lattica.nat.base.concurrency.exception_groups import leaves
from tools.demo import checkpoint
from tools.demo.crowd import play_crowd
from tools.demo.homes import (
    LINE_DELAY,
    LINE_RATE,
    NoLabError,
    loopback_up,
    open_homes,
    restart_in_user_namespace,
)
from tools.demo.stage import DemoError, open_loopback
from tools.demo.story import MB, Story, make, say
from tools.netlab.spec.nat import NAMES

EXIT_FAILED = 1
SIGNAL_EXIT = 128


def nat_types(text: str) -> tuple[str, str]:
    """The types of both NATs, from `TYPE` or `TYPE,TYPE`."""
    names = text.split(",")
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"no NAT type {name!r}; there are {', '.join(NAMES)}")
    if len(names) > 2:
        raise argparse.ArgumentTypeError("two peers have no more than two NATs")
    return names[0], names[-1]


def parse_options() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=tools.demo.__doc__)
    parser.add_argument(
        "--megabytes", type=int, default=350, help="size of the checkpoint (default: 350)"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()), help="where to work"
    )
    parser.add_argument(
        "--nat",
        type=nat_types,
        default=("port-restricted", "port-restricted"),
        metavar="TYPE[,TYPE]",
        help="the publisher's and the fetcher's NAT (default: port-restricted, as most homes "
        f"have); of {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--crowd",
        type=int,
        default=8,
        metavar="N",
        help="how many fetch the same in the second scene (default: 8); 0: without it",
    )
    parser.add_argument("--loopback", action="store_true", help="all on loopback, without NATs")
    return parser.parse_args()


def check_space(directory: Path, size: int) -> None:
    """DemoError when the directory cannot be written to, or take the checkpoint twice."""
    needed = 2 * size + 50 * MB
    try:
        with tempfile.TemporaryFile(dir=directory):
            free = shutil.disk_usage(directory).free
    except OSError as error:
        raise DemoError(f"{directory}: {error.strerror}; choose another --dir") from None
    if free < needed:
        raise DemoError(
            f"{directory} has {free / MB:.0f} MB free, and {needed / MB:.0f} are needed; "
            "choose another place with --dir, or less with --megabytes"
        )


def homes_described(nats: tuple[str, str]) -> tuple[str, ...]:
    """In lines."""
    return (
        "three hosts in network namespaces: a relay at a public address,",
        f"a publisher behind one NAT ({nats[0]}), a fetcher behind another ({nats[1]});",
        f"{2 * LINE_DELAY * 1e3:.0f} ms from home to home, {LINE_RATE / 1e9:g} Gbit/s",
    )


class Stop:
    """What a signal asks for.

    Heeded in places only. Between them a lab is built and taken down whole: who cancels one as it
    waits for its guardian may wait for ever.
    """

    def __init__(self) -> None:
        self.signal = 0
        """Number of the first; 0: none yet."""
        self._scope: trio.CancelScope | None = None

    def __call__(self, number: int) -> None:
        """A signal has come."""
        self.signal = self.signal or number
        if self._scope is not None:
            self._scope.cancel()

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """A signal ends the block, quietly, also one that came before."""
        with trio.CancelScope() as self._scope:
            if self.signal:
                self._scope.cancel()
            yield
        self._scope = None


async def play(options: argparse.Namespace, obstacle: str | None, stop: Stop) -> None:
    """The demo, on loopback if there is an obstacle to the lab."""
    dimensions = checkpoint.dimensions_for(options.megabytes * MB)
    check_space(options.dir, dimensions.size)
    with tempfile.TemporaryDirectory(prefix="lattica-demo-", dir=options.dir) as name:
        directory = Path(name)
        source = directory / "checkpoint"
        with stop.heeded():
            size = await make(source, dimensions)
        if stop.signal:
            return
        if obstacle is None:
            try:
                async with open_homes(options.nat) as homes:
                    for line in homes_described(options.nat):
                        say(line)
                    with stop.heeded():
                        await Story(homes, directory).tell(source, size)
                with stop.heeded():
                    await play_crowd(options.crowd, directory, in_lab=True)
                return
            except NoLabError as error:
                obstacle = str(error)
        say(f"on loopback, without NATs: {obstacle}")
        with contextlib.suppress(OSError):  # the commands will say what is wrong
            loopback_up()
        async with open_loopback(directory) as loopback:
            with stop.heeded():
                await Story(loopback, directory).tell(source, size)
        with stop.heeded():
            await play_crowd(options.crowd, directory, in_lab=False)


async def run(options: argparse.Namespace, obstacle: str | None) -> int:
    """The demo until a signal; the exit status."""
    stop = Stop()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for number in signals:
                    stop(number)

            nursery.start_soon(listen)
            await play(options, obstacle, stop)
            nursery.cancel_scope.cancel()
    return SIGNAL_EXIT + stop.signal if stop.signal else 0


def main() -> int:
    """Exit status: 0 if all is equal, 1 if not, 128 and the number of the signal that ended it."""
    options = parse_options()
    obstacle = "as asked for" if options.loopback else None
    if obstacle is None and os.geteuid() != 0:
        try:
            restart_in_user_namespace(sys.argv[1:])
        except NoLabError as error:
            obstacle = str(error)
    try:
        return trio.run(run, options, obstacle)
    except* DemoError as group:
        for failure in leaves(group):
            print(f"demo: FAILED: {failure}", file=sys.stderr)
    return EXIT_FAILED
