"""Texts and lists as users edit them, at two stores."""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lattica.crdt.base.canonical import encode
from lattica.crdt.document import Document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Limits
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.log.errors import StoreFullError
from lattica.crdt.text import sequence
from lattica.crdt.types.state import Change, State
from lattica.errors import LocalProtocolError, ResourceLimitError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, START, Writer
from tests.support.crdt.editors import Editor, in_causal_order
from tests.support.crdt.logs import MemoryLog
from tests.support.crdt.sync import hand_over


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Document, Document]]:
    documents = [
        Document(
            tmp_path / f"{number}",
            DOC,
            Identity(bytes([number]) * 32),
            wall=lambda: START + 1_000_000,
        )
        for number in (1, 2)
    ]
    yield documents[0], documents[1]
    for document in documents:
        document.close()


def test_two_edit_a_text_apart_and_both_are_in_it(pair):
    one, two = pair
    assert str(one.text("notes")) == ""
    one.text("notes").append("hello 😀 world")
    (chain,) = one.chains_since(two.heads())
    assert str(two.text("notes")) == ""
    assert two.receive(chain, "peer").changes == (Change(Kind.TEXT, "notes"),)
    one.text("notes").replace(6, 7, "dear")
    two.text("notes").delete(0, 5)
    two.text("notes").insert(len(two.text("notes")), "!")
    hand_over(one, two)
    assert str(one.text("notes")) == str(two.text("notes")) == " dear world!"
    assert len(one.text("notes")) == 12
    assert one.root == two.root
    assert str(one.text("other")) == ""
    before = one.root
    one.text("notes").append("?")
    assert one.root != before


def test_two_edit_a_list_apart_and_both_are_in_it(pair):
    one, two = pair
    values = one.list("layers")
    values.append(1, "x", [1.5, {"a": b"b"}], None, True)
    hand_over(one, two)
    two.list("layers")[1] = "y"
    values.insert(0, "first")
    del values[-1]
    hand_over(one, two)
    assert list(values) == list(two.list("layers")) == ["first", 1, "y", [1.5, {"a": b"b"}], None]
    assert (len(values), values[0], values[1:3]) == (5, "first", [1, "y"])
    assert one.root == two.root
    for index in (5, -6):
        with pytest.raises(IndexError):
            values[index] = 0
    with pytest.raises(IndexError):
        del values[5]


def test_what_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch):
    genesis = replace(DOC, limits=Limits(entry_bytes=1000, author_bytes=5000))
    with Document(tmp_path / "d", genesis, Identity(bytes(32))) as document:
        text, values = document.text("t"), document.list("l")
        text.append("abc")
        values.append(1)
        for start, stop in ((-1, 0), (0, 4), (2, 1)):
            with pytest.raises(LocalProtocolError):
                text.replace(start, stop, "x")
            with pytest.raises(LocalProtocolError):
                values.replace(start, stop, ["x"])
        with pytest.raises(LocalProtocolError, match="half a character"):
            text.append("\ud800")
        with pytest.raises(LocalProtocolError, match="plain data"):
            values.append({1})  # type: ignore[arg-type]
        with pytest.raises(LocalProtocolError, match="an element of more than"):
            values.append("x" * 1000)
        root = document.root
        with pytest.raises(ResourceLimitError):
            text.insert(1, "x" * 6000)
        assert str(text) == "abc"

        def full(*args: object) -> None:
            raise StoreFullError("full")

        with monkeypatch.context() as patch:
            patch.setattr(document._replica.database, "keep_own", full)
            with pytest.raises(StoreFullError):
                text.delete(0, 1)
        assert (str(text), list(values), document.root) == ("abc", [1], root)
        text.insert(1, "-")
        assert str(text) == "a-bc"
    with Document(tmp_path / "d", genesis, Identity(bytes(32))) as document:
        assert str(document.text("t")) == "a-bc"
    other = replace(DOC, kinds=(Kind.REGISTER,))
    with (
        Document(tmp_path / "e", other, Identity(bytes(32))) as document,
        pytest.raises(LocalProtocolError, match="no texts"),
    ):
        document.text("t").append("x")


def test_without_pycrdt_it_is_said_what_to_install_and_the_rest_works(pair, monkeypatch):
    one, two = pair
    one.text("t").append("x")
    hand_over(one, two)
    monkeypatch.setitem(sys.modules, "pycrdt", None)
    two.registers["a"] = 1
    assert two.registers["a"] == 1
    with pytest.raises(LocalProtocolError, match="lattica-stack"):
        str(two.text("t"))


def entry_after(writer: Writer, before: Entry, edits: object, deps: tuple[bytes, ...]) -> Entry:
    return sign_entry(
        writer.session,
        DOC.doc_id,
        before.header.seq + 1,
        before.id,
        before.header.hlc + 1,
        Kind.TEXT,
        encode(["t", edits]),  # type: ignore[list-item]
        deps,
    )


def test_what_was_built_on_the_losing_side_of_a_fork_is_not_lost(pair):
    """Each hears another branch; the forger's text is withdrawn, and the honest edits stay."""
    one, two = pair
    liar = Writer(b"liar")
    (first,) = liar.chain(1)
    branches = []
    for text in ("left", "right"):
        before = entry_after(liar, first, [[None, None, text]], ())
        last = entry_after(liar, before, [[[-2, 3], None, "!!"]], ())
        branches.append([first, before, last])
    for document, branch, mine in zip(pair, branches, ("<one>", "<two>"), strict=True):
        document.receive(encode_chain(branch, with_prev=True), "peer")
        document.text("t").insert(len(document.text("t")) - 1, mine)
        document.text("t").insert(1, "*")
    assert str(one.text("t")) == "l*eft!<one>!"
    for document, branch in ((one, branches[1]), (two, branches[0])):
        document.receive(encode_chain(branch[:2], with_prev=True), "peer")
    # What the other's edits refer to is asked for, and comes from whoever still has it.
    hand_over(one, two)
    for _ in range(3):
        for document, branch in ((one, branches[1]), (two, branches[0])):
            document.receive(encode_chain(branch[1:], with_prev=True), "peer")
        hand_over(one, two)
    assert str(one.text("t")) == str(two.text("t"))
    assert sorted(str(one.text("t"))) == sorted("<one>*<two>*")
    assert one.root == two.root
    again = State(DOC)
    database = two._replica.database
    again.rebuild(database.all_entries, database.withdrawn_entries)
    assert again.text("t") == str(one.text("t"))


def test_a_tombstone_comes_after_what_it_depends_on_itself():
    liar, honest = Writer(b"liar"), Writer(b"honest")
    (start,), (mine,) = liar.chain(1), honest.chain(1)
    one = entry_after(liar, start, [[None, None, "a"]], ())
    two = entry_after(liar, one, [[[-2, 0], None, "b"]], ())
    other = entry_after(liar, start, [[None, None, "c"]], ())
    built = entry_after(honest, mine, [[[0, 0], None, "d"]], (two.id,))
    log = MemoryLog()
    log.receive([start, other])
    log.receive([one])
    log.receive([mine, built])
    outcome = log.receive([two])
    assert not outcome.admitted
    assert not outcome.tombstones
    outcome = log.receive([one, two])
    assert [entry.id for entry in outcome.tombstones] == [one.id, two.id]
    assert [entry.id for entry in outcome.admitted] == [built.id]


def test_clients_whose_numbers_clash_are_told_apart_alike_everywhere(monkeypatch):
    """As if somebody had searched for two keys with one number."""

    def number(self: sequence.Clients, owner: bytes, attempt: int) -> int:
        return 1000 * attempt + hashlib.sha256(owner).digest()[0] % 2

    monkeypatch.setattr(sequence.Clients, "_candidate", number)
    clock = itertools.count(1)
    editors = [Editor(bytes([each]), clock) for each in range(5)]
    editors[0].text.append("ab")
    for editor in editors[1:]:
        editor.hear(editors[0])
    for index, editor in enumerate(editors):
        if index:
            # The reading of one's own needs no settling: it is the first of its number here.
            editor.sign(
                Kind.TEXT,
                encode(["t", [[[0, 0], [0, 1], f"{index}"]]]),
                (editors[0].chain[1].id,),
            )
    shown = set()
    for seed in range(12):
        order = in_causal_order([editor.chain for editor in editors], random.Random(seed))
        state = State(DOC)
        for entry in order:
            state.apply(entry)
        rounds = 0

        def read_again(order: list[Entry] = order) -> list[Entry]:
            nonlocal rounds
            rounds += 1
            return order

        if not state.is_settled:
            state.rebuild(read_again)
        assert state.is_settled
        assert rounds <= 2
        shown.add(state.text("t"))
    assert len(shown) == 1
    assert sorted(shown.pop()) == sorted("ab1234")


def test_an_edit_of_what_is_not_earlier_takes_no_effect():
    clock = itertools.count(1)
    one, two = Editor(b"1", clock), Editor(b"2", iter([0, 10]))
    one.text.append("abc")
    two.hear(one)
    dep = (one.chain[1].id,)
    assert not two.state.apply(two.sign(Kind.TEXT, encode(["t", [[[0, 1], None, "x"]]]), dep))
    assert two.state.text("t") == "abc"
    two.sign(Kind.TEXT, encode(["t", [[[0, 1], None, "y"]]]), dep)
    assert two.state.text("t") in ("abyc", "abcy")
