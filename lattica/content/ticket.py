"""Tickets: one line to copy and paste that says what to fetch and from whom.

Form: `lattica1`, then lower-case base32 of::

    length (2 bytes, big endian, of everything) | body | checksum (4 bytes)

`body` is the msgpack array `[digest of the manifest, peer ID, [multiaddr, …]]`, all binary; the
checksum is the first 4 bytes of the SHA-256 of length and body. It has only letters and digits,
so that a double click selects it whole, and case does not matter.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgpack

from lattica.content.errors import TicketError
from lattica.content.manifest.cid import Cid
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import decode_multiaddr, ip_of, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.ranking import fitting, ranked

MAX_ADDRESSES = 16
MAX_TICKET_CHARACTERS = 8192

_SCHEME = "lattica"
_VERSION = "1"
_CHECKSUM_BYTES = 4
_LENGTH_BYTES = 2
_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_MAX_ADDRESS_BYTES = 4096
"""Bytes of all addresses together: with what else there is, they fit the longest ticket."""
_QUOTES = "\"'`“”„‘’‚«»‹›<>\ufeff"
"""What programs put round a text that is copied; none of it is part of a ticket."""
_COPY_AGAIN = "copy the whole line that `lattica publish` printed"


def _is_loopback(addr: Multiaddr) -> bool:
    ip = ip_of(addr)
    return ip is not None and ip.is_loopback


def _base32_length(size: int) -> int:
    """Characters of `size` bytes, without padding."""
    return (size * 8 + 4) // 5


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where to get a publication: its manifest's id, and a peer that serves it.

    `addrs` are the peer's addresses without `/p2p/…`, best first.
    """

    cid: Cid
    peer_id: PeerId
    addrs: tuple[Multiaddr, ...]
    can_improve: tuple[str, ...] = field(default=(), compare=False)
    """Why a ticket that is asked for later may lead there by more ways: in words, for a person.
    Not part of its text."""

    def __repr__(self) -> str:
        """What a person can copy, and Python can read."""
        return f"Ticket.parse({str(self)!r})"

    def __str__(self) -> str:
        """The text form."""
        addresses = [address.to_bytes() for address in self.addrs]
        body: bytes = msgpack.packb([self.cid.digest, self.peer_id.to_bytes(), addresses])
        size = _LENGTH_BYTES + len(body) + _CHECKSUM_BYTES
        data = size.to_bytes(_LENGTH_BYTES, "big") + body
        data += hashlib.sha256(data).digest()[:_CHECKSUM_BYTES]
        return _SCHEME + _VERSION + base64.b32encode(data).decode().rstrip("=").lower()

    @classmethod
    def make(
        cls,
        cid: Cid,
        peer_id: PeerId,
        addrs: Iterable[Multiaddr],
        *,
        can_improve: tuple[str, ...] = (),
    ) -> Ticket:
        """A ticket for this peer; `addrs` may end in its `/p2p/…`.

        Loopback addresses are left out where there are others, since they mean something else
        on every machine. Of more than 16 addresses those are taken that help most people
        (:func:`lattica.nat.base.net.ranking.ranked`), and no more than a ticket has room for.
        """
        plain = ranked(split_peer(address)[0] for address in addrs)
        remote = [address for address in plain if not _is_loopback(address)]
        told = fitting(remote or plain, MAX_ADDRESSES, _MAX_ADDRESS_BYTES)
        return cls(cid, peer_id, told, can_improve)

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Parse what a person pasted; blanks and line breaks in it, and quotes round it, do not
        matter.

        Raises:
            TicketError: says whether it is truncated, mistyped, too new, or no ticket at all.
        """
        if len(text) > MAX_TICKET_CHARACTERS:
            raise TicketError(f"{len(text)} characters are too many for a ticket; {_COPY_AGAIN}")
        compact = "".join(text.split()).strip(_QUOTES).lower()
        if not compact.startswith(_SCHEME):
            raise TicketError(f"a ticket begins with {_SCHEME!r}; {_COPY_AGAIN}")
        version, encoded = compact[len(_SCHEME) :][:1], compact[len(_SCHEME) + 1 :]
        if version and version != _VERSION:
            raise TicketError(
                f"this ticket is of version {version!r}, and this program knows {_VERSION!r}; "
                "update it, or copy the ticket again"
            )
        for position, character in enumerate(encoded):
            if character not in _ALPHABET:
                raise TicketError(
                    f"the ticket has {character!r} as its character "
                    f"{position + len(_SCHEME) + 2}, which no ticket contains; {_COPY_AGAIN}"
                )
        return cls._from_bytes(cls._checked(encoded))

    @staticmethod
    def _checked(encoded: str) -> bytes:
        """The body of a ticket whose length and checksum are right."""
        least = _base32_length(_LENGTH_BYTES)
        if len(encoded) < least:
            raise TicketError(f"the ticket is truncated; {_COPY_AGAIN}")
        first = base64.b32decode(encoded[:least].upper() + "====")
        size = int.from_bytes(first[:_LENGTH_BYTES], "big")
        expected = _base32_length(size)
        if len(encoded) < expected:
            raise TicketError(
                f"the ticket is truncated: {expected - len(encoded)} of "
                f"{expected + len(_SCHEME) + 1} characters are missing; {_COPY_AGAIN}"
            )
        if len(encoded) > expected:
            raise TicketError(
                f"the ticket has {len(encoded) - expected} characters too many; {_COPY_AGAIN}"
            )
        data = base64.b32decode(encoded.upper() + "=" * (-len(encoded) % 8))
        signed, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if hashlib.sha256(signed).digest()[:_CHECKSUM_BYTES] != checksum:
            raise TicketError(f"the ticket is mistyped: its checksum is wrong; {_COPY_AGAIN}")
        return signed[_LENGTH_BYTES:]

    @classmethod
    def _from_bytes(cls, body: bytes) -> Ticket:
        # The checksum was right, so this is damage by design or by a faulty program.
        try:
            match msgpack.unpackb(body, max_array_len=MAX_ADDRESSES, max_map_len=0):
                case [bytes(digest), bytes(peer), list(addresses)]:
                    peer_id = PeerId(peer)
                    addrs = tuple(decode_multiaddr(address) for address in addresses)
                    return cls(Cid(digest), peer_id, addrs)
        except (ValueError, TypeError, msgpack.UnpackException, LatticaError):
            pass
        raise TicketError("the ticket is not well-formed; it was made by a faulty program")
