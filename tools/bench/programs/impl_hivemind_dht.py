"""hivemind's DHT: two nodes in one process, each with its daemon in Go; what one stores the other
gets.

Run as a script in hivemind's environment: `python impl_hivemind_dht.py COUNT`. Prints one JSON
object with the seconds of each operation.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from typing import Any

hivemind: Any = importlib.import_module("hivemind")
dht: Any = importlib.import_module("hivemind.dht.node")

_LASTS = 600.0
_QUIET = {"auto_nat": False, "nat_port_map": False, "use_relay": False}


async def make_node(peers: list[Any]) -> Any:
    """A node on loopback, with everything off that has no use there."""
    maddrs = ["/ip4/127.0.0.1/tcp/0"]
    transport = await hivemind.p2p.P2P.create(peers, host_maddrs=maddrs, **_QUIET)
    return await dht.DHTNode.create(transport, initial_peers=peers)


async def main(count: int) -> None:
    """Measure and print."""
    one = await make_node([])
    other = await make_node(await one.get_visible_maddrs())
    until = hivemind.utils.get_dht_time() + _LASTS
    seconds: dict[str, list[float]] = {"put": [], "get": []}
    for number in range(count):
        began = time.perf_counter()
        stored = await one.store(f"k{number}", number, until)
        seconds["put"].append(time.perf_counter() - began)
        assert stored
    for number in range(count):
        began = time.perf_counter()
        found = await other.get(f"k{number}", latest=True)
        seconds["get"].append(time.perf_counter() - began)
        assert found.value == number
    print(json.dumps({"version": hivemind.__version__, **seconds}), flush=True)
    for node in (other, one):
        await node.shutdown()
        await node.p2p.shutdown()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
