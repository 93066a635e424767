"""Replicas to which an author without honour has given different things agree in the end."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.crdt.compaction.history import History
from lattica.crdt.document.feeds import Feeds
from lattica.crdt.entries.chain import decode_chain, encode_chain
from lattica.crdt.entries.fork import decode_fork
from lattica.crdt.entries.genesis import Genesis, Limits
from lattica.crdt.entries.header import Entry
from lattica.crdt.log.disk.replica import Replica
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import Writer
from tests.support.crdt.folders import memory_folder
from tests.support.crdt.logs import NOW

DOC = Genesis("test", limits=Limits(entry_bytes=64, author_bytes=1800))
LIAR = Writer(b"liar", DOC)


@st.composite
def pieces(draw: st.DrawFn) -> list[list[Entry]]:
    """Of histories that part anywhere, have entries that are too large, or too many, and of which
    only the last and some others are signed.
    """
    branches = [list(LIAR.chain(1))]
    for number in range(draw(st.integers(1, 3))):
        source = draw(st.sampled_from(branches))
        branch = source[: draw(st.integers(1, len(source)))]
        for _ in range(draw(st.integers(1, 5))):
            value = draw(st.sampled_from(["", "", "x" * 100]))
            branch.append(
                LIAR.next(branch[-1], branch[-1].header.hlc + 1 + number, f"{number}{value}")
            )
        branches.append(branch)
    found = []
    for branch in branches[1:]:
        end = draw(st.integers(1, len(branch)))
        is_signed = [*draw(st.lists(st.booleans(), min_size=end - 1, max_size=end - 1)), True]
        sent = [
            each if signed else Entry(each.header, bytes(64), each.payload)
            for each, signed in zip(branch, is_signed, strict=False)
        ]
        found.append(sent)
        found.append(sent[draw(st.integers(0, end - 1)) :])
    return found


def deliver(chain: bytes, replica: Replica) -> None:
    with contextlib.suppress(RemoteProtocolError):
        entries = decode_chain(chain, DOC.doc_id, replica.log.id_at)
        replica.receive(entries, "peer", NOW, 0.0)


def tell(giver: Replica, taker: Replica) -> None:
    """All that one has, as in an exchange."""
    for author, feed in list(giver.log.feeds.items()):
        if feed.fork is not None:
            taker.receive_fork(decode_fork(feed.fork.encode(), DOC.doc_id), NOW)
        for chain in Feeds(giver, History(giver)).chains_of(author, 0):
            deliver(chain, taker)


def state(replica: Replica) -> dict[bytes, tuple[list[bytes], int | None]]:
    return {
        author: (feed.ids, feed.fork.seq if feed.fork else None)
        for author, feed in replica.log.feeds.items()
    }


@settings(max_examples=40, deadline=None)
@given(pieces(), st.data())
def test_what_counts_at_one_replica_comes_to_count_at_all(found, data):
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=memory_folder()))
        numbers = itertools.count()

        def replica() -> Replica:
            path = Path(folder, f"{next(numbers)}")
            opened = Replica(path, DOC, Identity(bytes(32)))
            stack.callback(opened.close)
            return opened

        replicas = [replica() for _ in range(2)]
        for each in replicas:
            for chain in data.draw(st.lists(st.sampled_from(found), max_size=4)):
                deliver(encode_chain(chain, with_prev=True), each)
        for _ in range(3):
            for giver, taker in itertools.permutations(replicas, 2):
                tell(giver, taker)
        assert state(replicas[0]) == state(replicas[1])
        # Whoever comes late gets the same from either of them.
        late = replica()
        tell(replicas[0], late)
        assert state(late) == state(replicas[0])
