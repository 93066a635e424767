"""The bytes that Yjs writes, and bytes that are known to make it hang, diverge or die."""

from __future__ import annotations

import pytest

from lattica.crdt.text.update_v1 import Block, Item, Range, Update, decode_update, encode_update
from lattica.errors import RemoteProtocolError

# Of yrs 0.28: "héllo" into an empty text, "x😀y" behind its first letter, and that letter deleted.
WRITTEN = {
    "010105000401017406" + "68c3a96c6c6f" + "00": Update(
        (Block(5, 0, (Item(None, None, "héllo"),)),), ()
    ),
    "01010505c4050005010678f09f98807900": Update(
        (Block(5, 5, (Item((5, 0), (5, 1), "x😀y"),)),), ()
    ),
    "000105010001": Update((), (Range(5, 0, 1),)),
    "0101050a8805090274016274016300": Update(
        (Block(5, 10, (Item((5, 9), None, (b"b", b"c")),)),), ()
    ),
}


@pytest.mark.parametrize("data", WRITTEN)
def test_what_yjs_writes_is_read(data):
    update = decode_update(bytes.fromhex(data))
    assert update == WRITTEN[data]
    assert encode_update(update.blocks, update.deleted) == bytes.fromhex(data)


REFUSED = {
    "nothing": "",
    "what kills yrs 0.28": "010106ffffffff0f2801016d01710177015100",
    "more behind its end": "00000",
    "another type than the root": "01010500040101780161" + "00",
    "nested": "0101050007010174" + "00" + "00",
    "a parent by its ID": "0101050004000500016100",
    "a key of a map": "01010500240101740161016100",
    "a gap": "010105000a0500",
    "garbage collected": "01010500000500",
    "a number in more bytes than it needs": "8000" + "00",
    "a number of 70 bits": "ff" * 10 + "00",
    "more structs than bytes": "01ff7f0500",
    "an empty block": "0100050000",
    "an empty text": "01010500040101740000",
    "a text that is no UTF-8": "010105000401017401ff00",
    "an element that is a number": "01010500080101740" + "17d0100",
    "a deleted range of nothing": "000105010000",
    "a range beyond the last clock": "00010501ffffffff070100"[:-2] + "02",
    "more units than a client can have": "010105" + "feffffff07" + "0401017403616263" + "00",
    "a block twice": "02" + "0105000401017401" + "61" + "0105010401017401" + "6200",
    "cut short": "0101050004010174066",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_edit_comes_to_is_refused(what):
    text = REFUSED[what]
    with pytest.raises(RemoteProtocolError):
        decode_update(bytes.fromhex(text if len(text) % 2 == 0 else text + "0"))


def test_time_and_memory_are_those_of_the_bytes():
    # Counts that are not there are seen before anything is made of them.
    for count in (b"\x7f", b"\xff\xff\x03", b"\xff\xff\xff\xff\x07"):
        with pytest.raises(RemoteProtocolError):
            decode_update(b"\0" + count)
        with pytest.raises(RemoteProtocolError):
            decode_update(b"\1\1\5\0\x08\1\1t" + count)
