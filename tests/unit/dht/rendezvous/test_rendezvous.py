"""Rendezvous: registering, being found, cookies, quotas and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.dht.pb import rendezvous_pb2 as pb
from lattica.dht.rendezvous import client
from lattica.dht.rendezvous.client import (
    RendezvousError,
    discover,
    register,
    unregister,
)
from lattica.dht.rendezvous.config import RendezvousConfig
from lattica.dht.rendezvous.core import RendezvousCore
from lattica.dht.rendezvous.messages import (
    MAX_MESSAGE,
    PROTOCOL,
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
from lattica.dht.rendezvous.rates import AnswerRates
from lattica.dht.rendezvous.service import RendezvousService
from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import PeerRecord, open_record, seal_record
from lattica.nat.base.limits.places import Source
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream
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


def big(who: Identity) -> bytes:
    """A record of nearly 6 KiB."""
    return seal_record(
        who, 1, [Multiaddr(f"/dns4/{'x' * 60}.{n}.example/tcp/1") for n in range(70)]
    )


def test_records_have_a_budget_in_bytes_of_which_no_network_has_more_than_its_part():
    """20,000 records of 8 KiB, of a few networks, were 160 MiB."""
    point = Point(memory=1024 * 1024)
    greedy = [Identity.generate() for _ in range(88)]
    for number, who in enumerate(greedy):
        record = big(who)
        source = Source(who.peer_id, f"n{number % 8}")
        for name in range(3):
            asked = Register(f"{name}", record)
            point.core.register(source, who.peer_id, asked, point.now)
    held = list(every(point, None))
    assert 0.8 * 1024 * 1024 < sum(len(r.record) + 1536 for r in held) <= 1024 * 1024
    for number in range(20):  # one that has less than they have
        assert point.add("honest", network="quiet")[1].status is Status.OK, number
    assert len(point.found("honest").registrations) == 20
    held = list(every(point, None))
    assert sum(len(r.record) + 1536 for r in held) <= 1024 * 1024


def test_one_network_leaves_three_quarters_of_the_memory():
    point = Point(memory=1024 * 1024)
    answers = []
    for _ in range(64):
        who = Identity.generate()
        asked = Register("a", big(who))
        source = Source(who.peer_id, "one")
        answers.append(point.core.register(source, who.peer_id, asked, point.now).status)
    assert {Status.OK, Status.UNAVAILABLE} == set(answers)
    assert sum(len(r.record) for r in every(point, "a")) < 256 * 1024
    who = Identity.generate()
    source = Source(who.peer_id, "two")  # and a peer has a sixteenth of its network's
    own = [
        point.core.register(source, who.peer_id, Register(f"{n}", big(who)), point.now).status
        for n in range(8)
    ]
    assert own[0] is Status.OK
    assert own[-1] is Status.UNAVAILABLE


def test_a_renewal_that_finds_no_room_leaves_what_was_there():
    point = Point(memory=1024 * 1024)
    who, _ = point.add("a", network="one")
    for _ in range(64):
        other = Identity.generate()
        source = Source(other.peer_id, "one")
        point.core.register(source, other.peer_id, Register("b", big(other)), point.now)
    while point.add("b", network="one")[1].status is Status.OK:
        pass
    renewed = point.core.register(
        Source(who.peer_id, "one"), who.peer_id, Register("a", big(who)), point.now
    )
    assert renewed.status is Status.UNAVAILABLE
    assert len(point.found("a").registrations) == 1


def every(point: Point, namespace: str | None) -> Iterator[Register]:
    """All that is registered, answer by answer, each within its bounds."""
    cookie = b""
    while found := (answer := point.found(namespace, cookie=cookie)).registrations:
        assert len(found) <= 256
        assert len(encode(answer)) <= 160 * 1024
        cookie = answer.cookie
        yield from found


def test_no_answer_has_more_than_256_registrations_and_the_cookie_goes_on():
    point = Point()
    peers = [point.add("a")[0].peer_id for _ in range(600)]
    for namespace in (None, "a"):
        for limit in (None, 1000, 2**60):
            assert len(point.found(namespace, limit=limit).registrations) == 256
        told = [open_record(each.record).peer_id for each in every(point, namespace)]
        assert told == peers


WHO = [Identity.generate() for _ in range(4)]
STEPS = st.lists(
    st.tuples(st.sampled_from(("add", "leave", "pass")), st.integers(0, 3), st.sampled_from("abc")),
    max_size=60,
)


@settings(max_examples=50)
@given(STEPS)
def test_who_registers_leaves_and_expires_is_told_in_the_order_of_registration(steps):
    point = Point()
    model: dict[tuple[str, PeerId], float] = {}
    for what, number, namespace in steps:
        who = WHO[number]
        key = (namespace, who.peer_id)
        if what == "add":
            point.add(namespace, who, ttl=100)
            model.pop(key, None)
            model[key] = point.now + 100
        elif what == "leave":
            point.core.unregister(who.peer_id, Unregister(namespace))
            model.pop(key, None)
        else:
            point.now += 40
        model = {key: until for key, until in model.items() if until > point.now}
        told = [(r.namespace, open_record(r.record).peer_id) for r in every(point, None)]
        assert told == list(model)
        for name in "abc":
            of_name = [open_record(r.record).peer_id for r in every(point, name)]
            assert of_name == [peer for namespace, peer in model if namespace == name]


def test_a_network_is_answered_at_its_rate_and_others_all_the_same():
    rates = AnswerRates(4096)
    asked = 0
    while rates.may_ask("loud", 0.0):
        rates.answered("loud", 8 * 1024, 0.0)
        asked += 1
    assert asked == 6  # 64 KiB at once, of which each takes 12
    assert rates.may_ask("quiet", 0.0)
    assert not rates.may_ask("loud", 1.0)
    assert rates.may_ask("loud", 3.0)
    for number in range(20_000):  # networks are cheap for whoever has an IPv6 /32
        rates.may_ask(number, 3.0)
    assert not rates.may_ask("new", 3.0)
    assert len(rates._of) <= 4096


async def test_who_asks_for_too_much_is_told_to_ask_later(autojump_clock):
    async with memory_net() as net:
        point, one = net.host(), net.host()
        RendezvousService(point, RendezvousConfig(serve=True, rate_per_network=4096))
        record = seal_record(one.identity, 1, [ADDR])
        for _ in range(15):
            await register(one, point.peer_id, "ns", record)
        with pytest.raises(RendezvousError, match="try again") as refused:
            await register(one, point.peer_id, "ns", record)
        assert refused.value.status is Status.UNAVAILABLE
        with pytest.raises(RendezvousError, match="UNAVAILABLE"):
            [each async for each in discover(one, point.peer_id, "ns")]
        await trio.sleep(10)
        assert [each async for each in discover(one, point.peer_id, "ns")] == []


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


@pytest.mark.parametrize("is_forged", [True, False])
async def test_a_points_records_are_checked_some_at_a_time(
    is_forged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers as much as it may, whatever that is worth."""
    checked = 0

    class Passes(trio.abc.Instrument):
        def __init__(self) -> None:
            self.checked = [0]

        def before_io_wait(self, timeout: float) -> None:
            self.checked.append(checked)

    def check(record: bytes) -> PeerRecord:
        nonlocal checked
        checked += 1
        return open_record(record)

    record = seal_record(Identity.generate(), 1, [ADDR])
    if is_forged:
        record = record[:-1] + bytes([record[-1] ^ 1])

    async def answer(stream: Stream) -> None:
        await stream.receive_message(MAX_MESSAGE)
        found = (Register("ns", record, 60),) * 200
        await stream.send_message(encode(Discovered(Status.OK, registrations=found)))

    monkeypatch.setattr(client, "open_record", check)
    async with memory_net() as net:
        point, one = net.host(), net.host()
        point.handle(PROTOCOL, answer, owner="test")
        passes = Passes()
        trio.lowlevel.add_instrument(passes)
        found = [each async for each in discover(one, point.peer_id, "ns")]
        trio.lowlevel.remove_instrument(passes)
        passes.checked.append(checked)
    assert (len(found), checked) == (0 if is_forged else 200, 200)
    assert max(after - before for before, after in pairwise(passes.checked)) <= 32
