"""The original lattica as a program in a lab's host; it prints JSON events, its log is stderr.

    original_program.py FOLDER RELAY PORT [ADDR]

It reserves at RELAY, and dials ADDR, an address through that, if there is one. `ready` has its
ID, `peers` whom it is connected to. Runs in the original's own environment.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time


def main(folder: str, relay: str, port: str, *dial: str) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # its log goes to stdout

    def say(event: str, **more: object) -> None:
        print(json.dumps({"event": event, **more}), file=replies, flush=True)

    node = (
        importlib.import_module("lattica")
        .Lattica.builder()
        .with_listen_addrs([f"/ip4/0.0.0.0/tcp/{port}"])
        .with_relay_servers([relay])
        # Not the relay, too: of its two dials one fails, and the reservation with it.
        .with_bootstraps(list(dial))
        .with_mdns(False)
        .with_upnp(False)
        .with_autonat(False)
        .with_dcutr(True)
        .with_key_path(folder)
        .with_storage_path(folder + "/blocks")
        .with_dht_db_path(folder + "/dht")
        .build()
    )
    say("ready", id=node.peer_id())
    while True:
        time.sleep(0.5)
        say("peers", peers=list(node.get_all_peers()), addrs=list(node.get_visible_maddrs()))


if __name__ == "__main__":
    main(*sys.argv[1:])
