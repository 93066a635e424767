"""A node's local API, with the Python client: all of it against a node in this process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from lattica import Lattica, Node
from lattica.config import NodeConfig, load_config
from lattica.content import ByteRange, Ticket, fetch
from lattica.content.names.record import NameRef
from lattica.content.names.resolver import NameResolver
from lattica.content.publish.service import service_of
from lattica.daemon.api.client import NodeClient, Responses
from lattica.daemon.api.methods import Methods
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.daemon.api.values import unpack
from lattica.daemon.node.member import Member
from lattica.daemon.node.running import member_of
from lattica.errors import (
    AddressError,
    ContentError,
    ContentNotFoundError,
    DaemonError,
    DaemonGoneError,
    LocalProtocolError,
    NameNotFoundError,
    SignatureError,
    TicketError,
)
from lattica.rpc.errors import NotFoundError
from tests.support.nets.nets import settled

T = TypeVar("T")


def config_of(data_dir: Path, **overrides: Any) -> NodeConfig:
    return load_config(
        environment={},
        overrides={
            "listen": ("/ip4/127.0.0.1/tcp/0",),
            "nat.port_mapping.enabled": False,
            "data_dir": data_dir,
            "dht.enabled": True,
            "dht.mode": "server",
            **overrides,
        },
    )


@asynccontextmanager
async def daemon(data_dir: Path, **overrides: Any) -> AsyncIterator[tuple[Member, NodeClient]]:
    async with Node(config_of(data_dir, **overrides)) as node, member_of(node) as member:
        assert member.socket is not None
        client = NodeClient(member.socket)
        try:
            yield member, client
        finally:
            client.close()


async def there(function: Callable[[], T]) -> T:
    """As another program would."""
    return await trio.to_thread.run_sync(function, abandon_on_cancel=True)


class Echo:
    """What a peer serves."""

    async def echo(self, value: Any, loud: bool = False) -> Any:
        return [value, loud]

    async def fail(self) -> None:
        raise NotFoundError("no such thing")


async def test_peers_and_calls(tmp_path: Path) -> None:
    async with daemon(tmp_path) as (member, client), Node(config_of(tmp_path / "o")) as other:
        other.rpc.serve(Echo())
        events = await there(client.events)
        said = await there(lambda: client.connect(str(other.addrs[0])))
        assert said.peer_id == str(other.peer_id)
        assert said.path == "direct-tcp"
        first = await there(lambda: next(events))
        assert (first.event, first.peer_id) == ("peer_connected", str(other.peer_id))
        events.close()
        peer = said.peer_id
        assert await there(lambda: client.call(peer, "Echo.echo", {"a": b"1"}, loud=True)) == [
            {"a": b"1"},
            True,
        ]
        with pytest.raises(NotFoundError, match="no such thing"):
            await there(lambda: client.call(peer, "Echo.fail"))
        with pytest.raises(AddressError):
            await there(lambda: client.connect("nonsense"))
        status = await there(client.status)
        assert [each.peer_id for each in status.peers] == [peer]
        assert status.peers[0].path == "direct-tcp"
        assert status.dht.mode == "server"
        await there(lambda: client.disconnect(peer))
        assert not member.node.is_connected(peer)


async def test_what_is_subscribed_to_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def begin(*args: Any) -> None:
            await trio.sleep(0.1)  # as on a busy machine
            await method(*args)

        return begin

    for name in ("events", "logs", "topic_subscribe"):
        monkeypatch.setattr(Methods, name, late(getattr(Methods, name)))
    async with daemon(tmp_path) as (_, client), Node(config_of(tmp_path / "o")) as other:
        events = await there(client.events)
        await there(lambda: client.connect(str(other.addrs[0])))
        lines = await there(client.logs)
        logging.getLogger("elsewhere").warning("said after it was subscribed to")
        messages = await there(lambda: client.topic_subscribe("news"))
        with trio.fail_after(60):
            await other.topic("news").wait_peers(1)
            await other.topic("news").publish(b"hello")
            assert (await there(lambda: next(events))).event == "peer_connected"
            while (await there(lambda: next(lines))).logger != "elsewhere":
                pass
            assert (await there(lambda: next(messages))).data == b"hello"


async def test_ports_last_as_long_as_their_calls(tmp_path: Path) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data.upper())

    async with (
        daemon(tmp_path / "a") as (exposing, here),
        daemon(tmp_path / "b") as (_, there_),
        trio.open_nursery() as nursery,
    ):
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        port = listeners[0].socket.getsockname()[1]
        exposed = here.expose(f"web={port}", f"db=127.0.0.1:{port}")
        ready = await there(lambda: next(exposed))
        assert ready.event == "ready"
        assert [(each.name, each.place) for each in ready.ports] == [
            ("web", f"127.0.0.1:{port}"),
            ("db", f"127.0.0.1:{port}"),
        ]
        assert ready.key
        addrs = ",".join(map(str, exposing.node.addrs))
        forwarded = there_.forward(addrs, "web", ("db", "0"), key=ready.key)
        listening = await there(lambda: next(forwarded))
        assert listening.peer_id == str(exposing.node.peer_id)
        for each in listening.ports:
            local = int(each.place.rpartition(":")[2])
            async with await trio.open_tcp_stream("127.0.0.1", local) as client:
                await client.send_all(b"hello")
                assert await client.receive_some() == b"HELLO"
        opened = await there(lambda: next(exposed))
        assert (opened.event, opened.port, opened.side) == ("connection_opened", "web", "expose")
        assert [each.name for each in exposing.node.ports.exposed] == ["web", "db"]
        exposed.close()
        forwarded.close()
        with trio.fail_after(60):
            while exposing.node.ports.exposed:
                await trio.sleep(0.01)
        for target in ("sock=unix:/a=b", ("sock", "unix:/a=b")):
            with here.expose(target) as named:
                ready = await there(named.__next__)
                assert [(port.name, port.place) for port in ready.ports] == [("sock", "unix:/a=b")]
            with trio.fail_after(60):
                while exposing.node.ports.exposed:
                    await trio.sleep(0.01)
        for wrong in (
            lambda: next(here.expose()),
            lambda: next(here.expose("no port")),
            lambda: next(there_.forward("nobody", "web")),
            lambda: next(there_.forward(addrs)),
        ):
            with pytest.raises((AddressError, LocalProtocolError)):
                await there(wrong)
        nursery.cancel_scope.cancel()


async def test_content_with_progress(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(os.urandom(5_000_000))
    async with (
        daemon(tmp_path / "a") as (publisher, source),
        daemon(tmp_path / "b") as (member, sink),
    ):
        seen: list[int] = []
        path = tmp_path / "model.bin"
        made = await there(
            lambda: source.publish(path, progress=lambda p: seen.append(p.bytes_done))
        )
        again = await there(lambda: source.publish(path, rate=50e6))
        assert made.cid == again.cid
        assert seen
        [pace] = service_of(publisher.node)._paces.values()
        assert pace.rate == 50e6
        phases: list[str] = []
        done = await there(
            lambda: sink.fetch(
                made.ticket, tmp_path / "out", progress=lambda p: phases.append(p.phase)
            )
        )
        assert (tmp_path / "out/model.bin").read_bytes() == path.read_bytes()
        assert done.bytes_total == done.bytes_fetched == path.stat().st_size
        assert "starting" in phases
        assert not [*member.transfers]
        with pytest.raises(TicketError):
            await there(lambda: sink.fetch("lattica1nonsense", tmp_path / "out"))
        await there(lambda: source.unpublish(made.ticket))
        with pytest.raises(ContentNotFoundError):
            await there(lambda: source.unpublish(made.cid))
        assert not (await there(source.status)).publications


async def test_who_has_to_have_signed_it_and_links_that_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"weights")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "elsewhere")
    async with daemon(tmp_path / "a") as (_, source), daemon(tmp_path / "b") as (member, sink):
        with pytest.raises(ContentError, match="link"):
            await there(lambda: source.publish(tmp_path / "model"))
        made = await there(lambda: source.publish(tmp_path / "model", follow_links=True, sign=True))
        signer = (await there(source.status)).peer_id
        out = tmp_path / "out"
        other = str(member.node.peer_id)
        with pytest.raises(SignatureError):
            await there(lambda: sink.fetch(made.ticket, out, signed_by=other))
        await there(lambda: sink.fetch(made.ticket, out, signed_by=signer))
        assert (out / "link.bin").read_bytes() == b"weights"
        assert not (out / "link.bin").is_symlink()


async def test_ranges_of_a_file_are_fetched(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights.bin").write_bytes(data)
    (tmp_path / "model/other.bin").write_bytes(b"other")
    async with daemon(tmp_path / "a") as (_, source), daemon(tmp_path / "b") as (_, sink):
        made = await there(lambda: source.publish(tmp_path / "model"))
        ranges = [ByteRange.parse("weights.bin:10-19"), ByteRange.parse("weights.bin:-5")]
        done = await there(lambda: sink.fetch(made.ticket, tmp_path / "out", ranges=ranges))
        [path] = done.paths
        assert Path(path).read_bytes() == data[10:20] + data[-5:]
        assert done.bytes_fetched < len(data)
        with pytest.raises(ContentError, match="name the file of a range"):
            await there(
                lambda: sink.fetch(made.ticket, tmp_path / "out", ranges=[ByteRange(0, 10)])
            )
        with pytest.raises(ContentError, match="not both"):
            await there(
                lambda: sink.fetch(made.ticket, tmp_path / "out", ranges=ranges, tensors="*")
            )


async def test_a_registry_leads_to_what_the_node_publishes(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "later.bin").write_bytes(b"more weights")
    async with daemon(tmp_path / "a") as (publisher, source), daemon(tmp_path / "b") as (_, sink):
        name = "crdt:cluster/chat"
        made = await there(lambda: source.publish(tmp_path / "model.bin", registry=f"{name}@7"))
        assert made.registry == f"{name}@7"
        assert [document.name for document in publisher.documents.values()] == ["cluster"]
        await there(lambda: sink.connect(str(publisher.node.addrs[0])))
        await there(lambda: sink.fetch(name, tmp_path / "out"))
        assert (tmp_path / "out/model.bin").read_bytes() == b"weights"
        # A version that is taken: nothing else is served by that.
        with pytest.raises(LocalProtocolError, match="other content"):
            await there(lambda: source.publish(tmp_path / "later.bin", registry=f"{name}@7"))
        status = await there(source.status)
        assert [each.cid for each in status.publications] == [made.cid]
        with pytest.raises(TicketError):
            await there(lambda: source.publish(tmp_path / "later.bin", registry="cluster/chat"))
        later = await there(lambda: source.publish(tmp_path / "later.bin", registry=name))
        assert later.registry == f"{name}@{later.cid[7:19]}"


async def test_a_revision_of_a_repository_is_there_until_it_is_unpublished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/link").symlink_to("config.json")
    async with daemon(tmp_path / "a") as (member, source), Node(config_of(tmp_path / "b")) as other:
        await there(lambda: source.connect(str(other.addrs[0])))
        with monkeypatch.context() as patched:

            async def fail(*_: object) -> None:
                raise ContentError("unreadable")

            patched.setattr("lattica.content.hub.publishing.describe_revision", fail)
            with pytest.raises(ContentError, match="unreadable"):
                await there(lambda: source.publish(tmp_path / "model", repo="org/llama"))
        assert not (await there(source.status)).publications
        with pytest.raises(TicketError):
            await there(lambda: source.publish(tmp_path / "model", repo="a/b/c"))
        made = await there(lambda: source.publish(tmp_path / "model", repo="org/llama@v1"))
        assert (made.repo, made.name, made.files) == ("org/llama@v1", "llama", 2)
        again = await there(lambda: source.publish(tmp_path / "model", "other", repo="org/llama"))
        assert again.cid != made.cid  # a manifest has its name
        owner, resolver = member.node.peer_id, NameResolver(other)
        found = {}
        for name in ("hf/org/llama@v1", "hf/org/llama@main", "hf/org/llama"):
            found[name] = (await resolver.resolve(NameRef(owner, name))).target
        first, latest, last = found.values()
        assert str(first.cid) == made.cid
        assert str(latest.cid) == again.cid
        assert latest == last
        assert first.description is not None
        await fetch(other, Ticket(first.description, owner, ()), tmp_path / "out")
        await there(lambda: source.unpublish(made.ticket))
        with pytest.raises(NameNotFoundError, match=r"does not have it|has withdrawn it"):
            await resolver.resolve(NameRef(owner, "hf/org/llama@v1"))
        with pytest.raises(ContentNotFoundError):
            await fetch(other, Ticket(first.description, owner, ()), tmp_path / "two")
        assert (await resolver.resolve(NameRef(owner, "hf/org/llama"))).target == last
        with trio.fail_after(60):  # the other one, and what describes it
            while member.node.dht.status().provided != 2:
                await trio.sleep(0.01)


async def test_a_directory_follows_a_name_as_long_as_the_call_lasts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/one").write_text("1")
    async with daemon(tmp_path / "a") as (publisher, source):
        name = f"{publisher.node.addrs[0]}/model"
        async with daemon(tmp_path / "b") as (member, sink):
            made = await there(lambda: source.publish(tmp_path / "model", "model"))
            with pytest.raises(LocalProtocolError, match="only a name"):
                await there(lambda: next(sink.follow(made.ticket, tmp_path / "out")))
            with pytest.raises(NameNotFoundError):
                await there(lambda: next(sink.follow(f"{name}-2", tmp_path / "out")))
            versions = sink.follow(name, tmp_path / "out")
            assert (await there(lambda: _version(versions))).cid == made.cid
            (tmp_path / "model/one").unlink()
            (tmp_path / "model/two").write_text("2")
            later = await there(lambda: source.publish(tmp_path / "model", "model"))
            done = await there(lambda: _version(versions))
            assert (done.cid, [*done.removed_files]) == (later.cid, [str(tmp_path / "out/one")])
            assert (tmp_path / "out/two").read_text() == "2"
            [transfer] = member.transfers
            assert (transfer.kind, transfer.phase) == ("follow", "done")
            versions.close()
            while [*member.transfers]:
                await trio.sleep(0.01)
            other = NodeClient(sink.socket)
            versions = other.follow(name, tmp_path / "out")
            assert (await there(lambda: _version(versions))).bytes_fetched == 0
        with pytest.raises(DaemonGoneError), other:
            await there(lambda: next(versions))


def _version(responses: Responses[pb.FetchProgress]) -> pb.FetchDone:
    return next(each for each in responses if each.HasField("done")).done


async def test_no_thread_of_the_api_outlives_it(tmp_path: Path) -> None:
    async with daemon(tmp_path) as (_, client):
        await there(client.status)
        assert _threads_of_the_api()
    await settled(lambda: not _threads_of_the_api())


def _threads_of_the_api() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("lattica-api")]


async def test_a_fetch_whose_client_is_gone_ends(tmp_path: Path) -> None:
    async with daemon(tmp_path) as (member, client):
        started = threading.Event()

        async def never(*_: object, **__: object) -> None:
            started.set()
            await trio.sleep_forever()

        member.content.fetch = never  # type: ignore[method-assign,assignment]
        responses = client._stream("fetch", _fetch_request(tmp_path))
        await there(started.wait)
        assert len([*member.transfers]) == 1
        responses.close()
        while [*member.transfers]:
            await trio.sleep(0.01)
        started.clear()
        with pytest.raises(TimeoutError):
            await there(lambda: client.fetch("x", tmp_path, timeout=0.2))
        while [*member.transfers]:
            await trio.sleep(0.01)


def _fetch_request(directory: Path) -> Any:
    from lattica.daemon.api.pb import node_pb2

    return node_pb2.FetchRequest(ref="x", directory=str(directory))


async def test_topics_dht_and_documents(tmp_path: Path) -> None:
    async with daemon(tmp_path / "a") as (_, one), daemon(tmp_path / "b") as (other, two):
        addr = str(other.node.addrs[0])
        await there(lambda: one.connect(addr))
        messages = await there(lambda: two.topic_subscribe("news"))

        def say() -> None:
            while not one.topic_publish("news", b"hello"):
                pass

        await there(say)
        message = await there(lambda: next(messages))
        assert (message.data, message.source) == (b"hello", (await there(one.status)).peer_id)
        messages.close()

        assert await there(lambda: one.dht_put("key", {"x": [1, b"2"]})) == 1
        [value] = await there(lambda: two.dht_get("key"))
        assert unpack(value.value) == {"x": [1, b"2"]}
        assert await there(lambda: one.dht_provide("thing")) == 1
        found = await there(lambda: [*two.dht_find_providers("thing", count=1)])
        assert [each.peer_id for each in found] == [message.source]
        assert await there(lambda: two.dht_find_peer(message.source)) is not None

        made = await there(lambda: one.crdt_create("doc", mode="open"))
        assert (await there(lambda: two.crdt_open(made.id))).name == "doc"
        watch = two.crdt_watch(made.id, "a")
        await there(lambda: one.crdt_set(made.id, "abc", [1]))
        changed = await there(lambda: next(watch))
        assert (changed.name, unpack(changed.value)) == ("abc", [1])
        assert await there(lambda: two.crdt_get(made.id)) == {"abc": [1]}
        await there(lambda: one.crdt_set(made.id, "abc", None))
        with one.crdt_log(made.id) as entries:
            first = await there(lambda: next(each for each in entries if each.name == "abc"))
        assert (first.kind, first.is_erased) == ("register", False)
        assert await there(lambda: one.crdt_erase(made.id, [first.id.hex()])) == 1
        with one.crdt_log(made.id) as entries:
            assert await there(lambda: [each.id for each in entries if each.is_erased]) == [
                first.id
            ]
        with pytest.raises(LocalProtocolError, match="no entry here"):
            await there(lambda: one.crdt_erase(made.id, ["00" * 32]))
        young = await there(lambda: one.crdt_prune(made.id))
        assert (young.pruned, "so old" in young.why) == (0, True)
        pruned = await there(lambda: one.crdt_prune(made.id, 0.0))
        assert (pruned.pruned, pruned.why) == (1, "")
        assert (await there(lambda: next(watch))).value == b""
        watch.close()
        [listed] = await there(one.crdt_list)
        while not listed.peers:  # an exchange that has ended begins anew
            await trio.sleep(0.05)
            [listed] = await there(one.crdt_list)
        assert (listed.id, listed.open, listed.peers) == (made.id, True, 1)
        with pytest.raises(LocalProtocolError, match="mode"):
            await there(lambda: one.crdt_create("doc", mode="mine"))


async def test_what_the_configuration_names_is_served(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    served = {
        "node.publish": (tmp_path / "file", tmp_path / "missing"),
        "node.documents": ("cluster",),
        "node.expose": ("web=8000",),
        "nat.relay_server.enabled": True,
    }
    async with daemon(tmp_path, **served) as (member, client):
        logs = await there(lambda: client.logs(100))
        while "missing is not served" not in (await there(lambda: next(logs))).message:
            pass
        logs.close()
        status = await there(client.status)
        while not (status.publications and status.documents and status.documents[0].open):
            await trio.sleep(0.01)
            status = await there(client.status)
        assert [each.bytes for each in status.publications] == [1000]
        assert [(each.name, each.open) for each in status.documents] == [("cluster", True)]
        assert [(each.name, each.target) for each in status.ports] == [("web", "127.0.0.1:8000")]
        assert member.socket == tmp_path / "node.sock"
        assert (status.relay.reservations, status.relay.max_reservations) == (0, 1024)


async def test_a_second_daemon_goes_without_the_api_unless_it_is_named(tmp_path: Path) -> None:
    async with daemon(tmp_path) as (member, _):
        async with Node(config_of(tmp_path)) as second, member_of(second) as without:
            assert without.socket is None
        async with Node(config_of(tmp_path)) as brief, member_of(brief, has_key=False) as without:
            assert without.socket is None
        named = config_of(tmp_path, **{"node.socket": member.socket})
        async with Node(named) as third:
            with pytest.raises(DaemonError, match="another daemon"):
                async with member_of(third):
                    pass


async def test_calls_end_when_the_daemon_does(tmp_path: Path) -> None:
    async with Node(config_of(tmp_path)) as node:
        async with member_of(node) as member:
            assert member.socket is not None
            client = NodeClient(member.socket)
            messages = await there(lambda: client.topic_subscribe("news"))
        with pytest.raises(DaemonError):
            await there(lambda: next(messages))
        with pytest.raises(DaemonError):
            await there(client.status)
        client.close()
        with pytest.raises(DaemonError, match="no node listens"):
            NodeClient(member.socket)


def test_publishing_twice_from_threads_in_a_node_that_is_in_the_dht(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    with Lattica(config_of(tmp_path)) as node:
        first = node.publish(tmp_path / "file", announce_timeout=0)
        assert node.publish(tmp_path / "file", announce_timeout=0).cid == first.cid
        assert node.peer_id == first.peer_id
