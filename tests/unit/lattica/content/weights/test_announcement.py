"""Announcements: signed by the channel's publisher, or not believed; and the ways they show."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.content import Channel, Cid, Ticket
from lattica.content.weights.announcement import (
    MAX_ANNOUNCEMENT,
    MAX_DELTAS,
    Announcement,
    DeltaRef,
    open_announcement,
)
from lattica.errors import AddressError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.envelope import seal_envelope
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr

TRAINER, STRANGER = Identity.generate(), Identity.generate()
CHANNEL = Channel(TRAINER.peer_id, "policy")
ADDRS = (Multiaddr("/ip4/192.0.2.1/tcp/4001"),)


def cid(number: int) -> Cid:
    return Cid.of(b"%d" % number)


def delta(base: int, made: int, size: int = 10) -> DeltaRef:
    return DeltaRef(cid(base), cid(made), cid(1000 + made), size)


SAID = Announcement(
    CHANNEL, 5, 3, Ticket(cid(3), TRAINER.peer_id, ADDRS), 1000, (delta(1, 2), delta(2, 3))
)


def test_it_comes_back_and_only_from_its_publisher():
    assert open_announcement(SAID.seal(TRAINER), CHANNEL) == SAID
    for channel in (Channel(TRAINER.peer_id, "other"), Channel(STRANGER.peer_id, "policy")):
        with pytest.raises(RemoteProtocolError):
            open_announcement(SAID.seal(TRAINER), channel)
    with pytest.raises(RemoteProtocolError, match="somebody else"):
        open_announcement(SAID.seal(STRANGER), CHANNEL)


def test_the_longest_one_fits():
    many = tuple(Multiaddr(f"/dns/{'x' * 200}{n}.example/tcp/1") for n in range(16))
    ticket = Ticket.make(cid(3), TRAINER.peer_id, many)
    deltas = tuple(delta(n, n + 1) for n in range(MAX_DELTAS))
    said = replace(SAID, channel=Channel(TRAINER.peer_id, "n" * 200), ticket=ticket, deltas=deltas)
    sealed = said.seal(TRAINER)
    assert len(sealed) <= MAX_ANNOUNCEMENT
    assert open_announcement(sealed, said.channel) == said


@settings(max_examples=50)
@given(st.data())
def test_whatever_is_signed_raises_nothing_else(data):
    scalar = st.none() | st.booleans() | st.integers(-1, 2**64 - 1) | st.binary(max_size=40)
    value = scalar | st.text(max_size=10) | st.lists(scalar | st.lists(scalar), max_size=4)
    digest = cid(1).digest
    fields = [1, "policy", 5, 3, digest, 10, [[digest, digest, digest, 1]], [ADDRS[0].to_bytes()]]
    fields[data.draw(st.integers(0, 7))] = data.draw(value)
    sealed = seal_envelope(TRAINER, "lattica-weights", b"/lattica/weights", msgpack.packb(fields))
    with suppress(RemoteProtocolError):
        assert open_announcement(sealed, CHANNEL).channel == CHANNEL


def test_the_way_from_what_is_held():
    assert SAID.way_from({cid(2): 0}) == (cid(2), (delta(2, 3),))
    assert SAID.way_from({cid(1): 0}) == (cid(1), (delta(1, 2), delta(2, 3)))
    assert SAID.way_from({cid(1): 0, cid(2): 0}) == (cid(2), (delta(2, 3),))
    assert SAID.way_from({}) is None
    assert SAID.way_from({cid(9): 0}) is None
    dear = replace(SAID, deltas=(delta(1, 2, 600), delta(2, 3, 600)))
    assert dear.way_from({cid(1): 0}) is None
    assert dear.way_from({cid(2): 0}) is not None
    ring = replace(SAID, deltas=(delta(3, 2), delta(2, 3)))
    assert ring.way_from({cid(1): 0}) is None


def test_names_of_channels():
    assert Channel.parse(str(CHANNEL)) == CHANNEL
    assert Channel.parse(f" {TRAINER.peer_id}/a/b \n") == Channel(TRAINER.peer_id, "a/b")
    for text in (str(TRAINER.peer_id), f"{TRAINER.peer_id}/", f"{TRAINER.peer_id}/" + "x" * 201):
        with pytest.raises(LocalProtocolError):
            Channel.parse(text)
    with pytest.raises(AddressError):
        Channel.parse("somebody/policy")
