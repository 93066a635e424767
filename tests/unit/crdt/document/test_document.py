"""A document as its users see it: two stores that write apart and then hear of each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lattica.crdt.base.canonical import Plain
from lattica.crdt.document import Document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Limits
from lattica.crdt.entries.header import Kind
from lattica.crdt.log.errors import StoreError
from lattica.crdt.types.payloads import ClaimWrite, CounterWrite, RegisterWrite, SetWrite
from lattica.crdt.types.state import Change
from lattica.errors import LocalProtocolError, RemoteProtocolError, ResourceLimitError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, START, Writer
from tests.support.crdt.sync import hand_over


class Clock:
    def __init__(self) -> None:
        self.ms = START + 1_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def pair(tmp_path: Path, clock: Clock) -> Iterator[tuple[Document, Document]]:
    documents = tuple(
        Document(tmp_path / f"{number}.sqlite3", DOC, Identity(bytes([number]) * 32), wall=clock)
        for number in (1, 2)
    )
    yield documents[0], documents[1]
    for document in documents:
        document.close()


def test_two_stores_write_apart_and_agree_when_they_meet(pair, clock):
    one, two = pair
    one.registers["model/latest"] = "v1"
    hand_over(one, two)
    assert two.registers["model/latest"] == "v1"
    one.registers["model/latest"] = "v2"
    clock.ms += 1
    two.registers["model/latest"] = "v3"
    for document, steps in ((one, 3), (two, 4)):
        document.counter("steps").add(steps)
        document.counter("steps").add(-1)
        document.set("workers").add(["w", steps])
    hand_over(one, two)
    for document in (one, two):
        assert list(document.registers.items()) == [("model/latest", "v3")]
        conflicts = [each.value for each in document.registers.conflicts("model/latest")]
        assert conflicts == ["v3", "v2"]
        assert document.counter("steps").value == 5
        assert list(document.set("workers")) == [["w", 3], ["w", 4]]
    two.set("workers").discard(["w", 3])
    two.set("workers").discard("nobody")
    del two.registers["model/latest"]
    hand_over(one, two)
    assert ["w", 3] not in one.set("workers")
    assert len(one.set("workers")) == 1
    assert "model/latest" not in one.registers
    assert list(one.registers) == []
    with pytest.raises(KeyError):
        one.registers["model/latest"]
    with pytest.raises(KeyError):
        del one.registers["model/latest"]


def test_what_more_have_written_than_a_write_may_name_is_replaced_all_the_same(pair):
    """Of what 65 had put in at the same time, one was left in after it had been taken out."""
    one, two = pair
    for number in range(150):
        one._replica._begin_session()
        one.write(SetWrite("ready", "all", True), RegisterWrite("leader", number))
    assert len(one.registers.conflicts("leader")) == 150
    hand_over(one, two)
    two.set("ready").discard("all")
    two.registers["leader"] = "two"
    hand_over(one, two)
    for document in pair:
        assert "all" not in document.set("ready")
        assert document.registers["leader"] == "two"
        assert len(document.registers.conflicts("leader")) <= 1
    assert one.root == two.root
    assert one.prune(0)
    one.set("ready").add("all")
    del one.registers["leader"]
    hand_over(one, two)
    for document in pair:
        assert list(document.set("ready")) == ["all"]
        assert "leader" not in document.registers
    assert one.root == two.root


def test_changes_say_where(pair):
    one, two = pair
    assert one.registers.get("a") is None
    assert one.write(RegisterWrite("a", 1), CounterWrite("n", 1, 0)) == (
        Change(Kind.REGISTER, "a"),
        Change(Kind.COUNTER, "n"),
    )
    assert two.registers.get("a") is None
    (chain,) = one.chains_since(two.heads())
    received = two.receive(chain, "peer")
    assert received.changes == (Change(Kind.REGISTER, "a"), Change(Kind.COUNTER, "n"))
    assert not received.is_rebuilt


def test_what_a_fork_withdraws_is_seen_no_more(pair):
    one, two = pair
    liar = Writer(b"liar")
    chain, other = liar.chain(3, "value"), liar.chain(3, "other")
    one.registers["key2"] = "mine"
    assert one.receive(encode_chain(chain, with_prev=True), "peer").changes
    two.receive(encode_chain(other, with_prev=True), "peer")
    hand_over(one, two)
    (proof,) = one.forks()
    assert list(two.forks()) == [proof]
    for document in pair:
        assert list(document.registers.items()) == [("key2", "mine")]
        assert document.heads()[liar.author] == (1, chain[0].id)
    hand_over(two, one)
    with pytest.raises(RemoteProtocolError):
        one.receive(b"none", "peer")


def test_one_at_a_time_holds_a_claim(pair, clock):
    one, two = pair
    jobs, others = one.claims("jobs"), two.claims("jobs")
    assert jobs.claim("a", 10.0)
    clock.ms += 1
    assert others.claim("a", 10.0)  # it has not heard of the first
    hand_over(one, two)
    assert jobs.is_held("a")
    assert not others.is_held("a")
    assert not others.claim("a", 10.0)
    clock.ms += 9_000
    assert jobs.claim("a", 10.0)
    hand_over(one, two)
    clock.ms += 9_000
    assert [item for item, _ in others.held()] == ["a"]
    assert not others.claim("a", 1.0)
    jobs.release("a")
    jobs.release("nothing")
    hand_over(one, two)
    assert others.holder("a") is None
    assert others.claim("a", 1.0)
    for term in (0, -1, 86_401, float("nan")):
        with pytest.raises(LocalProtocolError, match="term"):
            jobs.claim("b", term)


def test_a_document_is_the_same_when_it_is_opened_again(tmp_path: Path):
    identity = Identity(bytes(32))
    with Document(tmp_path / "d", DOC, identity) as document:
        document.counter("n").add(2)
        document.registers["a"] = {"x": [1, b"2"]}
    for count in (3, 4):
        with Document(tmp_path / "d", DOC, identity) as document:
            document.counter("n").add()
            assert document.counter("n").value == count
            assert document.registers["a"] == {"x": [1, b"2"]}
            assert len(document.heads()) == 1


def test_what_cannot_be_written_changes_nothing(tmp_path: Path):
    genesis = replace(
        DOC, kinds=(Kind.REGISTER,), limits=Limits(entry_bytes=100, author_bytes=2_000)
    )
    with Document(tmp_path / "d", genesis, Identity(bytes(32))) as document:
        with pytest.raises(LocalProtocolError, match="no counters"):
            document.counter("n").add()
        with pytest.raises(LocalProtocolError, match="100"):
            document.registers["a"] = "x" * 100
        with pytest.raises(LocalProtocolError, match="plain data"):
            document.registers["a"] = {1, 2}  # type: ignore[assignment]
        assert document.registers.get("a") is None
        for number in range(100):
            try:
                document.registers["a"] = number
            except ResourceLimitError:
                break
        last = document.registers["a"]
        assert last == number - 1 > 0
    with Document(tmp_path / "d", genesis, Identity(bytes(32))) as document:
        assert document.registers["a"] == last


def test_much_goes_in_pieces_that_are_taken(pair):
    one, two = pair
    for number in range(3):
        one.write(*(RegisterWrite(f"{number}/{each}", "x" * 60_000) for each in range(10)))
    pieces = list(one.chains_since({}))
    assert len(pieces) == 2
    assert all(len(piece) <= 1024 * 1024 for piece in pieces)
    for piece in pieces:
        two.receive(piece, "peer")
    assert len(list(two.registers)) == 30
    assert list(one.chains_since(two.heads())) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda document: document.registers.__setitem__("n" * 1025, 1),
        lambda document: document.counter("é" * 513).add(),
        lambda document: document.set("n" * 1025).add(1),
        lambda document: document.claims("n" * 1025).claim(1, 10),
        lambda document: document.registers.__setitem__("a", nested(32)),
        lambda document: document.write(CounterWrite("a", -1, 0)),
        lambda document: document.write(ClaimWrite("a", 1, 86_400_001)),
        lambda document: document.write(RegisterWrite("a", 1, (b"short",))),
    ],
)
def test_what_no_replica_would_read_is_refused_where_it_is_written(tmp_path, write):
    with Document(tmp_path / "file", DOC, Identity(bytes(32))) as document:
        document.registers["b"] = nested(31)
        before = document.heads()
        with pytest.raises(LocalProtocolError):
            write(document)
        assert document.heads() == before


def test_a_closed_document_says_so(tmp_path: Path):
    with Document(tmp_path / "file", DOC, Identity(bytes(32))) as document:
        document.registers["a"] = 1
    with pytest.raises(StoreError, match="closed; open it again"):
        document.registers["a"] = 2


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda document: document.registers.__setitem__(7, 1), "a name is a text, not 7"),
        (lambda document: document.registers.__setitem__("é" * 513, 1), "1024 bytes, not 1026"),
        (lambda document: document.counter("steps").add(1.5), "adds integers, not 1.5"),
        (lambda document: document.counter("steps").add("1"), "adds integers, not '1'"),
        (lambda document: document.claims("jobs").claim("a", "5"), "term: a positive .*, not '5'"),
        (
            lambda document: document.text("t").insert("0", "a"),
            r"start: a whole number.* '0'",
        ),
        (lambda document: document.text("t").append(b"a"), "text: a text, not b'a'"),
        (lambda document: document.list("l").replace(0, 0, 5), "values: a list of them, not 5"),
        (lambda document: document.write(5), "what is written is a Write, not 5"),
        (lambda document: document.present("a"), "capability: bytes, not 'a'"),
        (lambda document: document.proof(5), "query: a Query, or the name .*, not 5"),
        (lambda document: document.prune("7"), "grace: a number of seconds, 0 or more, not '7'"),
        (lambda document: document.prune(-1), "grace: a number of seconds, 0 or more, not -1"),
        (lambda document: document.prune(float("nan")), "grace: .* not nan"),
        (lambda document: document.erase(5), "entries: IDs, or .*, not 5"),
        (lambda document: document.receive_snapshot(b"a"), "parts: .* each bytes, not b'a'"),
        (lambda document: document.receive_snapshot(["a"]), "parts: .* each bytes, not 'a'"),
        (lambda document: document.receive_snapshot([b"a"], "12D3"), "signers: a list of peers"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, write, said):
    with (
        Document(tmp_path / "file", DOC, Identity(bytes(32))) as document,
        pytest.raises(LocalProtocolError, match=said),
    ):
        write(document)


def nested(depth: int) -> Plain:
    value: Plain = 0
    for _ in range(depth):
        value = [value]
    return value
