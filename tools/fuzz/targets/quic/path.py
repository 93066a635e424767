"""Target of what arrives beside QUIC about a path: probes of sizes, and datagrams in pieces."""

from __future__ import annotations

from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.quic.path.packet_size import ANSWER, PROBE, PacketSize, is_size_message
from lattica.nat.quic.path.pieces import PIECE, Cutter, Joiner, is_piece
from tools.fuzz.target import Target, Violation
from tools.fuzz.targets.pieces import record, records

_CID = b"8 bytes."
_MOST_WAITING = 64
_MOST_BYTES = 4096


def _path_messages(data: bytes) -> None:
    """Forged messages change nothing, and pieces that never come cost a bounded memory."""
    size = PacketSize(sending_key=b"a" * 32, receiving_key=b"b" * 32, clock=lambda: 1.0)
    size.suspect(1452)
    size.probes(_CID, 0.1)
    budget = MemoryBudget(_MOST_BYTES)
    joiner = Joiner(budget, lambda: 1.0)
    for kind, message in records(data):
        datagram = bytes((PROBE, ANSWER, PIECE)[kind % 3 : kind % 3 + 1]) + _CID + message
        if is_size_message(datagram):
            if datagram[0] == ANSWER:
                size.receive_answer(datagram)
            elif len(size.answer(datagram, _CID)) > len(datagram):
                raise Violation("an answer is larger than its probe")
        elif is_piece(datagram):
            joiner.receive(datagram)
        if joiner.size != budget.used or budget.used > budget.limit:
            raise Violation("pieces that wait are not counted, or beyond what there is")
    if size.answers or len(joiner._waiting) > _MOST_WAITING:
        raise Violation("a forged answer counts, or too many pieces wait")
    joiner.clear()
    if budget.used:
        raise Violation("what is dropped counts on")


QUIC_PATH = Target(
    "quic-path",
    _path_messages,
    (),
    seeds=[
        record(0, bytes(16)) + record(1, bytes(16)) + record(2, b"\x00\x01\x02abc"),
        b"".join(record(2, piece[9:]) for piece in Cutter().cut([bytes(400)] * 3, _CID, 250)),
        b"".join(record(2, bytes((n, n, 2, n))) for n in range(70)),
    ],
    tokens=[b"\x00\x01\x03", b"\x10\x13", b"\xff\xff\xff"],
)
