"""The messages of AutoNAT v2 as data, and their encoding.

Source: https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md. On both protocols each
message is preceded by its length as a varint.

Pure functions: what a peer may send wrong raises :class:`~lattica.errors.RemoteProtocolError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.net.addresses import decode_multiaddr
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.protobuf import parse_message
from lattica.nat.pb import autonat_v2_pb2 as pb

DIAL_REQUEST = "/libp2p/autonat/2/dial-request"
DIAL_BACK = "/libp2p/autonat/2/dial-back"

MAX_MESSAGE = 8192
"""Bytes of one message on :data:`DIAL_REQUEST`, as in other implementations."""
MAX_DIAL_BACK = 1024
"""Bytes of one message on :data:`DIAL_BACK`."""
MAX_CHUNK = 4096
"""Bytes of data in one :class:`DialDataResponse`."""
MIN_DIAL_DATA, MAX_DIAL_DATA = 30_000, 100_000
"""Bytes that a server asks for before it dials another IP address than the asker's."""
MAX_ADDRS = 50
"""Addresses of one request that are decoded; what follows is not looked at."""


class ResponseStatus(IntEnum):
    """What became of a request."""

    E_INTERNAL_ERROR = 0
    E_REQUEST_REJECTED = 100
    """Too many requests, or no resources for it."""
    E_DIAL_REFUSED = 101
    """None of the addresses is one that the server can dial, or wants to."""
    OK = 200


class DialStatus(IntEnum):
    """What became of the dial; means something with :attr:`ResponseStatus.OK` only."""

    UNUSED = 0
    E_DIAL_ERROR = 100
    E_DIAL_BACK_ERROR = 101
    """Connected, but the nonce could not be delivered."""
    OK = 200


@dataclass(frozen=True, slots=True)
class DialRequest:
    """Dial the first of `addrs` that you can and may; None stands for one that does not parse."""

    addrs: tuple[Multiaddr | None, ...]
    nonce: int
    """64 bits."""


@dataclass(frozen=True, slots=True)
class DialDataRequest:
    """Before I dial address number `addr_idx`, send me `num_bytes` bytes."""

    addr_idx: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class DialDataResponse:
    """Some of the bytes; what they are does not matter."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DialResponse:
    """Address number `addr_idx` was dialed, with this result."""

    status: ResponseStatus
    addr_idx: int = 0
    dial_status: DialStatus = DialStatus.UNUSED


Message: TypeAlias = DialRequest | DialResponse | DialDataRequest | DialDataResponse

_NAME = "an AutoNAT message"


def encode(message: Message) -> bytes:
    """A message on :data:`DIAL_REQUEST`, without its length."""
    return _wire(message).SerializeToString()


def _wire(message: Message) -> pb.Message:
    match message:
        case DialRequest(addrs, nonce):
            encoded = [b"" if addr is None else addr.to_bytes() for addr in addrs]
            return pb.Message(dial_request=pb.DialRequest(addrs=encoded, nonce=nonce))
        case DialDataRequest(addr_idx, num_bytes):
            asked = pb.DialDataRequest(addr_idx=addr_idx, num_bytes=num_bytes)
            return pb.Message(dial_data_request=asked)
        case DialDataResponse(data):
            return pb.Message(dial_data_response=pb.DialDataResponse(data=data))
        case DialResponse(status, addr_idx, dial_status):
            response = pb.DialResponse(
                status=pb.DialResponse.ResponseStatus.Name(status),
                addr_idx=addr_idx,
                dial_status=pb.DialStatus.Name(dial_status),
            )
            return pb.Message(dial_response=response)


def decode(data: bytes) -> Message:
    """A message on :data:`DIAL_REQUEST`, without its length.

    Raises:
        RemoteProtocolError: too long, no protobuf, empty, or with a status that is not known
            (which the specification wants to be discarded).
    """
    wire = parse_message(pb.Message(), data, _NAME, limit=MAX_MESSAGE)
    match wire.WhichOneof("msg"):
        case "dial_request":
            request = wire.dial_request
            addrs = tuple(_address(addr) for addr in request.addrs[:MAX_ADDRS])
            return DialRequest(addrs, request.nonce)
        case "dial_data_request":
            asked = wire.dial_data_request
            return DialDataRequest(asked.addr_idx, asked.num_bytes)
        case "dial_data_response":
            return _chunk(wire.dial_data_response)
        case "dial_response":
            return _response(wire.dial_response)
        case _:
            raise RemoteProtocolError("an empty AutoNAT message")


def _address(data: bytes) -> Multiaddr | None:
    try:
        return decode_multiaddr(data)
    except RemoteProtocolError:
        return None


def _chunk(wire: pb.DialDataResponse) -> DialDataResponse:
    if len(wire.data) > MAX_CHUNK:
        raise RemoteProtocolError(f"{len(wire.data)} bytes of dial data in one message")
    return DialDataResponse(wire.data)


def _response(wire: pb.DialResponse) -> DialResponse:
    try:
        status = ResponseStatus(wire.status)
        # Meaningless where nothing was dialed, so that any value will do.
        dialed = status is ResponseStatus.OK
        dial_status = DialStatus(wire.dial_status) if dialed else DialStatus.UNUSED
    except ValueError as error:
        raise RemoteProtocolError(f"an unknown AutoNAT status: {error}") from None
    if dialed and dial_status is DialStatus.UNUSED:
        raise RemoteProtocolError("an AutoNAT response without a dial status")
    return DialResponse(status, wire.addr_idx if dialed else 0, dial_status)


def encode_dial_back(nonce: int) -> bytes:
    """The message that proves a dial, without its length."""
    return pb.DialBack(nonce=nonce).SerializeToString()


def decode_dial_back(data: bytes) -> int:
    """The nonce, from a message without its length.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    return parse_message(pb.DialBack(), data, _NAME, limit=MAX_DIAL_BACK).nonce


def encode_dial_back_response() -> bytes:
    """That the nonce has arrived, without the length."""
    return pb.DialBackResponse(status=pb.DialBackResponse.OK).SerializeToString()


def decode_dial_back_response(data: bytes) -> bool:
    """Whether the nonce has arrived as it should.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    response = parse_message(pb.DialBackResponse(), data, _NAME, limit=MAX_DIAL_BACK)
    return response.status == pb.DialBackResponse.OK
