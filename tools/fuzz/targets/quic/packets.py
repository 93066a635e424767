"""Targets of QUIC's set-up: TLS messages, the identity exchange on stream 0, Retry tokens."""

from __future__ import annotations

from qh3 import tls
from qh3.quic.tls_bridge import QuicTlsBridge, QuicTlsBridgeError

from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.config import Timeouts
from lattica.nat.quic.admission import RetryTokens
from lattica.nat.quic.qh3.core import Certificate, QuicCore, client_core, server_core
from lattica.nat.quic.session.noise import QuicNoise
from lattica.nat.secure.noise import frame
from tools.fuzz.target import KIB, Target, Violation
from tools.fuzz.targets.pieces import (
    APPEND,
    CUT,
    FLIP,
    PASS,
    REPLACE,
    in_pieces,
    option,
    record,
    records,
    tampered,
)

OURS = Identity(b"\x01" * 32)
THEIRS = Identity(b"\x02" * 32)
HASH = bytes(range(32))
KEY = b"\x07" * 32
CERTIFICATE = Certificate.generate()
TIMEOUTS = Timeouts()
CLIENT, SERVER = ("192.0.2.1", 4242), ("192.0.2.2", 4001)

_WIDTH = 2
"""Of a place in a message, bytes."""


def _quic_noise(data: bytes) -> None:
    """One side against an honest other, whose bytes are changed on their way."""
    kind, rest = option(data)
    initiator = bool(kind & 1)
    changes = records(rest)

    def side(identity: Identity, initiator: bool, expected: Identity | None) -> QuicNoise:
        return QuicNoise(
            identity,
            initiator=initiator,
            expected_peer=expected.peer_id if expected else None,
            certificate_hash=HASH,
            private_network_key=KEY if kind & 4 else None,
        )

    ours = side(OURS, initiator, THEIRS if kind & 2 else None)
    peer = side(THEIRS, not initiator, None)
    for _ in range(3):
        sent = ours.data_to_send()
        if sent and peer.result is None:
            try:
                peer.feed(sent)
            except RemoteProtocolError:
                return  # the honest peer noticed first
        honest = peer.data_to_send()
        if not honest:
            return
        wire = tampered(honest, changes, _WIDTH)
        fed = b""
        for piece in in_pieces(wire, kind >> 3):
            ours.feed(piece)
            fed += piece
            if ours.result is not None:
                if ours.result.peer_id != THEIRS.peer_id:
                    raise Violation(f"{ours.result.peer_id} is accepted, who was not there")
                if fed != honest + ours.rest:
                    raise Violation("a changed message is accepted")
                return


def _bridge(core: QuicCore, peer: QuicCore) -> QuicTlsBridge:
    assert core._tls is not None
    core._tls.remote_initial_source_connection_id = peer.host_cid
    return core._tls


def _client() -> QuicCore:
    client = client_core(timeouts=TIMEOUTS)
    client.connect(SERVER, 0.0)
    return client


def _server(client: QuicCore) -> QuicCore:
    server = server_core(
        CERTIFICATE,
        original_destination_cid=client.original_destination_connection_id,
        timeouts=TIMEOUTS,
    )
    server._version = 1
    server._remote_addr = CLIENT
    server._create_core(CLIENT, client.original_destination_connection_id, 0.0)
    server._create_tls(remote_source_cid=client.host_cid)
    return server


def _hello(client: QuicCore) -> bytes:
    # Once more: what `connect` made has gone into the native core.
    bridge = client._create_tls(remote_source_cid=None)
    bridge.start()
    hello = bridge.next_crypto_data()
    assert hello is not None
    return hello.data


def _quic_tls_server(data: bytes) -> None:
    """A server's TLS and a client's messages, changed: first message, then Finished."""
    kind, rest = option(data)
    changes = records(rest)
    client = _client()
    hello = _hello(client)
    ours = _bridge(_server(client), client)
    epoch = tls.Epoch.INITIAL
    for message in (hello, b"\x14\x00\x00\x20" + bytes(32), b""):
        for piece in in_pieces(tampered(message, changes, _WIDTH), kind):
            ours.receive_crypto(epoch, piece)
        epoch = tls.Epoch.HANDSHAKE
    if ours.handshake_complete:
        raise Violation("the handshake is complete with a client that knows no secret")


def _quic_tls_client(data: bytes) -> None:
    """A client's TLS and the flight of an honest server, changed on its way."""
    kind, rest = option(data)
    changes = records(rest)
    client = _client()
    hello = _hello(client)
    server = _server(client)
    peer = _bridge(server, client)
    peer.receive_crypto(tls.Epoch.INITIAL, hello)
    ours = _bridge(client, server)
    changed = False
    while (crypto := peer.next_crypto_data()) is not None:
        wire = tampered(crypto.data, changes, _WIDTH)
        changed |= wire[: len(crypto.data)] != crypto.data
        for piece in in_pieces(wire, kind):
            ours.receive_crypto(crypto.epoch, piece)
    if ours.handshake_complete and changed:
        raise Violation("a changed flight is accepted")


def _quic_datagrams(data: bytes) -> None:
    """Datagrams of the fuzzer's for a client, a server before its first, and one after it."""
    kind, rest = option(data)
    client = _client()
    [(first, _)] = client.datagrams_to_send(0.0)
    server = server_core(
        CERTIFICATE,
        original_destination_cid=client.original_destination_connection_id,
        timeouts=TIMEOUTS,
    )
    if kind & 1:
        server.receive_datagram(first, CLIENT, 0.0)
    answers = [answer for answer, _ in server.datagrams_to_send(0.0)] or [b""]
    changes = records(rest)
    for number in range(4):
        to_server = tampered(first, changes, _WIDTH)
        server.receive_datagram(to_server, CLIENT, 0.1 * number)
        for _ in range(2):
            server.receive_datagram(to_server, CLIENT, 0.1 * number)
        client.receive_datagram(
            tampered(answers[number % len(answers)], changes, _WIDTH), SERVER, 0.1 * number
        )
        for core in (client, server):
            timer = core.get_timer()
            if timer is not None:
                core.handle_timer(timer)
            core.datagrams_to_send(0.1 * number)


def _retry_token(data: bytes) -> None:
    kind, rest = option(data)
    tokens = RetryTokens(lambda: 1000.0)
    honest = tokens.create(CLIENT, b"original", b"retry")
    token = tampered(honest, records(rest), _WIDTH) if kind & 1 else rest
    ids = tokens.validate(CLIENT, token)
    if ids is not None and (token != honest or ids != (b"original", b"retry")):
        raise Violation("a token that we did not make")
    if tokens.validate(SERVER, token) is not None:
        raise Violation("a token is accepted from an address that it was not made for")


_COMPRESSED_CERTIFICATE = b"\x19\x00\x00\x08\x00\x02\xff\xff\xff\x00\x00\x00"

QUIC_NOISE = Target(
    "quic-noise",
    _quic_noise,
    (RemoteProtocolError,),
    seeds=[
        b"\x00",
        b"\x01",
        b"\x04",
        b"\x07",
        b"\x08" + record(PASS) + record(APPEND, b"control"),
        b"\x01" + record(REPLACE, frame(b"\x09" * 200)),
        b"\x04" + record(REPLACE, frame(b"\x09" * 64)),
        b"\x00" + record(FLIP, b"\x00\x05\x01"),
    ],
    tokens=[b"\x00\x20", b"\x00\x40", b"\x20\x00", bytes(32)],
)
QUIC_TLS_SERVER = Target(
    "quic-tls-server",
    _quic_tls_server,
    (QuicTlsBridgeError,),
    seeds=[
        b"\x00",
        b"\x07",
        b"\x00" + record(FLIP, b"\x00\x30\x01"),
        b"\x00" + record(CUT, b"\x00\x60") + record(APPEND, b"\x00" * 40),
        b"\x00" + record(REPLACE, b"\x01\x00\x00\x26\x03\x03" + bytes(36)),
    ],
    tokens=[b"\x01\x00\x00\x00", b"\x14\x00\x00\x20", b"\x08\x00\x00\x02", b"\xff\xff\xff"],
    max_size=KIB,
)
QUIC_TLS_CLIENT = Target(
    "quic-tls-client",
    _quic_tls_client,
    (QuicTlsBridgeError,),
    seeds=[
        b"\x00",
        b"\x07",
        b"\x00" + record(FLIP, b"\x00\x30\x01"),
        b"\x00" + record(PASS) + record(FLIP, b"\x00\x10\x01"),
        b"\x00" + record(PASS) + record(CUT, b"\x00\x60"),
        b"\x00" + record(PASS) + record(REPLACE, b"\x08\x00\x00\x02\x00\x00"),
        b"\x00" + record(PASS) + record(REPLACE, _COMPRESSED_CERTIFICATE),
    ],
    tokens=[b"\x08\x00\x00\x02\x00\x00", b"\x0b\x00\x00\x04\x00\x00\x00\x00", b"\x0f\x00\x00\x00"],
    max_size=KIB,
)  # fmt: skip
QUIC_DATAGRAMS = Target(
    "quic-datagrams",
    _quic_datagrams,
    (RemoteProtocolError,),
    seeds=[
        b"\x00",
        b"\x01",
        b"\x01" + record(FLIP, b"\x00\x05\x01") * 4,
        b"\x00" + record(REPLACE, b"\xc0\x00\x00\x00\x01\x08" + bytes(40)) * 2,
        b"\x01" + record(REPLACE, b"\xc0\x00\x00\x00\x00\x08" + bytes(40)) * 2,
        b"\x01" + record(REPLACE, b"\xf0\x00\x00\x00\x01\x08" + bytes(60)) * 2,
        b"\x00" + record(CUT, b"\x04\xb0") * 3,
    ],
    tokens=[b"\xc0\x00\x00\x00\x01", b"\xf0\x00\x00\x00\x01", b"\x40", b"\xc0\x00\x00\x00\x00"],
    max_size=KIB,
)
RETRY_TOKEN = Target(
    "quic-retry-token",
    _retry_token,
    (),
    seeds=[b"\x01", b"\x01" + record(FLIP, b"\x00\x05\x01"), b"\x00" + bytes(50)],
    max_size=256,
)
