"""qh3's native core, driven past its Python facade where that costs time or loses events.

:class:`~lattica.nat.quic.qh3.core.QuicCore` runs the handshake. Once that is done, packets and
streams go straight to the native object: no event objects, no copies for a log that nobody
keeps, and one call for a batch of datagrams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

from qh3 import tls
from qh3._hazmat import QuicConnectionCore
from qh3.quic.connection import NetworkAddress, QuicConnectionState
from qh3.quic.events import ConnectionTerminated
from qh3.quic.packet import QuicErrorCode
from qh3.quic.tls_bridge import QuicTlsBridgeError

from lattica.nat.base.errors import ConnectionClosedError, RemoteProtocolError
from lattica.nat.quic.qh3.core import QuicCore

NativeEvent: TypeAlias = tuple[Any, ...]
Runs: TypeAlias = list[tuple[list[bytes], Any]]

_T = TypeVar("_T")
_PACKETS = 2
"""Index of the number of authentic packets in what the native core reports."""


class NativeDrive:
    """Drives one :class:`QuicCore`; events are qh3's native tuples, the kind first."""

    def __init__(self, core: QuicCore) -> None:
        self.core = core
        self._events: list[NativeEvent] = []
        self._finished: list[NativeEvent] = []
        self.faulty = False
        """The peer broke QUIC or TLS, and the connection is being closed for that."""
        core._drain_core = self._drain  # type: ignore[method-assign]
        self._cids: dict[bytes, None] = {core.host_cid: None}
        self._cids_added: list[bytes] = [core.host_cid]
        self._cids_retired: list[bytes] = []

    @property
    def native(self) -> QuicConnectionCore:
        """The native core, which a Retry replaces; final when the handshake is complete."""
        native = self.core._core
        assert native is not None
        return native

    @property
    def started(self) -> bool:
        return self.core._core is not None

    @property
    def connection_ids(self) -> tuple[bytes, ...]:
        """The IDs by which the peer addresses this connection."""
        return tuple(self._cids)

    def take_connection_ids(self) -> tuple[list[bytes], list[bytes]]:
        """IDs that have come and that have gone since the last call."""
        added, retired = self._cids_added, self._cids_retired
        self._cids_added, self._cids_retired = [], []
        return added, retired

    def take_events(self) -> list[NativeEvent]:
        """What has happened since the last call; the ends of streams come last.

        Frames of a stream that follow its last one in the same batch are reported after its
        end by qh3, as if the stream had begun again.
        """
        events = self._events
        if self._finished:
            events += self._finished
            self._finished = []
        self._events = []
        return events

    # --- receiving ---

    def receive(self, data: bytes, segment_size: int, source: NetworkAddress, now: float) -> bool:
        """Take datagrams of `segment_size` bytes (the last may be shorter) from one address.

        Returns whether one of them was authentic.

        Raises:
            RemoteProtocolError: the peer breaks QUIC.
        """
        core = self.core
        if not core.handshake_complete:
            for offset in range(0, len(data), segment_size):
                core.receive_datagram(data[offset : offset + segment_size], source, now)
            return True
        report = self._run(self.native.receive_gro_buffer, data, segment_size, source, now)
        return report[_PACKETS] > 0

    def let_go(self) -> None:
        """Hold and drive the core no more: it, this and TLS are in cycles until then."""
        self.core.__dict__.pop("_drain_core", None)
        self.core.let_go()

    def fail(self, error: Exception) -> NoReturn:
        self.faulty = True
        self.core.close(0x0A)
        raise RemoteProtocolError(f"QUIC: {error}") from None

    def on_timer(self, now: float) -> None:
        self._run(self.native.handle_timer, now)

    def _run(self, operation: Callable[..., _T], *args: Any) -> _T:
        """Call the native core, and take what happened in it; its errors are the peer's doing."""
        try:
            result = operation(*args)
            self._drain()
        except (RuntimeError, ValueError) as error:
            self.fail(error)
        return result

    def _drain(self) -> None:
        native, events = self.native, self._events
        while (event := native.next_event()) is not None:
            kind = event[0]
            if kind == "stream_finished":
                self._finished.append(event)
            elif kind == "stream_data" or kind not in _CONNECTION_EVENTS:
                events.append(event)
            else:
                self._on_connection_event(kind, event)

    def _on_connection_event(self, kind: str, event: NativeEvent) -> None:
        """What the facade's `_drain_core` does for what is not the session's business."""
        core = self.core
        if kind == "crypto_data":
            bridge = core._tls
            assert bridge is not None
            try:
                bridge.receive_crypto(
                    tls.Epoch(event[1]), event[3], event[2], version=self.native.version
                )
                core._drain_tls()
            except QuicTlsBridgeError as error:
                self.faulty = True
                frame_type = int(error.frame_type)
                self.native.close(error.error_code, frame_type, error.reason_phrase.encode())
                core._close_event = ConnectionTerminated(
                    error.error_code, frame_type, error.reason_phrase
                )
        elif kind == "connection_id_issued":
            self._cids[event[1]] = None
            self._cids_added.append(event[1])
        elif kind == "connection_id_retired":
            self._cids.pop(event[1], None)
            self._cids_retired.append(event[1])
        elif kind == "handshake_done":
            core._handshake_confirmed = True
            self.native.handshake_confirmed()
        elif kind == "peer_closed":
            reason = event[4].decode("utf8", "replace")
            core._close_event = ConnectionTerminated(event[2], event[3], reason)
        elif kind == "protocol_error":
            self.faulty = True
            core._close_event = ConnectionTerminated(event[1], event[2], event[3])
        elif kind == "connection_terminated":
            core._state = QuicConnectionState.TERMINATED
            if core._close_event is None:
                reason = event[3].decode("utf8", "replace")
                core._close_event = ConnectionTerminated(event[1], event[2], reason)

    # --- sending ---

    def transmit_one(self, now: float, runs: Runs) -> int:
        """Append the next datagram, if one may leave now, to the run of its address.

        Returns its size, or 0.

        Raises:
            ConnectionClosedError: qh3 cannot go on.
        """
        try:
            transmit = self.native.poll_transmit(now)
        except (RuntimeError, ValueError) as error:
            # When a stream ends while a frame of it that was sent before waits to be sent again,
            # qh3 (2.1.0) loses what it had reserved for other streams ("reserved stream is
            # missing"). It happens where many packets are lost and late, and costs the connection.
            self.core.close(QuicErrorCode.INTERNAL_ERROR)
            raise ConnectionClosedError(f"QUIC cannot go on: {error}") from None
        if transmit is None:
            return 0
        datagram, destination = transmit[0], transmit[1]
        if runs and runs[-1][1] == destination:
            runs[-1][0].append(datagram)
        else:
            runs.append(([datagram], destination))
        return len(datagram)


_CONNECTION_EVENTS = frozenset(
    (
        "crypto_data",
        "handshake_done",
        "new_token",
        "peer_closed",
        "protocol_error",
        "connection_terminated",
        "connection_id_issued",
        "connection_id_retired",
    )
)
