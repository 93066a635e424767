"""Writes docs/formats/crdt-vectors.json, the test vectors of docs/crdt-format.md.

`python -m tools.crdt_vectors`, after the format was extended; a test compares. Keys and times are
fixed, and Ed25519 is deterministic, so the file changes only if the format does.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lattica.crdt.access.appointment import Appointment, encode_appointments, sign
from lattica.crdt.access.capability import Level, issue
from lattica.crdt.access.finality import encode_finality
from lattica.crdt.access.key_entry import KeyEntry
from lattica.crdt.access.revocation import Revocation
from lattica.crdt.base.canonical import Plain, encode
from lattica.crdt.compaction.snapshot import body_digest, body_parts, first_part
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.erasure import Erasure, erasure_of, target_of
from lattica.crdt.entries.fork import Side, find_fork, find_fork_between
from lattica.crdt.entries.genesis import Genesis, Limits, Mode, Recovery
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.remnant import remnant_of
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys.sealing import ReadKey, montgomery_point, seal_key
from lattica.crdt.keys.session import SessionKey
from lattica.crdt.log.prefix import FeedPrefix
from lattica.crdt.proofs.proof import Proof, Witness, verify_proof
from lattica.crdt.proofs.query import Query, Scope
from lattica.crdt.proofs.statement import Statement, heads_fingerprint, sign_statement
from lattica.crdt.store.replication.news import Seal
from lattica.crdt.sync.heads import ID_PREFIX, Head, HeadIndex
from lattica.crdt.sync.messages import (
    TURN,
    Hello,
    Purpose,
    Want,
    encode_hello,
    encode_ranges,
    encode_wants,
    find_key,
    hello_tag,
    welcome_tag,
)
from lattica.crdt.sync.presence import sign_presence
from lattica.crdt.sync.ranges import Range
from lattica.crdt.tree.places import encode_standing, register_key
from lattica.crdt.tree.search_tree import SearchTree
from lattica.crdt.types.payloads import (
    KINDS,
    ClaimWrite,
    CounterWrite,
    RegisterWrite,
    SetWrite,
    Write,
)
from lattica.crdt.types.state import State
from lattica.nat.base.keys.identity import Identity

TARGET = Path(__file__).parents[1] / "docs" / "formats" / "crdt-vectors.json"

IDENTITY = Identity(bytes(range(32)))
SESSION = SessionKey(bytes(range(32, 64)))
OTHER_SESSION = SessionKey(bytes(range(64, 96)))
MANAGER = Identity(bytes(range(96, 128)))
WRITER = Identity(bytes(range(128, 160)))
RECOVERY = Identity(bytes(32))
TIME = 1_800_000_000_000 << 16

_REFUSED = {
    "nothing": "",
    "more than one value": "0102",
    "cut short": "a3616c",
    "an integer in two bytes where one does": "cc01",
    "a text with a length of one byte where none is needed": "d90161",
    "bytes with a length of two bytes": "c5000161",
    "a list with a length of two bytes": "dc000101",
    "a float of 32 bits": "ca3f800000",
    "another NaN": "cb7ff8000000000001",
    "a map with a number for a key": "810102",
    "a map out of order": "82a16202a16101",
    "a map with a key twice": "82a16101a16101",
    "a text that is no UTF-8": "a1ff",
    "half a surrogate pair": "a3eda080",
    "an extension": "d40100",
    "a timestamp": "d6ff00000000",
    "33 lists inside each other": "91" * 32 + "90",
    "a length that is not there": "dd00001000",
}


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "header": entry.header.encoded.hex(),
        "id": entry.id.hex(),
        "signature": entry.signature.hex(),
        "payload": None if entry.payload is None else entry.payload.hex(),
    }


def text_entries() -> tuple[Entry, ...]:
    """Edits of the text and the list "text" of the open document, by one author: what another
    one put in, which is edited, and which is deleted in part.
    """
    doc_id = Genesis("cluster").doc_id
    entries: list[Entry] = []
    for session in (SESSION, OTHER_SESSION):
        certificate = session.certificate(IDENTITY, doc_id).encode()
        entries.append(
            sign_entry(session, doc_id, 0, doc_id, TIME, Kind.SESSION, certificate),
        )
    edits: list[tuple[SessionKey, Kind, list[Plain], list[int]]] = [
        (SESSION, Kind.TEXT, [[None, None, "h\U0001f600llo"]], []),
        (SESSION, Kind.TEXT, [[[-2, 4], None, " world"], [[-2, 1], 1]], []),
        (OTHER_SESSION, Kind.TEXT, [[[0, 0], [0, 1], "e"], [[-1, 0], None, "-"]], [2]),
        (SESSION, Kind.TEXT, [[[0, 1], 1], [[-2, 5], [0, 0], "no effect"]], [4]),
        (OTHER_SESSION, Kind.LIST, [[None, None, [1, "b", [None]]], [[-1, 0], 1]], []),
        (SESSION, Kind.LIST, [[[0, 1], [0, 2], [{"c": 1.5}]]], [6]),
    ]
    for place, (session, kind, edit, deps) in enumerate(edits, 1):
        before = [each for each in entries if each.header.author == session.author][-1]
        entries.append(
            sign_entry(
                session,
                doc_id,
                before.header.seq + 1,
                before.id,
                TIME + place,
                kind,
                encode(["text", edit]),
                tuple(entries[each].id for each in deps),
            )
        )
    return tuple(entries)


def _texts() -> dict[str, Any]:
    entries = text_entries()
    state = State(Genesis("cluster"))
    for entry in entries:
        state.apply(entry)
    return {
        "entries": [_entry(entry) for entry in entries],
        "text": state.text("text"),
        "list": encode(state.elements("text")).hex(),
        "items": {key.hex(): value.hex() for key, value in state.items()},
        "root": SearchTree(dict(state.items())).root.hex(),
    }


def _proofs() -> dict[str, Any]:
    """Of a document in which one author has written one thing of each kind."""
    doc_id = Genesis("cluster").doc_id
    certificate = SESSION.certificate(IDENTITY, doc_id)
    writes: list[Write] = [
        RegisterWrite("model/latest", "v1"),
        CounterWrite("steps", 3, 1),
        SetWrite("workers", "a", True),
        ClaimWrite("jobs", 7, 30_000),
    ]
    first = sign_entry(SESSION, doc_id, 0, doc_id, TIME, Kind.SESSION, certificate.encode())
    entries = [first]
    for seq, write in enumerate(writes, 1):
        kind, payload = KINDS[type(write)], write.encode()
        entries.append(sign_entry(SESSION, doc_id, seq, entries[-1].id, TIME + seq, kind, payload))
    state = State(Genesis("cluster"))
    for entry in entries:
        state.apply(entry)
    tree = SearchTree(dict(state.items()))
    heads = [(SESSION.author, len(entries), entries[-1].id)]
    fingerprint = heads_fingerprint(heads)
    statement = Statement(doc_id, fingerprint, tree.root, len(entries), (TIME >> 16) + 1)
    signed = sign_statement(statement, SESSION, certificate)
    without_root = sign_statement(replace(statement, root=b""), SESSION, certificate)
    queries = {
        "a register": (Query(Kind.REGISTER, "model/latest"), [entries[1]]),
        "none": (Query(Kind.REGISTER, "model/other"), []),
        "registers": (Query(Kind.REGISTER, "model/", Scope.PREFIX), [entries[1]]),
        "a counter": (Query(Kind.COUNTER, "steps"), []),
        "a set": (Query(Kind.SET, "workers"), [entries[3]]),
        "an element that is not in it": (Query(Kind.SET, "workers", Scope.ITEM, "b"), []),
        "claims to an item": (Query(Kind.CLAIM, "jobs", Scope.ITEM, 7), []),
    }
    proofs = {}
    for name, (query, wrote) in queries.items():
        witnesses = tuple(Witness(entry, certificate) for entry in wrote)
        nodes = tree.prove(*query.key_range)
        proof = Proof(query, tree.root, nodes, witnesses, signed).encode()
        proved = verify_proof(proof, doc_id)
        proofs[name] = {
            "proof": proof.hex(),
            "value": encode(proved.value).hex(),
            "identities": [each.identity.hex() for each in proved.authors.values()],
        }
    prefix = FeedPrefix(
        SESSION.author,
        IDENTITY.public_key.data,
        [entry.id for entry in entries],
        sum(entry.size for entry in entries),
        # The claim is the newest; what stands and what counts stays as well.
        entries,
    )
    body = list(body_parts([prefix], []))
    sealed = sign_statement(statement, SESSION, certificate, body_digest(body))
    return {
        "snapshot": [part.hex() for part in (first_part([sealed]), *body)],
        "statement": {
            "heads": [[author.hex(), length, newest.hex()] for author, length, newest in heads],
            "root": tree.root.hex(),
            "signed": encode(signed.plain).hex(),
            "without_root": encode(without_root.plain).hex(),
        },
        "proofs": proofs,
    }


def _rights(doc_id: bytes) -> dict[str, Any]:
    """In the document with owners: a right to manage, one to write that was passed on by it, and
    how the first is taken back.
    """
    now = TIME >> 16
    managing = issue(
        IDENTITY, doc_id, MANAGER.peer_id, Level.MANAGE, prefix="model/", depth=1, issued=now
    )
    writing = issue(
        MANAGER,
        doc_id,
        WRITER.peer_id,
        Level.WRITE,
        parent=managing,
        prefix="model/a/",
        expires=now + 60_000,
        issued=now + 1,
    )
    revoked = Revocation(managing.right.id, ((SESSION.author, 7, bytes(range(32))),))
    certificate = OTHER_SESSION.certificate(WRITER, doc_id, writing.encode())
    return {
        "identities": {
            name: {"seed": each.seed.hex(), "public": each.public_key.data.hex()}
            for name, each in (("manager", MANAGER), ("writer", WRITER))
        },
        "capabilities": {"managing": managing.encode().hex(), "writing": writing.encode().hex()},
        "links": [link.id.hex() for link in writing.links],
        "certificate": {
            "author": OTHER_SESSION.author.hex(),
            "encoded": certificate.encode().hex(),
        },
        "revocation": revoked.encode().hex(),
        "final": encode_finality(revoked.last).hex(),
    }


def _erasure(doc_id: bytes, first: Entry) -> dict[str, Any]:
    """A register that is written over, and the erasure of what it had said: as a chain that has it,
    and as one that ends before it.
    """
    old = RegisterWrite("model/latest", "secret", (bytes(32),)).encode()
    second = sign_entry(SESSION, doc_id, 1, first.id, TIME + 1, Kind.REGISTER, old)
    new = RegisterWrite("model/latest", "v2", (second.id,)).encode()
    third = sign_entry(SESSION, doc_id, 2, second.id, TIME + 2, Kind.REGISTER, new)
    erasure = Erasure((target_of(second.header),), (bytes(32),)).encode()
    fourth = sign_entry(SESSION, doc_id, 3, third.id, TIME + 3, Kind.ERASE, erasure)
    chain = [first, Entry(second.header, second.signature, None), third]
    shown = erasure_of(fourth, IDENTITY.public_key.data, first.payload or b"")
    assert shown is not None
    head = Head(SESSION.author, 3, third.id[:ID_PREFIX], lacking=(1,))
    (ranges,) = encode_ranges([Range(b"", None, (head,))])
    return {
        "entry": _entry(fourth),
        "chains": {
            "whole": encode_chain([*chain, fourth], with_prev=True).hex(),
            "shown": encode_chain(chain, with_prev=True, shown=[shown]).hex(),
        },
        "lacking": {"ranges": ranges.hex(), "digest": head.digest.hex()},
    }


def _recovery(genesis: Genesis) -> dict[str, Any]:
    """In the document with owners: the writer is appointed in the owner's place, whose second
    entry contradicts itself, by a key of the recovery.
    """
    doc_id = genesis.doc_id
    certificate = SESSION.certificate(IDENTITY, doc_id)
    first = sign_entry(SESSION, doc_id, 0, doc_id, TIME, Kind.SESSION, certificate.encode())
    values = [RegisterWrite("a", number).encode() for number in range(2)]
    one, other = (
        sign_entry(SESSION, doc_id, 1, first.id, TIME + 1, Kind.REGISTER, value) for value in values
    )
    fork = find_fork(one, other)
    assert fork is not None
    appointment = Appointment(
        doc_id,
        None,
        IDENTITY.public_key.data,
        WRITER.public_key.data,
        SESSION.author,
        certificate.signature,
        ((SESSION.author, 0, first.id),),
        first.header.hlc,
        (TIME >> 16) + 1,
    )
    signed = encode_appointments([sign(appointment, RECOVERY)])
    showing = OTHER_SESSION.certificate(WRITER, doc_id, b"", signed)
    return {
        "key": {"seed": RECOVERY.seed.hex(), "public": RECOVERY.public_key.data.hex()},
        "first entry": _entry(first),
        "fork": fork.encode().hex(),
        "appointment": signed.hex(),
        "id": appointment.id.hex(),
        "certificate": {
            "author": OTHER_SESSION.author.hex(),
            "encoded": showing.encode().hex(),
        },
    }


def _sealed() -> dict[str, Any]:
    """Of a sealed document of the identity: a read key that is sealed to him and to the writer, a
    later one that leads to it, and a register that is sealed with that.
    """
    genesis = Genesis("private", (IDENTITY.public_key.data,), Mode.CAPABILITY, is_sealed=True)
    doc_id = genesis.doc_id
    earlier, key = (ReadKey(doc_id, bytes(range(start, start + 32))) for start in (160, 192))
    readers = [IDENTITY.public_key.data, WRITER.public_key.data]
    first = seal_key(earlier, readers, bytes(range(1, 33)))
    second = seal_key(key, readers[:1], bytes(range(2, 34)))
    links = ((earlier.id, key.box(earlier)),)
    payload = RegisterWrite("model/latest", "v1").encode()
    sealed = key.seal(SESSION.author, Kind.REGISTER, payload, bytes(range(16)))
    return {
        "genesis": {"encoded": genesis.encode().hex(), "doc_id": doc_id.hex()},
        "read keys": [{"id": each.id.hex(), "key": each.data.hex()} for each in (earlier, key)],
        "points": {each.hex(): montgomery_point(each).hex() for each in readers},
        "key entries": [
            KeyEntry(earlier.id, (), first.ephemeral, first.boxes).encode().hex(),
            KeyEntry(key.id, links, second.ephemeral, second.boxes).encode().hex(),
            KeyEntry(key.id).encode().hex(),
        ],
        "entry key": key.entry_key(SESSION.author, Kind.REGISTER, sealed).hex(),
        "sealed": sealed.hex(),
        "payload": payload.hex(),
    }


def _sync(doc_id: bytes, heads: list[Head]) -> dict[str, Any]:
    """Messages of a stream between the identity's node, which opens it, and the manager's."""
    opener, other = (each.peer_id.to_bytes() for each in (IDENTITY, MANAGER))
    nonce = bytes(range(16))
    index = HeadIndex()
    for head in heads:
        index.set(head)
    fingerprint = index.fingerprint(nonce, b"", None)
    hello = Hello(Purpose.SYNC, nonce, hello_tag(doc_id, nonce, opener, other))
    welcome = Hello(Purpose.SYNC, nonce, welcome_tag(doc_id, nonce, opener, other))
    ranges = [Range(b"", b"\x80", tuple(heads[:1])), Range(b"\x80", None, fingerprint)]
    wants = [Want(heads[0].author, 2, fork=True)]
    presence = sign_presence(IDENTITY, doc_id, TIME >> 16, 15_000, {"load": 0.5})
    return {
        "peers": {"opener": opener.hex(), "other": other.hex()},
        "nonce": nonce.hex(),
        "hello": encode_hello(hello).hex(),
        "welcome": encode_hello(welcome).hex(),
        "heads": [[h.author.hex(), h.length, h.newest.hex(), h.fork] for h in heads],
        "digests": [head.digest.hex() for head in heads],
        "fingerprint": fingerprint.hex(),
        "ranges": next(encode_ranges(ranges)).hex(),
        "wants": next(encode_wants(wants)).hex(),
        "presence": presence.encoded.hex(),
        "find key": find_key(doc_id).hex(),
        "news": {
            "message": TURN.hex(),
            "sealed": Seal(doc_id).close(TURN, bytes(range(12))).hex(),
        },
    }


def vectors() -> dict[str, Any]:
    """All vectors, as JSON has them."""
    open_document = Genesis("cluster")
    owned = Genesis(
        "models",
        owners=(IDENTITY.public_key.data,),
        mode=Mode.ALLOW_LIST,
        kinds=(Kind.REGISTER, Kind.COUNTER),
        limits=Limits(1024, 1 << 20),
        recovery=Recovery(1, (RECOVERY.public_key.data,)),
        salt=b"salt",
    )
    former = Genesis(
        "models",
        owners=(IDENTITY.public_key.data,),
        mode=Mode.ALLOW_LIST,
        recovery=Recovery(1, (RECOVERY.public_key.data,), is_in_force=False),
    )
    doc_id = open_document.doc_id
    certificate = SESSION.certificate(IDENTITY, doc_id).encode()
    first = sign_entry(SESSION, doc_id, 0, doc_id, TIME, Kind.SESSION, certificate)
    value = RegisterWrite("model/latest", "v1").encode()
    second = sign_entry(SESSION, doc_id, 1, first.id, TIME + 1, Kind.REGISTER, value)
    count = CounterWrite("steps", 3, 1).encode()
    third = sign_entry(
        SESSION, doc_id, 2, second.id, TIME + (5 << 16), Kind.COUNTER, count, (first.id,)
    )
    # As if there were 252 more before it.
    landmark = sign_entry(
        SESSION, doc_id, 255, third.id, TIME + (6 << 16), Kind.REGISTER, value, (first.id,)
    )
    chain = [first, Entry(second.header, second.signature, None), third]
    other = sign_entry(SESSION, doc_id, 1, first.id, TIME + 2, Kind.REGISTER, value)
    liar = sign_entry(SESSION, doc_id, 2, other.id, TIME + 3, Kind.REGISTER, value)
    same_seq, wrong_link = find_fork(second, other), find_fork(second, liar)
    assert same_seq is not None
    assert wrong_link is not None
    # The second entry as its author sends it who does not sign it.
    unsigned = Entry(second.header, bytes(64), second.payload)
    followed = find_fork_between(Side(unsigned, (third,)), Side(other))
    assert followed is not None
    keys = [register_key(f"model/{number}") for number in range(12)]
    items = {key: encode_standing([(number, first.id)]) for number, key in enumerate(keys)}
    tree = SearchTree(items)
    plain = [
        None,
        [False, True, 0, 127, 128, 2**64 - 1, -1, -(2**63)],
        {"b": 1, "a": [], "é": b"\0", "": 0.5},
        float("inf"),
    ]
    return {
        "canonical": {
            "accepted": [encode(value).hex() for value in plain],  # type: ignore[arg-type]
            "refused": _REFUSED,
        },
        "genesis": [
            {"encoded": each.encode().hex(), "doc_id": each.doc_id.hex()}
            for each in (open_document, owned, former)
        ],
        "identity": {"seed": IDENTITY.seed.hex(), "public": IDENTITY.public_key.data.hex()},
        "session": {
            "seed": SESSION.seed.hex(),
            "author": SESSION.author.hex(),
            "certificate": certificate.hex(),
        },
        "entries": [_entry(entry) for entry in (first, second, third)],
        "remnants": [remnant_of(entry).hex() for entry in (second, third)],
        "landmark": _entry(landmark) | {"remnant": remnant_of(landmark).hex()},
        "chains": {
            "whole": encode_chain(chain, with_prev=True).hex(),
            "continued": encode_chain(chain[1:], with_prev=False).hex(),
        },
        "payloads": {
            "register": RegisterWrite("model/latest", {"cid": b"\1"}, (second.id,)).encode().hex(),
            "counter": count.hex(),
            "set": SetWrite("workers", ["a", 1], True).encode().hex(),
            "claim": ClaimWrite("jobs", 7, 30_000).encode().hex(),
        },
        "tree": {
            "empty": SearchTree({}).root.hex(),
            "items": {key.hex(): value.hex() for key, value in items.items()},
            "root": tree.root.hex(),
            "proof": tree.prove(keys[1], keys[1]).hex(),
        },
        "texts": _texts(),
        **_proofs(),
        "rights": _rights(owned.doc_id),
        "erasure": _erasure(doc_id, first),
        "recovery": _recovery(owned),
        "sealed": _sealed(),
        "sync": _sync(
            doc_id,
            [
                Head(SESSION.author, 3, third.id[:ID_PREFIX]),
                Head(OTHER_SESSION.author, 1, first.id[:ID_PREFIX], 1),
            ],
        ),
        "forks": {
            "same sequence number": same_seq.encode().hex(),
            "wrong link": wrong_link.encode().hex(),
            "by what follows": followed.encode().hex(),
        },
    }


def text() -> str:
    """The file's content."""
    return json.dumps(vectors(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
