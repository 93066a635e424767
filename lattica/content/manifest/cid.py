"""Content identifiers: the hash by which a block is asked for and checked.

Only one form is used, CIDv1 with codec `raw` and a SHA-256 multihash, written in lower-case
base32: `bafkrei…`. Whatever else the CID specification allows is refused, so that one block
has exactly one name. Source: https://github.com/multiformats/cid.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from lattica.content.errors import TicketError
from lattica.nat.base.errors import RemoteProtocolError

DIGEST_SIZE = 32
"""Bytes of a SHA-256 digest."""

_PREFIX = bytes((0x01, 0x55, 0x12, DIGEST_SIZE))  # version 1, raw, sha2-256, length
_TEXT_LENGTH = 59
_PADDING = "=" * 6


@dataclass(frozen=True, slots=True, order=True)
class Cid:
    """The identifier of one block; `digest` is the 32-byte SHA-256 of its bytes."""

    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_SIZE:
            raise ValueError(f"a SHA-256 digest has {DIGEST_SIZE} bytes, not {len(self.digest)}")

    def __bytes__(self) -> bytes:
        """The 36-byte binary form."""
        return _PREFIX + self.digest

    def __repr__(self) -> str:
        return f"Cid.parse({str(self)!r})"

    def __str__(self) -> str:
        """The text form: `b`, then 58 characters of base32."""
        return "b" + base64.b32encode(bytes(self)).decode().rstrip("=").lower()

    @classmethod
    def of(cls, block: bytes | bytearray | memoryview) -> Cid:
        """The identifier of `block`."""
        return cls(hashlib.sha256(block).digest())

    @classmethod
    def from_bytes(cls, data: bytes) -> Cid:
        """Parse the binary form as a peer sent it.

        Raises:
            RemoteProtocolError: it is no CID.
        """
        if len(data) != len(_PREFIX) + DIGEST_SIZE or not data.startswith(_PREFIX):
            raise RemoteProtocolError("not a content id of the form CIDv1 raw sha2-256")
        return cls(data[len(_PREFIX) :])

    @classmethod
    def parse(cls, text: str) -> Cid:
        """Parse the text form as a person gave it.

        Raises:
            TicketError: it is no CID.
        """
        try:
            if len(text) != _TEXT_LENGTH or text[0] != "b" or text != text.lower():
                raise ValueError
            data = base64.b32decode(text[1:].upper() + _PADDING)
            cid = cls.from_bytes(data)
            if str(cid) != text:  # spare bits in the last character
                raise ValueError
        except (ValueError, binascii.Error, RemoteProtocolError):
            raise TicketError(
                f"{text!r} is not a content id of the form bafkrei… "
                f"({_TEXT_LENGTH} characters); copy it again"
            ) from None
        return cid
