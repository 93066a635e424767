"""TCP through two NATs: both sides dial each other from their listening ports at one time.

A NAT lets in what comes from where something went out to. So each side's first packet opens its
own NAT for the other's, whichever gets through first, and the two dials become one connection
(simultaneous open, RFC 9293 section 3.5; RFC 5382 REQ-2 wants NATs to allow it).

* What arrives before its hole is open is dropped, or refused by a reset or an ICMP message. The
  kernel repeats what was dropped; what was refused is dialed again here, soon and within limits.
* Several addresses of the peer may connect. The *leading* side (the responder of DCUtR, the
  client in Noise) chooses: it begins the set-up on one connection after the other. The following
  side waits on all of its own for the first bytes, and goes on with the one that brings some.
* A side that has not dialed yet may get the other's packet at its listening socket, where the
  connection is accepted as any other is; its own dial from that port to that address is then
  impossible. If it leads, both would wait for the other to begin the set-up; so a follower that
  hears nothing for a while begins itself.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Sequence

import trio

from lattica.nat.base.errors import AccessDeniedError, DialAttempt, DialError, LatticaError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.own_sockets import own
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.transport.tcp import TcpConn
from lattica.nat.traversal.punch.config import PunchConfig

NEXT_HANDSHAKE = 0.4
"""Seconds after which a leader tries another connection besides the one it has begun on."""
HANDSHAKE_TIMEOUT = 4.0
_SLOWER = 1.25
"""Each pause is so much longer than the one before: most that help at all help at once."""
_IP_VERSION = {socket.AF_INET: 4, socket.AF_INET6: 6}
_HOPELESS = {
    errno.ENETUNREACH,
    errno.EAFNOSUPPORT,
    errno.EACCES,
    errno.EPERM,
    errno.EINVAL,
}
"""Errors that do not pass while the network stays what it is."""


async def punch(
    swarm: Swarm,
    peer_id: PeerId,
    addrs: Sequence[Multiaddr],
    config: PunchConfig,
    *,
    leads: bool,
    patience: float,
    rng: random.Random,
) -> Connection:
    """Dial all of the peer's addresses now, until one is a direct connection to it.

    One that comes about by other means meanwhile will do, too. `patience` is how long, in
    seconds, a follower waits for the leader's first word.

    Takes `config.window` seconds, and those of a handshake, at most; may be cancelled at any time.

    Raises:
        DialError: none was reached; with the reason of each address.
    """
    return await _Punch(swarm, peer_id, config, leads, patience, rng).run(addrs)


class _Punch:
    """One round of one side."""

    def __init__(
        self,
        swarm: Swarm,
        peer_id: PeerId,
        config: PunchConfig,
        leads: bool,
        patience: float,
        rng: random.Random,
    ) -> None:
        self._swarm = swarm
        self._peer_id = peer_id
        self._config = config
        self._leads = leads
        self._patience = patience
        self._rng = rng
        self._gater = swarm.gater
        self._tries_left = config.max_tries
        self._errors: dict[Multiaddr, str] = {}
        self._idle: dict[socket.socket, Multiaddr] = {}
        """Connected, and not handed on yet."""
        self._won: list[Connection] = []
        self._chosen = False
        self._scope = trio.CancelScope()
        self._failed = trio.Event()

    async def run(self, addrs: Sequence[Multiaddr]) -> Connection:
        try:
            with self._scope:
                async with trio.open_nursery() as watching:
                    watching.start_soon(self._watch)
                    await self._work(addrs)
                    watching.cancel_scope.cancel()
        finally:
            for sock in self._idle:
                sock.close()
        if self._won:
            return self._won[0]
        raise DialError(
            self._peer_id,
            [DialAttempt(str(addr), self._errors.get(addr, "no answer")) for addr in addrs],
        )

    def _win(self, connection: Connection, *, chosen: bool) -> None:
        """The first one ends the search. Of two that were finished in one moment, a leader ends
        the one that it has chosen later, which the follower does not hold on to; others stay.
        """
        if self._won and self._chosen and chosen and connection is not self._won[0]:
            connection.abort("another address was faster")
        if not self._won:
            self._won.append(connection)
            self._chosen = chosen
            self._scope.cancel()

    async def _watch(self) -> None:
        """The other's packet may have come in at the listening socket."""
        self._win(await self._swarm.wait_direct(self._peer_id), chosen=False)

    async def _work(self, addrs: Sequence[Multiaddr]) -> None:
        send, receive = trio.open_memory_channel[socket.socket](max(1, len(addrs)))
        end = trio.current_time() + self._config.window
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._lead if self._leads else self._follow_all, receive)
            async with send, trio.open_nursery() as dialing:
                for addr in addrs:
                    dialing.start_soon(self._dial, addr, end, send)

    # --- dialing ---

    async def _dial(
        self, addr: Multiaddr, end: float, connected: trio.MemorySendChannel[socket.socket]
    ) -> None:
        try:
            self._gater.check_address(addr)
        except AccessDeniedError as error:
            self._errors[addr] = str(error)
            return
        if (doubt := self._swarm.doubtful.get(self._peer_id, addr)) is not None:
            self._errors[addr] = f"it carried nothing the last time ({doubt.reason})"
            return
        pause = self._config.retry_interval
        with trio.move_on_at(end):
            while self._tries_left:
                self._tries_left -= 1
                try:
                    sock = await self._connect(addr)
                except OSError as error:
                    self._errors[addr] = error.strerror or str(error)
                    if error.errno in _HOPELESS:
                        return
                else:
                    self._idle[sock] = addr
                    connected.send_nowait(sock)
                    return
                # Both sides at the same pace might miss each other for ever.
                await trio.sleep(pause * self._rng.uniform(0.5, 1.5))
                pause *= _SLOWER

    async def _connect(self, addr: Multiaddr) -> socket.socket:
        endpoint = to_endpoint(addr)
        port = self._swarm.tcp_listen_port(_IP_VERSION[endpoint.family])
        if port is None:
            raise OSError(errno.EAFNOSUPPORT, "this node does not listen on TCP there")
        sock = own(socket.socket(endpoint.family, socket.SOCK_STREAM))
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("", port))
            code = sock.connect_ex(endpoint.socket_name)
            if code == errno.EINPROGRESS:
                await trio.lowlevel.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            else:
                await trio.lowlevel.checkpoint()
            if code:
                raise OSError(code, errno.errorcode.get(code, "connect failed"))
            return sock
        except BaseException:
            sock.close()
            raise

    # --- setting up ---

    async def _lead(self, connected: trio.MemoryReceiveChannel[socket.socket]) -> None:
        async with trio.open_nursery() as nursery:
            async for sock in connected:
                self._failed = trio.Event()
                nursery.start_soon(self._set_up, sock, Direction.OUTBOUND)
                with trio.move_on_after(NEXT_HANDSHAKE):
                    await self._failed.wait()

    async def _follow_all(self, connected: trio.MemoryReceiveChannel[socket.socket]) -> None:
        async with trio.open_nursery() as nursery:
            async for sock in connected:
                nursery.start_soon(self._follow, sock)

    async def _follow(self, sock: socket.socket) -> None:
        with trio.move_on_after(self._patience) as patience:
            await trio.lowlevel.wait_readable(sock)
        if patience.cancelled_caught:
            await self._set_up(sock, Direction.OUTBOUND)
            return
        try:
            begun = sock.recv(1, socket.MSG_PEEK)
        except OSError as error:
            begun = b""
            self._errors[self._idle[sock]] = error.strerror or str(error)
        if begun:
            await self._set_up(sock, Direction.INBOUND)
        else:
            # The leader has chosen another one.
            self._errors.setdefault(self._idle.pop(sock), "the peer hung up")
            sock.close()

    async def _set_up(self, sock: socket.socket, direction: Direction) -> None:
        """Go on with a connected socket, in the role that `direction` says."""
        addr = self._idle.pop(sock)
        try:
            raw = TcpConn(sock)
        except OSError as error:
            sock.close()
            self._errors[addr] = error.strerror or str(error)
            self._failed.set()
            return
        with trio.move_on_after(HANDSHAKE_TIMEOUT) as limit:
            try:
                connection = await self._swarm.adopt(raw, direction, self._peer_id)
                # No checkpoint from here on.
                self._win(connection, chosen=self._leads)
            except (LatticaError, OSError) as error:
                self._errors[addr] = str(error)
        if limit.cancelled_caught:
            self._errors[addr] = f"the handshake took more than {HANDSHAKE_TIMEOUT:g} s"
        self._failed.set()
