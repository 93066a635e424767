"""Memory shared with one peer: a mapping for each direction, and a socket on which slots are
released. The driver of :mod:`lattica.rpc.data_plane.shared.slots`.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.mux.stream import Waiter
from lattica.rpc.data_plane.shared.closing import Closer, take_message
from lattica.rpc.data_plane.shared.memory import Memory
from lattica.rpc.data_plane.shared.messages import (
    MOST_RECORDS,
    RECORD_BYTES,
    RecordKind,
    Reference,
    decode_records,
    encode_record,
    encode_reference,
)
from lattica.rpc.data_plane.shared.slots import SLOT, Holder, ReceiverSlots, SenderSlots

_PACKET = MOST_RECORDS * RECORD_BYTES


@dataclass(slots=True)
class SharedTraffic:
    """What went through shared memory, over all peers."""

    sent: int = 0
    """Bytes."""
    received: int = 0


class SharedLink:
    """One pair of mappings. A reference names it by :attr:`number`.

    Bytes are copied into a slot when they are sent, and out of it when their reference is read: so
    neither side can change what the other works with.
    """

    def __init__(
        self,
        number: int,
        sock: trio.socket.SocketType,
        ours: Memory,
        theirs: Memory,
        traffic: SharedTraffic,
        closer: Closer,
        *,
        is_caller: bool,
    ) -> None:
        self.number = number
        self._sock = sock
        self._closer = closer
        self._ours = ours
        self._theirs = theirs
        self._traffic = traffic
        self._sending = SenderSlots(ours.slots)
        self._receiving = ReceiverSlots(theirs.slots)
        self._records = bytearray()
        self._most_bytes = 4 * (ours.slots + theirs.slots) * RECORD_BYTES
        """What an honest peer lets wait: a release or two, and a recall, for each slot."""
        self._wake = Waiter()
        self.is_closed = False
        self.is_usable = False
        """The other side knows what a reference to this memory is."""
        if is_caller:  # the peer knows it since before it has handed over its own
            self.is_usable = True
            self._say(RecordKind.READY, 0, 0)

    # --- sending ---

    def put(self, holder: Holder, data: memoryview) -> bytes | None:
        """Copy up to a slot's bytes; the reference to them, or None where there is no room."""
        taken = self._sending.take(holder) if self.is_usable else None
        if taken is None:
            return None
        slot, generation = taken
        start = slot * SLOT
        self._ours.view[start : start + len(data)] = data
        self._traffic.sent += len(data)
        return encode_reference(self.number, slot, generation)

    def recall(self, holder: Holder) -> None:
        """The stream has ended: what it was to carry will not be read."""
        for slot, generation in holder.slots.items():
            self._say(RecordKind.RECALL, slot, generation)

    # --- receiving ---

    def get_into(self, reference: Reference, out: memoryview) -> None:
        """Copy what a reference means, `len(out)` bytes, and release it.

        Raises:
            RemoteProtocolError: there is nothing.
        """
        out[:] = self._use(reference, len(out))
        self._say(RecordKind.RELEASE, reference.slot, reference.generation)

    def get(self, reference: Reference, size: int) -> bytes:
        """As :meth:`get_into`, into new memory."""
        data = bytes(self._use(reference, size))
        self._say(RecordKind.RELEASE, reference.slot, reference.generation)
        return data

    def _use(self, reference: Reference, size: int) -> memoryview:
        if self.is_closed:
            raise RemoteProtocolError("RPC: the memory that was shared is gone")
        self._receiving.use(reference.slot, reference.generation)
        filled = self._theirs.filled(reference.slot * SLOT, size)
        self._traffic.received += size
        return filled

    # --- the socket ---

    def _say(self, kind: RecordKind, slot: int, generation: int) -> None:
        if self.is_closed:
            return
        self._records += encode_record(kind, slot, generation)
        self._wake.wake()
        if len(self._records) > self._most_bytes:
            self.close()  # the peer takes no releases, and sends on

    async def run(self) -> None:
        """Release slots until either side ends; then close. Raises RemoteProtocolError."""
        broken: RemoteProtocolError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                try:
                    await self._read()
                except RemoteProtocolError as error:
                    broken = error
                nursery.cancel_scope.cancel()
        finally:
            self.close()
        if broken is not None:
            raise broken

    async def _write(self) -> None:
        while True:
            while records := self._records:
                packet = bytes(records[:_PACKET])
                del records[:_PACKET]
                try:
                    await self._sock.send(packet)
                except (OSError, trio.ClosedResourceError):  # the reader finds the end
                    await trio.sleep_forever()
            await self._wake.wait()

    async def _read(self) -> None:
        while True:
            try:
                packet = await take_message(self._sock, _PACKET)
            except (OSError, trio.ClosedResourceError):
                return
            if not packet:
                return
            for kind, slot, generation in decode_records(packet):
                if kind is RecordKind.READY:
                    self.is_usable = True
                elif kind is RecordKind.RELEASE:
                    self._sending.released(slot, generation)
                else:
                    self._receiving.recall(slot, generation)
                    self._say(RecordKind.RELEASE, slot, generation)

    def close(self) -> None:
        """Give the memory back, and let who waits for it go on without. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            self.is_usable = False
            self._closer.close_socket(self._sock)
            self._sending.clear()
            self._ours.close()
            self._theirs.close()
