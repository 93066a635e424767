"""Targets of port mapping: what a router, or whoever plays one, answers."""

from __future__ import annotations

import ipaddress
import struct

from lattica.errors import RemoteProtocolError
from lattica.nat.traversal.portmap import natpmp, pcp, upnp
from tools.fuzz.target import Target, Violation

_HOST = "192.168.1.1"
_LOCATION = upnp.Url(_HOST, 5000, "/rootDesc.xml")
_PCP_MAP = (
    struct.pack("!BBBBII12x", 2, 0x81, 0, 0, 600, 77)
    + bytes(12)
    + struct.pack("!B3xHH", 17, 4001, 4001)
    + ipaddress.IPv6Address("::ffff:198.51.100.4").packed
)
_DESCRIPTION = (
    b'<?xml version="1.0"?><root><URLBase>http://192.168.1.1:5000/</URLBase><device><serviceList>'
    b"<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>"
    b"<controlURL>/ctl</controlURL></service></serviceList></device></root>"
)
_SSDP = (
    b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    b"LOCATION: http://192.168.1.1:5000/rootDesc.xml\r\n\r\n"
)
_VALUES = (
    b"<e><b><r><NewExternalIPAddress>198.51.100.4</NewExternalIPAddress>"
    b"<NewReservedPort>4001</NewReservedPort></r></b></e>"
)
_FAULT = (
    b"<e><b><Fault><errorCode>718</errorCode><errorDescription>no</errorDescription>"
    b"</Fault></b></e>"
)


def _pcp(data: bytes) -> None:
    answer = pcp.decode(data)
    if answer.result:
        pcp.reason_of(answer.result)
    if isinstance(answer, pcp.MapAnswer) and not 0 <= answer.external_port <= 0xFFFF:
        raise Violation("a port that is none")


def _natpmp(data: bytes) -> None:
    answer = natpmp.decode(data)
    if answer.result:
        natpmp.reason_of(answer.result)


def _ssdp(data: bytes) -> None:
    if upnp.decode_search_answer(data, _HOST).host != _HOST:
        raise Violation("led to another host")


def _description(data: bytes) -> None:
    for service in upnp.parse_description(data, _LOCATION):
        if service.control.host != _HOST:
            raise Violation("led to another host")
        request = upnp.encode_action(service, "GetExternalIPAddress", ())
        if request.count(b"\r\n\r\n") != 1 or b"\n\n" in request:
            raise Violation("a URL that changes the request")


def _soap(data: bytes) -> None:
    answer = upnp.parse_action_answer(200, data)
    if isinstance(answer, upnp.SoapFault):
        upnp.reason_of(answer.code)
        return
    upnp.take_ip(answer)
    upnp.take_port(answer, "NewReservedPort")


def _http(data: bytes) -> None:
    whole, pieces = upnp.HttpResponse(), upnp.HttpResponse()
    if not whole.feed(data):
        whole.feed(b"")
    if not any(pieces.feed(data[i : i + 7]) for i in range(0, len(data), 7)):
        pieces.feed(b"")
    if (whole.status, whole.body) != (pieces.status, pieces.body):
        raise Violation("read otherwise in pieces")


PCP = Target("pcp", _pcp, (RemoteProtocolError,), seeds=[_PCP_MAP, _PCP_MAP[:24]], max_size=1200)
NAT_PMP = Target(
    "nat-pmp",
    _natpmp,
    (RemoteProtocolError,),
    seeds=[
        struct.pack("!BBHIHHI", 0, 129, 0, 9, 4001, 4002, 600),
        struct.pack("!BBHI4B", 0, 128, 0, 9, 198, 51, 100, 4),
    ],
    max_size=64,
)
SSDP = Target(
    "upnp-ssdp",
    _ssdp,
    (RemoteProtocolError,),
    seeds=[_SSDP],
    tokens=[b"LOCATION: ", b"http://", b"@", b"[::1]", b":0", b"\r\n", b"?", b"#", b"%0d%0a"],
)
DESCRIPTION = Target(
    "upnp-description",
    _description,
    (RemoteProtocolError,),
    seeds=[_DESCRIPTION],
    tokens=[b"<!DOCTYPE a>", b"<![CDATA[", b"]]>", b"&#10;", b"&amp;", b"//", b"encoding='utf-16'"],
)
SOAP = Target(
    "upnp-soap",
    _soap,
    (RemoteProtocolError,),
    seeds=[_VALUES, _FAULT],
    tokens=[b"<Fault>", b"errorCode", b"&#x660;", b"NewReservedPort"],
)
HTTP = Target(
    "upnp-http",
    _http,
    (RemoteProtocolError,),
    seeds=[
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ],
    tokens=[b"\r\n\r\n", b"Content-Length: ", b"chunked", b"0\r\n", b"ffffff\r\n", b"1\r\nx\r\n"],
)
