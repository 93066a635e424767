"""Values and protections of peers."""

from __future__ import annotations

from lattica.nat.base.keys.identity import Identity
from lattica.nat.swarm.tags import PeerTags

PEER = Identity.generate().peer_id


def test_values_add_up_over_names():
    tags = PeerTags()
    assert tags.value(PEER) == 0
    tags.tag(PEER, "a", 3)
    tags.tag(PEER, "a", 5)
    tags.tag(PEER, "b", 2)
    assert tags.value(PEER) == 7
    tags.untag(PEER, "a")
    tags.untag(PEER, "unknown")
    assert tags.value(PEER) == 2
    tags.untag(PEER, "b")
    assert tags.value(PEER) == 0
    assert not tags._values


def test_a_peer_is_protected_until_all_who_did_it_take_it_back():
    tags = PeerTags()
    assert not tags.is_protected(PEER)
    tags.protect(PEER, "a")
    tags.protect(PEER, "a")
    tags.protect(PEER, "b")
    assert tags.unprotect(PEER, "a")
    assert tags.is_protected(PEER)
    assert not tags.unprotect(PEER, "b")
    assert not tags.unprotect(PEER, "b")
    assert not tags.is_protected(PEER)
    assert not tags._protected
