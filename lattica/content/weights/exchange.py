"""Asking peers which version of a channel is the newest, and answering: for who joins late.

A request is a message of 32 bytes, the SHA-256 of the channel's topic; the answer is a signed
announcement, or nothing. Whoever publishes or follows a channel answers for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import trio

from lattica.content.weights.announcement import (
    KEY_SIZE,
    MAX_ANNOUNCEMENT,
    PROTOCOL,
    Announcement,
    Channel,
    open_announcement,
)
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host

Newest: TypeAlias = Callable[[], bytes]
"""The signed announcement of the newest version that is known; empty: none."""

_TIMEOUT = 10.0
"""Seconds that one question may take, on either side."""
_MAX_AT_ONCE = 64


def _key(channel: Channel) -> bytes:
    return hashlib.sha256(channel.topic.encode()).digest()


class _Answers:
    """What one node answers, for all its publishers and subscribers."""

    def __init__(self) -> None:
        self.newest: dict[bytes, list[Newest]] = {}

    def __str__(self) -> str:
        return "weight channels"

    async def answer(self, stream: Stream) -> None:
        with trio.move_on_after(_TIMEOUT):
            key = await stream.receive_message(KEY_SIZE)
            if len(key) != KEY_SIZE:
                raise RemoteProtocolError(f"a channel of weights is asked for by {len(key)} bytes")
            for newest in self.newest.get(bytes(key), ()):
                if found := newest():
                    await stream.send_message(found)
                    return
            await stream.send_message(b"")


_ANSWERS: dict[Host, _Answers] = {}
"""Of nodes that have a publisher or a subscriber now."""


@contextmanager
def answering(node: Host, channel: Channel, newest: Newest) -> Iterator[None]:
    """Answer questions about a channel."""
    answers = _ANSWERS.get(node)
    if answers is None:
        answers = _Answers()
        node.handle(PROTOCOL, answers.answer, owner=answers, limit=_MAX_AT_ONCE)
        _ANSWERS[node] = answers
    line = answers.newest.setdefault(_key(channel), [])
    line.append(newest)
    try:
        yield
    finally:
        line.remove(newest)
        if not line:
            del answers.newest[_key(channel)]
        if not answers.newest:
            del _ANSWERS[node]
            node.unhandle(PROTOCOL, owner=answers)


async def ask_newest(
    node: Host, peer: PeerId, channel: Channel
) -> tuple[Announcement, bytes] | None:
    """What a peer says is the newest version, and the signed bytes of it; None: it knows of none.

    Raises what streams do, `TimeoutError`, and RemoteProtocolError.
    """
    with trio.fail_after(_TIMEOUT):
        async with await node.open_stream(peer, PROTOCOL) as stream:
            await stream.send_message(_key(channel))
            data = bytes(await stream.receive_message(MAX_ANNOUNCEMENT))
    return (open_announcement(data, channel), data) if data else None
