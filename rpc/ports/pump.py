"""Bytes between a TCP or unix socket and a stream, both ways, and the end of each made the other's.

An end of file is passed on as one, in its direction only; a reset as a reset; a lost connection to
the peer as a reset, since what the program has read may not be all. Backpressure goes through: what
is read of one is sent on the other before more is read.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from enum import Enum

import trio

from lattica.nat.base.errors import LatticaError, StreamResetError
from lattica.nat.base.net.own_sockets import own
from lattica.nat.config import KIB
from lattica.nat.mux.stream import Stream
from lattica.rpc.ports.messages import Abort

_LEAST_READ = 16 * KIB
_MOST_READ = 512 * KIB


class End(Enum):
    """How a connection ended, in words for people."""

    CLOSED = "closed"
    CLOSED_EARLY = "closed by the local program, which did not read all"
    RESET_HERE = "reset by the local program"
    RESET_THERE = "reset by the program at the peer"
    IDLE = "idle for too long"
    STOPPED_HERE = "the port was closed here"
    STOPPED_THERE = "the port was closed by the peer"
    LOST = "the connection to the peer was lost"


_SENT_CODES = {
    End.RESET_HERE: Abort.RESET,
    End.IDLE: Abort.IDLE,
    End.STOPPED_HERE: Abort.CLOSED,
}
_RECEIVED_CODES = {
    Abort.RESET: End.RESET_THERE,
    Abort.IDLE: End.IDLE,
    Abort.CLOSED: End.STOPPED_THERE,
}
_LINGER = struct.pack("ii", 1, 0)


def abort_socket(sock: trio.socket.SocketType) -> None:
    """Close it so that its other end sees a reset (a unix socket's sees an end)."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    sock.close()


class Pump:
    """One connection. :meth:`run` closes both when it ends, also by cancellation."""

    def __init__(self, stream: Stream, sock: trio.socket.SocketType, idle_timeout: float) -> None:
        self.bytes_to_peer = 0
        self.bytes_from_peer = 0
        self._stream = stream
        self._sock = own(sock)
        self._idle_timeout = idle_timeout
        self._end: End | None = None
        """What broke it off; None: nothing."""
        self._used = 0.0
        """When a byte was last received or sent."""
        self._outward = trio.CancelScope()
        self._outward_ended = self._inward_ended = False
        """The end of file was passed on."""
        self._is_reset = self._is_closed = False
        """What sending to the socket has said, which receiving from it may not say again."""
        self._all = trio.CancelScope()
        self.end = End.STOPPED_HERE
        """How it ended, when it has."""
        self._why_lost = ""

    @property
    def reason(self) -> str:
        """:attr:`end` in words, with what there is to be said of a lost connection."""
        return f"{self.end.value}: {self._why_lost}" if self._why_lost else self.end.value

    async def run(self) -> None:
        """Work until both directions have ended, or one has so that the other cannot go on."""
        self._used = trio.current_time()
        try:
            async with trio.open_nursery() as watchers:
                watchers.start_soon(self._watch_idle)
                watchers.start_soon(self._watch_gone)
                with self._all:
                    async with trio.open_nursery() as both:
                        both.start_soon(self._run_outward)
                        both.start_soon(self._run_inward)
                watchers.cancel_scope.cancel()
            self.end = self._end or await self._good_end()
        finally:
            self._finish(self.end)

    async def _good_end(self) -> End:
        if self._is_closed:
            return End.CLOSED_EARLY
        if self._outward_ended or not self._is_lost:
            return End.CLOSED
        # The peer's side had ended before; what has become of the stream is to be asked for.
        try:
            await self._stream.receive_view()
        except LatticaError as error:
            return self._end_of(error)
        return End.LOST

    @property
    def _is_lost(self) -> bool:
        return self._stream.is_dead or self._stream.connection.closed_reason is not None

    def _finish(self, end: End) -> None:
        if end in (End.CLOSED, End.CLOSED_EARLY):
            self._stream.close(stop_peer=end is End.CLOSED_EARLY)
        else:
            self._stream.reset(end.value, _SENT_CODES.get(end, 0))
        if self._inward_ended or end is End.CLOSED:
            self._sock.close()  # all is said, and is to arrive
        else:
            abort_socket(self._sock)

    def _abort(self, end: End) -> None:
        self._end = self._end or end
        self._all.cancel()

    # --- from the socket to the peer ---

    async def _run_outward(self) -> None:
        with self._outward:
            try:
                await self._send_to_peer()
            except LatticaError:
                # The peer reads no more, or is lost: whoever receives from it hears which, after
                # what it has sent.
                return
            except OSError:
                self._abort(End.RESET_HERE)

    async def _send_to_peer(self) -> None:
        sock, stream, size = self._sock, self._stream, _LEAST_READ
        while data := await sock.recv(size):
            self._used = trio.current_time()
            self.bytes_to_peer += len(data)
            await stream.send_all(data)
            self._used = trio.current_time()
            if len(data) == size:
                size = min(2 * size, _MOST_READ)
            elif len(data) < size // 4:
                size = max(size // 2, _LEAST_READ)
        if self._is_reset:
            self._abort(End.RESET_HERE)
            return
        await stream.send_eof()
        self._outward_ended = True

    # --- from the peer to the socket ---

    async def _run_inward(self) -> None:
        try:
            await self._receive_from_peer()
        except LatticaError as error:
            self._abort(self._end_of(error))
        except OSError as error:
            # The other direction may have more to deliver, and says how it ended.
            self._is_closed = True
            self._is_reset = isinstance(error, ConnectionResetError)

    async def _receive_from_peer(self) -> None:
        sock, stream = self._sock, self._stream
        while data := await stream.receive_view():
            self._used = trio.current_time()
            self.bytes_from_peer += len(data)
            while data:
                data = data[await sock.send(data) :]
            self._used = trio.current_time()
        sock.shutdown(socket.SHUT_WR)
        self._inward_ended = True

    # --- what neither direction may notice ---

    async def _watch_gone(self) -> None:
        # Whoever waits for a silent program would not hear that nobody reads what it writes.
        await self._stream.wait_gone()
        self._outward.cancel()

    async def _watch_idle(self) -> None:
        due = self._used + self._idle_timeout
        while due > trio.current_time():
            await trio.sleep_until(due)
            due = self._used + self._idle_timeout
        self._abort(End.IDLE)

    def _end_of(self, error: LatticaError) -> End:
        """What became of a stream that cannot be received from."""
        if isinstance(error, StreamResetError):
            for code, end in _RECEIVED_CODES.items():
                if error.code == code:
                    return end
        self._why_lost = str(error)
        return End.LOST
