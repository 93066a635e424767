"""Presence: who is there now, and what each says of itself. Signed, told to all, and never kept.

A statement is `[[1, doc_id, identity, counter, milliseconds, value], signature]`: the counter of an
identity only ever increases, so no statement comes twice; it holds for so many milliseconds from
when it arrives, by the clock of whoever it comes to, and with none it takes back what was said. The
signature is the identity's, of `CONTEXT` and the first part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES, SIGNATURE_BYTES, verifies
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity

CONTEXT: Final = b"lattica/crdt/presence/v1\0"
VERSION: Final = 1
MAX_VALUE: Final = 1024
"""Bytes of a value, encoded."""
PRESENCE_KIND: Final = 255
"""As what a value is sealed, by the identity as its author, in a sealed document."""
MAX_STATEMENT: Final = 2048
MAX_HOLDS: Final = 600_000
"""Milliseconds that a statement holds at most."""
MAX_IDENTITIES: Final = 2048
"""That are known of one document; further ones are not heard until some are gone."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What an identity says."""

    identity: bytes
    counter: int
    holds: int
    """Milliseconds; 0: it is gone."""
    value: Plain
    encoded: bytes
    """All of it, signed."""


def sign_presence(
    identity: Identity, doc_id: bytes, counter: int, holds: int, value: Plain
) -> Statement:
    """Say something. Raises LocalProtocolError for what is no plain data, or too large."""
    if len(encode(value)) > MAX_VALUE:
        raise LocalProtocolError(f"presence of more than {MAX_VALUE} bytes")
    key = identity.public_key.data
    content = encode([VERSION, doc_id, key, counter, holds, value])
    encoded = encode([content, identity.sign(CONTEXT + content)])
    return Statement(key, counter, holds, value, encoded)


def decode_presence(data: bytes, doc_id: bytes) -> tuple[Statement, Callable[[], bool]]:
    """Read a statement, and how to verify that its identity has signed it.

    Raises:
        RemoteProtocolError: it is none for this document.
    """
    match decode(data, MAX_STATEMENT):
        case [bytes(content), bytes(signature)] if len(signature) == SIGNATURE_BYTES:
            pass
        case _:
            raise RemoteProtocolError("not a statement of presence")
    match decode(content, MAX_STATEMENT):
        case [1, bytes(of), bytes(key), int(counter), int(holds), value] if (
            of == doc_id
            and len(key) == KEY_BYTES
            and type(counter) is int
            and 0 <= counter < 2**63
            and type(holds) is int
            and 0 <= holds <= MAX_HOLDS
            and len(encode(value)) <= MAX_VALUE
        ):
            statement = Statement(key, counter, holds, value, data)
        case _:
            raise RemoteProtocolError("not a statement of presence for this document")
    return statement, lambda: verifies(key, signature, CONTEXT + content)


@dataclass(slots=True)
class _Known:
    statement: Statement
    until: float


class PresenceTable:
    """Who is there, as far as is known: pure.

    Args:
        doc_id: the document.
        may_tell: whether an identity is listened to.
    """

    def __init__(self, doc_id: bytes, may_tell: Callable[[bytes], bool]) -> None:
        self._doc_id = doc_id
        self._may_tell = may_tell
        self._known: dict[bytes, _Known] = {}

    def take(self, data: bytes, now: float) -> tuple[Statement, Statement | None] | None:
        """Take a statement at `now` seconds that never decrease: it, and what its identity has
        said before that holds until now; None if it is no news.

        Raises:
            RemoteProtocolError: it is none, or not signed.
        """
        statement, is_signed = decode_presence(data, self._doc_id)
        known = self._known.get(statement.identity)
        if known is not None and known.statement.counter >= statement.counter:
            return None
        if known is None and len(self._known) >= MAX_IDENTITIES and not self._make_room(now):
            return None
        if not self._may_tell(statement.identity):
            return None
        if not is_signed():
            raise RemoteProtocolError("a statement of presence that nobody has signed")
        self.put(statement, now)
        return statement, known.statement if known is not None and known.until > now else None

    def put(self, statement: Statement, now: float) -> None:
        """Note a statement that is to be believed."""
        until = now + statement.holds / 1000
        self._known[statement.identity] = _Known(statement, until)

    def here(self, now: float) -> list[Statement]:
        """What those say who are there."""
        return [each.statement for each in self._known.values() if each.until > now]

    def expire(self, now: float) -> list[bytes]:
        """Identities that are gone since the last call. Their counters are remembered while there
        is room, so that nobody can repeat what they said.
        """
        gone = []
        for identity, known in self._known.items():
            if known.until <= now and known.statement.holds:
                counter = known.statement.counter
                known.statement = Statement(identity, counter, 0, None, b"")
                gone.append(identity)
        return gone

    def _make_room(self, now: float) -> bool:
        """Forget who has been gone for longest; False if all are there."""
        identity, known = min(self._known.items(), key=lambda item: item[1].until)
        if known.until > now:
            return False
        del self._known[identity]
        return True
