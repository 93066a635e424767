"""UPnP-IGD over the network: SSDP, then HTTP to the gateway that answered. See `upnp`."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import random
import socket
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Fields

import trio

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.traversal.portmap import upnp
from lattica.nat.traversal.portmap.clients import Checked
from lattica.nat.traversal.portmap.gateway import Gateway
from lattica.nat.traversal.portmap.mapping import Grant, Mapping, Port, PortMappingError, Reason

SEARCH_TIME = 3.0
"""Seconds for which answers to a search are collected."""
SEARCHES = 2
"""How often each search is sent, a second apart: datagrams get lost."""
HTTP_TIMEOUT = 6.0
"""Seconds for one HTTP exchange."""
MAX_GATEWAYS = 8
_MAX_ANSWERS = 64
_OTHER_PORTS = 8
_DESCRIPTION = "lattica"
_MAX_LEASE = 604_800
"""Seconds, of WANIPConnection:2."""

Network = ipaddress.IPv4Network


class UpnpClient:
    """UPnP-IGD at the gateways of one network; see :class:`clients.Client`.

    Args:
        gateway: the default gateway, which is preferred among those that answer.
        network: the network that it is in: nothing outside it is spoken to.
        rng: for ports to try when the wished one is taken.
    """

    def __init__(self, gateway: Gateway, network: Network, rng: random.Random) -> None:
        self._gateway = gateway
        self._network = network
        self._rng = rng
        self._service: upnp.Service | None = None

    async def search(self) -> None:
        self._service = None
        locations = await self._locations()
        if not locations:
            raise PortMappingError(Reason.NO_ANSWER, "to SSDP")
        problem: PortMappingError | None = None
        for location in locations:
            try:
                for service in await self._services(location):
                    # One that is not connected answers, too, but has no address.
                    values = await self._call(service, "GetExternalIPAddress")
                    if not upnp.take_ip(values).is_unspecified:
                        self._service = service
                        return
                problem = PortMappingError(Reason.NETWORK_FAILURE, "no external address")
            except PortMappingError as error:
                problem = error
            except RemoteProtocolError as error:
                problem = PortMappingError(Reason.MALFORMED, str(error))
        assert problem is not None
        raise problem

    async def request(
        self, port: Port, wished_port: int, wished_ip: IpAddress | None, lifetime_s: int
    ) -> Grant:
        service = self._found()
        with _malformed():
            external_ip = upnp.take_ip(await self._call(service, "GetExternalIPAddress"))
            external_port, lease = await self._add(
                service, port, wished_port, min(lifetime_s, _MAX_LEASE)
            )
        return Grant(external_ip, external_port, lease or None)

    async def check(self, mappings: Sequence[Mapping]) -> Checked:
        service = self._found()
        with _malformed():
            external_ip = upnp.take_ip(await self._call(service, "GetExternalIPAddress"))
            lost = False
            for mapping in mappings:
                owner = await self._owner(service, mapping.port, mapping.external_port)
                lost = lost or owner != (str(self._gateway.local_ip), mapping.port.number)
        return Checked(lost, external_ip)

    async def remove(self, port: Port, external_port: int) -> None:
        service = self._found()
        with _malformed():
            # A mapping of another host is not ours to remove (the wished port may be one).
            owner = await self._owner(service, port, external_port)
            if owner == (str(self._gateway.local_ip), port.number):
                await self._call(service, "DeletePortMapping", *_entry(port, external_port))

    # --- discovery ---

    async def _locations(self) -> list[upnp.Url]:
        """Descriptions of the gateways that answer, that of the default gateway first."""
        found: dict[upnp.Url, None] = {}
        try:
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                local = self._gateway.local_ip.packed
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
                await sock.bind((str(self._gateway.local_ip), 0))
                end = trio.current_time() + SEARCH_TIME
                for number in range(SEARCHES):
                    for device in upnp.DEVICES:
                        message = upnp.encode_search(device)
                        await sock.sendto(message, (upnp.SSDP_GROUP, upnp.SSDP_PORT))
                    until = trio.current_time() + 1 if number + 1 < SEARCHES else end
                    if await self._listen(sock, until, found):
                        break
        except OSError as error:  # also for want of a socket
            words = errno.errorcode.get(error.errno or 0, "") or str(error)
            raise PortMappingError(Reason.UNREACHABLE, words) from None
        default = str(self._gateway.address)
        return sorted(found, key=lambda url: url.host != default)

    async def _listen(
        self, sock: trio.socket.SocketType, until: float, found: dict[upnp.Url, None]
    ) -> bool:
        """Whether the default gateway has answered, so that no other need be waited for."""
        answers = 0
        with trio.move_on_at(until):
            while answers < _MAX_ANSWERS and len(found) < MAX_GATEWAYS:
                answers += 1
                data, (host, *_) = await sock.recvfrom(upnp.MAX_DATAGRAM + 1)
                if ipaddress.IPv4Address(host) not in self._network:
                    continue
                with contextlib.suppress(RemoteProtocolError):
                    found[upnp.decode_search_answer(data, host)] = None
                    if host == str(self._gateway.address):
                        return True
        return False

    async def _services(self, location: upnp.Url) -> tuple[upnp.Service, ...]:
        response = await self._http(location, upnp.encode_get(location))
        if response.status != 200:
            raise RemoteProtocolError(f"UPnP description with status {response.status}")
        return upnp.parse_description(response.body, location)

    # --- actions ---

    def _found(self) -> upnp.Service:
        if self._service is None:
            raise PortMappingError(Reason.NO_ANSWER, "no gateway was found")
        return self._service

    async def _add(
        self, service: upnp.Service, port: Port, wished_port: int, lease: int
    ) -> tuple[int, int]:
        """External port and lease, 0 for a permanent one."""
        numbers = [self._rng.random() for _ in range(_OTHER_PORTS)]
        candidates = [wished_port, *upnp.other_ports(wished_port, numbers)]
        is_asked = False
        last = upnp.SoapFault(upnp.CONFLICT, "")
        while candidates:
            external_port = candidates.pop(0)
            owner = await self._owner(service, port, external_port)
            # Some gateways would give us another host's mapping.
            if owner not in (None, (str(self._gateway.local_ip), port.number)):
                continue
            answer = await self._add_one(service, "AddPortMapping", port, external_port, lease)
            if isinstance(answer, upnp.SoapFault) and answer.code == upnp.ONLY_PERMANENT and lease:
                lease = 0
                candidates.insert(0, external_port)
                continue
            if not isinstance(answer, upnp.SoapFault):
                return external_port, lease
            last = answer
            if answer.code == upnp.SAME_PORT_REQUIRED and external_port != port.number:
                candidates = [port.number]
            elif answer.code not in (upnp.CONFLICT, upnp.CONFLICT_WITH_OTHER):
                break
            elif service.has_any_port and not is_asked:
                is_asked = True
                any_one = await self._add_one(
                    service, "AddAnyPortMapping", port, external_port, lease
                )
                if not isinstance(any_one, upnp.SoapFault):
                    return upnp.take_port(any_one, "NewReservedPort"), lease
        raise _error(last)

    async def _add_one(
        self, service: upnp.Service, action: str, port: Port, external_port: int, lease: int
    ) -> Fields[str, str] | upnp.SoapFault:
        return await self._try(
            service,
            action,
            *_entry(port, external_port),
            ("NewInternalPort", port.number),
            ("NewInternalClient", self._gateway.local_ip),
            ("NewEnabled", 1),
            ("NewPortMappingDescription", _DESCRIPTION),
            ("NewLeaseDuration", lease),
        )

    async def _owner(
        self, service: upnp.Service, port: Port, external_port: int
    ) -> tuple[str, int] | None:
        """Where an external port leads; None if nowhere, or if the gateway does not tell."""
        answer = await self._try(
            service, "GetSpecificPortMappingEntry", *_entry(port, external_port)
        )
        if isinstance(answer, upnp.SoapFault):
            return None
        return answer.get("NewInternalClient", ""), upnp.take_port(answer, "NewInternalPort")

    async def _call(
        self, service: upnp.Service, action: str, *arguments: tuple[str, object]
    ) -> Fields[str, str]:
        answer = await self._try(service, action, *arguments)
        if isinstance(answer, upnp.SoapFault):
            raise _error(answer)
        return answer

    async def _try(
        self, service: upnp.Service, action: str, *arguments: tuple[str, object]
    ) -> Fields[str, str] | upnp.SoapFault:
        request = upnp.encode_action(service, action, arguments)
        response = await self._http(service.control, request)
        return upnp.parse_action_answer(response.status, response.body)

    async def _http(self, url: upnp.Url, request: bytes) -> upnp.HttpResponse:
        """Ask and read the answer, at most 256 KiB within six seconds."""
        response = upnp.HttpResponse()
        try:
            with trio.fail_after(HTTP_TIMEOUT):
                with trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                    await sock.bind((str(self._gateway.local_ip), 0))
                    await sock.connect((url.host, url.port))
                    stream = trio.SocketStream(sock)
                    await stream.send_all(request)
                    while not response.feed(await stream.receive_some(16384)):
                        pass
        except trio.TooSlowError:
            raise PortMappingError(Reason.NO_ANSWER, "to HTTP") from None
        except ConnectionRefusedError:
            raise PortMappingError(Reason.PORT_CLOSED, f"TCP port {url.port}") from None
        except (OSError, trio.BrokenResourceError) as error:
            raise PortMappingError(Reason.UNREACHABLE, str(error)) from None
        return response


@contextlib.contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except RemoteProtocolError as error:
        raise PortMappingError(Reason.MALFORMED, str(error)) from None


def _error(fault: upnp.SoapFault) -> PortMappingError:
    return PortMappingError(upnp.reason_of(fault.code), f"error {fault.code} {fault.text}".strip())


def _entry(port: Port, external_port: int) -> tuple[tuple[str, object], ...]:
    """What names a mapping."""
    return (
        ("NewRemoteHost", ""),
        ("NewExternalPort", external_port),
        ("NewProtocol", port.transport.name),
    )
