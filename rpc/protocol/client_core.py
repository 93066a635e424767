"""The calling side of the control plane, pure: calls in, frames out, outcomes out.

A *session* outlives its stream. Calls have increasing numbers, and a stream is in order; so after
the loss of a stream two numbers tell everything: the highest call that the server has got, and how
many of its answers have arrived here. On a new stream calls above the first are sent again, which
cannot have been read, and the server repeats what is above the second. A server that does not know
the session any more may have run what was sent: those calls fail, and are not sent again. The
others go into a session of another name: were the lost one gone on with, the next stream could not
tell what the server of before has got from what the present one has.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.wire import LengthPrefixed
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.errors import (
    DeadlineExceededError,
    InternalError,
    RpcError,
    UnavailableError,
    error_of,
)
from lattica.rpc.protocol.frames import (
    MAX_FRAME,
    MAX_FRAME_ITEMS,
    NIL,
    Kind,
    check_frame,
    check_frame_items,
    encode_hello,
    encode_numbered,
    encode_request,
    milliseconds,
    session_of,
)

ACK_EVERY: Final = 64
"""Answers after which the server is told that they have arrived, so that it can forget them."""
ACK_BYTES: Final = 256 * 1024
_SIZES: Final[dict[int, tuple[int, ...]]] = {
    Kind.HELLO: (5,),
    Kind.RESULT: (3,),
    Kind.ERROR: (5,),
    Kind.ELSEWHERE: (2,),
    Kind.GOING_AWAY: (1,),
}
_SPARE_TIMERS: Final = 1024
_MAX_TYPE: Final = 200
_MAX_TRACEBACK: Final = 20_000
"""Characters that are taken of what a peer tells of an error."""


class Elsewhere:
    """In place of a result: it is to be fetched over the data plane."""


ELSEWHERE: Final = Elsewhere()


class PendingCall:
    """A call that has no outcome yet."""

    __slots__ = ("deadline", "frame", "id", "owner", "written")

    def __init__(self, call: int, frame: bytes, deadline: float, owner: Any) -> None:
        self.id = call
        self.frame = frame
        self.deadline = deadline
        self.owner = owner
        """The driver's: whom to tell of the outcome."""
        self.written = False
        """Whether the server may have got it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call has ended: exactly one for each. `error` or, if that is None, `value`."""

    call: PendingCall
    value: Any = None
    error: RpcError | None = None


class ClientCore:
    """A session with one server.

    `clock` gives monotonic seconds. What a method returns as bytes is to be written to the stream
    that the session is on, in order.
    """

    def __init__(self, session: bytes, decoder: Decoder, clock: Callable[[], float]) -> None:
        self.session = session
        self.pending: dict[int, PendingCall] = {}
        self.is_live = False
        """The session is on a stream, and what is written reaches the server unless that is
        lost.
        """
        self.going_away = False
        """The server takes no new calls."""
        self.violation: RemoteProtocolError | None = None
        """How the server has broken the protocol."""
        self._decoder = decoder
        self._clock = clock
        self._next_id = 0
        self._highest_written = -1
        self.is_greeted = False
        """The server has answered the hello of this stream."""
        self.is_lost = False
        """The server does not know the session, and ends this stream: :meth:`renew` it."""
        self._streams = 0
        """On which the session has been."""
        self._answers = 0
        """That have arrived."""
        self._acked = 0
        self._unacked_bytes = 0
        self._reader = LengthPrefixed(MAX_FRAME)
        self._timers: list[tuple[float, int]] = []

    @property
    def answers(self) -> int:
        """Answers that have arrived on all streams of the session."""
        return self._answers

    # --- calls ---

    def start(
        self,
        method: bytes,
        arguments: bytes,
        *,
        deadline: float = math.inf,
        metadata: bytes = NIL,
        owner: Any = None,
    ) -> PendingCall:
        """A new call. Its frame is to be written now if :attr:`is_live` (:meth:`wrote` says so);
        otherwise it is sent with the next stream.
        """
        call = self._next_id
        self._next_id = call + 1
        timeout = None
        if deadline != math.inf:
            timeout = milliseconds(deadline - self._clock())
            heapq.heappush(self._timers, (deadline, call))
            if len(self._timers) > _SPARE_TIMERS + 2 * len(self.pending):
                self._timers = [timer for timer in self._timers if timer[1] in self.pending]
                heapq.heapify(self._timers)
        frame = encode_request(call, method, arguments, timeout_ms=timeout, metadata=metadata)
        pending = PendingCall(call, frame, deadline, owner)
        self.pending[call] = pending
        if self.is_live:
            pending.written = True
            self._highest_written = call
        return pending

    def cancel(self, pending: PendingCall) -> bytes:
        """Nobody waits for the call any more, and it has no outcome."""
        if self.pending.pop(pending.id, None) is None or not (self.is_live and pending.written):
            return b""
        return encode_numbered(Kind.CANCEL, pending.id)

    def fail_all(self, reason: str) -> list[Outcome]:
        """The session is given up."""
        self.is_live = False
        return [self._fail(call, reason) for call in [*self.pending.values()]]

    def fail_unsent(self, reason: str, cause: BaseException | None = None) -> list[Outcome]:
        """The server cannot be reached: calls that it cannot have got fail; the others may
        still.
        """
        unsent = [call for call in self.pending.values() if not call.written]
        outcomes = [self._fail(call, reason) for call in unsent]
        for outcome in outcomes:
            if outcome.error is not None:
                outcome.error.__cause__ = cause
        return outcomes

    def _fail(self, call: PendingCall, reason: str) -> Outcome:
        del self.pending[call.id]
        return Outcome(call, error=UnavailableError(reason, may_have_run=call.written))

    # --- time ---

    @property
    def next_timer(self) -> float:
        """When :meth:`expire` is to be called, if not later than :meth:`start` was told."""
        timers = self._timers
        while timers and timers[0][1] not in self.pending:
            heapq.heappop(timers)
        return timers[0][0] if timers else math.inf

    def expire(self) -> tuple[list[Outcome], bytes]:
        """End the calls whose deadline has passed; the server is told to give them up."""
        now = self._clock()
        outcomes: list[Outcome] = []
        frames: list[bytes] = []
        while self.next_timer <= now:
            call = self.pending[heapq.heappop(self._timers)[1]]
            frames.append(self.cancel(call))
            error = DeadlineExceededError("no answer in time", may_have_run=call.written)
            outcomes.append(Outcome(call, error=error))
        return outcomes, b"".join(frames)

    # --- streams ---

    def connect(self) -> bytes:
        """The session goes over to a new stream: what to write first. What the old one still brings
        must not be given to :meth:`receive`.
        """
        self.is_greeted = False
        self._reader = LengthPrefixed(MAX_FRAME)
        self._acked = self._answers
        self._unacked_bytes = 0
        self._streams += 1
        frames = [encode_hello(self.session, self._answers, self._streams)]
        # Of a session that nobody can know there is nothing to be asked first.
        self.is_live = self._streams == 1
        if self.is_live:
            frames += map(self._write, self.pending.values())
        return b"".join(frames)

    def _write(self, call: PendingCall) -> bytes:
        call.written = True
        self._highest_written = max(self._highest_written, call.id)
        return call.frame

    def renew(self, session: bytes) -> None:
        """Go on under another name, with the calls that the server cannot have got."""
        self.session = session
        self.is_lost = self.is_live = False
        self._streams = self._answers = 0
        self._highest_written = -1

    def lose(self) -> None:
        """The stream is lost. What is under way may be resumed on another one."""
        self.is_live = False

    def receive(self, data: bytes | memoryview) -> tuple[list[Outcome], bytes]:
        """Take bytes in any split; the outcomes that they bring, and what to write.

        When the server breaks the protocol, all calls end, and :attr:`violation` says why: the
        session cannot go on.
        """
        outcomes: list[Outcome] = []
        to_write: list[bytes] = []
        try:
            for frame in self._reader.feed(data):
                self._on_frame(frame, outcomes, to_write)
        except RemoteProtocolError as error:
            self.violation = error
        except Exception as defect:  # ours, but the peer's bytes have found it
            text = f"RPC: what the server sent cannot be read ({type(defect).__name__})"
            self.violation = RemoteProtocolError(text)
            self.violation.__cause__ = defect
        if self.violation is not None:
            return outcomes + self.fail_all(f"the peer breaks RPC: {self.violation}"), b""
        if self._answers - self._acked >= ACK_EVERY or self._unacked_bytes >= ACK_BYTES:
            self._acked = self._answers
            self._unacked_bytes = 0
            to_write.append(encode_numbered(Kind.ACK, self._answers))
        return outcomes, b"".join(to_write)

    def _on_frame(self, frame: bytes, outcomes: list[Outcome], to_write: list[bytes]) -> None:
        if len(frame) > MAX_FRAME_ITEMS:
            check_frame_items(frame)
        value, refusal = self._decoder.decode_partly(frame)
        fields = check_frame(value, _SIZES)
        kind = fields[0]
        if kind == Kind.HELLO:
            self._on_hello(fields, outcomes, to_write)
        elif not self.is_greeted:
            raise RemoteProtocolError("RPC: the server's first frame is no hello")
        elif kind == Kind.GOING_AWAY:
            # One that costs nothing to send costs time here: so many would stop everything else.
            if self.going_away:
                raise RemoteProtocolError("RPC: the server says again that it is going away")
            self.going_away = True
        else:
            self._answers += 1
            if self._answers > self._next_id:
                raise RemoteProtocolError("RPC: more answers than calls")
            self._unacked_bytes += len(frame)
            pending = self.pending.get(fields[1])
            if pending is not None:
                outcomes.append(_outcome(pending, fields, refusal))
                del self.pending[pending.id]
            elif fields[1] >= self._next_id:
                raise RemoteProtocolError("RPC: an answer to a call that was not made")

    def _on_hello(self, fields: list[Any], outcomes: list[Outcome], to_write: list[bytes]) -> None:
        session, _ = session_of(fields)
        highest = fields[4]
        if self.is_greeted or session != self.session:
            raise RemoteProtocolError("RPC: a hello that answers none")
        self.is_greeted = True
        self.going_away = False
        if self.is_live:  # this stream is the session's first
            if highest not in (None, -1):
                raise RemoteProtocolError("RPC: the server claims to know a new session")
            return
        if highest is None:
            self.is_lost = True
            for call in [*self.pending.values()]:
                if call.written:
                    reason = "the server has lost the session: the call may have run"
                    outcomes.append(self._fail(call, reason))
            return
        if type(highest) is not int or not -1 <= highest <= self._highest_written:
            raise RemoteProtocolError("RPC: the server claims calls that were not sent")
        self.is_live = True
        for call in self.pending.values():
            if not call.written or call.id > highest:
                to_write.append(self._write(call))


def _outcome(call: PendingCall, fields: list[Any], refusal: RefusedValueError | None) -> Outcome:
    kind = fields[0]
    if kind == Kind.RESULT:
        if refusal is not None:
            return Outcome(call, error=InternalError(f"the result: {refusal}"))
        return Outcome(call, fields[2])
    if kind == Kind.ELSEWHERE:
        return Outcome(call, ELSEWHERE)
    return Outcome(call, error=error_from(fields[2], fields[3], fields[4]))


def error_from(code: object, message: object, facts: object) -> RpcError:
    """The error that a peer tells. Raises RemoteProtocolError."""
    if type(code) is not int or type(message) is not str or type(facts) is not dict:
        raise RemoteProtocolError("RPC: an error is a code, a message and a map of facts")
    kind, traceback = facts.get("type", ""), facts.get("traceback", "")
    if type(kind) is not str or type(traceback) is not str:
        raise RemoteProtocolError("RPC: the type and the traceback of an error are texts")
    retry_after = facts.get("retry_after")
    if not (isinstance(retry_after, (int, float)) and 0 <= retry_after < 1e6):
        retry_after = None
    error = error_of(
        code, message, may_have_run=facts.get("not_run") is not True, retry_after=retry_after
    )
    error.error_type = kind[:_MAX_TYPE]
    error.remote_traceback = traceback[-_MAX_TRACEBACK:]
    return error
