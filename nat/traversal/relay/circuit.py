"""A circuit: a stream to a relay, and behind it another peer, as the pipe of a connection.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md. Noise and yamux run
inside, end to end, so the relay sees ciphertext and can do no more than cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import trio

from lattica.nat.base.errors import ConnectionClosedError, LatticaError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import Buffer
from lattica.nat.mux.stream import Stream
from lattica.nat.transport.base import receive_buffer
from lattica.nat.traversal.relay.messages import Limit

_CIRCUIT = Multiaddr("/p2p-circuit")
_NEARLY = 0.9
"""Share of a limit from which on an end is taken to be due to it: what is in flight when a relay
cuts a circuit never arrives, and it may have begun to count earlier."""


def circuit_addr(relay_addr: Multiaddr, relay: PeerId) -> Multiaddr:
    """`/RELAYADDR/p2p/RELAY/p2p-circuit`; `relay_addr` may name the relay already."""
    return with_peer(relay_addr, relay).encapsulate(_CIRCUIT)


class CircuitConn:
    """A :class:`~lattica.nat.transport.base.RawConn` over a stream to a relay.

    The side that dials need not wait for the relay's answer before it sends: it gives
    `answer`, which is awaited by the first :meth:`receive`, returns the limit, and raises
    whatever error the answer amounts to.

    Backpressure is the stream's: a `send` returns when at most `Windows.send_buffer` bytes
    still wait for the relay, which takes what the other end takes. A `send` that is cancelled
    leaves the pipe unusable.

    Errors: when the relay aborts the stream, or the connection to it ends, both methods raise
    :class:`~lattica.errors.ConnectionClosedError` with the reason; a stream that the relay
    ends is the end of the pipe for :meth:`receive`.
    """

    __slots__ = (
        "_aborted", "_answer", "_began", "_received", "_remote_addr", "_sent", "_stream", "limit",
    )  # fmt: skip

    def __init__(
        self,
        stream: Stream,
        limit: Limit | None = None,
        *,
        answer: Callable[[], Awaitable[Limit | None]] | None = None,
    ) -> None:
        """Take the stream, right after the messages about the circuit."""
        self._stream = stream
        stream.keep_received()  # a relay that cuts a circuit passes on what comes before
        self._aborted = False
        self._answer = answer
        self._began = trio.current_time()
        self._sent = self._received = 0
        connection = stream.connection
        self._remote_addr = circuit_addr(connection.remote_addr, connection.peer_id)
        self.limit = limit
        """What the relay allows, as it says; None: no limit, or no answer yet."""

    @property
    def relay(self) -> PeerId:
        return self._stream.peer_id

    @property
    def local_addr(self) -> Multiaddr:
        """This end of the connection to the relay."""
        return self._stream.connection.local_addr

    @property
    def remote_addr(self) -> Multiaddr:
        """`/RELAYADDR/p2p/RELAY/p2p-circuit`; without the peer, as for any other pipe."""
        return self._remote_addr

    async def receive(self) -> memoryview:
        if self._answer is not None:
            answer, self._answer = self._answer, None
            self.limit = await answer()
        buffer = receive_buffer.view
        try:
            # All that has come, in one piece: few messages of what is inside end where others do.
            size = await self._stream.receive_into(buffer)
        except LatticaError as error:
            raise self._ended(error) from error
        self._received += size
        if not size and self._is_used_up:
            raise self._ended("closed by the relay")
        return buffer[:size]

    async def send(self, data: Buffer) -> None:
        # A copy costs little, and while it leaves, the sender encrypts what comes next.
        stable = data if type(data) is bytes else bytes(data)
        try:
            await self._stream.send_all(stable)
        except LatticaError as error:
            raise self._ended(error) from error
        self._sent += len(stable)

    def send_nowait(self, data: bytes) -> int:
        if self._stream.has_backlog:
            return 0
        try:
            self._stream.send_nowait(data)
        except LatticaError:
            return 0
        self._sent += len(data)
        return len(data)

    @property
    def most_bytes(self) -> int | None:
        return None if self.limit is None else self.limit.data

    @property
    def _is_used_up(self) -> bool:
        """The relay's limit is reached, or so nearly that it may be by the relay's count."""
        limit = self.limit
        if limit is None:
            return False
        used = max(self._sent, self._received)
        seconds = trio.current_time() - self._began
        return bool(
            (limit.data and used >= _NEARLY * limit.data)
            or (limit.duration_s and seconds >= _NEARLY * limit.duration_s)
        )

    def _ended(self, error: LatticaError | str) -> ConnectionClosedError:
        if self._aborted:
            return ConnectionClosedError("aborted by this side")
        if self.limit is None:
            return ConnectionClosedError(f"the circuit has ended: {error} relay={self.relay}")
        allowed = []
        if self.limit.data:
            allowed.append(f"{self.limit.data} bytes each way")
        if self.limit.duration_s:
            allowed.append(f"{self.limit.duration_s} s")
        cause = "its limit is used up" if self._is_used_up else str(error)
        seconds = trio.current_time() - self._began
        return ConnectionClosedError(
            f"the circuit has ended: {cause}: this relay allows {' and '.join(allowed)} for each "
            f"circuit, which whoever runs it sets ({self._received} bytes received and "
            f"{self._sent} sent in {seconds:.0f} s) relay={self.relay}"
        )

    def unanswered(self) -> float | None:
        # The relay sees whether the other machine is there, and ends the circuit if it is not;
        # whether the relay is there, the connection to it sees.
        return 0.0

    def mark_authenticated(self) -> None:
        pass  # a stream's window is the same for everybody

    def delivery(self) -> None:
        return None  # the connection to the relay sees to that; nobody knows of the rest

    async def aclose(self) -> None:
        """End our direction, and wait for the other end to do the same; the caller bounds that.

        A reset instead could overtake the last bytes, and tell the other end of an error.
        """
        try:
            with contextlib.suppress(LatticaError, trio.BusyResourceError):
                await self._stream.send_eof()
                while await self._stream.receive_view():
                    pass
        finally:
            # What both sides have ended is over; anything else is cut off.
            self.abort()

    def abort(self) -> None:
        self._aborted = True
        self._stream.reset("the circuit was closed by this side")
