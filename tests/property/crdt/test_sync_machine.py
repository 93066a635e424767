"""Replicas that write, sync over sessions that break anywhere, crash and see clocks go wrong, with
an author among them who contradicts himself. When all is healed they agree with a model that knows
nothing of logs.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lattica.crdt.document import Document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.log.config import LogConfig
from lattica.crdt.types.payloads import RegisterWrite
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, START, Writer
from tests.support.crdt.folders import memory_folder
from tests.support.crdt.sync import Exchange, exchange

COUNT = 4
REPLICAS = st.integers(0, COUNT - 1)
NAMES = st.sampled_from(["a", "b"])
CONFIG = LogConfig(max_future=10.0)


class Model:
    """What was acknowledged, in whole writes, and what each replica had seen of it."""

    def __init__(self) -> None:
        self.total = 0
        self.registers: dict[str, list[tuple[tuple[int, bytes], int]]] = {}
        self.adds: dict[int, set[bytes]] = {}
        self.removed: set[bytes] = set()


class Synced(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lattica-crdt-", dir=memory_folder()))
        numbers = itertools.count()
        # The same keys whenever an example is run again.
        self.keys = mock.patch("os.urandom", lambda size: next(numbers).to_bytes(size, "big"))
        self.keys.start()
        self.now = START
        self.skews = [0] * COUNT
        self.documents = [self.opened(number) for number in range(COUNT)]
        self.sessions: list[tuple[int, int, Exchange]] = []
        self.model = Model()
        self.byzantine = Writer(b"byzantine")
        self.branches: list[list[Entry]] = [list(self.byzantine.chain(1))]

    def opened(self, number: int) -> Document:
        return Document(
            self.folder / f"{number}.sqlite3",
            DOC,
            Identity(bytes([number]) * 32),
            CONFIG,
            wall=lambda: self.now + self.skews[number],
            monotonic=lambda: self.now / 1000,
        )

    def teardown(self) -> None:
        if not hasattr(self, "documents"):
            return
        try:
            self.heal()
        finally:
            for document in self.documents:
                document.close()
            shutil.rmtree(self.folder)
            self.keys.stop()

    # Writes.

    @rule(number=REPLICAS, name=NAMES, value=st.integers(0, 9))
    def set_register(self, number: int, name: str, value: int) -> None:
        self.now += 1
        document = self.documents[number]
        document.registers[name] = value
        newest = document.state.conflicts(name)[0]
        assert newest.author == document.author
        written = self.model.registers.setdefault(name, [])
        written.append(((newest.hlc, newest.author), value))

    @rule(number=REPLICAS, amount=st.integers(-3, 3))
    def count(self, number: int, amount: int) -> None:
        self.now += 1
        self.documents[number].counter("steps").add(amount)
        self.model.total += amount

    @rule(number=REPLICAS, element=st.integers(0, 1))
    def add(self, number: int, element: int) -> None:
        self.now += 1
        document = self.documents[number]
        seen = set(document.state.replaced_in("s", element))
        document.set("s").add(element)
        self.model.removed |= seen
        (tag,) = document.state.replaced_in("s", element)
        self.model.adds.setdefault(element, set()).add(tag)

    @rule(number=REPLICAS, element=st.integers(0, 1))
    def discard(self, number: int, element: int) -> None:
        self.now += 1
        document = self.documents[number]
        if element in document.set("s"):
            self.model.removed |= set(document.state.replaced_in("s", element))
            document.set("s").discard(element)

    @rule(receiver=REPLICAS, data=st.data())
    def contradict(self, receiver: int, data: st.DataObject) -> None:
        """The byzantine author goes on with one of his histories, or begins another one."""
        mine = data.draw(st.sampled_from(self.branches))
        length = data.draw(st.integers(1, len(mine)))
        self.now += 1
        before = mine[length - 1]
        entry = sign_entry(
            self.byzantine.session,
            DOC.doc_id,
            length,
            before.id,
            max(before.header.hlc + 1, self.now << 16),
            Kind.REGISTER,
            RegisterWrite("byzantine", self.now).encode(),
        )
        self.branches.append([*mine[:length], entry])
        with contextlib.suppress(RemoteProtocolError):
            chain = encode_chain(self.branches[-1], with_prev=True)
            self.documents[receiver].receive(chain, "byzantine")

    # The network.

    @rule(opener=REPLICAS, other=REPLICAS)
    def open_session(self, opener: int, other: int) -> None:
        if opener != other:
            pair = Exchange(self.documents[opener], self.documents[other])
            self.sessions.append((opener, other, pair))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), messages=st.integers(1, 8))
    def carry(self, data: st.DataObject, messages: int) -> None:
        """A session gets on by some messages; what is never carried on was cut there."""
        place = data.draw(st.integers(0, len(self.sessions) - 1))
        _opener, _other, session = self.sessions[place]
        if not all(session.step() for _ in range(messages)):
            del self.sessions[place]

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        del self.sessions[data.draw(st.integers(0, len(self.sessions) - 1))]

    @rule(number=REPLICAS)
    def crash(self, number: int) -> None:
        self.documents[number].close()
        self.documents[number] = self.opened(number)
        self.sessions = [each for each in self.sessions if number not in each[:2]]

    @rule(number=REPLICAS, skew=st.sampled_from([-3_600_000, 0, 5_000, 60_000]))
    def set_clock(self, number: int, skew: int) -> None:
        self.skews[number] = skew

    # What has to hold.

    @invariant()
    def the_index_is_that_of_the_log(self) -> None:
        for document in getattr(self, "documents", ()):
            heads = document.head_index.heads(b"", None)
            mine = {head.author: (head.length, head.newest) for head in heads if head.length}
            theirs = {key: (n, each[:16]) for key, (n, each) in document.heads().items()}
            assert mine == theirs

    def heal(self) -> None:
        self.now += 7_200_000
        self.skews = [0] * COUNT
        for document in self.documents:
            document.advance()
        for _ in range(4):
            for one, other in itertools.permutations(range(COUNT), 2):
                exchange(self.documents[one], self.documents[other])
        first, *rest = self.documents
        # Nothing is left to say.
        assert exchange(first, rest[-1])[0].turns == 2
        for document in rest:
            assert document.head_index.heads(b"", None) == first.head_index.heads(b"", None)
            assert document.root == first.root
        assert first.counter("steps").value == self.model.total
        for name, written in self.model.registers.items():
            assert first.registers[name] == max(written)[1]
        for element, tags in self.model.adds.items():
            assert (element in first.set("s")) == bool(tags - self.model.removed)


Synced.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSynced = Synced.TestCase
pytestmark = pytest.mark.slow
