"""Documents that have owners: rights are given and taken back, an owner contradicts himself and
others are appointed, what was written is erased and history is pruned, while messages are lost,
doubled and overtaken, programs crash and replicas begin with snapshots. Whoever has the same
entries sees the same, and what was refused has no effect.
"""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from lattica.crdt.access.capability import Level
from lattica.crdt.document import Document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.erasure import Erasure
from lattica.crdt.entries.genesis import Genesis, Mode, Recovery
from lattica.crdt.entries.header import Kind
from lattica.crdt.log.errors import ContradictionError
from lattica.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.documents import Clock, sign_next
from tests.support.crdt.folders import memory_folder
from tests.support.crdt.sync import exchange, exchange_all, tell

PEERS = [Identity(bytes([number]) * 32) for number in range(1, 6)]
OWNERS = PEERS[:2]
KEY = Identity(bytes([9]) * 32)
ANY = st.integers(0, len(PEERS) - 1)
MOST_FORKS = 2
KINDS = [Kind.REGISTER, Kind.COUNTER, Kind.SET, Kind.TEXT]


def genesis_of(mode: Mode) -> Genesis:
    names = tuple(sorted(each.public_key.data for each in OWNERS))
    return Genesis("governed", names, mode, recovery=Recovery(1, (KEY.public_key.data,), 1))


def seen(document: Document) -> dict[str, object]:
    """What all agree on who have the same entries."""
    return {
        "root": document.root,
        "heads": document.head_index.heads(b"", None),
        "owners": tuple(document.owners()),
        "rights": tuple(document.rights()) if document.owners() else (),
        "registers": dict(document.registers.items()),
        "set": sorted(map(str, document.set("s"))),
        "counter": document.counter("c").value,
        "text": str(document.text("t")),
    }


class Governed(RuleBasedStateMachine):
    @initialize(mode=st.sampled_from(Mode))
    def begin(self, mode: Mode) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lattica-crdt-", dir=memory_folder()))
        numbers = itertools.count()
        # The same keys whenever an example is run again.
        self.keys = mock.patch("os.urandom", lambda size: next(numbers).to_bytes(size, "big"))
        self.keys.start()
        self.clock = Clock()
        self.genesis = genesis_of(mode)
        self.files = [self.folder / f"{number}" for number in range(len(PEERS))]
        self.documents = [self.opened(number) for number in range(len(PEERS))]
        self.wire: list[tuple[int, bool, bytes]] = []
        """To whom, whether it is the proof of a fork, and what."""
        self.handed: list[tuple[int, bytes]] = []
        """For whom, and a capability or an appointment."""
        self.forks = 0
        self.is_pruned = False
        self.lost = itertools.count()

    def opened(self, number: int) -> Document:
        return Document(self.files[number], self.genesis, PEERS[number], wall=self.clock)

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

    # What happens.

    @rule(
        number=ANY,
        name=st.sampled_from("ab"),
        kind=st.sampled_from(KINDS),
        count=st.sampled_from([1, 1, 4]),
    )
    def write(self, number: int, name: str, kind: Kind, count: int) -> None:
        document = self.documents[number]
        for _ in range(count):
            with self.unless_refused(document):
                match kind:
                    case Kind.REGISTER:
                        document.registers[name] = self.clock()
                    case Kind.COUNTER:
                        document.counter("c").add(self.clock() % 7 - 3)
                    case Kind.TEXT:
                        text = document.text("t")
                        text.insert(self.clock() % (len(text) + 1), name)
                    case _ if name in document.set("s"):
                        document.set("s").discard(name)
                    case _:
                        document.set("s").add(name)

    @rule(number=ANY, data=st.data())
    def erase(self, number: int, data: st.DataObject) -> None:
        """Whatever can be erased, the state is the same without it."""
        document = self.documents[number]
        entries = [*document.entries()]
        if not entries:
            return
        chosen = data.draw(st.lists(st.sampled_from(entries), min_size=1, max_size=3))
        before = seen(document)
        with self.unless_refused(document):
            document.erase(*chosen)
        assert seen(document) | {"heads": before["heads"]} == before

    @rule(number=ANY, data=st.data())
    def erase_at_will(self, number: int, data: st.DataObject) -> None:
        """As somebody does with his key who keeps to none of what is asked for first."""
        document = self.documents[number]
        entries = [*document.entries()]
        if not entries:
            return
        some = st.lists(st.sampled_from(entries), max_size=3)
        targets = {(each.author, each.seq, each.id) for each in data.draw(some)}
        replaced = {each.id for each in data.draw(some)}
        payload = Erasure(tuple(sorted(targets)), tuple(sorted(replaced))).encode()
        if not targets:
            return
        entry = sign_next(document, Kind.ERASE, payload, lambda: self.clock() << 16)
        if entry is not None:
            document.receive(encode_chain([entry], with_prev=True), "peer")

    @rule(number=ANY, to=ANY, level=st.sampled_from([Level.READ, Level.WRITE, Level.MANAGE]))
    def grant(self, number: int, to: int, level: Level) -> None:
        document = self.documents[number]
        with self.unless_refused(document):
            self.handed.append((to, document.grant(PEERS[to].peer_id, level, depth=1)))

    @rule(number=ANY, peer=ANY)
    def revoke(self, number: int, peer: int) -> None:
        document = self.documents[number]
        with self.unless_refused(document):
            document.revoke(PEERS[peer].peer_id)

    @precondition(lambda self: self.forks < MOST_FORKS)
    @rule(number=st.sampled_from([0, 0, 1, 1, 2]), to=ANY, other=ANY, in_common=st.booleans())
    def contradict(self, number: int, to: int, other: int, in_common: bool) -> None:
        """A virtual machine is set back: two programs go on with one session. What one of them
        has written until it stops has come to somebody.
        """
        if in_common:
            self.write(number, "a", Kind.REGISTER, 1)
        document = self.documents[number]
        session = document._replica._session
        if session is None or other == number:
            return
        self.forks += 1
        document.close()
        aside = self.files[number].with_name(f"fork-{self.forks}")
        shutil.copyfile(self.files[number], aside)
        with Document(aside, self.genesis, PEERS[number], wall=self.clock) as branch:
            branch._replica._session = session
            with self.unless_refused(branch):
                branch.registers["a"] = -self.forks
            with self.unless_refused(branch):
                branch.grant(PEERS[to].peer_id)
            exchange(branch, self.documents[other])
        self.documents[number] = document = self.opened(number)
        document._replica._session = session
        with self.unless_refused(document):
            document.registers["b"] = -self.forks

    def frozen(self) -> list[int]:
        """Who knows of an owner that is to be replaced."""
        return [
            number
            for number, document in enumerate(self.documents)
            if any(owner.is_frozen for owner in document.owners())
        ]

    @precondition(lambda self: self.frozen())
    @rule(data=st.data(), successor=ANY, by_key=st.booleans())
    def appoint(self, data: st.DataObject, successor: int, by_key: bool) -> None:
        document = self.documents[data.draw(st.sampled_from(self.frozen()))]
        with self.unless_refused(document):
            by = KEY if by_key else None
            found = document.appoint(PEERS[successor].peer_id, by=by)
            self.handed.append((successor, found))

    @precondition(lambda self: self.handed)
    @rule(data=st.data(), thief=st.sampled_from([None, None, None, *range(len(PEERS))]))
    def present(self, data: st.DataObject, thief: int | None) -> None:
        receiver, given = data.draw(st.sampled_from(self.handed))
        document = self.documents[receiver if thief is None else thief]
        with self.unless_refused(document):
            document.present(given)
        with self.unless_refused(document):
            document.registers["a"] = self.clock()

    @rule(sender=ANY, receiver=ANY, data=st.data())
    def send(self, sender: int, receiver: int, data: st.DataObject) -> None:
        document = self.documents[sender]
        heads = document.heads()
        if sender == receiver or not heads:
            return
        author = data.draw(st.sampled_from(sorted(heads)))
        since = data.draw(st.integers(0, heads[author][0] - 1)) if heads[author][0] > 0 else 0
        self.wire += [(receiver, False, chain) for chain in document.chains_of(author, since)]
        self.wire += [(receiver, True, proof) for proof in document.forks()]

    @precondition(lambda self: self.wire)
    @rule(data=st.data(), fate=st.sampled_from(["deliver", "deliver", "double", "drop"]))
    def carry(self, data: st.DataObject, fate: str) -> None:
        index = data.draw(st.integers(0, len(self.wire) - 1))
        receiver, is_fork, message = self.wire[index]
        if fate != "double":
            del self.wire[index]
        if fate == "drop":
            return
        document = self.documents[receiver]
        if is_fork:
            document.receive_fork(message)
            return
        try:
            document.receive(message, "peer")
        except ContradictionError:
            # What is left of a pruned entry has no signature: the first time that something else is
            # heard, time is given to whoever has a shorter proof. Where nothing is pruned all are.
            assert self.is_pruned

    @rule(one=ANY, other=ANY)
    def meet(self, one: int, other: int) -> None:
        if one == other:
            return
        exchange(self.documents[one], self.documents[other])

    @rule(number=ANY)
    def crash(self, number: int) -> None:
        before = seen(self.documents[number])
        self.documents[number].close()
        self.documents[number] = self.opened(number)
        assert seen(self.documents[number]) == before

    @rule(number=ANY)
    def prune(self, number: int) -> None:
        """An owner says what is final by that, in an entry of its own."""
        document = self.documents[number]
        before = seen(document)
        if document.prune(grace=0):
            self.is_pruned = True
        if self.genesis.mode is Mode.OPEN or not document.is_owner:
            assert seen(document) == before
        assert seen(document) | {"heads": 0, "owners": 0} == before | {"heads": 0, "owners": 0}

    @rule(number=ANY, giver=st.sampled_from([0, 0, 1, 1, 2]), is_lost=st.booleans())
    def take_snapshot(self, number: int, giver: int, is_lost: bool) -> None:
        """Whoever has lost his disk has nothing else."""
        if number == giver:
            return
        if is_lost:
            self.documents[number].close()
            self.files[number] = self.files[number].with_name(f"after-{next(self.lost)}")
            self.documents[number] = self.opened(number)
        document, other = self.documents[number], self.documents[giver]
        parts = other.snapshot()
        if self.genesis.mode is not Mode.OPEN:
            refusals = [RemoteProtocolError]  # of who is no owner
        else:
            refusals = [] if is_lost else [ContradictionError]  # a fork is known here alone
        with self.unless_refused(document, refusals):
            document.receive_snapshot(parts, self.believed(giver))
        if is_lost and document.heads():
            assert seen(document) == seen(other)

    # What has to hold.

    def believed(self, giver: int) -> list[bytes]:
        """Whose snapshots are taken: of an open document anybody's, else the owners' alone."""
        return [PEERS[giver].public_key.data] if self.genesis.mode is Mode.OPEN else []

    @property
    def may_have_gaps(self) -> bool:
        """Whether chains may not be had whole: then a snapshot of any peer is taken."""
        return self.genesis.mode is Mode.OPEN or self.is_pruned

    def unless_refused(
        self, document: Document, refusals: Iterable[type[Exception]] = ()
    ) -> _Refused:
        return _Refused(document, refusals)

    def share_snapshots(self) -> None:
        """What was pruned at some, and what forks have brought back at others, all have."""
        for _ in range(2):
            for giver, number in itertools.permutations(range(len(PEERS)), 2):
                self.share_snapshot(self.documents[giver], self.documents[number])

    def share_snapshot(self, giver: Document, document: Document) -> None:
        by = [PEERS[self.documents.index(giver)].public_key.data]
        try:
            document.receive_snapshot(giver.snapshot(), by)
        except ContradictionError:  # a fork has become known by another one
            exchange(giver, document)
            document.receive_snapshot(giver.snapshot(), by)

    def begin_late(self, late: Document, source: Document) -> None:
        """By a snapshot where chains may have gaps, and else by whatever comes first."""
        if self.may_have_gaps:
            late.receive_snapshot(source.snapshot(), [PEERS[0].public_key.data])
            return
        parts = [(False, each) for each in source.chains_since({})]
        parts += [(True, each) for each in source.forks()]
        random.Random(len(parts)).shuffle(parts)
        for is_fork, part in parts:
            if is_fork:
                late.receive_fork(part)
            else:
                late.receive(part, "peer")
        exchange_all(source, late)

    def heal(self) -> None:
        """All talk to all; then they agree, with somebody too who hears of it all in any order."""
        exchange_all(*self.documents)
        if self.may_have_gaps:
            self.share_snapshots()
        states = [seen(document) for document in self.documents]
        for state in states[1:]:
            assert state == states[0]
        late = Document(self.folder / "late", self.genesis, PEERS[-1], wall=self.clock)
        source = self.documents[0]
        with late:
            self.begin_late(late, source)
            assert seen(late) == states[0]
        owners = [owner.peer for owner in source.owners()]
        for identity in PEERS:
            messages = [*source.standing_of(identity.peer_id)]
            assert not messages or any(owner.instead_of for owner in source.owners())
            if messages:  # it owns the document, or did, and needs no more to know who does
                path = self.folder / f"told-{identity.peer_id}"
                with Document(path, self.genesis, identity, wall=self.clock) as told:
                    tell(told, messages)
                    assert [owner.peer for owner in told.owners()] == owners


class _Refused:
    """A block whose refusal is none of an error, and changes nothing but what it proves."""

    def __init__(self, document: Document, refusals: Iterable[type[Exception]]) -> None:
        self._document = document
        always: list[type[Exception]] = [AccessDeniedError, LocalProtocolError]
        self._refusals = (*always, *refusals)
        self._before = seen(document)
        self._begun = self._session()
        self._forks = list(document.forks())

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        if kind is None or not issubclass(kind, self._refusals):
            return False
        note(f"refused: {rest[0]}")
        if self._session() != self._begun and self._document._replica._office():
            return True  # who was appointed takes office with whatever he does first
        is_proof = list(self._document.forks()) != self._forks
        assert seen(self._document) == self._before or (is_proof and kind is ContradictionError)
        return True

    def _session(self) -> bytes:
        """The one that is written by, once it has an entry."""
        replica = self._document._replica
        return replica.author if replica.log.length(replica.author) else b""


Governed.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestGoverned = Governed.TestCase
pytestmark = pytest.mark.slow
