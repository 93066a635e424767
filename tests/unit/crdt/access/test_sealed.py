"""Documents whose payloads only readers can read: who passes them on, who reads what, and from when
until when.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from lattica.crdt.access.capability import Level
from lattica.crdt.access.key_entry import KeyEntry, decode_key_entry
from lattica.crdt.access.keyring import Keyring
from lattica.crdt.base.canonical import decode
from lattica.crdt.compaction.snapshot import body_digest, first_part
from lattica.crdt.document import Document
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Genesis, Limits, Mode, decode_genesis
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys import sealing
from lattica.crdt.keys.sealing import ReadKey, montgomery_point, open_payload, seal_key, unseal_key
from lattica.crdt.keys.session import SessionKey
from lattica.crdt.proofs.json_form import proof_from_json, proof_to_json
from lattica.crdt.proofs.proof import verify_proof
from lattica.crdt.proofs.query import Query, Scope
from lattica.crdt.proofs.statement import read_statement
from lattica.crdt.types.payloads import RegisterWrite
from lattica.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.sync import exchange_all

OWNER, ANNA, BERT, CARL, DORA = (Identity(bytes([number]) * 32) for number in range(1, 6))
SEALED = Genesis("sealed", (OWNER.public_key.data,), Mode.CAPABILITY, is_sealed=True)


@pytest.fixture
def default() -> Genesis:
    return SEALED


def sync(*documents: Document) -> None:
    exchange_all(*documents)
    heads = [document.head_index.heads(b"", None) for document in documents]
    assert heads == [heads[0]] * len(heads)


def forged(
    document: Document, identity: Identity, payloads: list[tuple[Kind, bytes]], name: bytes = b"f"
) -> bytes:
    """A chain that a peer with a program of his own writes."""
    session = SessionKey(hashlib.sha256(name).digest())
    doc_id = document.genesis.doc_id
    items = [(Kind.SESSION, session.certificate(identity, doc_id).encode()), *payloads]
    entries: list[Entry] = []
    for seq, (kind, payload) in enumerate(items):
        prev = entries[-1].id if entries else doc_id
        hlc = document.now_ms << 16
        entries.append(sign_entry(session, doc_id, seq, prev, hlc, kind, payload))
    return encode_chain(entries, with_prev=True)


def test_who_may_pull_has_all_of_it_and_reads_nothing(make, tmp_path):
    owner, relay, reader = make(OWNER), make(BERT, path=tmp_path / "relay"), make(ANNA)
    owner.grant(BERT.peer_id, Level.PULL)
    owner.grant(ANNA.peer_id, Level.READ)
    owner.registers["place/of/treasure"] = "under the oak"
    owner.text("diary").append("nobody knows")
    owner.counter("steps").add(3)
    assert owner.may_pull(BERT.peer_id)
    assert not owner.may_read(BERT.peer_id)
    assert not owner.may_pull(CARL.peer_id)
    # By way of the one who cannot read.
    sync(owner, relay)
    sync(relay, reader)
    assert reader.registers["place/of/treasure"] == "under the oak"
    assert str(reader.text("diary")) == "nobody knows"
    assert reader.root == owner.root
    assert (owner.can_read, reader.can_read, relay.can_read) == (True, True, False)
    for use in (
        lambda: relay.registers.get("place/of/treasure"),
        lambda: relay.counter("steps").value,
        lambda: relay.root,
        lambda: relay.proof("place/of/treasure"),
        relay.statement,
    ):
        with pytest.raises(AccessDeniedError):
            use()
    with pytest.raises(AccessDeniedError):
        relay.registers["a"] = 1
    assert {each.kind for each in relay.entries()} > {"register", "text", "counter", "key"}
    assert not [each.name for each in relay.entries() if each.name is not None]
    assert "place/of/treasure" in [each.name for each in reader.entries()]
    relay.close()
    with closing(sqlite3.connect(tmp_path / "relay")) as db:
        data = b"".join(payload for (payload,) in db.execute("SELECT payload FROM entry"))
    data += (tmp_path / "relay").read_bytes()
    for secret in (b"treasure", b"oak", b"diary", b"nobody", b"steps"):
        assert secret not in data
    assert not check_document(tmp_path / "relay").problem_count
    assert check_document(tmp_path / "relay", BERT).root is None
    assert check_document(tmp_path / "relay", BERT).unread == 3
    assert check_document(tmp_path / "relay", ANNA).root == owner.root


def test_who_may_read_no_more_reads_nothing_that_comes_later(make):
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id, Level.WRITE)
    owner.grant(BERT.peer_id, Level.READ)
    owner.registers["a"] = 1
    sync(owner, anna, bert)
    first = owner.read_keys()
    owner.revoke(BERT.peer_id)
    sync(owner, anna, bert)  # he gets it by whatever way
    anna.registers["b"] = 2
    sync(owner, anna, bert)
    assert dict(owner.registers.items()) == {"a": 1, "b": 2}
    assert anna.root == owner.root
    assert dict(bert.registers.items()) == {"a": 1}
    assert not bert.can_read
    keys = owner.read_keys()
    assert [(each.id, each.is_current) for each in keys] == [
        (first[0].id, False),
        (keys[1].id, True),
    ]
    assert [(each.is_here, each.problem) for each in bert.read_keys()] == [(True, ""), (False, "")]
    with pytest.raises(AccessDeniedError):
        bert.statement()


def test_who_comes_late_reads_what_the_newest_key_leads_to(make):
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.registers["old"] = 1
    owner.rotate_key()
    owner.registers["middle"] = 2
    owner.grant(ANNA.peer_id, Level.READ)
    sync(owner, anna)
    assert dict(anna.registers.items()) == {"middle": 2, "old": 1}
    owner.rotate_key(history=False)
    owner.registers["new"] = 3
    owner.grant(BERT.peer_id, Level.READ)
    sync(owner, anna, bert)
    assert dict(anna.registers.items()) == {"middle": 2, "new": 3, "old": 1}
    assert anna.root == owner.root
    assert dict(bert.registers.items()) == {"new": 3}
    assert not bert.can_read


def test_it_is_the_same_after_a_restart(make, tmp_path):
    owner, anna = make(OWNER, path=tmp_path / "owner"), make(ANNA, path=tmp_path / "anna")
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    anna.registers["a"] = {"b": [1.5, None]}
    sync(owner, anna)
    root = owner.root
    for document in (owner, anna):
        document.close()
    owner, anna = make(OWNER, path=tmp_path / "owner"), make(ANNA, path=tmp_path / "anna")
    assert owner.root == anna.root == root
    anna.registers["c"] = 1
    sync(owner, anna)
    assert owner.registers["c"] == 1


def test_what_comes_before_its_key_is_read_when_that_comes(make):
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id, depth=0)
    owner.grant(BERT.peer_id, Level.READ)
    sync(owner, anna)
    anna.text("t").append("said")
    anna.text("t").insert(0, "first ")
    (chain,) = anna.chains_of(anna.author, 0)
    assert bert.receive(chain, "peer").waiting
    (chain,) = owner.chains_of(owner.author, 0)
    bert.receive(chain, "peer")
    assert str(bert.text("t")) == "first said"
    assert bert.root == anna.root


def test_who_may_manage_gives_a_right_to_read_with_the_key(make):
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id, Level.MANAGE, depth=1)
    owner.registers["a"] = 1
    sync(owner, anna)
    anna.grant(BERT.peer_id, Level.READ)
    sync(anna, bert)
    assert bert.registers["a"] == 1
    sync(owner, anna)
    owner.tend_keys()
    sync(owner, anna, bert)
    # What goes with a right that was passed on, goes with that.
    owner.revoke(ANNA.peer_id)
    owner.registers["b"] = 2
    sync(owner, anna, bert)
    assert dict(bert.registers.items()) == {"a": 1}
    assert dict(anna.registers.items()) == {"a": 1}


def test_the_key_follows_rights_that_end_by_time_and_that_others_give(make, clock):
    both = tuple(sorted((OWNER.public_key.data, CARL.public_key.data)))
    genesis = Genesis("two", both, Mode.ALLOW_LIST, is_sealed=True)
    owner, other, anna, bert = (make(each, genesis) for each in (OWNER, CARL, ANNA, BERT))
    owner.registers["a"] = 1
    owner.grant(ANNA.peer_id, Level.READ, lasts=60)
    sync(owner, other)
    # Two owners who do not hear of each other: one gives a right, another one puts a key in place.
    other.grant(BERT.peer_id, Level.READ)
    clock.ms += 61_000
    owner.tend_keys()
    assert len(owner.read_keys()) == 2
    owner.registers["b"] = 2
    sync(owner, other, anna, bert)
    assert dict(anna.registers.items()) == {"a": 1}
    assert dict(bert.registers.items()) == {"a": 1}
    owner.tend_keys()
    sync(owner, other, anna, bert)
    assert dict(bert.registers.items()) == {"a": 1, "b": 2}
    assert bert.root == owner.root == other.root
    assert dict(anna.registers.items()) == {"a": 1}
    owner.tend_keys()
    other.tend_keys()
    assert len(owner.read_keys()) == 2  # and that is all there is to do


def test_keys_of_two_owners_at_the_same_time_are_both_read(make):
    both = tuple(sorted((OWNER.public_key.data, CARL.public_key.data)))
    genesis = Genesis("two", both, Mode.ALLOW_LIST, is_sealed=True)
    owner, other, anna = (make(each, genesis) for each in (OWNER, CARL, ANNA))
    owner.grant(ANNA.peer_id)
    other.registers["other"] = 1
    sync(owner, other, anna)
    anna.registers["anna"] = 2
    other.tend_keys()
    sync(owner, other, anna)
    assert dict(anna.registers.items()) == {"anna": 2, "other": 1}
    assert sum(each.is_current for each in anna.read_keys()) == 2
    owner.rotate_key()
    sync(owner, other, anna)
    assert sum(each.is_current for each in anna.read_keys()) == 1
    assert owner.root == other.root == anna.root


# Attacks.


def test_a_reader_who_writes_is_refused(make):
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id, Level.READ)
    owner.grant(BERT.peer_id, Level.READ)
    owner.registers["a"] = 1
    sync(owner, anna, bert)
    with pytest.raises(AccessDeniedError):
        anna.registers["a"] = 2
    key = anna._replica.keyring.current
    session = SessionKey(hashlib.sha256(b"f").digest())
    payload = key.seal(session.author, Kind.REGISTER, RegisterWrite("a", 2).encode())
    for document in (owner, bert):
        received = document.receive(forged(document, ANNA, [(Kind.REGISTER, payload)]), "anna")
        assert [each.is_final for each in received.refusals] == [True]
        assert dict(document.registers.items()) == {"a": 1}


def test_an_old_key_is_not_written_with_again(make):
    """Whoever had a key says again that it is to be used, and seals it to whom he likes."""
    owner, anna, bert, carl = make(OWNER), make(ANNA), make(BERT), make(CARL)
    for each in (ANNA, BERT, CARL):
        owner.grant(each.peer_id, Level.WRITE)
    owner.registers["a"] = 1
    sync(owner, anna, bert, carl)
    old = anna._replica.keyring.current
    owner.revoke(CARL.peer_id)
    sync(owner, anna, bert, carl)
    new = owner._replica.keyring.current
    boxes = seal_key(old, [each.public_key.data for each in (BERT, CARL, OWNER)])
    again = KeyEntry(old.id, ((new.id, None),), boxes.ephemeral, boxes.boxes)
    chain = forged(anna, ANNA, [(Kind.KEY, again.encode())])
    for document in (owner, anna, bert, carl):
        assert document.receive(chain, "anna").is_news
    bert.registers["b"] = 2
    owner.tend_keys()
    sync(owner, anna, bert, carl)
    assert bert._replica.keyring.current.id == owner._replica.keyring.current.id == new.id
    assert dict(carl.registers.items()) == {"a": 1}
    assert dict(anna.registers.items()) == {"a": 1, "b": 2}
    # The owner's own entry comes again: it is where it was.
    assert not any(carl.receive(each, "x").is_news for each in carl.chains_of(owner.author, 0))
    assert len(owner.read_keys()) == 2


def test_a_key_that_no_owner_names_opens_nothing_for_anybody(make):
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id, Level.MANAGE, depth=1)
    owner.grant(BERT.peer_id, Level.READ)
    sync(owner, anna, bert)
    mine = ReadKey(SEALED.doc_id, b"k" * 32)
    session = SessionKey(hashlib.sha256(b"f").digest())
    boxes = seal_key(mine, [BERT.public_key.data])
    named = KeyEntry(mine.id, (), boxes.ephemeral, boxes.boxes).encode()
    payload = mine.seal(session.author, Kind.REGISTER, RegisterWrite("a", 2).encode())
    chain = forged(anna, ANNA, [(Kind.KEY, named), (Kind.REGISTER, payload)])
    for document in (owner, anna, bert):
        document.receive(chain, "anna")
        assert not list(document.registers)
        assert document.can_read
        assert len(document.read_keys()) == 1
    assert owner.root == anna.root == bert.root


@pytest.mark.parametrize("what", ["garbage", "another key", "for somebody else", "no point"])
def test_a_key_that_is_sealed_wrongly_is_named_and_harms_nobody_else(make, what, caplog):
    both = tuple(sorted((OWNER.public_key.data, CARL.public_key.data)))
    genesis = Genesis("two", both, Mode.ALLOW_LIST, is_sealed=True)
    owner, other, anna, bert = (make(each, genesis) for each in (OWNER, CARL, ANNA, BERT))
    owner.grant(ANNA.peer_id, Level.READ)
    key = ReadKey(genesis.doc_id, b"k" * 32)
    names = [each.public_key.data for each in (OWNER, ANNA, CARL)]
    good = seal_key(key, names)
    boxes, ephemeral = dict(good.boxes), good.ephemeral
    wrong = {
        "garbage": bytes(48),
        "another key": dict(seal_key(ReadKey(genesis.doc_id, b"x" * 32), names).boxes)[names[1]],
        "for somebody else": boxes[names[0]],
        "no point": boxes[names[1]],
    }
    boxes[names[1]] = wrong[what]
    if what == "no point":
        ephemeral = bytes(32)
        del boxes[names[0]], boxes[names[2]]
    first = KeyEntry(key.id, (), ephemeral, tuple(sorted(boxes.items()))).encode()
    chain = forged(other, CARL, [(Kind.KEY, first)])
    sync(owner, other, anna)
    for document in (owner, other, anna):
        document.receive(chain, "carl")
    found = {each.id: each for each in anna.read_keys()}
    assert not found[key.id].is_here
    assert str(CARL.peer_id) in found[key.id].problem
    assert key.id.hex() in caplog.text
    # She writes and reads with the key that she has, and so does everybody.
    owner.grant(BERT.peer_id, Level.WRITE)
    owner.registers["a"] = 1
    sync(owner, other, anna, bert)
    if what != "no point":
        assert [each.is_here for each in owner.read_keys()] == [True, True]
    assert "a" in owner.registers
    # Somebody seals it as it should be.
    again = KeyEntry(key.id, (), good.ephemeral, good.boxes).encode()
    anna.receive(forged(other, OWNER, [(Kind.KEY, again)], b"again"), "owner")
    assert not {each.id: each for each in anna.read_keys()}[key.id].problem
    assert anna.registers["a"] == 1


def test_what_another_one_has_sealed_is_nothing_in_ones_own_entry(make):
    owner, anna = make(OWNER), make(ANNA)
    owner.grant(ANNA.peer_id)
    owner.registers["a"] = 1
    sync(owner, anna)
    stolen = next(
        each for each in owner._replica.database.all_entries() if each.header.kind == Kind.REGISTER
    )
    plain = RegisterWrite("b", 1).encode()
    chain = forged(owner, ANNA, [(Kind.REGISTER, stolen.payload), (Kind.REGISTER, plain)])
    for document in (owner, anna):
        document.receive(chain, "anna")
        assert [name for name, _ in document.registers.items()] == ["a"]
        assert len(document.registers.conflicts("a")) == 1
        assert document.can_read


def test_an_owners_fork_takes_no_honest_writers_entries_with_it(make, tmp_path):
    """The key that he has named behind it is kept for what others have sealed with it."""
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id)
    owner.grant(BERT.peer_id, Level.READ)
    owner.registers["a"] = 1
    sync(owner, anna, bert)
    seq = owner.next_seq
    owner.rotate_key()
    owner.grant(CARL.peer_id, Level.PULL)
    sync(owner, anna)
    anna.registers["b"] = 2
    session = owner._replica._session
    before = owner._replica.database.entry(session.author, seq - 1)
    payload = KeyEntry(bytes(16)).encode()
    hlc = before.header.hlc + 1
    other = sign_entry(session, SEALED.doc_id, seq, before.id, hlc, Kind.KEY, payload)
    anna.receive(encode_chain([other], with_prev=True), "owner")
    assert list(anna.forks())
    assert dict(anna.registers.items()) == {"a": 1, "b": 2}
    sync(anna, bert)
    sync(anna, bert)
    assert dict(bert.registers.items()) == {"a": 1, "b": 2}
    assert bert.root == anna.root


# Proofs and snapshots.


def test_a_proof_of_a_sealed_document_has_the_keys_of_its_entries_and_no_other(make):
    owner, relay = make(OWNER), make(BERT)
    owner.grant(BERT.peer_id, Level.PULL)
    owner.registers["a/1"] = "shown"
    owner.registers["b"] = "not shown"
    owner.set("s").add("x")
    sync(owner, relay)
    doc_id, signers = SEALED.doc_id, {OWNER.public_key.data}
    proof = owner.proof("a/1")
    proved = verify_proof(proof, doc_id, signers=signers, root=owner.root)
    assert proved.value == "shown"
    assert [each.identity for each in proved.authors.values()] == [OWNER.public_key.data]
    assert proof_from_json(proof_to_json(proof, doc_id)) == (proof, doc_id)
    assert verify_proof(owner.proof("c"), doc_id, signers=signers).value is None
    element = Query(Kind.SET, "s", Scope.ITEM, "x")
    assert verify_proof(owner.proof(element), doc_id, signers=signers).value is True
    key = owner._replica.keyring.current
    assert key.data not in proof
    for place in range(0, len(proof), 7):
        broken = bytearray(proof)
        broken[place] ^= 1
        with pytest.raises(RemoteProtocolError):
            verify_proof(bytes(broken), doc_id, signers=signers, root=owner.root)


def test_a_snapshot_is_taken_by_readers_and_by_those_who_pull(make):
    owner, anna, relay = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id, Level.READ)
    owner.grant(BERT.peer_id, Level.PULL)
    owner.registers["a"] = 1
    owner.rotate_key()
    owner.registers["b"] = 2
    parts = owner.snapshot()
    assert b"treasure" not in b"".join(parts)
    anna.receive_snapshot(parts)
    relay.receive_snapshot(parts)
    assert anna.root == owner.root
    assert not relay.can_read
    sync(owner, anna, relay)


def test_who_cannot_read_gives_a_snapshot_that_does_not_say_what_it_comes_to(make, tmp_path):
    owner, anna, relay = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id, Level.READ)
    owner.grant(BERT.peer_id, Level.PULL)
    for number in range(20):
        owner.registers["a"] = number
    assert owner.prune(0) > 10
    relay.receive_snapshot(owner.snapshot())
    parts = relay.snapshot()
    assert parts[1:] == owner.snapshot()[1:]
    match decode(parts[0], len(parts[0])):
        case [0, [signed]]:
            pass
        case _:
            pytest.fail("not the first part of a snapshot")
    of = body_digest(parts[1:])
    assert read_statement(signed, SEALED.doc_id, of, needs_root=False).statement.root == b""
    with pytest.raises(RemoteProtocolError, match="not a statement"):
        read_statement(signed, SEALED.doc_id, of)
    anna.receive_snapshot(parts, [BERT.peer_id])
    assert anna.root == owner.root
    assert anna.registers["a"] == 19
    open_one = Genesis("open")
    with Document(tmp_path / "open", open_one, OWNER) as document:
        document.registers["a"] = 1
        root, heads = b"", document.heads()
        body = document.snapshot()[1:]
        said = document._statements.say(heads, root, body_digest(body))
    with (
        Document(tmp_path / "other", open_one, ANNA) as document,
        pytest.raises(RemoteProtocolError, match="another state than it says"),
    ):
        document.receive_snapshot([first_part([said]), *body], [OWNER.peer_id])


def test_who_begins_a_snapshot_before_it_reads_all_says_nothing_wrong(make, tmp_path):
    owner, anna = make(OWNER), make(ANNA)
    owner.registers["a"] = 1
    owner.grant(ANNA.peer_id, Level.READ)
    owner.revoke(ANNA.peer_id)
    owner.registers["b"] = 2
    sync(owner, anna)
    owner.grant(ANNA.peer_id, Level.READ)

    parts: tuple[bytes, ...] = ()

    def making() -> Iterator[None]:
        nonlocal parts
        parts = yield from anna.making_snapshot()

    for _ in making():
        sync(owner, anna)  # the key comes, after what it opens was passed by
    assert anna.can_read
    fresh = make(OWNER, path=tmp_path / "fresh")
    fresh.receive_snapshot(parts, [ANNA.peer_id])
    assert (fresh.registers["a"], fresh.registers["b"]) == (1, 2)


# Keys and formats.


def test_a_sealed_document_has_owners_and_room():
    for genesis in (
        lambda: Genesis("open", is_sealed=True),
        lambda: Genesis(
            "small", SEALED.owners, Mode.CAPABILITY, limits=Limits(entry_bytes=512), is_sealed=True
        ),
    ):
        with pytest.raises(LocalProtocolError):
            genesis()
    assert decode_genesis(SEALED.encode(), SEALED.doc_id) == SEALED
    plain = Genesis("sealed", SEALED.owners, Mode.CAPABILITY)
    assert plain.doc_id != SEALED.doc_id
    for wrong in (b"\xc2", b"\x01", b"\xc3\xc3"):
        data = bytes([0x98]) + plain.encode()[1:] + wrong
        with pytest.raises(RemoteProtocolError):
            decode_genesis(data, hashlib.sha256(b"lattica/crdt/doc/v1\0" + data).digest())


def test_levels_and_keys_are_for_sealed_documents_only(make):
    listed = Genesis("list", (OWNER.public_key.data,), Mode.ALLOW_LIST)
    owner = make(OWNER, listed)
    with pytest.raises(LocalProtocolError, match="not sealed"):
        owner.grant(ANNA.peer_id, Level.PULL)
    with pytest.raises(LocalProtocolError, match="not sealed"):
        owner.rotate_key()
    with pytest.raises(LocalProtocolError, match="not sealed"):
        owner.read_keys()
    assert owner.can_read
    sealed = make(ANNA)
    with pytest.raises(AccessDeniedError, match="only owners"):
        sealed.rotate_key()


def test_more_readers_than_one_entry_has_room_for(make):
    small = Limits(entry_bytes=2048)
    genesis = Genesis(
        "many", (OWNER.public_key.data,), Mode.ALLOW_LIST, limits=small, is_sealed=True
    )
    owner = make(OWNER, genesis)
    peers = [Identity(bytes([9, number]) * 16) for number in range(40)]
    for each in peers:
        owner.grant(each.peer_id, Level.READ)
    owner.revoke(peers[0].peer_id)
    owner.registers["a"] = 1
    for each, can in ((peers[0], False), (peers[1], True), (peers[39], True)):
        reader = make(each, genesis)
        sync(owner, reader)
        assert reader.can_read is can


def test_a_text_in_small_entries_keeps_to_their_limit(make):
    small = Limits(entry_bytes=2048)
    genesis = Genesis(
        "text", (OWNER.public_key.data,), Mode.ALLOW_LIST, limits=small, is_sealed=True
    )
    owner = make(OWNER, genesis)
    owner.text("t").append("abc" * 5_000)
    assert str(owner.text("t")) == "abc" * 5_000
    owner.registers["a"] = b"x" * (2048 - 16 - sealing.SEALED_BYTES)
    with pytest.raises(LocalProtocolError, match="2048"):
        owner.registers["a"] = b"x" * (2048 - sealing.SEALED_BYTES)


def test_a_point_of_curve25519_is_that_of_the_private_key():
    identity = Identity(bytes(range(32)))
    key = ReadKey(bytes(32), bytes(range(32)))
    boxes = seal_key(key, [identity.public_key.data])
    ((_, box),) = boxes.boxes
    assert unseal_key(identity, bytes(32), key.id, boxes.ephemeral, box) == key
    with pytest.raises(RemoteProtocolError):
        unseal_key(OWNER, bytes(32), key.id, boxes.ephemeral, box)
    with pytest.raises(RemoteProtocolError):
        unseal_key(identity, b"d" * 32, key.id, boxes.ephemeral, box)
    # RFC 7748, section 4.1: the base points of the two curves are one.
    base = (4 * pow(5, -1, 2**255 - 19) % (2**255 - 19)).to_bytes(32, "little")
    assert int.from_bytes(montgomery_point(base), "little") == 9


def test_any_other_bit_of_a_sealed_payload_or_key_entry_is_refused():
    key = ReadKey(bytes(32), bytes(range(32)))
    sealed = key.seal(b"a" * 32, 1, b"payload")
    assert len(sealed) == len(b"payload") + sealing.SEALED_BYTES
    entry_key = key.entry_key(b"a" * 32, 1, sealed)
    assert open_payload(entry_key, sealed) == b"payload"
    for place in range(32, len(sealed)):
        with pytest.raises(RemoteProtocolError):
            open_payload(
                entry_key, sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
            )
    for other in (key.entry_key(b"b" * 32, 1, sealed), key.entry_key(b"a" * 32, 2, sealed)):
        with pytest.raises(RemoteProtocolError):
            open_payload(other, sealed)
    two = ((b"a" * 32, bytes(48)), (b"b" * 32, bytes(48)))
    good = KeyEntry(bytes(16), ((bytes(16), None), (b"b" * 16, bytes(48))), bytes(32), two)
    assert decode_key_entry(good.encode()) == good
    for wrong in (
        KeyEntry(bytes(15)),
        KeyEntry(bytes(16), ((bytes(16), bytes(47)),)),
        KeyEntry(bytes(16), ((b"b" * 16, None), (bytes(16), None))),
        KeyEntry(bytes(16), tuple((bytes([n]) * 16, None) for n in range(17))),
        KeyEntry(bytes(16), (), bytes(31)),
        KeyEntry(bytes(16), (), bytes(32), two[::-1]),
        KeyEntry(bytes(16), (), bytes(32), ((b"a" * 31, bytes(48)),)),
    ):
        with pytest.raises(RemoteProtocolError):
            decode_key_entry(wrong.encode())


def test_keys_are_not_shown_and_a_ring_of_nothing_is_empty():
    key = ReadKey(bytes(32), b"secret" + bytes(26))
    assert "secret" not in repr(key)
    ring = Keyring(SEALED, ANNA)
    assert ring.current is None
    assert not ring.is_empty


def test_what_a_writer_says_of_keys_that_no_owner_names_is_not_logged_and_bounded(make, caplog):
    owner, anna = make(OWNER), make(ANNA)
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    box = ((OWNER.public_key.data, bytes(48)),)
    keys = [number.to_bytes(16, "big") for number in range(1, 1200)]
    wrong = [(Kind.KEY, KeyEntry(key, (), b"e" * 32, box).encode()) for key in keys]
    owner.receive(forged(anna, ANNA, wrong), "anna")
    ring = owner._replica.keyring
    assert len(ring.problems) == 1024
    assert "cannot be used" not in caplog.text
    assert owner.can_read
    assert len(owner.read_keys()) == 1
