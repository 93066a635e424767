"""The side that has the clients: listens, and for each of them asks the peer for a connection."""

from __future__ import annotations

import errno
import logging
import random
from collections.abc import Sequence

import trio

from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import (
    ConnectionClosedError,
    DialError,
    IncompleteReadError,
    LatticaError,
    LocalProtocolError,
    NotConnectedError,
    ResourceLimitError,
    StreamResetError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host
from lattica.rpc.ports.config import PortsConfig
from lattica.rpc.ports.connections import Connections, tell
from lattica.rpc.ports.endpoints import Endpoint, Listening, prepare
from lattica.rpc.ports.events import ConnectionRefused, PortCallback, Side
from lattica.rpc.ports.messages import (
    MAX_ANSWER,
    PORTS,
    Code,
    PortRefusedError,
    Request,
    decode_answer,
    encode_request,
)
from lattica.rpc.ports.pump import Pump, abort_socket

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds between attempts to reach the peer."""
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PASSING = (
    DialError,
    NotConnectedError,
    ConnectionClosedError,
    StreamResetError,
    ResourceLimitError,
    IncompleteReadError,
)
"""What may be otherwise in a moment: the peer is not there, or was lost before it had answered."""


class Remote:
    """A port of a peer."""

    def __init__(
        self,
        host: Host,
        config: PortsConfig,
        peer_id: PeerId,
        addrs: Sequence[Multiaddr],
        request: Request,
    ) -> None:
        self.peer_id = peer_id
        self.request = request
        self._host = host
        self._config = config
        self._addrs = addrs
        self._rng = random.Random()

    async def open(self) -> Stream:
        """A stream whose bytes are the service's; waits for the peer for a while.

        Nothing was sent to the service before an attempt that failed, so another does no harm.
        Raises :class:`PortRefusedError`, what opening streams raises, and :class:`TimeoutError`.
        """
        timeout, last, failures = self._config.connect_timeout, "", 0
        with trio.move_on_after(timeout):
            while True:
                try:
                    return await self._ask()
                except (*_PASSING, TimeoutError) as error:
                    last, failures = str(error), failures + 1
                    logger.debug("port %s of %s: %s", self.request.name, self.peer_id, error)
                await trio.sleep(pause_after(failures, _FIRST_PAUSE, _LONGEST_PAUSE, self._rng))
        why = f": {last}" if last else ""
        raise TimeoutError(f"no path to {self.peer_id} within {timeout:g} s{why}")

    async def _ask(self) -> Stream:
        if self._addrs and self._host.path(self.peer_id) is None:
            await self._host.connect(self._addrs)
        stream = await self._host.open_stream(self.peer_id, PORTS)
        try:
            await stream.send_message(encode_request(self.request))
            answer = decode_answer(await stream.receive_message(MAX_ANSWER))
        except BaseException:
            stream.reset()
            raise
        if answer.code is Code.OK:
            return stream
        stream.close()
        text = f"port {self.request.name} of {self.peer_id}: {answer.text}"
        if answer.code is Code.NOT_ALLOWED:
            text += (
                "; it is to be exposed to this peer, "
                f"{self._host.peer_id}, or to give out a key for it"
            )
        raise PortRefusedError(answer.code, text)


class Forward:
    """A local port whose clients are connected with a service of a peer.

    Ends with :meth:`close`, or a `with` block; else with the node.
    """

    def __init__(
        self,
        remote: Remote,
        listening: Listening,
        tasks: Tasks,
        config: PortsConfig,
        connections: Connections,
        *,
        idle_timeout: float,
        on_event: PortCallback | None,
    ) -> None:
        self._remote = remote
        self._listening = listening
        self._connections = connections
        self._idle_timeout = idle_timeout
        self._on_event = on_event
        self._places = trio.Semaphore(config.max_connections)
        self._scope = trio.CancelScope()
        self._closed = False
        tasks.start_soon(self._run)

    @property
    def peer_id(self) -> PeerId:
        """Who has the service."""
        return self._remote.peer_id

    @property
    def name(self) -> str:
        """The port's, at the peer."""
        return self._remote.request.name

    @property
    def local(self) -> Endpoint:
        """Where clients connect to."""
        return self._listening.endpoint

    @property
    def port(self) -> int:
        """The local TCP port; 0 for a unix socket."""
        return self.local.port

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def close(self) -> None:
        """Listen no more, and abort the connections. Idempotent."""
        self._closed = True
        self._listening.close()
        self._scope.cancel()

    def __enter__(self) -> Forward:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for sock in self._listening.sockets:
                        nursery.start_soon(self._accept, sock, nursery)
        finally:
            self.close()

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while not self._closed:
            await self._places.acquire()  # who comes meanwhile waits in the kernel's queue
            try:
                sock, _ = await listener.accept()
            except OSError as error:
                self._places.release()
                if error.errno in _NO_FILES:
                    logger.warning("cannot accept on %s: %s", self.local, error.strerror)
                    await trio.sleep(0.1)
                continue
            except trio.ClosedResourceError:  # by close()
                return
            nursery.start_soon(self._serve, sock)

    async def _serve(self, sock: trio.socket.SocketType) -> None:
        try:
            try:
                prepare(sock)
                name = sock.getpeername()
                stream = await self._remote.open()
            except (LatticaError, TimeoutError) as error:
                self._refuse(str(error))
                abort_socket(sock)
                return
            client = str(self.local) if self.local.path else str(Endpoint(name[0], name[1]))
            pump = Pump(stream, sock, self._idle_timeout)
            with self._connections.told(
                pump, Side.FORWARD, self.name, stream, client, self._on_event
            ):
                await pump.run()
        except OSError as error:  # of a client that has gone already
            logger.debug("a client of %s has gone: %s", self.local, error)
        finally:
            abort_socket(sock)
            self._places.release()

    def _refuse(self, reason: str) -> None:
        logger.info("port %s not connected: %s", self.name, reason)
        tell(self._on_event, ConnectionRefused(Side.FORWARD, self.name, self.peer_id, reason))


def check_open(tasks: Tasks) -> Tasks:
    """Raises LocalProtocolError where nothing runs any more."""
    if tasks.closed:
        raise LocalProtocolError("ports are exposed and forwarded while the node runs")
    return tasks
