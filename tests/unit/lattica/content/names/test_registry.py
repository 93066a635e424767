"""Names in replicated documents: what people write, and what a registry's words come to."""

from __future__ import annotations

import pytest

from lattica.content import Cid
from lattica.content.names.following import parse_any_ref
from lattica.content.names.registry import RegistryRef, content_of
from lattica.content.ticket import Ticket
from lattica.crdt.uses.model_registry import ModelVersion
from lattica.errors import NameNotFoundError, TicketError
from lattica.nat.base.keys.identity import Identity

PEER, OTHER = (Identity.generate().peer_id for _ in range(2))
CID = Cid.of(b"x")


@pytest.mark.parametrize(
    ("text", "document", "model", "version"),
    [
        ("crdt:cluster/chat", "cluster", "chat", None),
        (" crdt:cluster/chat@7\n", "cluster", "chat", "7"),
        ("crdt:a/b/chat@v@1", "a/b", "chat", "v@1"),
        (f"crdt:{'0f' * 32}/chat", "0f" * 32, "chat", None),
    ],
)
def test_what_is_a_name_in_a_document(text, document, model, version):
    ref = parse_any_ref(text)
    assert ref == RegistryRef(document, model, version)
    assert str(ref) == text.strip()


@pytest.mark.parametrize(
    "text", ["crdt:", "crdt:cluster", "crdt:/chat", "crdt:cluster/", "crdt:c/m@", "crdt:c/@7"]
)
def test_what_is_none(text):
    with pytest.raises(TicketError, match="no crdt:DOCUMENT/MODEL"):
        parse_any_ref(text)


def test_who_has_published_it_is_asked_first_unless_there_is_a_ticket():
    ref = RegistryRef("c", "m")
    assert content_of(ref, ModelVersion("m", "7", str(CID), {}, PEER)) == Ticket(CID, PEER, ())
    assert content_of(ref, ModelVersion("m", "7", str(CID))) == CID
    ticket = Ticket(CID, OTHER, ())
    assert content_of(ref, ModelVersion("m", "7", str(ticket), {}, PEER)) == ticket


@pytest.mark.parametrize(
    ("ref", "version", "why"),
    [
        (RegistryRef("c", "m"), None, "no version of it is in use"),
        (RegistryRef("c", "m", "8"), None, "no such version"),
        (RegistryRef("c", "m"), ModelVersion("m", "7", "../../etc/passwd"), "no content"),
    ],
)
def test_what_leads_nowhere_says_why(ref, version, why):
    with pytest.raises(NameNotFoundError, match=why):
        content_of(ref, version)
