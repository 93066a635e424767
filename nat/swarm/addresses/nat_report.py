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
    """What the STUN responders of the relays tell of one address family; None: not known."""

    mapping: Behaviour | None = None
    """How the port outside depends on who is written to."""
    filtering: Behaviour | None = None
    """What comes in from those that were not written to."""
    is_translated: bool | None = None
    """The address outside is not one of this machine."""
    preserves_port: bool | None = None
    """The port outside is the one inside."""
    hairpin: bool | None = None
    """The outside address works from the inside too."""
    udp_works: bool | None = None
    """A STUN responder has answered at all; False if none of several does."""
    mapped: tuple[Address, ...] = ()
    """(host, port) where the responders see the main UDP socket, one after another."""

    @property
    def is_hard(self) -> bool:
        """Each peer sees another port, so that nobody can be told which to send to."""
        return self.mapping not in (None, Behaviour.ENDPOINT_INDEPENDENT)
