"""A trainer as Parallax expects one: puts weights where workers get them, by the original's API.

Arguments: the number of layers, the protocol (or ""), and where its peers are. Says the index,
then stays.
"""

from __future__ import annotations

import json
import sys
import threading

import numpy as np
from safetensors.numpy import save

from lattica import Lattica

ELEMENTS = 500_000
"""Of each layer's tensor, two bytes each."""

layers, protocol, peers = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
node = Lattica.builder().with_listen_addrs(["/ip4/0.0.0.0/tcp/0"]).with_bootstraps(peers)
if protocol:
    node.with_protocol(protocol)
node.build()
index, sums = {}, {}
for layer in range(layers):
    name = f"model.layers.{layer}.weight"
    tensor = np.full(ELEMENTS, layer + 1, np.float16)
    index[name] = node.put_block(save({name: tensor}))
    sums[name] = ELEMENTS * (layer + 1)
print(json.dumps({"event": "published", "index": index, "sums": sums}), flush=True)
threading.Event().wait()
