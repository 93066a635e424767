"""A session of the control plane: a caller's calls, on one stream at a time."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Coroutine, Hashable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from lattica.nat.base.errors import LatticaError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import Source
from lattica.nat.base.peer_log import peer_log
from lattica.nat.config import KIB, MIB
from lattica.nat.mux.stream import Stream
from lattica.rpc.config import CONTROL_BODY
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.errors import (
    CallCancelledError,
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    RpcError,
    StatusCode,
    UnavailableError,
)
from lattica.rpc.protocol.frames import (
    GOING_AWAY,
    Kind,
    encode_error,
    encode_numbered,
    encode_result,
    fits_control,
)
from lattica.rpc.protocol.server_core import MANY, Cancel, Hello, Request, ServerCore
from lattica.rpc.server.crew import Crew, Worker
from lattica.rpc.server.deadlines import AT_ONCE
from lattica.rpc.server.methods import ServedMethod

if TYPE_CHECKING:
    from lattica.rpc.server.server import Server
    from lattica.rpc.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

_FETCH_WINDOW: Final = 30.0
"""Seconds that a large result is kept for its caller to fetch."""
_FEW: Final = 8
"""Requests that are taken at once where their answers are large, or may be."""
_MAX_KEPT: Final = 8 * MIB
"""Bytes of answers that the sessions of a peer, each by its share, may leave unacknowledged before
no more of its calls are run."""
_LEAST_KEPT: Final = 512 * KIB
"""Bytes that each session may: a client acknowledges every 256 KiB."""
_KEPT_GRAIN: Final = 64 * KIB
"""Bytes to which the sum over all is exact, for each session."""
_MAX_UNREAD: Final = 20 * MIB
"""Bytes that the sessions of a peer, each by its share, may send before an acknowledgement that is
due: more than fits a stream's largest window."""
_MAX_UNFETCHED: Final = 64 * MIB
"""Bytes of large results that a peer may leave unfetched before no more of its calls are run."""


class Job:
    """A request on its way through the server."""

    __slots__ = ("arrived", "deadline", "method", "request", "session")

    def __init__(self, session: Session, request: Request) -> None:
        self.session = session
        self.request = request
        self.arrived = time.perf_counter()
        self.deadline = math.inf
        if request.timeout_ms is not None:
            self.deadline = trio.current_time() + request.timeout_ms / 1000
        self.method: ServedMethod | None = None


class Caller:
    """What all sessions of a peer have together."""

    __slots__ = ("fetched", "sessions", "under_way", "unfetched")

    def __init__(self) -> None:
        self.sessions = 0
        self.under_way = 0
        """Calls whose handler waits, and results that are to be fetched."""
        self.unfetched = 0
        """Bytes of those results."""
        self.fetched = trio.Event()

    def wake(self) -> None:
        """Something has been fetched or given up."""
        event, self.fetched = self.fetched, trio.Event()
        event.set()


class LargeResult:
    """A result that its caller is to fetch over the data plane."""

    __slots__ = ("body", "expires", "is_kept", "readers")

    def __init__(self, body: Encoded) -> None:
        self.body = body
        self.expires = trio.current_time() + _FETCH_WINDOW
        self.is_kept = True
        self.readers = 0
        """Streams that it is being sent on: as long it is kept."""


class Session:
    """A caller's calls over the control plane, whatever streams they come by."""

    def __init__(
        self, server: Server, peer: PeerId, name: bytes, network: Hashable, caller: Caller
    ) -> None:
        self.server = server
        self.peer = peer
        self.caller = caller
        self.kept = 0
        """Bytes of unacknowledged answers that are in the sum over all sessions."""
        self.core = ServerCore(name, server.decoder)
        self.stream: Stream | None = None
        self.path = ""
        self.network = network
        """Where the caller was when the session began."""
        self._source = Source(peer, network)
        self.is_broken = False
        """The caller has broken the protocol: the session cannot go on."""
        self.lost_at = 0.0
        """When it has lost its last stream."""
        self.is_watched = False
        """Somebody waits for it to have been without a stream for too long."""
        self._has_room = True
        self._crew: Crew[Job] | None = None
        self._waiting: dict[int, Worker[Job]] = {}
        """Workers of the calls whose handler waits for something."""
        self._given_up: set[int] = set()
        """Calls that were cancelled before their turn."""
        self._large: OrderedDict[int, LargeResult] = OrderedDict()
        """Results that their caller is to fetch, those first that expire first."""
        self._expiry_runs = False
        self._ended = False

    @property
    def is_idle(self) -> bool:
        """No call is under way, and no result waits to be fetched."""
        return not self.core.running and not self._large

    # --- streams ---

    async def serve(self, stream: Stream, hello: Hello) -> bool:
        """Be on this stream until it ends, or the session goes over to another one.

        Whether the caller has ended the session.
        """
        if self.core.is_stale(hello):
            stream.reset("the session is on a later stream")
            return False
        old, self.stream = self.stream, stream
        if old is not None:
            old.reset("the session has gone over to another stream")
        self.path = stream.connection.path
        try:
            events, greeting = self.core.attach(hello, going_away=self.server.going_away)
            crew = self._crew = Crew(
                self.server.tasks,
                read=lambda: self._read(stream),
                run=self._run,
                waits=self._waits,
                cut_off=self._cut_off,
                failed=self._failed,
                let_others=partial(self.server.turnstile.wait, self.network),
            )
            self._has_room = stream.send_nowait(greeting)
            crew.start(self._jobs(events))
            del events  # they need not stay as long as the stream
            await crew.done.wait()
        except RemoteProtocolError:
            if self.stream is stream:
                self.detach()
            raise
        except LatticaError:
            pass
        ended = (
            self.stream is stream and not stream.is_dead and stream.connection.closed_reason is None
        )
        if self.stream is stream:
            self.detach()
        return ended

    def detach(self) -> None:
        """Be on no stream; answers are kept for the next."""
        self.stream = None
        self._crew = None  # it leads back here: neither is to wait for the collector
        self.lost_at = trio.current_time()
        self.core.detach()
        self.caller.wake()

    async def _read(self, stream: Stream) -> list[Job] | None:
        core = self.core
        try:
            while self.stream is stream:
                if not self._has_room:
                    await stream.wait_sendable()
                    self._has_room = True
                if self.caller.unfetched > _MAX_UNFETCHED:
                    await self.caller.fetched.wait()
                    continue
                if core.bytes_unread and (most := self._most()):
                    await trio.lowlevel.checkpoint()
                    if self.stream is not stream or stream.is_dead:
                        return None  # what is left has not arrived, and is sent again if at all
                    events = core.take(most)
                else:
                    data = await stream.receive_view()
                    if not data or self.stream is not stream:
                        return None
                    began = time.perf_counter()
                    events = core.receive(data, self._most())
                    if self._crew is not None:
                        self._crew.worked += time.perf_counter() - began
                    if self.kept - core.bytes_kept >= _KEPT_GRAIN:
                        self._count_kept()
                    if core.bytes_unread > _MAX_UNREAD // self.caller.sessions:
                        raise RemoteProtocolError("RPC: answers are not acknowledged")
                if jobs := self._jobs(events):
                    return jobs
        except RemoteProtocolError as error:
            peer_log.log(
                logger,
                logging.WARNING,
                self.peer,
                "stream reset: peer breaks RPC: %s peer=%s",
                error,
                self.peer,
            )
            self.is_broken = True
            stream.reset("the peer breaks RPC")
        except LatticaError:
            pass  # it is lost, which is no news
        except Exception as defect:  # ours, but the peer's bytes have found it
            peer_log.log(
                logger,
                logging.ERROR,
                self.peer,
                "stream reset: internal error while reading RPC peer=%s",
                self.peer,
                exc_info=defect,
            )
            self.is_broken = True
            stream.reset("the peer breaks RPC")
        return None

    def _most(self) -> int:
        """How many requests may be taken: none while too many answers are kept for the caller.

        Reading goes on even so, for it is there that acknowledgements come.
        """
        kept = self.core.bytes_kept
        if kept <= _LEAST_KEPT:
            return _FEW if self._large else MANY
        if self.server.control.kept.is_too_much_for(self.network):
            return 0
        return _FEW if kept <= _MAX_KEPT // self.caller.sessions else 0

    def _count_kept(self) -> None:
        """Bring the sum over all sessions up to date."""
        if not self._ended:
            self.server.control.kept.add(self._source, self.core.bytes_kept - self.kept)
            self.kept = self.core.bytes_kept

    def _jobs(self, events: list[Request | Cancel]) -> list[Job]:
        jobs = []
        for event in events:
            if isinstance(event, Request):
                jobs.append(Job(self, event))
            elif (worker := self._waiting.get(event.id)) is not None:
                worker.stop()
            else:
                self._given_up.add(event.id)
        return jobs

    # --- calls ---

    def _run(self, job: Job) -> Coroutine[Any, Any, object] | None:
        request, server = job.request, self.server
        if self._given_up and request.id in self._given_up:
            self._given_up.remove(request.id)
            self._fail(job, CallCancelledError("cancelled by the caller", may_have_run=False))
            return None
        if (busy := server.no_room(self.caller.under_way, self.network)) is not None:
            self._fail(job, busy)
            return None
        method = server.methods.get(request.method)
        if method is None:
            self._fail(job, server.unknown(request.method))
            return None
        if server.going_away:
            self._fail(job, UnavailableError("the server is going away", may_have_run=False))
            return None
        if method.definition.kind:
            self._fail(job, server.wrong_kind(method))
            return None
        job.method = method
        method.counters.active += 1
        if server.tracing is not None:
            return self._traced_call(job, method, server.tracing)
        return self._call(job, method)

    async def _traced_call(self, job: Job, method: ServedMethod, tracing: Tracing) -> None:
        name = method.definition.full_name
        with tracing.served(name, self.peer, job.request.metadata) as span:
            try:
                span.code = await self._call(job, method)
            except trio.Cancelled:
                if trio.current_time() >= job.deadline:
                    span.code = StatusCode.DEADLINE_EXCEEDED
                raise

    async def _call(self, job: Job, method: ServedMethod) -> int:
        """Run a call and answer it; its status code."""
        request, server = job.request, self.server
        call = request.id
        code = 0
        try:
            if job.deadline != math.inf and trio.current_time() >= job.deadline:
                raise DeadlineExceededError("too late when it arrived", may_have_run=False)
            args, keywords = method.arguments(request.args, request.keywords, request.refusal)
            if method.needs_context:
                context = server.context(
                    self.peer,
                    method,
                    self.path,
                    job.deadline,
                    request.metadata,
                    partial(self._is_given_up, call),
                )
                method.check_access(context)
                if method.definition.context_parameter is not None:
                    keywords[method.definition.context_parameter] = context
            result = await method.run(args, keywords, self.network)
            frame = self._small_result(call, result)
            if frame is None:
                body = await server.encoded(result, method, self.network)
                frame = self._result(call, method, body)
        except BaseException as error:  # of the handler, whose own may be no Exception
            failure = method.failure(error, self.peer, send_traceback=server.config.send_tracebacks)
            code = failure.code
            frame = encode_error(call, failure.code, failure.message, failure.facts)
        self._waits_no_more(call)
        method.counters.ended(code, time.perf_counter() - job.arrived)
        self._answer(call, frame)
        return code

    def _small_result(self, call: int, result: Any) -> bytes | None:
        small = self.server.encoder.encode_small([result])
        if small is not None and len(small) <= CONTROL_BODY:
            return encode_result(call, small[1:])
        return None

    def _result(self, call: int, method: ServedMethod, body: Encoded) -> bytes:
        if fits_control(body):
            return encode_result(call, body.skeleton)
        self._keep(call, body, method)
        return encode_numbered(Kind.ELSEWHERE, call)

    def _keep(self, call: int, body: Encoded, method: ServedMethod) -> None:
        """Keep a result for its caller to fetch. Raises ResourceExhaustedError."""
        if self._ended:
            return
        try:
            self.server.budget.reserve(self.peer, body.size)
        except ResourceExhaustedError as error:
            raise ResourceExhaustedError(
                f"the result of {method.definition.full_name}: {error.message}",
                retry_after=error.retry_after,
            ) from None
        self._large[call] = LargeResult(body)
        self._count(1)
        self.caller.unfetched += body.size
        if not self._expiry_runs:
            self._expiry_runs = True
            self.server.tasks.start_soon(self._expire_large)

    async def _expire_large(self) -> None:
        while self._large:
            call, large = next(iter(self._large.items()))
            await trio.sleep_until(large.expires)
            if self._large.get(call) is not large:
                continue
            if large.readers:
                large.expires = trio.current_time() + _FETCH_WINDOW
                self._large.move_to_end(call)
            else:
                self.fetched(call)
        self._expiry_runs = False

    def large_result(self, call: int) -> LargeResult | None:
        """A result that is to be fetched."""
        return self._large.get(call)

    def fetched(self, call: int) -> None:
        """Its caller has it, or has not come for it."""
        large = self._large.pop(call, None)
        if large is not None:
            self.server.budget.release(self.peer, large.body.size)
            self._count(-1)
            large.is_kept = False
            if not large.readers:
                self.caller.unfetched -= large.body.size
            self.caller.wake()
            self.server.call_ended()

    def begin_fetch(self, large: LargeResult) -> None:
        """It is being sent: its caller has come for it, and does not wait with other calls."""
        if not large.readers:
            self.caller.unfetched -= large.body.size
            self.caller.wake()
        large.readers += 1

    def end_fetch(self, large: LargeResult) -> None:
        """It is not being sent any more; whether it has arrived, :meth:`fetched` says."""
        large.readers -= 1
        if not large.readers and large.is_kept:
            self.caller.unfetched += large.body.size

    def _count(self, more: int) -> None:
        """So many more calls, or results to be fetched, are under way."""
        self.caller.under_way += more
        self.server.count_call(self.network, more)

    def _waits(self, job: Job, worker: Worker[Job]) -> None:
        self._waiting[job.request.id] = worker
        self._count(1)
        self.server.deadlines.add(worker.scope, job.deadline)

    def _waits_no_more(self, call: int) -> None:
        if (worker := self._waiting.pop(call, None)) is not None:
            self.server.deadlines.forget(worker.scope)
            self._count(-1)
            self.server.control.forget_idle(self.peer)

    def _cut_off(self, job: Job, worker: Worker[Job]) -> None:
        error: RpcError = CallCancelledError("the server is shutting down")
        if worker.stopped:
            error = CallCancelledError("cancelled by the caller")
        elif trio.current_time() >= job.deadline:
            error = DeadlineExceededError("the handler did not end in time")
        self._waits_no_more(job.request.id)
        self._fail(job, error)

    def _failed(self, job: Job, defect: Exception) -> None:
        call = job.request.id
        peer_log.log(
            logger,
            logging.ERROR,
            self.peer,
            "internal error in a call of %s peer=%s",
            job.method.definition.full_name if job.method is not None else "no method",
            self.peer,
            exc_info=defect,
        )
        self._waits_no_more(call)
        if call in self.core.running:
            self._fail(job, InternalError("internal error of the server"))

    def _is_given_up(self, call: int) -> bool:
        """Also from the handler's thread, where a scope of trio's cannot say."""
        worker = self._waiting.get(call)
        return call not in self.core.running or (worker is not None and worker.stopped)

    def _fail(self, job: Job, error: RpcError) -> None:
        facts = {"not_run": not error.may_have_run, "retry_after": error.retry_after}
        counters = job.method.counters if job.method is not None else self.server.refused
        if job.method is None:
            counters.active += 1
        counters.ended(error.code, time.perf_counter() - job.arrived)
        call = job.request.id
        self._answer(call, encode_error(call, error.code, error.message, facts))

    def _answer(self, call: int, frame: bytes) -> None:
        data = self.core.answer(call, frame)
        if self.core.bytes_kept - self.kept >= _KEPT_GRAIN:
            self._count_kept()
        if data and self.stream is not None:
            try:
                if not self.stream.send_nowait(data):
                    self._has_room = False
            except LatticaError:
                pass  # lost: the next stream gets it
        self.server.call_ended()

    def go_away(self) -> None:
        """Tell the caller that no new calls are taken."""
        if self.stream is not None and self.core.is_live:
            with suppress(LatticaError):
                self.stream.send_nowait(GOING_AWAY)

    def end(self) -> None:
        """The caller will not come back: what it waits for is given up."""
        if self.stream is not None:
            stream = self.stream
            self.detach()
            stream.close()
        if self._waiting:
            self.server.tasks.start_soon(_stop_all, [*self._waiting.values()])
        for call in [*self._large]:
            self.fetched(call)
        self._ended = True
        self.server.control.kept.add(self._source, -self.kept)


async def _stop_all(workers: list[Worker[Job]]) -> None:
    """Give up calls, some at a time: each takes a fraction of a millisecond to end."""
    for number, worker in enumerate(workers):
        if worker.job is not None:
            worker.stop()
        if number % AT_ONCE == AT_ONCE - 1:
            await trio.lowlevel.checkpoint()
