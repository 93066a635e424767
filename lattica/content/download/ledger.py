"""What of a plan is done: chunks, bytes and files. Pure bookkeeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lattica.content.download.plan import Plan


class Ledger:
    """Progress of one fetch. `complete` are the outputs that are on disk already."""

    def __init__(self, plan: Plan, complete: frozenset[int]) -> None:
        self._plan = plan
        self._complete = set(complete)
        self._missing: dict[int, None] = {}
        self._again: dict[int, set[int]] = {}
        """By missing chunk that was there before: the outputs that have lost it."""
        self._unplaced: Counter[int] = Counter()
        self.bytes_done = sum(plan.outputs[index].size for index in complete)
        """Bytes of outputs that are verified and written."""
        self.bytes_fetched = 0
        for number in plan.chunks:
            needed = False
            for place in plan.placements(number):
                if place.output not in complete:
                    self._unplaced[place.output] += 1
                    needed = True
            if needed:
                self._missing[number] = None
        self._ready: list[int] = []
        for index in range(len(plan.outputs)):
            if index not in complete and not self._unplaced[index]:
                self._is_ready(index)  # an empty file, for instance

    @property
    def missing(self) -> list[int]:
        """Chunks that are not there yet, ascending."""
        return sorted(self._missing)

    @property
    def finished(self) -> bool:
        """Every chunk is there."""
        return not self._missing

    def lacks(self, number: int) -> bool:
        """A chunk is not there yet."""
        return number in self._missing

    def add(self, numbers: Iterable[int], *, fetched: bool) -> None:
        """Note that chunks are written. Those that were noted before count nothing."""
        for number in numbers:
            if number not in self._missing:
                continue
            del self._missing[number]
            if fetched:
                self.bytes_fetched += self._plan.manifest.chunk(number).length
            lost_by = self._again.pop(number, None)
            for place in self._plan.placements(number):
                if place.output in self._complete:
                    continue
                if lost_by is not None and place.output not in lost_by:
                    continue
                self.bytes_done += place.length
                self._unplaced[place.output] -= 1
                if not self._unplaced[place.output]:
                    self._is_ready(place.output)

    def lose(self, output: int, numbers: Iterable[int]) -> None:
        """Note that an output that had been given out lacks these chunks after all.

        It is given out once more when they are there; at once, if there are none.
        """
        self._complete.discard(output)
        self.bytes_done -= self._plan.outputs[output].made_bytes
        for number in set(numbers):
            if number not in self._missing:
                self._again[number] = set()
            self._missing[number] = None
            if number in self._again:  # else no output has it yet
                self._again[number].add(output)
            for place in self._plan.placements(number):
                if place.output == output:
                    self.bytes_done -= place.length
                    self._unplaced[output] += 1
        if not self._unplaced[output]:
            self._is_ready(output)

    def take_ready(self) -> list[int]:
        """Outputs that have all their chunks now; each is given out once."""
        ready, self._ready = self._ready, []
        return ready

    def _is_ready(self, output: int) -> None:
        self.bytes_done += self._plan.outputs[output].made_bytes
        self._ready.append(output)
