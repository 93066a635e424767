"""Keys as people write them and are shown them."""

from __future__ import annotations

import base58
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


def test_content_has_one_key_however_its_id_is_written():
    """Kubo and js write `Qm…` where the content has an id of version 0."""
    key = provider_key(str(CID))
    assert key == b"\x12\x20" + CID.digest
    for form in (
        bytes(CID),
        key,
        base58.b58encode(key).decode(),
        "z" + base58.b58encode(bytes(CID)).decode(),
    ):
        assert provider_key(form) == key
    for name in ("Qm" + "0" * 44, "z" + "0" * 48, "b" + "1" * 58):
        assert provider_key(name) == provider_key(name.encode())
