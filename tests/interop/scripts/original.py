"""The original lattica 1.0.21, as a process: JSON requests on stdin, JSON replies on stdout.

Runs in the original's own environment. It dials, and reserves at, only what it is started with
(`--dial`, `--relay`), because its API has no call that connects to an address. It asks public
STUN servers for its NAT type at start and has no switch for that; it does not wait for them.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import os
import random
import sys
import time
from typing import Any


def identified(node: Any, peer: str) -> dict[str, object] | None:
    info = node.get_peer_info(peer)
    if info is None:
        return None
    return {
        "agent": info.agent_version,
        "protocol_version": info.protocol_version,
        "protocols": list(info.protocols),
        "addrs": [str(addr) for addr in info.listen_addresses],
    }


def rtt(node: Any, peer: str) -> float | None:
    """Seconds, by libp2p ping; None before the first pong."""
    try:
        return float(node.get_peer_rtt(peer))
    except (RuntimeError, TypeError):
        return None


def got(found: tuple[str, bytes]) -> list[str]:
    """Who sent a block, and its hash."""
    peer, block = found
    return [peer, hashlib.sha256(block).hexdigest()]


def make_service(node: Any) -> Any:
    """A service of the original, and what stands in for the same one of others."""
    lattica = importlib.import_module("lattica")

    class Interop(lattica.ConnectionHandler):  # type: ignore[misc,name-defined]
        def __init__(self, node: Any) -> None:
            super().__init__(node)
            self.runs = 0
            self.yielded = 0

        @lattica.rpc_method
        def add(self, a: int, b: int) -> int:
            self.runs += 1
            return a + b

        @lattica.rpc_method
        def echo(self, x: Any = None) -> Any:
            return x

        @lattica.rpc_method
        def fail(self, x: Any) -> None:
            raise ValueError(f"no {x}")

        @lattica.rpc_stream
        def big(self, x: Any = None) -> Any:
            return x

        @lattica.rpc_stream
        def fail_streamed(self, x: Any) -> None:
            raise ValueError(f"no {x}")

        @lattica.rpc_stream_iter
        def letters(self, n: int) -> Any:
            for number in range(n):
                self.yielded = number + 1
                yield f"s{number}"

    return Interop(node)


def call(service: Any, request: dict[str, Any]) -> str:
    """Python literals in and out."""
    stub = service.get_stub(request["peer"])
    method = getattr(stub, request["method"])
    return repr(method(*ast.literal_eval(request["args"])).result(timeout=120))


def iterate(service: Any, request: dict[str, Any]) -> list[str]:
    items = service.get_stub(request["peer"]).letters(request["count"])
    found = []
    for item in items:
        found.append(bytes(item).decode())
        if len(found) == request["stop"]:
            items.cancel()
            break
    return found


def stored(node: Any, request: dict[str, Any]) -> bool:
    value = ast.literal_eval(request["value"])
    expires = time.time() + request["ttl"]
    return bool(node.store(request["key"], value, expires, request["subkey"]))


def gotten(node: Any, request: dict[str, Any]) -> str | None:
    found = node.get(request["key"])
    if found is None:
        return None
    value = found.value
    if isinstance(value, dict):
        value = {key: getattr(each, "value", each) for key, each in value.items()}
    return repr(value)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--dial", action="append", default=[])
    parser.add_argument("--relay", action="append", default=[])
    parser.add_argument("--protocol")
    options = parser.parse_args()

    # Its log goes to stdout, in the middle of lines: keep that for the replies alone.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    builder = importlib.import_module("lattica").Lattica.builder()
    listen = f"/ip4/127.0.0.1/tcp/{options.port}"
    builder = (
        builder.with_listen_addrs([listen])
        .with_bootstraps(options.dial)
        .with_mdns(False)
        .with_upnp(False)
        .with_autonat(False)
        .with_dcutr(False)
        .with_key_path(options.folder)
        .with_storage_path(options.folder + "/blocks")
        .with_dht_db_path(options.folder + "/dht")
    )
    if options.relay:
        builder = builder.with_relay_servers(options.relay)
    if options.protocol is not None:
        builder = builder.with_protocol(options.protocol)
    node = builder.build()
    service = make_service(node)
    peer_id = node.peer_id()
    ready = {"ready": True, "peer_id": peer_id, "addrs": [f"{listen}/p2p/{peer_id}"]}
    print(json.dumps(ready), file=replies, flush=True)

    requests: dict[str, Any] = {
        "peers": lambda _: list(node.get_all_peers()),
        "addrs": lambda _: list(node.get_visible_maddrs()),
        "identified": lambda request: identified(node, request["peer"]),
        "ping": lambda request: rtt(node, request["peer"]),
        "put_block": lambda request: node.put_block(
            random.Random(request["seed"]).randbytes(request["size"])
        ),
        "call": lambda request: call(service, request),
        "iterate": lambda request: iterate(service, request),
        "yielded": lambda _: service.yielded,
        "runs": lambda _: service.runs,
        "store": lambda request: stored(node, request),
        "get": lambda request: gotten(node, request),
        "provide": lambda request: node.start_providing(request["key"]),
        "providers": lambda request: list(node.get_providers(request["key"])),
        "get_block": lambda request: got(node.get_block(request["cid"], request["seconds"])),
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"id": request["id"], "result": requests[request["do"]](request)}
        except Exception as error:
            reply = {"id": request["id"], "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
