"""News along a document's topic: sealed, so that who has no document reads nothing of it."""

from __future__ import annotations

import hashlib
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lattica.nat.base.errors import RemoteProtocolError

MAX_NEWS: Final = 1000 * 1024
"""Bytes of a message; what is larger is left to exchanges."""
_CONTEXT: Final = b"lattica/crdt/topic/v1\0"
_NONCE: Final = 12


class Seal:
    """That of one document: `nonce ‖ ChaCha20-Poly1305(key, nonce, message)`, where `key` is the
    SHA-256 of `lattica/crdt/topic/v1`, a zero byte and the document's ID.
    """

    def __init__(self, doc_id: bytes) -> None:
        self._cipher = ChaCha20Poly1305(hashlib.sha256(_CONTEXT + doc_id).digest())

    def close(self, message: bytes, nonce: bytes | None = None) -> bytes:
        """A message as it goes along the topic; with a random nonce unless for vectors."""
        nonce = nonce or os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, message, None)

    def open(self, data: bytes) -> bytes:
        """Read it. Raises RemoteProtocolError if nobody who has the document has sealed it."""
        try:
            return self._cipher.decrypt(data[:_NONCE], data[_NONCE:], None)
        except (InvalidTag, ValueError):
            raise RemoteProtocolError("news by somebody who does not have the document") from None

    def fits(self, data: bytes) -> bool:
        """Whether :meth:`open` would read it."""
        try:
            self.open(data)
        except RemoteProtocolError:
            return False
        return True
