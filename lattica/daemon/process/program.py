"""The program's side: the other process, calls to it, and streams through it."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from itertools import starmap
from typing import TYPE_CHECKING, Any, Final

import trio

from lattica.config import NodeConfig
from lattica.daemon.errors import ProcessEndedError
from lattica.daemon.process.channel import Channel
from lattica.daemon.process.mirror import Mirror, Shown
from lattica.daemon.process.values import Values
from lattica.nat.base.checks import check_timeout
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import ConnectionClosedError, LatticaError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.keys.peer_id import as_peer_id
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.turns import Turnstile
from lattica.nat.swarm.events import EventBus, EventStream
from lattica.nat.swarm.serving.protocols import APPLICATION, ProtocolTable, StreamHandler
from lattica.nat.swarm.status import PathStatus, PeerStatus

if TYPE_CHECKING:
    from lattica.nat.base.net.multiaddr import Multiaddr
    from lattica.rpc.rpc import Rpc

logger = logging.getLogger(__name__)

_CODE: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from lattica.daemon.process.child import main; main()"
)
_GRACE: Final = 2.0
"""Seconds that the other process has to answer a cancellation, and to end besides `shutdown`."""


class _Waiting:
    """A call whose result has not come."""

    __slots__ = ("done", "result")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: tuple[bool, Any] | None = None


class ProcessNode:
    """A node in another process, as a :class:`~lattica.nat.swarm.host.Host` of this one.

    For the trio thread only; :func:`opened` makes it.
    """

    def __init__(
        self, config: NodeConfig, nursery: trio.Nursery, channel: Channel, values: Values
    ) -> None:
        self.config = config
        self.identity: Identity
        self.values = values
        self.protocols = ProtocolTable(negotiate_timeout=config.swarm.timeouts.negotiate)
        self.callbacks: dict[int, Callable[..., Any]] = {}
        """Functions that the node calls, by number."""
        self.process_id = 0
        self.is_stopping = False
        self._folder = os.getcwd()
        """That of the other process, which stays there."""
        self._nursery = nursery
        self._channel = channel
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._serving: dict[int, str] = {}
        """Protocols of which the node has not said that it serves them."""
        self._mirrors: dict[int, Mirror] = {}
        self._events = EventBus()
        self._budget = MemoryBudget(config.swarm.limits.receive_memory_total)
        self._turnstile = Turnstile()
        self._rpc: Rpc | None = None

    # --- calls ---

    def has_moved(self) -> bool:
        """The program has another working directory than the other process. In any thread."""
        return os.getcwd() != self._folder

    def new_number(self) -> int:
        """Of a callback. In any thread."""
        return next(self._numbers)

    def post(self, *message: object) -> None:
        """Say something that has no answer."""
        self._channel.post(*self.values.encode(message))

    async def request(self, kind: str, *content: object) -> tuple[bool, Any]:
        """Ask for something; whether it was done, and what came of it or the error.

        If cancelled, so is what was asked for; what came of it nevertheless is returned.

        Raises:
            CannotCrossError: there is something in it that is no data.
        """
        number = next(self._numbers)
        message = self.values.encode((kind, number, *content))
        waiting = self._waiting[number] = _Waiting()
        try:
            self._channel.post(*message)
            try:
                await waiting.done.wait()
            except trio.Cancelled:
                self.post("cancel", number)
                with trio.CancelScope(shield=True), trio.move_on_after(_GRACE):
                    await waiting.done.wait()
                if waiting.result is None or not waiting.result[0]:
                    raise
        finally:
            del self._waiting[number]
        assert waiting.result is not None
        return waiting.result

    async def ask(self, kind: str, *content: object) -> Any:
        """:meth:`request`; returns what came of it, or raises the error."""
        is_done, value = await self.request(kind, *content)
        if not is_done:
            raise value
        return value

    async def read(self) -> None:
        """Take what the other process says, until it ends."""
        async for data, descriptors in self._channel.messages():
            kind, *content = self.values.decode(data, descriptors)
            if kind == "done":
                number, is_done, value = content
                protocol = self._serving.pop(number, None)
                if protocol is not None and not is_done:
                    logger.error("%s is not served: %s", protocol, value)
                if (waiting := self._waiting.get(number)) is not None:
                    waiting.result = (is_done, value)
                    waiting.done.set()
            elif kind == "event":
                self._report(*content)
            elif kind == "ask":
                self._nursery.start_soon(self._answer, *content)
            elif kind == "mirror":
                self._take_mirror(*content)
            elif kind == "gone":
                self._gone(*content)
            elif kind == "connection":
                number, is_retired, rtt = content
                self._update(number, is_retired, rtt)
            elif kind == "path":
                self._events.publish(content[0])
            elif kind == "log":
                _log(*content)

    def _report(self, number: int, value: Any) -> None:
        callback = self.callbacks.get(number)
        if callback is None:
            return
        try:
            callback(value)
        except Exception:
            logger.exception("a callback of the program's has failed")

    async def _answer(self, number: int, callback: int, value: Any) -> None:
        try:
            function = self.callbacks[callback]
            result: Any = await trio.to_thread.run_sync(function, value, abandon_on_cancel=True)
            self.post("answer", number, True, None if result is None else repr(result))
        except Exception as error:
            self.post("answer", number, False, error)

    # --- streams ---

    def _take_mirror(self, number: int, shown: Shown, sock: socket.socket) -> None:
        mirror = Mirror(
            sock,
            number,
            shown,
            self.config.swarm,
            is_program=True,
            budget=self._budget,
            turnstile=self._turnstile,
            on_stream=self._serve,
        )
        self._mirrors[number] = mirror
        self._nursery.start_soon(self._run, mirror)

    async def _run(self, mirror: Mirror) -> None:
        try:
            await mirror.run()
        finally:
            self._mirrors.pop(mirror.number, None)

    def _serve(self, stream: Stream) -> None:
        self._nursery.start_soon(self.protocols.serve, stream, lambda: None)

    def _gone(self, number: int, reason: str) -> None:
        if (mirror := self._mirrors.get(number)) is not None:
            mirror.told.set()
            mirror.abort(reason)

    def _update(self, number: int, is_retired: bool, rtt: float | None) -> None:
        if (mirror := self._mirrors.get(number)) is not None:
            mirror.rtt_told = rtt
            if is_retired and mirror.retired_at is None:
                mirror.retired_at = trio.current_time()

    def tick(self) -> None:
        """Once a second."""
        for mirror in list(self._mirrors.values()):
            mirror.tick()

    def _best(self, peer: PeerId) -> Mirror | None:
        usable = [
            mirror
            for mirror in self._mirrors.values()
            if mirror.peer_id == peer and mirror.closed_reason is None and mirror.retired_at is None
        ]
        return max(usable, key=lambda mirror: (not mirror.is_relayed, mirror.number), default=None)

    async def _reach(self, peer: PeerId) -> Mirror:
        number = await self.ask("reach", peer)
        mirror = self._mirrors.get(number)
        if mirror is None:
            raise ConnectionClosedError(f"the connection to {peer} has ended at once")
        return mirror

    async def open_stream(
        self,
        peer: PeerId | str,
        protocol: str | Sequence[str],
        *,
        timeout: float = math.inf,
    ) -> Stream:
        """As :meth:`lattica.node.Node.open_stream`."""
        peer_id = as_peer_id(peer)
        timeout = check_timeout(timeout)
        wait = None if timeout == math.inf else timeout
        with trio.move_on_after(timeout):
            try:
                mirror = self._best(peer_id) or await self._reach(peer_id)
                return await mirror.open(protocol, wait_for_place=wait)
            except ConnectionClosedError:
                mirror = await self._reach(peer_id)
                return await mirror.open(protocol, wait_for_place=wait)
        if (best := self._best(peer_id)) is not None:
            best.raise_if_full()
        raise TimeoutError(f"no stream to {peer_id} within {timeout:g} s")

    def handle(
        self,
        protocol: str,
        handler: StreamHandler,
        *,
        owner: object = APPLICATION,
        replace: bool = False,
        cancel_when_gone: bool = False,
        limit: int | None = None,
    ) -> None:
        """As :meth:`lattica.node.Node.handle`; that something else in the node's process serves it
        is only logged. See :meth:`serve`."""
        self.protocols.handle(
            protocol,
            handler,
            owner=owner,
            replace=replace,
            cancel_when_gone=cancel_when_gone,
            limit=limit,
        )
        number = next(self._numbers)
        self._serving[number] = protocol
        self.post("serve", number, protocol, str(owner), replace)

    async def serve(
        self, protocol: str, handler: StreamHandler, *, replace: bool, limit: int | None
    ) -> None:
        """:meth:`handle`, for the application. Returns when the node serves it."""
        self.protocols.handle(protocol, handler, replace=replace, limit=limit)
        try:
            await self.ask("serve", protocol, str(APPLICATION), replace)
        except LatticaError:
            self.protocols.unhandle(protocol)
            raise

    def unhandle(self, protocol: str, *, owner: object = APPLICATION) -> None:
        """As :meth:`lattica.node.Node.unhandle`."""
        self.protocols.unhandle(protocol, owner=owner)
        self.post("unserve", 0, protocol, str(owner))

    # --- the node, as services see it ---

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """Unknown here: `Lattica.addrs` asks for them."""
        return ()

    @property
    def announcing(self) -> tuple[str, ...]:
        return ()

    async def wait_announced(self, timeout: float, /) -> None:
        await trio.lowlevel.checkpoint()

    async def connect(self, target: PeerId | Sequence[Multiaddr], /) -> PeerId:
        peer: PeerId = await self.ask("call", 0, "connect", (target,), {})
        return peer

    def peers(self) -> tuple[PeerStatus, ...]:
        """The peers with which this process has to do."""
        by_peer: dict[PeerId, list[Mirror]] = {}
        for mirror in self._mirrors.values():
            by_peer.setdefault(mirror.peer_id, []).append(mirror)
        return tuple(starmap(PeerStatus.of, by_peer.items()))

    def path(self, peer: PeerId, /) -> PathStatus | None:
        mirror = self._best(peer)
        if mirror is None:
            return None
        return PathStatus(mirror.path, mirror.remote_addr, None, mirror.age, mirror.rtt, (), None)

    def events(self) -> AbstractContextManager[EventStream]:
        """Changes of paths alone: what services of this process ask for."""
        return self._events.subscribe()

    @property
    def rpc(self) -> Rpc:
        """As :attr:`lattica.node.Node.rpc`: what it serves and calls is in this process."""
        if self._rpc is None:
            from lattica.rpc.rpc import Rpc

            self._rpc = Rpc(self, self._nursery, self.config.rpc)
        return self._rpc

    async def aclose(self) -> None:
        """End what runs here."""
        self.is_stopping = True
        if self._rpc is not None:
            await self._rpc.aclose()
        self._events.close()


@asynccontextmanager
async def opened(
    config: NodeConfig,
    identity: Identity | None,
    values: Values,
    ended: Callable[[str], ProcessEndedError],
) -> AsyncIterator[ProcessNode]:
    """Start the process, and its node; at the end of the block both end.

    `ended` is told how the process has ended, if it was not told to, and makes the error.

    Raises:
        ProcessEndedError: it could not be started, or ends before. And what starting a node raises.
    """
    ours, theirs = socket.socketpair()
    try:
        process = _start(theirs)
    except OSError as error:
        ours.close()
        raise ended(f"it could not be started: {error}") from error
    finally:
        theirs.close()
    channel = Channel(ours)
    try:
        with single_error():
            async with trio.open_nursery() as nursery:
                node = ProcessNode(config, nursery, channel, values)
                node.process_id = process.pid

                async def watch() -> None:
                    await node.read()
                    status = await _status(process)
                    if not node.is_stopping:
                        raise ended(status)

                nursery.start_soon(channel.run)
                nursery.start_soon(watch)
                nursery.start_soon(_tick, node)
                seed = None if identity is None else identity.seed
                level = logging.getLogger("lattica").getEffectiveLevel()
                made: bytes = await node.ask("start", config, seed, level)
                node.identity = Identity(made)
                try:
                    yield node
                finally:
                    with trio.CancelScope(shield=True):
                        await node.aclose()
                        await _stop(node, process)
                nursery.cancel_scope.cancel()
    finally:
        channel.close()
        if process.poll() is None:
            process.kill()
            process.wait()


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    # In this very thread, with whose end the system ends the other process (PR_SET_PDEATHSIG).
    command = [
        sys.executable,
        "-c",
        _CODE,
        str(theirs.fileno()),
        str(os.getpid()),
        json.dumps(sys.path),
    ]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])


async def _tick(node: ProcessNode) -> None:
    while True:
        await trio.sleep(1)
        node.tick()


async def _stop(node: ProcessNode, process: subprocess.Popen[bytes]) -> None:
    with trio.move_on_after(node.config.swarm.timeouts.shutdown + _GRACE):
        node.post("stop", 0)
        await _status(process)


async def _status(process: subprocess.Popen[bytes]) -> str:
    """Wait for its end; how it has ended."""
    pause = 0.001
    while (code := process.poll()) is None:
        await trio.sleep(pause)
        pause = min(0.05, 2 * pause)
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it has ended with status {code}"


def _log(name: str, level: int, text: str) -> None:
    target = logging.getLogger(name)
    if target.isEnabledFor(level):
        target.handle(target.makeRecord(name, level, "", 0, "%s", (text,), None))
