"""What a link holds for a peer that has proved nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.quic.link import QuicLink

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
