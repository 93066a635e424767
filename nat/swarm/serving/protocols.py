"""Which handler serves which protocol, and the life of an inbound stream."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

import trio

from lattica.nat.base.checks import check_count
from lattica.nat.base.concurrency.exception_groups import leaves, unwrapped
from lattica.nat.base.errors import LatticaError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.foreign_code import settle
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.stream import Stream
from lattica.nat.secure.multistream import Responder, check_protocol
from lattica.nat.swarm.serving.handler_kind import check_async_handler, require_awaitable
from lattica.nat.swarm.serving.handler_places import HandlerPlaces

logger = logging.getLogger(__name__)

StreamHandler = Callable[[Stream], Awaitable[object]]

APPLICATION = "the application"
"""Who serves what no part of the node does."""


@dataclass(frozen=True, slots=True)
class _Served:
    handler: StreamHandler
    owner: object
    cancel_when_gone: bool
    places: HandlerPlaces | None = None
    """For as many handlers as may run at once; None: any number."""

    async def run(self, stream: Stream) -> None:
        if self.places is not None:
            async with self.places.of(stream):
                await self._handle(stream)
        elif self.cancel_when_gone:
            await self._handle(stream)
        else:
            await require_awaitable(self.handler(stream))

    async def _handle(self, stream: Stream) -> None:
        with trio.CancelScope() as scope:
            if self.cancel_when_gone:
                stream.cancel_when_gone(scope)
            await require_awaitable(self.handler(stream))


class ProtocolTable:
    """Handlers by protocol name.

    A handler gets a negotiated :class:`Stream`. When it returns, the stream is closed;
    when it raises, the stream is reset and the error is logged; nothing else is harmed.
    """

    def __init__(self, *, negotiate_timeout: float) -> None:
        self._served: dict[str, _Served] = {}
        self._negotiate_timeout = negotiate_timeout
        self.on_removed: list[Callable[[], None]] = []
        """Called when a protocol is served no more."""

    @property
    def names(self) -> tuple[str, ...]:
        """The protocols that are served."""
        return tuple(self._served)

    def __contains__(self, protocol: object) -> bool:
        return protocol in self._served

    def handle(
        self,
        protocol: str,
        handler: StreamHandler,
        *,
        owner: object = APPLICATION,
        replace: bool = False,
        cancel_when_gone: bool = False,
        limit: int | None = None,
    ) -> None:
        """Serve a protocol from the next stream on; streams that are open go on.

        Args:
            owner: who serves it, for whom it is named in errors. An owner replaces its own
                handlers as it likes.
            replace: take the protocol from another owner too.
            cancel_when_gone: cancel the handler when its peer has no more use for an answer
                (:meth:`Stream.wait_gone`).
            limit: how many handlers run at once; further streams wait, unread. No peer keeps
                others waiting: after 3 s they get the place of a stream of whoever has more
                places, or of one that is idle, if its handler waits for its peer. It is reset.

        Raises:
            LocalProtocolError: another owner serves it, the name cannot be one, the handler
                is none or a plain function, or the limit is less than 1.
        """
        check_protocol(protocol)
        check_async_handler(handler)
        if limit is not None:
            check_count("limit", limit)
        served = self._served.get(protocol)
        if served is not None and served.owner != owner and not replace:
            raise LocalProtocolError(
                f"{protocol} is served by {served.owner}; pass replace=True to handle"
            )
        places = None if limit is None else HandlerPlaces(limit)
        self._served[protocol] = _Served(handler, owner, cancel_when_gone, places)

    def handle_all(
        self, handlers: Mapping[str, StreamHandler], *, owner: object = APPLICATION
    ) -> None:
        """:meth:`handle` each of them."""
        for protocol, handler in handlers.items():
            self.handle(protocol, handler, owner=owner)

    def unhandle(self, protocol: str, *, owner: object = APPLICATION) -> None:
        """Serve a protocol no more; streams that are open go on. Nothing if it is not served.

        Raises:
            LocalProtocolError: another owner serves it.
        """
        served = self._served.get(protocol)
        if served is None:
            return
        if served.owner != owner:
            raise LocalProtocolError(f"{protocol} is served by {served.owner}, not by {owner}")
        del self._served[protocol]
        for hook in self.on_removed:
            hook()

    async def serve(self, stream: Stream, negotiated: Callable[[], None]) -> None:
        """Serve one inbound stream to its end; raises nothing but cancellation.

        `negotiated` is called once, when the negotiation is over, whatever its result.
        """
        try:
            try:
                served = await self._negotiate(stream)
            finally:
                negotiated()
                del negotiated  # which need not stay as long as the stream
            if served is not None:
                await served.run(stream)
                stream.close()
        except BaseException as raised:  # of a handler, whose own may be no Exception
            try:
                settle(raised, partial(self._report, stream))
            finally:
                stream.reset()

    def _report(self, stream: Stream, raised: BaseException) -> None:
        errors = leaves(raised)
        error = unwrapped(raised)
        # A stream that the peer had finished is not dead, though its connection is gone.
        ended = stream.is_dead or stream.connection.closed_reason is not None
        if ended and all(isinstance(leaf, LatticaError) for leaf in errors):
            # The peer or the network ended it, which is no news.
            logger.debug("stream ended: %s stream=%r", error, stream)
        elif isinstance(error, RemoteProtocolError):
            peer_log.log(
                logger,
                logging.WARNING,
                stream.peer_id,
                "stream reset: peer breaks %s: %s peer=%s",
                stream.protocol or "multistream",
                error,
                stream.peer_id,
            )
        else:
            peer_log.log(
                logger,
                logging.ERROR,
                stream.peer_id,
                "stream reset: handler of %s failed peer=%s",
                stream.protocol,
                stream.peer_id,
                exc_info=error,
            )

    async def _negotiate(self, stream: Stream) -> _Served | None:
        negotiation = Responder(self._served.__contains__, lambda: self.names)
        with trio.move_on_after(self._negotiate_timeout):
            while negotiation.selected is None:
                data = await stream.receive_some()
                if not data:
                    stream.close()
                    return None
                ended = False
                try:
                    negotiation.receive(data)
                except RemoteProtocolError:
                    if not negotiation.refused:
                        raise
                    ended = True
                if ended or negotiation.failed:
                    # Data for the refused protocol: the refusal is the answer, and no reset
                    # may overtake it.
                    await stream.send_all(negotiation.data_to_send())
                    stream.close()
                    return None
                if answer := negotiation.data_to_send():
                    await stream.send_all(answer)
        if negotiation.selected is None:
            peer_log.log(
                logger,
                logging.INFO,
                stream.peer_id,
                "stream reset: no protocol named in time peer=%s",
                stream.peer_id,
            )
            stream.reset()
            return None
        stream.protocol = negotiation.selected
        stream.push_back(negotiation.rest)
        served = self._served.get(negotiation.selected)
        if served is None:  # removed while it was being agreed on
            stream.reset()
        return served
