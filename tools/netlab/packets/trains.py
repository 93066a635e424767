"""Trains: several packets that travel as one, as TUN devices give and take them. Pure.

A *frame* is a `virtio_net_hdr` of 10 bytes and an IP packet. Where the header says so, the packet
is a train: one header, and the payloads of many packets behind each other. The kernel cuts it up
where packets must be single ones; a link whose packets have fates of their own needs that done
here (:func:`split`).

The transport checksum of a train, and of any frame with NEEDS_CHECKSUM, is partial: it holds the
sum of the pseudo header only.

Source: virtio 1.2 section 5.1.6, Linux include/uapi/linux/virtio_net.h.
"""

from __future__ import annotations

import struct
from typing import Final

from tools.netlab.packets.codec import CWR, FIN, PSH, Buffer, ReadBuffer, adjusted

# flags, kind, header length, bytes of payload per packet, checksum start, checksum offset
FRAME_HEADER: Final = struct.Struct("=BBHHHH")
HEADER_BYTES: Final = FRAME_HEADER.size
PLAIN: Final = bytes(HEADER_BYTES)  # of a frame with one complete packet
NEEDS_CHECKSUM: Final = 1

TRAIN_TCP4: Final = 1
TRAIN_TCP6: Final = 4
TRAIN_UDP: Final = 5
ECN: Final = 0x80

_U16: Final = struct.Struct("!H")
_U32: Final = struct.Struct("!I")

# The longest frame that a device hands out.
MAX_FRAME: Final = HEADER_BYTES + 65535


def header_bytes(frame: ReadBuffer) -> int:
    """Bytes of the IP and transport headers of a train."""
    start: int = FRAME_HEADER.unpack_from(frame)[4]
    if frame[1] & ~ECN == TRAIN_UDP:
        return start + 8
    return start + (frame[HEADER_BYTES + start + 12] >> 4) * 4


def wire_bytes(frame: ReadBuffer) -> int:
    """What the packets of a frame are on the wire, in bytes (IP headers included)."""
    size = len(frame) - HEADER_BYTES
    if not frame[1]:
        return size
    headers = header_bytes(frame)
    payload = FRAME_HEADER.unpack_from(frame)[3]
    count: int = -(-(size - headers) // payload)
    return size + (count - 1) * headers


def split(frame: ReadBuffer, train_bytes: int) -> list[tuple[bytearray, int]]:
    """The train `frame` as trains of at most `train_bytes` on the wire, or of one packet.

    Each comes with its bytes on the wire. IPv4 identifiers, sequence numbers, flags and lengths
    are as if the kernel had cut it up; checksums stay partial.
    """
    view = memoryview(frame)
    flags, kind, _, payload, start, offset = FRAME_HEADER.unpack_from(frame)
    headers = header_bytes(frame)
    first = HEADER_BYTES + headers
    data = view[first:]
    per_train = max(1, train_bytes // (payload + headers)) * payload
    trains = []
    for at in range(0, len(data), per_train):
        part = data[at : at + per_train]
        count = -(-len(part) // payload)
        train = bytearray(first + len(part))
        train[HEADER_BYTES:first] = view[HEADER_BYTES:first]
        train[first:] = part
        many = count > 1
        FRAME_HEADER.pack_into(
            train, 0, flags, kind if many else 0, headers, payload if many else 0, start, offset
        )
        _fix_headers(train, len(data), len(part), at, payload)
        trains.append((train, len(part) + count * headers))
    return trains


def _fix_headers(train: Buffer, whole: int, part: int, at: int, payload: int) -> None:
    """Make the headers of a train right for `part` bytes of `whole`, from `at` on."""
    start, offset = FRAME_HEADER.unpack_from(train)[4:]
    ip = HEADER_BYTES
    if train[ip] >> 4 == 4:
        _add(train, ip + 2, part - whole)
        ident, checksum = _U16.unpack_from(train, ip + 4)[0], _U16.unpack_from(train, ip + 10)[0]
        _add(train, ip + 4, at // payload)
        change = ((ident + at // payload) & 0xFFFF) - ident + part - whole
        _U16.pack_into(train, ip + 10, adjusted(checksum, change))
    else:
        _add(train, ip + 4, part - whole)
    transport = ip + start
    if offset == 6:  # UDP
        _add(train, transport + 4, part - whole)
    else:
        (sequence,) = _U32.unpack_from(train, transport + 4)
        _U32.pack_into(train, transport + 4, (sequence + at) & 0xFFFFFFFF)
        if at:
            train[transport + 13] &= ~CWR
        if at + part < whole:
            train[transport + 13] &= ~(FIN | PSH)
    (partial,) = _U16.unpack_from(train, transport + offset)
    _U16.pack_into(train, transport + offset, (partial + part - whole) % 0xFFFF or 0xFFFF)


def _add(packet: Buffer, at: int, change: int) -> None:
    _U16.pack_into(packet, at, (_U16.unpack_from(packet, at)[0] + change) & 0xFFFF)
