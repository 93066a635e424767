"""Settings of RPC: limits, times and budgets."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from lattica.nat.base.checks import require, require_seconds, require_types
from lattica.nat.config import KIB, MIB


def _half_of_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return 2048 * MIB


CONTROL_BODY = 64 * KIB
"""Bytes of arguments or of a result up to which a call goes over the control plane."""


@dataclass(frozen=True, slots=True)
class RpcConfig:
    """What a node's RPC may take, and how long things may last."""

    call_timeout: float = 60.0
    """Seconds that a unary call has unless it is given a time of its own. Streaming calls have no
    limit of their own."""
    resume_window: float = 10.0
    """Seconds that calls under way outlive the loss of the connection that they came by. After
    that the server cancels them, and the client tells that they may have run."""
    drain_timeout: float = 5.0
    """Seconds that calls under way have to finish when the node shuts down."""
    max_calls_per_peer: int = 1024
    """Calls of one peer that may be under way here; further ones are refused, and not run."""
    max_calls_per_network: int = 2048
    """The same for all peers of one network: an IPv4 /24, an IPv6 /48, those behind one relay.
    Peers cost nothing, so that a limit for each limits nobody. More for a cluster in one."""
    max_calls_to_peer: int = 1024
    """Calls to one peer that may be under way; further ones wait for a place."""
    max_data_streams: int = 128
    """Streams of the data plane to one peer at a time; further calls wait for one."""
    max_threads: int = 1024
    """Threads that handlers which are not async may run in; one network gets seven eighths of them
    at most. Only those that work exist."""
    receive_memory: int = field(default_factory=_half_of_memory)
    """Bytes that the large bodies which are being received and worked on may take, over all
    peers. By default half of the machine's memory."""
    receive_memory_per_peer: int = field(default_factory=lambda: _half_of_memory() // 4)
    """The same for one peer. By default a quarter of that."""
    lease_memory: int = field(default_factory=_half_of_memory)
    """Bytes of the buffers that this node may lend at a time (`share`). By default half of the
    machine's memory."""
    lease_memory_per_network: int = field(default_factory=lambda: _half_of_memory() * 3 // 4)
    """The same for all peers of one network (an IPv4 /24, an IPv6 /48, those behind one relay), so
    that nobody can borrow all of it. By default three quarters of that."""
    shared_memory: int = 32 * MIB
    """Bytes, in each direction, that are shared with a peer which is on this machine, for large
    arrays and bytes instead of the connection; they take room only where they are used. 0: none.
    Linux only."""
    max_skeleton: int = MIB
    """Bytes of a message apart from its large buffers: of lists, dicts, numbers and texts. Larger
    ones are refused with this setting's name."""
    send_tracebacks: bool = False
    """Whether callers get the traceback of a handler that raised."""
    tracing: bool = False
    """Whether calls are OpenTelemetry spans, which a caller's and a server's share. Needs the extra
    `otel`; the program's own tracer provider says where they go."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("call_timeout", "resume_window", "drain_timeout"):
            require_seconds(name, getattr(self, name))
        for name in (
            "max_calls_per_peer",
            "max_calls_per_network",
            "max_calls_to_peer",
            "max_data_streams",
            "max_threads",
            "receive_memory",
            "receive_memory_per_peer",
            "lease_memory",
            "lease_memory_per_network",
        ):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.shared_memory >= 0, "shared_memory", "at least 0", self.shared_memory)
        require(
            self.max_calls_to_peer <= 16_000,
            "max_calls_to_peer",
            "at most 16,000",
            self.max_calls_to_peer,
        )
        require(
            self.max_skeleton >= 2 * CONTROL_BODY,
            "max_skeleton",
            f"at least {2 * CONTROL_BODY} bytes",
            self.max_skeleton,
        )
