"""Rendezvous: registering, being found, cookies, quotas and refusals."""

from __future__ import annotations

import pytest
import trio

from lattica.dht.pb import rendezvous_pb2 as pb
from lattica.dht.rendezvous.client import (
    RendezvousError,
    discover,
    register,
    unregister,
)
from lattica.dht.rendezvous.config import RendezvousConfig
from lattica.dht.rendezvous.core import RendezvousCore
from lattica.dht.rendezvous.messages import (
    Discover,
    Discovered,
    Register,
    Registered,
    Status,
    Unregister,
    decode_request,
    decode_response,
    encode,
)
from lattica.dht.rendezvous.service import RendezvousService
from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.limits.places import Source
from lattica.nat.base.net.multiaddr import Multiaddr
from tests.support.doubles.memory_host import memory_net

ADDR = Multiaddr("/ip4/192.0.2.1/tcp/4001")


class Point:
    """A core, and peers that use it."""

    def __init__(self, **config: object) -> None:
        self.core = RendezvousCore(RendezvousConfig(**config), bytes(8))  # type: ignore[arg-type]
        self.now = 100.0

    def add(
        self,
        namespace: str,
        who: Identity | None = None,
        ttl: int | None = None,
        network: str = "",
    ) -> tuple[Identity, Registered]:
        who = who or Identity.generate()
        asked = Register(namespace, seal_record(who, 1, [ADDR]), ttl)
        source = Source(who.peer_id, network or str(who.peer_id))
        return who, self.core.register(source, who.peer_id, asked, self.now)

    def found(self, namespace: str | None, **asked: object) -> Discovered:
        return self.core.discover(Discover(namespace, **asked), self.now)  # type: ignore[arg-type]


def test_messages_are_what_they_were():
    for request in (
        Register("ns", b"record", 60),
        Register("ns", b"record"),
        Unregister("ns"),
        Discover(None),
        Discover("ns", 5, b"cookie"),
    ):
        assert decode_request(encode(request)) == request
    for response in (
        Registered(Status.OK, "", 7200),
        Registered(Status.INVALID_TTL, "why"),
        Discovered(Status.OK, "", (Register("ns", b"r", 5),), b"c"),
        Discovered(Status.UNAVAILABLE, "why"),
    ):
        assert decode_response(encode(response)) == response


def test_a_request_is_what_other_implementations_write():
    # Field 1: type 3; field 5: discover, with the namespace in its field 1.
    assert encode(Discover("ns")) == bytes.fromhex("08032a040a026e73")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"",
        b"\x08\x00",
        pb.Message(type=pb.Message.REGISTER_RESPONSE).SerializeToString(),
        pb.Message(
            type=pb.Message.REGISTER, register=pb.Message.Register(signedPeerRecord=bytes(9000))
        ).SerializeToString(),
        pb.Message(
            type=pb.Message.UNREGISTER, unregister=pb.Message.Unregister(ns=b"\xff")
        ).SerializeToString(),
    ],
)
def test_what_is_no_request_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        decode_request(data)


def test_peers_are_found_in_their_namespace_until_they_leave_or_their_time_is_over():
    point = Point()
    _, answer = point.add("a", ttl=100)
    assert (answer.status, answer.ttl) == (Status.OK, 100)
    two, _ = point.add("a")
    point.add("b")
    assert len(point.found("a").registrations) == 2
    assert len(point.found(None).registrations) == 3
    point.now += 50
    assert point.found("a").registrations[0].ttl == 50
    point.now += 60
    assert len(point.found("a").registrations) == 1
    point.core.unregister(two.peer_id, Unregister("a"))
    assert point.found("a").registrations == ()
    assert len(point.core) == 1


def test_cookies_lead_from_one_answer_to_the_next():
    point = Point()
    for _ in range(5):
        point.add("a")
    first = point.found("a", limit=3)
    assert len(first.registrations) == 3
    second = point.found("a", cookie=first.cookie)
    assert len(second.registrations) == 2
    assert not {r.record for r in first.registrations} & {r.record for r in second.registrations}
    assert point.found("a", cookie=second.cookie).registrations == ()
    point.add("a")
    assert len(point.found("a", cookie=second.cookie).registrations) == 1
    for cookie in (b"x", first.cookie + b"x", bytes(8) + b"12345678a"):
        assert point.found("a", cookie=cookie).status is Status.INVALID_COOKIE
    assert point.found("b", cookie=first.cookie).status is Status.INVALID_COOKIE


def test_large_answers_come_in_parts():
    point = Point()
    many = [Multiaddr(f"/dns4/{'x' * 60}.{n}.example/tcp/1") for n in range(60)]
    for _ in range(200):
        who = Identity.generate()
        asked = Register("a", seal_record(who, 1, many))
        assert (
            point.core.register(Source(who.peer_id, who.peer_id), who.peer_id, asked, 0.0).status
            is Status.OK
        )
    seen, cookie, answers = 0, b"", 0
    while found := (answer := point.found("a", cookie=cookie)).registrations:
        assert len(encode(answer)) < 1024 * 1024
        seen, cookie, answers = seen + len(found), answer.cookie, answers + 1
    assert seen == 200
    assert answers > 1


def test_what_cannot_be_registered_is_refused():
    point = Point()
    who = Identity.generate()
    assert point.add("")[1].status is Status.INVALID_NAMESPACE
    assert point.add("x" * 256)[1].status is Status.INVALID_NAMESPACE
    assert point.add("a", ttl=1)[1].status is Status.INVALID_TTL
    assert point.add("a", ttl=2**60)[1].status is Status.INVALID_TTL
    source = Source(who.peer_id, "")
    asked = Register("a", b"nonsense")
    refused = point.core.register(source, who.peer_id, asked, 0.0)
    assert refused.status is Status.INVALID_RECORD
    other = Register("a", seal_record(Identity.generate(), 1, [ADDR]))
    assert point.core.register(source, who.peer_id, other, 0.0).status is Status.NOT_AUTHORIZED
    assert len(point.core) == 0


def test_registering_again_renews_and_does_not_fill():
    point = Point()
    who, _ = point.add("a", ttl=100)
    for _ in range(5000):
        point.add("a", who, ttl=100)
    point.now += 90
    point.add("a", who, ttl=100)
    point.now += 90
    assert len(point.found("a").registrations) == 1
    assert len(point.core._expiry) < 3000


def test_quotas_hold_and_whoever_has_most_yields():
    point = Point(registrations=20, registrations_per_peer=15)
    greedy = Identity.generate()
    answers = [point.add(f"n{n}", greedy)[1].status for n in range(20)]
    assert answers.count(Status.OK) == 15
    assert answers.count(Status.UNAVAILABLE) == 5
    for _ in range(10):
        assert point.add("honest")[1].status is Status.OK
    assert len(point.core) == 20
    assert len(point.found("honest").registrations) == 10


async def test_peers_find_each_other_at_a_point(autojump_clock):
    async with memory_net() as net:
        point, one, two = net.host(), net.host(), net.host()
        service = RendezvousService(point, RendezvousConfig(serve=True))
        record = seal_record(one.identity, 1, [ADDR])
        assert await register(one, point.peer_id, "ns", record) == 7200
        own = seal_record(two.identity, 1, [ADDR])
        await register(two, point.peer_id, "ns", own, 600)
        found = [meeting async for meeting in discover(two, point.peer_id, "ns")]
        assert [meeting.record.peer_id for meeting in found] == [one.peer_id]
        assert found[0].record.addrs == (ADDR,)
        with pytest.raises(RendezvousError, match="INVALID_TTL") as refused:
            await register(one, point.peer_id, "ns", record, 1)
        assert refused.value.status is Status.INVALID_TTL
        await unregister(one, point.peer_id, "ns")
        await trio.sleep(1)
        assert len(service) == 1
        with pytest.raises(LocalProtocolError):
            await register(one, point.peer_id, "", record)
        service.close()


async def test_rubbish_resets_its_stream_only(autojump_clock):
    async with memory_net() as net:
        point, one = net.host(), net.host()
        RendezvousService(point, RendezvousConfig(serve=True))
        stream = await one.open_stream(point.peer_id, "/rendezvous/1.0.0")
        await stream.send_all(b"\x03abc")
        await stream.wait_gone()
        record = seal_record(one.identity, 1, [ADDR])
        assert await register(one, point.peer_id, "ns", record) == 7200
