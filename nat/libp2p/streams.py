"""py-libp2p's view of our streams and connections, for its protocols to run on."""

from __future__ import annotations

from contextlib import suppress

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, INetConn, INetStream, IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamError, StreamReset
from multiaddr.multiaddr import Multiaddr as Libp2pMultiaddr

from lattica.nat.base.errors import (
    ConnectionClosedError,
    LatticaError,
    StreamClosedError,
    StreamResetError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.libp2p.border import libp2p_addr, libp2p_id, our_addr
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream


def _socket_name(addr: Multiaddr) -> tuple[str, int] | None:
    parts = str(addr).split("/")
    if len(parts) >= 5 and parts[1] in ("ip4", "ip6") and parts[4].isdigit():
        return parts[2], int(parts[4])
    return None


def _translate(error: LatticaError) -> StreamError:
    if isinstance(error, StreamClosedError):
        return StreamClosed(str(error))
    if isinstance(error, (StreamResetError, ConnectionClosedError)):
        return StreamReset(str(error))
    return StreamError(str(error))


class NetStream(INetStream):
    """A :class:`Stream` as an `INetStream`. Concurrent writers take turns."""

    def __init__(self, stream: Stream, conn: NetConn) -> None:
        self.stream = stream
        self.muxed_conn = conn.muxed_conn
        self.swarm_conn = conn
        self.metric_send_channel = None  # py-libp2p's pubsub looks for it
        self._write_lock = trio.Lock()

    def get_protocol(self) -> TProtocol | None:
        return TProtocol(self.stream.protocol) if self.stream.protocol else None

    def set_protocol(self, protocol_id: TProtocol) -> None:
        self.stream.protocol = str(protocol_id)

    async def read(self, n: int | None = None) -> bytes:
        """Return at most `n` bytes; raises `StreamEOF` at the end."""
        if n == 0:
            await trio.lowlevel.checkpoint()
            return b""
        try:
            data = await self.stream.receive_some(n)
        except LatticaError as error:
            raise _translate(error) from error
        if not data:
            raise StreamEOF
        return data

    async def write(self, data: bytes) -> None:
        async with self._write_lock:
            try:
                await self.stream.send_all(data)
            except LatticaError as error:
                raise _translate(error) from error

    async def close(self) -> None:
        await self.stream.aclose()

    async def close_write(self) -> None:
        try:
            await self.stream.send_eof()
        except LatticaError as error:
            raise _translate(error) from error

    async def reset(self) -> None:
        self.stream.reset()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int] | None:
        return _socket_name(self.stream.connection.remote_addr)


class _MuxedConn(IMuxedConn):
    """What py-libp2p reads of a multiplexed connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.peer_id = libp2p_id(connection.peer_id)
        self.event_started = trio.Event()
        self.event_started.set()

    @property
    def is_initiator(self) -> bool:
        return self._connection.direction.value == "outbound"

    async def start(self) -> None:
        await trio.lowlevel.checkpoint()  # the swarm runs it

    async def close(self) -> None:
        await self._connection.aclose()

    @property
    def is_established(self) -> bool:
        return not self.is_closed

    @property
    def is_closed(self) -> bool:
        return self._connection.closed_reason is not None

    async def open_stream(self) -> IMuxedStream:
        raise NotImplementedError("streams are opened through the network service")

    async def accept_stream(self) -> IMuxedStream:
        raise NotImplementedError("inbound streams go to the protocol table")

    def get_transport_addresses(self) -> list[Libp2pMultiaddr]:
        return [libp2p_addr(self._connection.remote_addr)]

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


class NetConn(INetConn):
    """A :class:`Connection` as an `INetConn`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.muxed_conn: IMuxedConn = _MuxedConn(connection)
        self.event_started = trio.Event()
        self.event_started.set()

    async def close(self) -> None:
        await self.connection.aclose()

    @property
    def is_closed(self) -> bool:
        return self.connection.closed_reason is not None

    async def new_stream(self) -> INetStream:
        await trio.lowlevel.checkpoint()
        return NetStream(self.connection.open_stream(), self)

    def get_streams(self) -> tuple[INetStream, ...]:
        owners = [core.owner for core in self.connection.session.streams.values()]
        return tuple(NetStream(owner, self) for owner in owners if isinstance(owner, Stream))

    def get_transport_addresses(self) -> list[Libp2pMultiaddr]:
        return [libp2p_addr(self.connection.remote_addr)]

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


class RawConnAdapter:
    """py-libp2p's `IRawConnection` as our :class:`~lattica.nat.transport.base.RawConn`."""

    def __init__(self, raw: IRawConnection, remote: PeerId | None, addr: Multiaddr | None) -> None:
        self._raw = raw
        addrs = raw.get_transport_addresses()
        fallback = addr or Multiaddr(f"/p2p/{remote}/p2p-circuit" if remote else "/p2p-circuit")
        self.local_addr = fallback
        self.remote_addr = our_addr(addrs[0]) if addrs else fallback
        self._aborted = False
        self._scope = trio.CancelScope()

    @property
    def most_bytes(self) -> int | None:
        return None

    async def receive(self) -> memoryview:
        if self._aborted:
            raise trio.ClosedResourceError("aborted by this side")
        with trio.CancelScope() as self._scope:
            try:
                return memoryview(await self._raw.read(64 * 1024))
            except (StreamEOF, StreamReset):
                return memoryview(b"")
            except Exception as error:  # py-libp2p's pipes raise whatever they are made of
                raise ConnectionClosedError(f"the pipe below failed: {error}") from error
        raise trio.ClosedResourceError("aborted by this side")

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._raw.write(bytes(data))
        except Exception as error:
            raise ConnectionClosedError(f"the pipe below failed: {error}") from error

    def send_nowait(self, data: bytes) -> int:
        return 0

    def unanswered(self) -> float | None:
        return None

    def mark_authenticated(self) -> None:
        pass  # nothing is withheld from strangers

    def delivery(self) -> None:
        return None  # py-libp2p does not say

    async def aclose(self) -> None:
        # A pipe that fails to close is as good as closed.
        with suppress(Exception):
            await self._raw.close()

    def abort(self) -> None:
        self._aborted = True
        self._scope.cancel()
