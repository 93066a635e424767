"""What strangers ask of the DHT, of replicated documents and of blocks, and what they bring."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from functools import cache
from itertools import count

import trio

from lattica.content.bitswap.messages import PROTOCOL as BITSWAP
from lattica.content.bitswap.messages import Message, Want
from lattica.content.bitswap.messages import encode as encode_bitswap
from lattica.content.manifest.cid import Cid
from lattica.content.swarm.messages import HOLDINGS, encode_hello, encode_message
from lattica.content.swarm.messages import HasMore as HasMoreChunks
from lattica.content.swarm.messages import Hello as HoldingsHello
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.sync.messages import NONCE_BYTES, TURN, Purpose, encode_ranges, hello_tag
from lattica.crdt.sync.messages import PROTOCOL as DOCUMENTS
from lattica.crdt.sync.messages import Hello as DocumentHello
from lattica.crdt.sync.messages import encode_hello as encode_document_hello
from lattica.crdt.sync.ranges import Range
from lattica.dht.config import PROTOCOL as KADEMLIA
from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.messages import MessageType, Record, Request, encode
from lattica.dht.records.keys import content_key, value_key
from lattica.dht.records.signed_value import encode_values, seal_value, take_fitting
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from tools.attack.attack import Attack, Victim
from tools.attack.attacks.rpc.caller import as_peers, on_streams, send
from tools.attack.victim import DOCUMENT as NAME

STREAMS = 16
"""Of each enemy at a time."""


async def _throw_away(stream: Stream) -> None:
    while await stream.receive_some():
        pass


def _flood(
    name: str,
    summary: str,
    protocol: str,
    make: Callable[[], bytes],
    *,
    first: Callable[[Victim], bytes] = lambda _: b"",
    each: int = 1_000_000,
    publishes: bool = False,
) -> Attack:
    """Send messages on many streams, `each` on one, and take what comes back."""

    async def run(victim: Victim) -> None:
        async def act(stream: Stream) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_throw_away, stream)
                if begin := first(victim):
                    await send(stream, begin)
                for _ in range(each):
                    await send(stream, encode_length_prefixed(make()))
                nursery.cancel_scope.cancel()

        await on_streams(victim, protocol, act, STREAMS)

    return Attack(
        name,
        summary,
        run,
        seconds=8,
        stores=True,
        publishes=publishes,
        witness="storing",
    )


def _find() -> bytes:
    return encode(Request(MessageType.FIND_NODE, secrets.token_bytes(32)))


def _value() -> bytes:
    data = secrets.token_bytes(60_000)
    key = content_key(data)
    return encode(Request(MessageType.PUT_VALUE, key, Record(key, data)))


def _signed(number: int) -> bytes:
    """A message with as many values as there is room for, of one owner."""
    owner = Identity.generate()
    key = value_key(f"wanted by all {number}".encode())
    values = take_fitting(
        seal_value(owner, key, b"%d" % each, b"\xc0", sequence=1, expires=1 << 42)
        for each in range(400)
    )
    return encode(Request(MessageType.PUT_VALUE, key, Record(key, encode_values(values))))


async def _store_signed(victim: Victim) -> None:
    prepared = [encode_length_prefixed(_signed(number)) for number in range(3)]

    async def act(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_throw_away, stream)
            while True:
                await send(stream, secrets.choice(prepared))

    await on_streams(victim, KADEMLIA, act, STREAMS)


async def _hold(victim: Victim) -> None:
    """Begin a long question on each of many streams, and go on by a byte in ten seconds."""

    async def act(stream: Stream) -> None:
        await send(stream, encode_length_prefixed(bytes(60_000))[:4])
        while True:
            await trio.sleep(10)
            await send(stream, bytes(1))

    await on_streams(victim, KADEMLIA, act, 200)


def _new_keys() -> tuple[bytes, ...]:
    """Of which one is the same each time."""
    return (b"wanted by all", *(secrets.token_bytes(34) for _ in range(999)))


@cache
def _same_keys() -> tuple[bytes, ...]:
    return _new_keys()


async def _provide(victim: Victim, keys: Callable[[], tuple[bytes, ...]] = _new_keys) -> None:
    """As peers with a key each, which provide a thousand keys with each message."""

    async def act(stream: Stream, own: Contact) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_throw_away, stream)
            while True:
                request = Request(MessageType.ADD_PROVIDERS, providers=(own,), keys=keys())
                await send(stream, encode_length_prefixed(encode(request)))

    async def one(connection: Connection, identity: Identity) -> None:
        own = Contact.of(identity.peer_id, [Multiaddr("/ip4/192.0.2.1/tcp/4001")])
        async with trio.open_nursery() as nursery:
            for _ in range(STREAMS):
                nursery.start_soon(act, await connection.open(KADEMLIA), own)

    await as_peers(victim, one, keep_keys=True)


async def _provide_again(victim: Victim) -> None:
    await _provide(victim, _same_keys)


@cache
def _same_value() -> bytes:
    return _value()


def _document() -> bytes:
    nonce, tag = secrets.token_bytes(NONCE_BYTES), secrets.token_bytes(32)
    return encode_document_hello(DocumentHello(Purpose.SYNC, nonce, tag))


def _wants() -> bytes:
    cids = (bytes(Cid.of(secrets.token_bytes(8))) for _ in range(1000))
    return encode_bitswap(Message(tuple(Want(cid, send_dont_have=True) for cid in cids)))


_numbers = count()


def _has() -> bytes:
    return encode_message(HasMoreChunks(tuple(next(_numbers) % 200_000 for _ in range(4000))))


def _holdings_hello(victim: Victim) -> bytes:
    return encode_length_prefixed(encode_hello(HoldingsHello(Cid.parse(victim.cid), True)))


async def _exchanges(victim: Victim, act: Callable[[Stream], Awaitable[None]]) -> None:
    """Have exchanges about the document, which anybody may read."""
    doc = Genesis(NAME).doc_id

    async def one(connection: Connection, identity: Identity) -> None:
        async with await connection.open(DOCUMENTS) as stream:
            nonce, ours = secrets.token_bytes(NONCE_BYTES), identity.peer_id.to_bytes()
            tag = hello_tag(doc, nonce, ours, connection.peer_id.to_bytes())
            hello = encode_document_hello(DocumentHello(Purpose.SYNC, nonce, tag))
            await send(stream, encode_length_prefixed(hello))
            await stream.receive_message(4096)
            await act(stream)

    await as_peers(victim, one)


async def _trickle(stream: Stream) -> None:
    """One range a second, and never that it is the other's turn."""
    for number in count():
        low, high = number.to_bytes(4, "big"), (number + 1).to_bytes(4, "big")
        for message in encode_ranges([Range(low, high, ())]):
            await send(stream, encode_length_prefixed(message))
        await trio.sleep(1)


async def _overlap(stream: Stream) -> None:
    """All authors again and again."""
    [message] = encode_ranges([Range(b"", None, ())])
    await send(stream, encode_length_prefixed(message) * 65_536 + encode_length_prefixed(TURN))
    await _throw_away(stream)


async def _trickling(victim: Victim) -> None:
    await _exchanges(victim, _trickle)


async def _overlapping(victim: Victim) -> None:
    await _exchanges(victim, _overlap)


TRICKLE = Attack(
    "crdt-exchanges",
    "8 keys keep exchanges about a document going that bring nothing",
    _trickling,
    seconds=15,
    stores=True,
    witness="storing",
)
RANGES = Attack(
    "crdt-ranges",
    "compares all authors of a document 65,536 times",
    _overlapping,
    seconds=8,
    stores=True,
    witness="storing",
)
FIND = _flood("dht-find", "asks for who is near random keys", KADEMLIA, _find)
VALUES = _flood("dht-values", "stores values of 60 KB without end", KADEMLIA, _value)
PROVIDERS = Attack(
    "dht-providers",
    "provides a thousand keys with each message",
    _provide,
    seconds=8,
    stores=True,
    witness="storing",
)
SAME_PROVIDERS = Attack(
    "dht-same-providers",
    "provides the same thousand keys with each message",
    _provide_again,
    seconds=8,
    stores=True,
    witness="storing",
)
SAME_VALUE = _flood(
    "dht-same-value", "stores one value of 60 KB again and again", KADEMLIA, _same_value
)
SIGNED = Attack(
    "dht-signed-values",
    "stores 400 signed values with each message",
    _store_signed,
    seconds=8,
    stores=True,
    witness="storing",
)
HELD = Attack(
    "dht-held",
    "begins 1,600 questions, and ends none",
    _hold,
    seconds=8,
    stores=True,
    witness="storing",
)
DOCUMENT = _flood(
    "crdt-hellos", "asks for documents that are not there", DOCUMENTS, _document, each=1
)
WANTS = _flood("bitswap-wants", "wants a thousand blocks that are not there", BITSWAP, _wants)
HAS = _flood(
    "content-holdings",
    "says without end which chunks it has got",
    HOLDINGS,
    _has,
    first=_holdings_hello,
    publishes=True,
)
