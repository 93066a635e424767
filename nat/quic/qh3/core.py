"""QUIC connections as Lattica uses them: limits, TLS settings, certificates.

qh3 implements QUIC v1 (RFC 9000, 9001, 9002, 9221) without I/O; this module sets it up. TLS
is there because QUIC needs it, and proves nothing about the peer: certificates are made up
for the life of a process. Who the peer is, :mod:`lattica.nat.quic.session.noise` proves on
stream 0, bound to this connection by the hash of the server's certificate. That binding is
sound because TLS 1.3 has the server sign the handshake with the certificate's key, which qh3's
client verifies whatever its `verify_mode` is (a test attacks it).
"""

from __future__ import annotations

import datetime
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from ssl import CERT_NONE
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from qh3 import tls
from qh3._hazmat import Buffer, EcPrivateKey, QuicConnectionCore
from qh3._hazmat import Certificate as Qh3Certificate
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import NetworkAddress, QuicConnection, QuicConnectionError
from qh3.quic.events import ConnectionTerminated
from qh3.quic.packet import (
    QuicErrorCode,
    QuicTransportParameters,
    QuicVersionInformation,
    push_quic_transport_parameters,
)
from qh3.quic.tls_bridge import QuicTlsBridge, QuicTlsBridgeError

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.config import KIB, MAX_PATIENCE, MIB, Timeouts

ALPN = "lattica/1"
"""The application protocol; whoever speaks another one is refused, on both sides."""
CONNECTION_ID_SIZE = 8
"""Bytes. Enough that random IDs do not collide and cannot be guessed."""
MAX_STREAMS = 8192
"""Streams the peer may have open, as `Limits.max_streams_per_connection`. QUIC's own limit
is only the backstop: which streams are served, the session above decides."""
MAX_CONNECTION_DATA = 32 * MIB
"""Bytes in flight and unread by us, over all streams of a connection: 100 MB/s at 300 ms, with
room. qh3 renews this credit whatever the application reads, so it bounds the reordering
buffer; what the application has not read is bounded by the session's own credit."""
MAX_STREAM_DATA = 16 * MIB
"""The same for one stream: as large as yamux's largest window, so that a stream is never held
back here before the session holds it back."""
MAX_DATAGRAM_FRAME = 65535
"""Largest DATAGRAM frame accepted (RFC 9221); a frame never exceeds a packet anyway."""
MAX_CONNECTION_IDS = 4
"""Connection IDs the peer may give us: one in use, the others for other paths."""
MAX_HANDSHAKE_BYTES = 64 * KIB
"""TLS bytes per encryption level. TLS allows messages of 16 MiB, and whoever can send one
packet could have us buffer them; ours are 1 KiB."""
MIN_DATAGRAM = 1200
"""What every path that carries QUIC must carry (RFC 9000, section 14)."""
INITIAL_DATAGRAM = 1280
"""Size of the datagrams a client begins with, all of the handshake's included. qh3's client falls
back to 1,200 when nothing comes back, so a completed handshake proves the size; later it probes
for 1,350, 1,452 and (IPv4) 1,472. qh3's server can neither probe nor fall back."""
PAYLOAD_LIMIT = {4: 1466, 6: 1446}
"""Largest datagram that we let a peer send us, by IP version: what Ethernet carries, less what
:mod:`lattica.nat.quic.fec.codec` adds. So the search for the path's size ends where packets can
still be protected."""
IDLE_MARGIN = 2.0
"""Seconds beyond the longest silence that the session allows (:func:`idle_timeout`) until qh3 gives
up by itself, which it does without a word to anybody: the session is to notice first."""
INITIAL_RTT = 0.1
"""Seconds assumed before the first measurement. The RFC's 333 ms makes a lost first packet cost
a second; at 100 ms it costs 0.3 s, and on longer paths a spurious packet or two."""

_HANDSHAKE_PARAMETERS_CAPACITY = 1 * KIB
_NOT_BEFORE = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_DECODE_ERROR = 50
_NO_APPLICATION_PROTOCOL = 120

# AES-128 is the fastest where processors have instructions for it; nearly all have.
_CIPHERS = [tls.CipherSuite.AES_128_GCM_SHA256, tls.CipherSuite.CHACHA20_POLY1305_SHA256]


class _PeerCloses(logging.Filter):
    """Drops qh3's warning about every connection that a peer closes.

    The logger `quic` is also aioquic's, hence neither its level nor other messages change.
    The reason is in :attr:`QuicCore.end`, for the session to log as it sees fit.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.funcName != "_drain_core"


logging.getLogger("quic").addFilter(_PeerCloses())


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's key with a certificate that it signed itself."""

    der: bytes
    sha256: bytes
    """SHA-256 of :attr:`der`, 32 bytes."""
    parsed: Qh3Certificate = field(repr=False)
    private_key: EcPrivateKey = field(repr=False)

    @staticmethod
    def generate() -> Certificate:
        """Make a key (ECDSA P-256) and a certificate that says nothing about this machine.

        Valid from 2000 to 9999: a node whose clock is wrong can still be connected to.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lattica")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .sign(key, hashes.SHA256())
        )
        settings = QuicConfiguration(is_client=False)
        settings.load_cert_chain(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
        assert settings.certificate is not None
        assert isinstance(settings.private_key, EcPrivateKey)
        der = certificate.public_bytes(serialization.Encoding.DER)
        return Certificate(
            der, hashlib.sha256(der).digest(), settings.certificate, settings.private_key
        )


class QuicCore(QuicConnection):
    """One QUIC connection, without I/O: qh3's, with our limits and TLS settings.

    Made by :func:`client_core` and :func:`server_core`. Of qh3's methods those that take
    bytes from the network raise :class:`RemoteProtocolError` and nothing else; the
    connection is closing then, and :meth:`datagrams_to_send` may still have a farewell.
    Most violations raise nothing and close the connection: see :attr:`end`.
    """

    reset_token_of: Callable[[bytes], bytes] | None = None
    """Makes the token of stateless resets for a connection ID of ours; None: there are none."""

    @property
    def reset_token(self) -> bytes | None:
        """The token of our resets."""
        return None if self.reset_token_of is None else self.reset_token_of(self.host_cid)

    @property
    def peer_reset_token(self) -> bytes | None:
        """The token of the peer's resets, as a server tells it by TLS."""
        parameters = None if self._tls is None else self._tls.remote_transport_parameters
        return None if parameters is None else parameters.stateless_reset_token

    @property
    def end(self) -> ConnectionTerminated | None:
        """Why the connection is over or is being closed, by whichever side; None: it is not.

        There at once, while the event of the same name comes when the connection is drained.
        """
        return self._close_event

    @property
    def handshake_complete(self) -> bool:
        """TLS is done, so what is sent and received is encrypted for this one peer."""
        return self._handshake_complete

    def traffic_secret(self, *, sent: bool) -> tuple[tls.CipherSuite, bytes]:
        """With what the packets that are sent, or those that are received, were encrypted first,
        once the handshake is complete.
        """
        bridge = self._tls
        assert bridge is not None
        suite = bridge.cipher_suite
        secret = bridge.tls._enc_key if sent else bridge.tls._dec_key
        assert suite is not None
        assert secret is not None
        return suite, secret

    @property
    def crypto_received(self) -> int:
        """Bytes of what TLS says that have come in order since the handshake."""
        return 0 if self._tls is None else self._tls._input_offsets[tls.Epoch.ONE_RTT]

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        try:
            super().receive_datagram(data, addr, now)
        except (QuicConnectionError, ValueError) as error:
            self._fail(error)

    def let_go(self) -> None:
        """Nothing is received any more: hold nothing that holds this, so that it is freed at once.

        What the native core has of a connection waited for the cycle collector, which looks at what
        has lived for long only once a quarter as much has come.
        """
        if isinstance(self._tls, _TlsBridge):
            self._tls.let_go()

    def _fail(self, error: Exception) -> NoReturn:
        self.close(QuicErrorCode.PROTOCOL_VIOLATION)
        raise RemoteProtocolError(f"QUIC: {error}") from None

    # The two methods below replace qh3's, where the numbers of streams are constants.

    def _create_core(self, remote_addr: NetworkAddress, initial_dcid: bytes, now: float) -> None:
        settings = self._configuration
        assert self._version is not None
        assert settings.active_connection_id_limit is not None
        self._core = QuicConnectionCore(
            is_client=self._is_client,
            version=self._version,
            local_addr=("0.0.0.0", 0),
            remote_addr=remote_addr,
            source_cid=self.host_cid,
            destination_cid=initial_dcid,
            peer_address_validated=(
                self._is_client or self._retry_source_connection_id is not None
            ),
            active_connection_id_limit=settings.active_connection_id_limit,
            max_datagram_size=settings.max_datagram_size,
            probe_datagram_size=settings.probe_datagram_size,
            idle_timeout=settings.idle_timeout,
            ack_delay_exponent=3,
            max_datagram_frame_size=settings.max_datagram_frame_size,
            peer_max_datagram_frame_size=None,
            connection_receive_window=settings.max_data,
            connection_send_limit=0,
            stream_receive_window=settings.max_stream_data,
            stream_send_limit_bidi_local=0,
            stream_send_limit_bidi_remote=0,
            stream_send_limit_uni=0,
            max_stream_reassembly=settings.max_stream_data,
            local_max_streams_bidi=MAX_STREAMS,
            local_max_streams_uni=0,
            peer_max_streams_bidi=0,
            peer_max_streams_uni=0,
            initial_rtt=settings.initial_rtt,
            max_ack_delay=0.025,
            initial_time=now,
        )
        self._applied_transport_parameters = None
        self._pre_handshake_state_replayed = False

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        assert self._version is not None
        assert self._remote_addr is not None
        self._tls = _TlsBridge(
            payload_limit(self._remote_addr[0]),
            self._configuration,
            version=self._version,
            local_initial_source_connection_id=self.host_cid,
            remote_initial_source_connection_id=remote_source_cid,
            original_destination_connection_id=self._original_destination_connection_id,
            retry_source_connection_id=self._retry_source_connection_id,
            stateless_reset_token=None if self._is_client else self.reset_token,
            version_change_handler=self._set_version,
        )
        return self._tls


class _TlsBridge(QuicTlsBridge):
    """qh3's TLS half with our transport parameters and without what we do not use."""

    def __init__(self, payload_limit: int, *args: Any, **kwargs: Any) -> None:
        self._payload_limit = payload_limit  # of the parameters, which are serialized at once
        super().__init__(*args, **kwargs)
        # The hybrid with ML-KEM would make the client's first flight two datagrams, and a
        # server keep state for one that sent half of it. Noise over TCP is X25519 as well.
        self.tls._supported_groups = [tls.Group.X25519]
        # If a Brotli module happens to be installed, qh3 would decompress certificates of
        # any size for a server that nobody has authenticated.
        self.tls._compress_certificate_algorithms = None
        self.tls._client_handle_compressed_certificate = (  # type: ignore[method-assign]
            _refuse_compressed_certificate
        )

    def let_go(self) -> None:
        """Call nobody any more, and be called by nobody."""
        self._version_change_handler = None
        self.tls.alpn_cb = None
        self.tls.update_traffic_key_cb = lambda *_: None

    def serialize_transport_parameters(self) -> bytes:
        settings = self.configuration
        client = settings.is_client
        parameters = QuicTransportParameters(
            ack_delay_exponent=3,
            active_connection_id_limit=settings.active_connection_id_limit,
            max_idle_timeout=int(settings.idle_timeout * 1000),
            initial_max_data=settings.max_data,
            initial_max_stream_data_bidi_local=settings.max_stream_data,
            initial_max_stream_data_bidi_remote=settings.max_stream_data,
            initial_max_stream_data_uni=0,
            initial_max_streams_bidi=MAX_STREAMS,
            initial_max_streams_uni=0,
            initial_source_connection_id=self.local_initial_source_connection_id,
            max_ack_delay=25,
            max_datagram_frame_size=settings.max_datagram_frame_size,
            max_udp_payload_size=self._payload_limit,
            version_information=QuicVersionInformation(
                chosen_version=self.version, available_versions=settings.supported_versions
            ),
            original_destination_connection_id=(
                None if client else self.original_destination_connection_id
            ),
            retry_source_connection_id=None if client else self.retry_source_connection_id,
            stateless_reset_token=None if client else self.stateless_reset_token,
        )
        buffer = Buffer(capacity=_HANDSHAKE_PARAMETERS_CAPACITY)
        push_quic_transport_parameters(buffer, parameters)
        return buffer.data

    def receive_crypto(
        self,
        epoch: tls.Epoch,
        data: bytes,
        offset: int | None = None,
        *,
        version: int | None = None,
    ) -> None:
        if self._input_offsets.get(epoch, 0) + len(data) > MAX_HANDSHAKE_BYTES:
            raise QuicTlsBridgeError(
                QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, "the TLS handshake is too long"
            )
        super().receive_crypto(epoch, data, offset, version=version)

    def _handle_tls(self, data: bytes, epoch: tls.Epoch) -> None:
        try:
            super()._handle_tls(data, epoch)
        except QuicTlsBridgeError:
            raise
        except Exception as error:
            # qh3's parsers raise whatever comes up (IndexError, TypeError, errors of its
            # native classes) for messages that are not what they should be.
            raise QuicTlsBridgeError(
                QuicErrorCode.CRYPTO_ERROR + _DECODE_ERROR, f"malformed TLS message: {error!r}"
            ) from None

    def _on_alpn(self, alpn_protocol: str | None) -> None:
        # qh3's server refuses by itself; its client accepts any protocol, or none.
        if alpn_protocol != ALPN:
            raise QuicTlsBridgeError(
                QuicErrorCode.CRYPTO_ERROR + _NO_APPLICATION_PROTOCOL,
                f"the peer does not speak {ALPN}",
            )
        super()._on_alpn(alpn_protocol)


def _refuse_compressed_certificate(input_buf: Buffer) -> None:
    del input_buf
    raise tls.AlertUnexpectedMessage("compressed certificates were not offered")


def payload_limit(host: str) -> int:
    """Largest datagram that goes to or comes from `host`, a numeric IP address."""
    return PAYLOAD_LIMIT[ip_address(host.partition("%")[0]).version]


def client_core(*, timeouts: Timeouts, max_datagram_size: int = INITIAL_DATAGRAM) -> QuicCore:
    """The dialing side; its `connect(addr, now)` begins the handshake.

    Args:
        timeouts: for the connection's :func:`idle_timeout`.
        max_datagram_size: bytes of the first datagrams; see :func:`server_datagram_size`.
    """
    return QuicCore(configuration=_settings(timeouts, max_datagram_size, is_client=True))


def server_core(
    certificate: Certificate,
    *,
    original_destination_cid: bytes,
    retry_source_cid: bytes | None = None,
    timeouts: Timeouts,
    max_datagram_size: int = MIN_DATAGRAM,
) -> QuicCore:
    """The listening side, for one client's first Initial packet.

    Args:
        original_destination_cid: the destination connection ID of that packet; if it came
            with a Retry token, what the token says.
        retry_source_cid: what the token says, which must be the packet's destination
            connection ID. The client's address counts as validated then.
        timeouts: for the connection's :func:`idle_timeout`.
        max_datagram_size: bytes of every datagram sent; see :func:`server_datagram_size`.
    """
    settings = _settings(timeouts, max_datagram_size, is_client=False)
    settings.certificate = certificate.parsed
    settings.private_key = certificate.private_key
    return QuicCore(
        configuration=settings,
        original_destination_connection_id=original_destination_cid,
        retry_source_connection_id=retry_source_cid,
    )


def server_datagram_size(received: int) -> int:
    """The `max_datagram_size` for a server whose client's first datagram has this size.

    What the path carries one way it almost always carries the other way. A client on a narrower
    path comes down to 1,200 by itself, and its server then does too.
    """
    return max(MIN_DATAGRAM, min(received, INITIAL_DATAGRAM))


def server_certificate_hash(core: QuicCore) -> bytes:
    """SHA-256 of the certificate this connection's server proved to hold, on either side.

    Raises:
        LocalProtocolError: the TLS handshake is not complete.
    """
    if not core.handshake_complete:
        raise LocalProtocolError("QUIC: the TLS handshake is not complete")
    certificate = (
        core.get_peercert() if core.configuration.is_client else core.configuration.certificate
    )
    assert certificate is not None
    return hashlib.sha256(certificate.public_bytes()).digest()


def idle_timeout(timeouts: Timeouts) -> float:
    """QUIC's own, in seconds; of the two sides' the shorter one counts."""
    return max(timeouts.keep_alive_timeout, MAX_PATIENCE) + IDLE_MARGIN


def _settings(timeouts: Timeouts, max_datagram_size: int, *, is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        verify_mode=CERT_NONE,
        cipher_suites=_CIPHERS,
        signature_algorithms=[tls.SignatureAlgorithm.ECDSA_SECP256R1_SHA256],
        connection_id_length=CONNECTION_ID_SIZE,
        active_connection_id_limit=MAX_CONNECTION_IDS,
        idle_timeout=idle_timeout(timeouts),
        initial_rtt=INITIAL_RTT,
        max_data=MAX_CONNECTION_DATA,
        max_stream_data=MAX_STREAM_DATA,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME,
        max_datagram_size=max_datagram_size,
        probe_datagram_size=True,
    )
