"""Publisher and fetch joined in memory: faults of every kind, and going on after them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from lattica.content import FetchOptions, Publisher, PublisherLimits, Ticket, fetch
from lattica.content.download.obtaining import Obtaining
from lattica.content.events import FetchEvent, FetchProgress, FetchStarted, FileDone, Retrying
from lattica.content.manifest.cid import Cid
from lattica.content.protocol import (
    PROTOCOL,
    ContentClientCore,
    ContentServerCore,
    ListRequest,
    Refused,
    SpanRequest,
    encode_body_header,
)
from lattica.content.publish.catalog import Publication, make_publication
from lattica.content.publish.service import service_of
from lattica.errors import (
    ConnectionClosedError,
    ContentError,
    ContentNotFoundError,
    DialError,
    IntegrityError,
    LocalProtocolError,
    RemoteProtocolError,
    StorageError,
    UnsupportedProtocolError,
)
from tests.support.doubles.content_doubles import SERVER, MemoryNode, memory_node
from tests.support.doubles.memory_host import memory_net
from tests.support.freed import freed_at_once
from tests.support.nets.nets import settled

MIB = 1024 * 1024
QUICK = FetchOptions(window=4 * MIB, first_delay=0.01)
HASTY = replace(QUICK, stalled_after=0.2, give_up_after=0.5)


def make_tree(directory: Path, megabytes: int = 8) -> Path:
    directory.mkdir()
    rng = np.random.default_rng(5)
    (directory / "big").write_bytes(rng.bytes(megabytes * MIB + 17))
    (directory / "small").write_bytes(b"hello")
    (directory / "empty").touch()
    return directory


def assert_same(first: Path, second: Path) -> None:
    names = {p.relative_to(first) for p in first.rglob("*")}
    assert names == {p.relative_to(second) for p in second.rglob("*")}
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


async def passed(stream, count: int) -> None:
    """Wait until the provider has sent this much on a stream."""
    async with stream.incoming.changed:
        while stream.incoming.passed < count:
            await stream.incoming.changed.wait()


@pytest.mark.parametrize("limit", [1000, 256 * 1024, 64 * MIB])
async def test_fetch(tmp_path, limit):
    source = make_tree(tmp_path / "source", 3)
    events: list[FetchEvent] = []
    async with memory_node(limit) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source, "name")
        result = await fetch(node, str(ticket), tmp_path / "out", progress=events.append)
        assert not node.handler_errors
    assert_same(source, tmp_path / "out")
    assert isinstance(events[0], FetchStarted)
    assert events[0].name == result.name == "name"
    assert {e.path.name for e in events if isinstance(e, FileDone)} == {"big", "small", "empty"}
    last = events[-1]
    assert isinstance(last, FetchProgress)
    assert last.bytes_done == last.bytes_total == result.bytes_total == 3 * MIB + 22
    assert result.bytes_fetched == result.bytes_total
    assert result.paths == tuple(tmp_path / "out" / n for n in ("big", "empty", "small"))


async def test_a_fetch_that_has_ended_is_freed_at_once(tmp_path):
    """With its plan and its lists of chunks, also where a provider was lost and asked again."""
    source = make_tree(tmp_path / "source", 1)
    async with memory_net() as net:
        server, client = net.host(), net.host()

        def lose(event: FetchEvent) -> None:
            if isinstance(event, FetchStarted):
                client.drop(server.peer_id)

        async with Publisher(server) as publisher:
            ticket = await publisher.publish(source)
            with freed_at_once(Obtaining):
                for name, progress in (("plain", None), ("lost", lose)):
                    await fetch(client, ticket, tmp_path / name, progress=progress, options=QUICK)


async def test_what_is_published_no_more_is_counted_no_more(tmp_path, monkeypatch):
    """A trainer publishes for years."""
    monkeypatch.setattr("lattica.content.publish.service._COUNTED", 3)
    async with memory_node() as node, Publisher(node) as publisher:
        kept = await publisher.publish(make_tree(tmp_path / "kept", 1))
        for number in range(10):
            file = tmp_path / f"{number}"
            file.write_bytes(os.urandom(1000))
            ticket = await publisher.publish(file)
            await fetch(node, kept, tmp_path / f"kept-{number}")
            await fetch(node, ticket, tmp_path / f"out-{number}")
            publisher.unpublish(ticket)
        sent = service_of(node).bytes_sent
        assert len(sent) <= 3
        assert sent[kept.cid] == 10 * (MIB + 22)


async def test_fetch_over_real_streams_and_lost_connections(tmp_path):
    """Between two hosts, as every service sees them."""
    source = make_tree(tmp_path / "source", 8)
    retries: list[Retrying] = []
    cut: list[FetchProgress] = []
    async with memory_net() as net:
        server, client = net.host(), net.host()

        def watch(event: FetchEvent) -> None:
            if isinstance(event, Retrying):
                retries.append(event)
            elif isinstance(event, FetchProgress) and event.bytes_done and not cut:
                cut.append(event)
                client.drop(server.peer_id)

        async with Publisher(server) as publisher:
            ticket = await publisher.publish(source)
            await fetch(client, ticket, tmp_path / "out", progress=watch, options=QUICK)
        assert not server.protocols.names
    assert "cut by the test" in retries[0].error
    assert_same(source, tmp_path / "out")


async def test_second_fetch_verifies_and_fetches_nothing(tmp_path):
    source = make_tree(tmp_path / "source")
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        await fetch(node, ticket, tmp_path / "out")
        events: list[FetchEvent] = []
        again = await fetch(node, ticket, tmp_path / "out", progress=events.append)
        assert again.bytes_fetched == 0
        assert all(e.reused for e in events if isinstance(e, FileDone))
        # Damage one chunk: that one is fetched, the rest copied.
        with open(tmp_path / "out" / "big", "r+b") as file:
            file.seek(2 * MIB)
            file.write(b"damage")
        third = await fetch(node, ticket, tmp_path / "out")
        [publication] = publisher.catalog
        [big] = [file.table for file in publication.manifest.files if file.path == "big"]
        assert third.bytes_fetched == big[big.index_at(2 * MIB)].length
    assert_same(source, tmp_path / "out")


async def test_interrupted_fetch_goes_on(tmp_path):
    source = make_tree(tmp_path / "source", 16)
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        scope = trio.CancelScope()

        async def stop_half_way(stream):
            await passed(stream, 8 * MIB)
            scope.cancel()

        node.on_stream = stop_half_way
        with scope:
            await fetch(node, ticket, tmp_path / "out", options=QUICK)
        assert scope.cancelled_caught
        assert not (tmp_path / "out" / "big").exists()
        result = await fetch(node, ticket, tmp_path / "out")
        assert result.bytes_fetched < result.bytes_total
    assert_same(source, tmp_path / "out")


async def test_lost_connections_are_made_anew(tmp_path):
    source = make_tree(tmp_path / "source", 32)
    events: list[FetchEvent] = []
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        cuts = 0

        async def cut(stream):
            nonlocal cuts
            await passed(stream, 5 * MIB)
            if cuts < 3:
                cuts += 1
                await node.drop_connections()

        node.on_stream = cut
        result = await fetch(node, ticket, tmp_path / "out", progress=events.append, options=QUICK)
    assert cuts == 3
    assert sum(isinstance(e, Retrying) for e in events) == 3
    # What had been verified was not fetched again.
    assert result.bytes_fetched == result.bytes_total
    assert_same(source, tmp_path / "out")


async def test_gives_up_in_the_end_and_says_how_to_go_on(tmp_path):
    source = make_tree(tmp_path / "source")
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)

        async def cut(stream):
            if len(node.streams) > 1:
                node.connect_error = DialError(SERVER, [])
                await stream.fail(ConnectionClosedError("gone"))

        node.on_stream = cut
        with pytest.raises(ContentError, match=r"gave up after \d+ s.*goes on from there"):
            await fetch(node, ticket, tmp_path / "out", options=HASTY)


async def test_provider_that_cannot_be_reached_at_first_is_an_error_at_once(tmp_path):
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(make_tree(tmp_path / "source"))
        node.connect_error = DialError(SERVER, [])
        with pytest.raises(DialError):
            await fetch(node, ticket, tmp_path / "out")
    async with memory_node() as node:
        with pytest.raises(UnsupportedProtocolError):
            await fetch(node, ticket, tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_unknown_content(tmp_path):
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(make_tree(tmp_path / "source"))
        wrong = Ticket(Cid.of(b"other"), ticket.peer_id, ticket.addrs)
        with pytest.raises(ContentNotFoundError, match=r"does not serve bafkrei.*still running"):
            await fetch(node, wrong, tmp_path / "out")


async def test_what_is_unpublished_is_served_no_longer(tmp_path):
    source = make_tree(tmp_path / "source", 1)
    async with memory_node() as node, Publisher(node) as publisher:
        first = await publisher.publish(source)
        second = await publisher.publish(source, "another name")
        for what, ticket in ((str(first), first), (second.cid, second)):
            await fetch(node, ticket, tmp_path / "out")
            publisher.unpublish(what)
            with pytest.raises(ContentNotFoundError, match="does not serve"):
                await fetch(node, ticket, tmp_path / "out")
            with pytest.raises(ContentNotFoundError, match="is not published here"):
                publisher.unpublish(ticket)
        await publisher.publish(source)
        await fetch(node, first, tmp_path / "out")


async def test_provider_that_starts_anew_is_waited_for(tmp_path):
    source = make_tree(tmp_path / "source")
    events: list[FetchEvent] = []
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        publication = publisher.catalog.get(ticket.cid)
        assert publication is not None

        async def restart(stream):
            if len(node.streams) == 2:
                publisher.catalog.remove(ticket.cid)
                await stream.fail(ConnectionClosedError("gone"))
            elif len(node.streams) == 5:
                publisher.catalog.add(publication)

        node.on_stream = restart
        # The node is both sides: what it fetches must not take the place of what it published.
        options = replace(QUICK, share=False)
        await fetch(node, ticket, tmp_path / "out", progress=events.append, options=options)
    assert any("does not serve" in e.error for e in events if isinstance(e, Retrying))
    assert_same(source, tmp_path / "out")


async def test_changed_file_is_reported_by_both_sides(tmp_path, caplog):
    source = make_tree(tmp_path / "source")
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        (source / "big").write_bytes(b"other")
        with pytest.raises(ContentError, match=r"has changed a file.*big was changed.*new ticket"):
            await fetch(node, ticket, tmp_path / "out")
        assert "big was changed" in caplog.text
        assert not node.handler_errors


async def test_unreadable_file_is_reported(tmp_path, monkeypatch):
    source = make_tree(tmp_path / "source")
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)

        def fail(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "pread", fail)
        with pytest.raises(ContentError, match=r"cannot serve this.*Input/output error"):
            await fetch(node, ticket, tmp_path / "out")


async def test_disk_that_fills_up(tmp_path, monkeypatch):
    source = make_tree(tmp_path / "source")
    real = os.pwrite

    def full(descriptor, data, offset):
        if offset >= 4 * MIB:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="the disk is full; free some space"):
            await fetch(node, ticket, tmp_path / "out")
        monkeypatch.undo()
        result = await fetch(node, ticket, tmp_path / "out")
        assert result.bytes_fetched < result.bytes_total
    assert_same(source, tmp_path / "out")


async def test_publisher_is_used_with_async_with(tmp_path):
    async with memory_node() as node:
        with pytest.raises(LocalProtocolError):
            await Publisher(node).publish(tmp_path)


# --- providers that misbehave ---


def serve_badly(node, publication, spoil):
    """Serve one publication; `spoil` changes the bytes of the answer to a request."""

    async def handler(stream):
        core = ContentServerCore()
        while data := await stream.receive_some():
            for request in core.feed(data):
                assert not isinstance(request, ListRequest)
                if isinstance(request, SpanRequest):
                    body = publication.read_span(request.first, request.count)
                else:
                    body = publication.encoded
                answer = spoil(request, body[request.offset :])
                if answer is None:
                    await trio.sleep_forever()
                await stream.send_all(answer)

    node.handle(PROTOCOL, handler)


def whole(body: bytes) -> bytes:
    return encode_body_header(len(body)) + body


def ticket_for(publication) -> Ticket:
    return Ticket.make(publication.cid, SERVER, MemoryNode.addrs)


async def test_bad_bytes_name_the_peer_and_are_not_written(tmp_path):
    source = make_tree(tmp_path / "source")
    publication = await make_publication(source)

    def spoil(request, body):
        if isinstance(request, SpanRequest) and request.first == 5:
            body = body[:-1] + bytes((body[-1] ^ 1,))
        return whole(body)

    async with memory_node() as node:
        serve_badly(node, publication, spoil)
        with pytest.raises(IntegrityError, match=f"peer {SERVER} has sent wrong bytes for 'big'"):
            await fetch(node, ticket_for(publication), tmp_path / "out")
        assert not (tmp_path / "out" / "big").exists()
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        await fetch(node, ticket, tmp_path / "out")
    assert_same(source, tmp_path / "out")


def serve_in_parts(node, publication, *, of_manifest, always_breaks, right_rest=False):
    """Break answers off before their end, and end them wrongly on the next stream.

    Returns the offsets that were asked for, of the manifest or of chunks.
    """
    offsets: list[int] = []

    async def handler(stream):
        core = ContentServerCore()
        while data := await stream.receive_some():
            for request in core.feed(data):
                assert not isinstance(request, ListRequest)
                if isinstance(request, SpanRequest):
                    body = publication.read_span(request.first, request.count)
                else:
                    body = publication.encoded
                if isinstance(request, SpanRequest) == of_manifest:
                    await stream.send_all(whole(body))
                    continue
                offsets.append(request.offset)
                wrong = bytes(len(body))
                if request.offset:
                    rest = body if right_rest else wrong
                    await stream.send_all(whole(rest[request.offset :]))
                elif always_breaks or len(offsets) < 5:
                    head = encode_body_header(len(body))
                    await stream.send_all(head + wrong[: len(body) * 9 // 10])
                    while stream.outgoing.data:
                        await trio.sleep(0.001)
                    return  # what comes now is an early end
                else:
                    await stream.send_all(whole(wrong))

    node.handle(PROTOCOL, handler)
    return offsets


@pytest.mark.parametrize("of_manifest", [False, True])
@pytest.mark.parametrize("right_rest", [False, True])
async def test_parts_that_are_wrong_together_twice_have_to_come_on_one_stream(
    tmp_path, of_manifest, right_rest
):
    """A provider cannot go on for ever breaking off what it then ends wrongly."""
    source = tmp_path / "one"
    source.write_bytes(np.random.default_rng(6).bytes(MIB))
    publication = await make_publication(source)
    async with memory_node() as node:
        offsets = serve_in_parts(
            node, publication, of_manifest=of_manifest, always_breaks=False, right_rest=right_rest
        )
        with pytest.raises(IntegrityError, match=f"peer {SERVER} has sent"):
            await fetch(node, ticket_for(publication), tmp_path / "out", options=QUICK)
    # Begun, ended, twice; and then it is asked for as a whole.
    assert [bool(offset) for offset in offsets] == [False, True, False, True, False]


@pytest.mark.parametrize("of_manifest", [False, True])
async def test_unverified_bytes_are_no_progress(tmp_path, of_manifest, mock_clock):
    mock_clock.rate = 1.0  # files are read in threads
    source = tmp_path / "one"
    source.write_bytes(np.random.default_rng(6).bytes(MIB))
    publication = await make_publication(source)
    options = replace(QUICK, give_up_after=1000.0)

    async with memory_node() as node, trio.open_nursery() as nursery:
        offsets = serve_in_parts(node, publication, of_manifest=of_manifest, always_breaks=True)

        async def let_time_pass() -> None:
            await settled(lambda: len(offsets) > 5)
            mock_clock.jump(options.give_up_after)

        nursery.start_soon(let_time_pass)
        with pytest.raises(IntegrityError, match=f"peer {SERVER} has sent bytes that are wrong"):
            await fetch(node, ticket_for(publication), tmp_path / "out", options=options)
    assert sum(map(bool, offsets)) == 2
    assert not any(offsets[4:])


async def test_manifest_that_is_not_the_one_asked_for(tmp_path):
    publication = await make_publication(make_tree(tmp_path / "source"))
    other = publication.encoded.replace(b"small", b"smell")
    async with memory_node() as node:
        serve_badly(node, publication, lambda request, body: whole(other))
        with pytest.raises(IntegrityError, match="manifest that is not bafkrei"):
            await fetch(node, ticket_for(publication), tmp_path / "out")


async def test_manifest_that_is_no_manifest(tmp_path):
    publication = await make_publication(make_tree(tmp_path / "source"))
    other = b"garbage"
    ticket = Ticket(Cid.of(other), SERVER, ticket_for(publication).addrs)
    async with memory_node() as node:
        serve_badly(node, publication, lambda request, body: whole(other))
        with pytest.raises(RemoteProtocolError, match="damaged manifest"):
            await fetch(node, ticket, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "answer",
    [b"\xff" * 100, encode_body_header(1 << 40), b"\x00", encode_body_header(0)],
    ids=["varint", "huge", "empty", "zero"],
)
async def test_garbage_answers(tmp_path, answer):
    publication = await make_publication(make_tree(tmp_path / "source"))
    async with memory_node() as node:
        serve_badly(node, publication, lambda request, body: answer)
        with pytest.raises(RemoteProtocolError):
            await fetch(node, ticket_for(publication), tmp_path / "out")


async def test_provider_that_stalls_is_left_and_tried_again(tmp_path):
    source = make_tree(tmp_path / "source")
    publication = await make_publication(source)
    stalled: list[SpanRequest] = []

    def spoil(request, body):
        if isinstance(request, SpanRequest) and request.first == 3 and len(stalled) < 2:
            stalled.append(request)
            return None
        return whole(body)

    events: list[FetchEvent] = []
    async with memory_node() as node:
        serve_badly(node, publication, spoil)
        await fetch(
            node,
            ticket_for(publication),
            tmp_path / "out",
            progress=events.append,
            options=replace(QUICK, stalled_after=1.0),
        )
    stalls = [e.error for e in events if isinstance(e, Retrying)]
    assert stalls[:2] == [f"peer {SERVER} has sent nothing for 1 s"] * 2
    assert_same(source, tmp_path / "out")


async def test_provider_that_ends_the_stream_early(tmp_path):
    source = make_tree(tmp_path / "source")
    publication = await make_publication(source)
    ended = []

    async with memory_node() as node:
        serve_badly(node, publication, lambda request, body: whole(body))
        serve = node.handlers[PROTOCOL]

        async def handler(stream):
            if len(node.streams) == 2:
                ended.append(True)
                [request] = ContentServerCore().feed(await stream.receive_some())
                assert isinstance(request, SpanRequest)
                chunks = publication.read_span(request.first, request.count)
                await stream.send_all(encode_body_header(len(chunks)) + b"x" * 100)
                return
            await serve(stream)

        node.handle(PROTOCOL, handler)
        await fetch(node, ticket_for(publication), tmp_path / "out", options=QUICK)
    assert ended
    assert_same(source, tmp_path / "out")


# --- clients that misbehave ---


async def test_bad_clients_lose_their_stream_and_others_go_on(tmp_path):
    source = make_tree(tmp_path / "source")
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        for data in (
            b"\xff" * 20,
            b"\x05hello",
            ContentClientCore().request_span(ticket.cid, 900, 1, 1),
        ):
            stream = await node.open_stream(SERVER, PROTOCOL)
            await stream.send_all(data)
            with pytest.raises((ConnectionClosedError, OSError)):
                await stream.receive_some()
        assert len(node.handler_errors) == 3
        assert all(isinstance(e, RemoteProtocolError) for e in node.handler_errors)
        await fetch(node, ticket, tmp_path / "out")
    assert_same(source, tmp_path / "out")


async def test_clients_that_stall_cost_little_and_are_left(tmp_path, mock_clock):
    mock_clock.rate = 1.0  # files are read in threads
    source = make_tree(tmp_path / "source")
    limits = PublisherLimits(max_streams=4, stalled_after=1000.0)
    reads: list[int] = []
    async with memory_node() as node, Publisher(node, limits) as publisher:
        ticket = await publisher.publish(source)
        real = Publication.read_span

        def counting(self, first, count):
            reads.append(first)
            return real(self, first, count)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Publication, "read_span", counting)
            greedy = []
            for _ in range(4):
                stream = await node.open_stream(SERVER, PROTOCOL)
                core = ContentClientCore()
                for number in range(8):
                    await stream.send_all(core.request_span(ticket.cid, number, 1, MIB))
                greedy.append(stream)
            while len(reads) < 8:
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked()
            assert len(reads) == 8  # one being sent and one read ahead, for each
            # Nobody else is served, and is told to come back.
            stream = await node.open_stream(SERVER, PROTOCOL)
            core = ContentClientCore()
            await stream.send_all(core.request_manifest(ticket.cid))
            (answer,) = core.feed(await stream.receive_some())
            assert isinstance(answer, Refused)
            assert answer.code.name == "BUSY"
        # A polite one comes back when the greedy ones have been thrown out.
        mock_clock.jump(limits.stalled_after)
        await fetch(node, ticket, tmp_path / "out", options=QUICK)
        assert len(node.handler_errors) == 4
    assert_same(source, tmp_path / "out")


async def test_idle_client_is_let_go(tmp_path):
    limits = PublisherLimits(idle_after=0.05)
    async with memory_node() as node, Publisher(node, limits):
        stream = await node.open_stream(SERVER, PROTOCOL)
        assert await stream.receive_some() == b""
        assert not node.handler_errors


async def test_directories_are_synced_once_each_while_the_journal_is_there(tmp_path, monkeypatch):
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "a" / "b").mkdir(parents=True)
    for number in range(12):
        (source / "a" / "b" / f"{number}").write_bytes(bytes([number]))
        (source / f"{number}").write_bytes(bytes([number]))
    synced: list[int] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            synced.append(os.fstat(descriptor).st_ino)
            assert list(out.glob(".lattica-*/journal"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    async with memory_node() as node, Publisher(node) as publisher:
        await fetch(node, await publisher.publish(source), out)
    places = (out, out / "a", out / "a" / "b")
    assert sorted(synced) == sorted(place.stat().st_ino for place in places)
    assert not list(out.glob(".lattica-*/journal"))
    assert (out / "a" / "b" / "7").read_bytes() == bytes([7])


async def test_several_at_once(tmp_path):
    source = make_tree(tmp_path / "source", 4)
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(fetch, node, ticket, tmp_path / f"out{number}")
    for number in range(6):
        assert_same(source, tmp_path / f"out{number}")
