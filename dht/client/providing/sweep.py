"""Which peers are nearest to each of many keys, with far fewer lookups than keys. Pure.

A lookup finds all peers of a region around its target: whoever shares more leading bits with the
target than the farthest that was found. Regions that are known grow together, and the nearest peers
of every key in them are known without asking. So the lookups are about as many as regions of
`count` peers, and not as keys.

Source of the idea: go-libp2p-kad-dht's "Reprovide Sweep" (Probelab, 2025). What is done otherwise:
targets are the keys themselves, and what a lookup tells is taken for what it is complete of.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest

from lattica.dht.kademlia.contact import KEY_BITS, Contact, common_prefix, key_of


class Covered:
    """Regions of the space of keys, as a tree of prefixes."""

    def __init__(self) -> None:
        self._root: list[object] | bool = False
        """True: all of it; False: nothing; else the two halves."""

    def add(self, key: int, bits: int) -> None:
        """All keys that share so many leading bits with `key`."""
        self._root = _added(self._root, key, 0, bits)

    def has(self, key: int, bits: int) -> bool:
        """Whether all keys that share so many leading bits with `key` are in."""
        node: object = self._root
        for depth in range(bits):
            if not isinstance(node, list):
                break
            node = node[_bit(key, depth)]
        return node is True

    def missing(self, key: int, bits: int) -> tuple[int, int]:
        """The first part that is not in of those keys, as one of it and its bits."""
        node: object = self._root
        depth = 0
        while isinstance(node, list):
            if depth < bits:
                side = _bit(key, depth)
            else:
                side = 0 if node[0] is not True else 1
                key = _with_bit(key, depth, side)
            node = node[side]
            depth += 1
        return key, max(depth, bits)


def _added(node: object, key: int, depth: int, bits: int) -> list[object] | bool:
    if node is True or depth == bits:
        return True
    halves = list(node) if isinstance(node, list) else [False, False]
    side = _bit(key, depth)
    halves[side] = _added(halves[side], key, depth + 1, bits)
    return True if halves[0] is True and halves[1] is True else halves


def _bit(key: int, depth: int) -> int:
    return key >> (KEY_BITS - 1 - depth) & 1


def _with_bit(key: int, depth: int, bit: int) -> int:
    mask = 1 << (KEY_BITS - 1 - depth)
    return key | mask if bit else key & ~mask


class Sweep:
    """Finds the nearest peers of all keys. Look up what :meth:`next_key` says until it is None.

    Args:
        keys: of the wire.
        count: nearest peers that are looked for.
        is_crowded: whether peers, the nearest first, are nearer to a key than chance has it. Such
            a key is looked up for itself, and has all that the lookup finds.
    """

    def __init__(
        self,
        keys: Iterable[bytes],
        count: int,
        is_crowded: Callable[[int, Sequence[int]], bool] = lambda _, __: False,
    ) -> None:
        self._is_crowded = is_crowded
        pairs = sorted((key_of(key), key) for key in set(keys))
        self._targets = [target for target, _ in pairs]
        self._keys = [key for _, key in pairs]
        self._pending = dict.fromkeys(self._keys)
        """In order of the space of keys."""
        self._count = count
        self._covered = Covered()
        self._known: dict[int, Contact] = {}
        self._sorted: list[int] = []
        self._asked: set[bytes] = set()
        self.lookups = 0

    @property
    def pending(self) -> int:
        """Keys whose nearest peers are not known yet."""
        return len(self._pending)

    def next_key(self) -> bytes | None:
        """The key to look up next."""
        if not self._pending:
            return None
        key = next(iter(self._pending))
        target = key_of(key)
        nearest = self._nearest(target)
        if len(nearest) == self._count:
            # What is missing of the region around it, if one of the keys is there.
            bits = common_prefix(target, nearest[-1])
            if self._covered.has(target, bits):
                return key  # it is crowded next to it
            part, bits = self._covered.missing(target, bits)
            other = self._key_in(part, bits)
            if other is not None and other not in self._asked:
                return other
        return key

    def learned(
        self, key: bytes, closest: list[Contact], *, are_all: bool = False
    ) -> dict[bytes, list[Contact]]:
        """A lookup of `key` has found these peers, the nearest first, and perhaps some more of the
        region around it: the keys whose nearest peers are known by that, with them. `are_all` says
        that nobody else was heard of.
        """
        self.lookups += 1
        self._asked.add(key)
        target = key_of(key)
        ready: dict[bytes, list[Contact]] = {}
        if key in self._pending:
            del self._pending[key]
            ready[key] = closest
        closest = closest[: self._count]
        for contact in closest:
            if contact.key not in self._known:
                insort(self._sorted, contact.key)
            self._known[contact.key] = contact
        if not closest or (are_all and len(closest) < self._count):
            self._covered.add(0, 0)  # there are no more
        else:
            self._covered.add(target, common_prefix(target, closest[-1].key) + 1)
        for other in self._pending:
            where = key_of(other)
            nearest = self._nearest(where)
            bits = common_prefix(where, nearest[-1]) if len(nearest) == self._count else 0
            if not self._covered.has(where, bits):
                break  # they are in order, and so are the regions
            if bits and self._is_crowded(where, nearest):
                continue
            ready[other] = [self._known[one] for one in nearest]
        for other in ready:
            self._pending.pop(other, None)
        return ready

    def _nearest(self, target: int) -> list[int]:
        # Whoever shares more bits with the target is nearer: a block around it, large enough.
        keys = self._sorted
        bits = max(len(keys).bit_length() - self._count.bit_length(), 0)
        while True:
            rest = KEY_BITS - bits
            first = target >> rest << rest
            low, high = bisect_left(keys, first), bisect_left(keys, first + (1 << rest))
            if high - low >= self._count or not bits:
                return nsmallest(self._count, keys[low:high], key=lambda key: key ^ target)
            bits -= 1

    def _key_in(self, part: int, bits: int) -> bytes | None:
        rest = KEY_BITS - bits
        first = part >> rest << rest
        index = bisect_left(self._targets, first)
        if index < len(self._targets) and self._targets[index] < first + (1 << rest):
            return self._keys[index]
        return None
