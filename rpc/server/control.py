"""The serving side of the control plane: all sessions of a server."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

import trio

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import Shares, Source
from lattica.nat.config import MIB
from lattica.nat.mux.stream import Stream
from lattica.rpc.errors import StatusCode
from lattica.rpc.protocol.server_core import Hello
from lattica.rpc.server.session import Caller, Session

if TYPE_CHECKING:
    from lattica.rpc.server.server import Server

_MAX_SESSIONS: Final = 8
"""Sessions of one peer: a program has one, and may have been restarted."""
_MAX_KEPT_BY_NETWORK: Final = 64 * MIB
"""Bytes of answers that the sessions from one network may leave unacknowledged; beyond that each of
them has only the least."""
_MAX_KEPT_BY_ALL: Final = 256 * MIB
"""The same over all; beyond that everybody has."""


class KeptAnswers:
    """Bytes of answers that sessions have not acknowledged, by network and over all."""

    def __init__(self) -> None:
        self._shares = Shares()
        self.total = 0

    def add(self, source: Source, more: int) -> None:
        """A session of somebody keeps so many more bytes, or less."""
        self.total += more
        self._shares.add(source, more)

    def is_too_much_for(self, network: Hashable) -> bool:
        """Whether each session of a network may only keep the least."""
        if self.total > _MAX_KEPT_BY_ALL:
            return True
        return self._shares.of_network(network) > _MAX_KEPT_BY_NETWORK


class ControlPlane:
    """All sessions of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.sessions: dict[tuple[PeerId, bytes], Session] = {}
        self.kept = KeptAnswers()
        self._callers: dict[PeerId, Caller] = {}

    async def serve(self, stream: Stream) -> None:
        """Handle a stream that a peer has opened."""
        hello = Hello()
        while hello.session is None:
            data = await stream.receive_view()
            if not data:
                return
            hello.feed(data, self._server.decoder)
        key = (stream.peer_id, hello.session)
        session = self.sessions.get(key)
        if session is None:
            if (answer := hello.lost) is not None:
                await stream.send_all(answer)
                return
            if not self._make_room(stream.peer_id):
                stream.reset("too many sessions", code=StatusCode.RESOURCE_EXHAUSTED)
                return
            caller = self._callers.setdefault(stream.peer_id, Caller())
            caller.sessions += 1
            session = self.sessions[key] = Session(
                self._server, *key, stream.connection.source.network, caller
            )
        try:
            ended = await session.serve(stream, hello)
        except RemoteProtocolError:
            self._end(key)
            raise
        if ended or session.is_broken:
            self._end(key)
        elif self._is_lost(key, session) and not session.is_watched:
            session.is_watched = True
            self._server.tasks.start_soon(self._expire, key, session)

    def _is_lost(self, key: tuple[PeerId, bytes], session: Session) -> bool:
        return session.stream is None and self.sessions.get(key) is session

    def _make_room(self, peer: PeerId) -> bool:
        """Whether there is room for another session of the peer."""
        held = [key for key in self.sessions if key[0] == peer]
        if len(held) < _MAX_SESSIONS:
            return True
        for key in held:
            if self.sessions[key].stream is None:
                self._end(key)
                return True
        return False

    async def _expire(self, key: tuple[PeerId, bytes], session: Session) -> None:
        """End a session that stays without a stream. Each loss has the whole time."""
        window = self._server.config.resume_window
        while self._is_lost(key, session):
            if trio.current_time() >= session.lost_at + window:
                self._end(key)
                return
            await trio.sleep_until(session.lost_at + window)
        session.is_watched = False

    def _end(self, key: tuple[PeerId, bytes]) -> None:
        session = self.sessions.pop(key, None)
        if session is not None:
            session.end()
            session.caller.sessions -= 1
            self.forget_idle(key[0])

    def forget_idle(self, peer: PeerId) -> None:
        """Forget a caller that has nothing any more; handlers may outlive their session."""
        caller = self._callers[peer]
        if not caller.sessions and not caller.under_way:
            del self._callers[peer]

    def end_all(self) -> None:
        """End all sessions."""
        for key in [*self.sessions]:
            self._end(key)
