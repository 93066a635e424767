"""Who is at the other end of a QUIC connection: Noise XX on its stream 0, without I/O.

QUIC's TLS authenticates nobody here (:mod:`lattica.nat.quic.qh3.core`). So before anything else,
the two sides send on stream 0 the three messages of `Noise_XX_25519_ChaChaPoly_SHA256`, each
after its length in two big-endian bytes, with libp2p's identity payloads (specs/noise). The
client is the initiator. The prologue has the hash of the server's TLS certificate::

    prologue = "lattica-quic/1" || SHA-256(certificate, DER) [ || network binding ]

Messages relayed by somebody in the middle, who can only have a certificate of his own, do not
decrypt. The keys of Noise are not used afterwards: TLS encrypts, and what it protects now has
a name.

With a private network key (32 bytes), the first message's payload is a proof of the key, and
a responder that is not convinced says nothing at all; the prologue ends with the binding, so
an initiator tells its identity only to somebody with the key::

    proof   = HMAC-SHA256(key, "lattica-quic/1 initiator" || certificate hash || ephemeral)
    binding = HMAC-SHA256(key, "lattica-quic/1 prologue" || certificate hash)

The ephemeral is that of the first message. A proof is good for one certificate and one
ephemeral: who saw it elsewhere gains nothing, and who replays it cannot read the answer.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lattica.nat.base.errors import LocalProtocolError, PeerMismatchError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.secure.noise import (
    KEY_SIZE,
    MAX_HANDSHAKE_MESSAGE,
    MessageReader,
    XXHandshake,
    frame,
)
from lattica.nat.secure.noise_identity import RemoteIdentity, make_payload, verify_payload

PROLOGUE = b"lattica-quic/1"
CERTIFICATE_HASH_SIZE = 32

_PROOF_CONTEXT = b"lattica-quic/1 initiator"
_BINDING_CONTEXT = b"lattica-quic/1 prologue"


class QuicNoise:
    """One side of the exchange.

    Send what :meth:`data_to_send` returns, :meth:`feed` what stream 0 brings, and repeat until
    :attr:`result` is there (what is to be sent then must still be sent). After an error the
    connection has to be closed, and nothing more is to be sent.

    Args:
        identity: who this side is.
        initiator: whether this side is the QUIC client.
        expected_peer: who the other side has to be; None: anybody.
        certificate_hash: SHA-256 of the server's certificate, 32 bytes, of a TLS handshake
            that is complete.
        private_network_key: 32 bytes, if this node is in a private network.
        instance: this node's (:func:`~lattica.nat.secure.noise_identity.new_instance`).
    """

    def __init__(
        self,
        identity: Identity,
        *,
        initiator: bool,
        certificate_hash: bytes,
        expected_peer: PeerId | None = None,
        private_network_key: bytes | None = None,
        instance: bytes = b"",
    ) -> None:
        if len(certificate_hash) != CERTIFICATE_HASH_SIZE:
            raise LocalProtocolError("a certificate hash is 32 bytes")
        self.result: RemoteIdentity | None = None
        """Who the other side is, once that is proved."""
        self._identity = identity
        self._expected_peer = expected_peer
        self._instance = instance
        self._certificate_hash = certificate_hash
        self._network_key = private_network_key
        self._static = X25519PrivateKey.generate()
        self._messages = MessageReader(MAX_HANDSHAKE_MESSAGE)
        self._failed = False
        prologue = PROLOGUE + certificate_hash
        if private_network_key is not None:
            prologue += hmac.digest(
                private_network_key, _BINDING_CONTEXT + certificate_hash, "sha256"
            )
        self._handshake = XXHandshake(
            initiator=initiator, static_key=self._static, prologue=prologue
        )
        self._out = b""
        if initiator:
            self._out = frame(self._handshake.write(self._proof(self._handshake.ephemeral_public)))

    @property
    def rest(self) -> bytes:
        """Bytes fed that follow the exchange, for what comes next on stream 0."""
        return self._messages.rest if self.result is not None else b""

    def data_to_send(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes of stream 0, in order.

        Raises:
            RemoteProtocolError: for anything that is not an honest peer's part in this
                connection and this private network.
            PeerMismatchError: the peer proved to be another one than the expected.
            LocalProtocolError: after :attr:`result` is there, or after an error.
        """
        if self._failed or self.result is not None:
            raise LocalProtocolError("the exchange is over")
        self._messages.feed(data)
        try:
            while (message := self._messages.next_message()) is not None:
                self._on_message(message)
                if self._handshake.done:
                    break
        except RemoteProtocolError:
            self._failed = True
            self._out = b""
            raise

    def export(self, label: bytes) -> bytes:
        """32 secret bytes that both sides of this connection can make, and nobody else.

        Raises:
            LocalProtocolError: the exchange is not over on this side.
        """
        if not self._handshake.done:
            raise LocalProtocolError("the exchange is not over")
        return hmac.digest(self._handshake.chaining_key, label, "sha256")

    def _on_message(self, message: bytes) -> None:
        handshake = self._handshake
        payload = handshake.read(message)
        if handshake.remote_static is None:
            self._check_proof(payload, message[:KEY_SIZE])
        else:
            remote = verify_payload(payload, handshake.remote_static)
            self._check_peer(remote.peer_id)
            self.result = remote
        if not handshake.done:
            static_public = self._static.public_key().public_bytes_raw()
            payload = make_payload(self._identity, static_public, instance=self._instance)
            self._out += frame(handshake.write(payload))

    def _proof(self, ephemeral: bytes) -> bytes:
        """The payload of a first message with this ephemeral key."""
        if self._network_key is None:
            return b""
        signed = _PROOF_CONTEXT + self._certificate_hash + ephemeral
        return hmac.digest(self._network_key, signed, "sha256")

    def _check_proof(self, payload: bytes, ephemeral: bytes) -> None:
        if not hmac.compare_digest(payload, self._proof(ephemeral)):
            raise RemoteProtocolError(
                "the peer is in a private network, and this node is not"
                if self._network_key is None
                else "the peer does not have this private network's key"
            )

    def _check_peer(self, peer_id: PeerId) -> None:
        if self._expected_peer is not None and peer_id != self._expected_peer:
            raise PeerMismatchError(self._expected_peer, peer_id)
        if peer_id == self._identity.peer_id:
            raise RemoteProtocolError("the peer has our own identity: is this node dialing itself?")
