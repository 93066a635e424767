"""Foreign peers as processes on loopback, all driven through one small interface."""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.interop import partners
from tests.support.nets.nets import unused_port

ECHO = "/lattica-test/echo/1.0.0"
PING = "/ipfs/ping/1.0.0"
IDENTIFY = "/ipfs/id/1.0.0"

START_TIMEOUT = 120.0
REQUEST_TIMEOUT = 120.0
STOP_TIMEOUT = 3.0


class ForeignError(Exception):
    """A foreign peer refused a request, or ended."""


@dataclass(frozen=True, slots=True)
class EchoResult:
    """What came back of `sent` random bytes, in bytes; `same` compares their hashes."""

    sent: int
    received: int
    same: bool


@dataclass(frozen=True, slots=True)
class Identified:
    """What a foreign peer learned of another by identify; "" where it does not tell."""

    agent: str
    protocol_version: str
    protocols: tuple[str, ...]
    addrs: tuple[str, ...]


class ForeignPeer(ABC):
    """A running peer of another implementation.

    Every method raises :class:`ForeignError` when the peer refuses, and may be cancelled,
    after which the peer is good for nothing but ending.
    """

    name: str
    peer_id: str
    addrs: tuple[str, ...]
    """Where it listens, each with `/p2p/ID`."""

    @abstractmethod
    async def connect(self, addr: str) -> None:
        """Have it dial a multiaddr that ends in `/p2p/ID`."""

    @abstractmethod
    async def peers(self) -> set[str]:
        """The peers it is connected to."""

    @abstractmethod
    async def ping(self, peer: str) -> float | None:
        """Have it ping a connected peer: seconds, or None where it has not measured yet."""

    @abstractmethod
    async def echo(self, peer: str, size: int) -> EchoResult:
        """Have it send `size` bytes to a peer's echo protocol and read them back."""

    @abstractmethod
    async def identified(self, peer: str) -> Identified | None:
        """What it knows of a peer; None before it knows."""


class ScriptPeer(ForeignPeer):
    """A peer run by one of our scripts: one JSON request or reply a line."""

    def __init__(self, name: str, process: trio.Process, stderr: Path) -> None:
        if process.stdin is None or process.stdout is None:
            raise ForeignError(f"{name} has no pipes")
        self.name = name
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._stderr = stderr
        self._buffer = bytearray()
        self._requests = 0
        self._turn = trio.Lock()

    async def wait_ready(self) -> None:
        with trio.fail_after(START_TIMEOUT):
            ready = await self._read_reply()
        self.peer_id = ready["peer_id"]
        self.addrs = tuple(ready["addrs"])

    async def connect(self, addr: str) -> None:
        await self._ask("connect", addr=addr)

    async def peers(self) -> set[str]:
        return set(await self._ask("peers"))

    async def ping(self, peer: str) -> float | None:
        seconds = await self._ask("ping", peer=peer)
        return None if seconds is None else float(seconds)

    async def echo(self, peer: str, size: int) -> EchoResult:
        return EchoResult(**await self._ask("echo", peer=peer, size=size))

    async def identified(self, peer: str) -> Identified | None:
        known = await self._ask("identified", peer=peer)
        if known is None:
            return None
        return Identified(
            agent=known.get("agent") or "",
            protocol_version=known.get("protocol_version") or "",
            protocols=tuple(known["protocols"]),
            addrs=tuple(known["addrs"]),
        )

    async def put_block(self, seed: int, size: int) -> str:
        """Store that many random bytes as a block; returns its CID. Of the original."""
        return str(await self._ask("put_block", seed=seed, size=size))

    async def get_block(self, cid: str, seconds: int) -> tuple[str, str]:
        """Fetch a block: who sent it, and its SHA-256. Of the original."""
        peer, digest = await self._ask("get_block", cid=cid, seconds=seconds)
        return peer, digest

    async def ask(self, what: str, **arguments: object) -> Any:
        """Ask it something that only its script can."""
        return await self._ask(what, **arguments)

    async def _ask(self, what: str, **arguments: object) -> Any:
        async with self._turn:
            self._requests += 1
            request = {"id": self._requests, "do": what, "timeout": REQUEST_TIMEOUT, **arguments}
            try:
                with trio.fail_after(REQUEST_TIMEOUT):
                    await self._stdin.send_all(json.dumps(request).encode() + b"\n")
                    reply = await self._read_reply()
            except (trio.TooSlowError, trio.BrokenResourceError) as error:
                raise ForeignError(f"{self.name} did not answer {what}: {error!r}") from error
        if reply["id"] != self._requests:
            raise ForeignError(f"{self.name} answered out of turn: {reply}")
        if "error" in reply:
            raise ForeignError(f"{self.name} {what}: {reply['error']}")
        return reply["result"]

    async def _read_reply(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = await self._stdout.receive_some()
            if not data:
                log = self._stderr.read_text(errors="replace")[-2000:]
                raise ForeignError(f"{self.name} ended; its last words: {log}")
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        reply: dict[str, Any] = json.loads(line)
        return reply


@asynccontextmanager
async def process(
    command: Sequence[str], stderr: Path, cwd: Path | None = None, **env: str
) -> AsyncIterator[trio.Process]:
    """A child process with pipes, ended with the context: asked first, then killed."""
    with stderr.open("wb") as log:
        child = await trio.lowlevel.open_process(
            list(command),
            stdin=-1,
            stdout=-1,
            stderr=log,
            cwd=cwd,
            env=dict(_quiet_environment(), **env),
        )
    try:
        yield child
    finally:
        with trio.CancelScope(shield=True):
            child.terminate()
            with trio.move_on_after(STOP_TIMEOUT):
                await child.wait()
            if child.returncode is None:
                child.kill()
                await child.wait()


def _quiet_environment() -> dict[str, str]:
    # Our own paths and settings must not leak into another implementation's interpreter.
    drop = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "NODE_OPTIONS")
    return {name: value for name, value in os.environ.items() if name not in drop}


@asynccontextmanager
async def script_peer(
    name: str, command: Sequence[str], folder: Path, cwd: Path | None = None, **env: str
) -> AsyncIterator[ScriptPeer]:
    stderr = folder / f"{name}.log"
    async with process(command, stderr, cwd, **env) as child:
        peer = ScriptPeer(name, child, stderr)
        await peer.wait_ready()
        yield peer


@asynccontextmanager
async def stock_peer(folder: Path) -> AsyncIterator[ScriptPeer]:
    """py-libp2p's own host, Noise and yamux of its own."""
    command = [sys.executable, str(partners.SCRIPTS / "stock.py")]
    async with script_peer("py-libp2p", command, folder) as peer:
        yield peer


@asynccontextmanager
async def original_peer(
    installed: Path,
    folder: Path,
    dial: Sequence[str] = (),
    protocol: str | None = None,
    relays: Sequence[str] = (),
) -> AsyncIterator[ScriptPeer]:
    """The original lattica. `dial` are the addresses it connects to at start.

    At `relays` it reserves; they must not be in `dial`, for of its two dials one would fail,
    and the reservation with it.

    `protocol` is what it says, and wants to hear, as identify's `protocol_version`; its
    default is `/lattica/1.0.0`.
    """
    home = folder / "original"
    home.mkdir()
    command = [str(installed / "venv/bin/python"), str(partners.SCRIPTS / "original.py")]
    command += ["--folder", str(home), "--port", str(unused_port())]
    for addr in dial:
        command += ["--dial", addr]
    for addr in relays:
        command += ["--relay", addr]
    if protocol is not None:
        command += ["--protocol", protocol]
    async with script_peer("original", command, folder, RUST_LOG="lattica=debug") as peer:
        yield peer


def js_script(
    installed: Path, folder: Path, name: str, script: str, *arguments: str
) -> AbstractAsyncContextManager[ScriptPeer]:
    """js-libp2p, run by one of our scripts."""
    command = [*partners.js_command(installed, script), *arguments]
    return script_peer(name, command, folder, cwd=installed)


def js_peer(
    installed: Path, folder: Path, listen: Sequence[str] = (), psk: bytes | None = None
) -> AbstractAsyncContextManager[ScriptPeer]:
    """js-libp2p. `psk` are the 32 bytes of a private network's key."""
    arguments = [each for addr in listen for each in ("--listen", addr)]
    if psk is not None:
        arguments += ["--psk", psk.hex()]
    return js_script(installed, folder, "js", "peer.mjs", *arguments)
