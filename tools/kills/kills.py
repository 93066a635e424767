"""Publish and fetch as processes on loopback, of which one after the other is killed at random.

Whoever is killed is started again by the same command. When there were enough kills, the fetch is
let come to its end. What is there then has to be what was published, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tools.kills.unused_port import unused_port

MIB = 1 << 20
_LATTICA = (sys.executable, "-m", "lattica")
_IN_TRANSFER = 0.8
"""How many of the kills are in the middle of the transfer; the others are at any time, as while
programs start."""
_PATIENCE = 300.0
"""Seconds for whatever is waited for, on a machine that has much else to do."""


class KillsError(Exception):
    """What was found to be wrong; the message is for people."""


@dataclass(frozen=True, slots=True)
class Killed:
    """What came of it."""

    kills: Counter[str]
    """How often the publisher was killed, and how often the fetcher."""
    rounds: int
    """Times that it was fetched to its end."""
    bytes_total: int
    last_fetched: int
    """Bytes that the last, undisturbed run had still to fetch."""


def make_tree(directory: Path, mib: int, rng: random.Random) -> None:
    """Files of all sizes: one of nearly all the bytes, some small, one empty."""
    (directory / "below").mkdir(parents=True)
    (directory / "large.bin").write_bytes(rng.randbytes(mib * MIB))
    (directory / "empty").write_bytes(b"")
    for number in range(5):
        small = directory / "below" / f"{number}.bin"
        small.write_bytes(rng.randbytes(rng.randrange(1, 2 * MIB)))


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of all files, by their path."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                name = str(path.relative_to(directory))
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


class _Side:
    """One of the two programs, started again whenever it has been killed."""

    def __init__(self, folder: Path, name: str, arguments: list[str]) -> None:
        self.name = name
        self._argv = [*_LATTICA, "--no-daemon", *arguments]
        self._folder = folder
        self._env = {**os.environ, "XDG_DATA_HOME": str(folder / f"{name}-data")}
        self.process: trio.Process

    @property
    def output(self) -> Path:
        return self._folder / f"{self.name}.out"

    async def start(self) -> None:
        with self.output.open("wb") as out, self.output.with_suffix(".err").open("ab") as err:
            self.process = await trio.lowlevel.open_process(
                self._argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self._env
            )

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    def said(self) -> dict[str, Any] | None:
        """The object that it prints when it is ready, or done."""
        text = self.output.read_text()
        return json.loads(text) if text.endswith("}\n") else None


async def kill_at_random(
    folder: Path, *, kills: int, seed: int, mib: int, say: Callable[[str], object]
) -> Killed:
    """Run it in an empty folder. `mib`: MiB to publish; they are sent in about as many seconds as
    ten kills take.

    Raises :class:`KillsError`: what was fetched is not what was published, or a side failed.
    """
    rng = random.Random(seed)
    source, out = folder / "source", folder / "out"
    make_tree(source, mib, rng)
    expected = digests(source)
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    rate = max(1, size // 20)
    # The same one each time that it is started, so that the ticket stays good.
    where = f"/ip4/127.0.0.1/tcp/{unused_port()}"
    publisher = _Side(
        folder,
        "publisher",
        ["publish", str(source), "--listen", where, "--max-rate", str(rate), "--json"],
    )
    fetcher: _Side | None = None
    done: Counter[str] = Counter()
    rounds = 0
    failed_at = 0
    """After how many kills a fetch has failed last: once after each is nobody's fault."""
    try:
        await publisher.start()
        ticket = (await _said(publisher))["ticket"]
        while True:
            if fetcher is None:
                arguments = ["fetch", ticket, "-o", str(out), "--json"]
                fetcher = _Side(folder, "fetcher", arguments)
                await fetcher.start()
            if done.total() < kills:
                if rng.random() < _IN_TRANSFER:
                    await _until_more_came(fetcher, out)
                with trio.move_on_after(rng.uniform(0.0, 2.0)):
                    await fetcher.process.wait()
            else:
                with trio.move_on_after(_PATIENCE):
                    await fetcher.process.wait()
                if fetcher.process.returncode is None:
                    raise KillsError(f"the fetch has not come to its end: {_words(fetcher)}")
            if fetcher.process.returncode is not None:
                if fetcher.process.returncode and done.total() > failed_at:
                    # It was begun while nobody was there: that is said at once.
                    failed_at = done.total()
                    say(
                        f"a fetch has ended without a publisher: {_words(fetcher).splitlines()[-1]}"
                    )
                    await _said(publisher)
                    await fetcher.start()
                    continue
                if fetcher.process.returncode:
                    raise KillsError(f"the fetch has failed: {_words(fetcher)}")
                _compare(expected, out)
                rounds += 1
                if done.total() >= kills:
                    fetched = (fetcher.said() or {})["bytes_fetched"]
                    return Killed(done, rounds, size, fetched)
                say(f"fetched to its end after {done.total()} kills; anew, into another directory")
                out, fetcher = folder / f"out-{rounds}", None
                continue
            victim = rng.choice((publisher, fetcher))
            await victim.kill()
            done[victim.name] += 1
            say(f"kill {done.total()}: the {victim.name}")
            await victim.start()
    finally:
        with trio.CancelScope(shield=True):
            for side in (publisher, fetcher):
                if side is not None and hasattr(side, "process"):
                    await side.kill()


async def _until_more_came(fetcher: _Side, out: Path) -> None:
    """Wait, not for ever, until chunks are written that were not before."""

    def written() -> int:
        # Files come and go while it is looked.
        found = 0
        for path in out.glob(".lattica-*/journal"):
            with suppress(FileNotFoundError):
                found += path.stat().st_size
        return found

    before = written()
    with trio.move_on_after(20):
        while fetcher.process.returncode is None and written() <= before:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def _said(side: _Side) -> dict[str, Any]:
    with trio.fail_after(_PATIENCE):
        while (found := side.said()) is None:
            if side.process.returncode is not None:
                raise KillsError(f"the {side.name} has ended: {_words(side)}")
            await trio.sleep(0.05)
    return found


def _words(side: _Side) -> str:
    return side.output.with_suffix(".err").read_text()[-500:]


def _compare(expected: dict[str, str], out: Path) -> None:
    found = digests(out)
    if found != expected:
        wrong = sorted(set(found.items()) ^ set(expected.items()))
        raise KillsError(f"not what was published: {', '.join(name for name, _ in wrong[:5])}")
    left = [path.name for path in out.rglob(".lattica*")]
    if left:
        raise KillsError(f"left behind: {', '.join(left[:5])}")
