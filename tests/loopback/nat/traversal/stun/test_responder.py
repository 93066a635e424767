"""Who is answered, from where, and how much; and both ends of STUN over real sockets."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.errors import ConfigError
from lattica.nat.base.net.addresses import parse_multiaddr
from lattica.nat.traversal.stun import codec as stun
from lattica.nat.traversal.stun.client import (
    StunRefused,
    StunTimeout,
    client_on,
    client_on_fresh_socket,
    new_transaction,
)
from lattica.nat.traversal.stun.codec import BindingError, BindingRequest, BindingResponse
from lattica.nat.traversal.stun.responder import (
    AMPLIFICATION,
    StunResponder,
    StunResponderCore,
    StunResponderLimits,
)
from lattica.nat.traversal.stun.transaction import StunTiming
from tests.support.clock import Clock
from tests.support.nets.nets import running, settled, unused_port

NAME = bytes(12)
CLIENT = ("198.51.100.7", 5000)
GRID = [("192.0.2.1", 1), ("192.0.2.1", 2), ("192.0.2.2", 1), ("192.0.2.2", 2)]
QUICK = StunTiming(first_wait=0.02, requests=3, last_wait=0.05)


def core(sockets=GRID, *, clock=None, **limits) -> StunResponderCore:
    return StunResponderCore(sockets, StunResponderLimits(**limits), clock or Clock())


def ask(responder: StunResponderCore, socket=0, source=CLIENT, **fields):
    """The message, its destination and the number of the socket; None if there is none."""
    data = stun.encode(BindingRequest(NAME, **fields))
    answer = responder.receive(data, source, socket)
    if answer is None:
        return None
    assert len(answer.data) <= AMPLIFICATION * len(data)
    return stun.decode(answer.data), answer.destination, answer.socket


@pytest.mark.parametrize(
    ("ip", "port"), [(False, False), (False, True), (True, False), (True, True)]
)
def test_the_socket_that_was_asked_for_answers(ip, port):
    responder = core()
    for asked in range(4):
        wanted = asked ^ (2 * ip) ^ port
        message, destination, sender = ask(responder, asked, change_ip=ip, change_port=port)
        assert sender == wanted
        assert destination == CLIENT
        assert message == BindingResponse(NAME, CLIENT, GRID[wanted], GRID[asked ^ 3])


def test_what_cannot_be_is_refused():
    responder = core([("0.0.0.0", 1), ("0.0.0.0", 2), ("::", 1)])
    assert ask(responder, 0)[0] == BindingResponse(NAME, CLIENT)
    assert ask(responder, 1, change_port=True)[2] == 0
    for socket_number, fields in [
        (0, {"change_ip": True}),
        (0, {"change_ip": True, "change_port": True}),
        (2, {"change_port": True}),
    ]:
        message, _, sender = ask(responder, socket_number, **fields)
        assert message == BindingError(NAME, 420, unknown=(stun.CHANGE_REQUEST,))
        assert sender == socket_number


def test_an_attribute_that_is_not_known_is_refused():
    data = stun.encode(BindingRequest(NAME, fingerprint=False))[:-12] + NAME
    data = data[:2] + b"\x00\x08" + data[4:] + b"\x77\x77\x00\x04\x00\x00\x00\x00"
    answer = core().receive(data, CLIENT, 0)
    assert answer is not None
    assert stun.decode(answer.data) == BindingError(NAME, 420, unknown=(0x7777,), fingerprint=False)


def test_answers_to_another_port():
    responder = core()
    message, destination, _ = ask(responder, response_port=6000)
    assert message.mapped == CLIENT
    assert destination == (CLIENT[0], 6000)
    assert ask(responder, response_port=53) is None
    assert ask(responder, response_port=CLIENT[1])[1] == CLIENT


def test_ipv6_and_its_zones():
    responder = core(
        [("2001:db8::1", 1), ("2001:db8::1", 2), ("2001:db8::2", 1), ("2001:db8::2", 2)]
    )
    source = ("fe80::1%3", 5000, 0, 3)
    message, destination, _ = ask(responder, source=source, response_port=6000)
    assert message.mapped == ("fe80::1", 5000)
    assert destination == ("fe80::1%3", 6000, 0, 3)
    # What is not needed is left out, rather than to send too much.
    bare, _, _ = ask(responder, source=source, fingerprint=False)
    assert bare == BindingResponse(NAME, ("fe80::1", 5000), fingerprint=False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x40" * 30,
        stun.encode(BindingResponse(NAME, CLIENT)),
        stun.encode(BindingError(NAME, 420)),
        stun.encode(BindingRequest(NAME))[:-1],
    ],
)
def test_anything_else_is_not_answered(data):
    assert core().receive(data, CLIENT, 0) is None


def test_nobody_is_at_port_zero():
    assert ask(core(), source=("198.51.100.7", 0)) is None


def test_each_network_has_its_rate():
    clock = Clock()
    responder = core(clock=clock, requests_per_second_per_network=2, burst_per_network=10)
    answered = [ask(responder, source=(f"198.51.100.{n}", 9000)) for n in range(20)]
    assert sum(answer is not None for answer in answered) == 10
    assert ask(responder, source=("203.0.113.1", 9000)) is not None
    clock.now += 1.0
    answered = [ask(responder) for _ in range(5)]
    assert sum(answer is not None for answer in answered) == 2
    clock.now += 100.0
    # To be sent elsewhere costs more.
    answered = [ask(responder, response_port=6000) for _ in range(10)]
    assert sum(answer is not None for answer in answered) == 2


def test_all_together_have_a_rate():
    responder = core(requests_per_second=50)
    answered = [ask(responder, source=(f"198.51.{n}.1", 9000)) for n in range(200)]
    assert sum(answer is not None for answer in answered) == 50


def test_limits_are_checked():
    with pytest.raises(ConfigError):
        StunResponderLimits(burst_per_network=0)


# --- over real sockets ---


def quic(port: int) -> str:
    return f"/ip4/127.0.0.1/udp/{port}/quic-v1/noise"


async def test_both_ends_over_real_sockets():
    ports = unused_port(), unused_port()
    here, there = (("127.0.0.1", port) for port in ports)
    async with (
        running(listen=tuple(map(quic, ports))) as relay,
        running(listen=(quic(0),)) as node,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(StunResponder(relay).run)
        await wait_all_tasks_blocked()
        (endpoint,) = node.udp_endpoints
        async with (
            client_on(endpoint) as client,
            client_on_fresh_socket("127.0.0.1", QUICK) as fresh,
        ):
            binding = await client.ask(here)
            assert (binding.mapped, binding.source) == (endpoint.local, here)
            assert binding.response.origin == here
            assert binding.response.other is None
            assert binding.rtt is None or binding.rtt >= 0
            binding = await client.ask(here, change_port=True, accept_from=[there])
            assert binding.source == there
            with pytest.raises(StunRefused) as refused:
                await client.ask(here, change_ip=True)
            assert refused.value.code == 420
            request = BindingRequest(new_transaction(), response_port=fresh.local[1])
            with fresh.watching(request.transaction) as arrived:
                client.send(request, here)
                await arrived.wait()
            # Who answers from elsewhere unasked is not listened to.
            with pytest.raises(StunTimeout):
                await fresh.ask(here, change_port=True, accept_from=[here])
        nursery.cancel_scope.cancel()


async def test_sockets_that_come_later_answer_too():
    async with running(listen=()) as relay, trio.open_nursery() as nursery:
        nursery.start_soon(StunResponder(relay).run)
        await wait_all_tasks_blocked()
        await relay.listen(parse_multiaddr(quic(0)))
        await settled(lambda: relay.udp_endpoints)
        (endpoint,) = relay.udp_endpoints
        async with client_on_fresh_socket("127.0.0.1") as client:
            host, port, *_ = endpoint.local
            assert (await client.ask((host, port))).mapped == client.local
        nursery.cancel_scope.cancel()


async def test_a_client_whose_responder_is_silent_or_lies():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.setblocking(False)
        async with client_on_fresh_socket("127.0.0.1", QUICK) as client:
            with pytest.raises(StunTimeout):
                await client.ask(silent.getsockname())
            seen = [silent.recv(100) for _ in range(QUICK.requests)]
            assert len(set(seen)) == 1
            with pytest.raises(BlockingIOError):
                silent.recv(100)
            # An answer to another question.
            name = new_transaction()
            silent.sendto(stun.encode(BindingResponse(name, CLIENT)), client.local)
            silent.sendto(b"noise", client.local)
            with pytest.raises(StunTimeout):
                await client.ask(silent.getsockname())


async def test_a_swarm_that_ends_takes_the_responder_with_it():
    async with trio.open_nursery() as nursery, running(listen=(quic(0),)) as relay:
        nursery.start_soon(StunResponder(relay).run)
        await wait_all_tasks_blocked()
