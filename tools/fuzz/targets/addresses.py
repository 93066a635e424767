"""Targets of addresses: as people write them, and as peers send them."""

from __future__ import annotations

import contextlib

from lattica.errors import AddressError, RemoteProtocolError
from lattica.nat.base.net.addresses import (
    decode_multiaddr,
    interface_addresses,
    kind_of,
    order_addresses,
    parse_multiaddr,
    split_peer,
    to_endpoint,
    with_peer,
)
from lattica.nat.base.net.multiaddr import Multiaddr
from tools.fuzz.target import Target, Violation

EXAMPLES = [
    "/ip4/192.0.2.1/tcp/4001",
    "/ip6/2001:db8::1/tcp/4001/ws",
    "/dns4/example.org/tcp/443/wss",
    "/ip4/0.0.0.0/udp/4001/quic-v1",
    "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5/p2p-circuit"
    "/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    "/ip6zone/eth0/ip6/fe80::1/tcp/1",
    "/ip4/127.0.0.1/tcp/443/tls/sni/example.org/ws",
    "/ip4/127.0.0.1/tcp/80/sni/example.org/ws/http-path/a%2Fb%20%C3%BC",
    "/ip6zone/eth0/ip6/fe80::1/udp/1/quic-v1/noise",
    "/ip4/127.0.0.1/udp/443/quic-v1/webtransport/certhash/uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ",
]


def _use(addr: Multiaddr) -> None:
    """Whatever was accepted must be usable without surprises."""
    kind_of(addr)
    order_addresses([addr, Multiaddr("/ip4/192.0.2.7/tcp/1")], interfaces=[])
    interface_addresses([addr], interfaces=[])
    text = str(addr)
    if not text.isprintable():
        raise Violation(f"{text!r} would write control characters to terminals and logs")
    if Multiaddr(text).to_bytes() != addr.to_bytes():
        raise Violation(f"{text} is another address when it is written and read")
    base, peer_id = split_peer(addr)
    doubled = split_peer(base)[1] is not None
    if peer_id is not None and not doubled and with_peer(base, peer_id) != addr:
        raise Violation(f"{text} does not survive being split")
    to_endpoint(addr)


def _multiaddr_text(data: bytes) -> None:
    _use(parse_multiaddr(data.decode("utf-8", "surrogateescape")))


def _multiaddr_binary(data: bytes) -> None:
    addr = decode_multiaddr(data)
    if addr.to_bytes() != data:
        raise Violation("a decoded address has other bytes")
    with contextlib.suppress(AddressError):  # it need not begin with a host and a port
        _use(addr)


MULTIADDR_TEXT = Target(
    "multiaddr-text",
    _multiaddr_text,
    (AddressError,),
    seeds=[*(text.encode() for text in EXAMPLES), b"192.0.2.1:4001", b"http://[::1]:80/"],
    tokens=[
        b"/ip4/", b"/ip6/", b"/tcp/", b"/udp/", b"/dns/", b"/dnsaddr/", b"/p2p/", b"/ipfs/", b"/ws",
        b"/unix/", b"/onion3/", b"/garlic64/", b"/certhash/", b"/sni/", b"/http-path/", b"/ipcidr/",
        b"/memory/", b"65536", b"-1", b"%2F", b"/", "/٣".encode(), b"\x00", b"\x1b[31m",
    ],
    max_size=512,
)  # fmt: skip
MULTIADDR_BINARY = Target(
    "multiaddr-binary",
    _multiaddr_binary,
    (RemoteProtocolError,),
    seeds=[Multiaddr(text).to_bytes() for text in EXAMPLES],
    tokens=[
        b"\x04", b"\x29", b"\x06", b"\x91\x02", b"\x35", b"\x36", b"\xa5\x03", b"\xa2\x02",
        b"\x90\x03", b"\xbd\x03", b"\xbe\x03", b"\xd2\x03", b"\xe1\x03", b"\xf0\x03",
        b"\x2a", b"\x2b", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x1b[31m", b"\n", b" ",
    ],
    max_size=512,
)  # fmt: skip
