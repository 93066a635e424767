"""The calling side of the control plane: one session with a peer, over one stream at a time."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import outcome
import trio

from lattica.nat.base.errors import LatticaError, RemoteProtocolError, UnsupportedProtocolError
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.stream import Stream
from lattica.rpc.errors import DeadlineExceededError, UnavailableError, UnimplementedError
from lattica.rpc.protocol.client_core import ClientCore, Outcome, PendingCall
from lattica.rpc.protocol.frames import CONTROL, NIL, SESSION_BYTES

if TYPE_CHECKING:
    from lattica.rpc.client.client import Client
    from lattica.rpc.client.peer import Peer

logger = logging.getLogger(__name__)

_RECONNECT_PAUSE = 0.05
"""Seconds before the second attempt to get back to a peer; they double up to half a second."""
_MAX_DOUBLINGS = 4


class ControlLink:
    """Calls to one peer over the control plane.

    While calls are under way, a stream that is lost is replaced; after `RpcConfig.resume_window`
    seconds without success they fail. When the peer is reached on a better path, the session goes
    over.
    """

    def __init__(self, client: Client, peer: Peer) -> None:
        self._client = client
        self._peer = peer
        self._core = ClientCore(os.urandom(SESSION_BYTES), client.decoder, trio.current_time)
        self._stream: Stream | None = None
        self._running = False
        self._has_room = True
        self._room = trio.Lock()
        self._places = trio.lowlevel.ParkingLot()
        self._timer = math.inf
        self._timer_changed = trio.Event()
        self._timer_runs = False

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._core.pending)

    @property
    def session(self) -> bytes:
        return self._core.session

    @property
    def going_away(self) -> bool:
        """The peer takes no new calls."""
        return self._core.going_away

    async def call(
        self, method: bytes, arguments: bytes, deadline: float, metadata: bytes = NIL
    ) -> tuple[int, Any]:
        """Make a call; its number, and its result (ELSEWHERE if that is to be fetched).

        Cancelled, the peer is told to give it up. Raises RpcError.
        """
        if not self._has_room:
            await self._wait_for_room()
        if len(self._core.pending) >= self._client.config.max_calls_to_peer:
            await self._wait_for_place(deadline)
        core = self._core
        if core.going_away and core.is_live:
            await trio.lowlevel.checkpoint()
            raise UnavailableError("the peer is going away", may_have_run=False)
        if self._client.tasks.closed:
            await trio.lowlevel.checkpoint()
            raise UnavailableError("this node's RPC has ended", may_have_run=False)
        task = trio.lowlevel.current_task()
        call = self._start(
            method,
            arguments,
            deadline,
            metadata,
            lambda result: trio.lowlevel.reschedule(task, outcome.Value(result)),
        )

        def abort(_: object) -> trio.lowlevel.Abort:
            self._cancel(core, call)
            return trio.lowlevel.Abort.SUCCEEDED

        result: Outcome = await trio.lowlevel.wait_task_rescheduled(abort)
        if result.error is not None:
            try:
                raise result.error
            finally:
                del result  # which has the error, that leads to this frame
        return call.id, result.value

    def begin(
        self,
        method: bytes,
        arguments: bytes,
        deadline: float,
        metadata: bytes,
        ended: Callable[[Outcome], None],
    ) -> Callable[[], None] | None:
        """:meth:`call`, for who has no task; what cancels it. None, and nothing has happened, if
        there is something to be waited for before it can be sent.

        `ended` is told of the outcome, unless it is cancelled, and must not raise.
        """
        core = self._core
        if (
            not self._has_room
            or not core.is_live
            or core.going_away
            or len(core.pending) >= self._client.config.max_calls_to_peer
            or self._client.tasks.closed
        ):
            return None
        call = self._start(method, arguments, deadline, metadata, ended)
        return partial(self._cancel, core, call)

    def _start(
        self,
        method: bytes,
        arguments: bytes,
        deadline: float,
        metadata: bytes,
        ended: Callable[[Outcome], None],
    ) -> PendingCall:
        core = self._core
        call = core.start(method, arguments, deadline=deadline, metadata=metadata, owner=ended)
        if core.is_live:
            self._write(call.frame)
        elif not self._running:
            self._running = True
            self._client.tasks.start_soon(self._run)
        if deadline < self._timer:
            self._set_timer(deadline)
        return call

    def _cancel(self, core: ClientCore, call: PendingCall) -> None:
        self._write(core.cancel(call))
        if self._places:
            self._places.unpark()

    # --- writing ---

    def _write(self, data: bytes) -> None:
        if data and self._stream is not None:
            try:
                if not self._stream.send_nowait(data):
                    self._has_room = False
            except LatticaError:
                pass  # whoever reads finds it lost

    async def _wait_for_room(self) -> None:
        async with self._room:
            while not self._has_room and self._stream is not None:
                stream = self._stream
                try:
                    await stream.wait_sendable()
                except LatticaError:
                    await trio.lowlevel.checkpoint()
                    return
                if stream is self._stream:
                    self._has_room = True

    async def _wait_for_place(self, deadline: float) -> None:
        limit = self._client.config.max_calls_to_peer
        with trio.CancelScope(deadline=deadline):
            while len(self._core.pending) >= limit:
                await self._places.park()
            return
        raise DeadlineExceededError(
            f"{limit} calls to the peer were under way (rpc.max_calls_to_peer)", may_have_run=False
        )

    # --- outcomes ---

    def _tell(self, outcomes: list[Outcome]) -> None:
        for each in outcomes:
            each.call.owner(each)
        if self._places:
            self._places.unpark(count=max(1, len(outcomes)))

    def _set_timer(self, deadline: float) -> None:
        self._timer = deadline
        if self._timer_runs:
            self._timer_changed.set()
        else:
            self._timer_runs = True
            self._client.tasks.start_soon(self._run_timer)

    async def _run_timer(self) -> None:
        try:
            while self._core.pending:
                self._timer_changed = trio.Event()
                with trio.move_on_at(self._timer):
                    await self._timer_changed.wait()
                    continue
                ended, frames = self._core.expire()
                self._write(frames)
                self._tell(ended)
                self._timer = self._core.next_timer
                if self._timer == math.inf:
                    break
        finally:
            self._timer_runs = False
            self._timer = math.inf

    # --- the stream ---

    async def _run(self) -> None:
        """Be connected while there are calls, and until the stream ends."""
        failures = 0
        give_up = math.inf
        try:
            while True:
                error: Exception | None = None
                is_superseded = False
                core, session = self._core, self._core.session
                answers, start = core.answers, trio.current_time()
                try:
                    stream = await self._open()
                except (LatticaError, TimeoutError, trio.TooSlowError) as reason:
                    self._tell(self._unreachable(reason))
                    error = reason
                else:
                    await self._be_on(stream)
                    is_superseded = stream.is_superseded
                if not self._core.pending:
                    return
                now = trio.current_time()
                window = self._client.config.resume_window
                if error is None and core.is_greeted:
                    give_up = math.inf
                    if core.session != session:
                        continue  # the server has just said that it knows only the next one
                    is_of_use = core.answers > answers or now - start >= window
                    if is_of_use or is_superseded:
                        failures = 0
                    if not failures:
                        failures = 1
                        continue
                # A server that greets and then ends the stream is not come back to at once.
                give_up = min(give_up, now + window)
                if now >= give_up:
                    reason_text = f": {error}" if error is not None else ""
                    self._tell(self._core.fail_all(f"the peer was lost in mid-call{reason_text}"))
                    return
                failures += 1
                await trio.sleep(min(0.5, _RECONNECT_PAUSE * 2 ** min(failures, _MAX_DOUBLINGS)))
        finally:
            self._running = False
            if self._core.pending:
                self._tell(self._core.fail_all("this node is shutting down"))

    async def _open(self) -> Stream:
        """A stream to the peer; bounded by the window in which calls can be resumed."""
        with trio.fail_after(max(self._client.config.resume_window, 1.0)):
            return await self._client.host.open_stream(self._peer.id, CONTROL)

    def _unreachable(self, error: BaseException) -> list[Outcome]:
        text = f"{self._peer.id} cannot be reached: {str(error) or type(error).__name__}"
        if isinstance(error, UnsupportedProtocolError):
            return self._unsupported(error)
        return self._core.fail_unsent(text, error)

    async def _be_on(self, stream: Stream) -> None:
        """Take the session over to a stream, and read that until it is lost or superseded."""
        self._stream = stream
        self._has_room = True
        try:
            self._write(self._core.connect())
            await stream.receive_by(partial(self._received, stream))
        except LatticaError as error:
            if isinstance(error, UnsupportedProtocolError):
                self._tell(self._unsupported(error))
        finally:
            if self._stream is stream:
                self._stream = None
                self._core.lose()
            stream.close()

    def _received(self, stream: Stream, data: memoryview) -> bool:
        """Take what the server has sent; whether more of it is to be read."""
        if self._stream is not stream:
            return False
        was_greeted = self._core.is_greeted
        outcomes, frames = self._core.receive(data)
        if outcomes:
            self._tell(outcomes)
        if self._core.violation is not None:
            self._give_up(stream, self._core.violation)
            return False
        if self._core.is_lost:
            self._core.renew(os.urandom(SESSION_BYTES))
            return False
        self._write(frames)
        if not was_greeted:
            self.path_changed()  # it may have, before
        return self._stream is stream

    def _give_up(self, stream: Stream, violation: RemoteProtocolError) -> None:
        """The server has broken the protocol: its calls have failed, and others may be made
        anew.
        """
        peer_log.log(
            logger,
            logging.WARNING,
            self._peer.id,
            "stream reset: peer breaks RPC: %s peer=%s",
            violation,
            self._peer.id,
        )
        stream.reset("the peer breaks RPC")
        self._renew()

    def _unsupported(self, error: UnsupportedProtocolError) -> list[Outcome]:
        """It was assumed that the peer speaks RPC, and it does not: nothing has run."""
        ended = [
            Outcome(each.call, error=UnimplementedError(str(error), may_have_run=False))
            for each in self._core.fail_all("")
        ]
        self._renew()
        return ended

    def _renew(self) -> None:
        """Begin anew, as if nothing had been."""
        self._core = ClientCore(os.urandom(SESSION_BYTES), self._client.decoder, trio.current_time)

    def path_changed(self) -> None:
        """There may be a better path: go over to it, if there is, and the server knows the session:
        one that it has not heard of yet would be lost, and its calls might have run.
        """
        stream = self._stream
        if stream is not None and stream.is_superseded and self._core.is_greeted:
            # What is under way is resumed there: nothing is lost, and nothing runs twice.
            self._stream = None
            self._core.lose()
            stream.reset("the session goes over to a better path")

    def close(self) -> None:
        """End the session; the peer gives up what is under way."""
        if self._stream is not None:
            self._stream.close()
