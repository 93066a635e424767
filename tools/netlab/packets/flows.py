"""The state of a NAT or stateful firewall: mappings, sessions, filters, timers. Pure.

Endpoints are bytes here: a packed address followed by a port (2 bytes; an ICMP echo identifier
is a port, too, and the port of its remote end is 0). The same code so serves IPv4 and IPv6.

A *mapping* ties an inside endpoint to an external one (RFC 4787 section 4); its *sessions* are
the remote endpoints it talks to. A session that the inside has used ("sent") is what filters
look at and what keeps a mapping alive; one that came in through an open filter only rides on it.
State is exact whenever the slow path runs (:meth:`FlowTable.expire` first), and each session
that is found by its key must be checked for `expires`.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from tools.netlab.packets.codec import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    RST,
    SYN,
    TCP,
    UDP,
    ones_sum,
    unpacked,
)
from tools.netlab.packets.nat_ports import PortAllocator
from tools.netlab.spec.nat import NatSpec

# What TCP has shown so far, as bits of `Session.tcp`.
OUT_SYN, IN_SYN, OUT_FIN, IN_FIN, CLOSED = 1, 2, 4, 8, 16

Clock = Callable[[], float]


class Refused(Exception):
    """A packet that the NAT does not let through; the argument is the counter for the reason."""


class FlowMapping:
    """An inside endpoint, its external endpoint, and who it talks to."""

    __slots__ = (
        "addresses",
        "external",
        "internal",
        "key",
        "protocol",
        "sent",
        "sessions",
        "standing",
    )

    def __init__(
        self, protocol: int, internal: bytes, external: bytes, key: bytes, *, standing: bool
    ) -> None:
        self.protocol = protocol
        self.internal = internal
        self.external = external
        self.key = key
        self.standing = standing  # lives without sessions and lets everything in
        self.sessions: dict[bytes, Session] = {}  # by remote endpoint
        self.sent = 0  # how many of them the inside has used
        self.addresses: Counter[bytes] = Counter()  # remote addresses of those


class Session:
    """One inside endpoint and one remote endpoint, with what rewriting their packets needs.

    For IPv4 the 12 bytes from the source address to the ports are a packet's flow key:
    `out_key`, `in_key` find a session, `out_new`, `in_new` replace them. The deltas are what
    that adds to the sums that checksums cover: `full_*` for a transport checksum, and `address_*`
    for the IP header's and for one of which only the pseudo header has been summed so far
    (checksum offload). `hairpin`: the remote end is on the inside, too.
    """

    __slots__ = (
        "address_in",
        "address_out",
        "expires",
        "full_in",
        "full_out",
        "hairpin",
        "in_key",
        "in_new",
        "mapping",
        "out_key",
        "out_new",
        "planned",
        "remote",
        "sent",
        "tcp",
        "timeout",
    )

    def __init__(self, mapping: FlowMapping, remote: bytes, timeout: float) -> None:
        self.mapping = mapping
        self.remote = remote
        self.timeout = timeout
        self.expires = 0.0
        self.planned = math.inf  # when expiry will be looked at
        self.tcp = 0
        self.sent = False
        self.hairpin = False
        internal, external = mapping.internal, mapping.external
        self.out_key = flow_key(internal, remote)
        self.in_key = flow_key(remote, external)
        self.out_new = flow_key(external, remote)
        self.in_new = flow_key(remote, internal)
        address = (ones_sum(external[:-2]) - ones_sum(internal[:-2])) % 0xFFFF
        port = int.from_bytes(external[-2:]) - int.from_bytes(internal[-2:])
        self.address_out, self.address_in = address, -address % 0xFFFF
        self.full_out, self.full_in = (address + port) % 0xFFFF, -(address + port) % 0xFFFF


@dataclass(frozen=True, slots=True)
class MappingView:
    """A mapping for people: endpoints as (address, port)."""

    protocol: int
    internal: tuple[str, int]
    external: tuple[str, int]
    remotes: tuple[tuple[str, int], ...]
    expires_in_s: float


def flow_key(source: bytes, destination: bytes) -> bytes:
    """The flow key of packets between two endpoints: both addresses, then both ports."""
    return source[:-2] + destination[:-2] + source[-2:] + destination[-2:]


def endpoint_text(endpoint: bytes) -> tuple[str, int]:
    """An endpoint as (address, port)."""
    return unpacked(endpoint[:-2]), int.from_bytes(endpoint[-2:])


class FlowTable:
    """Mappings and sessions of one address family.

    `outgoing` and `incoming` hold the sessions by protocol and flow key: for a packet of a
    session this is all that is looked at. `outgoing` has only those that the inside has used.
    With `is_open` (see :class:`NatSpec`) all mappings are standing ones.
    """

    def __init__(
        self,
        spec: NatSpec,
        externals: Iterable[bytes],
        internals: Iterable[bytes],
        clock: Clock,
        rng: random.Random,
        *,
        is_open: bool,
    ) -> None:
        self.spec = spec
        self._is_open = is_open
        self.externals: tuple[bytes, ...] = tuple(externals)
        self._internals = tuple(internals)
        self._clock = clock
        self._rng = rng
        self._sequence = count()
        self._clear()

    def _clear(self) -> None:
        protocols = (TCP, UDP, ICMP, ICMPV6)
        self.outgoing: dict[int, dict[bytes, Session]] = {p: {} for p in protocols}
        self.incoming: dict[int, dict[bytes, Session]] = {p: {} for p in protocols}
        # Came in through an open filter, and the inside has not answered yet: by how it would
        # answer, the oldest first (a caller may use several mappings of one inside endpoint).
        self._unanswered: dict[int, dict[bytes, list[Session]]] = {p: {} for p in protocols}
        self._by_key: dict[bytes, FlowMapping] = {}
        self._by_external: dict[bytes, FlowMapping] = {}
        self._allocators: dict[tuple[int, bytes], PortAllocator] = {}
        self._host_mappings: Counter[tuple[int, bytes]] = Counter()
        self._paired: dict[bytes, bytes] = {}
        self._expiry: list[tuple[float, int, Session]] = []
        self._static = dict(zip(self._internals, self.externals, strict=False))
        self._static_hosts = {external: host for host, external in self._static.items()}

    # --- what the control plane does ----------------------------------------------------------

    def flush(self) -> None:
        """Forget all mappings and sessions, as a reboot does."""
        for session in (s for table in self.incoming.values() for s in table.values()):
            session.mapping.sessions.clear()  # they refer to each other
        self._clear()

    def set_externals(self, externals: Iterable[bytes]) -> None:
        """Take other external addresses; all mappings are gone."""
        self.externals = tuple(externals)
        self.flush()

    def view(self) -> list[MappingView]:
        """All live mappings."""
        now = self._clock()
        self.expire()
        mappings = {id(m): m for m in (*self._by_key.values(), *self._by_external.values())}
        return [
            MappingView(
                mapping.protocol,
                endpoint_text(mapping.internal),
                endpoint_text(mapping.external),
                tuple(endpoint_text(remote) for remote in mapping.sessions),
                max((s.expires - now for s in mapping.sessions.values()), default=0.0),
            )
            for mapping in mappings.values()
        ]

    # --- packets that no session takes --------------------------------------------------------

    def open_outbound(self, protocol: int, internal: bytes, remote: bytes) -> Session:
        """The session for a packet from `internal` to `remote`, made if need be.

        Raises :class:`Refused` if the spec does not allow it or there is no room.
        """
        self.expire()
        callers = self._unanswered[protocol].get(flow_key(internal, remote))
        session = callers[0] if callers else None
        if session is not None:
            self._answered(session)
        else:
            if self._is_blocked(protocol, remote):
                raise Refused("blocked")
            if len(self.incoming[protocol]) >= self.spec.max_sessions:
                raise Refused("session-limit")
            key = self._mapping_key(protocol, internal, remote)
            mapping = self._by_key.get(key)
            if mapping is None:
                mapping = self._new_mapping(protocol, internal, remote, key)
            session = mapping.sessions.get(remote) or self._new_session(mapping, remote)
        self.outgoing[protocol][session.out_key] = session
        if not session.sent:
            session.sent = True
            session.mapping.sent += 1
            session.mapping.addresses[remote[:-2]] += 1
        return session

    def open_inbound(self, protocol: int, remote: bytes, external: bytes) -> Session:
        """The session for an unexpected packet from `remote` to `external`, if the filter agrees.

        Raises :class:`Refused` if it does not, or if nothing is mapped there.
        """
        self.expire()
        mapping = self._by_external.get(self._external_key(protocol, external))
        standing = None if mapping is not None else self._standing_mapping(protocol, external)
        target = mapping or standing
        if target is None:
            raise Refused("no-mapping")
        if not self._admits(target, remote):
            raise Refused("filtered")
        if len(self.incoming[protocol]) >= self.spec.max_sessions:
            raise Refused("session-limit")
        if standing is not None:
            self._add_mapping(standing)
        session = self._new_session(target, remote)
        self._unanswered[protocol].setdefault(session.out_key, []).append(session)
        return session

    def find(
        self, protocol: int, source: bytes, destination: bytes, outbound: bool
    ) -> Session | None:
        """The live session of packets between two endpoints as they stand in the packets."""
        self.expire()
        key = flow_key(source, destination)
        if not outbound:
            return self.incoming[protocol].get(key)
        callers = self._unanswered[protocol].get(key)
        return self.outgoing[protocol].get(key) or (callers[0] if callers else None)

    def refresh(self, session: Session) -> None:
        """Start the life of `session` anew."""
        session.expires = self._clock() + session.timeout

    def track_tcp(self, session: Session, flags: int, outbound: bool) -> None:
        """Follow the state of a TCP session as far as its timer depends on it.

        Sources: RFC 5382 section 5; RFC 7857 section 2.2: a RST may have been forged, and what
        comes after it shows that the connection is still there.
        """
        state = session.tcp
        if flags & SYN:
            if not flags & ACK and (state & CLOSED or (state & OUT_FIN and state & IN_FIN)):
                state = 0  # the same ports are used again
            state |= OUT_SYN if outbound else IN_SYN
        if flags & FIN:
            state |= OUT_FIN if outbound else IN_FIN
        if flags & RST:
            state |= CLOSED
        else:
            state &= ~CLOSED
        if state == session.tcp:
            return
        session.tcp = state
        is_open = state & OUT_SYN and state & IN_SYN and not state & CLOSED
        if is_open and not (state & OUT_FIN and state & IN_FIN):
            if session.timeout != self.spec.tcp_timeout_s:
                session.timeout = self.spec.tcp_timeout_s
                self.refresh(session)  # whichever side completed the handshake
        elif session.timeout != self.spec.tcp_transitory_s:
            session.timeout = self.spec.tcp_transitory_s
            # It ends sooner than was planned.
            session.expires = min(session.expires, self._clock() + session.timeout)
            self._plan_expiry(session)

    def expire(self) -> None:
        """Remove all that has ended by now."""
        now = self._clock()
        while self._expiry and self._expiry[0][0] <= now:
            planned, _, session = heapq.heappop(self._expiry)
            if planned != session.planned:
                continue  # it was planned anew, or is gone
            session.planned = math.inf
            if session.expires > now:
                self._plan_expiry(session)  # it was refreshed meanwhile
            else:
                self._drop_session(session)

    # --- mappings and sessions -----------------------------------------------------------------

    def _mapping_key(self, protocol: int, internal: bytes, remote: bytes) -> bytes:
        scope = bytes((protocol,)) + internal
        if self.spec.mapping == "endpoint-independent":
            return scope
        return scope + (remote[:-2] if self.spec.mapping == "address-dependent" else remote)

    @staticmethod
    def _external_key(protocol: int, external: bytes) -> bytes:
        return bytes((protocol,)) + external

    def _new_mapping(
        self, protocol: int, internal: bytes, remote: bytes, key: bytes
    ) -> FlowMapping:
        host, port = internal[:-2], internal[-2:]
        if self.spec.translate == "none":
            return self._add_mapping(
                FlowMapping(protocol, internal, internal, key, standing=self._is_open)
            )
        if self.spec.translate == "one-to-one":
            if host not in self._static:
                raise Refused("no-address")
            external = self._static[host] + port
            return self._add_mapping(
                FlowMapping(protocol, internal, external, key, standing=self._is_open)
            )
        limit = self.spec.ports_per_host
        if limit is not None and self._host_mappings[protocol, host] >= limit:
            raise Refused("host-limit")
        address = self._paired.get(host)
        if address is None:
            # RFC 4787 REQ-2: a host keeps its external address ("paired" pooling).
            address = self.externals[len(self._paired) % len(self.externals)]
            self._paired[host] = address
        allocator = self._allocator(protocol, address)
        incoming = self.incoming[protocol]

        def is_free(candidate: int) -> bool:
            if not self.spec.overload:
                return allocator.is_unused(candidate)
            external = address + candidate.to_bytes(2, "big")
            return flow_key(remote, external) not in incoming

        chosen = allocator.allocate(int.from_bytes(port), is_free)
        if chosen is None:
            raise Refused("port-exhausted")
        external = address + chosen.to_bytes(2, "big")
        return self._add_mapping(FlowMapping(protocol, internal, external, key, standing=False))

    def _standing_mapping(self, protocol: int, external: bytes) -> FlowMapping | None:
        """The mapping of an endpoint that has not been used yet, where all have one."""
        if not self._is_open:
            return None
        host: bytes | None = external[:-2]
        if self.spec.translate == "one-to-one":
            host = self._static_hosts.get(external[:-2])
        if host is None:
            return None
        internal = host + external[-2:]
        key = self._mapping_key(protocol, internal, b"")
        return FlowMapping(protocol, internal, external, key, standing=True)

    def _add_mapping(self, mapping: FlowMapping) -> FlowMapping:
        self._by_key.setdefault(mapping.key, mapping)
        self._host_mappings[mapping.protocol, mapping.internal[:-2]] += 1
        if not self.spec.overload:
            key = self._external_key(mapping.protocol, mapping.external)
            self._by_external[key] = mapping
        return mapping

    def _drop_mapping(self, mapping: FlowMapping) -> None:
        for session in mapping.sessions.values():
            self._forget(session)
        mapping.sessions.clear()
        if self._by_key.get(mapping.key) is mapping:
            del self._by_key[mapping.key]
        external_key = self._external_key(mapping.protocol, mapping.external)
        if self._by_external.get(external_key) is mapping:
            del self._by_external[external_key]
        host = (mapping.protocol, mapping.internal[:-2])
        self._host_mappings[host] -= 1
        if not self._host_mappings[host]:
            del self._host_mappings[host]
        if self.spec.translate == "ports":
            address, port = mapping.external[:-2], mapping.external[-2:]
            self._allocator(mapping.protocol, address).release(int.from_bytes(port))

    def _new_session(self, mapping: FlowMapping, remote: bytes) -> Session:
        timeouts: Mapping[int, float] = {
            UDP: self.spec.udp_timeout_s,
            TCP: self.spec.tcp_transitory_s,
        }
        timeout = timeouts.get(mapping.protocol, self.spec.icmp_timeout_s)
        session = Session(mapping, remote, timeout)
        session.hairpin = remote[:-2] in self.externals
        mapping.sessions[remote] = session
        self.incoming[mapping.protocol][session.in_key] = session
        self.refresh(session)
        self._plan_expiry(session)
        return session

    def _drop_session(self, session: Session) -> None:
        mapping = session.mapping
        self._forget(session)
        del mapping.sessions[session.remote]
        if session.sent:
            mapping.sent -= 1
            mapping.addresses[session.remote[:-2]] -= 1
            if not mapping.addresses[session.remote[:-2]]:
                del mapping.addresses[session.remote[:-2]]
        if not mapping.sent and not (mapping.standing and mapping.sessions):
            self._drop_mapping(mapping)

    def _forget(self, session: Session) -> None:
        protocol = session.mapping.protocol
        del self.incoming[protocol][session.in_key]
        session.planned = math.inf
        if self.outgoing[protocol].get(session.out_key) is session:
            del self.outgoing[protocol][session.out_key]
        self._answered(session)

    def _answered(self, session: Session) -> None:
        """Whoever came in need not be waited for any more."""
        unanswered = self._unanswered[session.mapping.protocol]
        callers = unanswered.get(session.out_key)
        if callers and session in callers:
            callers.remove(session)
            if not callers:
                del unanswered[session.out_key]

    def _plan_expiry(self, session: Session) -> None:
        if session.expires < session.planned:
            session.planned = session.expires
            heapq.heappush(self._expiry, (session.expires, next(self._sequence), session))

    def _allocator(self, protocol: int, address: bytes) -> PortAllocator:
        allocator = self._allocators.get((protocol, address))
        if allocator is None:
            allocator = PortAllocator(self.spec, self._rng)
            self._allocators[protocol, address] = allocator
        return allocator

    # --- rules -----------------------------------------------------------------------------------

    def _admits(self, mapping: FlowMapping, remote: bytes) -> bool:
        if self._is_blocked(mapping.protocol, remote):
            return False
        if mapping.standing or self.spec.filtering == "endpoint-independent":
            return True
        if self.spec.filtering == "address-dependent":
            return remote[:-2] in mapping.addresses
        session = mapping.sessions.get(remote)
        return session is not None and session.sent

    def _is_blocked(self, protocol: int, remote: bytes) -> bool:
        blocked = self.spec.blocked
        if blocked == "nothing":
            return False
        if blocked in ("udp", "tcp"):
            return protocol == (UDP if blocked == "udp" else TCP)
        ports = (443,) if blocked == "all-but-tcp-443" else (80, 443)
        return protocol != TCP or int.from_bytes(remote[-2:]) not in ports
