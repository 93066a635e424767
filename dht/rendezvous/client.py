"""Registering at rendezvous points, and asking them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import trio

from lattica.dht.rendezvous.messages import (
    MAX_MESSAGE,
    PROTOCOL,
    Discover,
    Discovered,
    Register,
    Registered,
    Request,
    Response,
    Status,
    Unregister,
    check_namespace,
    decode_response,
    encode,
)
from lattica.nat.base.errors import LatticaError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import PeerRecord, open_record
from lattica.nat.swarm.host import Host

_TIMEOUT = 30.0
_MOST = 10_000
"""Registrations that are taken of a point for one question."""
_AT_ONCE = 32
"""Of those, whose signatures are checked before others have their turn."""


class RendezvousError(LatticaError):
    """A rendezvous point has refused; :attr:`status` says why."""

    def __init__(self, peer_id: PeerId, status: Status, reason: str) -> None:
        self.peer_id = peer_id
        self.status = status
        super().__init__(
            f"the rendezvous point {peer_id} refused: {status.name}"
            + (f" ({reason})" if reason else "")
        )


@dataclass(frozen=True, slots=True)
class Meeting:
    """A peer that has registered."""

    record: PeerRecord
    namespace: str
    ttl: int
    """Seconds that it stays registered."""


async def register(
    host: Host, point: PeerId, namespace: str, record: bytes, ttl: int | None = None
) -> int:
    """Be found in a namespace; for how many seconds. To be repeated before they are over.

    Raises what :meth:`Host.open_stream` does, too.

    Raises:
        RendezvousError: the point refuses.
        RemoteProtocolError: it answers with something else.
        TimeoutError: it does not answer within 30 s.
    """
    asked = Register(check_namespace(namespace), record, ttl)
    answer = await _ask(host, point, asked)
    if not isinstance(answer, Registered):
        raise RemoteProtocolError("a registration was answered by something else")
    if answer.status is not Status.OK:
        raise RendezvousError(point, answer.status, answer.reason)
    return answer.ttl


async def unregister(host: Host, point: PeerId, namespace: str) -> None:
    """Be found there no more. Raises what :meth:`Host.open_stream` and streams do."""
    with trio.move_on_after(_TIMEOUT):
        async with await host.open_stream(point, PROTOCOL) as stream:
            await stream.send_message(encode(Unregister(check_namespace(namespace))))


async def discover(host: Host, point: PeerId, namespace: str) -> AsyncIterator[Meeting]:
    """Who is in a namespace, other than this node. Records that are none are left out.

    Raises what :func:`register` does.
    """
    check_namespace(namespace)
    cookie, taken = b"", 0
    while taken < _MOST:
        answer = await _ask(host, point, Discover(namespace, None, cookie))
        if not isinstance(answer, Discovered):
            raise RemoteProtocolError("a question of rendezvous was answered by something else")
        if answer.status is not Status.OK:
            raise RendezvousError(point, answer.status, answer.reason)
        for registration in answer.registrations:
            taken += 1
            if taken % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            try:
                record = open_record(registration.record)
            except RemoteProtocolError:
                continue
            if registration.namespace == namespace and record.peer_id != host.peer_id:
                yield Meeting(record, namespace, registration.ttl or 0)
        if not answer.registrations or not answer.cookie or answer.cookie == cookie:
            return
        cookie = answer.cookie


async def _ask(host: Host, point: PeerId, request: Request) -> Response:
    with trio.move_on_after(_TIMEOUT):
        async with await host.open_stream(point, PROTOCOL) as stream:
            await stream.send_message(encode(request))
            return decode_response(await stream.receive_message(MAX_MESSAGE))
    raise TimeoutError(f"the rendezvous point {point} did not answer within {_TIMEOUT:g} s")
