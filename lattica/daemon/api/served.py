"""A service of this program's that a node serves: what runs its handlers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from lattica.daemon.api.values import unpack
from lattica.daemon.errors import DaemonError
from lattica.facades.closable import Closable
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc.errors import RpcError, StatusCode

if TYPE_CHECKING:
    from lattica.daemon.api.client import NodeClient, Responses
    from lattica.daemon.api.pb import node_pb2 as pb

logger = logging.getLogger(__name__)

Handler = Callable[..., object]

caller: ContextVar[str] = ContextVar("caller")
"""In a handler, the ID of the peer that calls it, as its connection has proved."""


class Served(Closable):
    """What :meth:`lattica.daemon.api.client.NodeClient.serve` returns: it lasts until it is closed,
    the client is, or the node ends."""

    def __init__(
        self,
        client: NodeClient,
        calls: Responses[pb.ServedCall],
        handlers: Mapping[str, Handler],
        threads: int,
    ) -> None:
        self._client = client
        self._calls = calls
        self._handlers = dict(handlers)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lattica-handler")
        self._running: dict[int, Future[None]] = {}
        self._is_closed = False
        self._ended = threading.Event()
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="lattica-served", daemon=True).start()

    def close(self) -> None:
        """Serve no more; calls that run are finished, but nobody waits for them. Idempotent."""
        self._is_closed = True
        self._calls.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, so many seconds at most; whether it has.

        Raises:
            DaemonError: the node has ended.
        """
        has_ended = self._ended.wait(timeout)
        if self._error is not None:
            raise self._error
        return has_ended

    def _run(self) -> None:
        try:
            for call in self._calls:
                if call.cancelled:
                    if (future := self._running.get(call.id)) is not None:
                        future.cancel()
                else:
                    self._begin(call)
        except Exception as error:
            if not self._is_closed:
                self._error = error
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._ended.set()

    def _begin(self, call: pb.ServedCall) -> None:
        future = self._running[call.id] = self._pool.submit(self._answer, call)
        future.add_done_callback(lambda _: self._running.pop(call.id, None))

    def _answer(self, call: pb.ServedCall) -> None:
        caller.set(call.peer_id)
        code, message, result = 0, "", None
        try:
            keywords = unpack(call.keywords) if call.keywords else {}
            result = self._handlers[call.method](*unpack(call.arguments), **keywords)
        except RpcError as error:
            code, message = int(error.code), error.message
        except Exception as error:
            logger.exception("handler of %s failed", call.method)
            code, message = int(StatusCode.UNKNOWN), f"{type(error).__name__}: {error}"
        with suppress(DaemonError):  # the node has ended
            try:
                self._client.answer(call.id, result, code=code, message=message)
            except LocalProtocolError as error:  # a result that is no plain data
                code = int(StatusCode.INTERNAL)
                self._client.answer(call.id, code=code, message=str(error))
