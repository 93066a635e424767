"""Cuts a fuzz input into what a target needs."""

from __future__ import annotations

from collections.abc import Iterator


def option(data: bytes) -> tuple[int, bytes]:
    """The first byte, by which a target chooses what to do, and the rest; 0 when empty."""
    return (data[0], data[1:]) if data else (0, b"")


def in_pieces(data: bytes, step: int) -> Iterator[bytes]:
    """`data` in pieces of `step` bytes, as a network may deliver it; whole for 0."""
    if step == 0:
        yield data
        return
    for start in range(0, len(data), step):
        yield data[start : start + step]


def records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Instructions: a kind (one byte), a length (one byte), and so many bytes; to the end."""
    at = 0
    while at + 2 <= len(data):
        kind, length = data[at], data[at + 1]
        yield kind, data[at + 2 : at + 2 + length]
        at += 2 + length


def record(kind: int, payload: bytes = b"") -> bytes:
    """The encoding that :func:`records` reads; `payload` of at most 255 bytes."""
    return bytes((kind, len(payload))) + payload


# How one message of an honest peer is changed on its way; the kinds of :func:`records`.
PASS, REPLACE, APPEND, CUT, FLIP = range(5)


def tampered(message: bytes, changes: Iterator[tuple[int, bytes]], width: int) -> bytes:
    """`message` after the next change; unchanged when there are none left.

    Places in the message are `width` bytes of a change.
    """
    kind, payload = next(changes, (PASS, b""))
    place = int.from_bytes(payload[:width], "big")
    match kind % 5:
        case 1:
            return payload
        case 2:
            return message + payload
        case 3:
            return message[:place]
        case 4 if len(payload) > width and message:
            at = place % len(message)
            flipped = message[at] ^ (payload[width] or 1)
            return message[:at] + bytes((flipped,)) + message[at + 1 :]
        case _:
            return message
