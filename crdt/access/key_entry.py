"""The payload of an entry about read keys: `[key, earlier, ephemeral, boxes]`.

`key` is the ID of a read key; `earlier` has `[ID, box or nil]` of keys that it takes the place of,
in order, each for whoever has `key`, or for nobody; `boxes` has `[identity, box]`, in order, of
those to whom it is sealed with `ephemeral`. See :mod:`lattica.crdt.keys.sealing`. Without boxes and
earlier keys it says that its author's entries that follow are sealed with `key`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.entries.genesis import MAX_ENTRY_BYTES
from lattica.crdt.keys.sealing import BOX_BYTES, KEY_ID_BYTES
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES
from lattica.nat.base.errors import RemoteProtocolError

MAX_EARLIER: Final = 16
BOX_ITEM_BYTES: Final = 1 + 2 + KEY_BYTES + 2 + BOX_BYTES
_NO_KEY: Final = bytes(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """What an entry says of a read key."""

    key_id: bytes
    earlier: tuple[tuple[bytes, bytes | None], ...] = ()
    ephemeral: bytes = _NO_KEY
    boxes: tuple[tuple[bytes, bytes], ...] = ()

    def encode(self) -> bytes:
        """The payload."""
        earlier: list[Plain] = [[key_id, box] for key_id, box in self.earlier]
        boxes: list[Plain] = [[identity, box] for identity, box in self.boxes]
        return encode([self.key_id, earlier, self.ephemeral, boxes])


def decode_key_entry(data: bytes) -> KeyEntry:
    """Read the payload. Raises RemoteProtocolError."""
    match decode(data, MAX_ENTRY_BYTES):
        case [bytes(key_id), list(earlier), bytes(ephemeral), list(boxes)] if (
            len(key_id) == KEY_ID_BYTES
            and len(ephemeral) == KEY_BYTES
            and len(earlier) <= MAX_EARLIER
        ):
            pass
        case _:
            raise RemoteProtocolError("not an entry about a read key")
    links: list[tuple[bytes, bytes | None]] = []
    for item in earlier:
        match item:
            case [bytes(name), bytes() | None as box] if len(name) == KEY_ID_BYTES and (
                box is None or len(box) == BOX_BYTES
            ):
                links.append((name, box))
            case _:
                raise RemoteProtocolError("an earlier read key that is none")
    sealed: list[tuple[bytes, bytes]] = []
    for item in boxes:
        match item:
            case [bytes(identity), bytes(box)] if (
                len(identity) == KEY_BYTES and len(box) == BOX_BYTES
            ):
                sealed.append((identity, box))
            case _:
                raise RemoteProtocolError("a read key that is sealed to nobody")
    for pairs in (links, sealed):
        if any(first[0] >= second[0] for first, second in pairwise(pairs)):
            raise RemoteProtocolError("read keys out of order")
    return KeyEntry(key_id, tuple(links), ephemeral, tuple(sealed))
