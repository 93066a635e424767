"""The API's server: gRPC's threads on one side, trio on the other.

Each call has a thread of gRPC's and a task of trio's. When its client is gone, or its deadline has
passed, the task is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import trio
from google.protobuf.message import Message

from lattica.daemon.api import socket_file
from lattica.daemon.api.call_threads import CallThreads
from lattica.daemon.api.failures import CLASS_KEY, status_of
from lattica.daemon.api.grpc_needed import import_grpc
from lattica.daemon.api.methods import Methods
from lattica.daemon.api.methods.base import QUEUE, Emit
from lattica.daemon.api.room import check_room
from lattica.daemon.api.service_table import MAX_MESSAGE, SERVICE, MethodSpec, methods
from lattica.nat.base.concurrency.exception_groups import unwrapped
from lattica.rpc.errors import StatusCode

logger = logging.getLogger(__name__)

MAX_CALLS = 64
"""Calls at a time, subscriptions among them; more are refused with RESOURCE_EXHAUSTED."""
_GRACE = 1.0
"""Seconds that calls have to end when the server does."""
_STOP_TIMEOUT = 10.0
"""Seconds after which gRPC is left alone: it never says that it has stopped once its thread has
ended, for want of memory for instance."""


@asynccontextmanager
async def serving(methods_of_node: Methods, path: Path) -> AsyncIterator[None]:
    """Serve the API at a socket in this block.

    Raises:
        DaemonError: grpcio is not installed, another daemon listens there, or the system has no
            room for gRPC.
        ConfigError: no socket can be made there.
    """
    await trio.to_thread.run_sync(check_room)
    grpc = import_grpc()
    with socket_file.held(path) as bound:
        async with trio.open_nursery() as nursery:
            calls = _Calls(grpc, methods_of_node, nursery)
            threads = CallThreads(MAX_CALLS, "lattica-api")
            server = grpc.server(
                threads,
                handlers=[calls.handler()],
                maximum_concurrent_rpcs=MAX_CALLS,
                options=[
                    ("grpc.max_receive_message_length", MAX_MESSAGE),
                    ("grpc.max_send_message_length", MAX_MESSAGE),
                ],
            )
            server.add_insecure_port(f"unix:{bound}")
            server.start()
            try:
                socket_file.publish(bound, path)
                yield
            finally:
                calls.stop()
                with trio.CancelScope(shield=True):
                    stopped = server.stop(_GRACE)
                    if not await trio.to_thread.run_sync(stopped.wait, _STOP_TIMEOUT):
                        logger.warning("gRPC has not stopped within %.0f s", _STOP_TIMEOUT)
                threads.shutdown()  # which gRPC leaves to others
                nursery.cancel_scope.cancel()


class _Calls:
    """From a call's thread into trio and back."""

    def __init__(self, grpc: Any, methods_of_node: Methods, nursery: trio.Nursery) -> None:
        self._grpc = grpc
        self._methods = methods_of_node
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._scopes: set[trio.CancelScope] = set()
        self._is_stopping = False
        self._codes = {code.value[0]: code for code in grpc.StatusCode}

    def handler(self) -> Any:
        """All methods, as gRPC takes them."""
        return self._grpc.method_handlers_generic_handler(
            SERVICE, {spec.name: self._handler(spec) for spec in methods()}
        )

    def stop(self) -> None:
        """Cancel all calls, in the trio thread."""
        self._is_stopping = True
        for scope in self._scopes:
            scope.cancel()

    def _handler(self, spec: MethodSpec) -> Any:
        method = getattr(self._methods, spec.attribute)
        kind = "unary_stream" if spec.streams else "unary_unary"
        run = self._stream if spec.streams else self._unary
        make = getattr(self._grpc, f"{kind}_rpc_method_handler")
        return make(
            lambda request, context: run(method, request, context),
            request_deserializer=spec.request.FromString,
            response_serializer=spec.response.SerializeToString,
        )

    def _scope(self, context: Any) -> trio.CancelScope:
        """What ends with the call, whoever ends it."""
        scope = trio.CancelScope()

        def ended() -> None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(scope.cancel)

        if not context.add_callback(ended):  # it has ended already
            scope.cancel()
        return scope

    def _unary(self, method: Any, request: Message, context: Any) -> Message:
        scope = self._scope(context)

        async def run() -> Message:
            with self._counted(scope):
                response: Message = await method(request)
                return response
            raise trio.TooSlowError  # cancelled

        try:
            return trio.from_thread.run(run, trio_token=self._token)
        except BaseException as error:
            self._abort(context, error)

    def _stream(self, method: Any, request: Message, context: Any) -> Iterator[Message]:
        scope = self._scope(context)
        send, receive = trio.open_memory_channel[Message](QUEUE)
        failed: list[BaseException] = []

        async def run() -> None:
            async with send:
                try:
                    with self._counted(scope):
                        await method(request, Emit(send))
                except Exception as error:
                    failed.append(error)

        try:
            trio.from_thread.run_sync(self._nursery.start_soon, run, trio_token=self._token)
            while True:
                yield trio.from_thread.run(receive.receive, trio_token=self._token)
        except GeneratorExit:  # the client is gone, and so is its task
            raise
        except trio.EndOfChannel:
            if failed:
                self._abort(context, failed[0])
            if self._is_stopping:
                self._abort(context, trio.RunFinishedError())
        except BaseException as error:
            self._abort(context, error)

    @contextmanager
    def _counted(self, scope: trio.CancelScope) -> Iterator[None]:
        """In the scope, which the end of the server cancels, too. In the trio thread."""
        self._scopes.add(scope)
        if self._is_stopping:
            scope.cancel()
        try:
            with scope:
                yield
        finally:
            self._scopes.discard(scope)

    def _abort(self, context: Any, error: BaseException) -> NoReturn:
        """End a call with what its client is to know."""
        if isinstance(error, BaseExceptionGroup):
            error = unwrapped(error)
        stopped = (trio.RunFinishedError, trio.Cancelled, trio.TooSlowError, RuntimeError)
        if isinstance(error, stopped) and (self._is_stopping or not context.is_active()):
            context.abort(self._grpc.StatusCode.UNAVAILABLE, "it was told to")
        code, message, name = status_of(error)
        if code is StatusCode.INTERNAL:
            logger.error("a call of the local API failed", exc_info=error)
        context.set_trailing_metadata(((CLASS_KEY, name),))
        context.abort(self._codes[int(code)], message)
        raise AssertionError  # abort raises
