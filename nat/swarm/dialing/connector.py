"""The driver of `lattica.nat.secure.upgrade`: pipes in, connections out, for both directions."""

from __future__ import annotations

from collections.abc import Callable

import trio

from lattica.nat.base.errors import (
    AccessDeniedError,
    AddressError,
    ConnectionClosedError,
    RemoteProtocolError,
)
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.limits.places import source_of
from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.session import GATED, NOT_LET_IN
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.turns import NetworkNuisance, Nuisance, Turnstile
from lattica.nat.mux.yamux.frames import FrameType, pack_header
from lattica.nat.mux.yamux.session import Session
from lattica.nat.secure.ciphers import offered
from lattica.nat.secure.gater import Gater
from lattica.nat.secure.noise_identity import new_instance
from lattica.nat.secure.upgrade import Upgrade, Upgraded
from lattica.nat.swarm.yamux_connection import YamuxConnection
from lattica.nat.transport.base import RawConn, SecureLink
from lattica.nat.transport.pnet import PnetConn

_OTHER_KEY = "perhaps the peer has another private network key, or none"


class CrossedDialError(ConnectionClosedError):
    """The peer dialed us from where we dialed it, and gave up what the two dials became.

    So it does when it looked for another peer at our address, such as the node that had our port
    before us. A dial from another port says more.
    """


class Connector:
    """Secures and multiplexes pipes, with one set of rules and one memory budget."""

    def __init__(
        self, identity: Identity, config: SwarmConfig, on_stream: Callable[[Stream], None]
    ) -> None:
        self.identity = identity
        self.instance = new_instance()
        """What tells this node from others with its key."""
        self.gater = Gater(config.access)
        self._config = config
        self._ciphers = offered(config.cipher)
        self._on_stream = on_stream
        self.budget = MemoryBudget(config.limits.receive_memory_total)
        self.turnstile = Turnstile()
        self.nuisance = NetworkNuisance()

    async def connect(
        self,
        raw: RawConn | SecureLink,
        direction: Direction,
        expected_peer: PeerId | None = None,
        *,
        initiator: bool,
    ) -> Connection:
        """Return a connection that is not running yet.

        `initiator` is the role in the set-up of a pipe; a link has its roles already. The
        caller bounds the time, and aborts the pipe when this fails. Raises
        :class:`RemoteProtocolError`, `PeerMismatchError`, `AccessDeniedError`,
        :class:`AddressError` (a link in a role that it cannot take), :class:`CrossedDialError`,
        :class:`ConnectionClosedError` and :class:`OSError`.
        """
        if isinstance(raw, SecureLink):
            if direction is Direction.OUTBOUND and not initiator:
                raise AddressError("this transport cannot take the responder's part in a dial")
            remote = await raw.authenticate(expected_peer)
            try:
                self.gater.check_peer(remote.peer_id)
            except AccessDeniedError:
                raw.abort(GATED, NOT_LET_IN)
                raise
            return raw.connection(
                remote,
                direction=direction,
                send_buffer=self._config.windows.send_buffer,
                on_stream=self._on_stream,
                check_address=self.gater.check_address,
            )
        key = self._config.private_network_key
        if key is not None:
            raw = PnetConn(raw, key)
        upgrade = Upgrade(
            self.identity,
            initiator=initiator,
            expected_peer=expected_peer,
            ciphers=self._ciphers,
            instance=self.instance,
        )
        try:
            upgraded = await self._set_up(raw, upgrade, direction)
        except OSError as error:
            if upgrade.crossed:
                raise CrossedDialError(str(error)) from error
            raise
        try:
            self.gater.check_peer(upgraded.remote.peer_id)
        except AccessDeniedError:
            goodbye = pack_header(0, FrameType.GO_AWAY, 0, 0, GATED)
            await raw.send(upgraded.writer.seal(goodbye))
            raise
        raw.mark_authenticated()
        source = source_of(raw.remote_addr, upgraded.remote.peer_id)
        session = Session(
            initiator=upgraded.initiator,
            clock=trio.current_time,
            windows=self._config.windows,
            limits=self._config.limits,
            timeouts=self._config.timeouts,
            budget=self.budget,
            source=source,
            nuisance=Nuisance(trio.current_time, self.nuisance.of(source.network)),
            relayed=kind_of(raw.remote_addr) is Kind.CIRCUIT,
        )
        return YamuxConnection(
            raw,
            upgraded,
            session,
            turnstile=self.turnstile,
            direction=direction,
            send_buffer=self._config.windows.send_buffer,
            on_stream=self._on_stream,
        )

    async def _set_up(self, raw: RawConn, upgrade: Upgrade, direction: Direction) -> Upgraded:
        """Carry bytes between a pipe and the machine of its set-up until that is done."""
        private = self._config.private_network_key is not None
        network = source_of(raw.remote_addr).network
        while True:
            if data := upgrade.data_to_send():
                await raw.send(data)
            if upgrade.result is not None:
                return upgrade.result
            received = await raw.receive()
            if not received:
                error = f"the peer closed during {upgrade.stage}"
                if private and not upgrade.speaks_libp2p:
                    error = f"{error}; {_OTHER_KEY}"
                raise ConnectionClosedError(error)
            if direction is Direction.INBOUND:
                # Keys take a while: one by one for the handshakes that come from one network.
                received = memoryview(bytes(received))
                await self.turnstile.wait(network)
            try:
                upgrade.receive(received)
            except RemoteProtocolError as garbage:
                if upgrade.speaks_libp2p:
                    raise
                if private:  # without which what came means nothing
                    raise RemoteProtocolError(
                        f"the peer's bytes make no sense; {_OTHER_KEY}"
                    ) from None
                raise RemoteProtocolError(
                    f"the peer does not speak libp2p here, or is in a private network ({garbage})"
                ) from None
