"""What a node has beyond its connections: made when it is first asked for, ended with the node."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lattica.dht.topics.service.records import PeerRecords
from lattica.nat.base.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from lattica.crdt.store.shared_document import SharedDocument
    from lattica.crdt.store.store import Store
    from lattica.dht.dht import Dht
    from lattica.dht.discovery.discovery import Discovery
    from lattica.dht.topics.service.topics import Topics
    from lattica.nat.services.identify.service import IdentifyService
    from lattica.node import Node
    from lattica.node.bootstrap import BootstrapPeers
    from lattica.rpc.ports.ports import Ports
    from lattica.rpc.rpc import Rpc


class Services:
    """Those of one node, which describes each where it has it itself.

    Args:
        key_file: where the node's key is kept; what is remembered is kept for that key.
        is_for_now: whether the key lives as long as the node.
    """

    def __init__(
        self,
        node: Node,
        identify: IdentifyService,
        bootstrap: BootstrapPeers,
        *,
        key_file: Path | None,
        is_for_now: bool,
    ) -> None:
        self._node = node
        self._identify = identify
        self._bootstrap = bootstrap
        self._key_file = key_file
        self._is_for_now = is_for_now
        self._records = PeerRecords()
        identify.on_identified.append(
            lambda connection, said: self._records.take(connection.peer_id, said.signed_record)
        )
        self.nursery: trio.Nursery | None = None
        """Of the node, while it runs."""
        self.closing = False
        self._rpc: Rpc | None = None
        self._ports: Ports | None = None
        self._topics: Topics | None = None
        self._discovery: Discovery | None = None
        self._store: Store | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._dht: Dht | None = None

    def _running(self, name: str) -> trio.Nursery:
        if self.nursery is None or self.closing:
            raise LocalProtocolError(f"{name} is there while the node runs")
        return self.nursery

    def start(self) -> None:
        """Begin what others are to find here before anything is asked of it."""
        config = self._node.config
        if config.discovery.point.serve:
            from lattica.dht.rendezvous.service import RendezvousService

            RendezvousService(self._node, config.discovery.point)
        if config.discovery.mdns:
            _ = self.discovery
        if config.dht.enabled:
            _ = self.dht

    async def aclose(self) -> None:
        """End all that have begun, and begin none any more."""
        self.closing = True
        if self._discovery is not None:
            await self._discovery.aclose()
        if self._store is not None:  # its documents listen to topics
            await self._store.aclose()
        if self._topics is not None:
            await self._topics.aclose()
        if self._temporary is not None:
            self._temporary.cleanup()
        if self._ports is not None:
            await self._ports.aclose()
        if self._rpc is not None:
            await self._rpc.aclose()
        if self._dht is not None:
            await self._dht.aclose()

    @property
    def in_use(self) -> frozenset[str]:
        """The names of those that have begun."""
        made = {
            "rpc": self._rpc,
            "ports": self._ports,
            "topics": self._topics,
            "discovery": self._discovery,
            "store": self._store,
            "dht": self._dht,
        }
        return frozenset(name for name, service in made.items() if service is not None)

    @property
    def rpc(self) -> Rpc:
        if self._rpc is None:
            nursery = self._running("node.rpc")
            from lattica.rpc.rpc import Rpc

            self._rpc = Rpc(self._node, nursery, self._node.config.rpc)
        return self._rpc

    @property
    def ports(self) -> Ports:
        if self._ports is None:
            nursery = self._running("node.ports")
            from lattica.rpc.ports.ports import Ports, secret_of

            node = self._node
            secret = secret_of(node.identity.seed)
            self._ports = Ports(node, nursery, node.config.ports, secret=secret)
        return self._ports

    @property
    def topics(self) -> Topics:
        if self._topics is None:
            nursery = self._running("node.topics")
            from lattica.dht.topics.service.topics import Topics
            from lattica.nat.quic.qh3.signatures import ed25519_signer
            from lattica.node.discovery import seek_members

            node = self._node
            self._topics = Topics(
                node,
                nursery,
                node.config.topics,
                sign=ed25519_signer(node.identity.seed),
                record_of=self._records.get,
                seek=partial(seek_members, node),
                open_stream=node.swarm.open_stream,
            )
        return self._topics

    @property
    def discovery(self) -> Discovery:
        if self._discovery is None:
            nursery = self._running("node.discovery")
            from lattica.node.discovery import make_discovery

            self._discovery = make_discovery(self._node, nursery, self._identify.own_record)
        return self._discovery

    @property
    def store(self) -> Store:
        if self._store is None:
            nursery = self._running("node.store")
            from lattica.crdt.store.store import Store
            from lattica.node.discovery import DocumentDiscovery, DocumentTopic, finds_strangers

            node = self._node
            self._store = Store(
                node,
                nursery,
                node.identity,
                self._store_folder(),
                node.config.store,
                topics=lambda name: DocumentTopic(node.topic(name)),
                discovery=DocumentDiscovery(node) if finds_strangers(node) else None,
            )
        return self._store

    def _store_folder(self) -> Path:
        config = self._node.config
        if config.store.path is not None:
            return config.store.path
        if not self._is_for_now:
            return config.data_dir / "store" / str(self._node.peer_id)
        self._temporary = tempfile.TemporaryDirectory(prefix="lattica-store-")
        return Path(self._temporary.name)

    def opened_documents(self) -> Sequence[SharedDocument]:
        """Those that are open; none where :attr:`store` has not begun."""
        return () if self._store is None else self._store.opened()

    @property
    def dht(self) -> Dht:
        if self._dht is None:
            nursery = self._running("node.dht")
            from lattica.dht.dht import Dht
            from lattica.node.dht_ties import SwarmTies

            node, config = self._node, self._node.config
            path = config.dht.store_path
            if path is None and self._key_file is not None:
                path = config.data_dir / "dht" / f"{node.peer_id}.sqlite"
            self._dht = Dht(
                node,
                nursery,
                config.dht,
                identity=node.identity,
                ties=SwarmTies(node.swarm, lambda: self._bootstrap.peer_ids),
                names=node.swarm.told_names,
                path=path,
            )
        return self._dht

    def dht_to_ask(self, *, may_begin: bool) -> Dht | None:
        """The DHT where it has begun, or may begin for a question."""
        if self.closing or (self._dht is None and not may_begin):
            return None
        return self.dht
