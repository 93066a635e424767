"""Keys as people are shown them."""

from __future__ import annotations

import pytest

from lattica.content.manifest.cid import Cid
from lattica.dht.records.keys import key_text, provider_key

CID = Cid.of(b"x")


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("weights/v1", "'weights/v1'"),
        (b"weights/v1", "'weights/v1'"),
        ("\x1b[2J", r"'\x1b[2J'"),
        (provider_key(str(CID)), str(CID)),
        (b"\xff\x00\x01", "0xff0001"),
        (b"\xff" * 200, "0x" + "ff" * 39),
    ],
)
def test_a_key_is_shown_as_text_that_people_can_copy(key, shown):
    assert key_text(key) == shown
    assert key_text(key).isprintable()
    assert len(key_text(key)) <= 80
