"""Relays of other implementations, and our nodes as their clients."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from lattica.config import NodeConfig
from lattica.nat.config import SwarmConfig
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.path_plan import PathConfig
from lattica.nat.traversal.portmap.config import PortMappingConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.node import Node
from tests.interop.foreign import ECHO, ScriptPeer, js_script, process
from tests.interop.godaemon import GoDaemon
from tests.interop.ours import LOOPBACK
from tests.support.nets.nets import echo


@asynccontextmanager
async def go_relay(installed: Path, folder: Path) -> AsyncIterator[GoDaemon]:
    """A p2pd that relays for everybody.

    Without `-forceReachabilityPublic` it does not, as long as it is not certain that others
    reach it. On loopback it names no addresses of its own in reservations.
    """
    with tempfile.TemporaryDirectory(prefix="p2pd-") as sockets:
        control = Path(sockets) / "control.sock"
        command = [str(installed / "p2pd"), "-listen", f"/unix{control}"]
        command += ["-hostAddrs", "/ip4/127.0.0.1/tcp/0", "-bootstrapPeers", "", "-tls=false"]
        command += ["-relayService=true", "-forceReachabilityPublic"]
        async with process(command, folder / "go-relay.log"):
            daemon = GoDaemon(control)
            await daemon.wait_ready()
            yield daemon


def js_relay_peer(
    installed: Path, folder: Path, name: str, *arguments: str
) -> AbstractAsyncContextManager[ScriptPeer]:
    """js-libp2p that relays (`--serve`), reserves (`--reserve ADDR`), or just dials."""
    return js_script(installed, folder, name, "relay.mjs", *arguments)


@asynccontextmanager
async def relayed_node(
    relay: str | None = None, listen: tuple[str, ...] = LOOPBACK
) -> AsyncIterator[Node]:
    """A node that serves echo, stays relayed, and has a reservation if a relay is given."""
    nat = TraversalConfig(
        relay=RelayClientConfig(relays=() if relay is None else (relay,)),
        port_mapping=PortMappingConfig(enabled=False),
        paths=PathConfig(enabled=False),
    )
    async with Node(NodeConfig(swarm=SwarmConfig(listen=listen), nat=nat)) as node:
        node.handle(ECHO, echo)
        if relay is not None:
            await node.wait_reachable(60)
        yield node
