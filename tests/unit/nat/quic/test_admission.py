from __future__ import annotations

import random

import pytest
from qh3.quic.packet import encode_quic_retry

from lattica.errors import LocalProtocolError
from lattica.nat.config import Timeouts
from lattica.nat.quic.admission import (
    KEY_LIFETIME,
    TOKEN_LIFETIME,
    Admission,
    AdmissionControl,
    AdmissionLimits,
    RetryTokens,
)
from lattica.nat.quic.qh3.core import Certificate, client_core, server_core
from lattica.nat.transport.udp_socket import Address
from tests.support.clock import Clock

CLIENT: Address = ("192.0.2.1", 4242)
SERVER: Address = ("192.0.2.2", 4001)
ORIGINAL, RETRY = b"original", b"retrycid"


def seeded(seed: int = 0) -> RetryTokens:
    return RetryTokens(Clock(), random.Random(seed).randbytes)


# --- tokens ---


@pytest.mark.parametrize("original", [b"", b"x", ORIGINAL, bytes(20)])
@pytest.mark.parametrize("retry", [b"", RETRY, b"\xff" * 20])
def test_what_is_created_validates(original: bytes, retry: bytes) -> None:
    tokens = RetryTokens(Clock())
    token = tokens.create(CLIENT, original, retry)
    assert len(token) <= 78
    assert tokens.validate(CLIENT, token) == (original, retry)


@pytest.mark.parametrize(
    "addr",
    [
        ("192.0.2.1", 4243),
        ("192.0.2.9", 4242),
        ("::1", 4242, 0, 0),
        ("::ffff:192.0.2.1", 4242, 0, 0),
        ("::c000:201", 4242, 0, 0),
    ],
)
def test_only_from_the_address_it_was_sent_to(addr: Address) -> None:
    tokens = RetryTokens(Clock())
    token = tokens.create(CLIENT, ORIGINAL, RETRY)
    assert tokens.validate(addr, token) is None


def test_an_ipv6_address_with_a_zone() -> None:
    tokens = RetryTokens(Clock())
    token = tokens.create(("fe80::1%eth0", 5, 0, 2), ORIGINAL, RETRY)
    assert tokens.validate(("fe80::1", 5, 0, 2), token) == (ORIGINAL, RETRY)


@pytest.mark.parametrize("start", [0.0, 0.5, KEY_LIFETIME - 1, 255 * KEY_LIFETIME, 1e6 - 0.25])
def test_its_lifetime_also_across_a_change_of_the_key(start: float) -> None:
    clock = Clock(start)
    tokens = RetryTokens(clock)
    token = tokens.create(CLIENT, ORIGINAL, RETRY)
    clock.now = start + TOKEN_LIFETIME
    tokens.create(CLIENT, ORIGINAL, RETRY)
    assert tokens.validate(CLIENT, token) == (ORIGINAL, RETRY)
    clock.now = start + TOKEN_LIFETIME + 0.001
    assert tokens.validate(CLIENT, token) is None


@pytest.mark.parametrize("later", [KEY_LIFETIME * 2, KEY_LIFETIME * 256, KEY_LIFETIME * 1e6])
def test_much_later(later: float) -> None:
    clock = Clock()
    tokens = RetryTokens(clock)
    token = tokens.create(CLIENT, ORIGINAL, RETRY)
    clock.now += later
    assert tokens.validate(CLIENT, token) is None
    tokens.create(CLIENT, ORIGINAL, RETRY)
    assert tokens.validate(CLIENT, token) is None


def test_two_keys_are_kept_at_most() -> None:
    clock = Clock()
    tokens = RetryTokens(clock)
    for _ in range(10):
        tokens.create(CLIENT, ORIGINAL, RETRY)
        clock.now += KEY_LIFETIME * 0.75
    assert len(tokens._keys) <= 2


def test_another_process_does_not_know_it() -> None:
    token = seeded(1).create(CLIENT, ORIGINAL, RETRY)
    other = seeded(2)
    other.create(CLIENT, ORIGINAL, RETRY)
    assert other.validate(CLIENT, token) is None


def test_a_token_tells_nothing_and_is_never_the_same() -> None:
    tokens = RetryTokens(Clock())
    one, other = (tokens.create(CLIENT, ORIGINAL, RETRY) for _ in range(2))
    assert one != other
    assert ORIGINAL not in one
    assert RETRY not in one


def test_every_changed_byte_and_every_length_is_refused() -> None:
    tokens = RetryTokens(Clock())
    token = tokens.create(CLIENT, ORIGINAL, RETRY)
    for place in range(len(token)):
        for bit in range(8):
            changed = bytearray(token)
            changed[place] ^= 1 << bit
            assert tokens.validate(CLIENT, bytes(changed)) is None
        assert tokens.validate(CLIENT, token[:place]) is None
        assert tokens.validate(CLIENT, token[place + 1 :]) is None
    assert tokens.validate(CLIENT, token + b"\0") is None
    assert tokens.validate(CLIENT, bytes(1000)) is None


@pytest.mark.parametrize("seed", range(20))
def test_garbage(seed: int) -> None:
    rng = random.Random(seed)
    tokens = RetryTokens(Clock())
    tokens.create(CLIENT, ORIGINAL, RETRY)
    for _ in range(50):
        assert tokens.validate(CLIENT, rng.randbytes(rng.randrange(120))) is None


def test_connection_ids_have_a_longest_length() -> None:
    with pytest.raises(LocalProtocolError):
        RetryTokens(Clock()).create(CLIENT, bytes(21), RETRY)


def test_a_handshake_with_a_retry() -> None:
    """qh3's client comes back with the token, and accepts the server that its IDs name."""
    tokens = RetryTokens(Clock())
    client = client_core(timeouts=Timeouts())
    client.connect(SERVER, 0.0)
    client.datagrams_to_send(0.0)
    original = client.original_destination_connection_id
    token = tokens.create(CLIENT, original, RETRY)
    client.receive_datagram(
        encode_quic_retry(
            version=1,
            source_cid=RETRY,
            destination_cid=client.host_cid,
            original_destination_cid=original,
            retry_token=token,
        ),
        SERVER,
        0.05,
    )
    to_server = [data for data, _ in client.datagrams_to_send(0.05)]
    assert to_server
    assert token in to_server[0]
    ids = tokens.validate(CLIENT, token)
    assert ids == (original, RETRY)
    server = server_core(
        Certificate.generate(),
        original_destination_cid=ids[0],
        retry_source_cid=ids[1],
        timeouts=Timeouts(),
    )
    for now in (0.1, 0.2, 0.3):
        for data in to_server:
            server.receive_datagram(data, CLIENT, now)
        for data, _ in server.datagrams_to_send(now):
            client.receive_datagram(data, SERVER, now)
        to_server = [data for data, _ in client.datagrams_to_send(now)]
    assert client.handshake_complete
    assert server.handshake_complete
    assert client.end is None


def test_a_server_that_lies_about_the_retry_is_refused() -> None:
    """It, or somebody on the path, made up the Retry: the IDs do not fit."""
    client = client_core(timeouts=Timeouts())
    client.connect(SERVER, 0.0)
    client.datagrams_to_send(0.0)
    original = client.original_destination_connection_id
    retry = encode_quic_retry(
        version=1,
        source_cid=RETRY,
        destination_cid=client.host_cid,
        original_destination_cid=original,
        retry_token=b"made up",
    )
    client.receive_datagram(retry, SERVER, 0.05)
    server = server_core(
        Certificate.generate(), original_destination_cid=RETRY, timeouts=Timeouts()
    )
    for data, _ in client.datagrams_to_send(0.05):
        server.receive_datagram(data, CLIENT, 0.1)
    for data, _ in server.datagrams_to_send(0.1):
        client.receive_datagram(data, SERVER, 0.15)
    assert not client.handshake_complete
    assert client.end is not None
    assert "does not match" in client.end.reason_phrase


# --- when ---

LIMITS = AdmissionLimits(retry_above=4, maximum=16, per_network=8)


def test_nobody_is_asked_while_little_goes_on() -> None:
    control = AdmissionControl(LIMITS)
    for _ in range(4):
        assert control.decide(CLIENT, validated=False) is Admission.ACCEPT
        control.begin(CLIENT)
    assert control.decide(CLIENT, validated=False) is Admission.RETRY
    assert control.decide(CLIENT, validated=True) is Admission.ACCEPT


def test_it_becomes_easy_again() -> None:
    control = AdmissionControl(LIMITS)
    tickets = [control.begin(CLIENT) for _ in range(16)]
    assert control.decide(SERVER, validated=True) is Admission.DROP
    control.finish(tickets.pop())
    assert control.decide(("198.51.100.1", 1), validated=True) is Admission.ACCEPT
    for ticket in tickets:
        control.finish(ticket)
    assert control.half_open == 0
    assert control.decide(CLIENT, validated=False) is Admission.ACCEPT
    with pytest.raises(LocalProtocolError):
        control.finish(tickets[0])


def test_one_network_leaves_room_for_the_others() -> None:
    control = AdmissionControl(LIMITS, random.Random(1).randbytes)
    for port in range(8):
        assert control.decide(("203.0.113.7", port), validated=True) is Admission.ACCEPT
        control.begin(("203.0.113.7", port))
    assert control.decide(("203.0.113.99", 1), validated=True) is Admission.DROP
    assert control.decide(("::ffff:203.0.113.5", 1, 0, 0), validated=True) is Admission.DROP
    assert control.decide(("198.51.100.1", 1), validated=True) is Admission.ACCEPT
    assert control.decide(("2001:db8::1", 1, 0, 0), validated=True) is Admission.ACCEPT


def test_one_ipv6_network_counts_as_one() -> None:
    control = AdmissionControl(LIMITS, random.Random(1).randbytes)
    for i in range(8):
        control.begin((f"2001:db8:1:{i}::{i}", i, 0, 0))
    assert control.decide(("2001:db8:1:ffff::1", 1, 0, 0), validated=True) is Admission.DROP
    assert control.decide(("2001:db8:2::1", 1, 0, 0), validated=True) is Admission.ACCEPT


def test_a_flood_of_forged_addresses_takes_no_memory_and_no_places() -> None:
    """Each first packet of the flood gets a Retry at most; real clients still come in."""
    rng = random.Random(7)
    control = AdmissionControl(LIMITS)
    tokens = RetryTokens(Clock())
    for _ in range(5000):
        addr = (".".join(str(rng.randrange(1, 255)) for _ in range(4)), rng.randrange(1, 65536))
        match control.decide(addr, validated=False):
            case Admission.ACCEPT:
                control.begin(addr)
            case Admission.RETRY:
                tokens.create(addr, rng.randbytes(8), rng.randbytes(8))
    assert control.half_open == LIMITS.retry_above
    assert len(control._counters) == AdmissionControl.SLOTS
    assert len(tokens._keys) == 1
    assert control.decide(CLIENT, validated=True) is Admission.ACCEPT
