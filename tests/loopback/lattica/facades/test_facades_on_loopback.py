"""Both facades on real nodes over loopback: their promises where they meet `Node`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lattica.config import NodeConfig
from lattica.content import FetchProgress, FileDone, HashProgress
from lattica.errors import (
    AddressError,
    ConnectionClosedError,
    ContentNotFoundError,
    DialError,
    ListenError,
    LocalProtocolError,
    NotConnectedError,
    StreamResetError,
    TicketError,
    UnsupportedProtocolError,
)
from lattica.facades.aio import AsyncLattica
from lattica.facades.blocking import Lattica
from lattica.facades.streams.aio import AsyncStream
from lattica.facades.streams.blocking import BlockingStream
from lattica.nat.base.keys.identity import Identity
from lattica.nat.config import SwarmConfig
from lattica.nat.swarm.events import PeerConnected, PeerDisconnected

PATIENCE = 30.0
MIB = 1024 * 1024


def config(listen: str = "/ip4/127.0.0.1/tcp/0") -> NodeConfig:
    return NodeConfig(swarm=SwarmConfig(listen=(listen,)))


def echo(stream: BlockingStream) -> None:
    for chunk in stream:
        stream.send_all(chunk)


@pytest.fixture
def server() -> Iterator[Lattica]:
    with Lattica(config()) as server:
        server.handle("/echo", echo)
        yield server


@pytest.fixture
def client() -> Iterator[Lattica]:
    with Lattica(config()) as client:
        yield client


@pytest.mark.parametrize("wrong", [None, b"12D3Koo", 5])
def test_what_is_no_peer_and_no_address_is_refused(client: Lattica, wrong: Any) -> None:
    for call in (client.is_connected, client.disconnect, client.wait_connected):
        with pytest.raises(AddressError, match="not a peer ID"):
            call(wrong)
    with pytest.raises(AddressError, match="not a peer ID"):
        client.open_stream(wrong, "/echo")
    with pytest.raises(AddressError, match="not an address"):
        client.connect(wrong)


def test_from_identity_to_disconnection(server: Lattica) -> None:
    identity = Identity.generate()
    with Lattica(config(), identity=identity) as client, server.events() as events:
        assert client.peer_id == identity.peer_id
        peer = client.connect(server.addrs[0], timeout=PATIENCE)
        assert peer == server.peer_id
        server.wait_connected(identity.peer_id, timeout=PATIENCE)
        assert client.is_connected(peer)
        assert [status.peer_id for status in client.peers()] == [peer]
        with client.open_stream(str(peer), ["/none", "/echo"]) as stream:
            assert stream.protocol == "/echo"
            stream.send_all(b"hello")
            stream.send_eof()
            assert b"".join(stream) == b"hello"
        client.disconnect(peer)
        assert not client.is_connected(peer)
        event = events.receive(timeout=PATIENCE)
        assert isinstance(event, PeerConnected)
        assert event.peer_id == identity.peer_id
        assert isinstance(events.receive(timeout=PATIENCE), PeerDisconnected)


def test_typed_errors(server: Lattica, client: Lattica) -> None:
    with pytest.raises(AddressError):
        client.connect("/ip4/not-an-address/tcp/1")
    with pytest.raises(DialError):
        client.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{server.peer_id}", timeout=PATIENCE)
    with pytest.raises(NotConnectedError):
        client.open_stream(Identity.generate().peer_id, "/echo")
    with pytest.raises(TimeoutError):
        client.wait_connected(server.peer_id, timeout=0.01)
    client.add_address(server.peer_id, server.addrs[0])
    with pytest.raises(UnsupportedProtocolError):
        client.open_stream(server.peer_id, "/none", timeout=PATIENCE)
    port = str(server.addrs[0]).split("/")[4]
    with pytest.raises(ListenError):
        Lattica(config(f"/ip4/127.0.0.1/tcp/{port}")).start()


def test_many_threads_at_once(server: Lattica, client: Lattica) -> None:
    peer = client.connect(server.addrs[0])

    def work(number: int) -> None:
        payload = number.to_bytes(2, "big") * 20_000
        with client.open_stream(peer, "/echo", timeout=PATIENCE) as stream:
            for start in range(0, len(payload), 1000):
                stream.send_all(payload[start : start + 1000], timeout=PATIENCE)
            assert stream.receive_exactly(len(payload), timeout=PATIENCE) == payload

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(work, number) for number in range(64)]:
            done.result(PATIENCE)


def test_bulk_in_pieces_and_in_one(server: Lattica, client: Lattica) -> None:
    peer = client.connect(server.addrs[0])
    data = os.urandom(MIB) * 16
    result: Future[bytes] = Future()

    def take(stream: BlockingStream) -> None:
        buffer = bytearray(len(data))
        assert stream.receive_into(buffer, fill=True, timeout=PATIENCE) == len(data)
        assert stream.receive_exactly(len(data), timeout=PATIENCE) == data
        result.set_result(bytes(buffer))

    server.handle("/take", take)
    with client.open_stream(peer, "/take") as stream:
        for start in range(0, len(data), 64 * 1024):
            stream.send_all(data[start : start + 64 * 1024], timeout=PATIENCE)
        stream.send_all(memoryview(data), timeout=PATIENCE)
        assert result.result(PATIENCE) == data


def test_what_was_sent_arrives_though_the_node_closes(server: Lattica) -> None:
    data = os.urandom(200_000)  # no more than the peer takes before it reads
    result: Future[bytes] = Future()
    server.handle("/take", lambda stream: result.set_result(stream.receive_exactly(len(data))))
    with Lattica(config()) as client:
        stream = client.open_stream(client.connect(server.addrs[0]), "/take")
        stream.send_all(data)
        stream.close()
    assert result.result(PATIENCE) == data
    with pytest.raises(LocalProtocolError, match="closed"):
        stream.send_all(b"more")


def test_the_other_side_goes_away(client: Lattica, caplog: pytest.LogCaptureFixture) -> None:
    with Lattica(config()) as server:
        server.handle("/wait", lambda stream: stream.receive_some())
        stream = client.open_stream(client.connect(server.addrs[0]), "/wait")
        received: Future[BaseException | None] = Future()

        def receive() -> None:
            try:
                stream.receive_some()
            except BaseException as exc:
                received.set_result(exc)
            else:
                received.set_result(None)

        threading.Thread(target=receive, daemon=True).start()
    # Never a clean end of the stream, even if the handler had not begun; and no complaint.
    assert isinstance(received.result(PATIENCE), (ConnectionClosedError, StreamResetError))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_publish_and_fetch(server: Lattica, client: Lattica, tmp_path: Path) -> None:
    source = tmp_path / "model.bin"
    source.write_bytes(os.urandom(3 * MIB + 5))
    told: list[Any] = []
    threads: set[int] = set()

    def progress(event: object) -> None:
        told.append(event)
        threads.add(threading.get_ident())

    ticket = server.publish(source, "the model", progress=progress)
    assert isinstance(told[-1], HashProgress)
    result = client.fetch(str(ticket), tmp_path / "out", progress=progress, timeout=PATIENCE)
    assert result.paths[0].read_bytes() == source.read_bytes()
    assert {FetchProgress, FileDone} <= {type(event) for event in told}
    assert threads == {threading.get_ident()}
    other = server.publish(source)  # the publisher is there already
    assert client.fetch(other, tmp_path / "again").bytes_total == 3 * MIB + 5
    with pytest.raises(TicketError):
        client.fetch("lattica1nonsense", tmp_path / "out")
    server.unpublish(ticket)
    with pytest.raises(ContentNotFoundError, match="does not serve"):
        client.fetch(ticket, tmp_path / "no more")
    assert client.fetch(other, tmp_path / "once more").bytes_total == 3 * MIB + 5
    with pytest.raises(ContentNotFoundError, match="not published"):
        server.unpublish(str(ticket))
    path = client.path(server.peer_id)
    assert path is not None
    assert path.path.startswith("direct-")
    with pytest.raises(LocalProtocolError, match="no relay is configured"):
        client.wait_reachable(timeout=PATIENCE)
    assert client.identity.peer_id == client.peer_id
    assert client.config.bootstrap == ()


def test_asyncio_and_threads_together(server: Lattica, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(os.urandom(MIB))

    async def async_echo(stream: AsyncStream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)

    async def ask(lattica: AsyncLattica, number: int) -> None:
        payload = bytes([number]) * 50_000
        async with await lattica.open_stream(server.peer_id, "/echo") as stream:
            await stream.send_all(payload)
            assert await stream.receive_exactly(len(payload)) == payload

    async def main() -> None:
        async with AsyncLattica(config()) as lattica:
            await lattica.connect((await lattica_addrs())[0])
            await lattica.handle("/async-echo", async_echo)
            await asyncio.gather(*(ask(lattica, number) for number in range(20)))
            addrs = await lattica.addrs()

            def from_a_thread() -> bytes:
                with Lattica(config()) as third:
                    peer = third.connect(addrs[0], timeout=PATIENCE)
                    with third.open_stream(peer, "/async-echo") as stream:
                        stream.send_all(b"from a thread")
                        return stream.receive_exactly(13, timeout=PATIENCE)

            assert await asyncio.to_thread(from_a_thread) == b"from a thread"
            told: list[object] = []
            ticket = await lattica.publish(source, progress=told.append)
            assert told
            assert (await lattica.publish(source)).cid == ticket.cid
            result = await lattica.fetch(
                await asyncio.to_thread(server.publish, source),
                tmp_path / "out",
                progress=told.append,
            )
            assert result.bytes_total == MIB
            assert isinstance(told[-1], (FetchProgress, FileDone))
            again = await asyncio.to_thread(server.fetch, ticket, tmp_path / "back")
            assert again.paths[0].read_bytes() == source.read_bytes()
            with pytest.raises(ContentNotFoundError):
                await lattica.fetch(await gone(), tmp_path / "gone")

    async def lattica_addrs() -> tuple[Any, ...]:
        return await asyncio.to_thread(lambda: server.addrs)

    async def gone() -> Any:
        """A ticket of a server that publishes, but not this."""
        from lattica.content import Cid, Ticket

        addrs = await lattica_addrs()
        return Ticket.make(Cid(os.urandom(32)), server.peer_id, addrs)

    run_in_asyncio(main)


def run_in_asyncio(fn: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(2 * PATIENCE):
            await fn()

    asyncio.run(main())


def test_exit_without_close_of_a_real_node(server: Lattica) -> None:
    code = f"""
from lattica import Lattica, NodeConfig
from lattica.nat.config import SwarmConfig
lattica = Lattica(NodeConfig(swarm=SwarmConfig(listen=("/ip4/127.0.0.1/tcp/0",)))).start()
lattica.handle("/wait", lambda stream: stream.receive_some())
stream = lattica.open_stream(lattica.connect({str(server.addrs[0])!r}), "/take")
stream.send_all(b"good bye")
stream.close()
print("end")
"""
    result: Future[bytes] = Future()
    server.handle("/take", lambda stream: result.set_result(stream.receive_exactly(8)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)
    assert result.result(PATIENCE) == b"good bye"
