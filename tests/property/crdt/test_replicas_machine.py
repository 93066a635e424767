"""Replicas that write, crash, are restored from backups and talk over a network that loses,
doubles and exchanges what it carries, with an author among them who contradicts himself.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from lattica.crdt.compaction.history import History
from lattica.crdt.document.feeds import Feeds
from lattica.crdt.entries.chain import decode_chain, encode_chain
from lattica.crdt.entries.fork import decode_fork
from lattica.crdt.entries.genesis import Genesis, Limits
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.log.config import LogConfig
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.types.payloads import RegisterWrite
from lattica.crdt.types.state import State
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import START, Writer
from tests.support.crdt.folders import memory_folder

REPLICAS = st.integers(0, 3)
CONFIG = LogConfig(max_future=10.0)
DOC = Genesis("test", limits=Limits(entry_bytes=64))


class Replicas(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lattica-crdt-", dir=memory_folder()))
        numbers = itertools.count()
        # The same keys whenever an example is run again.
        self.keys = mock.patch("os.urandom", lambda size: next(numbers).to_bytes(size, "big"))
        self.keys.start()
        self.now = START
        self.identities = [Identity(bytes([number]) * 32) for number in range(4)]
        self.replicas = [self.opened(number) for number in range(4)]
        self.skews = [0] * 4
        self.wire: list[tuple[int, bytes]] = []
        self.written: dict[bytes, list[bytes]] = {}
        """Of each honest session, what it has acknowledged."""
        self.backups: dict[int, bytes] = {}
        self.byzantine = Writer(b"byzantine", DOC)
        self.branches: list[list[Entry]] = [list(self.byzantine.chain(1))]

    def opened(self, number: int) -> Replica:
        return Replica(self.folder / f"{number}.sqlite3", DOC, self.identities[number], CONFIG)

    def teardown(self) -> None:
        if not hasattr(self, "replicas"):
            return
        try:
            self.heal()
        finally:
            for replica in self.replicas:
                replica.close()
            shutil.rmtree(self.folder)
            self.keys.stop()

    # What happens.

    @rule(number=REPLICAS, count=st.integers(1, 3))
    def write(self, number: int, count: int) -> None:
        self.now += 1
        replica = self.replicas[number]
        payload = RegisterWrite("key", self.now).encode()
        now = self.now + self.skews[number]
        for entry in replica.write([(Kind.REGISTER, payload)] * count, now).admitted:
            mine = self.written.setdefault(entry.header.author, [])
            # Never two entries at one place, whatever happened before.
            assert entry.header.seq == len(mine)
            mine.append(entry.id)

    @rule(sender=REPLICAS, receiver=REPLICAS, data=st.data())
    def send(self, sender: int, receiver: int, data: st.DataObject) -> None:
        replica = self.replicas[sender]
        feeds = [feed for feed in replica.log.feeds.values() if feed.ids]
        if sender == receiver or not feeds:
            return
        feed = data.draw(st.sampled_from(sorted(feeds, key=lambda feed: feed.author)))
        since = data.draw(st.integers(0, len(feed.ids) - 1))
        until = data.draw(st.integers(since + 1, len(feed.ids)))
        entries = list(replica.database.entries(feed.author, since, until))
        self.wire.append((receiver, encode_chain(entries, with_prev=True)))

    @rule(receiver=REPLICAS, data=st.data())
    def contradict(self, receiver: int, data: st.DataObject) -> None:
        """The byzantine author goes on with one of his histories, or begins another one. What he
        writes may be too large, and of what he sends only the last need be signed.
        """
        branch = data.draw(st.sampled_from(self.branches))
        length = data.draw(st.integers(1, len(branch)))
        mine = branch[:length]
        self.now += 1
        before = mine[-1]
        value = f"{self.now}" + "x" * data.draw(st.sampled_from([0, 0, 100]))
        mine.append(
            sign_entry(
                self.byzantine.session,
                DOC.doc_id,
                length,
                before.id,
                max(before.header.hlc + 1, self.now << 16),
                Kind.REGISTER,
                RegisterWrite("key", value).encode(),
            )
        )
        self.branches.append(mine)
        since = data.draw(st.integers(0, length))
        is_signed = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
        sent = [
            each if signed else Entry(each.header, bytes(64), each.payload)
            for each, signed in zip(mine, [*is_signed, True], strict=True)
        ]
        self.wire.append((receiver, encode_chain(sent[since:], with_prev=True)))

    @precondition(lambda self: self.wire)
    @rule(
        data=st.data(),
        fate=st.sampled_from(["deliver", "deliver", "double", "drop", "flip", "strip"]),
    )
    def carry(self, data: st.DataObject, fate: str) -> None:
        index = data.draw(st.integers(0, len(self.wire) - 1))
        receiver, message = self.wire[index]
        if fate != "double":
            del self.wire[index]
        if fate == "flip":
            spoiled = bytearray(message)
            spoiled[data.draw(st.integers(0, len(message) - 1))] ^= 1
            message = bytes(spoiled)
        if fate == "strip":
            message = self.stripped(message, receiver, data)
        if fate != "drop":
            self.deliver(receiver, message)

    def stripped(self, message: bytes, receiver: int, data: st.DataObject) -> bytes:
        """A chain from which a relay has taken all that the last signature does not vouch for."""
        try:
            entries = decode_chain(message, DOC.doc_id, self.replicas[receiver].log.id_at)
        except RemoteProtocolError:
            return message
        place = data.draw(st.integers(0, len(entries) - 1))
        spoiled = [
            Entry(
                each.header,
                each.signature if each is entries[-1] else bytes(64),
                None if number == place else each.payload,
            )
            for number, each in enumerate(entries)
        ]
        return encode_chain(spoiled, with_prev=True)

    @rule(number=REPLICAS)
    def crash(self, number: int) -> None:
        self.replicas[number].close()
        self.replicas[number] = self.opened(number)

    @rule(number=REPLICAS)
    def back_up(self, number: int) -> None:
        self.replicas[number].close()
        self.backups[number] = (self.folder / f"{number}.sqlite3").read_bytes()
        self.replicas[number] = self.opened(number)
        self.write(number, 1)

    @rule(number=REPLICAS)
    def restore(self, number: int) -> None:
        if number not in self.backups:
            return
        self.replicas[number].close()
        path = self.folder / f"{number}.sqlite3"
        aside = path.with_name("restored")
        aside.write_bytes(self.backups[number])
        os.replace(aside, path)
        self.replicas[number] = self.opened(number)
        self.write(number, 1)

    @rule(number=REPLICAS, skew=st.sampled_from([-3_600_000, 0, 5_000, 60_000]))
    def set_clock(self, number: int, skew: int) -> None:
        self.skews[number] = skew

    # What has to hold.

    def deliver(self, receiver: int, message: bytes) -> None:
        replica = self.replicas[receiver]
        now = self.now + self.skews[receiver]
        with contextlib.suppress(RemoteProtocolError):
            entries = decode_chain(message, DOC.doc_id, replica.log.id_at)
            replica.receive(entries, "peer", now, now / 1000)

    @invariant()
    def honest_feeds_are_what_was_written(self) -> None:
        for replica in getattr(self, "replicas", ()):
            for author, feed in replica.log.feeds.items():
                if author == self.byzantine.author:
                    assert any(
                        feed.ids == [entry.id for entry in branch[: len(feed.ids)]]
                        for branch in self.branches
                    )
                else:
                    assert feed.fork is None
                    assert feed.ids == self.written[author][: len(feed.ids)]

    def heal(self) -> None:
        """All talk to all, over a network that carries everything; in a few rounds all agree."""
        longest: dict[bytes, int] = {}
        for replica in self.replicas:
            for author, feed in replica.log.feeds.items():
                if author != self.byzantine.author:
                    longest[author] = max(longest.get(author, 0), len(feed.ids))
        self.now += 7_200_000
        self.skews = [0] * 4
        for _ in range(4):
            for sender, giver in enumerate(self.replicas):
                for receiver, taker in enumerate(self.replicas):
                    if sender != receiver:
                        self.synchronize(giver, receiver, taker)
        states = [
            {
                author: (feed.ids, feed.fork.seq if feed.fork else None)
                for author, feed in replica.log.feeds.items()
            }
            for replica in self.replicas
        ]
        assert all(state == states[0] for state in states)
        shown = [self.resolved(replica) for replica in self.replicas]
        assert all(each == shown[0] for each in shown)
        for author, length in longest.items():
            # Nothing that any honest replica had is lost.
            assert len(states[0][author][0]) >= length

    def resolved(self, replica: Replica) -> list[object]:
        state = State(DOC)
        state.rebuild(replica.database.all_entries)
        return [*state.registers(), *state.conflicts("key")]

    def synchronize(self, giver: Replica, receiver: int, taker: Replica) -> None:
        taker.advance(self.now)
        for author, feed in list(giver.log.feeds.items()):
            if feed.fork is not None:
                proof = decode_fork(feed.fork.encode(), DOC.doc_id)
                taker.receive_fork(proof, self.now)
            for chain in Feeds(giver, History(giver)).chains_of(author, 0):
                self.deliver(receiver, chain)


Replicas.TestCase.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestReplicas = Replicas.TestCase
pytestmark = pytest.mark.slow
