"""What the original's builder is told, as the configuration of a node of ours."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lattica.config import NodeConfig, load_config
from lattica.nat.base.errors import AddressError, ConfigError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr

logger = logging.getLogger(__name__)

KEY_FILE: Final = "p2p.key"
"""In the directory of `with_key_path`."""

LISTEN: Final = ("/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0/ws")
"""Of a node that was told nothing else."""

_QUIC: Final = re.compile("/quic-v1(?=/p2p/|/?$)")

_MAX_SKELETON = 256 * 1024 * 1024
"""Callers of the original put whole documents into one argument."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be told by `with_…`; None where it was not."""

    listen: tuple[str, ...] = LISTEN
    bootstraps: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()
    external_addrs: tuple[str, ...] = ()
    key_path: Path | None = None
    storage_path: Path | None = None
    dht_path: Path | None = None
    protocol: str = "/lattica/1.0.0"
    upnp: bool | None = None
    dcutr: bool = True
    mdns: bool = True

    def protocol_of(self, own: PeerId) -> str:
        """The network: an empty name is that of this node itself."""
        return self.protocol if self.protocol.strip("/") else f"/{own}"

    def identity(self) -> Identity | None:
        """The key in the directory that was named, made when there is none.

        The original leaves it readable to everybody: that is mended, and said.
        """
        if self.key_path is None:
            return None
        file = self.key_path / KEY_FILE
        try:
            mode = os.stat(file).st_mode & 0o777
        except FileNotFoundError:
            pass
        else:
            if mode & 0o077:
                logger.warning("%s could be read by others (mode %o): made 600", file, mode)
                os.chmod(file, 0o600)
        return Identity.load_or_create(file)

    def config(self, own: PeerId) -> NodeConfig:
        """Raises ConfigError when nothing is left to listen on."""
        listen = tuple(map(str, usable(self.listen, "listen on")))
        if self.listen and not listen:
            raise ConfigError(f"none of these can be listened on: {', '.join(self.listen)}")
        relays = tuple(map(str, usable(self.relays, "use as a relay", needs_peer=True)))
        bootstraps = tuple(map(str, usable(self.bootstraps, "connect to")))
        base = load_config()
        swarm, nat = base.swarm, base.nat
        identify = replace(swarm.identify, protocol_version=self.protocol_of(own))
        mapping = nat.port_mapping
        if self.upnp is not None:
            mapping = replace(mapping, enabled=self.upnp and mapping.enabled)
        discovery = base.discovery
        if discovery.mdns is None or not self.mdns:
            discovery = replace(discovery, mdns=self.mdns)
        return replace(
            base,
            discovery=discovery,
            identity_path=None if self.key_path is None else self.key_path / KEY_FILE,
            bootstrap=tuple(dict.fromkeys((*bootstraps, *base.bootstrap))),
            swarm=replace(swarm, listen=listen, identify=identify),
            nat=replace(
                nat,
                port_mapping=mapping,
                relay=replace(nat.relay, relays=tuple(dict.fromkeys((*relays, *nat.relay.relays)))),
                paths=replace(nat.paths, enabled=self.dcutr and nat.paths.enabled),
            ),
            dht=replace(
                base.dht,
                enabled=True,
                protocol=f"{self.protocol_of(own).rstrip('/')}/kad/1.0.0",
                store_path=None if self.dht_path is None else self.dht_path / "records.sqlite",
            ),
            rpc=replace(base.rpc, max_skeleton=max(base.rpc.max_skeleton, _MAX_SKELETON)),
        )


def texts(given: object) -> tuple[str, ...]:
    """Addresses as they are given: a text, or lists of them, also within each other."""
    if isinstance(given, str):
        return (given,)
    if isinstance(given, Iterable):
        return tuple(text for each in given for text in texts(each))
    raise TypeError(f"addresses are texts in a list, not {given!r:.100}")


def usable(addrs: Iterable[str], what_for: str, *, needs_peer: bool = False) -> list[Multiaddr]:
    """Those that are addresses, in our form; the others are named in the log."""
    found = []
    for text in addrs:
        try:
            addr = parse_multiaddr(_own_form(text))
            if needs_peer and split_peer(addr)[1] is None:
                raise AddressError("it does not end in /p2p/ID")
        except AddressError as error:
            logger.warning("cannot %s %r: %s", what_for, text, error)
        else:
            found.append(addr)
    return found


def _own_form(text: str) -> str:
    """QUIC of ours is secured by Noise, and says so in the address."""
    return _QUIC.sub("/quic-v1/noise", text)
