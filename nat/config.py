"""Settings of the ground floor: what a swarm listens on, allows and spends."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lattica.nat.base.checks import (
    is_network,
    require,
    require_seconds,
    require_texts,
    require_types,
)

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

MAX_PATIENCE = 30.0
"""Seconds: no peer is waited for longer because it has asked for that."""

CIPHERS = ("auto", "chacha20-poly1305", "aes-256-gcm")
"""What `SwarmConfig.cipher` may be."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets. Whatever a remote can make us allocate is counted against one of these.

    Sizes are in bytes.
    """

    max_connections: int = 4096
    """Established connections in total; over it some are trimmed, of the network that has most
    first. This and the next but one are lowered to what the process's descriptors allow."""
    max_connections_per_peer: int = 8
    max_pending_inbound: int = 2048
    """Inbound connections still in their handshake; over it one is dropped, of the network that
    has most first."""
    max_streams_per_connection: int = 8192
    max_inbound_streams_negotiating: int = 1024
    """Inbound streams of one connection that have not yet named a protocol."""
    max_streams_negotiating_total: int = 8192
    """The same over all connections; over it one is reset, of the network that has most first."""
    max_inbound_streams_per_network: int = 4096
    """Streams that peers of one network (an IPv4 /24, an IPv6 /48, those behind one relay) have
    open here; over it one is reset, of the peer that has most. More for a cluster in one."""
    receive_memory_per_connection: int = 256 * MIB
    """Sum of the receive windows promised on one connection; each stream needs 256 KiB at
    least, so 1,024 streams by default."""
    receive_memory_total: int = 1 * GIB
    """Bytes received and not yet read by the application, over all connections. Half as much
    besides may wait, over QUIC, for what is missing before it; beyond that the peer that has most
    of it is let go, when more of its comes."""
    low_watermark: float = 0.9
    """Trimming stops at this fraction of `max_connections`."""
    trim_grace: float = 20.0
    """Seconds a new connection is safe from trimming."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in (
            "max_connections",
            "max_connections_per_peer",
            "max_pending_inbound",
            "max_streams_per_connection",
            "max_inbound_streams_negotiating",
            "max_streams_negotiating_total",
            "max_inbound_streams_per_network",
            "receive_memory_per_connection",
            "receive_memory_total",
        ):
            value = getattr(self, name)
            require(value >= 1, name, "at least 1", value)
        require(
            0 < self.low_watermark <= 1,
            "low_watermark",
            "a fraction over 0 and at most 1",
            self.low_watermark,
        )
        require(self.trim_grace >= 0, "trim_grace", "0 or more seconds", self.trim_grace)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. None of them applies to an application that merely reads slowly."""

    dial: float = 15.0
    """One address, from the first packet to a usable connection."""
    connect: float = 30.0
    """A whole `connect`, over all addresses."""
    handshake: float = 10.0
    """Inbound: from accept to a usable connection."""
    negotiate: float = 10.0
    """One stream's protocol negotiation."""
    keep_alive_interval: float = 2.0
    """Idle time after which a ping is sent."""
    keep_alive_timeout: float = 6.0
    """Time without any byte from the peer after which it is dead, unless it has asked for
    patience and may just be busy (`patience`, `quic_patience`)."""
    patience: float = 30.0
    """How long peers are asked to wait for this node, which something else in its process may keep
    from running, while they see that its machine is there: over TCP, whose packets the system
    acknowledges, and through relays, which see that. At most 30."""
    quic_patience: float = 13.0
    """The same where only the node itself could answer, as over QUIC. What is longer makes a
    machine that is gone be noticed later. At most 30."""
    delivery: float = 8.0
    """Time in which nothing that was sent arrives, though something waits for that, after which
    the path is given up: a peer may be heard, and nothing that matters reach it."""
    shutdown: float = 3.0
    """A clean close may take this long; then connections are aborted."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in (
            "dial",
            "connect",
            "handshake",
            "negotiate",
            "keep_alive_interval",
            "keep_alive_timeout",
            "delivery",
            "shutdown",
        ):
            require_seconds(name, getattr(self, name))
        require(
            self.keep_alive_timeout > self.keep_alive_interval,
            "keep_alive_timeout",
            f"more than keep_alive_interval ({self.keep_alive_interval})",
            self.keep_alive_timeout,
        )
        for name in ("patience", "quic_patience"):
            seconds = getattr(self, name)
            require(0 <= seconds <= MAX_PATIENCE, name, f"0 to {MAX_PATIENCE:g} seconds", seconds)


@dataclass(frozen=True, slots=True)
class Windows:
    """yamux flow control, bytes."""

    maximum: int = 16 * MIB
    """A stream's receive window grows from yamux's 256 KiB up to this."""
    send_buffer: int = 256 * KIB
    """Per stream: what may wait for credit or the socket before a write blocks."""

    def __post_init__(self) -> None:
        require_types(self)
        # A peer may send 256 KiB before it hears of any window; a window update has 32 bits.
        require(
            256 * KIB <= self.maximum < 2**32,
            "maximum",
            "at least 262144 bytes and less than 4 GiB",
            self.maximum,
        )
        require(self.send_buffer >= 1, "send_buffer", "at least 1 byte", self.send_buffer)


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Allow- and deny-lists. An empty allow-list allows everybody not denied."""

    allow_peers: tuple[str, ...] = ()
    deny_peers: tuple[str, ...] = ()
    allow_networks: tuple[str, ...] = ()
    """CIDR, e.g. `10.0.0.0/8` or `2001:db8::/32`."""
    deny_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("allow_peers", "deny_peers", "allow_networks", "deny_networks"):
            require_texts(name, getattr(self, name))
        for name in ("allow_networks", "deny_networks"):
            for network in getattr(self, name):
                require(is_network(network), name, "networks like 10.0.0.0/8", network)


@dataclass(frozen=True, slots=True)
class QuicConfig:
    """What is said of QUIC alone."""

    fec: str = "auto"
    """Forward error correction: `auto` protects what is sent on paths that lose packets without
    being congested, and repairs what peers protect; `off` does neither. The two understand each
    other."""

    def __post_init__(self) -> None:
        require_types(self)
        require(self.fec in ("auto", "off"), "fec", "auto or off", self.fec)


@dataclass(frozen=True, slots=True)
class IdentifyInfo:
    """How this node describes itself in libp2p identify messages."""

    protocol_version: str = "/lattica/1.0.0"
    """The network family; the original lattica disconnects peers of another one."""
    agent_version: str = ""
    """The program. Empty: this package and its version."""


@dataclass(frozen=True, slots=True)
class SwarmConfig:
    """Everything a :class:`lattica.nat.swarm.swarm.Swarm` can be told."""

    listen: tuple[str, ...] = (
        "/ip4/0.0.0.0/tcp/0",
        "/ip6/::/tcp/0",
        "/ip4/0.0.0.0/udp/0/quic-v1/noise",
        "/ip6/::/udp/0/quic-v1/noise",
    )
    """Multiaddrs: `/ip4/…/tcp/PORT` and `/ip6/…/tcp/PORT`, with `/ws` for WebSocket, and
    `/ip4/…/udp/PORT/quic-v1/noise` for QUIC."""
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    windows: Windows = field(default_factory=Windows)
    quic: QuicConfig = field(default_factory=QuicConfig)
    access: AccessRules = field(default_factory=AccessRules)
    identify: IdentifyInfo = field(default_factory=IdentifyInfo)
    private_network_key: bytes | None = field(default=None, repr=False)
    """32 bytes; only peers with the same key can connect (libp2p pnet)."""
    cipher: str = "auto"
    """What encrypts connections, those over QUIC excepted: `chacha20-poly1305`, or `aes-256-gcm`
    with peers that offer it too. `auto` offers AES where the processor computes it."""
    dial_from_listen_port: bool = True
    """Dial with the listening port as source port where possible (for hole punching)."""
    dial_stagger: float = 0.15
    """Seconds between the starts of dials to a peer's addresses (RFC 8305)."""

    def __post_init__(self) -> None:
        require_types(self)
        require_texts("listen", self.listen)
        key = self.private_network_key
        # Never the key itself in a message.
        require(
            key is None or len(key) == 32,
            "private_network_key",
            "32 bytes",
            len(key or b""),
        )
        require(self.cipher in CIPHERS, "cipher", f"one of {', '.join(CIPHERS)}", self.cipher)
        require(
            0 <= self.dial_stagger < math.inf,
            "dial_stagger",
            "0 or more seconds",
            self.dial_stagger,
        )
