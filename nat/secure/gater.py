"""Allow- and deny-lists by peer and by network, compiled once and asked often.

The lists are :class:`~lattica.nat.config.AccessRules`. A denial always wins; where an
allow-list is not empty, whoever is not on it is refused. Peers and networks are judged
separately: a connection needs both to be allowed. Pure: no I/O, no clock.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from lattica.nat.base.errors import AccessDeniedError, AddressError, ConfigError
from lattica.nat.base.keys.identity import PeerId, parse_peer_id
from lattica.nat.base.net.addresses import Kind, ip_of, kind_of, relay_of, split_peer
from lattica.nat.base.net.ip import IpAddress, IpNetwork, parse_ip
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import AccessRules


def _parse_network(text: str) -> IpNetwork:
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


class _Networks:
    """A set of networks. A look-up costs one dictionary access per distinct prefix length."""

    __slots__ = ("_by_prefix",)

    def __init__(self, setting: str, networks: Iterable[str]) -> None:
        by_prefix: dict[tuple[int, int], dict[int, str]] = {}
        for text in networks:
            try:
                network = _parse_network(text)
            except ValueError as error:
                raise ConfigError(
                    f"{setting}: {text!r} is not a network like 10.0.0.0/8 ({error})"
                ) from None
            host_bits = network.max_prefixlen - network.prefixlen
            group = by_prefix.setdefault((network.version, host_bits), {})
            group.setdefault(int(network.network_address) >> host_bits, text)
        self._by_prefix = tuple((*key, group) for key, group in by_prefix.items())

    def __bool__(self) -> bool:
        return bool(self._by_prefix)

    def find(self, address: IpAddress) -> str | None:
        """The rule, as configured, that the address falls under."""
        number = int(address)
        for version, host_bits, group in self._by_prefix:
            if version == address.version and (rule := group.get(number >> host_bits)):
                return rule
        return None


class Gater:
    """Enforces :class:`AccessRules`. Who asks keeps the gater of the swarm, not the rules.

    Raises:
        ConfigError: when made, if a rule cannot be parsed; names the setting and the rule.
    """

    __slots__ = ("_allow_networks", "_allow_peers", "_deny_networks", "_deny_peers", "_relays")

    def __init__(self, rules: AccessRules) -> None:
        self._relays: Mapping[PeerId, frozenset[Multiaddr]] | None = None
        self.change(rules)

    def only_dial(self, relays: Mapping[PeerId, frozenset[Multiaddr]]) -> None:
        """From now on dial nobody but these relays, at these addresses, and others through them."""
        self._relays = relays

    def check_dial(self, peer_id: PeerId | None, addr: Multiaddr) -> None:
        """Refuse to show this node's address to who is no relay, where :meth:`only_dial` says so.

        Before a name is looked up, too. Where somebody else says that a relay is, it is not: there
        this node's address would be seen before it turns out who answers.

        Raises:
            AccessDeniedError: with the setting that forbids it.
        """
        if self._relays is None:
            return
        base, named = split_peer(addr)
        if kind_of(base) is Kind.CIRCUIT:
            if relay_of(addr) not in self._relays:
                raise AccessDeniedError("nat.relay_only: its relay is not in nat.relay.relays")
        elif base not in self._relays.get(peer_id or named, ()):  # type: ignore[arg-type]
            raise AccessDeniedError("nat.relay_only: it is no address of nat.relay.relays")

    def may_look_up(self, addr: Multiaddr) -> bool:
        """Whether the name in an address may be looked up: whoever answers for it, sees by whom.

        Where :meth:`only_dial` says who is dialed, only as it is in the configuration: there a
        relayed address is asked for at a relay that is connected, wherever the address says it is.
        """
        if self._relays is None:
            return True
        base, _ = split_peer(addr)
        return any(base in addrs for addrs in self._relays.values())

    def change(self, rules: AccessRules) -> None:
        """Enforce these from now on. Raises ConfigError as when made; then nothing has changed."""
        peers = (
            _compile_peers("access.allow_peers", rules.allow_peers),
            _compile_peers("access.deny_peers", rules.deny_peers),
        )
        networks = (
            _Networks("access.allow_networks", rules.allow_networks),
            _Networks("access.deny_networks", rules.deny_networks),
        )
        self._allow_peers, self._deny_peers = peers
        self._allow_networks, self._deny_networks = networks

    def check_address(self, ip: str | IpAddress | Multiaddr) -> None:
        """Refuse an IP address, or a multiaddr by the IP address of its first hop.

        A multiaddr without an IP address (a name that was not resolved yet) is in no
        network: it passes unless there is an allow-list.

        Raises:
            AccessDeniedError: with the rule that forbids it.
            AddressError: not an IP address.
        """
        if not self._allow_networks and not self._deny_networks:
            return
        host = ip_of(ip) if isinstance(ip, Multiaddr) else ip
        if host is None:
            if self._allow_networks:
                raise AccessDeniedError(f"{ip} has no IP address to be in access.allow_networks")
            return
        address = parse_ip(host)
        if rule := self._deny_networks.find(address):
            raise AccessDeniedError(f"address {ip} is in {rule} of access.deny_networks or a ban")
        if self._allow_networks and self._allow_networks.find(address) is None:
            raise AccessDeniedError(f"address {ip} is in no network of access.allow_networks")

    def check_peer(self, peer_id: PeerId) -> None:
        """Refuse a peer that the peer rules forbid.

        Raises:
            AccessDeniedError: with the rule that forbids it.
        """
        if peer_id in self._deny_peers:
            raise AccessDeniedError(f"peer {peer_id} is listed in access.deny_peers or banned")
        if self._allow_peers and peer_id not in self._allow_peers:
            raise AccessDeniedError(f"peer {peer_id} is not listed in access.allow_peers")


def _compile_peers(setting: str, peers: Iterable[str]) -> frozenset[PeerId]:
    compiled = set()
    for text in peers:
        try:
            compiled.add(parse_peer_id(text))
        except AddressError as error:
            raise ConfigError(f"{setting}: {error}") from None
    return frozenset(compiled)
