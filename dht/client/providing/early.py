"""Where a record goes while the peers nearest to its key are still looked for. Pure.

Who is so near to the key that it is likely one of the nearest, by the size of the network, is given
the record with the first question. As soon as enough of these have it, it will be found, and who
provides need not wait until all of the nearest are known and have it.

Source of the idea: go-libp2p-kad-dht's "Optimistic Provide" (Probelab, 2022). What is done
otherwise: the record is read back, and peers that are nearer than chance has it do not suffice.
"""

from __future__ import annotations

from lattica.dht.kademlia.network_size import SizeEstimator

ENOUGH = 5
"""Of the nearest peers, by which a record will be found: a lookup asks them all."""


class EarlyProvide:
    """One record on its way.

    Args:
        target: where its key is.
        sizes: what this node knows of the size of the network.
    """

    def __init__(self, target: int, sizes: SizeEstimator) -> None:
        self._target = target
        self._sizes = sizes
        self._reach = sizes.reach
        self._holders: set[int] = set()

    def is_place(self, peer: int) -> bool:
        """Whether the peer with this key is to have the record before the nearest are known."""
        return peer ^ self._target <= self._reach

    def has_it(self, peer: int) -> None:
        """A peer has said, when read back, that it has the record."""
        self._holders.add(peer)

    @property
    def is_enough(self) -> bool:
        """Whether it is where it will be found."""
        places = sorted(
            (peer for peer in self._holders if self.is_place(peer)),
            key=lambda peer: peer ^ self._target,
        )
        return len(places) >= ENOUGH and not self._sizes.is_crowded(self._target, places)
