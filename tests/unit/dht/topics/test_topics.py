"""Topics on hosts in memory: streams, queues, backpressure, validators and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio

from lattica.dht.topics.config import TopicsConfig
from lattica.dht.topics.core.actions import Action, Connect, Subscribed, Unsubscribed
from lattica.dht.topics.core.router import Verdict
from lattica.dht.topics.messages import (
    GOSSIPSUB_11,
    GOSSIPSUB_12,
    encode_publish,
    encode_subscriptions,
    is_lone_message,
)
from lattica.dht.topics.service import topics as service
from lattica.dht.topics.service.records import PeerRecords
from lattica.dht.topics.service.topics import Topics
from lattica.errors import LocalProtocolError, RemoteProtocolError, StreamResetError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import Buffer, LengthPrefixed, encode_length_prefixed
from lattica.nat.swarm.events import PathChanged
from tests.support.clock import Passes
from tests.support.doubles.memory_host import MemoryHost, MemoryNet, memory_net
from tests.support.pairs.connected import quiet

TOPIC = "news"


@dataclass
class Peer:
    host: MemoryHost
    topics: Topics


@asynccontextmanager
async def peers(
    count: int, config: TopicsConfig | None = None
) -> AsyncIterator[tuple[MemoryNet, list[Peer]]]:
    async with memory_net() as net, trio.open_nursery() as nursery:
        made = []
        for _ in range(count):
            host = net.host()
            made.append(Peer(host, Topics(host, nursery, config, sign=host.identity.sign)))
        yield net, made
        for peer in made:
            await peer.topics.aclose()
        nursery.cancel_scope.cancel()


async def test_messages_come_to_subscribers_with_their_author(autojump_clock):
    async with peers(3) as (net, (one, two, three)):
        net.link(one.host, two.host)
        net.link(two.host, three.host)
        async with (
            two.topics.topic(TOPIC).subscribe() as at_two,
            three.topics.topic(TOPIC).subscribe() as at_three,
        ):
            topic = one.topics.topic(TOPIC)
            await topic.wait_peers()
            await two.topics.topic(TOPIC).wait_peers()
            assert await topic.publish(b"hello") == 1
            for messages in (at_two, at_three):
                message = await anext(messages)
                assert (message.data, message.source) == (b"hello", one.host.peer_id)
                assert message.topic == TOPIC


async def test_a_topic_that_is_asked_for_later_than_the_connection_works(autojump_clock):
    async with memory_net() as net, trio.open_nursery() as nursery:
        one, two = net.host(), net.host()
        first = Topics(one, nursery, sign=one.identity.sign)
        net.link(one, two)
        await trio.sleep(5)  # it has been told that the other does not speak the protocol
        second = Topics(two, nursery, sign=two.identity.sign)
        async with second.topic(TOPIC).subscribe() as messages:
            await first.topic(TOPIC).wait_peers()
            await first.topic(TOPIC).publish(b"x")
            assert (await anext(messages)).data == b"x"
        await first.aclose()
        await second.aclose()


async def test_what_was_published_goes_before_the_end_though_the_stream_is_slow_to_open(
    autojump_clock, monkeypatch
):
    """A peer may subscribe by its own stream long before there is one to it."""
    async with peers(2) as (net, (one, two)):
        opening = one.host.open_stream

        async def slowly(*args):
            await trio.sleep(0.5)
            return await opening(*args)

        monkeypatch.setattr(one.host, "open_stream", slowly)
        async with two.topics.topic(TOPIC).subscribe() as messages:
            net.link(one.host, two.host)
            await one.topics.topic(TOPIC).wait_peers()
            assert await one.topics.topic(TOPIC).publish(b"last words") == 1
            await one.topics.aclose()
            with trio.fail_after(5):
                assert (await anext(messages)).data == b"last words"


async def test_neighbours_come_and_go_as_events(autojump_clock):
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        with one.topics.topic(TOPIC).neighbours() as events:
            async with two.topics.topic(TOPIC).subscribe():
                assert await anext(events) == Subscribed(TOPIC, two.host.peer_id)
            assert await anext(events) == Unsubscribed(TOPIC, two.host.peer_id)
            async with two.topics.topic(TOPIC).subscribe():
                await anext(events)
                one.host.drop(two.host.peer_id)
                assert await anext(events) == Unsubscribed(TOPIC, two.host.peer_id)


async def test_what_was_missed_while_disconnected_comes_after_it(autojump_clock):
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        topic = one.topics.topic(TOPIC)
        async with two.topics.topic(TOPIC).subscribe() as messages:
            await topic.wait_peers()
            await topic.publish(b"1")
            assert (await anext(messages)).data == b"1"
            one.host.drop(two.host.peer_id)
            with topic.neighbours() as events:
                async for event in events:
                    if isinstance(event, Unsubscribed):
                        break
            assert await topic.publish(b"2") == 0
            net.link(two.host, one.host)
            assert (await anext(messages)).data == b"2"


async def test_a_slow_subscriber_holds_its_peers_up_and_then_loses(autojump_clock):
    config = replace(TopicsConfig(), queue=10, outbox=10_000, stuck_after=3600.0)
    async with peers(2, config) as (net, (one, two)):
        net.link(one.host, two.host)
        topic = one.topics.topic(TOPIC)
        async with two.topics.topic(TOPIC).subscribe() as messages:
            await topic.wait_peers()
            published = 0
            with trio.move_on_after(0.5):
                while True:
                    await topic.publish(bytes(1000))
                    published += 1
            # Held up by flow control: windows and buffers are full, and nothing is lost.
            assert published < 2000
            assert messages.lost == 0
            await trio.sleep(2)
            assert messages.lagging
            for _ in range(1000):
                await topic.publish(bytes(1000))
            await trio.sleep(1)
            assert messages.lost > 0
            got = 0
            with trio.move_on_after(1):
                while True:
                    await anext(messages)
                    got += 1
            assert got + messages.lost == published + 1000
            await topic.publish(b"and on")
            assert (await anext(messages)).data == b"and on"


async def test_a_peer_that_takes_nothing_does_not_hold_up_a_publisher_for_long(autojump_clock):
    """And what it did not get it is told of when it goes on."""
    config = replace(TopicsConfig(), outbox=10_000, lagging_after=3600.0, queue=10)
    async with peers(3, config) as (net, (one, slow, fast)):
        net.link(one.host, slow.host)
        net.link(one.host, fast.host)
        topic = one.topics.topic(TOPIC)
        got: list[bytes] = []

        async def take(messages) -> None:
            async for message in messages:
                got.append(message.data)

        async with (
            slow.topics.topic(TOPIC).subscribe() as at_slow,
            fast.topics.topic(TOPIC).subscribe() as at_fast,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(take, at_fast)
            await topic.wait_peers(2)
            said = [number.to_bytes(4, "big") + bytes(3000) for number in range(1000)]
            for data in said:
                await topic.publish(data)
            await trio.sleep(1)
            assert got == said
            heard = set()
            with trio.move_on_after(30):
                async for message in at_slow:
                    heard.add(message.data)
            assert heard == set(said)
            nursery.cancel_scope.cancel()


async def test_a_peer_to_which_the_stream_is_being_opened_is_waited_for(
    autojump_clock, monkeypatch
):
    """It takes nothing yet, and so it does not miss what others are told meanwhile."""
    async with peers(3, replace(TopicsConfig(), outbox=10_000)) as (net, (one, late, other)):
        open_stream = one.host.open_stream

        async def open_late(peer, protocols):
            if peer == late.host.peer_id:
                await trio.sleep(one.topics.config.stuck_after / 2)
            return await open_stream(peer, protocols)

        monkeypatch.setattr(one.host, "open_stream", open_late)
        net.link(one.host, late.host)
        net.link(one.host, other.host)
        topic = one.topics.topic(TOPIC)
        async with (
            late.topics.topic(TOPIC).subscribe() as at_late,
            other.topics.topic(TOPIC).subscribe() as at_other,
        ):
            await topic.wait_peers(2)
            said = [number.to_bytes(4, "big") + bytes(3000) for number in range(50)]
            for data in said:
                await topic.publish(data)
            for messages in (at_late, at_other):
                assert [(await anext(messages)).data for _ in said] == said


@pytest.mark.parametrize("wait", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize("verdict", [True, False, Verdict.IGNORE, "nonsense", None])
async def test_validators_decide(autojump_clock, wait, verdict):
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        topic = two.topics.topic(TOPIC)

        async def judge_later(message):
            await trio.sleep(1)
            return verdict

        topic.set_validator(judge_later if wait else lambda message: verdict)
        async with topic.subscribe() as messages:
            await one.topics.topic(TOPIC).wait_peers()
            await one.topics.topic(TOPIC).publish(b"x")
            with trio.move_on_after(5) as scope:
                await anext(messages)
            assert scope.cancelled_caught is (verdict is not True)


@pytest.mark.parametrize("wait", [False, True], ids=["plain", "async"])
async def test_several_judge_and_each_takes_away_only_its_own(autojump_clock, wait):
    """What is to pass has to pass all of them; whoever ends leaves the others in their place."""
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        topic = two.topics.topic(TOPIC)

        def lacks(part: bytes):
            def judge(message):
                return Verdict.IGNORE if part in message.data else Verdict.ACCEPT

            async def judge_later(message):
                await trio.sleep(1)
                return judge(message)

            return judge_later if wait else judge

        async def heard(messages, *said: bytes) -> set[bytes]:
            for data in said:
                await one.topics.topic(TOPIC).publish(data)
            await trio.sleep(5)
            return {message.data for message in messages.take_waiting(10)}

        async with topic.subscribe() as messages:
            await one.topics.topic(TOPIC).wait_peers()
            with topic.judging(lacks(b"a")):
                with topic.judging(lacks(b"b")):
                    topic.set_validator(lacks(b"c"))
                    assert await heard(messages, b"a1", b"b1", b"c1", b"d1") == {b"d1"}
                assert await heard(messages, b"a2", b"b2", b"c2") == {b"b2"}
                topic.set_validator(None)
                assert await heard(messages, b"a3", b"b3", b"c3") == {b"b3", b"c3"}
            assert await heard(messages, b"a4", b"b4") == {b"a4", b"b4"}
        assert not two.topics._judges.of_blocks
        assert not two.topics._router.topic(TOPIC).validating


async def test_the_strictest_verdict_counts(autojump_clock):
    """And one that raises does not let through what another one refuses."""

    def breaks(message):
        raise ValueError("no")

    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        topic = two.topics.topic(TOPIC)
        async with topic.subscribe():
            await one.topics.topic(TOPIC).wait_peers()
            with topic.judging(breaks), topic.judging(lambda message: False):
                await one.topics.topic(TOPIC).publish(b"x")
                await trio.sleep(1)
        assert two.topics.counters.invalid == 1


async def test_a_validator_that_raises_or_never_ends_has_ignored_the_message(autojump_clock):
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        topic = two.topics.topic(TOPIC)

        async def judge(message):
            if message.data == b"raise":
                raise ValueError("no")
            if message.data == b"hang":
                await trio.sleep_forever()
            return True

        topic.set_validator(judge)
        async with topic.subscribe() as messages:
            await one.topics.topic(TOPIC).wait_peers()
            for data in (b"raise", b"hang", b"good"):
                await one.topics.topic(TOPIC).publish(data)
            assert (await anext(messages)).data == b"good"
            await trio.sleep(20)
            assert not two.topics._router._pending


async def test_a_stream_of_rubbish_is_reset_and_costs_nothing_else(autojump_clock):
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        async with two.topics.topic(TOPIC).subscribe() as messages:
            await one.topics.topic(TOPIC).wait_peers()
            stream = await one.host.open_stream(two.host.peer_id, GOSSIPSUB_11)
            await stream.send_all(b"\x05hello")
            with pytest.raises((StreamResetError, RemoteProtocolError)):
                await stream.receive_some()
            await one.topics.topic(TOPIC).publish(b"x")
            assert (await anext(messages)).data == b"x"


async def test_a_peer_has_no_more_than_two_streams_read(autojump_clock):
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        streams = [await one.host.open_stream(two.host.peer_id, GOSSIPSUB_12) for _ in range(5)]
        await trio.sleep(1)
        assert len(two.topics._links[one.host.peer_id].inbound) == 2
        assert streams[0].is_gone


async def test_of_long_lists_one_is_read_in_a_pass(autojump_clock, monkeypatch):
    """Streams that had just been opened had theirs read at once, as each waited only after that."""
    passes = Passes()
    lists = encode_subscriptions([(TOPIC, number % 2 == 0) for number in range(1000)])
    async with peers(1) as (net, [one]):
        enemy = net.host()
        net.link(enemy, one.host)
        receive = one.topics._router.receive

        def counted(peer_id: PeerId, rpc: bytes, now: float) -> list[Action]:
            passes.total += len(rpc) == len(lists)
            return receive(peer_id, rpc, now)

        monkeypatch.setattr(one.topics._router, "receive", counted)
        streams = [await enemy.open_stream(one.host.peer_id, GOSSIPSUB_12) for _ in range(2)]
        await quiet()
        trio.lowlevel.add_instrument(passes)
        for stream in streams:
            stream.send_nowait(encode_length_prefixed(lists) * 3)
        await quiet()
        trio.lowlevel.remove_instrument(passes)
    assert (passes.total, passes.most) == (6, 1)


async def test_of_rpcs_without_a_byte_few_are_read_at_once(autojump_clock, monkeypatch):
    """To find 4,096 in a piece took 2 ms, on each of a hundred streams before one rested."""
    at_once = []

    class Counted(LengthPrefixed):
        def feed(self, data: Buffer) -> list[bytes]:
            found = super().feed(data)
            at_once.append(len(found))
            return found

    monkeypatch.setattr(service, "LengthPrefixed", Counted)
    async with peers(1) as (net, [one]):
        enemy = net.host()
        net.link(enemy, one.host)
        stream = await enemy.open_stream(one.host.peer_id, GOSSIPSUB_12)
        await stream.send_all(bytes(10_000))
        await trio.sleep(60)
    assert (sum(at_once), max(at_once)) == (10_000, 512)


def test_a_lone_message_is_told_from_lists():
    message = encode_publish(bytes(5000))
    lists = encode_subscriptions([(TOPIC, True)])
    assert is_lone_message(message)
    assert is_lone_message(encode_publish(b""))
    for other in (b"", message[:1], message[:-1], message + message, message + lists, lists):
        assert not is_lone_message(other)


async def test_a_stream_that_breaks_is_opened_again_and_nothing_is_lost(autojump_clock):
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        topic = one.topics.topic(TOPIC)
        async with two.topics.topic(TOPIC).subscribe() as messages:
            await topic.wait_peers()
            for stream in two.topics._links[one.host.peer_id].inbound:
                stream.reset()
            for number in range(10):
                await topic.publish(bytes([number]))
                await trio.sleep(0.05)
            got = [(await anext(messages)).data for _ in range(10)]
            assert sorted(got) == [bytes([number]) for number in range(10)]


async def test_the_last_message_before_the_end_is_sent(autojump_clock):
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        async with two.topics.topic(TOPIC).subscribe() as messages:
            await one.topics.topic(TOPIC).wait_peers()
            for _ in range(100):
                await one.topics.topic(TOPIC).publish(bytes(5000))
            await one.topics.aclose()
            for _ in range(100):
                await anext(messages)
            with pytest.raises(LocalProtocolError, match="stopped"):
                await one.topics.topic(TOPIC).publish(b"late")
            await two.topics.aclose()
            assert [message async for message in messages] == []


async def test_subscriptions_are_used_as_they_are_meant_to_be(autojump_clock):
    async with peers(1) as (_, (one,)):
        topic = one.topics.topic(TOPIC)
        messages = topic.subscribe()
        with pytest.raises(LocalProtocolError, match="enter"):
            await anext(messages)
        async with messages:
            with pytest.raises(LocalProtocolError, match="once"):
                messages.__enter__()
        with pytest.raises(LocalProtocolError):
            topic.subscribe(limit=0)


async def test_only_what_is_wanted_is_kept(autojump_clock):
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        wanted = two.topics.topic(TOPIC).subscribe(only=lambda message: message.data[0] == 1)
        async with wanted as messages:
            await one.topics.topic(TOPIC).wait_peers()
            for data in (b"\x00", b"\x01"):
                await one.topics.topic(TOPIC).publish(data)
            assert (await anext(messages)).data == b"\x01"


async def test_a_better_path_gets_a_new_stream_and_nothing_is_lost(autojump_clock):
    async with peers(2) as (net, (one, two)):
        connection = net.link(one.host, two.host)
        topic = one.topics.topic(TOPIC)
        async with two.topics.topic(TOPIC).subscribe() as messages:
            await topic.wait_peers()
            await trio.sleep(1)  # its stream has come
            (before,) = two.topics._links[one.host.peer_id].inbound
            for number in range(20):
                await topic.publish(bytes([number]))
                if number == 10:
                    one.host._events.publish(
                        PathChanged(
                            two.host.peer_id, "direct-tcp", connection.remote_addr, "relayed"
                        )
                    )
            got = [(await anext(messages)).data for _ in range(20)]
            assert sorted(got) == [bytes([number]) for number in range(20)]
            await trio.sleep(1)
            (after,) = two.topics._links[one.host.peer_id].inbound
            assert after is not before


async def test_nobody_is_sent_into_private_networks_by_peer_exchange(autojump_clock, monkeypatch):
    async with peers(2) as (net, (one, two)):
        net.link(one.host, two.host)
        third = net.host()
        inside = Multiaddr("/ip4/10.77.1.1/tcp/4001")
        record = seal_record(third.identity, 1, [inside, Multiaddr("/ip4/1.2.3.4/tcp/1")])
        dialed: list[tuple[Multiaddr, ...]] = []

        async def connect(target):
            dialed.append(target)
            return third.peer_id

        monkeypatch.setattr(one.host, "connect", connect)
        await one.topics._connect(Connect(third.peer_id, record, two.host.peer_id))
        ((addr,),) = dialed
        assert str(addr).startswith("/ip4/1.2.3.4/tcp/1/p2p/")


def test_only_so_many_records_of_peers_are_kept():
    records = PeerRecords()
    identities = [PeerId(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(600)]
    for peer_id in identities:
        records.take(peer_id, b"record")
    assert records.get(identities[-1]) == b"record"
    assert records.get(identities[0]) == b""
    records.take(identities[-1], bytes(9000))
    records.take(identities[-1], b"")
    assert records.get(identities[-1]) == b"record"


async def test_a_peer_that_was_started_anew_has_subscribed_to_what_it_says_now(autojump_clock):
    """Though its old connection is not known to be lost."""
    async with peers(2) as (net, (one, two)), trio.open_nursery() as nursery:
        net.link(two.host, one.host)
        one.host.connections[two.host.peer_id].instance = b"before"
        async with two.topics.topic("left").subscribe():
            await one.topics.topic("left").wait_peers()
            anew = net.host(two.host.identity)
            net.link(anew, one.host)
            one.host.connections[anew.peer_id].instance = b"now"
            topics = Topics(anew, nursery, sign=anew.identity.sign)
            async with topics.topic(TOPIC).subscribe() as messages:
                await one.topics.topic(TOPIC).wait_peers()
                assert one.topics.topic("left").peers() == ()
                await one.topics.topic(TOPIC).publish(b"to the new one")
                assert (await anext(messages)).data == b"to the new one"
            await topics.aclose()
