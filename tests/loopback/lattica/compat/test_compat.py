"""The original's API on nodes of ours: what its users' programs rely on, and its faults that are
not copied. After the probe whose answers by lattica 1.0.21 are known."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Value

from lattica import ConnectionHandler, Lattica, rpc_method, rpc_stream, rpc_stream_iter
from lattica.compat import running
from lattica.compat.client import CompatLattica
from lattica.compat.errors import CompatError
from lattica.errors import ConfigError
from tests.support.nets.nets import unused_port

LISTEN = ["/ip4/127.0.0.1/tcp/0"]
STRANGER = "12D3KooWDaqDAsFupYvffBDxjHHuWmEAJE4sMDCXiuZiB8aG8rjf"


class Service(ConnectionHandler):
    def __init__(self, lattica: CompatLattica) -> None:
        super().__init__(lattica)  # serves before the rest is there, as users' classes do
        self.runs = 0
        self.closed = threading.Event()
        self.release = threading.Event()

    @rpc_method
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc_method
    def count(self, x: Any) -> None:
        self.runs += 1
        raise ValueError("again")

    @rpc_method
    def none(self) -> None: ...

    @rpc_method
    def wait(self, seconds: float) -> bool:
        return self.release.wait(seconds)

    @rpc_stream
    def echo(self, x: Any) -> Any:
        return x

    @rpc_stream
    def message(self, value: Value) -> Value:
        return value

    @rpc_stream_iter
    def letters(self, n: int) -> Iterator[str]:
        for number in range(n):
            yield f"s{number}"

    @rpc_stream_iter
    def endless(self) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            self.closed.set()

    @rpc_stream_iter
    def breaks(self) -> Iterator[bytes]:
        yield b"1"
        raise ValueError("mid")

    @rpc_stream_iter
    def quiet(self) -> Iterator[bytes]:
        yield b"first"
        self.release.wait(30)


class Pair:
    def __init__(self) -> None:
        self.a = Lattica.builder().with_listen_addrs(LISTEN).build()
        address = self.a.get_visible_maddrs()
        self.b = Lattica.builder().with_listen_addrs(LISTEN).with_bootstraps(address).build()
        self.service = Service(self.a)
        self.stub: Any = Service(self.b).get_stub(self.a.peer_id())
        self.b.lattica.wait_connected(self.a.peer_id(), timeout=60)

    def close(self) -> None:
        self.service.release.set()
        self.b.close()
        self.a.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_builder_and_node_are_one_object() -> None:
    builder = Lattica.builder()
    assert builder.with_listen_addrs(LISTEN) is builder
    assert builder.build() is builder
    assert builder.build() is builder
    assert isinstance(builder.peer_id(), str)
    with pytest.raises(CompatError, match="before build"):
        builder.with_mdns(False)
    builder.close()
    builder.close()
    with pytest.raises(CompatError, match="not built"):
        Lattica.builder().peer_id()


def test_nodes_of_one_network_meet_on_the_local_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATTICA_DISCOVERY__MDNS")
    monkeypatch.setenv("LATTICA_DISCOVERY__MDNS_INTERFACES", "127.0.0.1")
    monkeypatch.setenv("LATTICA_DISCOVERY__MDNS_PORT", str(unused_port()))

    def node(protocol: str = "/lattica/1.0.0") -> CompatLattica:
        return Lattica.builder().with_listen_addrs(LISTEN).with_protocol(protocol)

    silent = node().with_mdns(False).build()
    stranger = node("/other/1.0.0").build()
    nodes = [node().build(), node().build()]
    try:
        eventually(lambda: all(node.get_all_peers() for node in nodes))
        eventually(lambda: not stranger.lattica.peers())
        assert not silent.get_all_peers()
        # It may be met once more before it has said what its network is.
        eventually(lambda: nodes[0].get_all_peers() == [nodes[1].peer_id()])
    finally:
        for each in (silent, stranger, *nodes):
            each.close()


def test_the_configuration_forbids_the_local_net() -> None:
    """As it does in these tests."""
    node = Lattica.builder().with_listen_addrs(LISTEN).with_mdns(True).build()
    assert node._running.node.config.discovery.mdns is False
    node.close()


def test_ports_are_free_when_close_returns() -> None:
    first = Lattica.builder().with_listen_addrs(LISTEN).build()
    (address,) = first.get_visible_maddrs()
    again = [address.rpartition("/p2p/")[0]]
    first.close()
    second = Lattica.builder().with_listen_addrs(again).build()
    assert second.get_visible_maddrs()[0].startswith(again[0])
    second.close()


def test_addresses_in_all_forms(caplog: pytest.LogCaptureFixture) -> None:
    given = ([*LISTEN, "/ip4/127.0.0.1/udp/0/quic-v1", "rubbish"],)
    node = Lattica.builder().with_listen_addrs(given).build()
    assert len(node.get_visible_maddrs()) == 2
    assert "rubbish" in caplog.text
    node.close()
    with pytest.raises(ConfigError, match="none of these can be listened on"):
        Lattica.builder().with_listen_addrs(["rubbish"]).build()


def test_peers_are_reached_by_quic_as_the_original_writes_it() -> None:
    quic = ["/ip4/127.0.0.1/udp/0/quic-v1"]
    a = Lattica.builder().with_listen_addrs(quic).build()
    addresses = [each.replace("/quic-v1/noise", "/quic-v1") for each in a.get_visible_maddrs()]
    b = Lattica.builder().with_listen_addrs(quic).with_bootstraps(addresses).build()
    b.lattica.wait_connected(a.peer_id(), timeout=60)
    b.close()
    a.close()


def test_key_of_the_original_is_taken_and_protected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Lattica.builder().with_listen_addrs(LISTEN).with_key_path(str(tmp_path)).build()
    name = first.peer_id()
    first.close()
    key = tmp_path / "p2p.key"
    key.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        again = Lattica.builder().with_listen_addrs(LISTEN).with_key_path(str(tmp_path)).build()
    assert again.peer_id() == name
    assert key.stat().st_mode & 0o777 == 0o600
    assert "could be read by others" in caplog.text
    again.close()


def test_peers(pair: Pair) -> None:
    a, b = pair.a, pair.b
    eventually(lambda: b.get_all_peers() == [a.peer_id()])
    eventually(lambda: b.get_peer_rtt(a.peer_id()) is not None)
    rtt = b.get_peer_rtt(a.peer_id())
    assert rtt is not None
    assert 0 < rtt < 5
    assert b.get_peer_rtt(STRANGER) is None
    with pytest.raises(RuntimeError, match="not a peer ID"):
        b.get_peer_rtt("rubbish")
    eventually(lambda: (info := b.get_peer_info(a.peer_id())) and info.protocol_version)
    info = b.get_peer_info(a.peer_id())
    assert info is not None
    assert info.protocol_version == "/lattica/1.0.0"
    assert list(info.addresses) == b.get_peer_addresses(a.peer_id()) == a.get_visible_maddrs()
    assert "/ipfs/id/1.0.0" in info.protocols
    assert b.get_peer_info(STRANGER) is None
    assert b.is_symmetric_nat() is None


def test_what_users_look_at_once_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parallax takes a peer that has no round trip at its first look for one without a path."""
    a = Lattica.builder().with_listen_addrs(LISTEN).build()
    monkeypatch.setattr(running, "SOON", 30.0)
    b = Lattica.builder().with_listen_addrs(LISTEN).with_bootstraps(a.get_visible_maddrs()).build()
    end = b._running._looked_round = time.monotonic() + 0.3
    b.get_all_peers()
    assert time.monotonic() >= end
    b.lattica.wait_connected(a.peer_id(), timeout=60)
    assert b.get_peer_rtt(a.peer_id()) is not None
    b.close()
    a.close()


def test_calls(pair: Pair) -> None:
    stub = pair.stub
    assert stub.add(1, 2).result() == 3
    assert stub.add(a=1, b=5).result() == 6
    assert stub.add(1, b=5).result(timeout=5.5) == 6
    future = stub.add(1, 2)
    assert future.result() == future.result() == 3
    assert future.done()
    assert stub.none().result() is None
    value = (1, "a", b"b", {2: 3}, {4}, frozenset({5}), None, 2**70, bytearray(b"c"), [True, 0.5])
    back = stub.echo(value).result()
    assert back == value
    assert [type(each) for each in back] == [type(each) for each in value]
    big = bytes(100_000_000)
    assert stub.echo(big).result() == big
    assert stub.message(Value(string_value="x")).result() == Value(string_value="x")
    assert stub.message(Value()).result() == Value()


def test_await(pair: Pair) -> None:
    async def main() -> list[int]:
        return [await pair.stub.add(1, 2), await pair.stub.add(3, 4)]

    assert asyncio.run(main()) == [3, 7]


def test_arguments_are_those_of_the_call(pair: Pair) -> None:
    """A program may use a dict or a buffer again as soon as the call has begun, as there."""
    settings, buffer = {"step": 0}, bytearray(100_000)
    futures = []
    for step in range(20):
        settings["step"] = buffer[0] = step
        futures += [pair.stub.echo(settings), pair.stub.echo(buffer)]
    got = [future.result(timeout=60) for future in futures]
    assert [each["step"] for each in got[::2]] == [*range(20)]
    assert [each[0] for each in got[1::2]] == [*range(20)]


def test_errors(pair: Pair) -> None:
    stub = pair.stub
    with pytest.raises(RuntimeError, match="ValueError: again"):
        stub.count(1).result()
    assert pair.service.runs == 1
    with pytest.raises(RuntimeError, match="has no method 'nope'"):
        stub.nope(1).result()
    with pytest.raises(RuntimeError, match="operation timeout"):
        stub.wait(30).result(timeout=0.05)
    with pytest.raises(TypeError, match=r"cannot be sent|object"):
        stub.echo(object()).result()
    with pytest.raises(ValueError, match="Invalid peer ID"):
        Service(pair.b).get_stub("rubbish").add(1, 2)
    lost: Any = Service(pair.b).get_stub(STRANGER)
    with pytest.raises(RuntimeError, match="no address"):
        lost.add(1, 2).result()
    with pytest.raises(RuntimeError, match="no address"):
        list(lost.letters(1))


def test_slow_calls_hold_up_none(pair: Pair) -> None:
    pair.service.release.clear()
    waiting = [pair.stub.wait(60) for _ in range(100)]
    assert pair.stub.add(1, 1).result() == 2
    pair.service.release.set()
    assert all(each.result() for each in waiting)


def test_streams(pair: Pair) -> None:
    assert list(pair.stub.letters(3)) == [b"s0", b"s1", b"s2"]
    chunks = iter(pair.stub.breaks())
    assert next(chunks) == b"1"
    with pytest.raises(RuntimeError, match="ValueError: mid"):
        next(chunks)


def test_slow_reader_gets_every_chunk(pair: Pair) -> None:
    reader = pair.stub.letters(5000)
    received = []
    for each in reader:
        received.append(each)
        if len(received) % 1000 == 0:
            time.sleep(0.02)
    assert received == [b"s%d" % number for number in range(5000)]


def test_cancelling_a_stream_closes_the_generator(pair: Pair) -> None:
    pair.service.closed.clear()
    reader = pair.stub.endless()
    assert next(reader) == b"x" * 1000
    reader.cancel()
    reader.cancel()
    with pytest.raises(StopIteration):
        next(reader)
    assert pair.service.closed.wait(60)


def test_dropping_a_stream_closes_the_generator(pair: Pair) -> None:
    pair.service.closed.clear()
    reader = pair.stub.endless()
    assert next(reader)
    del reader
    assert pair.service.closed.wait(60)


def test_cancel_wakes_all_who_wait(pair: Pair) -> None:
    pair.service.release.clear()
    reader = pair.stub.quiet()
    assert next(reader) == b"first"
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(next, reader, "end") for _ in range(4)]
        reader.cancel()
        assert [each.result(60) for each in waiting] == ["end"] * 4
    pair.service.release.set()


def test_calls_that_nobody_waits_for_are_sent_before_the_node_closes() -> None:
    heard = []

    class Listener(ConnectionHandler):
        @rpc_method
        def leave(self, who: str) -> None:
            heard.append(who)

    a = Lattica.builder().with_listen_addrs(LISTEN).build()
    address = a.get_visible_maddrs()
    b = Lattica.builder().with_listen_addrs(LISTEN).with_bootstraps(address).build()
    Listener(a)
    stub: Any = Listener(b).get_stub(a.peer_id())
    for number in range(20):
        stub.leave(f"b{number}")
    b.close()
    assert sorted(heard) == sorted(f"b{number}" for number in range(20))
    a.close()


def test_nodes_of_another_network_are_no_peers() -> None:
    a = Lattica.builder().with_listen_addrs(LISTEN).with_protocol("").build()
    address = a.get_visible_maddrs()
    made = [
        Lattica.builder().with_listen_addrs(LISTEN).with_bootstraps(address).with_protocol(name)
        for name in (f"/{a.peer_id()}", "/other/1.0.0")
    ]
    inside, outside = (each.build() for each in made)
    eventually(lambda: len(a.lattica.peers()) == 2)
    eventually(lambda: all(each.protocol_version for each in a.lattica.peers()))
    assert a.get_all_peers() == [inside.peer_id()]
    for node in (inside, outside, a):
        node.close()


def test_the_last_service_of_a_name_counts() -> None:
    node = Lattica.builder().with_listen_addrs(LISTEN).build()
    other = Lattica.builder().with_bootstraps(node.get_visible_maddrs()).with_listen_addrs(LISTEN)
    other.build()

    class Named(ConnectionHandler):
        def __init__(self, lattica: CompatLattica, number: int) -> None:
            self.number = number
            super().__init__(lattica)

        @rpc_method
        def which(self) -> int:
            return self.number

    handlers = [Named(node, 1), Named(node, 2)]
    assert handlers[0].get_service_name() == "Named"
    assert [*handlers[0].get_methods()] == ["which"]
    stub: Any = Named(other, 3).get_stub(node.peer_id())
    assert stub.which().result() == 2
    other.close()
    node.close()


def test_peers_that_close_are_none_and_are_called_in_vain() -> None:
    a = Lattica.builder().with_listen_addrs(LISTEN).build()
    addresses = a.get_visible_maddrs()
    with Lattica.builder().with_listen_addrs(LISTEN).with_bootstraps(addresses) as b:
        Service(a)
        stub: Any = Service(b).get_stub(a.peer_id())
        assert stub.add(1, 2).result() == 3
        a.close()
        with pytest.raises(RuntimeError, match="is closed"):
            a.get_all_peers()
        eventually(lambda: b.get_all_peers() == [])
        assert b.get_peer_rtt(a.peer_id()) is None
        assert b.get_peer_info(a.peer_id()) is None
        with pytest.raises(RuntimeError):
            stub.add(1, 2).result(timeout=60)
        with pytest.raises(RuntimeError):
            list(stub.letters(1))
    assert b.get_all_peers() == []  # leaving the block closes nothing
    b.close()


def test_blocks(pair: Pair) -> None:
    a, b = pair.a, pair.b
    cid = a.put_block(b"hello")
    assert cid == "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
    assert a.get_block(cid) == (None, b"hello")
    assert b.get_block(cid) == (a.peer_id(), b"hello")
    large = bytes(range(256)) * (8 << 12)
    assert b.get_block(a.put_block(large), timeout_secs=60) == (a.peer_id(), large)
    assert b.get_bitswap_global_stats()["total_bytes_received"] == 5 + len(large)
    [ranked] = b.get_bitswap_peer_rankings()
    assert (ranked["peer_id"], ranked["blocks_received"]) == (a.peer_id(), 2)
    assert (ranked["failures"], ranked["success_rate"]) == (0, 1.0)
    assert ranked["avg_speed"] > 0
    assert 35 < ranked["score"] <= 100
    a.remove_block(cid)
    a.remove_block(cid)
    with pytest.raises(RuntimeError, match="no peer has sent block"):
        b.get_block(cid, timeout_secs=0.2)
    [fresh] = a.get_bitswap_peer_rankings()  # nothing was asked of it
    assert (fresh["peer_id"], fresh["score"], fresh["success_rate"]) == (b.peer_id(), 55.0, 0.5)
    with pytest.raises(RuntimeError, match="Failed to get block"):
        b.get_block("rubbish")


def test_a_block_that_was_changed_is_none(tmp_path: Path) -> None:
    node = Lattica.builder().with_listen_addrs(LISTEN).with_storage_path(str(tmp_path)).build()
    cid = node.put_block(b"hello")
    (tmp_path / "blocks" / cid).write_bytes(b"jello")
    with pytest.raises(RuntimeError, match="no peer has sent block"):
        node.get_block(cid, timeout_secs=0.1)
    assert node.put_block(b"hello") == cid
    assert node.get_block(cid) == (None, b"hello")
    node.close()
    again = Lattica.builder().with_listen_addrs(LISTEN).with_storage_path(str(tmp_path)).build()
    assert again.get_block(cid) == (None, b"hello")
    again.close()


def test_values_of_a_node_alone() -> None:
    node = Lattica.builder().with_listen_addrs(LISTEN).build()
    ends = time.time() + 365 * 24 * 3600
    assert node.store("k", {"x": 1}, expiration_time=ends) is True
    found = node.get("k")
    assert found is not None
    assert found.expiration_time == pytest.approx(ends, abs=5)
    assert [found.value, found[0], next(iter(found))] == [{"x": 1}] * 3
    assert node.get("nope") is None
    assert node.store("old", 1, time.time() - 5) is True
    assert node.get("old") is None
    assert node.store("l", lambda: 1) is False
    assert node.get_providers("zz") == []
    node.start_providing("zz")
    assert node.get_providers("zz") == [node.peer_id()]
    node.close()


@pytest.mark.parametrize("last", ["node.close()", "del node", ""])
def test_the_interpreter_exits(last: str) -> None:
    program = f"""
from lattica import Lattica
node = Lattica.builder().with_listen_addrs({LISTEN!r}).build()
{last}
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_values_stored_alone_are_handed_over(pair: Pair) -> None:
    lone = Lattica.builder().with_listen_addrs(LISTEN).build()
    assert lone.store("scheduler_peer_id", lone.peer_id())
    lone.start_providing("shards")
    address = lone.get_visible_maddrs()
    late = Lattica.builder().with_listen_addrs(LISTEN).with_bootstraps(address).build()
    eventually(lambda: late.get("scheduler_peer_id"))
    found = late.get("scheduler_peer_id")
    assert found is not None
    assert found.value == lone.peer_id()
    eventually(lambda: late.get_providers("shards") == [lone.peer_id()])
    lone.stop_providing("shards")
    eventually(lambda: late.get_providers("shards") == [])
    late.close()
    lone.close()


def test_values_with_subkeys_of_several_writers(pair: Pair) -> None:
    ends = time.time() + 600
    for node, name in ((pair.a, "A"), (pair.b, "B")):
        assert node.store("party", {"who": name}, ends, subkey=name)
    eventually(lambda: (found := pair.b.get("party")) and len(found.value) == 2)
    for node in (pair.a, pair.b):
        found = node.get("party")
        assert found is not None
        values = {name: each.value for name, each in found.value.items()}
        assert values == {"A": {"who": "A"}, "B": {"who": "B"}}
        assert found.expiration_time == pytest.approx(ends, abs=1)
    assert pair.b.store("party", {"who": "B again"}, ends, subkey="B")
    eventually(lambda: (f := pair.a.get("party")) and f.value["B"].value == {"who": "B again"})
