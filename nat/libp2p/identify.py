"""libp2p identify and identify-push (`/ipfs/id/1.0.0`, `/ipfs/id/push/1.0.0`).

The messages and what they do to the peerstore are py-libp2p's. The exchange is ours, for
three reasons: what a peer says is bounded and checked (py-libp2p takes 1 MiB and 1,000
addresses, which need not parse), a peer that fails or says nonsense costs a debug line
(py-libp2p writes up to seven lines of error), and a node
without listen addresses answers at once (py-libp2p waits for half a second).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import version

import trio
from libp2p.abc import IHost, IPeerStore
from libp2p.identity.identify.identify import _mk_identify_protobuf
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.identity.update import update_peerstore_from_identify
from libp2p.peer.envelope import consume_envelope
from multiaddr.multiaddr import Multiaddr

from lattica.nat.base.addresses import decode_multiaddr, split_peer
from lattica.nat.base.errors import LatticaError, RemoteProtocolError
from lattica.nat.base.identity import PeerId
from lattica.nat.base.protobuf import parse_message
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.config import IdentifyInfo
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.secure.multistream import Initiator
from lattica.nat.swarm.protocols import StreamHandler

logger = logging.getLogger(__name__)

IDENTIFY = "/ipfs/id/1.0.0"
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
_TIMEOUT = 10.0
_MAX_MESSAGE = 64 * 1024
_MAX_ADDRS = 64
_MAX_PROTOCOLS = 512
_MAX_RECORD = 8 * 1024
_RECORD_DOMAIN = "libp2p-peer-record"
_ADDRESS_TTL = 7200
"""Seconds that a peer's addresses are remembered."""

ObservedHook = Callable[[Connection, Multiaddr], None]


async def read_message(stream: Stream) -> Identify:
    """Read one identify message; raises :class:`RemoteProtocolError` for a bad one."""
    data = await stream.receive_message(_MAX_MESSAGE)
    message = parse_message(Identify(), data, "the identify message")
    _keep_usable(message)
    return message


def _keep_usable(message: Identify) -> None:
    """Drop what is too much, addresses that do not parse, and text that is none."""
    addrs = list(filter(_is_address, message.listen_addrs[:_MAX_ADDRS]))
    protocols = list(filter(_is_text, message.protocols[:_MAX_PROTOCOLS]))
    del message.listen_addrs[:]
    message.listen_addrs.extend(addrs)
    del message.protocols[:]
    message.protocols.extend(protocols)
    if not _is_text(message.agent_version):
        message.ClearField("agent_version")
    if len(message.signedPeerRecord) > _MAX_RECORD:
        message.ClearField("signedPeerRecord")


def _keep_its_own(message: Identify, peer_id: PeerId) -> None:
    """Write addresses without the peer's ID at their end, and drop those of other peers."""
    split = [split_peer(decode_multiaddr(data)) for data in message.listen_addrs]
    del message.listen_addrs[:]
    message.listen_addrs.extend(
        addr.to_bytes() for addr, named in split if named in (None, peer_id) and addr.to_bytes()
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)  # protobuf gives bytes that are not UTF-8 as bytes


def _is_address(data: bytes) -> bool:
    try:
        decode_multiaddr(data)
    except RemoteProtocolError:
        return False
    return True


class Identification:
    """Answers, asks and takes identify messages for a host."""

    def __init__(self, host: IHost, info: IdentifyInfo, on_observed: ObservedHook) -> None:
        self._host = host
        self._info = info
        self._agent = info.agent_version or f"lattica-stack/{version('lattica-stack')}"
        self._on_observed = on_observed
        self.on_push: list[Callable[[PeerId], None]] = []
        """Called with peers that have said anew who they are."""

    @property
    def handlers(self) -> dict[str, StreamHandler]:
        """The handlers to register, by protocol."""
        return {IDENTIFY: self._answer, IDENTIFY_PUSH: self._take_push}

    async def _answer(self, stream: Stream) -> None:
        await stream.send_all(self._message(stream.connection))

    def _message(self, connection: Connection) -> bytes:
        message = _mk_identify_protobuf(self._host, connection.remote_addr)
        message.protocol_version = self._info.protocol_version
        message.agent_version = self._agent
        return encode_length_prefixed(message.SerializeToString())

    async def push(self, connection: Connection) -> None:
        """Tell a peer that speaks identify-push what has changed; without effect if that fails."""
        if IDENTIFY_PUSH not in connection.known_protocols:
            return
        try:
            with trio.move_on_after(_TIMEOUT):
                async with connection.open_stream() as stream:
                    stream.begin_negotiation(Initiator([IDENTIFY_PUSH]))
                    await stream.finish_negotiation()
                    await stream.send_all(self._message(connection))
        except LatticaError as error:
            logger.debug("identify not pushed: %s peer=%s", error, connection.peer_id)

    async def _take_push(self, stream: Stream) -> None:
        with trio.move_on_after(_TIMEOUT):
            await self._take(stream.connection, await read_message(stream))
            for hook in self.on_push:
                hook(stream.peer_id)

    async def ask(self, connection: Connection) -> bool:
        """Ask the peer who it is; False when it does not say."""
        try:
            with trio.move_on_after(_TIMEOUT):
                async with connection.open_stream() as stream:
                    stream.begin_negotiation(Initiator([IDENTIFY]))
                    await self._take(connection, await read_message(stream))
                return True
        except LatticaError as error:
            logger.debug("peer not identified: %s peer=%s", error, connection.peer_id)
        return False

    async def _take(self, connection: Connection, message: Identify) -> None:
        peer_id, store = connection.peer_id, self._host.get_peerstore()
        _keep_its_own(message, peer_id)
        record = message.signedPeerRecord
        message.ClearField("signedPeerRecord")
        message.public_key = connection.public_key.serialize()  # proved, not said
        await update_peerstore_from_identify(store, peer_id, message)
        _take_record(store, peer_id, record)
        if connection.direction is Direction.OUTBOUND:
            # It works, whatever the peer believes its addresses to be.
            store.add_addr(peer_id, connection.remote_addr, _ADDRESS_TTL)
        connection.agent = message.agent_version[:256]
        connection.known_protocols.update(message.protocols)
        if message.observed_addr:
            self._on_observed(connection, decode_multiaddr(message.observed_addr))


def _take_record(store: IPeerStore, peer_id: PeerId, data: bytes) -> None:
    """Take a signed peer record that is valid, the peer's own and newer than the last."""
    if not data:
        return
    try:
        envelope, record = consume_envelope(data, _RECORD_DOMAIN)
        if record.peer_id != peer_id:
            raise RemoteProtocolError("it is of somebody else")
        for addr in record.addrs:
            decode_multiaddr(addr.to_bytes())
        store.consume_peer_record(envelope, _ADDRESS_TTL)
    except Exception as error:  # the parsers of py-libp2p raise many types
        logger.debug("peer record not taken: %s peer=%s", error, peer_id)
