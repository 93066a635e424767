"""What a link holds for a peer that has proved nothing, and how it slows one that floods."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from lattica.errors import ConnectionClosedError
from lattica.nat.base.limits.places import NOBODY
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.turns import Nuisance, Turnstile
from lattica.nat.quic.link import QuicLink
from lattica.nat.quic.path.packet_size import ANSWER, PROBE
from lattica.nat.quic.path.peer_path import CHALLENGE, RESPONSE

SOURCE = ("127.0.0.1", 1)


def link_of(remote: object) -> Any:
    session = SimpleNamespace(
        budget=MemoryBudget(1 << 20), remote=remote, is_client=False, heard=True, turn=0
    )
    carrier: Any = None
    turnstile: Any = None
    fake: Any = session
    link = QuicLink(carrier, SOURCE, fake, turnstile)
    session.turn = 0  # it is the others' turn
    return link


def waiting(link: Any) -> int:
    return sum(len(data) for data, _, _ in link._inbox)


def test_a_stranger_leaves_little_lying() -> None:
    stranger, peer = link_of(None), link_of(object())
    for link in (stranger, peer):
        for _ in range(200):
            link.deliver(bytes(64 * 1024), 1200, SOURCE)
    assert waiting(stranger) == 128 * 1024
    assert waiting(peer) == 64 * 64 * 1024


class Session(SimpleNamespace):
    """Counts the datagrams that it gets, each of which costs as much as 1,024 frames."""

    def receive(self, data: bytes, size: int, source: object) -> list[Any]:
        self.received += len(data)
        self.nuisance.count("frames", 1024 * (len(data) // size))
        return []

    def next_timer(self) -> None:
        return None

    def transmit(self) -> list[Any]:
        return []


async def test_a_link_whose_peer_floods_rests_and_goes_on(autojump_clock: object) -> None:
    del autojump_clock
    nuisance = Nuisance(trio.current_time)
    nuisance.count("frames", 16_384)
    session = Session(
        budget=MemoryBudget(1 << 20),
        remote=object(),
        is_client=False,
        heard=True,
        turn=0,
        received=0,
        wants_write=False,
        source=NOBODY,
        nuisance=nuisance,
    )
    carrier: Any = SimpleNamespace(on_connection_ids=lambda link: None)
    link = QuicLink(carrier, SOURCE, session, Turnstile())  # type: ignore[arg-type]
    began = trio.current_time()
    link.deliver(bytes(1200), 1200, SOURCE)
    assert session.received == 1200
    for _ in range(3):
        link.deliver(bytes(1200), 1200, SOURCE)
    assert waiting(link) == 3600
    while waiting(link):
        await link.pump()
    assert session.received == 4 * 1200
    assert trio.current_time() - began == pytest.approx(3)


async def test_a_session_that_cannot_send_ends_the_link() -> None:
    def transmit() -> list[Any]:
        raise ConnectionClosedError("QUIC cannot go on: reserved stream is missing")

    link = link_of(object())
    link._carrier = SimpleNamespace(on_connection_ids=lambda link: None)
    link.session.nuisance = Nuisance(trio.current_time)
    link.session.next_timer = lambda: None
    link.session.transmit = transmit
    await link.pump()
    assert isinstance(link.failure, ConnectionClosedError)


@pytest.mark.parametrize("kind", [CHALLENGE, RESPONSE, PROBE, ANSWER])
async def test_messages_about_the_path_have_a_rate(kind: int, autojump_clock: object) -> None:
    """They are no frames, and cost no turn: an HMAC each, or one for every probe under way."""
    del autojump_clock
    taken: list[bytes] = []
    link = link_of(object())
    link._carrier = SimpleNamespace(send=lambda data, to: None)
    link._path = SimpleNamespace(
        answer=lambda message, cid: taken.append(message),
        receive_response=lambda message, source: taken.append(message),
    )
    link._size = SimpleNamespace(answer=link._path.answer, receive_answer=taken.append)
    link._peer_cid = b"12345678"
    message = bytes((kind,)) + bytes(24)
    for _ in range(3000):
        link.deliver_path_message(message, SOURCE)
    assert len(taken) == 256
    await trio.sleep(1)
    for _ in range(3000):
        link.deliver_path_message(message, SOURCE)
    assert len(taken) == 256 + 128
