"""The table of peers that a node knows: many near to it, few far away. Pure.

A bucket holds the peers that share a number of leading bits with this node. Who is in it stays as
long as it answers, since who has been there for long will likely stay: newcomers do not drive it
out. Only who has answered a question enters, and only so many of one network: an attacker needs
many networks to be most of what a node knows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import nsmallest

from lattica.dht.kademlia.config import TableConfig
from lattica.dht.kademlia.contact import KEY_BITS, Contact, common_prefix, key_of

MAX_REFRESHED_PREFIX = 12
"""Buckets nearer than this are not refreshed by themselves: looking for this node fills them. To
find a key in one takes 2**prefix tries."""


@dataclass(slots=True)
class _Entry:
    contact: Contact
    group: str | None
    answered_at: float
    failures: int = 0


@dataclass(slots=True)
class _Bucket:
    entries: dict[int, _Entry] = field(default_factory=dict)
    """Who has been here longest is first."""
    spares: dict[int, _Entry] = field(default_factory=dict)
    """Who answered last is last."""
    looked_up_at: float = 0.0


class RoutingTable:
    """What one node knows of others.

    Args:
        own: this node's key; it is never in the table.
        now: seconds, never decreasing, as in all calls.
    """

    def __init__(self, own: int, config: TableConfig, now: float) -> None:
        self.own = own
        self._config = config
        self._made_at = now
        self._buckets: dict[int, _Bucket] = {}
        self._groups: Counter[str] = Counter()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: int) -> bool:
        bucket = self._buckets.get(common_prefix(self.own, key))
        return bucket is not None and key in bucket.entries

    def __iter__(self) -> Iterator[Contact]:
        for prefix in sorted(self._buckets):
            for entry in self._buckets[prefix].entries.values():
                yield entry.contact

    def sizes(self) -> dict[int, int]:
        """How many peers share how many leading bits with this node."""
        sizes = {prefix: len(self._buckets[prefix].entries) for prefix in sorted(self._buckets)}
        return {prefix: size for prefix, size in sizes.items() if size}

    # --- who is in it ---

    def is_wanted(self, key: int, group: str | None = None) -> bool:
        """Whether a peer that is not in the table would enter it if it answered: worth a question.

        `group` is the network of the address at which it would be asked
        (:func:`~lattica.dht.kademlia.contact.network_group`).
        """
        if key == self.own or key in self:
            return False
        bucket = self._buckets.get(common_prefix(self.own, key))
        if bucket is None:
            return self._groups[group] < self._config.group_in_table if group else True
        replaced = self._replaceable(bucket)
        if len(bucket.entries) >= self._config.bucket and replaced is None:
            return False
        return self._group_has_room(bucket, group)

    def answered(self, contact: Contact, group: str | None, now: float) -> bool:
        """A peer has answered a question, asked at an address in network `group`; whether it is in
        the table now.

        Its addresses are the ones of `contact` from now on.
        """
        if contact.key == self.own:
            return False
        bucket = self._buckets.setdefault(
            common_prefix(self.own, contact.key), _Bucket(looked_up_at=self._made_at)
        )
        entry = bucket.entries.get(contact.key)
        if entry is not None and entry.group != group:
            # It has moved, perhaps to where there are too many.
            self._take_out(bucket, contact.key)
            entry = None
        if entry is not None:
            entry.contact = contact
            entry.answered_at = now
            entry.failures = 0
            return True
        bucket.spares.pop(contact.key, None)
        entry = _Entry(contact, group, now)
        if self._enter(bucket, entry):
            return True
        bucket.spares[contact.key] = entry
        while len(bucket.spares) > self._config.spares:
            del bucket.spares[next(iter(bucket.spares))]
        return False

    def failed(self, key: int) -> None:
        """A peer has not answered a question."""
        bucket = self._buckets.get(common_prefix(self.own, key))
        if bucket is None:
            return
        bucket.spares.pop(key, None)
        entry = bucket.entries.get(key)
        if entry is None:
            return
        entry.failures += 1
        if entry.failures >= self._config.max_failures:
            self.remove(key)
        elif bucket.spares:
            self._promote(bucket)

    def remove(self, key: int) -> None:
        """Forget a peer: it does not serve the protocol any more."""
        bucket = self._buckets.get(common_prefix(self.own, key))
        if bucket is None:
            return
        bucket.spares.pop(key, None)
        if key in bucket.entries:
            self._take_out(bucket, key)
            self._promote(bucket)

    def _enter(self, bucket: _Bucket, entry: _Entry) -> bool:
        if not self._group_has_room(bucket, entry.group):
            return False
        if len(bucket.entries) >= self._config.bucket:
            replaced = self._replaceable(bucket)
            if replaced is None:
                return False
            self._take_out(bucket, replaced)
        bucket.entries[entry.contact.key] = entry
        self._size += 1
        if entry.group is not None:
            self._groups[entry.group] += 1
        return True

    def _take_out(self, bucket: _Bucket, key: int) -> None:
        group = bucket.entries.pop(key).group
        self._size -= 1
        if group is not None:
            self._groups[group] -= 1
            if not self._groups[group]:
                del self._groups[group]

    def _promote(self, bucket: _Bucket) -> None:
        """Let the spares in for which there is room, who answered last first."""
        for key in reversed(tuple(bucket.spares)):
            if self._enter(bucket, bucket.spares[key]):
                del bucket.spares[key]

    def _replaceable(self, bucket: _Bucket) -> int | None:
        """The first that has failed; None: all are good."""
        return next((key for key, entry in bucket.entries.items() if entry.failures), None)

    def _group_has_room(self, bucket: _Bucket, group: str | None) -> bool:
        if group is None:
            return True
        if self._groups[group] >= self._config.group_in_table:
            return False
        here = sum(entry.group == group for entry in bucket.entries.values())
        return here < self._config.group_in_bucket

    # --- what it is asked ---

    def closest(self, target: int, count: int, *, but: int | None = None) -> list[Contact]:
        """The `count` peers nearest to a key, the nearest first, without `but`.

        Peers whose last question failed are left out.
        """
        # Whoever is in the bucket of the target is nearer to it than those who are nearer to us,
        # and they are nearer than those of each bucket before.
        prefix = common_prefix(self.own, target)
        found = self._nearest((prefix,), target, count, but)
        if len(found) < count:
            nearer = [other for other in self._buckets if other > prefix]
            found += self._nearest(nearer, target, count - len(found), but)
        for other in sorted((o for o in self._buckets if o < prefix), reverse=True):
            if len(found) >= count:
                break
            found += self._nearest((other,), target, count - len(found), but)
        return found

    def _nearest(
        self, prefixes: list[int] | tuple[int, ...], target: int, count: int, but: int | None
    ) -> list[Contact]:
        contacts = [
            entry.contact
            for prefix in prefixes
            if (bucket := self._buckets.get(prefix)) is not None
            for key, entry in bucket.entries.items()
            if not entry.failures and key != but
        ]
        return nsmallest(count, contacts, key=lambda contact: contact.key ^ target)

    # --- what is to be done for it ---

    def to_check(self, now: float) -> list[Contact]:
        """Peers that have been silent for `check_after` seconds or have failed, the longest first.

        Each is to be asked something, which ends in :meth:`answered` or :meth:`failed`.
        """
        due = [
            entry
            for bucket in self._buckets.values()
            for entry in bucket.entries.values()
            if entry.failures or now - entry.answered_at >= self._config.check_after
        ]
        return [entry.contact for entry in sorted(due, key=lambda entry: entry.answered_at)]

    def looked_up(self, target: int, now: float) -> None:
        """A lookup for this key has ended: its bucket is fresh."""
        bucket = self._buckets.get(common_prefix(self.own, target))
        if bucket is not None:
            bucket.looked_up_at = now

    def to_refresh(self, now: float) -> list[int]:
        """The buckets (leading bits) in which nothing was looked up for `refresh_after` seconds,
        up to the one after the last that has peers, or :data:`MAX_REFRESHED_PREFIX`.
        """
        last = max((prefix for prefix, b in self._buckets.items() if b.entries), default=-1)
        due = []
        for prefix in range(min(last + 2, MAX_REFRESHED_PREFIX + 1)):
            bucket = self._buckets.get(prefix)
            looked_up_at = self._made_at if bucket is None else bucket.looked_up_at
            if now - looked_up_at >= self._config.refresh_after:
                due.append(prefix)
        return due


def random_key(own: int, prefix: int, rng: random.Random) -> int:
    """A key that shares exactly `prefix` leading bits with `own`."""
    rest = KEY_BITS - prefix - 1
    return ((own >> rest) ^ 1) << rest | rng.getrandbits(rest)


def find_preimage(own: int, prefix: int, rng: random.Random) -> bytes:
    """32 bytes whose key shares exactly `prefix` leading bits with `own`: what is looked up to
    refresh a bucket. Takes 2**(prefix + 1) tries in the mean, of a microsecond each.
    """
    while True:
        data = rng.randbytes(32)
        if common_prefix(own, key_of(data)) == prefix:
            return data
