"""The node and its builder in one, as the original has them: `Lattica.builder()`."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from lattica.compat.calls.rpc_client import RpcClient
from lattica.compat.calls.service import service_of
from lattica.compat.errors import CompatError
from lattica.compat.peer_info import PeerInfo
from lattica.compat.records import ValueWithExpiration
from lattica.compat.running import Running
from lattica.compat.settings import Settings, texts
from lattica.content.manifest.cid import Cid
from lattica.doctor.distributions import ADVICE, has_original
from lattica.facades.blocking import Lattica
from lattica.facades.threads.bridge import Bridge
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.peer_id import PeerId, parse_peer_id
from lattica.nat.base.net.addresses import with_peer
from lattica.nat.swarm.addresses.nat_report import Behaviour
from lattica.nat.swarm.status import PeerStatus

logger = logging.getLogger(__name__)


@cache
def notice() -> None:
    """Say, once, when the original is installed, too."""
    if has_original():
        logger.warning(
            "the original lattica is installed beside lattica-stack, and both own one folder. %s",
            ADVICE,
        )


class CompatLattica:
    """A node with the API of the original's `Lattica`; made by `Lattica.builder()`.

    `with_…` may be called until :meth:`build`, and return the object itself; so does `build`, when
    the node listens. The last call of each counts. All methods may be called from any thread.
    """

    def __init__(self) -> None:
        notice()
        self._settings = Settings()
        self._built: Running | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = repr(self._built.lattica) if self._built is not None else "not built"
        return f"<{type(self).__name__}, {state}>"

    # --- builder ---

    def _with(self, **changes: Any) -> Self:
        if self._built is not None:
            raise CompatError("the node is built: settings come before build()")
        self._settings = replace(self._settings, **changes)
        return self

    def with_bootstraps(self, bootstraps: Iterable[str]) -> Self:
        """Peers to connect to, and to stay connected to."""
        return self._with(bootstraps=texts(bootstraps))

    def with_listen_addrs(self, addrs: Iterable[Any]) -> Self:
        """Where to listen; those that cannot be used are named in the log."""
        return self._with(listen=texts(addrs))

    def with_relay_servers(self, relays: Iterable[str]) -> Self:
        """Relays by which others reach this node, each with `/p2p/ID`."""
        return self._with(relays=texts(relays))

    def with_external_addrs(self, addrs: Iterable[str]) -> Self:
        """Where others reach this node besides what it finds out."""
        return self._with(external_addrs=texts(addrs))

    def with_key_path(self, path: str) -> Self:
        """The directory with the node's key, `p2p.key`, which is made when there is none."""
        return self._with(key_path=Path(path))

    def with_storage_path(self, path: str) -> Self:
        """The directory for blocks."""
        return self._with(storage_path=Path(path))

    def with_dht_db_path(self, path: str) -> Self:
        """The directory for what others store here."""
        return self._with(dht_path=Path(path))

    def with_protocol(self, protocol: str) -> Self:
        """The network: peers of another one are none of this node's. "" is the network of this
        node itself."""
        return self._with(protocol=protocol)

    def with_idle_timeout(self, timeout: float) -> Self:
        """Nothing, as in the original."""
        return self._with()

    def with_mdns(self, enabled: bool) -> Self:
        """Whether to connect to peers of this network that are on the local net, which is told of
        this node; it is, unless it is said otherwise here or by `discovery.mdns`."""
        return self._with(mdns=bool(enabled))

    def with_upnp(self, enabled: bool) -> Self:
        """Whether the router is asked to open ports."""
        return self._with(upnp=bool(enabled))

    def with_autonat(self, enabled: bool) -> Self:
        """Nothing: reachability is always found out."""
        return self._with()

    def with_dcutr(self, enabled: bool) -> Self:
        """Whether relayed connections are made direct."""
        return self._with(dcutr=bool(enabled))

    def build(self) -> Self:
        """Start the node; returns when it listens. Idempotent.

        Raises:
            ConfigError: none of the listening addresses can be used.
            ListenError: an address cannot be bound.
            IdentityError: the key cannot be read or made.
        """
        with self._lock:
            if self._built is None:
                self._built = Running(self._settings)
        return self

    def __enter__(self) -> Self:
        return self.build()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing, as in the original: the node goes on until it is closed or dropped."""

    def __del__(self) -> None:
        built = getattr(self, "_built", None)
        if built is not None and not sys.is_finalizing():  # then no thread can be started
            # Whoever drops it may be the node's own thread, which must not wait for itself.
            threading.Thread(target=built.close, daemon=True).start()

    def close(self) -> None:
        """Stop the node; its ports are free when this returns. Idempotent.

        Calls that were sent have five seconds to finish.
        """
        if self._built is not None:
            self._built.close()

    @property
    def lattica(self) -> Lattica:
        """The node that this stands on, with everything that the original lacks."""
        return self._running.lattica

    @property
    def _running(self) -> Running:
        if self._built is None:
            raise CompatError("the node is not built: call build() first")
        if self._built.is_closed:
            raise CompatError("the node is closed")
        return self._built

    @property
    def _bridge(self) -> Bridge[Any]:
        return self._running.bridge

    # --- calls ---

    def register_service(self, handler: object) -> None:
        """Serve a handler's marked methods under its class's name; the last of a name counts."""
        self.lattica.rpc.serve(service_of(handler), name=type(handler).__name__, replace=True)
        self._bridge.call_plain(self._running.original.server.register, handler)

    def get_client(self, peer_id: str) -> RpcClient:
        """What calls a peer's services by name.

        Raises:
            ValueError: it is no peer ID.
        """
        return RpcClient(self._running, _peer(peer_id))

    # --- values ---

    def store(
        self,
        key: str,
        value: Any,
        expiration_time: float | None = None,
        subkey: str | None = None,
    ) -> bool:
        """Store a value, for ten minutes unless `expiration_time` (wall clock) is given; each
        `subkey` has one of its own. Whether it will be found, by this node at least."""
        return self._bridge.call(self._running.records.store, key, value, expiration_time, subkey)

    def get(self, key: str) -> ValueWithExpiration | None:
        """What is stored under a key; None if there is nothing, or if it is not found in 5 s.

        A node with bootstrap peers looks for it until a second from its start.
        """
        while True:
            found = self._bridge.call(self._running.records.get, key)
            if found is not None or not self._running.is_looking_round():
                return found

    def start_providing(self, key: str) -> None:
        """Let others find this node by a key; a node without peers is found when it has some."""
        self._bridge.call(self._running.records.provide, key)

    def stop_providing(self, key: str) -> None:
        """Be found by it no more."""
        self._bridge.call(self._running.records.withdraw, key)

    def get_providers(self, key: str) -> list[str]:
        """The peers that provide a key, this one included; takes 5 s at most."""
        return self._bridge.call(self._running.records.providers, key)

    # --- blocks ---

    def put_block(self, data: bytes) -> str:
        """Keep a block, and serve it; returns its CID."""
        running = self._running
        try:
            cid = running.blocks.put(bytes(data))
        except (OSError, ValueError) as error:
            raise CompatError(f"Failed to put block: {error}") from error
        self._bridge.call_plain(running.exchange.notify, cid)
        return str(cid)

    def get_block(self, cid: str, timeout_secs: float = 30) -> tuple[str | None, bytes]:
        """A block, and who has sent it: None if it is here.

        Raises:
            RuntimeError: it is no CID, or nobody has sent it in time.
        """
        running = self._running
        try:
            name = Cid.parse(cid)
            block = running.blocks.get_block(name)
            if block is not None:
                return None, block
            peer, block = self._bridge.call(running.exchange.get, name, float(timeout_secs))
        except LatticaError as error:
            raise CompatError(f"Failed to get block: {error}") from error
        return str(peer), block

    def remove_block(self, cid: str) -> None:
        """Serve a block no more. Idempotent."""
        try:
            self._running.blocks.remove(Cid.parse(cid))
        except LatticaError as error:
            raise CompatError(f"Failed to remove block: {error}") from error

    def configure_bitswap_peer_selection(self, **options: Any) -> None:
        """Nothing: the peers that were good are asked first, and others when they take too long."""

    def get_bitswap_global_stats(self) -> dict[str, int]:
        """What was asked for here, and what came."""
        counted = self._running.exchange.statistics
        return {
            "total_requests": counted.requested,
            "successful_requests": counted.received,
            "failed_requests": counted.failed,
            "total_bytes_received": counted.bytes_received,
        }

    def get_bitswap_peer_rankings(self) -> list[dict[str, Any]]:
        """The connected peers, those with the best score first.

        Of each: `peer_id`, `score` (0 to 100; 55 of who was asked for nothing yet),
        `blocks_received`, `failures` (blocks that it was asked for and did not send in time),
        `success_rate` (0 to 1; 0.5 of nothing) and `avg_speed` (bytes a second).
        """

        def rank() -> list[dict[str, Any]]:
            now, exchange = trio.current_time(), self._running.exchange
            found = [(str(each.peer_id), exchange.record_of(each.peer_id)) for each in peers]
            return [
                {
                    "peer_id": peer,
                    "score": record.score(now),
                    "blocks_received": record.blocks,
                    "failures": record.failures,
                    "success_rate": record.success_rate,
                    "avg_speed": record.speed,
                }
                for peer, record in found
            ]

        peers = self._peers()
        return sorted(self._bridge.call_plain(rank), key=lambda each: -each["score"])

    def print_bitswap_stats(self) -> None:
        """Print both."""
        print(self.get_bitswap_global_stats())  # noqa: T201 - what it is for
        for each in self.get_bitswap_peer_rankings():
            print(each)  # noqa: T201

    # --- peers ---

    def peer_id(self) -> str:
        """This node's ID, also when it is closed."""
        return str((self._built or self._running).peer_id)

    def get_visible_maddrs(self) -> list[str]:
        """Where others reach this node."""
        return [str(addr) for addr in self.lattica.addrs]

    def get_all_peers(self) -> list[str]:
        """The connected peers of this network, those that a relay connects included.

        A node with bootstrap peers is given a second from its start to find whom they know.
        """
        self._running.look_round()
        return [str(status.peer_id) for status in self._peers()]

    def _peers(self) -> list[PeerStatus]:
        network = self._settings.protocol_of(self.lattica.peer_id)
        return [each for each in self.lattica.peers() if each.protocol_version in ("", network)]

    def get_peer_info(self, peer_id: str) -> PeerInfo | None:
        """What is known of a connected peer; None of others."""
        peer = _peer(peer_id)
        status = next((each for each in self.lattica.peers() if each.peer_id == peer), None)
        if status is None:
            return None
        addrs = self.get_peer_addresses(peer_id)
        registry = self._running.node.swarm.registry

        def protocols() -> list[str]:
            connections = registry.by_peer.get(peer, ())
            return sorted({name for each in connections for name in each.known_protocols})

        return PeerInfo.of(status, addrs, self._bridge.call_plain(protocols))

    def get_peer_addresses(self, peer_id: str) -> list[str]:
        """Where a peer is known to be, each address with its ID."""
        peer = _peer(peer_id)
        book = self._running.node.swarm.address_book
        found = self._bridge.call_plain(book.addrs, peer)
        return [str(with_peer(addr, peer)) for addr in found]

    def get_peer_rtt(self, peer_id: str) -> float | None:
        """Seconds to a connected peer and back; None of others. The first measurement of a
        connection is waited for, a second at most.

        Raises:
            RuntimeError: it is no peer ID.
        """
        try:
            peer = parse_peer_id(peer_id)
        except LatticaError as error:
            raise CompatError(f"Failed to get peer RTT: {error}") from None
        return self._bridge.call(self._running.rtt, peer)

    def is_symmetric_nat(self) -> bool | None:
        """False once the NAT is known, None before.

        Programs that are told True give up, and that is never right here: behind a symmetric NAT
        calls go by relays, or by ports that are guessed.
        """
        mapping = self._running.node.swarm.nat.value.mapping
        if mapping is None:
            return None
        if mapping is not Behaviour.ENDPOINT_INDEPENDENT:
            logger.info("the NAT is symmetric: peers behind others like it are reached by relays")
        return False


def _peer(text: str) -> PeerId:
    try:
        return parse_peer_id(str(text))
    except LatticaError as error:
        raise ValueError(f"Invalid peer ID: {error}") from None
