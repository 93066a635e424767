"""The read keys of a sealed document: put in place, given to readers, and written with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lattica.crdt.access.key_entry import KeyEntry, decode_key_entry
from lattica.crdt.access.keyring import Keyring
from lattica.crdt.document.writer import Writer
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Kind
from lattica.crdt.keys.sealing import SEALED_BYTES
from lattica.crdt.log.clock import milliseconds_of
from lattica.nat.base.errors import AccessDeniedError, LocalProtocolError

_CLOCKS_DIFFER: Final = 120_000
"""Milliseconds between two owners' clocks, at most."""


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A read key of a sealed document."""

    id: bytes
    milliseconds: int
    """Since 1970, at which an owner named it, as he says."""
    is_here: bool
    """Whether this peer has it."""
    is_current: bool
    """Whether it is written with: no later one takes its place."""
    problem: str
    """Why it is not here, if somebody has sealed it wrongly; else empty."""


class ReadKeys:
    """What is done with the read keys of a document, if it is sealed."""

    def __init__(self, genesis: Genesis, writer: Writer) -> None:
        self._genesis = genesis
        self._writer = writer

    def known(self) -> Sequence[SealedKey]:
        """As :meth:`Document.read_keys`."""
        found = [
            SealedKey(key_id, milliseconds_of(hlc), is_here, is_current, problem)
            for key_id, hlc, is_here, is_current, problem in self._keyring().known()
        ]
        return sorted(found, key=lambda each: (each.milliseconds, each.id))

    def rotate(self, *, history: bool = True) -> bytes:
        """As :meth:`Document.rotate_key`."""
        keyring = self._keyring()
        if not self._writer.is_owner:
            raise AccessDeniedError("only owners put another read key in place")
        readers = self._writer.rights.readers(self._writer.now_ms)
        payloads = keyring.rotation(readers, history=history)
        self._write(payloads)
        return decode_key_entry(payloads[0]).key_id

    def tend(self) -> None:
        """As :meth:`Document.tend_keys`."""
        keyring = self._writer.replica.keyring
        if keyring is None or not self._writer.is_owner or not keyring.heads:
            return
        now = self._writer.now_ms
        readers = self._writer.rights.readers(now)
        if keyring.is_outdated(readers):
            self._write(keyring.rotation(readers, history=True))
            return
        # Owners whose clocks differ do not undo what the other one does.
        lasting = readers & self._writer.rights.readers(now + _CLOCKS_DIFFER)
        for key_id, missing in keyring.lacking(lasting).items():
            self._write(keyring.sealing(key_id, missing))

    def entries_for(self, reader: bytes) -> Sequence[tuple[Kind, bytes]]:
        """Entries that give a reader the read keys that are here."""
        keyring = self._writer.replica.keyring
        if keyring is None:
            return []
        if self._writer.is_owner and not keyring.heads:
            self.rotate()
        return [
            (Kind.KEY, payload)
            for key_id in keyring.lacking([reader])
            for payload in keyring.sealing(key_id, [reader])
        ]

    def prepare(self) -> int:
        """How many bytes a payload can have. In a sealed document what is needed to seal it is
        there afterwards. Raises what :meth:`Document.write` does.
        """
        limit = self._genesis.limits.entry_bytes
        keyring = self._writer.replica.keyring
        if keyring is None:
            return limit
        if keyring.current is None and not keyring.heads and self._writer.is_owner:
            self.rotate()
        key = keyring.current
        if key is None:
            raise AccessDeniedError("no read key of this document is sealed to this peer")
        introduction = keyring.introduction(key.id, self._writer.replica.writing_author())
        if introduction is not None:
            payload = KeyEntry(key.id).encode()
            deps = [(introduction,)]
            self._writer.write([(Kind.KEY, payload)], deps)
        return limit - SEALED_BYTES

    def sealed(self, items: Sequence[tuple[Kind, bytes]]) -> Sequence[tuple[Kind, bytes]]:
        """Kinds and payloads as they stand in entries."""
        key = self._writer.replica.keyring.current if self._writer.replica.keyring else None
        if key is None:
            return items
        author = self._writer.replica.writing_author()
        return [(kind, key.seal(author, kind, payload)) for kind, payload in items]

    def _keyring(self) -> Keyring:
        keyring = self._writer.replica.keyring
        if keyring is None:
            raise LocalProtocolError("this document is not sealed: it has no read keys")
        return keyring

    def _write(self, payloads: Sequence[bytes]) -> None:
        items = [(Kind.KEY, payload) for payload in payloads]
        self._writer.write(items)
