"""docs/formats/crdt-vectors.json: what we write is what is in it, also checked by hand."""

from __future__ import annotations

import hashlib
import json

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lattica.crdt.access.appointment import decode_appointments
from lattica.crdt.access.capability import decode_capability
from lattica.crdt.access.finality import decode_finality
from lattica.crdt.access.ownership import Ownership
from lattica.crdt.access.revocation import decode_revocation
from lattica.crdt.base.canonical import decode, encode
from lattica.crdt.compaction.snapshot import read_snapshot
from lattica.crdt.entries.chain import decode_chain, read_chain
from lattica.crdt.entries.erasure import decode_erasure
from lattica.crdt.entries.fork import decode_fork
from lattica.crdt.entries.genesis import decode_genesis
from lattica.crdt.entries.header import Entry, decode_header
from lattica.crdt.entries.remnant import entry_of, size_of, split_remnants
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.proofs.json_form import proof_from_json, proof_to_json
from lattica.crdt.proofs.proof import verify_proof
from lattica.crdt.proofs.statement import read_statement
from lattica.crdt.store.replication.news import Seal
from lattica.crdt.sync.heads import Head
from lattica.crdt.sync.messages import Ranges, Wants, decode_message
from lattica.crdt.sync.presence import decode_presence
from lattica.crdt.tree.places import Standing, decode_standing
from lattica.crdt.tree.search_tree import SearchTree, verify_range
from lattica.crdt.types.payloads import decode_write
from lattica.crdt.types.state import State
from lattica.errors import RemoteProtocolError
from tools import crdt_vectors

VECTORS = json.loads(crdt_vectors.TARGET.read_text(encoding="utf-8"))
DOC_ID = bytes.fromhex(VECTORS["genesis"][0]["doc_id"])
AUTHOR = bytes.fromhex(VECTORS["session"]["author"])
IDS = [bytes.fromhex(entry["id"]) for entry in VECTORS["entries"]]


def test_the_file_is_what_the_code_writes():
    assert crdt_vectors.TARGET.read_text(encoding="utf-8") == crdt_vectors.text()


@pytest.mark.parametrize("text", VECTORS["canonical"]["accepted"])
def test_canonical_data_is_read_and_written_again(text):
    data = bytes.fromhex(text)
    assert encode(decode(data, 1000)) == data


@pytest.mark.parametrize("case", VECTORS["canonical"]["refused"])
def test_other_data_is_refused(case):
    with pytest.raises(RemoteProtocolError):
        decode(bytes.fromhex(VECTORS["canonical"]["refused"][case]), 1000)


def test_a_genesis_is_read_by_its_id_and_by_no_other():
    for vector in VECTORS["genesis"]:
        data, doc_id = bytes.fromhex(vector["encoded"]), bytes.fromhex(vector["doc_id"])
        assert doc_id == hashlib.sha256(b"lattica/crdt/doc/v1\0" + data).digest()
        genesis = decode_genesis(data, doc_id)
        assert (genesis.encode(), genesis.doc_id) == (data, doc_id)
        with pytest.raises(RemoteProtocolError, match="another document"):
            decode_genesis(data, bytes(32))


def test_the_certificate_is_signed_by_the_identity():
    certificate = bytes.fromhex(VECTORS["session"]["certificate"])
    identity, signature = msgpack.unpackb(certificate)
    assert identity.hex() == VECTORS["identity"]["public"]
    Ed25519PublicKey.from_public_bytes(identity).verify(
        signature, b"lattica/crdt/session/v1\0" + DOC_ID + AUTHOR
    )
    assert decode_certificate(certificate, DOC_ID, AUTHOR).identity == identity
    with pytest.raises(RemoteProtocolError, match="not signed"):
        decode_certificate(certificate, bytes(32), AUTHOR)


def test_ids_links_and_signatures_of_entries():
    before = DOC_ID
    for seq, vector in enumerate(VECTORS["entries"]):
        encoded, payload = bytes.fromhex(vector["header"]), bytes.fromhex(vector["payload"])
        assert hashlib.sha256(b"lattica/crdt/id/v1\0" + encoded).hexdigest() == vector["id"]
        Ed25519PublicKey.from_public_bytes(AUTHOR).verify(
            bytes.fromhex(vector["signature"]), b"lattica/crdt/entry/v1\0" + encoded
        )
        header = decode_header(encoded)
        assert (header.doc_id, header.author, header.seq) == (DOC_ID, AUTHOR, seq)
        assert header.prev_id == before
        assert header.payload_hash == hashlib.sha256(payload).digest()
        assert header.payload_size == len(payload)
        before = header.id


def test_chains_are_read_and_lead_to_the_entries():
    known = dict(enumerate(IDS))
    whole = decode_chain(
        bytes.fromhex(VECTORS["chains"]["whole"]), DOC_ID, lambda author, seq: None
    )
    assert [entry.id for entry in whole] == IDS
    assert whole[1].payload is None
    continued = decode_chain(
        bytes.fromhex(VECTORS["chains"]["continued"]), DOC_ID, lambda author, seq: known.get(seq)
    )
    assert [entry.id for entry in continued] == IDS[1:]


@pytest.mark.parametrize(("kind", "case"), list(enumerate(VECTORS["payloads"], 1)))
def test_payloads_are_those_of_their_kinds(kind, case):
    payload = bytes.fromhex(VECTORS["payloads"][case])
    write = decode_write(kind, payload)
    assert write is not None
    assert write.encode() == payload
    assert write.name == msgpack.unpackb(payload)[0]


def test_the_tree_of_the_items_has_the_root_and_the_proof_shows_one():
    tree = VECTORS["tree"]
    items = {bytes.fromhex(key): bytes.fromhex(value) for key, value in tree["items"].items()}
    root, proof = bytes.fromhex(tree["root"]), bytes.fromhex(tree["proof"])
    assert SearchTree(items).root == root
    assert hashlib.sha256(b"lattica/crdt/tree/v1\0\0").hexdigest() == tree["empty"]
    assert hashlib.sha256(b"lattica/crdt/tree/v1\0" + first_node(proof)).digest() == root
    key = b"rmodel/1"
    found = verify_range(root, proof, key, key)
    assert {key: decode_standing(each) for key, each in found.items()} == {
        key: Standing(1, IDS[0], True)
    }


def first_node(proof: bytes) -> bytes:
    return proof[4 : 4 + int.from_bytes(proof[:4], "big")]


@pytest.mark.parametrize("case", VECTORS["forks"])
def test_forks_are_proved(case):
    proof = decode_fork(bytes.fromhex(VECTORS["forks"][case]), DOC_ID)
    assert (proof.author, proof.seq) == (AUTHOR, 1)
    assert proof.encode().hex() == VECTORS["forks"][case]


def test_edits_of_texts_and_lists_come_to_what_the_file_says():
    texts = VECTORS["texts"]
    state = State(decode_genesis(bytes.fromhex(VECTORS["genesis"][0]["encoded"]), DOC_ID))
    effects = []
    for each in texts["entries"]:
        header = decode_header(bytes.fromhex(each["header"]))
        entry = Entry(header, bytes.fromhex(each["signature"]), bytes.fromhex(each["payload"]))
        assert entry.is_signed()
        effects.append(state.apply(entry) is not None)
    assert effects == [False, False, True, True, True, False, True, True]
    assert state.text("text") == texts["text"] == "he-llo world"
    assert encode(state.elements("text")).hex() == texts["list"]
    assert {key.hex(): value.hex() for key, value in state.items()} == texts["items"]
    assert SearchTree(dict(state.items())).root.hex() == texts["root"]


@pytest.mark.parametrize("case", VECTORS["proofs"])
def test_proofs_show_what_the_file_says(case):
    vector = VECTORS["proofs"][case]
    proof = bytes.fromhex(vector["proof"])
    proved = verify_proof(proof, DOC_ID, signers=[bytes.fromhex(VECTORS["identity"]["public"])])
    assert encode(proved.value).hex() == vector["value"]
    assert proved.root.hex() == VECTORS["statement"]["root"]
    assert [each.identity.hex() for each in proved.authors.values()] == vector["identities"]
    text, doc_id = proof_from_json(proof_to_json(proof, DOC_ID)), DOC_ID
    assert text == (proof, doc_id)


def test_the_statement_is_signed_and_names_its_heads():
    vector = VECTORS["statement"]
    signed = read_statement(decode(bytes.fromhex(vector["signed"]), 4096), DOC_ID)
    assert signed.certificate.identity.hex() == VECTORS["identity"]["public"]
    assert signed.statement.root.hex() == vector["root"]
    author, length, newest = vector["heads"][0]
    digest = hashlib.sha256(b"lattica/crdt/heads/v1\0")
    digest.update(bytes.fromhex(author) + length.to_bytes(8, "big") + bytes.fromhex(newest))
    assert signed.statement.heads == digest.digest()


def test_a_statement_has_no_root_only_where_none_is_needed():
    plain = decode(bytes.fromhex(VECTORS["statement"]["without_root"]), 4096)
    assert read_statement(plain, DOC_ID, needs_root=False).statement.root == b""
    with pytest.raises(RemoteProtocolError):
        read_statement(plain, DOC_ID)


def test_of_entries_that_were_pruned_what_is_left_has_their_ids():
    for seq, text in enumerate(VECTORS["remnants"], 1):
        (remnant,) = split_remnants(bytes.fromhex(text))
        assert entry_of(remnant, DOC_ID, AUTHOR, seq, IDS[seq - 1]).id == IDS[seq]
        assert size_of(remnant, seq) == len(bytes.fromhex(VECTORS["entries"][seq]["header"])) + len(
            bytes.fromhex(VECTORS["entries"][seq]["payload"])
        )
        for spoiled in (remnant[:-1], remnant + b"\0", b""):
            with pytest.raises((RemoteProtocolError, ValueError)):
                (_,) = split_remnants(spoiled)


def test_of_each_256th_entry_that_was_pruned_the_signature_is_left():
    landmark = VECTORS["landmark"]
    (remnant,) = split_remnants(bytes.fromhex(landmark["remnant"]))
    entry = entry_of(remnant, DOC_ID, AUTHOR, 255, IDS[2])
    assert (entry.id.hex(), entry.signature.hex()) == (landmark["id"], landmark["signature"])
    assert entry.is_signed()
    assert size_of(remnant, 255) == sum(len(landmark[part]) // 2 for part in ("header", "payload"))
    with pytest.raises(RemoteProtocolError):
        entry_of(remnant, DOC_ID, AUTHOR, 254, IDS[2])
    for spoiled in (remnant[:-1], remnant + b"\0"):
        with pytest.raises((RemoteProtocolError, ValueError)):
            (_,) = split_remnants(spoiled)


def test_the_snapshot_is_read():
    parts = [bytes.fromhex(part) for part in VECTORS["snapshot"]]
    identity = bytes.fromhex(VECTORS["identity"]["public"])
    snapshot = read_snapshot(parts, DOC_ID, [identity])
    assert snapshot.signers == {identity}
    assert snapshot.statement.root.hex() == VECTORS["statement"]["root"]
    feed = snapshot.feeds[AUTHOR]
    assert [[AUTHOR.hex(), len(feed.ids), feed.ids[-1].hex()]] == VECTORS["statement"]["heads"]
    with pytest.raises(RemoteProtocolError):
        read_snapshot(parts, DOC_ID, [AUTHOR])


def test_capabilities_are_signed_link_by_link_and_say_what_they_allow():
    rights, genesis = VECTORS["rights"], VECTORS["genesis"][1]
    doc_id, owner = bytes.fromhex(genesis["doc_id"]), VECTORS["identity"]["public"]
    public = {name: each["public"] for name, each in rights["identities"].items()}
    encoded = bytes.fromhex(rights["capabilities"]["writing"])
    parent = None
    issuers = [owner, public["manager"]]
    for (link, signature), issuer, link_id in zip(
        msgpack.unpackb(encoded), issuers, rights["links"], strict=True
    ):
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(issuer)).verify(
            signature, b"lattica/crdt/capability/v1\0" + link
        )
        assert hashlib.sha256(b"lattica/crdt/capability-id/v1\0" + link).hexdigest() == link_id
        fields = msgpack.unpackb(link)
        assert (fields[1], fields[2], fields[3].hex()) == (doc_id, parent, issuer)
        parent = bytes.fromhex(link_id)
    capability = decode_capability(encoded, doc_id, [bytes.fromhex(owner)])
    right = capability.right
    assert (right.level, right.prefix, right.subject.hex()) == (3, "model/a/", public["writer"])
    managing = bytes.fromhex(rights["capabilities"]["managing"])
    assert decode_capability(managing, doc_id, [bytes.fromhex(owner)]).links == capability.links[:1]
    with pytest.raises(RemoteProtocolError, match="no owner"):
        decode_capability(encoded, doc_id, [bytes.fromhex(public["writer"])])
    certificate, author = (bytes.fromhex(rights["certificate"][k]) for k in ("encoded", "author"))
    assert decode_certificate(certificate, doc_id, author).capability == encoded
    revocation = decode_revocation(bytes.fromhex(rights["revocation"]))
    assert revocation.link.hex() == rights["links"][0]
    assert revocation.last == ((AUTHOR, 7, bytes(range(32))),)
    final = bytes.fromhex(rights["final"])
    assert decode_finality(final) == revocation.last
    assert msgpack.unpackb(final) == [[AUTHOR, 7, bytes(range(32))]]


def test_an_erasure_goes_with_what_it_has_erased():
    vector, chains = VECTORS["erasure"], VECTORS["erasure"]["chains"]
    payload = bytes.fromhex(vector["entry"]["payload"])
    whole, shown = (
        read_chain(bytes.fromhex(chains[each]), DOC_ID, lambda author, seq: None)
        for each in ("whole", "shown")
    )
    erased = whole.entries[1]
    assert msgpack.unpackb(payload) == [[[AUTHOR, 1, erased.id]], [bytes(32)]]
    assert decode_erasure(payload).encode() == payload
    assert (erased.payload, whole.entries[3].id.hex()) == (None, vector["entry"]["id"])
    assert whole.entries[:3] == shown.entries
    (by,) = shown.shown
    assert (by.entry, by.identity) == (
        whole.entries[3],
        bytes.fromhex(VECTORS["identity"]["public"]),
    )
    ranges = decode_message(bytes.fromhex(vector["lacking"]["ranges"]))
    assert isinstance(ranges, Ranges)
    (head,) = ranges.ranges[0].content
    assert isinstance(head, Head)
    assert (head.lacking, head.digest.hex()) == ((1,), vector["lacking"]["digest"])


def test_an_appointment_is_signed_and_has_its_successor_own_the_document():
    recovery, genesis = VECTORS["recovery"], VECTORS["genesis"][1]
    doc_id = bytes.fromhex(genesis["doc_id"])
    data = bytes.fromhex(recovery["appointment"])
    ((body, ((key, signature),)),) = msgpack.unpackb(data)
    assert key.hex() == recovery["key"]["public"]
    Ed25519PublicKey.from_public_bytes(key).verify(
        signature, b"lattica/crdt/appointment/v1\0" + body
    )
    assert hashlib.sha256(b"lattica/crdt/appointment-id/v1\0" + body).hexdigest() == recovery["id"]
    version, of, parent, former, successor, (session, certified), last, until, _ = msgpack.unpackb(
        body
    )
    assert (version, of, parent) == (1, doc_id, None)
    assert former.hex() == VECTORS["identity"]["public"]
    Ed25519PublicKey.from_public_bytes(former).verify(
        certified, b"lattica/crdt/session/v1\0" + doc_id + session
    )
    first = decode_header(bytes.fromhex(recovery["first entry"]["header"]))
    assert (last, until) == ([[session, 0, first.id]], first.hlc)
    certificate, author = (bytes.fromhex(recovery["certificate"][k]) for k in ("encoded", "author"))
    shown = decode_certificate(certificate, doc_id, author)
    assert (shown.identity, shown.appointments) == (successor, data)
    owned = decode_genesis(bytes.fromhex(genesis["encoded"]), doc_id)
    given = decode_appointments(data, owned)
    fork = decode_fork(bytes.fromhex(recovery["fork"]), doc_id)
    assert Ownership(owned, fork.author.__eq__).may_take_office(successor, given)
    assert not Ownership(owned).may_take_office(successor, given)


def test_hellos_show_that_both_know_the_document():
    sync = VECTORS["sync"]
    nonce, opener, other = (
        bytes.fromhex(text)
        for text in (sync["nonce"], sync["peers"]["opener"], sync["peers"]["other"])
    )
    for name, context in (("hello", b"hello"), ("welcome", b"welcome")):
        version, purpose, of, tag, shown = msgpack.unpackb(bytes.fromhex(sync[name])[1:])
        said = len(opener).to_bytes(2, "big") + opener + other
        expected = hashlib.sha256(b"lattica/crdt/" + context + b"/v1\0" + DOC_ID + nonce + said)
        assert (version, purpose, of, tag, shown) == (1, 0, nonce, expected.digest(), None)
    key = hashlib.sha256(b"lattica/crdt/find/v1\0" + DOC_ID).hexdigest()
    assert key == sync["find key"]


def test_heads_fingerprints_ranges_and_wants():
    sync = VECTORS["sync"]
    digests = []
    for author, length, newest, fork in sync["heads"]:
        numbers = length.to_bytes(8, "big") + (2**64 - 1 if fork is None else fork).to_bytes(
            8, "big"
        )
        data = bytes.fromhex(author) + numbers + bytes.fromhex(newest)
        digests.append(hashlib.sha256(data).digest()[:16])
    assert [digest.hex() for digest in digests] == sync["digests"]
    ordered = b"".join(d for _, d in sorted(zip(sync["heads"], digests, strict=True)))
    fingerprint = hashlib.sha256(bytes.fromhex(sync["nonce"]) + ordered).hexdigest()[:32]
    assert fingerprint == sync["fingerprint"]
    ranges = decode_message(bytes.fromhex(sync["ranges"]))
    wants = decode_message(bytes.fromhex(sync["wants"]))
    assert isinstance(ranges, Ranges)
    assert isinstance(wants, Wants)
    assert [each.content for each in ranges.ranges] == [
        (Head(AUTHOR, 3, IDS[2][:16]),),
        bytes.fromhex(fingerprint),
    ]
    assert [(each.author, each.since, each.fork) for each in wants.wants] == [(AUTHOR, 2, True)]


def test_presence_is_signed_by_the_identity_for_one_document():
    encoded = bytes.fromhex(VECTORS["sync"]["presence"])
    content, signature = msgpack.unpackb(encoded)
    identity = bytes.fromhex(VECTORS["identity"]["public"])
    Ed25519PublicKey.from_public_bytes(identity).verify(
        signature, b"lattica/crdt/presence/v1\0" + content
    )
    statement, is_signed = decode_presence(encoded, DOC_ID)
    assert (statement.identity, statement.holds, statement.value) == (
        identity,
        15_000,
        {"load": 0.5},
    )
    assert is_signed()
    with pytest.raises(RemoteProtocolError, match="this document"):
        decode_presence(encoded, bytes(32))


def test_news_is_sealed_for_those_who_know_the_document():
    news = VECTORS["sync"]["news"]
    sealed = bytes.fromhex(news["sealed"])
    key = hashlib.sha256(b"lattica/crdt/topic/v1\0" + DOC_ID).digest()
    opened = ChaCha20Poly1305(key).decrypt(sealed[:12], sealed[12:], None)
    assert opened.hex() == news["message"]
    assert Seal(DOC_ID).open(sealed) == opened


def _opened(key: bytes, sealed: str | bytes) -> bytes:
    data = bytes.fromhex(sealed) if isinstance(sealed, str) else sealed
    return ChaCha20Poly1305(key).decrypt(bytes(12), data, None)


def test_what_is_sealed_is_opened_by_hand():
    sealed = VECTORS["sealed"]
    doc_id = bytes.fromhex(sealed["genesis"]["doc_id"])
    assert decode_genesis(bytes.fromhex(sealed["genesis"]["encoded"]), doc_id).is_sealed
    earlier, key = (bytes.fromhex(each["key"]) for each in sealed["read keys"])
    ids = [bytes.fromhex(each["id"]) for each in sealed["read keys"]]
    hashed = hashlib.sha256(b"lattica/crdt/read-key/v1\0" + doc_id + key).digest()
    assert hashed[:16] == ids[1]
    named, boxes = [], []
    for text in sealed["key entries"]:
        key_id, links, ephemeral, sealed_to = msgpack.unpackb(bytes.fromhex(text))
        named.append(key_id)
        boxes.append((links, ephemeral, sealed_to))
    assert named == [ids[0], ids[1], ids[1]]
    # By the identity's key, with X25519.
    seed = bytes.fromhex(VECTORS["identity"]["seed"])
    private = X25519PrivateKey.from_private_bytes(hashlib.sha512(seed).digest()[:32])
    own = bytes.fromhex(VECTORS["identity"]["public"])
    point = private.public_key().public_bytes_raw()
    assert sealed["points"][own.hex()] == point.hex()
    for (_, ephemeral, sealed_to), key_id, expected in zip(
        boxes, ids, (earlier, key), strict=False
    ):
        shared = private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        parts = doc_id + key_id + ephemeral + point + shared
        wrap = hashlib.sha256(b"lattica/crdt/seal/v1\0" + parts).digest()
        assert _opened(wrap, dict(sealed_to)[own]) == expected
    ((_, box),) = boxes[1][0]
    link = hashlib.sha256(b"lattica/crdt/earlier-key/v1\0" + doc_id + key + ids[0]).digest()
    assert _opened(link, box) == earlier
    payload = bytes.fromhex(sealed["sealed"])
    parts = doc_id + key + AUTHOR + b"\1" + payload[16:32]
    entry_key = hashlib.sha256(b"lattica/crdt/entry-key/v1\0" + parts).digest()
    assert entry_key.hex() == sealed["entry key"]
    commitment = hashlib.sha256(b"lattica/crdt/entry-key-id/v1\0" + entry_key).digest()
    assert (payload[:16], payload[32:48]) == (ids[1], commitment[:16])
    assert _opened(entry_key, payload[48:]).hex() == sealed["payload"]
