"""What is known of the NAT in front of this node, as plain data (RFC 4787, RFC 5780)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lattica.nat.transport.udp_socket import Address


class Behaviour(Enum):
    """Of a NAT's mapping or filtering (RFC 4787, sections 4.1 and 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


@dataclass(frozen=True, slots=True)
class NatReport:
    """What the STUN responders of the relays tell of one address family; None: not known.

    mapping: how the port outside depends on who is written to.
    filtering: what comes in from those that were not written to.
    is_translated: the address outside is not one of this machine.
    preserves_port: the port outside is the one inside.
    hairpin: the outside address works from the inside too.
    udp_works: a STUN responder has answered at all; False if none of several does.
    mapped: (host, port) where the responders see the main UDP socket, one after another.
    """

    mapping: Behaviour | None = None
    filtering: Behaviour | None = None
    is_translated: bool | None = None
    preserves_port: bool | None = None
    hairpin: bool | None = None
    udp_works: bool | None = None
    mapped: tuple[Address, ...] = ()

    @property
    def is_hard(self) -> bool:
        """Each peer sees another port, so that nobody can be told which to send to."""
        return self.mapping not in (None, Behaviour.ENDPOINT_INDEPENDENT)
