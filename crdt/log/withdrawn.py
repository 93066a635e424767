"""What was withdrawn: what of it is its author's, and what those are given who lack what they have
admitted depends on. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from lattica.crdt.base.turns import Turns
from lattica.crdt.entries.chain import encode_chain, fitting, fitting_shown, signed_part
from lattica.crdt.entries.erasure import Evidence
from lattica.crdt.entries.fork import ForkProof
from lattica.crdt.entries.header import Entry
from lattica.crdt.log.feed import Feed


def vouched(entries: Iterable[Entry], forks: Iterable[ForkProof]) -> Turns[list[Entry]]:
    """Those of withdrawn entries that their authors have signed, be it by one that follows, here or
    in the proof of the author's fork. In turns: a signature may have to be verified for each.
    """
    followed = {
        each.header.prev_id
        for fork in forks
        for side in (fork.one, fork.other)
        for each in (side.entry, *side.path)
    }
    found: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: entry.header.seq, reverse=True):
        if entry.id in followed or entry.is_signed():
            followed.add(entry.header.prev_id)
            found.append(entry)
        yield
    return found[::-1]


def withdrawn_chains(
    wanted: Collection[bytes],
    withdrawn: Iterable[Entry],
    feeds: Mapping[bytes, Feed],
    evidence: Evidence = lambda entries: (),
) -> Iterator[bytes]:
    """Chains of the withdrawn entries with these IDs, and those that they depend on: each from the
    first of its author on that is not admitted. What is depended on goes first, so that what it
    needs is known to be wanted; then all in the order in which it can be taken. `evidence` has the
    erasures of those that have no payload.
    """
    left = sorted(wanted)
    known = {entry.id: entry for entry in withdrawn}
    followers: dict[bytes, list[Entry]] = {}
    for each in known.values():
        followers.setdefault(each.header.prev_id, []).append(each)
    seen: set[bytes] = set()
    branches: list[list[Entry]] = []
    while left:
        entry = known.get(left.pop())
        if entry is None or entry.id in seen:
            continue
        branch = _branch(entry, known, followers, feeds)
        new = [each for each in branch if each.id not in seen]
        seen.update(each.id for each in new)
        left += [dep for each in new for dep in each.header.deps]
        branches.append(branch)
    chains = [each for branch in branches for each in [*_encoded(branch, evidence)][::-1]]
    yield from chains
    yield from reversed(chains[:-1])


def _branch(
    entry: Entry,
    known: Mapping[bytes, Entry],
    followers: Mapping[bytes, Sequence[Entry]],
    feeds: Mapping[bytes, Feed],
) -> list[Entry]:
    """An entry, those before it that are not admitted, and what vouches for it."""
    start = len(feeds[entry.header.author].ids)
    branch = [entry]
    while branch[-1].header.seq > start:
        before = known.get(branch[-1].header.prev_id)
        if before is None:
            break
        branch.append(before)
    branch.reverse()
    while not branch[-1].is_signed() and branch[-1].id in followers:
        branch.append(followers[branch[-1].id][0])
    return branch


def _encoded(branch: Sequence[Entry], evidence: Evidence) -> Iterator[bytes]:
    """A branch in pieces that replicas take, each of which ends with a signature of its own."""
    while piece := signed_part(fitting_shown(*fitting(branch), evidence)):
        yield encode_chain(piece, with_prev=True, shown=evidence(piece))
        branch = branch[len(piece) :]
