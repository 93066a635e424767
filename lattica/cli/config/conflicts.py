"""Settings that are right each by itself, and wrong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.config import NodeConfig


def conflicts(config: NodeConfig) -> Iterator[tuple[str, str]]:
    """What is wrong with any node: the names of settings, and why."""
    from lattica.daemon.access.secrets import SECRET_TEXTS, read_secret
    from lattica.daemon.metrics.config import split_endpoint
    from lattica.nat.base.errors import ConfigError
    from lattica.nat.base.net.addresses import Kind, kind_of, parse_multiaddr, to_endpoint

    for name, texts in (
        ("swarm.listen", config.swarm.listen),
        ("bootstrap", config.bootstrap),
        ("nat.relay.relays", config.nat.relay.relays),
        ("metrics.listen", config.metrics.listen),
    ):
        for text, count in Counter(texts).items():
            if count > 1:
                yield name, f"{text} is named {count} times"
    taken = set()
    for text in config.swarm.listen:
        addr = parse_multiaddr(text)
        if kind_of(addr) in (Kind.TCP, Kind.WEBSOCKET):
            taken.add(to_endpoint(addr).port)
    shown = set()
    for text in config.metrics.listen:
        port = split_endpoint(text)[1]
        if port and port in taken:
            yield "metrics.listen", f"port {port} is one of swarm.listen"
        shown.add(port)
    port = config.node.page_at[1] if config.node.page else 0
    for setting, ports in (("swarm.listen", taken), ("metrics.listen", shown)):
        if port and port in ports:
            yield "node.page", f"port {port} is one of {setting}"
    for name in SECRET_TEXTS:
        try:
            read_secret(name, attrgetter(name)(config))
        except ConfigError as error:
            yield name, str(error).removeprefix(f"{name}: ")


def relay_conflicts(config: NodeConfig) -> Iterator[tuple[str, str]]:
    """The same of a relay."""
    from lattica.daemon.relay.server import require_relay
    from lattica.nat.base.errors import ConfigError

    yield from conflicts(config)
    try:
        require_relay(config)
    except ConfigError as error:
        yield "nat.relay_server.access", str(error).removeprefix("nat.relay_server.access ")
