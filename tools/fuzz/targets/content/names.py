"""Targets of names, and of the repositories that they lead to."""

from __future__ import annotations

from lattica.content.hub.repository import (
    Description,
    RepositoryFile,
    decode_description,
    encode_description,
)
from lattica.content.hub.routes import find_range, find_route
from lattica.content.manifest.cid import Cid
from lattica.content.names.messages import NameQuestion, decode_question, encode_question
from lattica.content.names.record import NameRef, NameTarget, open_name, seal_name
from lattica.errors import RemoteProtocolError, TicketError
from lattica.nat.base.keys.identity import Identity
from tools.fuzz.target import KIB, Target, Violation

CID = Cid.of(b"a block")
OWNER = Identity(bytes(32))
NOW = 1_800_000_000.0
_RECORD = seal_name(OWNER, "model", NameTarget(CID, CID), sequence=5, expires=NOW + 60)
_DESCRIPTION = Description(
    CID, (RepositoryFile("a/b", 7, bytes(32)), RepositoryFile("c", 1 << 40, bytes(32)))
)


def _question(data: bytes) -> None:
    question = decode_question(data)
    if decode_question(encode_question(question)) != question:
        raise Violation("a question encodes otherwise")


def _record(data: bytes) -> None:
    record = open_name(data, OWNER.peer_id, "model")
    if record.owner != OWNER.peer_id:
        raise Violation("a record that is not valid is accepted")


def _ref(data: bytes) -> None:
    ref = NameRef.parse(data.decode("utf-8", "replace"))
    if NameRef.parse(str(ref)) != NameRef(ref.peer_id, ref.name):
        raise Violation("a reference is read otherwise than it is written")


def _description(data: bytes) -> None:
    if encode_description(decode_description(data)) != data:
        raise Violation("a decoded description encodes otherwise")


def _route(data: bytes) -> None:
    text = data.decode("latin-1")
    found = find_range(text, 1000)
    if found is not None and not 0 <= found[0] < found[1] <= 1000:
        raise Violation(f"the range {found} of 1000 bytes")
    find_route(text)


NAME_QUESTION = Target(
    "name-question",
    _question,
    (RemoteProtocolError,),
    seeds=[encode_question(NameQuestion("org/model@v1", 2**62))],
    tokens=[b"\x92", b"\xd9", b"\xcf"],
    max_size=KIB,
)
NAME_RECORD = Target(
    "name-record", _record, (RemoteProtocolError,), seeds=[_RECORD.envelope], max_size=2 * KIB
)
NAME_REF = Target(
    "name-ref",
    _ref,
    (TicketError,),
    seeds=[
        f"{OWNER.peer_id}/model".encode(),
        f"/ip4/192.0.2.1/tcp/1/p2p/{OWNER.peer_id}/org/model".encode(),
    ],
    tokens=[b"/p2p/", str(OWNER.peer_id).encode(), b"/p2p-circuit"],
    max_size=KIB,
)
HUB_DESCRIPTION = Target(
    "hub-description",
    _description,
    (RemoteProtocolError,),
    seeds=[encode_description(_DESCRIPTION)],
    tokens=[b"\x93", b"\xc4\x20", b"\xdd\xff\xff\xff\xff"],
)
HUB_ROUTE = Target(
    "hub-route",
    _route,
    (TicketError, ValueError),
    seeds=[
        b"/api/models/org/model/tree/v1/a?recursive=1",
        b"/org/model/resolve/refs%2Fpr%2F1/a%20b",
        b"bytes=5-9",
    ],
    tokens=[b"/resolve/", b"/revision/", b"%2F", b"//", b"["],
    max_size=2 * KIB,
)
