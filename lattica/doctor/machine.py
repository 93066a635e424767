"""What this machine allows a node: descriptors, and the kernel's buffers for UDP."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.doctor.findings import Finding, State
from lattica.nat.config import Limits
from lattica.nat.swarm.upkeep.descriptors import fitted_limits, raise_limit
from lattica.nat.transport.udp_socket import WANTED_RECEIVE_BUFFER, granted_receive_buffer

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Counts, and bytes."""

    descriptors: int
    """That a process may have open, once it has asked for all that it may have."""
    connections: int
    """That a node can keep with these."""
    wanted_connections: int
    """As configured."""
    receive_buffer: int
    """What the kernel grants a UDP socket; 0: not known."""


def machine_facts(limits: Limits) -> MachineFacts:
    """Of this process."""
    descriptors = raise_limit()
    allowed = fitted_limits(limits, descriptors, 0).max_connections
    return MachineFacts(descriptors, allowed, limits.max_connections, granted_receive_buffer())


def examine_machine(facts: MachineFacts) -> tuple[Finding, ...]:
    """Pure."""
    return (_descriptors(facts), *_buffers(facts))


def _descriptors(facts: MachineFacts) -> Finding:
    words = f"A process may have {facts.descriptors} files open"
    if facts.connections >= facts.wanted_connections:
        text = f"{words}, enough for {facts.wanted_connections} connections."
        return Finding("open files", State.OK, text)
    return Finding(
        "open files",
        State.WARN,
        f"{words}, which is enough for {facts.connections} connections rather than "
        f"{facts.wanted_connections} (`swarm.limits.max_connections`).",
        "Raise it: `ulimit -Hn` in a shell, LimitNOFILE= in a unit of systemd, --ulimit nofile= of "
        "a container. A laptop does not need it; a relay does.",
    )


def _buffers(facts: MachineFacts) -> tuple[Finding, ...]:
    if not facts.receive_buffer:
        return ()
    words = f"The kernel gives a UDP socket {facts.receive_buffer / _MIB:.1f} MiB for what arrives"
    if facts.receive_buffer >= WANTED_RECEIVE_BUFFER:
        return (Finding("UDP buffers", State.OK, f"{words}."),)
    finding = Finding(
        "UDP buffers",
        State.WARN,
        f"{words}, of {WANTED_RECEIVE_BUFFER / _MIB:.0f} wanted: over QUIC packets are lost when "
        "much comes at once, and it is slower.",
        f"sysctl -w net.core.rmem_max={WANTED_RECEIVE_BUFFER}, and in /etc/sysctl.d to keep it.",
    )
    return (finding,)
