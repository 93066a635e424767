"""Proofs of all types: of what is there, of what is not, and of all under a name."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattica.crdt.base.canonical import decode, encode
from lattica.crdt.document import Document
from lattica.crdt.entries.header import Kind
from lattica.crdt.proofs.json_form import proof_from_json, proof_to_json
from lattica.crdt.proofs.proof import Proof, read_proof, verify_proof
from lattica.crdt.proofs.query import Query, Scope
from lattica.errors import AddressError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, START

DOC_ID = DOC.doc_id
OWNERS = [Identity(bytes([number]) * 32) for number in (1, 2)]
NAMES = [each.public_key.data for each in OWNERS]
NOW = START + 1_000_000


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Document, Document]]:
    documents = [
        Document(tmp_path / f"{number}", DOC, owner, wall=lambda: NOW)
        for number, owner in enumerate(OWNERS)
    ]
    one, two = documents
    one.registers["models/a"] = "v1"
    two.registers["models/a"] = "v2"
    two.registers["models/b"] = {"cid": b"x"}
    one.registers["models/c"] = 1
    del one.registers["models/c"]
    two.registers["modest"] = 2
    one.counter("n").add(5)
    two.counter("n").add(-2)
    two.counter("nn").add(1)
    for element in ("x", -1, [1], None):
        one.set("s").add(element)
    one.set("s").discard("x")
    one.set("ss").add(0)
    one.claims("jobs").claim(7, 5.0)
    two.claims("jobs").claim("a", 5.0)
    one.text("notes").append("h😀")
    two.list("layers").append(1, "b")
    for giver, taker in ((one, two), (two, one)):
        for chain in giver.chains_since(taker.heads()):
            taker.receive(chain, "peer")
    yield one, two
    for document in documents:
        document.close()


def shown(document: Document, query: Query) -> object:
    return verify_proof(document.proof(query), DOC_ID, query=query).value


def test_what_is_there_and_what_is_not_is_shown_of_all_types(pair):
    one, two = pair
    a, b = one.author, two.author
    assert one.root == two.root
    for document in pair:
        assert shown(document, Query(Kind.REGISTER, "models/a")) in ("v1", "v2")
        assert shown(document, Query(Kind.REGISTER, "models/c")) is None
        assert shown(document, Query(Kind.REGISTER, "models/none")) is None
        found = shown(document, Query(Kind.REGISTER, "models/", Scope.PREFIX))
        assert isinstance(found, dict)
        assert found.keys() == {"models/a", "models/b"}
        assert found["models/b"] == {"cid": b"x"}
        assert shown(document, Query(Kind.REGISTER, "other/", Scope.PREFIX)) == {}
        assert len(shown(document, Query(Kind.REGISTER, "", Scope.PREFIX))) == 3  # type: ignore[arg-type]
        assert shown(document, Query(Kind.COUNTER, "n")) == 3
        assert shown(document, Query(Kind.COUNTER, "none")) == 0
        elements = shown(document, Query(Kind.SET, "s"))
        assert sorted(map(repr, elements)) == sorted(map(repr, [-1, [1], None]))  # type: ignore[call-overload]
        assert shown(document, Query(Kind.SET, "s", Scope.ITEM, -1)) is True
        assert shown(document, Query(Kind.SET, "s", Scope.ITEM, "x")) is False
        assert shown(document, Query(Kind.SET, "s", Scope.ITEM, "y")) is False
        assert shown(document, Query(Kind.SET, "none")) == []
        claims = shown(document, Query(Kind.CLAIM, "jobs"))
        assert {(item, author) for item, author, _, _ in claims} == {(7, a), ("a", b)}  # type: ignore[attr-defined]
        found = shown(document, Query(Kind.CLAIM, "jobs", Scope.ITEM, 7))
        assert isinstance(found, list)
        assert [(each[:2], each[3]) for each in found] == [([7, a], NOW + 5_000)]
        assert shown(document, Query(Kind.CLAIM, "jobs", Scope.ITEM, 8)) == []
        text = "h😀".encode()
        assert shown(document, Query(Kind.TEXT, "notes")) == [hashlib.sha256(text).digest(), 5]
        assert shown(document, Query(Kind.TEXT, "none")) is None
        digest = hashlib.sha256(encode(1) + encode("b")).digest()
        assert shown(document, Query(Kind.LIST, "", Scope.PREFIX)) == {"layers": [digest, 2]}


def test_who_wrote_it_and_who_says_so_is_in_it(pair):
    one, two = pair
    proved = verify_proof(two.proof("models/a"), DOC_ID, signers=NAMES)
    assert proved.is_contested
    (author,) = proved.authors.values()
    (winner, loser) = one.registers.conflicts("models/a")
    assert (author.session, author.entry_id) == (winner.author, winner.entry_id)
    assert author.identity == NAMES[0 if winner.author == one.author else 1]
    assert proved.value == winner.value != loser.value
    assert proved.signer == NAMES[1]
    assert proved.statement is not None
    assert proved.statement == two.statement().statement
    assert proved.statement.heads == one.statement().statement.heads
    assert proved.statement.entries == sum(length for length, _ in one.heads().values())
    assert proved.statement.time == NOW
    with pytest.raises(RemoteProtocolError, match="believed"):
        verify_proof(two.proof("models/a"), DOC_ID, signers=NAMES[:1])
    bare = two.proof("models/a", is_signed=False)
    with pytest.raises(RemoteProtocolError, match="nobody says"):
        verify_proof(bare, DOC_ID)
    assert verify_proof(bare, DOC_ID, root=one.root).signer is None
    signer = OWNERS[1].peer_id
    for document, signers in ((DOC_ID.hex(), {signer}), (DOC_ID, {str(signer)})):
        assert verify_proof(two.proof("models/a"), document, signers=signers) == proved
    assert proof_to_json(bare, DOC_ID.hex()) == proof_to_json(bare, DOC_ID)
    with pytest.raises(RemoteProtocolError, match="of another document"):
        verify_proof(two.proof("models/a"), "00" * 32, signers=NAMES)
    for none_such in ("cluster", "", b"cluster"):
        with pytest.raises(LocalProtocolError, match="64 hexadecimal digits"):
            verify_proof(two.proof("models/a"), none_such, signers=NAMES)
    with pytest.raises(AddressError):
        verify_proof(two.proof("models/a"), DOC_ID, signers={"12D3KooW"})
    with pytest.raises(RemoteProtocolError, match="another state"):
        verify_proof(bare, DOC_ID, root=bytes(32))
    with pytest.raises(RemoteProtocolError, match="something else"):
        verify_proof(bare, DOC_ID, root=one.root, query=Query(Kind.REGISTER, "models/b"))
    before = one.root
    one.registers["modest"] = 3
    with pytest.raises(RemoteProtocolError, match="another state"):
        verify_proof(one.proof("modest"), DOC_ID, root=before)


@pytest.mark.parametrize(
    "query",
    [
        Query(Kind.REGISTER, "models/", Scope.PREFIX),
        Query(Kind.SET, "s"),
        Query(Kind.CLAIM, "jobs"),
    ],
)
def test_no_bit_of_it_can_be_another_one(pair, query):
    one, _ = pair
    proof = one.proof(query)
    expected = verify_proof(proof, DOC_ID, query=query, signers=NAMES)
    assert expected.value
    # Every eighth byte, which ones depending on where it begins.
    for place in range(len(proof) % 8, len(proof), 8):
        spoiled = bytearray(proof)
        spoiled[place] ^= 1 << place % 7
        with pytest.raises(RemoteProtocolError):
            verify_proof(bytes(spoiled), DOC_ID, query=query, signers=NAMES)
        if place % 5 == 0:
            with pytest.raises(RemoteProtocolError):
                verify_proof(proof[:place], DOC_ID)
    with pytest.raises(RemoteProtocolError):
        verify_proof(proof, bytes(32))


def test_an_entry_that_does_not_stand_there_is_no_witness(pair):
    one, two = pair
    mine = read_proof(one.proof("models/b"), DOC_ID)
    other = read_proof(one.proof("modest"), DOC_ID)
    for witnesses in (other.witnesses, mine.witnesses * 2, (*mine.witnesses, *other.witnesses)):
        forged = Proof(mine.query, mine.root, mine.tree, witnesses, mine.statement).encode()
        with pytest.raises(RemoteProtocolError, match="does not stand there"):
            verify_proof(forged, DOC_ID)
    two.registers["modest"] = 3
    later = two.statement()
    forged = Proof(mine.query, mine.root, mine.tree, mine.witnesses, later).encode()
    with pytest.raises(RemoteProtocolError, match="than the one that is stated"):
        verify_proof(forged, DOC_ID)


def test_it_is_the_same_as_json(pair):
    one, _ = pair
    query = Query(Kind.SET, "s", Scope.ITEM, [1])
    unsigned, proof = one.proof(query, is_signed=False), one.proof(query)
    assert proof_from_json(proof_to_json(unsigned, DOC_ID)) == (unsigned, DOC_ID)
    text = proof_to_json(proof, DOC_ID)
    assert proof_from_json(text) == (proof, DOC_ID)
    for spoiled in ("", "[]", "{}", text.replace("crdt-proof/1", "x"), text.replace('"set"', "9")):
        with pytest.raises(RemoteProtocolError):
            proof_from_json(spoiled)
    with pytest.raises(RemoteProtocolError):
        proof_to_json(proof, bytes(32))


def test_what_cannot_be_asked_is_said():
    for kind, scope in (
        (Kind.COUNTER, Scope.PREFIX),
        (Kind.REGISTER, Scope.ITEM),
        (Kind.SESSION, Scope.NAME),
    ):
        with pytest.raises(LocalProtocolError, match="no proof of a"):
            Query(kind, "a", scope)
    for name in ("x" * 1025, "\ud800"):
        with pytest.raises(LocalProtocolError):
            Query(Kind.REGISTER, name)
    assert decode(encode(Query(Kind.REGISTER, "a").plain), 100) == [1, "a", 0, None]


def test_a_proof_is_verified_without_trio_a_node_or_yjs():
    code = (
        "import sys, lattica.crdt.proofs.json_form, lattica.crdt.proofs.proof\n"
        "print(*sorted(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "lattica.crdt.proofs.proof" in loaded
    assert not loaded & {
        "trio",
        "sqlite3",
        "pycrdt",
        "lattica.node",
        "lattica.crdt.document",
        "lattica.crdt.log.core",
    }
