"""A unary call without a task: what it comes to is told by a callback.

Whoever calls from another thread has no task that would wait, and to make one for each call costs
more than the call. Most calls need none: they are written, and answered. What there is to be waited
for then, a retry or a large result, is waited for in a task that is made for it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.errors import RpcError, StatusCode, UnavailableError
from lattica.rpc.protocol.client_core import ELSEWHERE, Outcome

if TYPE_CHECKING:
    from lattica.rpc.client.client import CalledMethod, Client
    from lattica.rpc.client.options import CallOptions
    from lattica.rpc.client.peer import Peer

Done = Callable[[Any, BaseException | None], None]
"""Gets the result, or the error if that is not None, in the trio thread. It must not raise."""


class BegunCall:
    """A call that is under way, made by :meth:`begin`. `done` is called once, or never if the call
    is cancelled before.
    """

    __slots__ = ("_arguments", "_client", "_deadline", "_done", "_method", "_options", "_peer",
                 "_scope", "_start", "_withdraw")  # fmt: skip

    def __init__(
        self,
        client: Client,
        peer: Peer,
        method: CalledMethod,
        arguments: Encoded,
        deadline: float,
        options: CallOptions,
        done: Done,
    ) -> None:
        self._client = client
        self._peer = peer
        self._method = method
        self._arguments = arguments
        self._deadline = deadline
        self._options = options
        self._done: Done | None = done
        self._scope: trio.CancelScope | None = None
        self._withdraw: Callable[[], None] | None = None
        self._start = time.perf_counter()

    def begin(self) -> bool:
        """Write it; False if that has to be waited for. Then nothing has happened."""
        self._withdraw = self._peer.begin(
            self._method.packed, self._arguments, self._deadline, self._options, self._ended
        )
        if self._withdraw is None:
            return False
        self._method.counters.active += 1
        self._peer.budget.called()
        return True

    def cancel(self) -> None:
        """Give it up: the peer is told, and nobody else is. Idempotent."""
        if self._done is None:
            return
        self._done = None
        self._method.counters.ended(StatusCode.CANCELLED, time.perf_counter() - self._start)
        if self._withdraw is not None:
            self._withdraw()
        if self._scope is not None:
            self._scope.cancel()

    def _ended(self, outcome: Outcome) -> None:
        self._withdraw = None
        if outcome.error is not None:
            pause = self._client.pause_after(
                outcome.error, 1, self._peer, self._method, self._deadline, self._options
            )
            if pause is None:
                self._tell(None, outcome.error)
            else:
                self._go_on(partial(self._try_again, pause))
        elif outcome.value is ELSEWHERE:
            packed, call = self._method.packed, outcome.call.id
            self._go_on(partial(self._peer.fetch, packed, call, self._deadline))
        else:
            self._tell(outcome.value, None)

    def _go_on(self, rest: Callable[[], Awaitable[Any]]) -> None:
        if self._client.tasks.closed:
            self._tell(None, UnavailableError("this node's RPC has ended"))
        else:
            self._scope = trio.CancelScope()
            self._client.tasks.start_soon(self._wait, self._scope, rest)

    async def _wait(self, scope: trio.CancelScope, rest: Callable[[], Awaitable[Any]]) -> None:
        try:
            with scope:
                self._tell(await rest(), None)
        except trio.Cancelled:
            self._tell(None, UnavailableError("this node is shutting down"))
            raise
        except Exception as error:
            self._tell(None, error)

    async def _try_again(self, pause: float) -> Any:
        self._client.retries += 1
        await trio.sleep(pause)
        return await self._client.attempts(
            self._peer, self._method, self._arguments, self._deadline, self._options, set(), made=1
        )

    def _tell(self, value: Any, error: BaseException | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            code = StatusCode.OK if error is None else StatusCode.CANCELLED
            if isinstance(error, RpcError):
                code = error.code
            self._method.counters.ended(code, time.perf_counter() - self._start)
            done(value, error)
