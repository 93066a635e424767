"""Driver of the AutoNAT v2 server: takes requests, dials back, delivers the nonce.

The dial must be one that a stranger could make. It never uses a connection that exists, and does
not come from the address and port that the asker talks to: NATs and firewalls let in who has been
written to, so that a dial from the listening port would get through where no stranger's would. It
comes from a fresh ephemeral port, for QUIC from a fresh UDP socket. What remains are NATs that
filter by address alone. They are told from open ones only by a dial from another address, which
a server makes that has several (`AutonatServerConfig.dial_back_ips`).

The dial is made with this node's own key: askers with an allow-list would refuse another one.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping, Sequence
from random import SystemRandom

import trio

from lattica.nat.base.errors import (
    AccessDeniedError,
    DialError,
    IncompleteReadError,
    LatticaError,
    StreamResetError,
)
from lattica.nat.base.net.addresses import Kind, ip_of, kind_of
from lattica.nat.base.net.interfaces import local_interfaces
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.autonat.config import AutonatServerConfig
from lattica.nat.traversal.autonat.messages import (
    DIAL_BACK,
    DIAL_REQUEST,
    MAX_DIAL_BACK,
    MAX_MESSAGE,
    MIN_DIAL_DATA,
    DialResponse,
    DialStatus,
    ResponseStatus,
    decode,
    decode_dial_back_response,
    encode,
    encode_dial_back,
)
from lattica.nat.traversal.autonat.server_core import AutonatServerCore, Dial, Exchange, Reply

logger = logging.getLogger(__name__)


class AutonatServer:
    """Serves :attr:`handlers`, which are to be put into the swarm's protocol table."""

    def __init__(
        self,
        swarm: Swarm,
        config: AutonatServerConfig | None = None,
    ) -> None:
        self.config = config or AutonatServerConfig()
        self._swarm = swarm
        self._core = AutonatServerCore(
            self.config, clock=trio.current_time, rng=SystemRandom(), local=local_interfaces
        )

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """The handlers to register, by protocol."""
        return {DIAL_REQUEST: self.serve}

    async def serve(self, stream: Stream) -> None:
        """Serve one request. Bounded in time; cancellation ends a dial that is under way."""
        exchange = self._core.enter(stream.peer_id, observed_ip(stream.connection))
        if exchange is None:
            logger.debug("autonat request rejected: too many peer=%s", stream.peer_id)
            await self._answer(stream, DialResponse(ResponseStatus.E_REQUEST_REJECTED))
            return
        try:
            await self._run(stream, exchange)
        finally:
            exchange.leave()

    async def _answer(self, stream: Stream, response: DialResponse) -> None:
        with trio.move_on_after(self.config.request_timeout):
            await stream.send_message(encode(response))
            await stream.send_eof()

    async def _run(self, stream: Stream, exchange: Exchange) -> None:
        while True:
            limit = self.config.request_timeout * (1 + exchange.owed / MIN_DIAL_DATA)
            with trio.move_on_after(limit) as scope:
                step = await self._next_step(stream, exchange)
            if scope.cancelled_caught:
                stream.reset("the AutoNAT request took too long")
                return
            if isinstance(step, Dial):
                step = await self._dial_back(stream.connection, exchange, step)
            if step.last and isinstance(step.message, DialResponse):
                await self._answer(stream, step.message)
                return
            await stream.send_message(encode(step.message))

    async def _next_step(self, stream: Stream, exchange: Exchange) -> Reply | Dial:
        while True:
            step = exchange.receive(decode(await stream.receive_message(MAX_MESSAGE)))
            if step is not None:
                return step

    async def _dial_back(self, asker: Connection, exchange: Exchange, dial: Dial) -> Reply:
        await trio.sleep(dial.delay)
        try:
            status = await self._deliver(asker, dial)
        except AccessDeniedError as error:
            logger.debug("autonat dial refused: %s addr=%s", error, dial.addr)
            return exchange.refused()
        logger.debug(
            "autonat dialed back: %s addr=%s peer=%s", status.name, dial.addr, asker.peer_id
        )
        return exchange.dialed(status)

    async def _deliver(self, asker: Connection, dial: Dial) -> DialStatus:
        """Dial and hand over the nonce. Raises :class:`AccessDeniedError` only."""
        status = DialStatus.E_DIAL_ERROR
        config, peer = self.config, asker.peer_id
        source = choose_source(config.dial_back_ips, ip_of(asker.local_addr), ip_of(dial.addr))
        with trio.move_on_after(config.dial_timeout) as scope:
            try:
                async with self._swarm.dial_unshared(
                    peer, dial.addr, source_ip=source
                ) as connection:
                    status = DialStatus.E_DIAL_BACK_ERROR
                    scope.deadline = trio.current_time() + config.dial_back_timeout
                    if await hand_over(connection, dial.nonce):
                        status = DialStatus.OK
            except DialError as error:
                if isinstance(error.__cause__, AccessDeniedError):
                    raise error.__cause__ from None
                logger.debug("autonat dial-back failed: %s", error)
        return status


def choose_source(
    own: Sequence[str], talked_to: IpAddress | None, target: IpAddress | None
) -> str | None:
    """Which of our `own` addresses to dial `target` from: one that the asker has not talked to,
    or else any of the right family; None if there is none.
    """
    if target is None:
        return None
    fitting = [ip for ip in map(ipaddress.ip_address, own) if ip.version == target.version]
    others = [ip for ip in fitting if ip != talked_to]
    return next((str(ip) for ip in others or fitting), None)


def observed_ip(connection: Connection) -> IpAddress | None:
    """Where a peer's connection comes from; None if it comes over a relay."""
    if kind_of(connection.remote_addr) is Kind.CIRCUIT:
        return None
    return ip_of(connection.remote_addr)


async def hand_over(connection: Connection, nonce: int) -> bool:
    """Send the nonce on a fresh connection; whether the peer has taken it, as far as it says.

    go-libp2p's servers do not look at the answer, and rust-libp2p's clients reset the stream
    behind it, by which it may be lost: so that after the nonce any end of the stream will do that
    the peer has made, but an answer that says no. Raises nothing; the caller bounds the time.
    """
    try:
        async with await connection.open(DIAL_BACK) as stream:
            await stream.send_message(encode_dial_back(nonce))
            try:
                await stream.send_eof()
                answer = await stream.receive_message(MAX_DIAL_BACK)
            except (StreamResetError, IncompleteReadError):
                return True
            return decode_dial_back_response(answer)
    except (LatticaError, TimeoutError) as error:
        logger.debug("autonat nonce not delivered: %s peer=%s", error, connection.peer_id)
        return False
