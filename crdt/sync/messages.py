"""What two replicas say to each other on a stream of `/lattica/crdt/1`: the bytes.

A message is one byte that says what it is, and its content; on the stream its length is in front.
Content is canonical (:mod:`lattica.crdt.base.canonical`) where nothing else is said.

=======  =========  =======================================================
0        hello      `[1, purpose, nonce, tag, capability or nil]`
1        absent     nothing: the document is not here, or not for this peer
2        ranges     `[[low, high or nil, fingerprint or [head, …]], …]`
3        wants      `[[author, since, wants the fork], …]`
4        entries    a chain
5        fork       a proof
6        turn       nothing: the other side speaks
7        genesis    a genesis
8        presence   a signed statement (:mod:`lattica.crdt.sync.presence`)
9        pruned     nothing: something that the other side lacks is here only as
                    a snapshot
10       state      a signed statement (:mod:`lattica.crdt.proofs.statement`)
11       part       of a snapshot
=======  =========  =======================================================

A head is `[author, length, first 16 bytes of the newest ID, fork or nil]`, and behind that, if
there are any, the numbers of entries whose payloads are missing.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias, TypeGuard

from lattica.crdt.access.appointment import MAX_APPOINTMENTS
from lattica.crdt.access.capability import MAX_CAPABILITY
from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.entries.chain import MAX_CHAIN
from lattica.crdt.entries.fork import MAX_PROOF
from lattica.crdt.entries.genesis import MAX_GENESIS
from lattica.crdt.entries.header import MAX_SEQ
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES
from lattica.crdt.sync.heads import DIGEST_BYTES, ID_PREFIX, MAX_LACKING, Head
from lattica.crdt.sync.ranges import LEAF, Range
from lattica.nat.base.errors import RemoteProtocolError

PROTOCOL: Final = "/lattica/crdt/1"
VERSION: Final = 1
MAX_MESSAGE: Final = MAX_CHAIN + 1
NONCE_BYTES: Final = 16
MAX_RANGES: Final = 512
"""Of one message."""
MAX_WANTS: Final = 4096
"""Of one message."""
_MAX_HELLO: Final = 256 + max(MAX_CAPABILITY, MAX_APPOINTMENTS)
_MAX_RANGES_BYTES: Final = MAX_RANGES * (3 * 80 + LEAF * (80 + 8 * MAX_LACKING))
_MAX_WANTS_BYTES: Final = MAX_WANTS * 48
_MAX_PRESENCE: Final = 8192
_MAX_STATE: Final = 1024 + MAX_CAPABILITY
_TAG: Final = b"lattica/crdt/hello/v1\0"
_REPLY: Final = b"lattica/crdt/welcome/v1\0"


class MessageKind(IntEnum):
    """The first byte."""

    HELLO = 0
    ABSENT = 1
    RANGES = 2
    WANTS = 3
    ENTRIES = 4
    FORK = 5
    TURN = 6
    GENESIS = 7
    PRESENCE = 8
    PRUNED = 9
    STATE = 10
    PART = 11


class Purpose(IntEnum):
    """What a stream is for."""

    SYNC = 0
    """Both sides tell each other what the other lacks, in turns."""
    PUSH = 1
    """The opener tells what is new, for as long as it likes."""
    GENESIS = 2
    """The opener asks for the genesis."""
    SNAPSHOT = 3
    """The opener asks what state the other side has come to and, with a turn, for a snapshot."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Which document, in a form from which only who knows it can tell."""

    purpose: Purpose
    nonce: bytes
    """Random; fingerprints of this stream are made with it."""
    tag: bytes
    capability: bytes = b""
    """By which the sender reads the document, if it shows one."""


@dataclass(frozen=True, slots=True)
class Want:
    """What is asked for of an author."""

    author: bytes
    since: int
    """From which sequence number on."""
    fork: bool
    """Whether the proof of his fork is wanted, too."""


@dataclass(frozen=True, slots=True)
class Absent:
    """The document is not here, or not for this peer."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """What the sender has."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Wants:
    """What the sender lacks."""

    wants: tuple[Want, ...]


@dataclass(frozen=True, slots=True)
class Entries:
    """A chain, still to be read."""

    chain: bytes


@dataclass(frozen=True, slots=True)
class Fork:
    """The proof of a fork, still to be read."""

    proof: bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """The sender waits for the other side."""


@dataclass(frozen=True, slots=True)
class GenesisMessage:
    """A genesis, still to be read."""

    genesis: bytes


@dataclass(frozen=True, slots=True)
class PresenceMessage:
    """A statement of presence, still to be read."""

    statement: bytes


@dataclass(frozen=True, slots=True)
class Pruned:
    """Something that the receiver lacks is here only as a snapshot."""


@dataclass(frozen=True, slots=True)
class StateMessage:
    """A signed statement of a state, still to be read."""

    statement: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a snapshot, still to be read."""

    part: bytes


Message: TypeAlias = (
    Hello
    | Absent
    | Ranges
    | Wants
    | Entries
    | Fork
    | Turn
    | GenesisMessage
    | PresenceMessage
    | Pruned
    | StateMessage
    | Part
)


def hello_tag(doc_id: bytes, nonce: bytes, opener: bytes, other: bytes) -> bytes:
    """What an opener shows: it knows the document, and says it to nobody who does not. Bound to
    both peers' IDs (as bytes), so that nobody who gets it can use it elsewhere.
    """
    return _tag(_TAG, doc_id, nonce, opener, other)


def welcome_tag(doc_id: bytes, nonce: bytes, opener: bytes, other: bytes) -> bytes:
    """What the other side answers with: it knows the document, too."""
    return _tag(_REPLY, doc_id, nonce, opener, other)


def _tag(context: bytes, doc_id: bytes, nonce: bytes, opener: bytes, other: bytes) -> bytes:
    parts = (doc_id, nonce, len(opener).to_bytes(2, "big"), opener, other)
    return hashlib.sha256(context + b"".join(parts)).digest()


def find_key(doc_id: bytes) -> bytes:
    """Under which 32 bytes those who have a document are found: nobody learns its ID by it."""
    return hashlib.sha256(b"lattica/crdt/find/v1\0" + doc_id).digest()


# Writing.

ABSENT: Final = bytes([MessageKind.ABSENT])
TURN: Final = bytes([MessageKind.TURN])
PRUNED: Final = bytes([MessageKind.PRUNED])


def encode_hello(hello: Hello) -> bytes:
    """A hello."""
    content = encode(
        [VERSION, int(hello.purpose), hello.nonce, hello.tag, hello.capability or None]
    )
    return bytes([MessageKind.HELLO]) + content


def encode_ranges(ranges: Sequence[Range]) -> Iterator[bytes]:
    """Ranges, in as many messages as they need."""
    for start in range(0, len(ranges), MAX_RANGES):
        packed: list[Plain] = []
        for each in ranges[start : start + MAX_RANGES]:
            content: Plain = each.content if isinstance(each.content, bytes) else None
            if isinstance(each.content, tuple):
                content = [_pack_head(head) for head in each.content]
            packed.append([each.low, each.high, content])
        yield bytes([MessageKind.RANGES]) + encode(packed)


def _pack_head(head: Head) -> list[Plain]:
    packed: list[Plain] = [head.author, head.length, head.newest, head.fork]
    return [*packed, list(head.lacking)] if head.lacking else packed


def encode_wants(wants: Iterable[Want]) -> Iterator[bytes]:
    """Wants, in as many messages as they need."""
    packed: list[Plain] = [[want.author, want.since, want.fork] for want in wants]
    for start in range(0, len(packed), MAX_WANTS):
        yield bytes([MessageKind.WANTS]) + encode(packed[start : start + MAX_WANTS])


def encode_entries(chain: bytes) -> bytes:
    """A chain."""
    return bytes([MessageKind.ENTRIES]) + chain


def encode_fork_message(proof: bytes) -> bytes:
    """The proof of a fork."""
    return bytes([MessageKind.FORK]) + proof


def encode_genesis_message(genesis: bytes) -> bytes:
    """A genesis."""
    return bytes([MessageKind.GENESIS]) + genesis


def encode_presence_message(statement: bytes) -> bytes:
    """A statement of presence."""
    return bytes([MessageKind.PRESENCE]) + statement


def encode_state(statement: bytes) -> bytes:
    """A signed statement of a state."""
    return bytes([MessageKind.STATE]) + statement


def encode_part(part: bytes) -> bytes:
    """A part of a snapshot."""
    return bytes([MessageKind.PART]) + part


# Reading.


def decode_message(data: bytes) -> Message:
    """Read a message.

    Raises:
        RemoteProtocolError: it is none.
    """
    if not data:
        raise RemoteProtocolError("an empty message about a document")
    content = data[1:]
    match data[0]:
        case MessageKind.HELLO:
            return _read_hello(decode(content, _MAX_HELLO))
        case MessageKind.ABSENT | MessageKind.TURN | MessageKind.PRUNED if content:
            raise RemoteProtocolError("a message about a document with more in it than it has")
        case MessageKind.ABSENT:
            return Absent()
        case MessageKind.TURN:
            return Turn()
        case MessageKind.PRUNED:
            return Pruned()
        case MessageKind.RANGES:
            return _read_ranges(decode(content, _MAX_RANGES_BYTES))
        case MessageKind.WANTS:
            return _read_wants(decode(content, _MAX_WANTS_BYTES))
        case MessageKind.ENTRIES:
            return Entries(_limited(content, MAX_CHAIN))
        case MessageKind.FORK:
            return Fork(_limited(content, MAX_PROOF))
        case MessageKind.GENESIS:
            return GenesisMessage(_limited(content, MAX_GENESIS))
        case MessageKind.PRESENCE:
            return PresenceMessage(_limited(content, _MAX_PRESENCE))
        case MessageKind.STATE:
            return StateMessage(_limited(content, _MAX_STATE))
        case MessageKind.PART:
            return Part(_limited(content, MAX_MESSAGE - 1))
    raise RemoteProtocolError(f"a message of unknown kind {data[0]} about a document")


def _limited(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise RemoteProtocolError(f"{len(content)} bytes, where {limit} are allowed")
    return content


def _read_hello(value: Plain) -> Hello:
    match value:
        case [1, int(purpose), bytes(nonce), bytes(tag), bytes() | None as capability] if (
            _is_number(purpose, max(Purpose)) and len(nonce) == NONCE_BYTES and len(tag) == 32
        ):
            return Hello(Purpose(purpose), nonce, tag, capability or b"")
    raise RemoteProtocolError("not a hello of version 1")


def _read_ranges(value: Plain) -> Ranges:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_RANGES:
        raise RemoteProtocolError("no ranges, or too many")
    ranges = tuple(_read_range(each) for each in value)
    # So that comparing all of them costs no more than going through the index once.
    for one, other in itertools.pairwise(ranges):
        if one.high is None or one.high > other.low:
            raise RemoteProtocolError("ranges that overlap, or out of order")
    return Ranges(ranges)


def _read_range(value: Plain) -> Range:
    match value:
        case [bytes(low), bytes() | None as high, bytes(fingerprint)] if (
            len(fingerprint) == DIGEST_BYTES
        ):
            content: bytes | tuple[Head, ...] = fingerprint
        case [bytes(low), bytes() | None as high, list(heads)] if len(heads) <= LEAF:
            content = tuple(_read_head(head) for head in heads)
        case _:
            raise RemoteProtocolError("not a range")
    if len(low) > KEY_BYTES or (high is not None and not (low < high and len(high) <= KEY_BYTES)):
        raise RemoteProtocolError("a range that ends before it begins, or with long bounds")
    if isinstance(content, tuple):
        authors = [head.author for head in content]
        is_inside = all(low <= each and (high is None or each < high) for each in authors)
        if not is_inside or authors != sorted(set(authors)):
            raise RemoteProtocolError("heads outside their range, or out of order")
    return Range(low, high, content)


def _read_head(value: Plain) -> Head:
    match value:
        case [bytes(author), int(length), bytes(newest), int() | None as fork, *more] if (
            len(author) == KEY_BYTES
            and _is_number(length, MAX_SEQ + 1)
            and len(newest) == (ID_PREFIX if length else 0)
            and (fork is None or _is_number(fork, MAX_SEQ))
            and (length or fork is not None)
        ):
            return Head(author, length, newest, fork, _read_lacking(more, length))
    raise RemoteProtocolError("not how far an author is")


def _read_lacking(more: list[Plain], length: int) -> tuple[int, ...]:
    """What a head says behind the rest of it."""
    match more:
        case []:
            return ()
        case [[_, *_] as lacking] if len(lacking) <= MAX_LACKING:
            numbers = tuple(each for each in lacking if _is_number(each, length - 1))
            if len(numbers) == len(lacking) and list(numbers) == sorted(set(numbers)):
                return numbers
    raise RemoteProtocolError("not which payloads of an author are missing")


def _read_wants(value: Plain) -> Wants:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_WANTS:
        raise RemoteProtocolError("no wants, or too many")
    wants = []
    for each in value:
        match each:
            case [bytes(author), int(since), bool(fork)] if len(author) == KEY_BYTES and _is_number(
                since, MAX_SEQ
            ):
                wants.append(Want(author, since, fork))
            case _:
                raise RemoteProtocolError("not what is wanted of an author")
    return Wants(tuple(wants))


def _is_number(value: object, limit: int) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= limit  # `true` is an int, too
