"""Whether addresses can be listened on, asked before a node tries.

What reads addresses is imported when there are some: it takes longer than `lattica --help`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable


def obstacle(addr: str) -> OSError | None:
    """Why an address cannot be listened on, with the same options as the node; None if it can."""
    from lattica.nat.base.net.addresses import parse_multiaddr, to_endpoint

    endpoint = to_endpoint(parse_multiaddr(addr))
    is_tcp = "/tcp/" in addr
    try:
        kind = socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM
        with socket.socket(endpoint.family, kind) as probe:
            if endpoint.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if is_tcp:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(endpoint.socket_name)
    except OSError as error:
        return error
    return None


def beside_others(addrs: Iterable[str]) -> tuple[str, ...]:
    """The same addresses, with any free port where another program has the one that is meant.

    For commands that run beside a peer with the same configuration, and do not need to be found.
    """
    return tuple(map(_beside_others, addrs))


def _beside_others(addr: str) -> str:
    from lattica.nat.base.net.addresses import (
        join_parts,
        parse_multiaddr,
        split_endpoint,
        to_endpoint,
    )

    endpoint = to_endpoint(parse_multiaddr(addr))
    if endpoint.is_name or not endpoint.port:
        return addr
    found = obstacle(addr)
    if found is None or found.errno != errno.EADDRINUSE:
        return addr
    (*host, (transport, _)), rest = split_endpoint(parse_multiaddr(addr))
    return str(join_parts([*host, (transport, "0"), *rest]))
