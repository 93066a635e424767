"""Exposed and forwarded ports, as threads and asyncio hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lattica.facades.closable import Closable

if TYPE_CHECKING:
    from lattica.facades.threads.bridge import Bridge
    from lattica.nat.base.keys.identity import PeerId
    from lattica.rpc.ports.exposer import Exposure
    from lattica.rpc.ports.forwarder import Forward


class _Port(Closable):
    """A port that lasts until it is closed, by `close` or `with`, or the node ends."""

    def __init__(self, bridge: Bridge[Any], close: Callable[[], None]) -> None:
        self._bridge = bridge
        self._close = close

    def close(self) -> None:
        """Have it end soon, and its connections be aborted; any number of times."""
        self._bridge.soon(self._close)


class ExposedPort(_Port):
    """A TCP service of this machine, to which peers may connect."""

    def __init__(self, bridge: Bridge[Any], exposure: Exposure) -> None:
        super().__init__(bridge, exposure.close)
        self.name = exposure.name
        """What peers call it."""
        self.key = exposure.key
        """Whoever has it may connect; None: it opens nothing."""


class ForwardedPort(_Port):
    """A local port whose clients are connected with a service of a peer."""

    def __init__(self, bridge: Bridge[Any], forward: Forward) -> None:
        super().__init__(bridge, forward.close)
        self.name = forward.name
        """What the port is called at the peer."""
        self.peer_id: PeerId = forward.peer_id
        self.local = str(forward.local)
        """Where clients connect to: HOST:PORT, or unix:/PATH."""
        self.port = forward.port
        """The local TCP port; 0 for a unix socket."""
