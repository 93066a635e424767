"""Multiaddrs: addresses that say how they are to be read, as text and as bytes.

Source: https://github.com/multiformats/multiaddr. Our own, since the package of that name needs
others that come as source only, checks nothing of what it decodes, and keeps nothing of what it
has decoded. Of the protocols there are those of the internet and of libp2p's transports.

An address is checked when it is made, from text or from bytes, and has one form of each: what
peers say can be compared, looked up and printed.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from lattica.nat.base.errors import AddressError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId, parse_peer_id
from lattica.nat.base.wire import NeedMoreData, decode_uvarint, encode_uvarint

_MAX_NAME = 253
"""Characters of a domain name (RFC 1035)."""
_MAX_PATH = 256
"""Bytes of the path in a URL."""


class Multiaddr:
    """An address, from its text, its bytes, or another one. Immutable; `str()` is its text.

    Raises :class:`~lattica.errors.AddressError` for an unknown protocol, or a value that its
    protocol does not allow. The empty address, `Multiaddr()`, is the beginning of all others.
    """

    __slots__ = ("_bytes", "_last", "_text", "components")

    _bytes: bytes
    _last: int
    """Where its last part begins."""
    _text: str
    """Empty until somebody asks."""
    components: tuple[tuple[str, str], ...]
    """Its parts as (protocol, value); the value is empty where the protocol has none."""

    def __init__(self, addr: str | bytes | bytearray | memoryview | Multiaddr = "") -> None:
        if isinstance(addr, Multiaddr):
            self._bytes, self._last = addr._bytes, addr._last
            self._text, self.components = addr._text, addr.components
        elif isinstance(addr, str):
            self._parse(addr)
        else:
            self._decode(bytes(addr))

    def _parse(self, text: str) -> None:
        words = iter(text.rstrip("/").split("/"))
        if next(words) != "":
            raise AddressError(f"{text[:100]!r} does not begin with '/'")
        data = bytearray()
        parts: list[tuple[str, str]] = []
        self._last = 0
        for name in words:
            protocol = _BY_NAME.get(name)
            if protocol is None:
                raise AddressError(f"unknown protocol {name[:40]!r}")
            self._last = len(data)
            data += protocol.prefix
            value = ""
            if protocol.read is not None:
                text_value = next(words, "")
                if not text_value:
                    raise AddressError(f"missing value of {name!r}")
                raw = protocol.read(text_value)
                if not protocol.size:
                    data += encode_uvarint(len(raw))
                data += raw
                value = protocol.write(raw)
            parts.append((protocol.name, value))
        self._bytes, self._text, self.components = bytes(data), "", tuple(parts)

    def _decode(self, data: bytes) -> None:
        parts: list[tuple[str, str]] = []
        self._last = 0
        for protocol, raw, begin in _split(data):
            self._last = begin
            parts.append((protocol.name, protocol.write(raw) if protocol.read is not None else ""))
        self._bytes, self._text, self.components = data, "", tuple(parts)

    def to_bytes(self) -> bytes:
        """As peers write it in messages."""
        return self._bytes

    __bytes__ = to_bytes

    def encapsulate(self, other: Multiaddr | str) -> Multiaddr:
        """This address followed by another one."""
        if isinstance(other, str):
            other = Multiaddr(other)
        if not other._bytes:
            return self
        joined = Multiaddr()
        joined._bytes = self._bytes + other._bytes
        joined._last = len(self._bytes) + other._last
        joined.components = self.components + other.components
        return joined

    def without_last(self) -> Multiaddr:
        """This address without its last part."""
        return Multiaddr(self._bytes[: self._last])

    def __str__(self) -> str:
        if not self._text:
            self._text = "".join(
                f"/{name}/{value}" if value else f"/{name}" for name, value in self.components
            )
        return self._text

    def __repr__(self) -> str:
        return f"<Multiaddr {self}>"

    def __eq__(self, other: object) -> bool:
        return self._bytes == other._bytes if isinstance(other, Multiaddr) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._bytes)


# --- values ---


def count_components(data: bytes, most: int) -> int:
    """How many parts a binary address has, none of which is read; more than `most` are not counted.

    Raises:
        AddressError: a part before that is cut short, or of an unknown protocol.
    """
    return sum(1 for _ in islice(_split(data), most + 1))


def _split(data: bytes) -> Iterator[tuple[_Protocol, bytes, int]]:
    """The parts of a binary address: the protocol, its value's bytes, and where the part begins."""
    position = 0
    try:
        while position < len(data):
            begin = position
            code, position = decode_uvarint(data, position)
            protocol = _BY_CODE.get(code)
            if protocol is None:
                raise AddressError(f"unknown protocol {code:#x}")
            raw = b""
            if protocol.read is not None:
                size = protocol.size
                if not size:
                    size, position = decode_uvarint(data, position)
                raw = data[position : position + size]
                if not size or len(raw) < size:
                    raise AddressError(f"the value of {protocol.name!r} is cut short")
                position += size
            yield protocol, raw, begin
    except (NeedMoreData, RemoteProtocolError) as error:
        raise AddressError(str(error)) from None


def _read_ip(family: socket.AddressFamily, name: str) -> Callable[[str], bytes]:
    def read(text: str) -> bytes:
        try:
            return socket.inet_pton(family, text)
        except (OSError, ValueError):
            raise AddressError(f"{text[:60]!r} is not {name}") from None

    return read


def _write_ip(family: socket.AddressFamily) -> Callable[[bytes], str]:
    return lambda raw: socket.inet_ntop(family, raw)


def _read_port(text: str) -> bytes:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > 65535:
        raise AddressError(f"port {text[:20]!r} is not in range 0 to 65535")
    return int(text).to_bytes(2, "big")


def _write_port(raw: bytes) -> str:
    return str(int.from_bytes(raw, "big"))


def _read_name(text: str) -> bytes:
    # Nothing that could garble a terminal, or be another address when it is read again.
    if (
        not 0 < len(text) <= _MAX_NAME
        or not all(c.isalnum() or c in "-._" for c in text)
        or text[0] == "."
        or ".." in text
    ):
        raise AddressError(f"{text[:60]!r} is not a name")
    return text.encode()


def _write_name(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise AddressError("a name that is not UTF-8") from None
    _read_name(text)
    return text


def _read_peer(text: str) -> bytes:
    return parse_peer_id(text).to_bytes()


def _write_peer(raw: bytes) -> str:
    return str(PeerId(raw))


def _read_hash(text: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4))
    except ValueError:
        raw = b""
    if not raw or _write_hash(raw) != text:
        raise AddressError(f"{text[:60]!r} is not a hash in base64url (u…)")
    return raw


def _write_hash(raw: bytes) -> str:
    return "u" + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _read_path(text: str) -> bytes:
    try:
        raw = unquote_to_bytes(text.replace("+", " "))  # a plus sign is go's blank
    except UnicodeEncodeError:  # half a character
        raw = b""
    if not 0 < len(raw) <= _MAX_PATH or any(byte < 0x20 or byte == 0x7F for byte in raw):
        raise AddressError(f"{text[:60]!r} is not a path")
    return raw


def _write_path(raw: bytes) -> str:
    text = quote(raw, safe="")
    _read_path(text)
    return text


@dataclass(frozen=True, slots=True)
class _Protocol:
    name: str
    code: int
    read: Callable[[str], bytes] | None = None
    """From text to bytes; None where the protocol has no value."""
    write: Callable[[bytes], str] = bytes.hex
    """From bytes, which it checks, to text."""
    size: int = 0
    """Bytes of a value; 0: its length is in front of it."""
    prefix: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", encode_uvarint(self.code))


_V4, _V6 = socket.AF_INET, socket.AF_INET6
_PROTOCOLS: Final = (
    _Protocol("ip4", 0x04, _read_ip(_V4, "IPv4"), _write_ip(_V4), 4),
    _Protocol("ip6", 0x29, _read_ip(_V6, "IPv6"), _write_ip(_V6), 16),
    _Protocol("ip6zone", 0x2A, _read_name, _write_name),
    _Protocol("tcp", 0x06, _read_port, _write_port, 2),
    _Protocol("udp", 0x0111, _read_port, _write_port, 2),
    _Protocol("sctp", 0x84, _read_port, _write_port, 2),
    _Protocol("dccp", 0x21, _read_port, _write_port, 2),
    _Protocol("dns", 0x35, _read_name, _write_name),
    _Protocol("dns4", 0x36, _read_name, _write_name),
    _Protocol("dns6", 0x37, _read_name, _write_name),
    _Protocol("dnsaddr", 0x38, _read_name, _write_name),
    _Protocol("sni", 0x01C1, _read_name, _write_name),
    _Protocol("p2p", 0x01A5, _read_peer, _write_peer),
    _Protocol("certhash", 0x01D2, _read_hash, _write_hash),
    _Protocol("p2p-circuit", 0x0122),
    _Protocol("quic", 0x01CC),
    _Protocol("quic-v1", 0x01CD),
    _Protocol("noise", 0x01C6),
    _Protocol("tls", 0x01C0),
    _Protocol("ws", 0x01DD),
    _Protocol("wss", 0x01DE),
    _Protocol("http", 0x01E0),
    _Protocol("http-path", 0x01E1, _read_path, _write_path),
    _Protocol("https", 0x01BB),
    _Protocol("webtransport", 0x01D1),
    _Protocol("webrtc", 0x0119),
    _Protocol("webrtc-direct", 0x0118),
)
_BY_CODE = {protocol.code: protocol for protocol in _PROTOCOLS}
_BY_NAME = {protocol.name: protocol for protocol in _PROTOCOLS}
_BY_NAME["ipfs"] = _BY_NAME["p2p"]  # as it was called up to 2020
