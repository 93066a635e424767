"""The other process: a node, and what the program asks of it.

`main` is what the program starts it with. It ends when the socket to the program does, and on Linux
also when the program's thread that started it ends (a copy of the socket may live on in a process
that the program has forked).
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Final, cast

import trio

from lattica.config import NodeConfig
from lattica.daemon.collector import spare_collector
from lattica.daemon.process.channel import Channel
from lattica.daemon.process.mirrors import Mirrors
from lattica.daemon.process.values import Values
from lattica.facades.blocking import Lattica
from lattica.facades.facade import Content
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.call import Call
from lattica.nat.base.errors import LatticaError, LocalProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.swarm.events import PathChanged
from lattica.node import Node

_PR_SET_PDEATHSIG: Final = 1
_MOST_KEPT: Final = 100
"""Lines of the log that wait until the node has started."""
_MOST_CALLS: Final = 4096
"""Calls of the program's that wait at once."""


class _Calls(Bridge[tuple[Node, Content]]):
    """A bridge of which can be said, in another thread, that a thread's call is given up."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._of_thread: dict[int, Call[Any]] = {}
        self._given_up: set[int] = set()

    def submit_call(self, call: Call[Any]) -> None:
        me = threading.get_ident()
        self._of_thread[me] = call
        super().submit_call(call)
        if me in self._given_up:
            call.abandon()

    def begin(self) -> None:
        """This thread begins with another call of the program's."""
        self._given_up.discard(threading.get_ident())
        self._of_thread.pop(threading.get_ident(), None)

    def give_up(self, thread: int) -> None:
        """Nobody waits for what the thread does any more."""
        self._given_up.add(thread)
        if (call := self._of_thread.get(thread)) is not None:
            call.abandon()


class _ChildLattica(Lattica):
    _bridge: _Calls

    def _make_bridge(self) -> _Calls:
        return _Calls(self._open, name="Lattica")


class Desk:
    """Does what the program asks for."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.values = Values(hold=self._hold, callback=self._function)
        self._objects: dict[int, object] = {}
        self._numbers = itertools.count(1)
        self._asked: dict[int, Future[object]] = {}
        self._threads: dict[int, int] = {}
        """Of the calls that are under way."""
        self._given_up: set[int] = set()
        self._token: trio.lowlevel.TrioToken | None = None
        self._limiter = trio.CapacityLimiter(_MOST_CALLS)

    async def start(self) -> tuple[int, NodeConfig, bytes | None, int] | None:
        """What the program wants; None: it is gone."""
        async for data, descriptors in self._channel.messages():
            _, number, *wanted = self.values.decode(data, descriptors)
            return number, *wanted
        return None

    def post(self, *message: object, may_lose: bool = False) -> None:
        """Tell the program something. In the trio thread."""
        self._channel.post(*self.values.encode(message), may_lose=may_lose)

    def soon(self, *message: object, may_lose: bool = False) -> None:
        """:meth:`post`, from any thread."""
        self._post_soon(self.values.encode(message), may_lose)

    def _post_soon(self, message: tuple[bytes, list[int]], may_lose: bool = False) -> None:
        assert self._token is not None
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(partial(self._channel.post, *message, may_lose=may_lose))

    async def run(self, lattica: _ChildLattica, node: Node, number: int, log: _Forward) -> None:
        """Serve the program, until it is gone or wants no more."""
        self._token = trio.lowlevel.current_trio_token()
        log.begin(self.soon)
        self._objects[0] = lattica
        bridge = lattica._bridge
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._channel.run)
            mirrors = Mirrors(node, nursery, self._channel.post, self.values)
            nursery.start_soon(self._tell_paths, node)
            nursery.start_soon(mirrors.watch)
            self.post("done", number, True, node.identity.seed)
            async for data, descriptors in self._channel.messages():
                kind, number, *content = self.values.decode(data, descriptors)
                if kind == "call":
                    nursery.start_soon(self._call, bridge, number, *content)
                elif kind == "cancel":
                    self._cancel(bridge, number)
                elif kind == "reach":
                    nursery.start_soon(self._reach, node, mirrors, number, *content)
                elif kind == "serve":
                    self._answer(number, lambda: mirrors.serve(*content))  # noqa: B023 - at once
                elif kind == "unserve":
                    with suppress(LatticaError):
                        mirrors.unserve(*content)
                elif kind == "drop":
                    self._objects.pop(number, None)
                elif kind == "answer":
                    is_done, value = content
                    asked = self._asked.pop(number, None)
                    if asked is not None and is_done:
                        asked.set_result(value)
                    elif asked is not None:
                        asked.set_exception(value)
                elif kind == "settle":
                    self.post("done", number, True, None)
                elif kind == "stop":
                    break
            nursery.cancel_scope.cancel()

    def _answer(self, number: int, function: Callable[[], object]) -> None:
        try:
            self.post("done", number, True, function())
        except Exception as error:
            self.post("done", number, False, error)

    async def _reach(self, node: Node, mirrors: Mirrors, number: int, peer: Any) -> None:
        try:
            connection = await node._dial(peer, [])
            self.post("done", number, True, mirrors.of(connection).number)
        except Exception as error:
            self.post("done", number, False, error)

    async def _tell_paths(self, node: Node) -> None:
        with node.events() as events:
            async for event in events:
                if isinstance(event, PathChanged):
                    self.post("path", event)

    # --- calls ---

    async def _call(
        self, bridge: _Calls, number: int, on: int, name: str, args: Any, keywords: Any
    ) -> None:
        await trio.to_thread.run_sync(
            self._work,
            bridge,
            number,
            on,
            name,
            args,
            keywords,
            abandon_on_cancel=True,
            limiter=self._limiter,
        )

    def _work(
        self, bridge: _Calls, number: int, on: int, name: str, args: Any, keywords: Any
    ) -> None:
        self._threads[number] = threading.get_ident()
        bridge.begin()
        try:
            if number in self._given_up:
                raise LocalProtocolError("the caller abandoned the call")
            value = _done(self._objects[on], name, args, keywords)
            message = self.values.encode(("done", number, True, value))
        except BaseException as error:
            message = self.values.encode(("done", number, False, error))
        finally:
            del self._threads[number]
            self._given_up.discard(number)
        self._post_soon(message)

    def _cancel(self, bridge: _Calls, number: int) -> None:
        thread = self._threads.get(number)
        if thread is not None:
            bridge.give_up(thread)
        else:
            self._given_up.add(number)

    def _hold(self, value: object) -> int | None:
        from lattica.daemon.process.remote import is_remote

        if not is_remote(type(value)):
            return None
        number = next(self._numbers)
        self._objects[number] = value
        return number

    def _function(self, number: int, waits: bool) -> Callable[[object], object]:
        def ask(value: object) -> object:
            asked: Future[object] = Future()
            ask_number = next(self._numbers)
            self._asked[ask_number] = asked
            self.soon("ask", ask_number, number, value)
            return asked.result()

        return ask if waits else lambda value: self.soon("event", number, value)


def _done(target: Any, name: str, args: Any, keywords: Any) -> object:
    """What comes of it; an iterable that is no object of the facades comes as a list."""
    if name == "__iter__":
        return list(target)
    if name == ".get":
        return getattr(target, *args)
    if name == ".set":
        setattr(target, *args)
        return None
    return getattr(target, name)(*args, **keywords)


class _Forward(logging.Handler):
    """Gives the program what is logged here; before it can, it keeps some of it."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[tuple[str, int, str]] | None = []
        self._say: Callable[..., None] | None = None

    def begin(self, say: Callable[..., None]) -> None:
        """From now on `say` is how it is given."""
        with cast("AbstractContextManager[object]", self.lock):
            for line in self._kept or ():
                say("log", *line, may_lose=True)
            self._kept = None
            self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            line = record.name, record.levelno, text
            if self._say is not None:
                self._say("log", *line, may_lose=True)
            elif self._kept is not None and len(self._kept) < _MOST_KEPT:
                self._kept.append(line)


def _forwarded(level: int) -> _Forward:
    forward = _Forward()
    log = logging.getLogger("lattica")
    log.setLevel(level)
    log.propagate = False
    log.addHandler(forward)
    return forward


def main() -> None:
    """Serve the program at the other end of the socket whose descriptor is the first argument."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the program's
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(0)
    serve(socket.socket(fileno=descriptor))


def serve(sock: socket.socket) -> None:
    """Start a node as the program wants it, and serve until the program is gone or says stop."""
    wanted = trio.run(_wanted, sock.dup())
    if wanted is None:
        return
    number, config, seed, level = wanted
    log = _forwarded(level)
    identity = None if seed is None else Identity(seed)
    lattica = _ChildLattica(config, identity=identity)
    spare_collector()
    try:
        lattica.start()
    except Exception as error:
        trio.run(_fail, sock, number, error)
        return
    try:
        lattica._bridge.call(_serve, sock, lattica, number, log)
    finally:
        lattica.close()


async def _wanted(sock: socket.socket) -> Any:
    channel = Channel(sock)
    try:
        return await Desk(channel).start()
    finally:
        channel.close()


async def _serve(sock: socket.socket, lattica: _ChildLattica, number: int, log: _Forward) -> None:
    channel = Channel(sock)
    desk = Desk(channel)
    opened = lattica._opened
    assert opened is not None
    node = opened[0]
    try:
        await desk.run(lattica, node, number, log)
    finally:
        channel.close()


async def _fail(sock: socket.socket, number: int, error: Exception) -> None:
    channel = Channel(sock)
    desk = Desk(channel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        desk.post("done", number, False, error)
        with trio.move_on_after(1):
            async for _ in channel.messages():
                pass
        nursery.cancel_scope.cancel()
    channel.close()
