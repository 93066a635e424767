from __future__ import annotations

import datetime
import logging
from dataclasses import replace
from typing import Any, cast

import pytest
from cryptography import x509
from qh3 import tls
from qh3._hazmat import Buffer
from qh3.quic import events
from qh3.quic.connection import QuicConnection
from qh3.quic.packet import pull_quic_transport_parameters
from qh3.quic.tls_bridge import QuicTlsBridge, QuicTlsBridgeError, QuicTlsCryptoData

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.config import Timeouts
from lattica.nat.quic.qh3.core import (
    INITIAL_DATAGRAM,
    MAX_HANDSHAKE_BYTES,
    MAX_STREAMS,
    MIN_DATAGRAM,
    Certificate,
    QuicCore,
    client_core,
    idle_timeout,
    server_certificate_hash,
    server_core,
    server_datagram_size,
)

CLIENT, SERVER = ("192.0.2.1", 4242), ("192.0.2.2", 4001)
CERTIFICATE = Certificate.generate()
TIMEOUTS = Timeouts()
CRYPTO_ERROR = 0x100


def a_client(size: int = INITIAL_DATAGRAM) -> QuicCore:
    client = client_core(timeouts=TIMEOUTS, max_datagram_size=size)
    client.connect(SERVER, 0.0)
    return client


def a_server(
    client: QuicConnection, certificate: Certificate = CERTIFICATE, size: int = MIN_DATAGRAM
) -> QuicCore:
    return server_core(
        certificate,
        original_destination_cid=client.original_destination_connection_id,
        timeouts=TIMEOUTS,
        max_datagram_size=size,
    )


class Wire:
    """Joins two ends; every call of :meth:`run` lets time pass until nothing moves."""

    def __init__(self, client: QuicConnection, server: QuicConnection) -> None:
        self.client, self.server = client, server
        self.now = 0.0
        self.sizes: dict[QuicConnection, list[int]] = {client: [], server: []}

    def run(self, steps: int = 30) -> None:
        for _ in range(steps):
            moved = False
            for sender, receiver, source in (
                (self.client, self.server, CLIENT),
                (self.server, self.client, SERVER),
            ):
                # Sending first: a core that was told to close counts from when it last
                # heard the time, and its timer may be over before its farewell is sent.
                for data, _ in sender.datagrams_to_send(self.now):
                    moved = True
                    self.sizes[sender].append(len(data))
                    receiver.receive_datagram(data, source, self.now)
                for end in (sender, receiver):
                    timer = end.get_timer()
                    if timer is not None and timer <= self.now:
                        end.handle_timer(self.now)
            self.now += 0.03
            if not moved and self.now > 0.3:
                return


def joined(size: int = INITIAL_DATAGRAM, server_size: int = MIN_DATAGRAM) -> Wire:
    client = a_client(size)
    wire = Wire(client, a_server(client, size=server_size))
    wire.run()
    assert client.end is None
    return wire


def taken(core: QuicConnection) -> list[events.QuicEvent]:
    got = []
    while (event := core.next_event()) is not None:
        got.append(event)
    return got


# --- certificates ---


def test_a_certificate_tells_nothing_and_does_not_expire() -> None:
    certificate = Certificate.generate()
    parsed = x509.load_der_x509_certificate(certificate.der)
    assert parsed.subject == parsed.issuer
    assert parsed.subject.rfc4514_string() == "CN=lattica"
    assert len(list(parsed.extensions)) == 0
    assert parsed.not_valid_before_utc <= datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    assert parsed.not_valid_after_utc.year == 9999
    assert certificate.sha256 != Certificate.generate().sha256
    assert "private_key" not in repr(certificate)


# --- handshakes ---


def test_handshake_and_the_hash_on_both_sides() -> None:
    client = a_client()
    server = a_server(client)
    for core in (client, server):
        assert not core.handshake_complete
        with pytest.raises(LocalProtocolError):
            server_certificate_hash(core)
    Wire(client, server).run()
    assert server_certificate_hash(client) == CERTIFICATE.sha256
    assert server_certificate_hash(server) == CERTIFICATE.sha256
    for core in (client, server):
        [done] = [e for e in taken(core) if isinstance(e, events.HandshakeCompleted)]
        assert done.alpn_protocol == "lattica/1"
        assert not done.early_data_accepted
        assert not done.session_resumed
        assert core.get_cipher() in (
            tls.CipherSuite.AES_128_GCM_SHA256,
            tls.CipherSuite.CHACHA20_POLY1305_SHA256,
        )
        assert core.end is None


def test_the_first_flight_is_one_datagram() -> None:
    """So a server that has seen it knows all it needs, or nothing."""
    [(first, _)] = a_client().datagrams_to_send(0.0)
    assert MIN_DATAGRAM <= len(first) <= INITIAL_DATAGRAM


def test_ipv6() -> None:
    client = client_core(timeouts=TIMEOUTS)
    client.connect(("2001:db8::2", 4001, 0, 0), 0.0)
    [(data, addr)] = client.datagrams_to_send(0.0)
    assert addr[:2] == ("2001:db8::2", 4001)
    server = a_server(client)
    server.receive_datagram(data, ("2001:db8::1", 4242, 0, 0), 0.0)
    assert server.datagrams_to_send(0.0)


def test_transport_parameters() -> None:
    wire = joined()
    for core, other in ((wire.client, wire.server), (wire.server, wire.client)):
        assert core._tls is not None
        assert other._tls is not None
        got = core._tls.remote_transport_parameters
        assert got is not None
        assert got == pull_quic_transport_parameters(
            Buffer(data=other._tls.serialize_transport_parameters())
        )
        assert got.initial_max_streams_bidi == MAX_STREAMS
        assert got.initial_max_streams_uni == 0
        assert got.initial_max_data == 32 << 20
        assert got.initial_max_stream_data_bidi_local == 16 << 20
        assert got.initial_max_stream_data_bidi_remote == 16 << 20
        assert got.max_idle_timeout == idle_timeout(TIMEOUTS) * 1000
        assert got.max_datagram_frame_size == 65535
        assert got.active_connection_id_limit == 4
        assert core.max_concurrent_bidi_streams == MAX_STREAMS
        assert core.max_concurrent_uni_streams == 0


def test_data_both_ways_and_datagrams() -> None:
    wire = joined()
    wire.client.send_stream_data(0, b"question", end_stream=True)
    wire.server.send_stream_data(1, b"of its own")
    wire.client.send_datagram_frame(b"datagram")
    wire.run()
    got = taken(wire.server)
    assert events.StreamDataReceived(b"question", True, 0) in got
    assert events.DatagramFrameReceived(b"datagram") in got
    assert events.StreamDataReceived(b"of its own", False, 1) in taken(wire.client)


def test_thousands_of_streams() -> None:
    wire = joined()
    for i in range(1000):
        wire.client.send_stream_data(4 * i, b"x", end_stream=True)
    wire.run(100)
    ids = {e.stream_id for e in taken(wire.server) if isinstance(e, events.StreamDataReceived)}
    assert len(ids) == 1000


def test_a_unidirectional_stream_ends_the_connection() -> None:
    wire = joined()
    core = wire.client._core
    assert core is not None
    assert wire.client._tls is not None
    # A client that does not care that the server allows none.
    parameters = wire.client._tls.remote_transport_parameters
    assert parameters is not None
    parameters.initial_max_streams_uni = 10
    parameters.initial_max_stream_data_uni = 1000
    wire.client._applied_transport_parameters = None
    wire.client._drain_tls()
    wire.client.send_stream_data(2, b"hello")
    wire.run()
    assert isinstance(wire.server, QuicCore)
    assert wire.server.end is not None
    assert wire.server.end.error_code == 4  # STREAM_LIMIT_ERROR


def test_no_session_tickets_and_no_early_data() -> None:
    """The server gives none out, so there is nothing to resume."""
    wire = joined()
    for core in (wire.client, wire.server):
        assert core._tls is not None
        assert core._tls._output_offsets[tls.Epoch.ONE_RTT] == 0
        assert core._tls._input_offsets[tls.Epoch.ONE_RTT] == 0


def test_a_session_ticket_is_ignored() -> None:
    wire = joined()
    ticket = tls.NewSessionTicket(
        ticket_lifetime=86400, ticket_age_add=1, ticket_nonce=b"", ticket=bytes(64)
    )
    buffer = Buffer(capacity=1024)
    tls.push_new_session_ticket(buffer, ticket)
    core = wire.server._core
    assert core is not None
    core.send_crypto(int(tls.Epoch.ONE_RTT), 0, buffer.data)
    wire.run()
    assert wire.client._close_event is None
    assert wire.client.configuration.session_ticket is None


@pytest.mark.parametrize("size", [MIN_DATAGRAM, INITIAL_DATAGRAM])
def test_a_client_whose_address_changes(size: int) -> None:
    """A NAT has forgotten it: the server checks the new address, and answers there."""
    wire = joined(size, size)
    moved = ("192.0.2.77", 5555)
    wire.client.send_stream_data(0, bytes(3000))
    answered: set[tuple[str, int]] = set()
    for _ in range(20):
        for data, _ in wire.client.datagrams_to_send(wire.now):
            wire.server.receive_datagram(data, moved, wire.now)
        if wire.server.next_event() is not None:
            wire.server.send_stream_data(0, b"answer")
        for data, addr in wire.server.datagrams_to_send(wire.now):
            answered.add(addr[:2])
            wire.client.receive_datagram(data, SERVER, wire.now)
        wire.now += 0.03
    assert moved in answered
    assert any(isinstance(e, events.StreamDataReceived) for e in taken(wire.client))
    assert wire.server._close_event is None
    assert wire.server._core is not None
    assert wire.server._core.active_path[2][:2] == moved


# --- attacks on TLS ---


def test_a_server_without_the_key_of_its_certificate() -> None:
    """Nobody is asked who signed a certificate, so the signature with its key is all there is."""
    own = Certificate.generate()
    stolen = replace(CERTIFICATE, private_key=own.private_key)
    client = a_client()
    server = a_server(client, stolen)
    Wire(client, server).run()
    assert not client.handshake_complete
    assert client.end is not None
    assert client.end.error_code == CRYPTO_ERROR + tls.AlertDescription.decrypt_error
    with pytest.raises(LocalProtocolError):
        server_certificate_hash(client)
    assert not server.handshake_complete


def test_a_signature_from_another_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one of the right key: it covers this handshake's transcript."""
    signatures: list[bytes] = []

    class Key:
        """Signs the first handshake honestly, and repeats that in the next."""

        curve_type = 256

        def sign(self, data: bytes, *parameters: Any) -> bytes:
            if not signatures:
                signatures.append(CERTIFICATE.private_key.sign(data, *parameters))
            return signatures[0]

    monkeypatch.setattr(tls, "EcPrivateKey", Key)
    replaying = replace(CERTIFICATE, private_key=cast(Any, Key()))
    outcomes = []
    for _ in range(2):
        client = a_client()
        Wire(client, a_server(client, replaying)).run()
        outcomes.append(client.handshake_complete)
    assert outcomes == [True, False]


@pytest.mark.parametrize("protocols", [None, ["h3"], ["lattica/2"], ["lattica"]])
def test_a_client_with_another_protocol_is_refused(protocols: list[str] | None) -> None:
    client = client_core(timeouts=TIMEOUTS)
    client.configuration.alpn_protocols = protocols
    client.connect(SERVER, 0.0)
    server = a_server(client)
    Wire(client, server).run()
    assert not client.handshake_complete
    assert not server.handshake_complete
    assert server.end is not None
    assert "ALPN" in server.end.reason_phrase


@pytest.mark.parametrize("protocol", [None, "h3", "lattica/2"])
def test_a_server_with_another_protocol_is_refused(protocol: str | None) -> None:
    """Whatever the client offered, this server chooses that, or nothing."""

    class Bridge(QuicTlsBridge):
        def _on_alpn(self, alpn_protocol: str | None) -> None:
            super()._on_alpn(alpn_protocol)
            self.tls.alpn_negotiated = protocol

    client = a_client()
    server = a_server(client)

    def create(remote_source_cid: bytes | None) -> QuicTlsBridge:
        server._tls = Bridge(
            server.configuration,
            version=1,
            local_initial_source_connection_id=server.host_cid,
            original_destination_connection_id=server.original_destination_connection_id,
        )
        return server._tls

    server._create_tls = create  # type: ignore[method-assign]
    Wire(client, server).run()
    assert not client.handshake_complete
    assert client.end is not None
    assert client.end.error_code == CRYPTO_ERROR + 120
    assert "lattica/1" in client.end.reason_phrase


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x00\x00\x00",
        b"\x01\x00\x00\x01\x03",
        b"\x01\x00\x00\x02\x03\x03",
        b"\x02\x00\x00\x00",
        b"\x14\x00\x00\x01x",
        b"\x01\x00\x00\x26\x03\x03" + bytes(36),
        b"\x01\x00\x00\x29\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00",
    ],
)
def test_malformed_tls_messages(data: bytes) -> None:
    """In a genuine Initial packet. qh3 alone lets its parsers' errors out of the connection."""
    client = client_core(timeouts=TIMEOUTS)
    create = client._create_tls

    def create_bad(remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = create(remote_source_cid)
        hello = QuicTlsCryptoData(tls.Epoch.INITIAL, 0, data)
        messages = iter([hello])
        bridge.next_crypto_data = lambda: next(messages, None)  # type: ignore[method-assign]
        return bridge

    client._create_tls = create_bad  # type: ignore[method-assign]
    client.connect(SERVER, 0.0)
    server = a_server(client)
    wire = Wire(client, server)
    wire.run()
    assert server.end is not None
    assert server.end.error_code > CRYPTO_ERROR
    # And the client is told.
    assert client.end is not None
    assert client.end.error_code == server.end.error_code


@pytest.mark.parametrize("pieces", [1, 100])
def test_an_endless_tls_message_is_not_collected(pieces: int) -> None:
    client = a_client()
    server = a_server(client)
    server._version, server._remote_addr = 1, CLIENT
    server._create_core(CLIENT, client.original_destination_connection_id, 0.0)
    bridge = server._create_tls(remote_source_cid=client.host_cid)
    size = (MAX_HANDSHAKE_BYTES + 100) // pieces
    bridge.receive_crypto(tls.Epoch.INITIAL, b"\x01\xff\xff\xff", 0)
    with pytest.raises(QuicTlsBridgeError, match="too long"):  # noqa: PT012
        for _ in range(pieces + 1):
            bridge.receive_crypto(tls.Epoch.INITIAL, bytes(size))
    assert len(bridge.tls._receive_buffer) <= MAX_HANDSHAKE_BYTES


def test_a_compressed_certificate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a Brotli module is installed: nothing is decompressed for a stranger."""

    class Brotli:
        @staticmethod
        def decompress(data: bytes) -> bytes:
            raise AssertionError(f"{len(data)} bytes decompressed")

    monkeypatch.setattr(tls, "_brotli", Brotli)
    client = a_client()
    assert client._tls is not None
    context = client._tls.tls
    assert context._compress_certificate_algorithms is None
    context.state = tls.State.CLIENT_EXPECT_CERTIFICATE_REQUEST_OR_CERTIFICATE
    message = b"\x00\x02" + b"\xff\xff\xff" + b"\x00\x00\x05small"
    with pytest.raises(QuicTlsBridgeError, match="not offered"):
        client._tls.receive_crypto(
            tls.Epoch.HANDSHAKE, b"\x19" + len(message).to_bytes(3, "big") + message
        )


# --- what comes from the network ---


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 20, bytes(1200), b"\xc0" + bytes(1300)])
def test_strange_datagrams_change_nothing(data: bytes) -> None:
    wire = joined()
    client = a_client()
    server = a_server(client)
    for core in (client, server, wire.client, wire.server):
        core.receive_datagram(data, SERVER, wire.now)
        assert core._close_event is None


def test_errors_of_the_core_are_the_peers() -> None:
    wire = joined()
    core = wire.client
    assert isinstance(core, QuicCore)

    class Broken:
        def __getattr__(self, name: str) -> object:
            def fail(*_: object) -> None:
                if name.startswith("receive"):
                    raise RuntimeError("native error")

            return fail

    core._core = Broken()  # type: ignore[assignment]
    with pytest.raises(RemoteProtocolError, match="native error"):
        core.receive_datagram(b"x", SERVER, 1.0)
    assert core.end is not None


def test_the_end_is_known_at_once_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = joined()
    with caplog.at_level(logging.DEBUG):
        wire.client.close(7, reason_phrase="enough\nof this")
        wire.run()
    assert isinstance(wire.server, QuicCore)
    assert wire.server.end is not None
    assert wire.server.end.error_code == 7
    assert wire.server.end.reason_phrase == "enough\nof this"
    assert not caplog.records
    # Other messages of that logger, which is also aioquic's, still come through.
    logging.getLogger("quic").warning("something else")
    assert len(caplog.records) == 1


def test_idle_timeout() -> None:
    wire = joined()
    wire.now += idle_timeout(TIMEOUTS) + 1
    wire.server.handle_timer(wire.now)
    assert any(isinstance(e, events.ConnectionTerminated) for e in taken(wire.server))


# --- sizes of datagrams ---


def test_a_server_mirrors_the_first_datagram() -> None:
    assert server_datagram_size(9000) == INITIAL_DATAGRAM
    assert server_datagram_size(1250) == 1250
    assert server_datagram_size(100) == MIN_DATAGRAM


def test_no_handshake_datagram_is_larger_than_the_first() -> None:
    """Whatever is configured: so sizes that do not pass cannot prevent a connection."""
    client = a_client(9000)
    wire = Wire(client, a_server(client, size=9000))
    wire.run()
    assert client.handshake_complete
    assert max(wire.sizes[client]) <= INITIAL_DATAGRAM
    assert max(wire.sizes[wire.server]) <= INITIAL_DATAGRAM


def test_a_client_probes_for_larger_datagrams() -> None:
    wire = joined()
    # The largest size that it probes for below what the server takes.
    assert max(wire.sizes[wire.client]) == 1452
    assert max(wire.sizes[wire.server]) <= MIN_DATAGRAM


def test_a_client_comes_down_when_the_first_datagram_is_lost() -> None:
    client = a_client()
    [(first, _)] = client.datagrams_to_send(0.0)
    assert len(first) == INITIAL_DATAGRAM
    timer = client.get_timer()
    assert timer is not None
    client.handle_timer(timer)
    again = client.datagrams_to_send(timer)
    assert again
    assert {len(data) for data, _ in again} == {MIN_DATAGRAM}
    server = a_server(client)
    server.receive_datagram(again[0][0], CLIENT, timer)
    for data, _ in server.datagrams_to_send(timer):
        assert len(data) <= MIN_DATAGRAM
        client.receive_datagram(data, SERVER, timer)
    assert client.handshake_complete
