"""Several peers that fetch the same: hosts in memory, real streams, real files."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio

from lattica.content import FetchOptions, FetchResult, Publisher, PublisherLimits, Sharing, fetch
from lattica.content.download import obtaining
from lattica.content.events import FetchProgress
from lattica.content.manifest.cid import Cid
from lattica.content.protocol import (
    PROTOCOL,
    ContentServerCore,
    ListRequest,
    ManifestRequest,
    Refusal,
    encode_body_header,
    encode_refusal,
)
from lattica.content.publish.catalog import Publication, make_publication
from lattica.content.publish.service import service_of
from lattica.content.swarm import schedule
from lattica.content.swarm import source as source_module
from lattica.content.swarm.messages import (
    HOLDINGS,
    MAX_HELLO,
    Has,
    Member,
    Members,
    decode_hello,
    encode_message,
)
from lattica.content.ticket import Ticket
from lattica.errors import (
    ConfigError,
    ContentError,
    ContentNotFoundError,
    IntegrityError,
    LatticaError,
    LocalProtocolError,
)
from tests.support.doubles.memory_host import MemoryHost, memory_net

MIB = 1024 * 1024
QUICK = FetchOptions(first_delay=0.01)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    """Nobody in memory needs long to speak."""
    monkeypatch.setattr(obtaining, "_LOOK", 0.05)
    monkeypatch.setattr(obtaining, "_STUCK_AFTER", 0.2)
    # They have no loopback on which they were met.
    monkeypatch.setattr(obtaining, "believed", lambda node, teller, peer, addrs: addrs)


def make_file(path: Path, pieces: int) -> Path:
    path.write_bytes(np.random.default_rng(7).bytes(pieces * MIB - 11))
    return path


@asynccontextmanager
async def serving(host: MemoryHost, publication: Publication, spoil=None, bits: int | None = None):
    """Say that there is everything (or `bits`), and send chunks that `spoil` has changed."""

    async def chunks(stream) -> None:
        core = ContentServerCore()
        while data := await stream.receive_some():
            for request in core.feed(data):
                assert not isinstance(request, ListRequest)
                if isinstance(request, ManifestRequest):
                    body = publication.encoded
                else:
                    body = publication.read_span(request.first, request.count)
                    if spoil is not None:
                        body = await spoil(body)
                await stream.send_all(encode_body_header(len(body)) + body)

    async def holdings(stream) -> None:
        decode_hello(await stream.receive_message(MAX_HELLO))
        await stream.send_message(encode_message(Has(publication.chunk_count, bits)))
        await trio.sleep_forever()

    host.handle(PROTOCOL, chunks, owner="test")
    host.handle(HOLDINGS, holdings, owner="test")
    yield


@pytest.mark.parametrize("limits", [PublisherLimits(), PublisherLimits(rate=8 * MIB)])
async def test_several_at_once_help_each_other(tmp_path, limits, monkeypatch):
    """Nobody gets anything before all are there: who comes late to a fast source helps nobody."""
    all_there = threading.Event()
    read_span = Publication.read_span

    def read(publication, first, count):
        assert all_there.wait(60)
        return read_span(publication, first, count)

    monkeypatch.setattr(Publication, "read_span", read)
    source = make_file(tmp_path / "file", 24)
    results: list[FetchResult] = []
    async with memory_net() as net:
        origin = net.host()
        async with Publisher(origin, limits) as publisher:
            ticket = await publisher.publish(source)

            async def get(number: int) -> None:
                out = tmp_path / f"out{number}"
                results.append(await fetch(net.host(), ticket, out, options=QUICK))

            service = publisher._service
            assert service is not None
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(get, number)
                while len(service._members.get(ticket.cid, ())) < 4:
                    await trio.sleep(0.01)
                all_there.set()
            sent = service.bytes_sent[ticket.cid]
    for number in range(4):
        assert (tmp_path / f"out{number}" / "file").read_bytes() == source.read_bytes()
    shared = sum(result.bytes_shared for result in results)
    assert sent + shared >= 4 * source.stat().st_size
    assert shared > source.stat().st_size  # in the worst case, with a fast source
    if limits.rate < 1e9:
        assert sent <= 1.5 * source.stat().st_size
        assert all(len(result.sources) > 1 for result in results)
    for result in results:
        counts = [one.bytes_fetched for one in result.sources]
        assert sum(counts) == result.bytes_fetched == source.stat().st_size
        assert counts == sorted(counts, reverse=True)


async def test_what_has_a_rate_of_its_own_waits_and_the_rest_does_not(tmp_path):
    slow, other = make_file(tmp_path / "slow", 3), make_file(tmp_path / "other", 4)
    async with memory_net() as net:
        origin = net.host()
        async with Publisher(origin) as publisher:
            ticket = await publisher.publish(slow, rate=1000.0)  # a piece a minute
            with pytest.raises(ConfigError, match="rate"):
                await publisher.publish(other, rate=0.0)
            ended = False

            async def get() -> None:
                nonlocal ended
                await fetch(net.host(), ticket, tmp_path / "out", options=QUICK)
                ended = True

            async with trio.open_nursery() as nursery:
                nursery.start_soon(get)
                while not origin.connections:
                    await trio.sleep(0.01)
                there = await publisher.publish(other)
                await fetch(net.host(), there, tmp_path / "out", options=QUICK)
                assert not ended
                nursery.cancel_scope.cancel()
            await publisher.publish(slow)  # what was said last
            await fetch(net.host(), ticket, tmp_path / "out", options=QUICK)
    assert (tmp_path / "out" / "slow").read_bytes() == slow.read_bytes()


async def test_who_does_not_share_is_not_told_to_others(tmp_path):
    source = make_file(tmp_path / "file", 3)
    async with memory_net() as net:
        origin, first, second = net.host(), net.host(), net.host()
        async with Publisher(origin, PublisherLimits(rate=4 * MIB)) as publisher:
            ticket = await publisher.publish(source)
            async with trio.open_nursery() as nursery:
                for host, share in ((first, False), (second, True)):
                    get = partial(fetch, options=replace(QUICK, share=share))
                    nursery.start_soon(get, host, ticket, tmp_path / str(share))
    assert second.peer_id not in first.connections
    assert first.peer_id not in second.connections


async def test_a_fetch_goes_on_with_those_who_have_it_when_the_first_is_gone(tmp_path):
    source = make_file(tmp_path / "file", 12)
    async with memory_net() as net:
        origin, mirror, client = net.host(), net.host(), net.host()
        publisher = Publisher(origin, PublisherLimits(rate=16 * MIB))
        async with publisher, Publisher(mirror) as other:
            ticket = await publisher.publish(source)
            await other.publish(source)
            await client.connect(mirror.peer_id)
            out = tmp_path / "out"

            def leave(event) -> None:
                if isinstance(event, FetchProgress) and event.bytes_done:
                    origin.is_reachable = False
                    if origin.peer_id in client.connections:
                        client.drop(origin.peer_id)

            with trio.fail_after(60):
                result = await fetch(client, ticket, out, progress=leave, options=QUICK)
        assert (out / "file").read_bytes() == source.read_bytes()
        assert result.sources[0].peer_id == mirror.peer_id


async def test_by_content_id_from_whoever_is_connected(tmp_path):
    source = make_file(tmp_path / "file", 2)
    async with memory_net() as net:
        origin, stranger, client = net.host(), net.host(), net.host()
        async with Publisher(origin) as publisher:
            ticket = await publisher.publish(source)
            await client.connect(stranger.peer_id)
            with pytest.raises(ContentNotFoundError, match="nobody is known who serves bafkrei"):
                await fetch(client, ticket.cid, tmp_path / "out", options=QUICK)
            await client.connect(origin.peer_id)
            await fetch(client, str(ticket.cid), tmp_path / "out", options=QUICK)
    assert (tmp_path / "out" / "file").read_bytes() == source.read_bytes()


async def test_providers_that_a_finder_knows(tmp_path):
    source = make_file(tmp_path / "file", 2)
    asked: list[Cid] = []
    async with memory_net() as net:
        origin, client = net.host(), net.host()

        class Finder:
            async def find_providers(self, cid: Cid, /) -> list[Member]:
                asked.append(cid)
                return [Member(net.host().peer_id, ()), Member(origin.peer_id, ())]

            async def provide(self, cid: Cid, /) -> None:
                raise AssertionError("nothing is published here")

        async with Publisher(origin) as publisher:
            ticket = await publisher.publish(source)
            out = tmp_path / "out"
            await fetch(client, ticket.cid, out, options=QUICK, finder=Finder())
    assert asked[0] == ticket.cid
    assert (out / "file").read_bytes() == source.read_bytes()


async def test_a_peer_of_wrong_bytes_is_asked_no_more_and_the_others_bring_all(tmp_path):
    source = make_file(tmp_path / "file", 16)
    publication = await make_publication(source)
    spoiled = 0

    async def spoil(body: bytes) -> bytes:
        nonlocal spoiled
        spoiled += 1
        return bytes(len(body))

    async with memory_net() as net:
        origin, liar, client = net.host(), net.host(), net.host()
        async with Publisher(origin, PublisherLimits(rate=16 * MIB)) as publisher:
            ticket = await publisher.publish(source)
            async with serving(liar, publication, spoil):
                await client.connect(liar.peer_id)
                with trio.fail_after(60):
                    result = await fetch(client, ticket, tmp_path / "out", options=QUICK)
    assert 1 <= spoiled <= 4
    assert [one.peer_id for one in result.sources] == [origin.peer_id]
    assert (tmp_path / "out" / "file").read_bytes() == source.read_bytes()


async def test_when_the_only_one_left_lies_the_fetch_fails_by_that(tmp_path):
    source = make_file(tmp_path / "file", 4)
    publication = await make_publication(source)

    async def spoil(body: bytes) -> bytes:
        return bytes(len(body))

    async with memory_net() as net:
        origin, poor, client = net.host(), net.host(), net.host()
        async with serving(origin, publication, spoil), serving(poor, publication, bits=0b1):
            await client.connect(poor.peer_id)
            ticket = Publisher(origin).ticket(publication.cid)
            with (
                trio.fail_after(60),
                pytest.raises(IntegrityError, match=f"{origin.peer_id} has sent wrong bytes"),
            ):
                await fetch(client, ticket, tmp_path / "out", options=QUICK)


@pytest.mark.parametrize("trickles", [False, True])
async def test_a_peer_that_sends_nothing_or_next_to_nothing_holds_nothing_up(
    tmp_path, trickles, monkeypatch
):
    monkeypatch.setattr(schedule, "SILENT_AFTER", 0.3)
    for module in (schedule, source_module):
        monkeypatch.setattr(module, "QUIET", 0.2)
    source = make_file(tmp_path / "file", 8)
    publication = await make_publication(source)
    begun = trio.Event()

    async with memory_net() as net:
        origin, lazy, client = net.host(), net.host(), net.host()

        async def chunks(stream) -> None:
            core = ContentServerCore()
            while data := await stream.receive_some():
                for _ in core.feed(data):
                    begun.set()
                    await stream.send_all(encode_body_header(MIB))
                    while trickles:
                        await stream.send_all(b"!")
                        await trio.sleep(0.02)
                    await trio.sleep_forever()

        async with Publisher(origin, PublisherLimits(rate=8 * MIB)) as publisher:
            ticket = await publisher.publish(source)
            async with serving(lazy, publication):
                lazy.handle(PROTOCOL, chunks, owner="test", replace=True)
                await client.connect(lazy.peer_id)
                with trio.fail_after(60):
                    await fetch(client, ticket, tmp_path / "out", options=QUICK)
    assert begun.is_set()
    assert (tmp_path / "out" / "file").read_bytes() == source.read_bytes()


async def test_a_peer_that_says_again_and_again_that_it_has_it_is_asked_no_more(tmp_path):
    source = make_file(tmp_path / "file", 2)
    publication = await make_publication(source)
    everything = encode_message(Has(publication.chunk_count, None))
    asked, refused = trio.open_memory_channel[None](1)

    async def chunks(stream) -> None:
        core = ContentServerCore()
        while data := await stream.receive_some():
            for request in core.feed(data):
                if isinstance(request, ManifestRequest):
                    body = publication.encoded
                    await stream.send_all(encode_body_header(len(body)) + body)
                else:
                    await stream.send_all(encode_refusal(Refusal.MISSING, "not any more"))
                    await asked.send(None)

    async def holdings(stream) -> None:
        await stream.receive_message(MAX_HELLO)
        await stream.send_message(everything)
        async for _ in refused:
            await stream.send_message(everything)

    async with memory_net() as net:
        liar, client = net.host(), net.host()
        liar.handle(PROTOCOL, chunks, owner="test")
        liar.handle(HOLDINGS, holdings, owner="test")
        ticket = Ticket.make(publication.cid, liar.peer_id, ())
        with trio.fail_after(60), pytest.raises(ContentError, match="does not send"):
            await fetch(client, ticket, tmp_path / "out", options=QUICK)


async def test_a_peer_that_speaks_nonsense_about_what_it_has_is_asked_no_more(tmp_path):
    source = make_file(tmp_path / "file", 4)
    publication = await make_publication(source)
    async with memory_net() as net:
        origin, odd, client = net.host(), net.host(), net.host()

        async def holdings(stream) -> None:
            await stream.receive_message(MAX_HELLO)
            await stream.send_message(encode_message(Has(3, None)))
            await trio.sleep_forever()

        async with Publisher(origin, PublisherLimits(rate=8 * MIB)) as publisher:
            ticket = await publisher.publish(source)
            async with serving(odd, publication):
                odd.handle(HOLDINGS, holdings, owner="test", replace=True)
                await client.connect(odd.peer_id)
                result = await fetch(client, ticket, tmp_path / "out", options=QUICK)
    assert [one.peer_id for one in result.sources] == [origin.peer_id]


async def test_members_that_nobody_can_reach_hold_nothing_up(tmp_path):
    source = make_file(tmp_path / "file", 4)
    publication = await make_publication(source)
    async with memory_net() as net:
        origin, client = net.host(), net.host()
        gone = [net.host() for _ in range(20)]
        for host in gone:
            host.is_reachable = False

        async def holdings(stream) -> None:
            await stream.receive_message(MAX_HELLO)
            await stream.send_message(encode_message(Has(publication.chunk_count, None)))
            members = Members(tuple(Member(host.peer_id, ()) for host in gone))
            await stream.send_message(encode_message(members))
            await trio.sleep_forever()

        async with serving(origin, publication):
            origin.handle(HOLDINGS, holdings, owner="test", replace=True)
            ticket = Publisher(origin).ticket(publication.cid)
            with trio.fail_after(60):
                await fetch(client, ticket, tmp_path / "out", options=QUICK)
    assert (tmp_path / "out" / "file").read_bytes() == source.read_bytes()


async def test_what_was_fetched_is_served_on_for_a_while(tmp_path):
    source = make_file(tmp_path / "file", 3)
    async with memory_net() as net:
        origin, first, second = net.host(), net.host(), net.host()
        shared = trio.Event()

        def watch(event) -> None:
            if isinstance(event, Sharing):
                assert event.seconds == 1e6
                shared.set()

        async with trio.open_nursery() as nursery:
            async with Publisher(origin) as publisher:
                ticket = await publisher.publish(source)
                options = replace(QUICK, share_for=1e6)
                nursery.start_soon(
                    lambda: fetch(first, ticket, tmp_path / "1", progress=watch, options=options)
                )
                await shared.wait()
            await second.connect(first.peer_id)
            result = await fetch(second, ticket.cid, tmp_path / "2", options=QUICK)
            nursery.cancel_scope.cancel()
        # What others have done to the file meanwhile is not sent as it is.
        assert [one.peer_id for one in result.sources] == [first.peer_id]
    assert (tmp_path / "2" / "file").read_bytes() == source.read_bytes()


async def test_a_file_that_changes_while_it_is_shared_is_not_sent(tmp_path):
    source = make_file(tmp_path / "file", 3)
    async with memory_net() as net:
        origin, first, second = net.host(), net.host(), net.host()
        shared = trio.Event()
        async with trio.open_nursery() as nursery:
            async with Publisher(origin) as publisher:
                ticket = await publisher.publish(source)
                options = replace(QUICK, share_for=1e6)
                nursery.start_soon(
                    lambda: fetch(
                        first,
                        ticket,
                        tmp_path / "1",
                        progress=lambda event: isinstance(event, Sharing) and shared.set(),
                        options=options,
                    )
                )
                await shared.wait()
            (tmp_path / "1" / "file").write_bytes(bytes(source.stat().st_size))
            await second.connect(first.peer_id)
            with pytest.raises(ContentError, match="nobody has what is missing"):
                await fetch(
                    second, ticket.cid, tmp_path / "2", options=replace(QUICK, give_up_after=0.3)
                )
            nursery.cancel_scope.cancel()


async def test_rates_are_kept(tmp_path):
    source = make_file(tmp_path / "file", 2)
    async with memory_net() as net:
        origin = net.host()
        async with Publisher(origin) as publisher:
            ticket = await publisher.publish(source)
            options = replace(QUICK, rate=4 * MIB)
            result = await fetch(net.host(), ticket, tmp_path / "out", options=options)
    assert result.seconds >= 0.3  # of the 0.5 that it takes without the burst


async def test_one_node_has_one_publisher_and_any_number_of_fetches(tmp_path):
    source = make_file(tmp_path / "file", 1)
    async with memory_net() as net:
        origin, other = net.host(), net.host()
        async with Publisher(origin) as publisher, Publisher(other) as second:
            with pytest.raises(LocalProtocolError, match="has a Publisher"):
                async with Publisher(other):
                    pass
            ticket = await publisher.publish(source)
            for name in ("a", "b"):
                await fetch(other, ticket, tmp_path / name, options=QUICK)
            again = await second.publish(source)
            assert again.cid == ticket.cid
        assert not other.protocols.names
        other.handle(PROTOCOL, lambda stream: trio.sleep_forever(), owner="the application")
        async with Publisher(origin) as publisher:
            await publisher.publish(source)
            await fetch(other, ticket, tmp_path / "c", options=QUICK)
        with pytest.raises(LatticaError, match="the application"):
            async with Publisher(other):
                pass


async def test_who_has_everything_stays_while_others_need_it_and_not_where_nobody_does(tmp_path):
    """What only it had would have to come from the source again."""
    source = make_file(tmp_path / "file", 4)
    async with memory_net() as net:
        origin, first, second = net.host(), net.host(), net.host()
        async with Publisher(origin, PublisherLimits(rate=8 * MIB)) as publisher:
            ticket = await publisher.publish(source)
            stayed: list[Sharing] = []

            def watch(event) -> None:
                if isinstance(event, Sharing):
                    stayed.append(event)

            await fetch(first, ticket, tmp_path / "alone", progress=watch, options=QUICK)
            assert stayed == []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    lambda: fetch(second, ticket, tmp_path / "2", options=replace(QUICK, rate=MIB))
                )
                while not service_of(origin).is_watched(ticket.cid):
                    await trio.sleep(0.01)
                result = await fetch(first, ticket, tmp_path / "1", progress=watch, options=QUICK)
            assert len(stayed) == 1
            assert 0 < stayed[0].seconds <= 0.5 * result.seconds + 0.1
            stayed.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    lambda: fetch(second, ticket, tmp_path / "4", options=replace(QUICK, rate=MIB))
                )
                options = replace(QUICK, lingers=False)
                await fetch(first, ticket, tmp_path / "3", progress=watch, options=options)
                nursery.cancel_scope.cancel()
            assert stayed == []
