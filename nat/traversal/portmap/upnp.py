"""UPnP Internet Gateway Device 1 and 2: what is sent and how answers are read.

Pure. Sources: UPnP Device Architecture 1.1 (SSDP, descriptions, control), WANIPConnection:1
and :2, WANPPPConnection:1.

Our own, and not miniupnpc's: that module blocks a thread for as long as a gateway dribbles bytes,
reads descriptions of any length from any host that an answer names, tells errors as prose, and
asks AddAnyPortMapping for permanent leases only. Here a gateway may answer with 256 KiB, XML
may have no document type (and so no entities), and the host of every URL must be the one that
answered, on a network of ours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit
from xml.parsers import expat

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.traversal.portmap.mapping import Reason

SSDP_GROUP = "239.255.255.250"
SSDP_PORT = 1900
MAX_DATAGRAM = 4096
MAX_BODY = 256 * 1024
_MAX_CHUNK_LINE = 256
"""Bytes of the line before a chunk."""
MAX_HEAD = 16 * 1024
MAX_URL = 512
_MAX_DEPTH = 32
_MAX_ELEMENTS = 4096
_MAX_TEXT = 1024
_MAX_SERVICES = 64
DEVICES = tuple(
    f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (2, 1)
)
_SERVICES = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
"""What maps ports, the best first."""

NO_SUCH_ENTRY = 714
CONFLICT = 718
SAME_PORT_REQUIRED = 724
ONLY_PERMANENT = 725
CONFLICT_WITH_OTHER = 729
INVALID_ACTION = 401
_REASONS = {
    INVALID_ACTION: Reason.UNSUPPORTED,
    402: Reason.UNSUPPORTED,
    501: Reason.REFUSED,
    602: Reason.UNSUPPORTED,
    606: Reason.NOT_AUTHORIZED,
    CONFLICT: Reason.CONFLICT,
    SAME_PORT_REQUIRED: Reason.CONFLICT,
    728: Reason.OUT_OF_RESOURCES,
    CONFLICT_WITH_OTHER: Reason.CONFLICT,
}


def reason_of(code: int) -> Reason:
    """The reason behind a UPnP error code; unknown ones are refusals."""
    return _REASONS.get(code, Reason.REFUSED)


@dataclass(frozen=True, slots=True)
class Url:
    """An `http` URL whose host is an IPv4 address."""

    host: str
    port: int
    path: str

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class Service:
    """What takes mapping requests."""

    kind: str
    control: Url

    @property
    def has_any_port(self) -> bool:
        """It has AddAnyPortMapping."""
        return self.kind.endswith(":2")


@dataclass(frozen=True, slots=True)
class SoapFault:
    """The gateway's refusal."""

    code: int
    text: str


# --- discovery ---


def encode_search(target: str) -> bytes:
    """An M-SEARCH; devices answer after a random time of at most two seconds."""
    return (
        f"M-SEARCH * HTTP/1.1\r\nHOST: {SSDP_GROUP}:{SSDP_PORT}\r\n"
        f'MAN: "ssdp:discover"\r\nMX: 2\r\nST: {target}\r\n\r\n'
    ).encode()


def decode_search_answer(data: bytes, source: str) -> Url:
    """Where the description of a gateway is that answered from the IPv4 address `source`.

    Raises:
        RemoteProtocolError: it is malformed, or at another host.
    """
    if len(data) > MAX_DATAGRAM:
        raise RemoteProtocolError(f"SSDP answer of {len(data)} bytes")
    status, headers = _head(data)
    if status != 200:
        raise RemoteProtocolError(f"SSDP answer with status {status}")
    target = headers.get("st", "")
    if not any(target.startswith(device[:-1]) for device in DEVICES):
        raise RemoteProtocolError("SSDP answer of something that is no gateway")
    return parse_url(headers.get("location", ""), source)


def parse_url(text: str, host: str) -> Url:
    """The parts of a URL that a gateway gives.

    Raises:
        RemoteProtocolError: it is no `http` URL at `host`.
    """
    if len(text) > MAX_URL or not text.isascii() or not text.isprintable() or " " in text:
        raise RemoteProtocolError("URL too long or with forbidden characters")
    try:
        parts = urlsplit(text)
        port = parts.port
        named = ipaddress.IPv4Address(parts.hostname or "")
    except ValueError:
        raise RemoteProtocolError(f"{text!r} is not a URL with an IPv4 address") from None
    if parts.scheme != "http" or parts.username is not None or port == 0:
        raise RemoteProtocolError(f"{text!r} is not a plain http URL")
    if str(named) != host:
        raise RemoteProtocolError(f"{text!r} leads to another host than {host}")
    path = parts.path or "/"
    if parts.query:
        path += f"?{parts.query}"
    return Url(host, 80 if port is None else port, path)


# --- HTTP ---


def encode_get(url: Url) -> bytes:
    return (
        f"GET {url.path} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
        "User-Agent: lattica UPnP/1.1\r\nConnection: close\r\n\r\n"
    ).encode()


def encode_action(service: Service, action: str, arguments: Sequence[tuple[str, object]]) -> bytes:
    """An HTTP request that calls an action; `arguments` in the order of its specification."""
    inner = "".join(f"<{name}>{_escape(str(value))}</{name}>" for name, value in arguments)
    body = (
        '<?xml version="1.0"?>\r\n'
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{service.kind}">{inner}</u:{action}></s:Body></s:Envelope>\r\n'
    ).encode()
    url = service.control
    head = (
        f"POST {url.path} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
        "User-Agent: lattica UPnP/1.1\r\nConnection: close\r\n"
        'Content-Type: text/xml; charset="utf-8"\r\n'
        f'Content-Length: {len(body)}\r\nSOAPAction: "{service.kind}#{action}"\r\n\r\n'
    ).encode()
    return head + body


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _head(data: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers, names in lower case; of a header that repeats the first counts."""
    lines = data.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    digits = rest[:3]
    if not version.startswith("HTTP/1.") or len(digits) < 3 or not _is_number(digits):
        raise RemoteProtocolError("not an HTTP response")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    return int(digits), headers


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


class HttpResponse:
    """Reads one response, piece by piece. :meth:`feed` raises :class:`RemoteProtocolError`."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self._buffer = bytearray()
        self._searched = 0
        """Bytes of it in which the header does not end."""
        self._body = bytearray()
        """Of the chunks that are done."""
        self._length: int | None = None
        self._chunked = False

    def feed(self, data: bytes) -> bool:
        """Take bytes, none at the end of the connection; whether the response is complete."""
        self._buffer += data
        if not self.status and not self._read_head(at_end=not data):
            return False
        if len(self._body) + len(self._buffer) > MAX_BODY:
            raise RemoteProtocolError("HTTP response too long")
        if self._chunked:
            return self._read_chunks(at_end=not data)
        if self._length is not None and len(self._buffer) >= self._length:
            self.body = bytes(self._buffer[: self._length])
            return True
        if not data:
            if self._length is not None:
                raise RemoteProtocolError("HTTP response cut short")
            self.body = bytes(self._buffer)
            return True
        return False

    def _read_head(self, at_end: bool) -> bool:
        end = self._buffer.find(b"\r\n\r\n", self._searched, MAX_HEAD)
        self._searched = max(0, len(self._buffer) - 3)
        if end < 0:
            if at_end or len(self._buffer) >= MAX_HEAD:
                raise RemoteProtocolError("HTTP response without an end of its header")
            return False
        self.status, headers = _head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length")
        if length is not None and not self._chunked:
            if not _is_number(length) or len(length) > 9 or int(length) > MAX_BODY:
                raise RemoteProtocolError("HTTP response with a content length out of bounds")
            self._length = int(length)
        return True

    def _read_chunks(self, at_end: bool) -> bool:
        buffer = self._buffer
        while (end := buffer.find(b"\r\n", 0, _MAX_CHUNK_LINE)) >= 0:
            size = _chunk_size(bytes(buffer[:end]))
            if size == 0:
                self.body = bytes(self._body)
                return True
            if end + 2 + size + 2 > len(buffer):
                break
            self._body += buffer[end + 2 : end + 2 + size]
            # What is done is not looked at again, however small the pieces are.
            del buffer[: end + 2 + size + 2]
        if end < 0 and len(buffer) >= _MAX_CHUNK_LINE:
            raise RemoteProtocolError("HTTP chunk without a size")
        if at_end:
            raise RemoteProtocolError("HTTP response cut short")
        return False


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        if not 0 < len(digits) <= 6 or not digits.isalnum():
            raise ValueError
        return int(digits, 16)
    except ValueError:
        raise RemoteProtocolError("HTTP chunk without a size") from None


# --- XML ---


def _parse_xml(data: bytes) -> list[tuple[tuple[str, ...], str]]:
    """All elements with text as (local names from the root, text), in order of their ends.

    An element without text comes, too. Raises :class:`RemoteProtocolError`.
    """
    if len(data) > MAX_BODY:
        raise RemoteProtocolError("XML too long")
    found: list[tuple[tuple[str, ...], str]] = []
    path: list[str] = []
    texts: list[str] = []
    elements = 0

    def start(name: str, _attributes: object) -> None:
        nonlocal elements
        elements += 1
        if elements > _MAX_ELEMENTS or len(path) >= _MAX_DEPTH:
            raise RemoteProtocolError("XML with too many elements")
        path.append(name.rpartition(":")[2])
        texts.append("")

    def text(piece: str) -> None:
        if texts:
            texts[-1] = (texts[-1] + piece)[:_MAX_TEXT]

    def end(_name: str) -> None:
        found.append((tuple(path), texts.pop().strip()))
        path.pop()

    def refuse(*_: object) -> None:
        raise RemoteProtocolError("XML with a document type")

    # Whatever encoding it claims: what matters is ASCII.
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data.decode("utf-8", "replace").strip("\ufeff \t\r\n\0").encode(), True)
    except expat.ExpatError as error:
        raise RemoteProtocolError(f"invalid XML: {error}") from None
    return found


def parse_description(data: bytes, location: Url) -> tuple[Service, ...]:
    """The services that map ports, the best first.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    base = str(location)
    service: dict[str, str] = {}
    found: dict[str, str] = {}
    for path, text in _parse_xml(data):
        name = path[-1]
        if name == "URLBase" and text:
            base = text
        elif name in ("serviceType", "controlURL"):
            service[name] = text
        elif name == "service":
            kind = service.get("serviceType", "")
            if kind in _SERVICES:
                # Of several connections the first, as other programs do.
                found.setdefault(kind, service.get("controlURL", ""))
            service = {}
    services = []
    for kind in _SERVICES:
        if kind in found:
            try:
                url = urljoin(base, found[kind])
            except ValueError:
                raise RemoteProtocolError("description with a broken URL") from None
            services.append(Service(kind, parse_url(url, location.host)))
    if not services:
        raise RemoteProtocolError("a gateway that does not map ports")
    return tuple(services)


def parse_action_answer(status: int, body: bytes) -> Mapping[str, str] | SoapFault:
    """What an action returned, or why it failed.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    if status not in (200, 500):
        raise RemoteProtocolError(f"UPnP answer with status {status}")
    values: dict[str, str] = {}
    names: set[str] = set()
    for path, text in _parse_xml(body):
        values.setdefault(path[-1], text)
        names.update(path)
    if status == 500 or "Fault" in names:
        code = values.get("errorCode", "")
        if not _is_number(code) or len(code) > 5:
            raise RemoteProtocolError("UPnP fault without a code")
        words = "".join(c for c in values.get("errorDescription", "") if c.isprintable())
        return SoapFault(int(code), words[:100])
    return values


def take_ip(values: Mapping[str, str]) -> ipaddress.IPv4Address:
    """NewExternalIPAddress. A gateway that has none (or says so in its own words) gives 0.0.0.0."""
    text = values.get("NewExternalIPAddress", "")
    try:
        return ipaddress.IPv4Address(text or "0.0.0.0")
    except ValueError:
        raise RemoteProtocolError("UPnP answer with an invalid external address") from None


def take_port(values: Mapping[str, str], name: str) -> int:
    """A port among what an action returned.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    text = values.get(name, "")
    if not _is_number(text) or len(text) > 5 or not 0 < int(text) < 65536:
        raise RemoteProtocolError(f"UPnP answer without a port in {name}")
    return int(text)


def other_ports(wished: int, numbers: Iterable[float]) -> list[int]:
    """Where to try when the wished port is taken: the next one, then anywhere above 1024.

    `numbers`: random ones between 0 and 1, one for each attempt.
    """
    following = wished + 1 if wished < 65535 else 1024
    return list(dict.fromkeys([following, *(1024 + int(n * 64511) for n in numbers)]))
