"""Who is told that nothing is pruned is told why."""

from __future__ import annotations

import pytest

from lattica.crdt.access.capability import Level
from lattica.crdt.document import Document
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC
from tests.support.crdt.sync import exchange_all

OWNER, ANNA = Identity(b"\x01" * 32), Identity(b"\x02" * 32)
LISTED = Genesis("list", (OWNER.public_key.data,), Mode.ALLOW_LIST)
SEALED = Genesis("sealed", (OWNER.public_key.data,), Mode.ALLOW_LIST, is_sealed=True)
GRACE = 60.0


@pytest.fixture
def default() -> Genesis:
    return LISTED


def write(*documents: Document) -> None:
    for document in documents:
        document.registers["a"] = 1
        document.registers["a"] = 2
    exchange_all(*documents)


def test_nothing_is_so_old(make, clock):
    document = make(ANNA, DOC)
    write(document)
    assert document.prune(GRACE) == 0
    assert document.why_not_pruned() == "nothing is both so old and not needed any more"
    clock.ms += 61_000
    assert document.prune(GRACE) == 1


def test_no_owner_has_called_it_final(make, clock):
    owner, anna = make(OWNER), make(ANNA)
    owner.grant(ANNA.peer_id)
    exchange_all(owner, anna)
    write(owner, anna)
    clock.ms += 61_000
    assert anna.prune(GRACE) == 0
    assert "an owner prunes first" in anna.why_not_pruned()
    assert owner.prune(GRACE) > 0
    assert owner.prune(GRACE) == 0
    assert owner.why_not_pruned() == "nothing is both so old and not needed any more"
    exchange_all(owner, anna)
    clock.ms += 61_000
    assert anna.prune(GRACE) > 0
    assert anna.prune(GRACE) == 0
    assert anna.why_not_pruned().startswith("nothing that owners have called final")


def test_who_cannot_read_it_prunes_nothing(make):
    owner, keeper = make(OWNER, SEALED), make(ANNA, SEALED)
    owner.grant(ANNA.peer_id, Level.PULL)
    owner.registers["a"] = 1
    exchange_all(owner, keeper)
    assert keeper.prune(GRACE) == 0
    assert "cannot read" in keeper.why_not_pruned()
