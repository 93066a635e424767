"""The probe of the original's API: what each call gives, as docs/guides/compat.md has it.

Also a script, for the original itself: `python probe.py` where that is installed.
"""

from __future__ import annotations

import os
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lattica import ConnectionHandler, Lattica, rpc_method, rpc_stream, rpc_stream_iter

STRANGER = "12D3KooWDaqDAsFupYvffBDxjHHuWmEAJE4sMDCXiuZiB8aG8rjf"
NO_BLOCK = "bafkreig6m7qvo63ihl2ux4dk5g7xl4wzhqziebxei55i2wfqgwwnwkp2v4"
LISTEN = ["/ip4/127.0.0.1/tcp/0"]
_LONGEST = 70
_HANGS = 100
"""Seconds after which a call is said to hang."""

Case = Callable[[], object]


class S(ConnectionHandler):
    runs = 0
    gate = threading.Event()

    @rpc_method
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc_method
    def boom(self, x: Any) -> None:
        raise ValueError("no")

    @rpc_method
    def none(self) -> None: ...

    @rpc_method
    def count(self, x: Any) -> None:
        self.runs += 1
        raise ValueError("again")

    @rpc_method
    def slow(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @rpc_method
    def hold(self) -> bool:
        return self.gate.wait(60)

    @rpc_stream
    def big(self, x: Any) -> Any:
        return x

    @rpc_stream
    def sboom(self, x: Any) -> None:
        raise ValueError("no")

    @rpc_stream_iter
    def it(self, n: int) -> Iterator[str]:
        for number in range(n):
            yield f"s{number}"

    @rpc_stream_iter
    def mixed(self) -> Iterator[Any]:
        yield from (b"b", "s", 3, [1, 2], None, bytearray(b"ba"), {"a": 1})

    @rpc_stream_iter
    def iboom(self) -> Iterator[bytes]:
        yield b"1"
        raise ValueError("mid")

    @rpc_stream_iter
    def flood(self) -> Iterator[bytes]:
        for _ in range(5000):
            yield b"x" * 1000


def shown(case: Case, names: dict[str, str]) -> str:
    """What a case gives: its result, or the built-in error that it raises and what that says;
    without what is another each time: IDs, ports, times.
    """
    outcomes: list[str] = []

    def run() -> None:
        try:
            outcomes.append(repr(case()))
        except Exception as error:
            built_in = next(each for each in type(error).__mro__ if each.__module__ == "builtins")
            outcomes.append(f"{built_in.__name__}: {error}".partition("\n")[0])

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_HANGS)
    if not outcomes:
        return "hangs"
    (text,) = outcomes
    for known, name in names.items():
        text = text.replace(known, name)
    text = re.sub(r"expiration_time=[\d.]+", "expiration_time=…", text)
    text = re.sub(r"tcp/\d+", "tcp/…", text).replace("|", "/")
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + "…"


def built(folder: Path, port: int, *bootstraps: str) -> Any:
    folder.mkdir()
    return (
        Lattica.builder()
        .with_listen_addrs([f"/ip4/127.0.0.1/tcp/{port}"])
        .with_mdns(False)
        .with_storage_path(str(folder / "blocks"))
        .with_dht_db_path(str(folder / "dht"))
        .with_key_path(str(folder))
        .with_bootstraps([*bootstraps])
        .build()
    )


def cases_alone(a: Any) -> Iterator[tuple[str, Case]]:
    """Those of a node that knows nobody."""
    nodes: list[Any] = []

    def built_with(addresses: Any) -> str:
        nodes.append(Lattica.builder().with_mdns(False).with_listen_addrs(addresses).build())
        nodes.pop().close()
        return "a node"

    yield "listen addresses in a tuple", lambda: built_with((LISTEN,))
    yield "a listen address that is none", lambda: built_with(["rubbish"])
    yield "store alone", lambda: a.store("k", {"x": 1})
    yield "get alone", lambda: a.get("k")
    yield "get missing", lambda: a.get("nope")
    yield "store expired, and get it", lambda: (a.store("old", 1, time.time() - 5), a.get("old"))
    yield "store for 9.5 seconds", lambda: a.store("half", 1, time.time() + 9.5)
    yield "store a function", lambda: a.store("l", lambda: 1)
    yield "get_providers alone", lambda: a.get_providers("zz")
    yield "start_providing alone", lambda: a.start_providing("zz")


def cases_of_peers(a: Any, b: Any) -> Iterator[tuple[str, Case]]:
    """Those of b, which knows a."""
    peer = a.peer_id()
    yield "get_all_peers soon", lambda: _soon(b.get_all_peers)
    yield "get_peer_rtt is", lambda: type(_soon(lambda: b.get_peer_rtt(peer))).__name__
    yield "get_peer_rtt of a stranger", lambda: b.get_peer_rtt(STRANGER)
    yield "get_peer_rtt of rubbish", lambda: b.get_peer_rtt("rubbish")
    yield "peer info: protocol", lambda: _soon(lambda: b.get_peer_info(peer).protocol_version)
    yield "peer info: agent", lambda: b.get_peer_info(peer).agent_version.partition("/")[0]
    yield "peer info: serves calls", lambda: "/rpc/stream/1.0.0" in b.get_peer_info(peer).protocols
    yield "peer info of a stranger", lambda: b.get_peer_info(STRANGER)
    yield "get_peer_addresses", lambda: b.get_peer_addresses(peer)
    yield "get_visible_maddrs", a.get_visible_maddrs
    yield "is_symmetric_nat", a.is_symmetric_nat
    yield "get what the other stored", lambda: _soon(lambda: b.get("k"))

    def both() -> object:
        found = b.get("party")
        return found if found is not None and len(found.value) == 2 else None

    for node, name in ((a, "A"), (b, "B")):
        ends = time.time() + 60
        yield (
            f"store under subkey {name}",
            lambda node=node, name=name, ends=ends: node.store(  # type: ignore[misc]
                "party", {"who": name}, ends, subkey=name
            ),
        )
    yield "get the key: subkeys", lambda: sorted(_soon(both).value)  # type: ignore[attr-defined]
    yield "get the key: one of them", lambda: b.get("party").value["A"].value
    yield "its parts are", lambda: [type(each).__name__ for each in b.get("party")]


def cases_of_calls(served: S, service: S, peer: str) -> Iterator[tuple[str, Case]]:
    """Those of handlers' methods."""
    stub: Any = service.get_stub(peer)
    stranger: Any = service.get_stub(STRANGER)
    yield "result()", lambda: stub.add(1, 2).result()
    yield "arguments by name", lambda: stub.add(a=1, b=5).result()
    yield "by position and by name", lambda: stub.add(1, b=5).result(timeout=60)
    yield "result() twice", lambda: [f := stub.add(1, 2), f.result(), f.result()][1:]
    yield "result(timeout=60.5)", lambda: stub.add(1, 2).result(timeout=60.5)
    yield "slow(2), timeout of 1", lambda: stub.slow(2).result(timeout=1)
    yield "a result of None", lambda: stub.none().result()
    yield "a handler that raises", lambda: stub.boom(1).result()
    yield "one that counts", lambda: stub.count(1).result()
    yield "it ran so often", lambda: served.runs
    yield "a method that is none", lambda: stub.nope(1).result()
    yield "values of many kinds", lambda: stub.big((1, "a", b"b", {2: 3}, {4}, None)).result()
    yield "rpc_stream that raises", lambda: stub.sboom(1).result(timeout=60)
    yield (
        "a peer that nobody knows",
        lambda: stranger.add(1, 2).result(timeout=20),
    )
    yield "a peer ID that is none", lambda: service.get_stub("rubbish").add(1, 2)
    yield "stream of text", lambda: [*stub.it(3)]
    yield "stream of anything", lambda: [*stub.mixed()]
    yield "stream that raises", lambda: [*stub.iboom()]

    def slow_reader() -> int:
        count = 0
        for _ in stub.flood():
            count += 1
            if count % 100 == 0:
                time.sleep(0.005)
        return count

    def cancelled() -> str:
        chunks = stub.it(10)
        next(chunks)
        chunks.cancel()
        chunks.cancel()
        return next(chunks, "the end")

    def overtakes() -> bool:
        held = stub.hold()
        stub.add(1, 1).result()
        served.gate.set()
        return bool(held.result())

    yield "a slow reader of 5,000 chunks gets", slow_reader
    yield "cancel twice, then next", cancelled
    yield "stream of a peer that nobody knows", lambda: [*stranger.it(1)]
    yield "a call overtakes a slow one", overtakes


def cases_of_blocks(a: Any, b: Any) -> Iterator[tuple[str, Case]]:
    cid = a.put_block(b"hello")
    yield "put_block", lambda: cid
    yield "get_block from a peer", lambda: b.get_block(cid)
    yield "get_block of one's own", lambda: a.get_block(cid)
    yield "get_block of what nobody has", lambda: b.get_block(NO_BLOCK, timeout_secs=1)
    yield "get_block of rubbish", lambda: b.get_block("rubbish")
    for size in (1, 3, 4, 8):
        large = a.put_block(os.urandom(size << 20))
        yield (
            f"get_block of {size} MiB",
            lambda large=large: len(b.get_block(large, timeout_secs=60)[1]),  # type: ignore[misc]
        )
    yield "remove_block", lambda: a.remove_block(cid)
    yield "remove_block again", lambda: a.remove_block(cid)
    yield "start_providing", lambda: a.start_providing(cid)
    yield "get_providers", lambda: _soon(lambda: b.get_providers(cid))
    yield "stop_providing", lambda: a.stop_providing(cid)
    yield "bytes that bitswap counts", lambda: b.get_bitswap_global_stats()["total_bytes_received"]
    yield "whom it ranks", lambda: [each["peer_id"] for each in b.get_bitswap_peer_rankings()]


def cases_of_the_end(a: Any, b: Any, service: S) -> Iterator[tuple[str, Case]]:
    peer = a.peer_id()
    stub: Any = service.get_stub(peer)
    yield "close", a.close
    yield "close again", a.close

    yield "a closed node is no peer", lambda: _soon(lambda: peer not in b.get_all_peers())
    yield (
        "a call of who has closed raises",
        lambda: type(_error(lambda: stub.add(1, 2).result(20))).__mro__[-4],
    )


def _soon(case: Case) -> object:
    """What it gives when that is something, or after a minute."""
    deadline = time.monotonic() + 60
    while not (outcome := case()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return outcome


def _error(case: Case) -> BaseException:
    try:
        case()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def unused_port() -> int:
    """One that no system gives to sockets by itself, or somebody might get it meanwhile."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def probe(folder: Path) -> Iterator[tuple[str, str]]:
    """Each case's name, and what it gives."""
    port = unused_port()
    a = built(folder / "a", port)
    names = {a.peer_id(): "A", STRANGER: "X"}
    for name, case in cases_alone(a):
        yield name, shown(case, names)
    b = built(folder / "b", 0, f"/ip4/127.0.0.1/tcp/{port}/p2p/{a.peer_id()}")
    try:
        names[b.peer_id()] = "B"
        for name, case in cases_of_peers(a, b):
            yield name, shown(case, names)
        served, service = S(a), S(b)
        for name, case in cases_of_calls(served, service, a.peer_id()):
            yield name, shown(case, names)
        for name, case in cases_of_blocks(a, b):
            yield name, shown(case, names)
        for name, case in cases_of_the_end(a, b, service):
            yield name, shown(case, names)
    finally:
        a.close()
        b.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for case, outcome in probe(Path(temporary)):
            sys.stdout.write(f"{case} | {outcome}\n")
            sys.stdout.flush()
    os._exit(0)
