"""From a pipe of bytes to an authenticated, encrypted channel that speaks yamux.

The pure machine for one connection's set-up, as libp2p's specs/connections has it:
multistream-select `/noise`, the Noise XX handshake with identities, multistream-select
`/yamux/1.0.0` inside. The initiator sends whatever needs no answer together with what
came before, which makes it two round trips after the transport's own.

When two peers dial each other from their listening ports at the same instant, TCP joins
the two dials into one connection with two initiators (RFC 9293, simultaneous open). Both
then send a first Noise message; the one whose ephemeral key is smaller takes the other
role, so the connection is kept.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lattica.nat.base.errors import PeerMismatchError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.secure.ciphers import Cipher, agree, transport_states
from lattica.nat.secure.multistream import Initiator, Responder
from lattica.nat.secure.noise import (
    KEY_SIZE,
    MAX_HANDSHAKE_MESSAGE,
    MessageReader,
    TransportReader,
    TransportWriter,
    XXHandshake,
    frame,
)
from lattica.nat.secure.noise_identity import RemoteIdentity, make_payload, verify_payload

NOISE_PROTOCOL = "/noise"
YAMUX_PROTOCOL = "/yamux/1.0.0"


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A channel ready for a yamux session."""

    remote: RemoteIdentity
    initiator: bool
    """Which side of Noise, and so of yamux, this end is."""
    cipher: Cipher
    reader: TransportReader
    writer: TransportWriter
    early: tuple[bytes, ...]
    """Decrypted yamux bytes that arrived with the last of the negotiation."""


class _Stage(Enum):
    SECURITY = "the negotiation of security"
    HANDSHAKE = "the Noise handshake"
    MUXER = "the negotiation of the multiplexer"
    DONE = "done"


class Upgrade:
    """One side of a connection's set-up.

    Send what :meth:`data_to_send` returns, feed what arrives to :meth:`receive`, and
    repeat until :attr:`result` is there (what is to be sent then must still be sent).
    `ciphers` are offered for the transport phase besides ChaChaPoly, `instance` is this node's
    (:func:`~lattica.nat.secure.noise_identity.new_instance`).
    """

    def __init__(
        self,
        identity: Identity,
        *,
        initiator: bool,
        expected_peer: PeerId | None = None,
        prologue: bytes = b"",
        ciphers: AbstractSet[Cipher] = frozenset(),
        instance: bytes = b"",
    ) -> None:
        self.result: Upgraded | None = None
        self._identity = identity
        self._initiator = initiator
        self._expected_peer = expected_peer
        self._prologue = prologue
        self._ciphers = ciphers
        self._instance = instance
        self._cipher = Cipher.CHACHA20_POLY1305
        self._stage = _Stage.SECURITY
        self._static = X25519PrivateKey.generate()
        self._messages = MessageReader(MAX_HANDSHAKE_MESSAGE)
        self._remote: RemoteIdentity | None = None
        self._reader: TransportReader | None = None
        self._writer: TransportWriter | None = None
        self._out = b""
        self._crossed = False
        self._start_handshake()
        self._negotiation = self._negotiate(NOISE_PROTOCOL)
        if initiator:
            self._first_message = self._handshake.write()
            self._out = self._negotiation.data_to_send() + frame(self._first_message)

    @property
    def stage(self) -> str:
        """What is going on, for an error message."""
        return self._stage.value

    @property
    def speaks_libp2p(self) -> bool:
        """The peer has begun as libp2p peers do, so the bytes arrive as it sent them."""
        return self._stage is not _Stage.SECURITY or self._negotiation.saw_header

    @property
    def crossed(self) -> bool:
        """The peer is an initiator too: its dial and ours became one connection."""
        return self._crossed

    def data_to_send(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes from the peer.

        Raises:
            RemoteProtocolError: for what is not allowed.
            PeerMismatchError: the peer is not the expected one.
        """
        if self._stage is _Stage.SECURITY:
            self._negotiation.receive(data)
            self._out += self._negotiation.data_to_send()
            self._check_refusal(NOISE_PROTOCOL)
            if self._negotiation.selected is None:
                return
            self._stage = _Stage.HANDSHAKE
            data = self._negotiation.rest
        if self._stage is _Stage.HANDSHAKE:
            self._messages.feed(data)
            while (message := self._messages.next_message()) is not None:
                self._on_handshake_message(message)
                if self._handshake.done:
                    break
            if not self._handshake.done:
                return
            self._begin_transport()
            data = b""
        if self._stage is _Stage.MUXER:
            assert self._reader is not None
            self._on_plaintext(self._reader.receive(data))

    def _start_handshake(self) -> None:
        self._handshake = XXHandshake(
            initiator=self._initiator, static_key=self._static, prologue=self._prologue
        )

    def _negotiate(self, protocol: str) -> Initiator | Responder:
        if self._initiator:
            return Initiator([protocol])
        return Responder(lambda name: name == protocol, lambda: [protocol], pipelined=True)

    def _check_refusal(self, protocol: str) -> None:
        if isinstance(self._negotiation, Initiator) and self._negotiation.failed:
            raise RemoteProtocolError(f"the peer does not speak {protocol}")

    def _on_handshake_message(self, message: bytes) -> None:
        if self._initiator and len(message) == KEY_SIZE and not self._crossed:
            # A first message where the second is due: the peer is an initiator too.
            self._crossed = True
            if message == self._first_message:
                raise RemoteProtocolError("noise: our own handshake message came back")
            if self._first_message > message:
                return  # the peer becomes the responder and will answer ours
            self._initiator = False
            self._start_handshake()
        handshake = self._handshake
        payload = handshake.read(message)
        if handshake.remote_static is not None:
            self._remote = verify_payload(payload, handshake.remote_static)
            self._check_peer(self._remote.peer_id)
        if not handshake.done:
            static_public = self._static.public_key().public_bytes_raw()
            payload = make_payload(self._identity, static_public, self._ciphers, self._instance)
            self._out += frame(handshake.write(payload))

    def _check_peer(self, peer_id: PeerId) -> None:
        if self._expected_peer is not None and peer_id != self._expected_peer:
            raise PeerMismatchError(self._expected_peer, peer_id)
        if peer_id == self._identity.peer_id:
            raise RemoteProtocolError("the peer has our own identity: is this node dialing itself?")

    def _begin_transport(self) -> None:
        assert self._remote is not None
        # Both offers are known and authenticated now, and nothing has been sent yet.
        self._cipher = agree(self._ciphers, self._remote.ciphers)
        sending, receiving = transport_states(self._handshake, self._cipher)
        self._writer = TransportWriter(sending)
        self._reader = TransportReader(receiving, self._messages.rest)
        self._stage = _Stage.MUXER
        self._negotiation = self._negotiate(YAMUX_PROTOCOL)
        self._seal_negotiation()

    def _seal_negotiation(self) -> None:
        assert self._writer is not None
        if data := self._negotiation.data_to_send():
            self._out += self._writer.seal(data)

    def _on_plaintext(self, messages: list[bytes]) -> None:
        assert self._reader is not None
        assert self._writer is not None
        assert self._remote is not None
        for index, message in enumerate(messages):
            self._negotiation.receive(message)
            self._seal_negotiation()
            self._check_refusal(YAMUX_PROTOCOL)
            if self._negotiation.selected is not None:
                self._stage = _Stage.DONE
                rest = self._negotiation.rest
                early = ([rest] if rest else []) + messages[index + 1 :]
                self.result = Upgraded(
                    self._remote,
                    self._initiator,
                    self._cipher,
                    self._reader,
                    self._writer,
                    tuple(early),
                )
                return
