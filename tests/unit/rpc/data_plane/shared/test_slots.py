"""Slots of shared memory: whose turn each is, whatever crosses on the way."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lattica.nat.base.errors import RemoteProtocolError
from lattica.rpc.data_plane.shared.slots import MOST_HELD, Holder, ReceiverSlots, SenderSlots

COUNT = 5


class Machine(RuleBasedStateMachine):
    """Three streams and a socket, each in order, and none in step with another."""

    def __init__(self) -> None:
        super().__init__()
        self.sender, self.receiver = SenderSlots(COUNT), ReceiverSlots(COUNT)
        self.memory: list[int] = [0] * COUNT
        """What was written last into each slot."""
        self.written = 0
        self.holders = [Holder() for _ in range(3)]
        self.streams: list[list[tuple[int, int, int]]] = [[] for _ in self.holders]
        self.recalls: list[tuple[int, int]] = []
        self.releases: list[tuple[int, int]] = []
        self.ended: set[int] = set()

    @rule(stream=st.integers(0, 2))
    def send(self, stream: int) -> None:
        if stream in self.ended:
            return
        taken = self.sender.take(self.holders[stream])
        if taken is not None:
            self.written += 1
            self.memory[taken[0]] = self.written
            self.streams[stream].append((*taken, self.written))

    @rule(stream=st.integers(0, 2))
    def read(self, stream: int) -> None:
        """A reference counts if what it means is there, and is refused only after its recall."""
        if not self.streams[stream]:
            return
        slot, generation, content = self.streams[stream].pop(0)
        try:
            self.receiver.use(slot, generation)
        except RemoteProtocolError:
            assert stream in self.ended
            return
        assert self.memory[slot] == content
        self.releases.append((slot, generation))

    @rule(stream=st.integers(0, 2))
    def give_up(self, stream: int) -> None:
        if stream not in self.ended:
            self.ended.add(stream)
            self.recalls += self.holders[stream].slots.items()

    @precondition(lambda self: self.recalls)
    @rule()
    def hear_recall(self) -> None:
        slot, generation = self.recalls.pop(0)
        self.receiver.recall(slot, generation)
        self.releases.append((slot, generation))

    @precondition(lambda self: self.releases)
    @rule()
    def hear_release(self) -> None:
        self.sender.released(*self.releases.pop(0))

    @invariant()
    def each_slot_has_one_place(self) -> None:
        held = [slot for holder in self.holders for slot in holder.slots]
        assert sorted([*held, *self.sender._free]) == list(range(COUNT))

    def teardown(self) -> None:
        """Whatever happened, all slots come back."""
        for stream in range(3):
            self.give_up(stream)
        while self.recalls:
            self.hear_recall()
        while self.releases:
            self.hear_release()
        assert sorted(self.sender._free) == list(range(COUNT))


Machine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


def test_a_stream_holds_so_many() -> None:
    slots, holder = SenderSlots(MOST_HELD + 1), Holder()
    taken = [slots.take(holder) for _ in range(MOST_HELD)]
    assert None not in taken
    assert slots.take(holder) is None
    assert slots.take(Holder()) is not None
    assert slots.take(Holder()) is None


def test_a_slot_is_used_again_after_all_others() -> None:
    slots, holder = SenderSlots(3), Holder()
    for slot in range(3):
        assert slots.take(holder) == (slot, 1)
        slots.released(slot, 1)
    assert slots.take(holder) == (0, 2)


@pytest.mark.parametrize(("slot", "generation"), [(1, 1), (9, 1), (0, 2), (0, 0)])
def test_what_was_never_sent_cannot_be_released(slot: int, generation: int) -> None:
    slots = SenderSlots(2)
    slots.take(Holder())
    with pytest.raises(RemoteProtocolError, match="never sent"):
        slots.released(slot, generation)


def test_a_reference_counts_once() -> None:
    slots = ReceiverSlots(2)
    slots.use(1, 3)
    for slot, generation in ((1, 3), (1, 2), (2, 1)):
        with pytest.raises(RemoteProtocolError, match="nothing is in slot"):
            slots.use(slot, generation)
    with pytest.raises(RemoteProtocolError, match="no slot"):
        slots.recall(2, 1)


async def test_the_end_frees_all_and_wakes_who_waits() -> None:
    slots, holder = SenderSlots(3), Holder()
    slots.take(holder)
    slots.clear()
    assert not holder.slots
    assert slots.take(holder) is None
