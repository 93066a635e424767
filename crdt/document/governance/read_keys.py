"""The read keys of a sealed document: put in place, given to readers, and written with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lattica.crdt.access.key_entry import KeyEntry
from lattica.crdt.access.keyring import Keyring
from lattica.crdt.document.governance.writer import Writer
from lattica.crdt.entries.header import Kind
from lattica.crdt.keys.sealing import ReadKey
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

    def __init__(self, writer: Writer) -> None:
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
        self._writer.take_office()
        self._writer.check_owner("put another read key in place")
        readers = self._writer.rights.readers(self._writer.now_ms)
        key_id, payloads = keyring.rotation(readers, history=history)
        self._writer.write(_items(payloads))
        return key_id

    def tend(self) -> None:
        """As :meth:`Document.tend_keys`."""
        keyring = self._writer.replica.keyring
        if keyring is None or not self._writer.is_owner or not keyring.heads:
            return
        items = self.entries_without(())
        if items:
            self._writer.write(items)
            return
        # Owners whose clocks differ do not undo what the other one does.
        now, rights = self._writer.now_ms, self._writer.rights
        lasting = rights.readers(now) & rights.readers(now + _CLOCKS_DIFFER)
        for key_id, missing in keyring.lacking(lasting).items():
            self._writer.write(_items(keyring.sealing(key_id, missing)))

    def entries_for(self, reader: bytes) -> Sequence[tuple[Kind, bytes]]:
        """Entries that give a reader the read keys that are here."""
        keyring = self._begun()
        if keyring is None:
            return []
        return [
            item
            for key_id in keyring.lacking([reader])
            for item in _items(keyring.sealing(key_id, [reader]))
        ]

    def entries_without(self, links: Collection[bytes]) -> Sequence[tuple[Kind, bytes]]:
        """Entries that put another read key in place, if somebody has the one that is written with
        and reads no more once these links of rights are taken back.
        """
        keyring = self._writer.replica.keyring
        if keyring is None:
            return []
        readers = self._writer.rights.readers(self._writer.now_ms, without=links)
        if not keyring.is_outdated(readers):
            return []
        return _items(keyring.rotation(readers, history=True)[1])

    def prepare(self) -> ReadKey | None:
        """The key to seal with, if the document is sealed. What that needs is there afterwards.
        Raises what :meth:`Document.write` does.
        """
        keyring = self._begun()
        if keyring is None:
            return None
        key = keyring.current
        if key is None:
            raise AccessDeniedError("no read key of this document is sealed to this peer")
        introduction = keyring.introduction(key.id, self._writer.replica.writing_author())
        if introduction is not None:
            self._writer.write(_items([KeyEntry(key.id).encode()]), [(introduction,)])
        return key

    def _begun(self) -> Keyring | None:
        """What there is of read keys, if it is sealed; an owner puts the first in place."""
        keyring = self._writer.replica.keyring
        if keyring is not None and not keyring.heads and self._writer.is_owner:
            self.rotate()
        return self._writer.replica.keyring

    def _keyring(self) -> Keyring:
        keyring = self._writer.replica.keyring
        if keyring is None:
            raise LocalProtocolError("this document is not sealed: it has no read keys")
        return keyring


def _items(payloads: Iterable[bytes]) -> list[tuple[Kind, bytes]]:
    return [(Kind.KEY, payload) for payload in payloads]
