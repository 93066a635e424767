"""A node that runs, with what is served beside it: blocks, and values that wait for peers."""

from __future__ import annotations

import concurrent.futures
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import trio

from lattica.compat.blocks import BlockDirectory
from lattica.compat.local_peers import LocalPeers
from lattica.compat.records import Records
from lattica.compat.settings import Settings, usable
from lattica.compat.wire.original import open_original
from lattica.config import default_data_dir
from lattica.content.bitswap.exchange import open_exchange
from lattica.facades.blocking import Lattica
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.call import Call
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId

T = TypeVar("T")

SOON = 1.0
"""Seconds after the start for which `get_all_peers` waits, and those for which `get_peer_rtt` waits
for a first measurement.

The original's users look at both at once, and wait for whole seconds when they find nothing. What
they find then they keep: a scheduler of Parallax never routes by peers that had no round trip.
"""

_LOOK = 0.05
_RTT_POLL = 0.005

DRAIN = 5.0
"""Seconds that calls which nobody waits for have to finish when the node is closed."""


class Running:
    """Starts the node, and returns when it listens. Raises what that raises."""

    def __init__(self, settings: Settings) -> None:
        identity = settings.identity() or Identity.generate()
        config = settings.config(identity.peer_id)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.blocks = BlockDirectory(self._block_folder(settings, identity.peer_id))
        # A key file of its own is read, and locked, by the node.
        known = identity if config.identity_path is None else None
        self.lattica = Lattica(config, identity=known).start()
        self.node = self.lattica._node
        self.peer_id = self.node.peer_id
        self.is_closed = False
        self.bridge: Bridge[Any] = self.lattica._bridge
        # Before the topic of circuits, whose members would else be looked for there, too.
        near = self.bridge.call_plain(LocalPeers, self.node) if config.discovery.mdns else None
        self.original = self._keep_open(lambda: open_original(self.node))
        self.exchange = self._keep_open(lambda: open_exchange(self.node, self.blocks))
        dht = self.bridge.call_plain(lambda: self.node.dht)
        self.records = Records(dht, self.node.peer_id, self.original.kad)
        self.bridge.submit(self.records.run)
        if near is not None:
            self.bridge.submit(near.run)
        self._pending: set[concurrent.futures.Future[Any]] = set()
        external = usable(settings.external_addrs, "announce")
        if external:
            self.bridge.call_plain(self.node.swarm.own_addresses.set, "configured", external)
        self._looked_round = time.monotonic() + (SOON if config.bootstrap else 0.0)

    def _block_folder(self, settings: Settings, own: PeerId) -> Path:
        """Of a node whose key stays, in the user's state folder; else for as long as it lives."""
        if settings.storage_path is not None:
            return settings.storage_path / "blocks"
        if settings.key_path is not None:
            return default_data_dir(os.environ) / "blocks" / str(own)
        self._temporary = tempfile.TemporaryDirectory(prefix="lattica-blocks-")
        return Path(self._temporary.name)

    def _keep_open(self, manager: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Have a service for as long as the node runs."""
        ready: concurrent.futures.Future[T] = concurrent.futures.Future()

        async def serve() -> None:
            async with manager() as service:
                ready.set_result(service)
                await trio.sleep_forever()

        self.bridge.submit(serve)
        return ready.result()

    def look_round(self) -> None:
        """Wait until a node that was told of peers has had a second to find those they know."""
        time.sleep(max(0.0, self._looked_round - time.monotonic()))

    def is_looking_round(self) -> bool:
        """Wait for a moment of that second; False if it is over."""
        left = self._looked_round - time.monotonic()
        time.sleep(max(0.0, min(left, _LOOK)))
        return left > 0

    async def rtt(self, peer: PeerId) -> float | None:
        """Seconds to a connected peer and back, the first of which is waited for; else None."""
        with trio.move_on_after(SOON):
            while (path := self.node.path(peer)) is not None:
                if path.rtt is not None:
                    return path.rtt
                await trio.sleep(_RTT_POLL)
        return None

    def send(self, call: Call[Any]) -> None:
        """Begin a call, which has its time to finish when the node is closed."""
        self.bridge.submit_call(call)
        self._pending.add(call.future)
        call.future.add_done_callback(self._pending.discard)

    def close(self) -> None:
        """Wait for calls that were sent, and stop the node. Idempotent."""
        concurrent.futures.wait(list(self._pending), timeout=DRAIN)
        self.is_closed = True
        self.lattica.close()
        if self._temporary is not None:
            self._temporary.cleanup()
