"""The genesis: what a document is, from its first moment on. Its hash is the document's ID.

`[1, name, owners, mode, kinds, limits, recovery, salt]`, canonical; `limits` is `[bytes of an
entry, bytes of an author]`, `recovery` is `[k, [key, …], owners]` or nil. That of a sealed document
has `true` behind them. Whoever knows the ID can check a genesis that anybody hands over, and
nothing of it can change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.entries.header import Kind
from lattica.crdt.keys.sealing import SEALED_BYTES
from lattica.crdt.keys.strict_ed25519 import load_key
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError

CONTEXT: Final = b"lattica/crdt/doc/v1\0"
VERSION: Final = 1
MAX_GENESIS: Final = 8192
"""Bytes."""
MAX_NAME: Final = 256
"""Bytes of UTF-8."""
MAX_KEYS: Final = 64
"""Owners, or keys of the recovery."""
MAX_SALT: Final = 32
MAX_ENTRY_BYTES: Final = 64 * 1024
"""Bytes of a payload that any document can allow."""
MAX_AUTHOR_BYTES: Final = 2**40
MIN_SEALED_ENTRY_BYTES: Final = 2048
"""Bytes of a payload that a sealed document has to allow: read keys need some room."""


class Mode(IntEnum):
    """Who may write."""

    OPEN = 0
    """Everybody who knows the document's ID."""
    ALLOW_LIST = 1
    """Owners, and those to whom a right was given in the log of whoever gave it."""
    CAPABILITY = 2
    """Owners, and those who have a capability that goes back to one, wherever it stands."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What each replica enforces, and all alike."""

    entry_bytes: int = MAX_ENTRY_BYTES
    """Bytes of one payload."""
    author_bytes: int = 256 * 1024 * 1024
    """Bytes of all headers and payloads of one author (a session key)."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Who appoints a new owner after an owner's fork: so many of these keys, or so many of the
    other owners. Until they do, that owner neither gives rights nor takes any back. Of a document
    that is open to everybody it says nothing.
    """

    needed: int = 0
    """Signatures of `keys`; 0 without any."""
    keys: tuple[bytes, ...] = ()
    """In order, each once."""
    owners: int = 0
    """Signatures of the other owners that are enough, too; 0: they do not appoint anybody."""
    is_in_force: bool = True
    """False for documents of the time before it had an effect: in theirs it has none, so that all
    replicas agree.
    """

    def encode(self) -> Plain:
        """As a genesis has it. Who does not know of appointments refuses one with three items."""
        items: list[Plain] = [self.needed, self.keys]
        return [*items, self.owners] if self.is_in_force else items


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a document is.

    Raises:
        LocalProtocolError: a field is outside what the format allows; the message says which.
    """

    name: str
    """For people, 1 to 256 bytes of UTF-8."""
    owners: tuple[bytes, ...] = ()
    """Identity keys, in order, each once. Only an open document has none."""
    mode: Mode = Mode.OPEN
    kinds: tuple[Kind, ...] = ()
    """The kinds of entries that take effect, in order; none given: all."""
    limits: Limits = Limits()
    recovery: Recovery | None = None
    salt: bytes = b""
    """Up to 32 bytes, so that two documents with one name can be two."""
    is_sealed: bool = False
    """Whether only readers can read payloads, and others may pass them on. Not of an open one."""
    doc_id: bytes = field(init=False, compare=False)
    """SHA-256 of `CONTEXT` and the encoding."""

    def __post_init__(self) -> None:
        try:
            _check(self)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"a genesis: {error}") from None
        digest = hashlib.sha256(CONTEXT + self.encode()).digest()
        object.__setattr__(self, "doc_id", digest)

    def encode(self) -> bytes:
        """The canonical bytes."""
        recovery = self.recovery.encode() if self.recovery else None
        limits = (self.limits.entry_bytes, self.limits.author_bytes)
        fields: list[Plain] = [
            VERSION,
            self.name,
            self.owners,
            int(self.mode),
            [int(kind) for kind in self.kinds],
            limits,
            recovery,
            self.salt,
        ]
        return encode([*fields, True] if self.is_sealed else fields)

    @property
    def can_be_recovered(self) -> bool:
        """Whether an owner's fork has others appoint an owner."""
        return (
            self.mode is not Mode.OPEN and self.recovery is not None and self.recovery.is_in_force
        )

    @property
    def payload_room(self) -> int:
        """Bytes that what an entry says can have: where it is sealed, it is longer by that."""
        return self.limits.entry_bytes - (SEALED_BYTES if self.is_sealed else 0)

    def allows(self, kind: int) -> bool:
        """Whether entries of a kind take effect here."""
        return not self.kinds or kind in self.kinds or kind == Kind.SESSION


def decode_genesis(data: bytes, doc_id: bytes) -> Genesis:
    """Read the genesis of a document.

    Raises:
        RemoteProtocolError: it is none, breaks the format, or is that of another document.
    """
    if hashlib.sha256(CONTEXT + data).digest() != doc_id:
        raise RemoteProtocolError("the genesis of another document")
    match decode(data, MAX_GENESIS):
        case [
            1,
            str(name),
            list(owners),
            int(mode),
            list(kinds),
            [int(entry_bytes), int(author_bytes)],
            recovery,
            bytes(salt),
            *sealed,
        ] if sealed in ([], [True]):
            pass
        case _:
            raise RemoteProtocolError("not a genesis of version 1")
    match recovery:
        case None:
            keys = None
        case [int(needed), list(recovery_keys)]:
            keys = Recovery(int(needed), _keys(recovery_keys), is_in_force=False)
        case [int(needed), list(recovery_keys), int(by_owners)]:
            keys = Recovery(int(needed), _keys(recovery_keys), int(by_owners))
        case _:
            raise RemoteProtocolError("a genesis whose recovery is none")
    try:
        genesis = Genesis(
            name,
            _keys(owners),
            Mode(mode),
            tuple(Kind(kind) for kind in kinds),
            Limits(int(entry_bytes), int(author_bytes)),
            keys,
            salt,
            bool(sealed),
        )
    except (ValueError, TypeError, LocalProtocolError) as error:
        raise RemoteProtocolError(f"{error}") from None
    if genesis.encode() != data:  # `true` is an int, too, until int() has made 1 of it
        raise RemoteProtocolError("a genesis in another form than its one")
    return genesis


def _keys(items: Sequence[object]) -> tuple[bytes, ...]:
    if any(type(item) is not bytes for item in items):
        raise RemoteProtocolError("a key that is not bytes")
    return tuple(items)  # type: ignore[arg-type]


def _check(genesis: Genesis) -> None:
    """Raises RemoteProtocolError for what cannot be."""
    try:
        size = len(genesis.name.encode())
    except UnicodeEncodeError:
        raise RemoteProtocolError("half a character in the name") from None
    if not 1 <= size <= MAX_NAME:
        raise RemoteProtocolError(f"a name of {size} bytes, not 1 to {MAX_NAME}")
    _check_keys(genesis.owners, "owners")
    if genesis.mode is not Mode.OPEN and not genesis.owners:
        raise RemoteProtocolError("nobody owns it, so nobody can grant anything")
    if list(genesis.kinds) != sorted(set(genesis.kinds)):
        raise RemoteProtocolError("kinds out of order")
    if not 1 <= genesis.limits.entry_bytes <= MAX_ENTRY_BYTES:
        raise RemoteProtocolError(f"entries of {genesis.limits.entry_bytes} bytes")
    if not 1 <= genesis.limits.author_bytes <= MAX_AUTHOR_BYTES:
        raise RemoteProtocolError(f"authors of {genesis.limits.author_bytes} bytes")
    if genesis.recovery is not None:
        _check_recovery(genesis.recovery, len(genesis.owners))
    if genesis.is_sealed and genesis.mode is Mode.OPEN:
        raise RemoteProtocolError("everybody may write to it, so nothing of it is sealed")
    if genesis.is_sealed and genesis.limits.entry_bytes < MIN_SEALED_ENTRY_BYTES:
        raise RemoteProtocolError(f"entries of {genesis.limits.entry_bytes} bytes, and sealed")
    if len(genesis.salt) > MAX_SALT:
        raise RemoteProtocolError(f"{len(genesis.salt)} bytes of salt, at most {MAX_SALT}")


def _check_recovery(recovery: Recovery, owners: int) -> None:
    _check_keys(recovery.keys, "keys of the recovery")
    least = 0 if recovery.owners and not recovery.keys else 1
    if not least <= recovery.needed <= len(recovery.keys):
        raise RemoteProtocolError(f"{recovery.needed} of {len(recovery.keys)} signatures")
    if not 0 <= recovery.owners < max(owners, 1):
        raise RemoteProtocolError(f"{recovery.owners} of {owners - 1} other owners")


def _check_keys(keys: tuple[bytes, ...], what: str) -> None:
    if len(keys) > MAX_KEYS or list(keys) != sorted(set(keys)):
        raise RemoteProtocolError(f"more than {MAX_KEYS} {what}, or out of order")
    for key in keys:
        load_key(key)
