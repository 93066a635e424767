"""Two nodes on one machine: large buffers go through memory that both have."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from lattica import Node
from lattica.config import load_config
from lattica.rpc import RpcError, UnavailableError, with_options
from lattica.rpc.data_plane.shared import memory, sharing
from lattica.rpc.data_plane.shared.messages import SECRET_BYTES
from lattica.rpc.data_plane.shared.slots import SLOT
from tests.support.rpc.services import Workshop

pytestmark = pytest.mark.skipif(not memory.IS_AVAILABLE, reason="there is no memfd_create(2) here")

MIB = 1 << 20
LARGE = np.random.default_rng(1).integers(0, 255, 3 * MIB + 5, np.uint8)


def node(**overrides: Any) -> Node:
    given = {"listen": ("/ip4/127.0.0.1/tcp/0",), "nat.port_mapping.enabled": False}
    return Node(load_config(overrides={**given, **overrides}))


@asynccontextmanager
async def pair(**of_client: Any) -> AsyncIterator[tuple[Node, Node, Workshop]]:
    async with node() as server, node(**of_client) as client:
        server.rpc.serve(Workshop())
        await client.connect(server.addrs[0])
        yield server, client, client.rpc.stub(server.peer_id, Workshop)


async def shared(stub: Workshop, client: Node, links: int = 1) -> None:
    """Call until memory is shared."""
    with trio.fail_after(60):
        while client.rpc.statistics().shared_memory.links < links:
            await stub.echo(LARGE)
            await trio.sleep(0.01)


def free_slots(node: Node) -> int:
    (links,) = node.rpc._shared._links.values()
    (link,) = links.values()
    return len(link._sending._free)


async def all_free(*nodes: Node) -> None:
    with trio.fail_after(60):
        while any(free_slots(each) < 32 for each in nodes):
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    "value",
    [
        LARGE,
        LARGE[: 64 * 1024],
        LARGE.tobytes(),
        bytearray(LARGE.tobytes()),
        {"a": LARGE, "b": [LARGE[:10], LARGE[:70_000].tobytes(), LARGE[:20_000]], "c": LARGE[::2]},
        np.zeros(40 * MIB, np.uint8),
    ],
    ids=["array", "least", "bytes", "bytearray", "mixed", "larger-than-all-slots"],
)
async def test_values_come_back_as_they_went(value: Any) -> None:
    async with pair() as (server, client, stub):
        await shared(stub, client)
        before = client.rpc.statistics().shared_memory
        result = await stub.echo(value)
        np.testing.assert_equal(result, value)
        if isinstance(result, np.ndarray):
            assert result.flags.writeable
            assert result.ctypes.data % 64 == 0
        after = client.rpc.statistics().shared_memory
        assert after.sent - before.sent == after.received - before.received >= 64 * 1024
        await all_free(server, client)
        assert after.not_shared == before.not_shared


async def test_streams_both_ways_and_results_in_place() -> None:
    async with pair() as (server, client, stub):
        await shared(stub, client)
        before = server.rpc.statistics().shared_memory.sent
        got = [each async for each in stub.arrays(30, MIB)]
        assert [int(each.mean()) for each in got] == list(range(30))
        assert server.rpc.statistics().shared_memory.sent - before == sum(e.nbytes for e in got)
        out = np.empty_like(LARGE)
        assert await with_options(stub, out=out).echo(LARGE) is out
        assert (out == LARGE).all()
        await all_free(server, client)


async def test_what_was_given_up_leaves_nothing_behind() -> None:
    async with pair() as (server, client, stub):
        await shared(stub, client)
        stream: Any = stub.arrays(1000, MIB)
        async with stream:
            await anext(stream)
            await trio.sleep(0.05)  # so that the server has sent what the client never reads
        with trio.move_on_after(0.02):
            await stub.echo(np.zeros(60 * MIB, np.uint8))
        with pytest.raises(RpcError):
            await client.rpc.call(server.peer_id, "Workshop.nothing", LARGE)
        await all_free(server, client)
        assert (await stub.echo(LARGE) == LARGE).all()


@pytest.mark.parametrize("of", ["client", "server"])
async def test_it_can_be_switched_off(of: str) -> None:
    off = {"rpc.shared_memory": 0}
    async with (
        node(**(off if of == "server" else {})) as server,
        node(**(off if of == "client" else {})) as client,
    ):
        server.rpc.serve(Workshop())
        await client.connect(server.addrs[0])
        stub = client.rpc.stub(server.peer_id, Workshop)
        for _ in range(3):
            assert (await stub.echo(LARGE) == LARGE).all()
            await trio.sleep(0.01)
        told = client.rpc.statistics().shared_memory
        assert (told.links, told.sent) == (0, 0)
        assert sum(told.not_shared.values()) == 3
        assert server.rpc.statistics().shared_memory.links == 0
        if of == "client":
            assert told.not_shared == {"switched off": 3}


@pytest.mark.parametrize("of", ["client", "server"])
async def test_whoever_has_set_less_is_shared_no_more_with(of: str) -> None:
    less, more = {"rpc.shared_memory": 3 * SLOT}, {"rpc.shared_memory": 1024 * SLOT}
    async with (
        node(**(less if of == "server" else more)) as server,
        node(**(less if of == "client" else more)) as client,
    ):
        server.rpc.serve(Workshop())
        await client.connect(server.addrs[0])
        stub = client.rpc.stub(server.peer_id, Workshop)
        await shared(stub, client)
        for each in (server, client):
            (links,) = each.rpc._shared._links.values()
            (link,) = links.values()
            assert (link._ours.slots, link._theirs.slots) == (3, 3)
        assert (await stub.echo(LARGE) == LARGE).all()


async def test_who_does_not_know_the_secret_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others on the machine see the socket's name (in /proc/net/unix), and connect to it first."""
    intruders: list[socket.socket] = []
    answered = sharing.SharedMemory._answer

    async def intrude(self: sharing.SharedMemory, stream: Any) -> None:
        names = Path("/proc/net/unix").read_text().split()
        for name in names:
            if name.startswith("@lattica-"):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock.settimeout(5)
                intruders.append(sock)
                with suppress(OSError):  # that of a test that runs beside this one
                    sock.connect("\0" + name[1:])
                    sock.send(bytes(SECRET_BYTES))
        await answered(self, stream)

    monkeypatch.setattr(sharing.SharedMemory, "_answer", intrude)
    async with pair() as (_, client, stub):
        await shared(stub, client)
        assert (await stub.echo(LARGE) == LARGE).all()
    assert intruders
    for sock in intruders:
        with suppress(OSError):
            data, rights, _, _ = sock.recvmsg(100, 1000)
            assert (data, rights) == (b"", [])
        sock.close()


@pytest.mark.parametrize("slow", ["_receive", "_send"])
async def test_nothing_refers_to_memory_that_the_other_side_does_not_know_yet(
    slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = sharing.SharedMemory if slow == "_receive" else sharing
    original = getattr(owner, slow)

    async def late(*args: Any) -> Any:
        result = await original(*args)
        await trio.sleep(0.1)
        return result

    monkeypatch.setattr(owner, slow, late)
    async with pair() as (server, client, stub):
        with trio.fail_after(60):
            while not server.rpc.statistics().shared_memory.sent:
                assert (await stub.echo(LARGE) == LARGE).all()
        for node in (server, client):
            assert node.rpc.statistics().shared_memory.links == 1


PROGRAM = """
import sys, trio, numpy as np
from lattica import Node
from lattica.config import load_config
from tests.support.rpc.services import Workshop

async def main():
    given = {"listen": ("/ip4/127.0.0.1/tcp/0",), "nat.port_mapping.enabled": False}
    async with Node(load_config(overrides=given)) as node:
        node.rpc.serve(Workshop())
        print(node.addrs[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_peer_that_is_killed_leaves_nothing_behind() -> None:
    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count("lattica-rpc")

    def descriptors() -> set[str]:
        names = set()
        for each in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # that of this look
                names.add(f"{each.name} {each.readlink()}")
        return names

    held, before = mappings(), descriptors()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        addr = await trio.to_thread.run_sync(process.stdout.readline)
        async with node() as client:
            peer = await client.connect(addr.strip())
            stub = client.rpc.stub(peer, Workshop, timeout=60.0)
            await shared(stub, client)
            assert mappings() == held + 2
            stream: Any = stub.arrays(1000, MIB)
            async with stream:
                await anext(stream)
                process.send_signal(signal.SIGKILL)
                with pytest.raises(UnavailableError):
                    async for _ in stream:
                        pass
            with trio.fail_after(60):
                while client.rpc.statistics().shared_memory.links:
                    await trio.sleep(0.01)
            assert mappings() == held
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    assert not [name for name in os.listdir("/dev/shm") if "lattica-rpc" in name]
    with trio.move_on_after(20):  # a thread of an earlier test may have one open just now
        while not descriptors() <= before:
            await trio.sleep(0.05)
    assert descriptors() <= before
