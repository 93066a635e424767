"""Switches a node between server and client as others can reach it or not."""

from __future__ import annotations

from collections.abc import Callable

from lattica.dht.client.ties import Ties
from lattica.dht.upkeep.mode import is_on_internet, serves
from lattica.nat.swarm.events import (
    AddressesChanged,
    EventsLost,
    NetworkChanged,
    PeerConnected,
)
from lattica.nat.swarm.host import Host


class ModeFollower:
    """Of one node.

    Args:
        mode: that of :class:`~lattica.dht.config.DhtConfig`.
        serve: has the node serve, or serve no more.
    """

    def __init__(
        self, host: Host, ties: Ties, mode: str, *, serve: Callable[[bool], object]
    ) -> None:
        self._host = host
        self._ties = ties
        self._mode = mode
        self._serve = serve
        self._met_internet = False

    def switch(self) -> None:
        """Serve or not, as it is now."""
        on = serves(
            self._mode,
            reachable=self._ties.is_reachable(),
            own=self._host.addrs,
            met_internet=self._met_internet,
        )
        self._serve(on)

    async def run(self) -> None:
        """Until cancelled; where there is nothing to follow it returns."""
        if self._mode != "auto":
            return
        with self._host.events() as events:
            for status in self._host.peers():
                self._met_internet |= is_on_internet(status.connections[0].addr)
            self.switch()
            async for event in events:
                if isinstance(event, PeerConnected):
                    if self._met_internet or not is_on_internet(event.addr):
                        continue
                    self._met_internet = True
                elif isinstance(event, NetworkChanged):
                    self._met_internet = False
                elif not isinstance(event, AddressesChanged | EventsLost):
                    continue
                self.switch()
