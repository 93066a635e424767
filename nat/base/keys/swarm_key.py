"""The key of a private network, as a `swarm.key` file has it.

Source: libp2p specification "Pre-shared Key Based Private Networks"
(https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md).
"""

from __future__ import annotations

import base64
import binascii
import codecs
import os

from lattica.nat.base.errors import ConfigError

KEY_BYTES = 32

_CODEC = "/key/swarm/psk/1.0.0/"


def make_swarm_key() -> bytes:
    """The content of a new `swarm.key` file."""
    return f"{_CODEC}\n/base16/\n{os.urandom(KEY_BYTES).hex()}\n".encode()


def parse_swarm_key(raw: bytes) -> bytes:
    """Read the key from the content of a `swarm.key` file, as go-ipfs and js-libp2p write it.

    Three lines: `/key/swarm/psk/1.0.0/`, then `/base16/`, `/base64/` or `/bin/`, then the key
    (after `/bin/`, the 32 bytes as they are).

    Raises:
        ConfigError: anything else; the message never shows key material.
    """
    # Editors of Windows put a byte order mark before it.
    codec, _, rest = raw.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
    encoding, _, body = rest.partition(b"\n")
    if codec.strip() != _CODEC.encode():
        raise ConfigError(f"its first line has to be {_CODEC}")
    try:
        match encoding.strip():
            case b"/base16/":
                key = binascii.unhexlify(body.strip())
            case b"/base64/":
                key = base64.b64decode(body.strip(), validate=True)
            case b"/bin/":
                key = body if len(body) == KEY_BYTES else body.removesuffix(b"\n")
            case _:
                raise ConfigError("its second line has to be /base16/, /base64/ or /bin/")
    except binascii.Error as error:
        raise ConfigError(f"its key is damaged: {error}") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"the key has to have {KEY_BYTES} bytes, not {len(key)}; make one with: "
            "lattica swarm-key"
        )
    return key
