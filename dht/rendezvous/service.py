"""A rendezvous point on a node."""

from __future__ import annotations

import os

import trio

from lattica.dht.rendezvous.config import RendezvousConfig
from lattica.dht.rendezvous.core import RendezvousCore
from lattica.dht.rendezvous.messages import (
    MAX_MESSAGE,
    PROTOCOL,
    Discovered,
    Register,
    Registered,
    Response,
    Status,
    Unregister,
    decode_request,
    encode,
)
from lattica.dht.rendezvous.rates import AnswerRates
from lattica.nat.base.errors import IncompleteReadError
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host

OWNER = "rendezvous"
_PATIENCE = 30.0
"""Seconds for a question to come, and for its answer to be taken."""
_BUSY = "your network has asked for too much, try again in some seconds"


class RendezvousService:
    """Answers peers that register and look for others, as long as it is open."""

    def __init__(self, host: Host, config: RendezvousConfig) -> None:
        self._host = host
        self._core = RendezvousCore(config, os.urandom(8))
        self._rates = AnswerRates(config.rate_per_network)
        host.handle(PROTOCOL, self._serve, owner=OWNER, limit=config.max_streams)

    def __len__(self) -> int:
        """Registrations."""
        return len(self._core)

    def close(self) -> None:
        """Answer no more."""
        self._host.unhandle(PROTOCOL, owner=OWNER)

    async def _serve(self, stream: Stream) -> None:
        while True:
            with trio.fail_after(_PATIENCE):
                try:
                    data = await stream.receive_message(MAX_MESSAGE)
                except IncompleteReadError:
                    return  # it has no more questions
                answer = self._answer(stream, data)
                if answer is not None:
                    await stream.send_message(answer)

    def _answer(self, stream: Stream, data: bytes) -> bytes | None:
        network = stream.source.network
        now = trio.current_time()
        request = decode_request(data)
        if isinstance(request, Unregister):
            self._core.unregister(stream.peer_id, request)
            return None
        answer: Response
        if not self._rates.may_ask(network, now):
            kind = Registered if isinstance(request, Register) else Discovered
            return encode(kind(Status.UNAVAILABLE, _BUSY))
        if isinstance(request, Register):
            answer = self._core.register(stream.source, stream.peer_id, request, now)
        else:
            answer = self._core.discover(request, now)
        encoded = encode(answer)
        self._rates.answered(network, len(encoded), now)
        return encoded
