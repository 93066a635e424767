"""`Lattica(process=True)`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Never, cast

from lattica.config import NodeConfig, load_config
from lattica.daemon.errors import ProcessEndedError
from lattica.daemon.process.program import ProcessNode, opened
from lattica.daemon.process.remote import call, made, remote_method, remote_property
from lattica.daemon.process.values import Values
from lattica.facades.blocking import Lattica
from lattica.facades.rpc.blocking import BlockingRpc
from lattica.facades.streams.blocking import BlockingStream
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.handler_threads import MAX_HANDLER_THREADS
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.swarm.serving.handler_kind import check_plain_handler

logger = logging.getLogger(__name__)

HERE: Final = frozenset(
    {
        "builder",
        "close",
        "config",
        "handle",
        "identity",
        "open_stream",
        "peer_id",
        "process_id",
        "rpc",
        "start",
        "unhandle",
    }
)
"""What is the program's own part: streams, handlers and RPC. The rest is called there."""


class _ProcessBridge(Bridge[tuple[Any, Any]]):
    """A bridge that knows whether the node's process is there."""

    ended: str | None = None
    """How that has ended, though nobody told it to."""

    def closed_error(self) -> LatticaError:
        if self.ended is None:
            return super().closed_error()
        self._failure_told = True
        return self.ended_error(self.ended)

    @staticmethod
    def ended_error(how: str) -> ProcessEndedError:
        return ProcessEndedError(f"the process of this node is gone: {how}")

    def has_ended(self, how: str) -> ProcessEndedError:
        """Note it."""
        self.ended = how
        error = self.ended_error(how)
        if self.is_open:
            logger.error("%s", error)
        return error

    def _log_failure(self, exc: BaseException) -> None:
        if self.ended is None:
            super()._log_failure(exc)


class ProcessLattica(Lattica):
    """A :class:`~lattica.facades.blocking.Lattica` whose node is in a process of its own.

    `Lattica(process=True)` makes it. What is different:

    - Handlers, services and stubs run in this process, but for handlers that are given by name; all
      else, in the other one, goes on while this one's interpreter is busy.
    - Functions whose answer the node would wait for cannot be given to it
      (:class:`~lattica.errors.CannotCrossError`): `Topic.set_validator`, and `source` of `expose`.
    - If the other process ends, all calls raise :class:`~lattica.errors.ProcessEndedError`.
    """

    _bridge: _ProcessBridge
    _number = 0
    """Of the object in the other process that this one stands for."""

    def __init__(
        self,
        config: NodeConfig | None = None,
        *,
        identity: Identity | None = None,
        max_handler_threads: int = MAX_HANDLER_THREADS,
        process: bool = True,
        **settings: Never,
    ) -> None:
        super().__init__(
            config, identity=identity, max_handler_threads=max_handler_threads, **settings
        )
        self._there: set[str] = set()
        """Protocols whose handlers run in the other process."""

    def _make_bridge(self) -> _ProcessBridge:
        return _ProcessBridge(self._open, name="Lattica")

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[Any, Any]]:
        config = load_config() if self._config is None else self._config
        values = Values(held=lambda number, kind: made(self._bridge, program, number, kind))
        process = opened(config, self._identity, values, self._bridge.has_ended)
        self._bridge.linger = config.swarm.timeouts.shutdown
        async with process as program:
            yield program, None

    @property
    def _program(self) -> ProcessNode:
        """What is here for the node; raises unless it runs."""
        return cast("ProcessNode", self._node)

    @property
    def process_id(self) -> int | None:
        return self._program.process_id

    @property
    def rpc(self) -> BlockingRpc:
        """Calls to other peers, and what this node serves to them (`docs/rpc.md`)."""
        return _ProcessRpc(self._bridge, self._node)

    def handle(
        self,
        protocol: str,
        handler: Callable[[BlockingStream], object] | str,
        *,
        replace: bool = False,
        limit: int | None = None,
    ) -> None:
        program = self._program
        if isinstance(handler, str):
            if protocol in program.protocols:
                self._bridge.call_plain(program.unhandle, protocol)
            options = {"replace": replace, "limit": limit}
            call(self, "handle", (protocol, handler), options)
            self._there.add(protocol)
            return
        function = handler
        check_plain_handler(function)
        if protocol in self._there:
            self.unhandle(protocol)

        async def handle() -> None:
            await program.serve(
                protocol,
                lambda stream: self._handlers.serve(function, stream),
                replace=replace,
                limit=limit,
            )

        self._bridge.call(handle)

    def unhandle(self, protocol: str) -> None:
        if protocol not in self._there:
            super().unhandle(protocol)
            program = self._program
            self._bridge.call(lambda: program.ask("settle"))  # until it is served no more
        else:
            self._there.discard(protocol)
            call(self, "unhandle", (protocol,), {})

    unhandle.__doc__ = Lattica.unhandle.__doc__
    handle.__doc__ = Lattica.handle.__doc__


class _ProcessRpc(BlockingRpc):
    """Is served when :meth:`serve` returns."""

    def serve(self, service: object, **options: Any) -> None:
        super().serve(service, **options)
        program: Any = self._node
        self._bridge.call(lambda: program.ask("settle"))

    serve.__doc__ = BlockingRpc.serve.__doc__


def _make_remote() -> None:
    for name, member in vars(Lattica).items():
        if name.startswith("_") or name in HERE:
            continue
        if isinstance(member, property):
            setattr(ProcessLattica, name, remote_property(name, member))
        elif callable(member):
            setattr(ProcessLattica, name, remote_method(member))


_make_remote()
