"""The original lattica 1.0.21 as an AutoNAT v2 client; runs until it is ended.

python original_autonat.py FOLDER PORT SERVER_ADDRESS...
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time


def main() -> None:
    folder, port, *servers = sys.argv[1:]
    # Its log goes to stdout, in the middle of lines: keep that for the events alone.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    builder = importlib.import_module("lattica").Lattica.builder()
    node = (
        builder.with_listen_addrs([f"/ip4/0.0.0.0/tcp/{port}"])
        .with_bootstraps(servers)
        .with_mdns(False)
        .with_upnp(False)
        .with_autonat(True)
        .with_dcutr(False)
        .with_key_path(folder)
        .with_storage_path(folder + "/blocks")
        .with_dht_db_path(folder + "/dht")
        .build()
    )
    print(json.dumps({"event": "ready", "peer_id": node.peer_id()}), file=events, flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
