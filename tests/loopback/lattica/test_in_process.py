"""What lives in one process says so, what can travel does, and everything says what it is."""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any, cast

import pytest
import trio

import lattica
import lattica.errors
from lattica import (
    AsyncLattica,
    ConnectionHandler,
    Lattica,
    LatticaError,
    Node,
    NodeConfig,
    rpc_method,
)
from lattica.compat.calls.handler import ServiceStub
from lattica.content import Cid, Publisher, Ticket
from lattica.content.publish.catalog import make_publication
from lattica.errors import (
    DialAttempt,
    DialError,
    LocalProtocolError,
    PeerMismatchError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.nat.base.errors import renewed
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.rpc.ports.messages import Code, PortRefusedError
from tests.support.doubles.memory_host import memory_net

LOCAL = NodeConfig(swarm=SwarmConfig(listen=("/ip4/127.0.0.1/tcp/0",)))


# --- pickling ---


@pytest.mark.parametrize("make", [Lattica, AsyncLattica, Node, lambda: Publisher(Node())])
def test_what_lives_in_one_process_says_so(make: Any) -> None:
    thing = make()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=rf"{type(thing).__name__} cannot be pickled"):
            attempt(thing)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps({"a trainer": [thing]})


def test_streams_and_keys_neither() -> None:
    with Lattica(LOCAL) as node:
        node.handle("/wait", lambda stream: stream.wait_gone())
        with pytest.raises(TypeError, match="BlockingEvents cannot be pickled"):
            pickle.dumps(node.events())
    with pytest.raises(TypeError, match="private key") as refusal:
        pickle.dumps(Identity.generate())
    assert "seed" in str(refusal.value)


class Service:
    async def add(self, by: int) -> None: ...


class Handler(ConnectionHandler):
    @rpc_method
    def add(self, by: int) -> None: ...


def test_stubs_neither() -> None:
    """A program hands one to a worker process, or copies the configuration that it is in: a copy
    had pieces of a node, and one of a stub without its class took every name for a method."""
    peer = Identity.generate().peer_id

    async def under_asyncio() -> list[Any]:
        async with AsyncLattica(LOCAL) as node:
            return [await node.rpc.stub(peer, each) for each in (Service, "Service")]

    with Lattica(LOCAL) as node:
        stubs: list[Any] = [node.rpc.stub(peer, each) for each in (Service, "Service")]
    stubs += asyncio.run(under_asyncio())
    stubs += [each._made for each in stubs]
    stubs.append(ServiceStub(cast("Any", None), str(peer), Handler))
    for stub in stubs:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=rf"{type(stub).__name__} cannot be pickled"):
                attempt(stub)


def test_what_can_travel_does() -> None:
    peer = Identity.generate().peer_id
    addr = Multiaddr("/ip4/192.0.2.1/tcp/1")
    for thing in (LOCAL, peer, addr, Cid.of(b"x"), Ticket(Cid.of(b"x"), peer, (addr,))):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(thing, protocol)) == thing  # noqa: S301


def errors() -> list[LatticaError]:
    made: list[LatticaError] = [
        PeerMismatchError("a", "b"),
        DialError("somebody", [DialAttempt("/ip4/1.2.3.4/tcp/1", "no", OSError(1, "x"))]),
        UnsupportedProtocolError("somebody", ["/a", "/b"]),
        StreamResetError("gone", 7),
        PortRefusedError(Code.BUSY, "full"),
    ]
    kinds = {kind for kind in vars(lattica.errors).values() if inspect.isclass(kind)}
    plain = {kind for kind in kinds if issubclass(kind, LatticaError)} - {type(e) for e in made}
    return made + [kind("what happened") for kind in sorted(plain, key=lambda kind: kind.__name__)]


@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
def test_errors_get_out_of_a_worker_process(error: LatticaError) -> None:
    unpickled = pickle.loads(pickle.dumps(error))  # noqa: S301
    for again in (unpickled, copy.copy(error), renewed(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)


# --- the wrong loop ---


def test_a_node_under_asyncio_names_the_right_class() -> None:
    async def main() -> None:
        async with Node(LOCAL):
            pass

    with pytest.raises(LocalProtocolError, match=r"lattica\.AsyncLattica with asyncio"):
        asyncio.run(main())


def test_asyncio_under_trio_names_the_right_class() -> None:
    lattica = AsyncLattica(LOCAL)

    async def main() -> None:
        with pytest.raises(LocalProtocolError, match=r"lattica\.Node with trio"):
            await lattica.start()
        with pytest.raises(LocalProtocolError, match=r"lattica\.Node with trio"):
            async with lattica:
                pass

    trio.run(main)

    async def under_asyncio() -> None:
        async with lattica:  # nothing has been started
            pass

    asyncio.run(under_asyncio())


# --- what things say they are ---


async def test_what_a_node_and_its_parts_say() -> None:
    node = Node(LOCAL)
    assert repr(node) == f"<Node {node.peer_id} (not listening; peers: 0)>"
    async with node, Node(LOCAL) as other:
        await other.connect(node.addrs[0])
        await node.wait_connected(other.peer_id)
        assert repr(node) == f"<Node {node.peer_id} ({node.swarm.addrs[0]}; peers: 1)>"
        node.handle("/wait", lambda stream: stream.wait_gone())
        stream = await other.open_stream(node.peer_id, "/wait")
        assert repr(stream) == f"<Stream {stream.id} /wait with {node.peer_id}>"
        assert str(node.peer_id) in repr(stream.connection)
        stream.reset("no use for it")
        assert repr(stream).endswith("(no use for it)>")
        await other.disconnect(node.peer_id)
        assert repr(stream.connection).endswith("(closed by this side)>")


def test_what_the_facades_say() -> None:
    lattica = Lattica(LOCAL)
    assert repr(lattica) == "<Lattica, not started>"
    with lattica:
        assert repr(lattica) == f"<Lattica {lattica.peer_id}>"
    assert repr(lattica) == "<Lattica, closed>"


async def test_what_publishing_says(tmp_path: Any) -> None:
    file = tmp_path / "model"
    file.write_bytes(os.urandom(3_000_000))
    publication = await make_publication(file)
    assert len(repr(publication)) < 500
    assert "Cid.parse('b" in repr(publication)
    count = publication.manifest.chunk_count
    assert f"<ChunkTable of {count} chunks, 3000000 bytes>" in repr(publication)
    async with memory_net() as net, Publisher(net.host()) as publisher:
        ticket = await publisher.publish(file)
        assert repr(publisher) == "<Publisher of 1: model>"
    assert eval(repr(ticket)) == ticket  # noqa: S307
    assert str(ticket) in repr(replace(ticket))


# --- the end of a program ---

PROGRAMS = {
    "a thread": "threading.Thread(target=receive).start()",
    "a pool": "concurrent.futures.ThreadPoolExecutor().submit(receive)",
    "a handler": "lattica.handle('/mine', receive); "
    "node.open_stream(node.connect(lattica.addrs[0]), '/mine').send_all(b'x')",
}


@pytest.mark.parametrize("who", PROGRAMS)
def test_a_thread_that_waits_does_not_keep_the_interpreter(who: str) -> None:
    program = f"""
import concurrent.futures, threading
from lattica import Lattica, NodeConfig
from lattica.nat.config import SwarmConfig
local = NodeConfig(swarm=SwarmConfig(listen=("/ip4/127.0.0.1/tcp/0",)))
lattica, node = Lattica(local).start(), Lattica(local).start()
node.handle("/wait", lambda stream: stream.wait_gone())
stream = lattica.open_stream(lattica.connect(node.addrs[0]), "/wait")
waits = threading.Event()
def receive(stream=stream):
    waits.set()
    try:
        stream.receive_exactly(1000)
    except Exception as error:
        print(type(error).__name__, flush=True)
{PROGRAMS[who]}
waits.wait()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    if who != "a handler":  # whose thread is left behind
        assert result.stdout.strip() == "LocalProtocolError"
