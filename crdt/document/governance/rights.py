"""Who may do what in a document: rights given, taken back, shown and asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from lattica.crdt.access.capability import Capability, Level, check_level, issue
from lattica.crdt.access.finality import encode_finality, in_pieces
from lattica.crdt.access.revocation import LINK_BYTES, LastEntry, Revocation, sessions_in
from lattica.crdt.access.rights import Rights
from lattica.crdt.document.governance.read_keys import ReadKeys
from lattica.crdt.document.governance.writer import Writer
from lattica.crdt.entries.genesis import Mode
from lattica.crdt.entries.header import Kind
from lattica.crdt.keys.identities import identity_key, peer_of
from lattica.crdt.log.clock import milliseconds_of
from lattica.crdt.log.feed import Feed
from lattica.crdt.types.payloads import Write
from lattica.nat.base.checks import check_count, check_seconds, check_type
from lattica.nat.base.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId

_LONGEST: Final = 2**47 / 1000
"""Seconds that a right may last: the times in it are below 2**48 milliseconds."""


@dataclass(frozen=True, slots=True)
class Right:
    """What somebody may do in a document."""

    peer: PeerId
    level: Level
    prefix: str
    """What names have to begin with that it writes at."""
    expires: int | None
    """Milliseconds since 1970; None: it does not end."""
    given_by: PeerId
    is_revoked: bool


def _place(right: Right) -> tuple[object, ...]:
    """Where a right stands in their list, wherever it is made."""
    expires = math.inf if right.expires is None else right.expires
    return (
        str(right.peer),
        -right.level,
        right.prefix,
        right.is_revoked,
        -expires,
        str(right.given_by),
    )


class DocumentRights:
    """The rights of a document, used by who writes here."""

    def __init__(self, writer: Writer, keys: ReadKeys) -> None:
        self._writer = writer
        self._keys = keys
        self._held: tuple[tuple[Capability, bool], ...] = ()
        self._given: tuple[Right, ...] = ()
        """What :meth:`given` says of these: peers are slow to name, and are asked for every second
        by a node that relays for members."""

    def grant(
        self,
        peer: PeerId | str | bytes,
        level: Level = Level.WRITE,
        *,
        prefix: str = "",
        lasts: float | None = None,
        depth: int = 0,
    ) -> bytes:
        """As :meth:`Document.grant`."""
        check_level(level)
        check_type("prefix", prefix, str, "a text")
        check_count("depth", depth, 0)
        if lasts is not None:
            check_seconds("lasts", lasts, _LONGEST)
        self._writer.take_office()
        rights = self._writer.rights
        genesis = self._writer.replica.genesis
        if level == Level.PULL and not genesis.is_sealed:
            raise LocalProtocolError("who has a document that is not sealed reads it")
        identity = self._writer.replica.identity
        own = identity.public_key.data
        parent = None
        if not rights.is_owner(own):
            parent = rights.best_of(own, Level.MANAGE, self._writer.now_ms)
            if parent is None:
                raise AccessDeniedError("only owners and who may manage give rights")
        else:
            self._writer.check_owner("give rights")
        expires = None if lasts is None else self._writer.now_ms + int(lasts * 1000)
        capability = issue(
            identity,
            genesis.doc_id,
            peer,
            Level(level),
            parent=parent,
            prefix=prefix,
            expires=expires,
            depth=depth,
            issued=self._writer.now_ms,
        ).encode()
        items = [(Kind.GRANT, capability)]
        if level >= Level.READ:
            items += self._keys.entries_for(identity_key(peer))
        self._writer.write(items)
        return capability

    def revoke(self, peer: PeerId | str | bytes) -> int:
        """As :meth:`Document.revoke`."""
        self._writer.take_office()
        rights = self._writer.rights
        self._writer.check_owner("take rights back")
        subject = identity_key(peer)
        links = [
            capability.right.id
            for capability, stands in rights.held()
            if stands and capability.right.subject == subject
        ]
        if not links:
            raise LocalProtocolError(f"{peer!s} has no right here")
        room = self._writer.replica.genesis.payload_room
        named, others = sessions_in(room - LINK_BYTES), set[LastEntry]()
        items = []
        for link in links:
            last = self._last_by(rights.descendants(link))
            others.update(last[named:])
            items.append((Kind.REVOKE, Revocation(link, tuple(sorted(last[:named]))).encode()))
        # What it has no room to name goes on counting as what is final.
        final = [(Kind.FINAL, encode_finality(piece)) for piece in in_pieces(others, room)]
        self._writer.write([*final, *items, *self._keys.entries_without(links)])
        return len(links)

    def _last_by(self, identities: Collection[bytes]) -> list[LastEntry]:
        """The last entries of the sessions of these. Those come first of which something may have
        no effect, as it would have one if it were final; then the longest.
        """
        rights = self._writer.rights
        doubtful = {each.right.subject for each, stands in rights.held() if not stands}
        feeds = [
            feed
            for feed in self._writer.replica.log.feeds.values()
            if feed.ids and feed.identity in identities
        ]

        def place(feed: Feed) -> tuple[bool, int, bytes]:
            is_in_doubt = rights.ownership.is_in_doubt(feed.author, feed.identity)
            is_clear = not is_in_doubt and feed.identity not in doubtful
            return is_clear, -len(feed.ids), feed.author

        feeds.sort(key=place)
        return [(feed.author, len(feed.ids) - 1, feed.ids[-1]) for feed in feeds]

    def given(self) -> Sequence[Right]:
        """As :meth:`Document.rights`."""
        held = self._writer.rights.held()
        if held is not self._held:
            found = [
                Right(
                    peer_of(capability.right.subject),
                    capability.right.level,
                    capability.right.prefix,
                    capability.right.expires,
                    peer_of(capability.right.issuer),
                    not stands,
                )
                for capability, stands in held
            ]
            found.sort(key=_place)
            self._held, self._given = held, tuple(found)
        return self._given

    def present(self, capability: bytes) -> None:
        """As :meth:`Document.present`."""
        own = self._writer.identity
        try:
            found = self._writer.rights.read(capability)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"no capability for this document: {error}") from None
        if found.right.subject != own:
            raise LocalProtocolError("a capability of another peer")
        replica = self._writer.replica
        is_needed = replica.genesis.mode is Mode.CAPABILITY and not self._writer.rights.knows(
            found.right.id
        )
        replica.present(capability, is_needed=is_needed)

    def may_read(self, peer: PeerId, shown: bytes = b"") -> bool:
        """As :meth:`Document.may_read`."""
        return self._may(Rights.may_read, peer, shown)

    def may_pull(self, peer: PeerId, shown: bytes = b"") -> bool:
        """As :meth:`Document.may_pull`."""
        return self._may(Rights.may_pull, peer, shown)

    def may_come_to_read(self, peer: PeerId) -> bool:
        """As :meth:`Document.may_come_to_read`."""
        rights = self._writer.replica.log.rights
        try:
            return rights is not None and not rights.knows_of(identity_key(peer))
        except LocalProtocolError:
            return False

    def _may(
        self, what: Callable[[Rights, bytes, int, bytes], bool], peer: PeerId, shown: bytes
    ) -> bool:
        rights = self._writer.replica.log.rights
        if rights is None or not self._writer.replica.log.feeds:
            return True  # where nothing is, nothing is given away
        try:
            identity = identity_key(peer)
        except LocalProtocolError:
            return False
        return what(rights, identity, self._writer.now_ms, shown)

    def check_names(self, writes: Sequence[Write]) -> None:
        """Raises AccessDeniedError for a write that would take no effect."""
        rights = self._writer.replica.log.rights
        own = self._writer.identity
        if rights is None or rights.is_owner(own):
            return
        now = milliseconds_of(self._writer.replica.log.clock.next(self._writer.now_ms))
        shown = self._writer.replica.capability_to_come
        if not shown and rights.best_of(own, Level.WRITE, now) is None:
            return  # there is no right at all, which is said with the reason
        for each in writes:
            if not rights.may_write_at(own, each.name, now, shown):
                raise AccessDeniedError(f"this peer has no right to write at {each.name!r}")
