"""The key of a private network: its file, as other implementations write it."""

from __future__ import annotations

import base64

import pytest

from lattica.errors import ConfigError
from lattica.nat.base.keys.swarm_key import parse_swarm_key

KEY = bytes(range(32))


@pytest.mark.parametrize(
    "text",
    [
        f"/key/swarm/psk/1.0.0/\n/base16/\n{KEY.hex()}\n",
        f"/key/swarm/psk/1.0.0/\n/base16/\n{KEY.hex().upper()}",
        f"/key/swarm/psk/1.0.0/\r\n/base16/\r\n{KEY.hex()}\r\n",
        f"\ufeff/key/swarm/psk/1.0.0/\r\n/base16/\r\n{KEY.hex()}\r\n",
        f"/key/swarm/psk/1.0.0/\n/base64/\n{base64.b64encode(KEY).decode()}\n",
        "/key/swarm/psk/1.0.0/\n/bin/\n" + KEY.decode(),
        "/key/swarm/psk/1.0.0/\n/bin/\n" + KEY.decode() + "\n",
    ],
)
def test_key_files(text: str) -> None:
    assert parse_swarm_key(text.encode()) == KEY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "first line"),
        (KEY.hex(), "first line"),
        ("/key/swarm/psk/2.0.0/\n/base16/\n" + KEY.hex(), "first line"),
        ("/key/swarm/psk/1.0.0/\n/base32/\nx", "second line"),
        ("/key/swarm/psk/1.0.0/\n/base16/\n" + KEY.hex() + "\nmore", "damaged"),
        ("/key/swarm/psk/1.0.0/\n/base16/\nxyz", "damaged"),
        ("/key/swarm/psk/1.0.0/\n/base64/\n!!", "damaged"),
        ("/key/swarm/psk/1.0.0/\n/base16/\n" + "00" * 31, "not 31"),
        ("/key/swarm/psk/1.0.0/", "second line"),
    ],
)
def test_bad_key_files_say_what_to_do(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_swarm_key(text.encode())
