"""Targets of the CRDT store: whatever a peer can say in the format."""

from __future__ import annotations

import contextlib
import json

from lattica.crdt.access.capability import Level, decode_capability, issue
from lattica.crdt.access.key_entry import decode_key_entry
from lattica.crdt.access.keyring import Keyring
from lattica.crdt.access.revocation import Revocation, decode_revocation
from lattica.crdt.base.canonical import decode, encode
from lattica.crdt.compaction.snapshot import body_digest, first_part, read_snapshot
from lattica.crdt.entries.chain import encode_chain, read_chain
from lattica.crdt.entries.erasure import decode_erasure
from lattica.crdt.entries.fork import decode_fork
from lattica.crdt.entries.genesis import Genesis, decode_genesis
from lattica.crdt.entries.header import Kind, decode_header
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys.sealing import open_payload
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.proofs.json_form import proof_from_json, proof_to_json
from lattica.crdt.proofs.proof import verify_proof
from lattica.crdt.proofs.statement import Statement, sign_statement
from lattica.crdt.sync.heads import Head, HeadIndex
from lattica.crdt.sync.messages import (
    Hello,
    Purpose,
    Ranges,
    Want,
    decode_message,
    encode_hello,
    encode_ranges,
    encode_wants,
)
from lattica.crdt.sync.ranges import answer_ranges, first_ranges
from lattica.crdt.text.update_v1 import decode_update, encode_update
from lattica.crdt.tree.search_tree import node_hash, verify_range
from lattica.crdt.types.payloads import decode_write
from lattica.crdt.types.state import State
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tools.crdt_vectors import IDENTITY, SESSION, WRITER, text, text_entries
from tools.fuzz.target import KIB, MIB, Target, Violation
from tools.fuzz.targets.pieces import option

VECTORS = json.loads(text())
DOC_ID = bytes.fromhex(VECTORS["genesis"][0]["doc_id"])
CERTIFICATE = bytes.fromhex(VECTORS["session"]["certificate"])
CHAINS = [bytes.fromhex(each) for each in VECTORS["chains"].values()]
ENTRIES = [bytes.fromhex(entry["header"]) for entry in VECTORS["entries"]]
FORKS = [bytes.fromhex(each) for each in VECTORS["forks"].values()]
PLAIN = [bytes.fromhex(each) for each in VECTORS["canonical"]["accepted"]]
DOCUMENT = Genesis("cluster")
CERTIFIED = decode_certificate(CERTIFICATE, DOC_ID, SESSION.author)
STATEMENT = Statement(DOC_ID, bytes(32), bytes(32), 1, 1)
TEXTS = text_entries()
ROOT = bytes.fromhex(VECTORS["tree"]["root"])


def _canonical(data: bytes) -> None:
    if encode(decode(data, 64 * KIB)) != data:
        raise Violation("it is read and written otherwise")


def _header(data: bytes) -> None:
    if decode_header(data).encoded != data:
        raise Violation("it is read and written otherwise")


def _fork(data: bytes) -> None:
    if decode_fork(data, DOC_ID).encode() != data:
        raise Violation("it is read and written otherwise")


def _chain(data: bytes) -> None:
    read = read_chain(data, DOC_ID, lambda author, seq: bytes(32))
    if not all(each.is_signed() for each in (read.entries[-1], *(by.entry for by in read.shown))):
        raise Violation("nobody has signed it")
    encode_chain(read.entries, with_prev=True, shown=read.shown)


def _small(data: bytes) -> None:
    if data[:1] == b"\x92":
        decode_certificate(data, DOC_ID, SESSION.author)
    decode_genesis(data, DOC_ID)


def _write(data: bytes) -> None:
    kind, payload = option(data)[0] % 8, option(data)[1]
    if kind == 7 and decode_erasure(payload).encode() != payload:
        raise Violation("it is read and written otherwise")
    write = decode_write(kind, payload)
    if write is not None and write.encode() != option(data)[1]:
        raise Violation("it is read and written otherwise")


def _update(data: bytes) -> None:
    update = decode_update(data)
    if decode_update(encode_update(update.blocks, update.deleted)) != update:
        raise Violation("it is read and written otherwise")


def _edits(data: bytes) -> None:
    """What a stranger's entry says of a text that others have written; Yjs has to stand it."""
    kind = Kind.LIST if data[:1] == b"\1" else Kind.TEXT
    state = State(DOCUMENT)
    for each in TEXTS:
        state.apply(each)
    last = TEXTS[-1]
    entry = sign_entry(
        SESSION,
        DOCUMENT.doc_id,
        last.header.seq + 1,
        last.id,
        last.header.hlc + 1,
        kind,
        data[1:],
        tuple(sorted(each.id for each in TEXTS)),
    )
    state.apply(entry)
    for name in state.sequences(Kind.TEXT):
        state.text(name)
    for name in state.sequences(Kind.LIST):
        state.elements(name)


def _tree(data: bytes) -> None:
    # A forger may choose the root as well.
    for root in (ROOT, node_hash(data[4 : 4 + int.from_bytes(data[:4], "big")])):
        with contextlib.suppress(RemoteProtocolError):
            verify_range(root, data, b"rmodel/1", b"rmodel/1\xff")


def _proof(data: bytes) -> None:
    proved = verify_proof(data, DOC_ID)
    again, doc_id = proof_from_json(proof_to_json(data, DOC_ID))
    if (again, doc_id) != (data, DOC_ID) or verify_proof(again, doc_id) != proved:
        raise Violation("it says something else as JSON")


def _snapshot(data: bytes) -> None:
    """Any body, which somebody who is believed has signed."""
    signed = sign_statement(STATEMENT, SESSION, CERTIFIED, body_digest([data]))
    parts = [first_part([signed]), data]
    read_snapshot(parts, DOC_ID, [CERTIFIED.identity])


def _json_proof(data: bytes) -> None:
    proof_from_json(data.decode(errors="replace"))


def _index() -> HeadIndex:
    index = HeadIndex()
    for number in range(40):
        index.set(Head(bytes([number]) * 32, number, bytes(16) if number else b"", number or 0))
    return index


INDEX = _index()
NONCE = bytes(16)


def _sync(data: bytes) -> None:
    message = decode_message(data)
    if isinstance(message, Ranges):
        ranges, _ = answer_ranges(INDEX, NONCE, message.ranges)
        list(encode_ranges(ranges))


OWNER = Identity(bytes(32))
GIVEN = issue(OWNER, ROOT, Identity(bytes([1]) * 32).peer_id, Level.MANAGE, depth=2)
PASSED = issue(
    Identity(bytes([1]) * 32), ROOT, Identity(bytes([2]) * 32).peer_id, Level.WRITE, parent=GIVEN
)
REVOKED = Revocation(ROOT, ((bytes(32), 5, bytes(32)),))


def _rights(data: bytes) -> None:
    for read in (
        lambda: decode_capability(data, ROOT, [OWNER.public_key.data]),
        lambda: decode_revocation(data),
    ):
        with contextlib.suppress(RemoteProtocolError):
            if read().encode() != data:
                raise Violation("it is read and written otherwise")


SEALED = VECTORS["sealed"]
PRIVATE = decode_genesis(
    bytes.fromhex(SEALED["genesis"]["encoded"]), bytes.fromhex(SEALED["genesis"]["doc_id"])
)
ENTRY_KEY = bytes.fromhex(SEALED["entry key"])


def _sealed(data: bytes) -> None:
    """What is said of read keys to an owner, and a payload that is read with what he has."""
    with contextlib.suppress(RemoteProtocolError):
        open_payload(ENTRY_KEY, data)
    keyring = Keyring(PRIVATE, IDENTITY)
    for number, each in enumerate(SEALED["key entries"][:2], 1):
        named = bytes.fromhex(each)
        entry = sign_entry(SESSION, PRIVATE.doc_id, number, bytes(32), number, Kind.KEY, named)
        keyring.learn(entry, PRIVATE.owners[0])
    for kind in (Kind.KEY, Kind.REGISTER):
        entry = sign_entry(SESSION, PRIVATE.doc_id, 1, bytes(32), 1, kind, data)
        keyring.learn(entry, WRITER.public_key.data)
        keyring.open(entry)
    if decode_key_entry(data).encode() != data:
        raise Violation("it is read and written otherwise")


_ALLOWED = (RemoteProtocolError,)
CANONICAL = Target(
    "crdt-canonical",
    _canonical,
    _ALLOWED,
    seeds=PLAIN,
    tokens=[b"\xdd\0\0\x10\0", b"\xdf\0\0\x10\0", b"\xc6\xff\xff\xff\xff", b"\x91" * 32],
    # Lists inside each other, each of which announces as many items as there can be.
    max_memory=64 * MIB,
)
HEADER = Target("crdt-header", _header, _ALLOWED, seeds=ENTRIES)
CHAIN = Target("crdt-chain", _chain, _ALLOWED, seeds=CHAINS, max_memory=64 * MIB)
FORK = Target("crdt-fork", _fork, _ALLOWED, seeds=FORKS, max_memory=64 * MIB)
SEALING = Target(
    "crdt-sealed",
    _sealed,
    _ALLOWED,
    seeds=[bytes.fromhex(each) for each in (*SEALED["key entries"], SEALED["sealed"])],
    max_memory=64 * MIB,
)
SMALL = Target(
    "crdt-genesis",
    _small,
    _ALLOWED,
    seeds=[CERTIFICATE, *(bytes.fromhex(each["encoded"]) for each in VECTORS["genesis"])],
)
WRITE = Target(
    "crdt-write",
    _write,
    _ALLOWED,
    seeds=[
        bytes([number]) + bytes.fromhex(each)
        for number, each in enumerate(VECTORS["payloads"].values(), 1)
    ],
    max_memory=64 * MIB,
)
UPDATE = Target(
    "crdt-text-update",
    _update,
    _ALLOWED,
    seeds=[
        bytes.fromhex(each)
        for each in (
            "01010500040101740668c3a96c6c6f00",
            "01010505c4050005010678f09f98807900",
            "000105010001",
            "0101050a8805090274016274016300",
        )
    ],
)
EDITS = Target(
    "crdt-text-edits",
    _edits,
    _ALLOWED,
    seeds=[
        bytes([number]) + encode(["text", edits])  # type: ignore[list-item]
        for number, edits in (
            (0, [[None, None, "a\U0001f600b"], [[0, 1], [0, 2], "c"], [[-1, 0], 1]]),
            (0, [[[-2, 0], [-2, 1], "d"], [[1, 0], 3]]),
            (1, [[None, None, [1, "x", None]], [[-1, 2], [-2, 0], [[]]]]),
        )
    ],
    max_memory=64 * MIB,
)
TREE = Target("crdt-tree", _tree, _ALLOWED, seeds=[bytes.fromhex(VECTORS["tree"]["proof"])])
PROOFS = [bytes.fromhex(each["proof"]) for each in VECTORS["proofs"].values()]
PROOF = Target("crdt-proof", _proof, _ALLOWED, seeds=PROOFS, max_memory=64 * MIB)
SNAPSHOT = Target(
    "crdt-snapshot",
    _snapshot,
    _ALLOWED,
    seeds=[bytes.fromhex(each) for each in VECTORS["snapshot"][1:]],
    max_memory=64 * MIB,
)
JSON_PROOF = Target(
    "crdt-json-proof",
    _json_proof,
    _ALLOWED,
    seeds=[proof_to_json(each, DOC_ID).encode() for each in PROOFS],
    max_memory=64 * MIB,
)
SYNC = Target(
    "crdt-sync",
    _sync,
    _ALLOWED,
    seeds=[
        encode_hello(Hello(Purpose.SYNC, NONCE, bytes(32))),
        *encode_ranges(first_ranges(INDEX, NONCE)),
        *encode_ranges(first_ranges(HeadIndex(), NONCE)),
        *encode_wants([Want(bytes(32), 5, True)]),
    ],
    max_memory=64 * MIB,
)
RIGHTS = Target(
    "crdt-rights",
    _rights,
    _ALLOWED,
    seeds=[GIVEN.encode(), PASSED.encode(), REVOKED.encode()],
)
